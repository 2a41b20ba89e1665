"""Data sets in the layout of another library: torchvision's small ones, and what Hugging Face's ``datasets`` saved."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from edm_unified.components import paths
from edm_unified.components.component import choice, component
from edm_unified.components.constraints import Seed

from . import splits
from .classes import of_column, whole_labels
from .dataset import BYTES, Dataset
from .errors import line, readable
from .fields import Channels, Extent, Holdout, Size, Standardise, directory
from .images import Decoding, pixels
from .measured import check_scale, described
from .rows import stacked


@component
class TorchVision:
    """A dataset of torchvision that is already on disk under ``root``; nothing is downloaded.

    MNIST and FashionMNIST give (N, 1, 28, 28), CIFAR10 (N, 3, 32, 32), with classes 0…9. For the larger ones see
    celeba and imagenet. ``split: test`` reads the part for tests; so does ``train`` false. ``holdout``: a share of the
    part for training is held out, by place and ``holdout_seed`` (null: 0); ``split: held_out`` is that part.
    """

    name: Literal["MNIST", "FashionMNIST", "CIFAR10"]
    root: str
    train: bool = True
    split: Literal["train", "test", "held_out"] | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    kind: Literal["torchvision"] = "torchvision"
    added_later: ClassVar[tuple[str, ...]] = ("split", "holdout", "holdout_seed")

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split)
        splits.check_train(self.train, self.split)

    def load(self) -> Dataset:
        """Read the files with torchvision's own reader."""
        from torchvision import datasets

        readers = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST, "CIFAR10": datasets.CIFAR10}
        root, train = paths.expanded(self.root, "root"), self.train and self.split != "test"
        remedy = (
            f'download it once with python -c "from torchvision.datasets import {self.name}; '
            f"{self.name}('{root}', train={train}, download=True)\""
        )
        try:
            # MNIST's and CIFAR10's readers check what they read: CIFAR10's pickle by its MD5 before it is opened.
            read: Any = readers[self.name](str(root), train=train, download=False)
            raw, labels = torch.as_tensor(read.data), torch.as_tensor(read.targets).long()
        except pickle.UnpicklingError:  # torch's words advise to execute what is in it
            raise ValueError(
                f"root: {root / self.name / 'processed'}: holds files of an old torchvision (.pt) that are no plain "
                f"tensors; remove that folder and {remedy}"
            ) from None
        except RuntimeError as error:
            raise ValueError(f"root: {self.root}: {self.name} is not there or damaged; {remedy}") from error
        except Exception as error:  # whatever else comes of a damaged file
            raise ValueError(f"root: {self.root}: cannot read {self.name}: {line(error)}; {remedy}") from error
        if raw.dtype != torch.uint8 or raw.ndim not in (3, 4) or labels.shape != raw.shape[:1]:
            found = f"{raw.dtype} of shape {tuple(raw.shape)}"
            raise ValueError(f"root: {self.root}: {self.name} holds {found}, not images in bytes; {remedy}")
        stored = raw[:, None] if raw.ndim == 3 else raw.movedim(3, 1).contiguous()
        names = tuple(str(name) for name in read.classes)
        whole = Dataset(stored, labels, self.name.lower(), BYTES, names)
        return splits.without_held_out(whole, self.holdout, self.holdout_seed, self.split if train else "test")


