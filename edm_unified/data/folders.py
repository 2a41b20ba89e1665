"""Folders of images: any folder, CelebA and ImageNet.

Images are decoded when training asks for them. Those of a folder of up to ``rows.IN_MEMORY`` bytes of pixels are kept
from then on; those of a larger one are read again each time, so that its size does not matter. ``in_memory`` decides
otherwise.
"""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components import paths
from edm_unified.components.component import choice, component
from edm_unified.components.constraints import Seed
from edm_unified.components.family import Family

from . import splits
from .classes import Classes, in_order, stated_names, together
from .dataset import BYTES, Dataset, Rows, between
from .fields import Channels, Extent, Holdout, Size, directory
from .formats import IMAGE_SUFFIXES as SUFFIXES
from .images import Decoding
from .labels import AnyLabels, FolderNames, of_files
from .rows import Files, Pages, Pictures, pictures_in_memory_or_not


@component
class ImageFolder:
    """All images under ``path``, at any depth, in the order of their names.

    Links to folders are followed, but for those back to a folder that they lie in. Files and folders whose name begins
    with a dot are left out. ``size``: a side, or [height, width]; images are resized to cover it and cropped about the
    centre. It is needed only when the files differ in size. ``channels``: 1 (grey) or 3 (RGB); an alpha channel is
    composed on white. ``in_memory``: null keeps up to 2 GiB of pixels in memory and reads larger folders file by file.

    ``labels``: where the classes come from. Null: EDM's ``dataset.json`` or ``metadata.jsonl`` (``.csv``) with a label
    where the folder has one, else the first level of folders, where no image lies directly in ``path``; folders that
    are all whole numbers are in the order of the numbers, others in that of their names. ``class_names``: all classes
    in an order of one's own, a list or a text file with one a line; some may have no sample.

    ``split``: where ``path`` has train/, val/ or test/ beside each other, which of them (null: train; ``all``).
    ``holdout``: a share such as 0.1 of the files is held out, chosen by their names and ``holdout_seed`` (null: 0);
    ``split: held_out`` is that part, null what is left.

    ``range``: the numbers that are black and white where pixels have more than 8 bits, e.g. [-1000, 3000]; it is
    needed for signed pixels, those of 32 bits and floating point, and pixels outside are refused. ``pages``: what a
    file of several pages is (a TIFF stack, an animation): ``samples``, each page one, or ``depth``, one volume
    (C, D, H, W) a file; ``first`` takes the first page alone; null refuses such files.
    """

    path: str
    size: Size | None = None
    channels: Channels = 3
    in_memory: bool | None = None
    labels: Annotated[AnyLabels | None, Family("label sources")] = None
    class_names: str | tuple[str, ...] | None = None
    split: str | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    range: Extent | None = None
    pages: Literal["first", "samples", "depth"] | None = None
    kind: Literal["image_folder"] = "image_folder"
    added_later: ClassVar[tuple[str, ...]] = (
        "labels", "class_names", "split", "holdout", "holdout_seed", "range", "pages",
    )  # fmt: skip

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split)

    def load(self) -> Dataset:
        """Find the files, and read them if they fit. Raises ValueError naming the file that is at fault."""
        root = directory("path", self.path)
        beside = splits.folders(root)
        if not beside and self.split not in (None, splits.ALL, splits.HELD_OUT, splits.TRAIN):
            raise ValueError(f"split: {self.path} has no folders train/, val/, test/ beside each other; leave it out")
        tops = splits.chosen(beside, self.split, f"split: {self.path}") if beside else [root]
        files: list[Path] = []
        parts: list[tuple[Classes | None, tuple[str, ...]]] = []
        names: list[str] = []
        titles: list[str] = []
        for top in tops:
            own = sorted(images_in("path", top), key=lambda file: file.parts)  # as paths sort, in less time
            if own:
                files, inside = files + own, [file.relative_to(top).as_posix() for file in own]
                names += inside
                part = f"{top.name}/" if len(tops) > 1 else ""
                titles += [part + name.rpartition(".")[0] for name in inside]
                parts.append(self._classes(top, root, inside, beside))
        if not files:
            where = self.path if tops == [root] else str(tops[0])
            raise ValueError(f"path: {where}: no image in this folder (looked for {', '.join(SUFFIXES)})")
        notes = dict.fromkeys(note for _, told in parts for note in told)
        if beside and self.split is None:
            other = [name for name in beside if name != tops[0].name]
            more = f"; split: {other[0]} takes {', '.join(other)}" if other else ""
            notes[f"{tops[0].name}/ alone is read{more}"] = None
        found = [classes for classes, _ in parts if classes is not None]
        classes = together(found) if len(found) == len(parts) else None
        stated = stated_names(self.class_names)
        if stated is not None:
            if classes is None:
                raise ValueError(f"class_names: {self.path} has no classes to be named; leave it out")
            classes = in_order(classes, stated, "class_names")
        keep = splits.kept(names, self.holdout, self.holdout_seed, self.split)
        labels, known = (None, ()) if classes is None else classes[:2]
        if keep is not None:
            files, titles = [files[i] for i in keep.tolist()], [titles[i] for i in keep.tolist()]
            labels = None if labels is None else labels[keep]
        pictures: Pictures = Files(files)
        if self.pages == "samples":
            pictures = Pages(files)
            labels = None if labels is None else labels.repeat_interleave(pictures.counts, 0)
            titles = [
                f"{title}, page {page + 1}"
                for title, pages in zip(titles, pictures.counts.tolist(), strict=True)
                for page in builtins.range(pages)
            ]
        one = "first" if self.pages == "samples" else self.pages
        decoding = Decoding(self.size, self.channels, self.range, one)
        stored = pictures_in_memory_or_not(pictures, decoding, self.in_memory)
        scaling = BYTES if self.range is None else between(*self.range)
        return Dataset(
            stored, labels, root.resolve().name, scaling, known, notes=tuple(notes), extent=self.range,
            names=tuple(titles),
        )  # fmt: skip

    def _classes(
        self, top: Path, root: Path, names: Sequence[str], beside: Mapping[str, Path]
    ) -> tuple[Classes | None, tuple[str, ...]]:
        """Those of the files ``names`` in ``top``, which may be one of the splits ``beside`` each other."""
        seen, notes = {name.split("/")[0] for name in names}, _loose(names)
        folders = [
            entry.name
            for part in beside.values() or (root,)
            for entry in part.iterdir()
            if entry.name not in seen and not entry.name.startswith(".") and entry.is_dir()
            if (holds := _holds(entry)) == "nothing" or (holds == "images" and part != top)
        ]
        classes, told = of_files(self.labels, top, root, names, folders)
        return classes, told or notes


@component
class ImageNet:
    """ImageNet (ILSVRC 2012) on disk: ``root``/train/n01440764/*.JPEG and the like, its 1000 classes 0 … 999.

    The classes are numbered in the order of their folders' names, as everybody does. Of a part of the 1000, state all
    of them in ``class_names``, a list or a text file with one a line, and each keeps its number. ``split: val`` reads
    ``root``/val, whose images must have been moved into the same folders; so does ``train`` false. ``holdout``: a share
    of train/ is held out, by the names of the files and ``holdout_seed`` (null: 0); ``split: held_out`` is that part.
    ``size``: each image is resized to cover it and cropped about the centre. Read file by file unless ``in_memory``.
    """

    root: str
    size: Size = 64
    train: bool = True
    in_memory: bool = False
    class_names: str | tuple[str, ...] | None = None
    split: Literal["train", "val", "held_out"] | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    kind: Literal["imagenet"] = "imagenet"
    added_later: ClassVar[tuple[str, ...]] = ("class_names", "split", "holdout", "holdout_seed")

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split)
        splits.check_train(self.train, self.split)

    def load(self) -> Dataset:
        """Find the files. Raises ValueError where the folders are not those of ImageNet."""
        part = "val" if self.split == "val" or not self.train else "train"
        root = directory("root", str(paths.expanded(self.root, "root") / part))
        seen = sorted(f for f in root.iterdir() if not f.name.startswith("."))
        strange = [f.name for f in seen if not (f.is_dir() and re.fullmatch(r"n\d{8}", f.name))]
        if strange:
            raise ValueError(
                f"root: {root}: holds {strange[0]!r}; it must hold one folder per class, such as n01440764"
            )
        dataset = ImageFolder(
            str(root), self.size, 3, self.in_memory, labels=FolderNames(), class_names=self.class_names,
            holdout=self.holdout if part == "train" else None,
            holdout_seed=self.holdout_seed if part == "train" else None,
            split=self.split if self.split == splits.HELD_OUT else None,
        ).load()  # fmt: skip
        notes = (
            (f"{dataset.classes:,} of the 1000 classes, numbered from 0; state all with class_names to keep theirs",)
            if dataset.classes != 1000 and self.class_names is None
            else ()
        )
        return replace(dataset, name=f"imagenet {part}{' held out' * (self.split == splits.HELD_OUT)}", notes=notes)