@component
class HuggingFace:
    """A folder that the ``datasets`` library has written with ``save_to_disk``; nothing is downloaded.

    ``split``: which part, where the folder holds several. ``holdout``: a share of the part ``train`` (of all, where
    there is one part) is held out, by place and ``holdout_seed`` (null: 0); ``split: held_out`` is that part.
    ``image``: the column of images, decoded when they are asked for, or of arrays, for which ``range`` and
    ``standardise`` are as for arrays, and whole numbers are grey levels 0 … 255 where neither is given. ``label``: the
    column of classes, or null. ``size`` and ``channels`` as for image_folder. Needs the extra hf: pip install
    'edm_unified[hf]'.
    """

    path: str
    split: str | None = None
    image: str = "image"
    label: str | None = "label"
    size: Size | None = None
    channels: Channels = 3
    range: Extent | None = None
    standardise: Standardise | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    kind: Literal["hugging_face"] = "hugging_face"
    added_later: ClassVar[tuple[str, ...]] = ("range", "standardise", "holdout", "holdout_seed")

    def __post_init__(self) -> None:
        check_scale(self.range, self.standardise)
        splits.check(self.holdout, self.holdout_seed, self.split)

    def load(self) -> Dataset:
        """Open the folder. Raises ValueError naming the column or split that is not there."""
        root = directory("path", self.path)
        try:
            from datasets import load_from_disk
        except ImportError:
            raise ValueError("kind: hugging_face needs `datasets`; pip install 'edm_unified[hf]'") from None
        with readable(f"path: {self.path}", "folder of save_to_disk"):
            table: Any = load_from_disk(str(root))
        if hasattr(table, "keys"):  # several splits
            parts = sorted(table.keys())
            held = self.split == splits.HELD_OUT or (self.split is None and self.holdout is not None)
            wanted = splits.TRAIN if held and splits.TRAIN in parts else None if held else self.split
            if wanted is None and len(parts) > 1:
                raise ValueError(f"split: {self.path} has {', '.join(parts)}; name one")
            choice("split", wanted or parts[0], parts)
            table = table[wanted or parts[0]]
        choice("image", self.image, table.column_names)
        if len(table) == 0:
            raise ValueError(f"path: {self.path}: holds no sample")
        found = self._dataset(table, root.resolve().name)
        return splits.without_held_out(found, self.holdout, self.holdout_seed, self.split)

    def _dataset(self, table: Any, name: str) -> Dataset:
        """The whole of a table."""
        labels, names = self._classes(table)
        if not _holds_pictures(table.features.get(self.image)):
            array = _TableArray(table, self.image, self.path)
            where = f"path: {self.path}: '{self.image}'"
            extent = self.range
            if extent is None and self.standardise is None and array.dtype.kind in "iu" and len(array.shape) > 2:
                extent = (0.0, 255.0)  # grey levels, that a table stores as wider numbers
            return described(array, where, extent, self.standardise).dataset(labels, name, names)
        if self.range is not None or self.standardise is not None:
            field = "standardise" if self.range is None else "range"
            raise ValueError(f"{field}: belongs to arrays, and '{self.image}' holds pictures; leave it out")
        return Dataset(_TableRows(table, self.image, self.size, self.channels, self.path), labels, name, BYTES, names)

    def _classes(self, table: Any) -> tuple[Tensor | None, tuple[str, ...]]:
        if self.label is None:
            return None, ()
        choice("label", self.label, table.column_names)
        with readable(f"label: {self.path}", f"column '{self.label}' of classes"):
            column = list(table[self.label][:])
        feature = table.features.get(self.label)
        named = tuple(
            getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None) or ()
        )
        if (found := of_column(column, named, f"label: {self.path} ({self.label})")) is not None:
            return found.labels, found.names
        with readable(f"label: {self.path}", f"column '{self.label}' of classes"):
            labels = whole_labels(np.asarray(column), len(table), f"{self.path} ({self.label})")
        return labels, named


def _holds_pictures(feature: Any) -> bool:
    """Whether a column is one of pictures, and not of lists of numbers."""
    return feature is None or type(feature).__name__ == "Image"


class _TableArray:
    """A column of lists of numbers, all of the shape of the first, as one array that stays where it is."""

    def __init__(self, table: Any, column: str, path: str) -> None:
        self._table, self._column, self._path = table.with_format("numpy", columns=[column]), column, path
        first = self._read([0])
        self.shape, self.dtype = (len(table), *first.shape[1:]), first.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = range(len(self._table))[rows] if isinstance(rows, slice) else [int(i) for i in rows]
        found = self._read(list(chosen))
        if found.shape[1:] != self.shape[1:]:
            raise ValueError(f"path: {self._path}: '{self._column}': its lists are not all of shape {self.shape[1:]}")
        return found.astype(self.dtype, copy=False)

    def _read(self, rows: list[int]) -> np.ndarray:
        with readable(f"path: {self._path}", f"column '{self._column}'"):
            found = np.asarray(self._table[rows][self._column])
        if found.dtype.kind not in "fiub":
            raise ValueError(
                f"image: '{self._column}' of {self._path} holds neither pictures nor lists of numbers of one shape; "
                "name another column"
            )
        return found


class _TableRows:
    """The images of a table, decoded when they are asked for."""

    def __init__(self, table: Any, column: str, size: int | tuple[int, int] | None, channels: int, path: str) -> None:
        self._table, self._column, self._size, self._channels, self._path = table, column, size, channels, path
        self.shape = (len(table), *self._read([0])[0].shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        images = self._read(indices.tolist())
        for i, image in zip(indices.tolist(), images, strict=True):
            if image.shape != self.shape[1:]:
                (h0, w0), (h, w) = self.shape[2:], image.shape[1:]
                raise ValueError(
                    f"path: {self._path}: images differ in size: sample 0 is {w0}x{h0} and sample {i} is {w}x{h} "
                    "(width x height); set `size:` to resize and crop them all"
                )
        return stacked(images)

    def _read(self, indices: list[int]) -> list[Tensor]:
        from PIL import Image

        what = f"column '{self._column}' of images"
        with readable(f"path: {self._path}", what, f", in samples {indices[0]} to {indices[-1]}"):
            found = self._table[indices][self._column]
            opened = [v if isinstance(v, Image.Image) else Image.fromarray(np.asarray(v, np.uint8)) for v in found]
        return [
            pixels(image, Decoding(self._size, self._channels), f"path: {self._path}: sample {i}")
            for i, image in zip(indices, opened, strict=True)
        ]