@component
class CelebA:
    """CelebA, aligned and cropped, on disk as torchvision lays it out: ``root``/celeba/img_align_celeba/000001.jpg …

    ``split`` as list_eval_partition.txt beside that folder says. ``holdout``: a share of those for training is held
    out, by the names of the files and ``holdout_seed`` (null: 0); ``split: held_out`` is that part. ``attribute``: one
    of the 40 of list_attr_celeba.txt, such as Smiling, as two classes (0 without, 1 with); null gives no classes. The
    pictures are 178 × 218; ``size``: each is resized to cover it and cropped about the centre.
    """

    root: str
    size: Size = 64
    split: Literal["train", "valid", "test", "all", "held_out"] = "train"
    attribute: str | None = None
    in_memory: bool | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    kind: Literal["celeba"] = "celeba"
    added_later: ClassVar[tuple[str, ...]] = ("holdout", "holdout_seed")

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split)

    def load(self) -> Dataset:
        """Find the files of the split. Raises ValueError naming the file that is missing or damaged."""
        root = directory("root", str(paths.expanded(self.root, "root") / "celeba"))
        pictures = directory("root", str(root / "img_align_celeba"))
        wanted = {"train": "0", "held_out": "0", "valid": "1", "test": "2"}.get(self.split)
        rows = _table(root / "list_eval_partition.txt", 0)
        names = sorted(name for name, values in rows.items() if wanted is None or values[:1] == [wanted])
        missing = next((name for name in names if not (pictures / name).is_file()), None)
        if not names or missing:
            what = f"{missing} is missing" if missing else f"no picture in the split {self.split!r}"
            raise ValueError(f"root: {pictures}: {what}; put the whole of CelebA there")
        labels = None if self.attribute is None else self._labels(root / "list_attr_celeba.txt", names, self.attribute)
        stored = read([pictures / name for name in names], self.size, 3, self.in_memory)
        named = () if labels is None else (f"not {self.attribute}", str(self.attribute))
        titles = tuple(PurePath(name).stem for name in names)
        found = Dataset(stored, labels, f"celeba {self.split.replace('_', ' ')}", BYTES, named, names=titles)
        return splits.without_held_out(found, self.holdout, self.holdout_seed, self.split)

    def _labels(self, file: Path, names: Sequence[str], attribute: str) -> Tensor:
        rows = _table(file, 2)
        header = file.read_text("utf-8").splitlines()[1].split()
        choice("attribute", attribute, header)
        column = header.index(attribute)
        try:
            return torch.tensor([int(int(rows[name][column]) > 0) for name in names])
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"root: {file}: has no row for every picture; put the whole of CelebA there") from None


def _table(file: Path, head: int) -> dict[str, list[str]]:
    """The rows of a table of CelebA by the name of the picture, after ``head`` lines."""
    if not file.is_file():
        raise ValueError(f"root: {file}: no such file; put the whole of CelebA there")
    lines = [text.split() for text in file.read_text("utf-8").splitlines()[head:]]
    return {words[0]: words[1:] for words in lines if words}


def read(files: Sequence[Path], size: int | tuple[int, int] | None, channels: int, in_memory: bool | None) -> Rows:
    """The images, kept in memory or to be read one by one."""
    return pictures_in_memory_or_not(Files(files), Decoding(size, channels), in_memory)


def images_in(field: str, root: Path) -> Iterator[Path]:
    """The image files under ``root``, in no order; what :class:`ImageFolder` says of links and dots holds.

    Raises ValueError, naming the field, where a folder cannot be read.
    """
    real = os.path.realpath(root)
    todo = [(str(root), real, frozenset((real, *map(str, Path(real).parents))))]
    while todo:
        folder, real, above = todo.pop()  # ``above``: the folders that it lies in, and itself, where they really are
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise ValueError(f"{field}: {folder}: cannot be read ({error.strerror}); remove it, or allow it") from error
        for entry in entries:
            link = entry.is_symlink()
            if os.path.isdir(entry.path) if link else entry.is_dir():
                target = os.path.realpath(entry.path) if link else os.path.join(real, entry.name)
                if target not in above:
                    todo.append((entry.path, target, above | {target}))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES and (
                os.path.isfile(entry.path) if link else entry.is_file()
            ):
                yield Path(entry.path)


def _loose(names: Sequence[str]) -> tuple[str, ...]:
    """A note, where images beside folders make those folders no classes; ``names``: paths from the folder of both."""
    loose = [name for name in names if "/" not in name]
    if not loose or len(loose) == len(names):
        return ()
    return (
        f"no classes, as {len(loose):,} of {len(names):,} images lie in no folder, the first of them {loose[0]}; "
        "move them into one, or away, if each folder is a class",
    )


def _holds(folder: Path) -> Literal["images", "files", "nothing"]:
    """Whether there is an image in ``folder``, at any depth, or only other files."""
    others = False
    for _, _, files in os.walk(folder):
        shown = [file for file in files if not file.startswith(".")]
        if any(Path(file).suffix.lower() in SUFFIXES for file in shown):
            return "images"
        others = others or bool(shown)
    return "files" if others else "nothing"
