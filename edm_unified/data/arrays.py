"""One array of a file that holds arrays by name, whatever its format."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from edm_unified.components import paths
from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Seed, whole

from . import array_files, splits
from .classes import Classes, in_order, stated_names, whole_labels
from .dataset import Dataset
from .fields import Extent, Holdout, Standardise
from .layouts import check_layout
from .measured import check_scale, described


@component
class Arrays:
    """One array of a file: images (N, C, H, W), (N, H, W, C) or (N, H, W), volumes (N, C, D, H, W) or (N, D, H, W, C),
    or vectors (N, d). With ``signals``, (N, C, L) or (N, L).

    The file is .npy, .npz, .safetensors, .pt (tensors alone), HDF5, NetCDF, Zarr, or a .mat of MATLAB; which it is, its
    contents say. HDF5, NetCDF 4 and Zarr need the extra formats: pip install 'edm_unified[formats]'. Pickled objects
    are refused.

    ``key``: which array, where the file holds several; ``label_key``: the array of classes (N,), if any. (Of the .npz
    of guided-diffusion, arr_0 and arr_1 are taken without asking.) Bytes (uint8) become (b − 127.5)/127.5. Images of
    other numbers must already lie in [−1, 1], or ``range`` = [low, high] says what to map to it, e.g. [0, 1]; vectors
    are mapped only when ``range`` is given. ``standardise``: instead, each channel (of vectors: all of them) is moved
    to mean zero and this standard deviation, e.g. 0.5 for the latents of an autoencoder; ``per_axis`` moves each
    channel, and each column of vectors, to mean zero and 0.5. ``unit``: what the numbers are in, such as K, to be said
    where they are shown.

    ``layout``: a letter for each axis, such as NHWC or NDHW. Without it, 1 or 3 channels are found last, and up to 4
    where the picture is then square; what may be either is refused. ``shape`` of a sample and ``classes``, where given,
    are what the data must have, and what they are taken for while they are not at hand. .npy, .safetensors, .pt, HDF5,
    NetCDF and Zarr stay on disk, and a batch reads what it needs.

    ``class_names``: what the classes 0, 1, … are called, a list or a text file with one a line. ``holdout``: a share
    such as 0.1 is held out, chosen by place and ``holdout_seed`` (null: 0); ``split: held_out`` is that part, null what
    is left. The scale is that of all.
    """

    path: str
    key: str | None = None
    label_key: str | None = None
    range: Extent | None = None
    standardise: Standardise | None = None
    signals: bool = False
    shape: tuple[Count, ...] | None = None
    classes: Annotated[int, whole(least=0)] | None = None
    unit: str = ""
    layout: str | None = None
    class_names: str | tuple[str, ...] | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    split: Literal["train", "held_out", "all"] | None = None
    kind: Literal["arrays"] = "arrays"
    added_later: ClassVar[tuple[str, ...]] = (
        "shape", "classes", "unit", "layout", "class_names", "holdout", "holdout_seed", "split",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_scale(self.range, self.standardise)
        check_layout(self.layout)
        splits.check(self.holdout, self.holdout_seed, self.split, splits.HOLDOUT_CHOICES)
        if self.layout is not None and self.signals:
            raise ValueError("layout: says it all; leave out `signals`")

    def load(self, like: Dataset | None = None) -> Dataset:
        """Map and check the array. Raises ValueError naming the file and what is wrong in it.

        ``like``: other data, whose scale is taken for floating-point numbers that have no ``range``; images in [−1, 1]
        are still what they say they are, where those others know black and white.
        """
        file = paths.regular(paths.expanded(self.path, "path"), f"path: {self.path}")
        array, labels, notes = array_files.reader(file, self.path)(file, self.key, self.label_key)
        about = described(
            array,
            f"path: {self.path}",
            self.range,
            self.standardise,
            signals=self.signals,
            layout=self.layout,
            like=like,
        )
        n = about.array.shape[0]
        classes = None if labels is None else whole_labels(labels, n, self.path)
        dataset = about.dataset(classes, file.stem, notes=notes, unit=self.unit)
        if self.shape is not None and dataset.shape != tuple(self.shape):
            raise ValueError(
                f"shape: is {list(self.shape)}, and a sample of {self.path} has {list(dataset.shape)}; correct it, or "
                "leave it out"
            )
        if self.classes is not None and dataset.classes != self.classes:
            raise ValueError(
                f"classes: is {self.classes}, and {self.path} has {dataset.classes}; correct it, or leave it out"
            )
        stated = stated_names(self.class_names)
        if stated is not None:
            if dataset.labels is None:
                raise ValueError(f"class_names: {self.path} has no classes to be named; set label_key, or leave it out")
            found = in_order(Classes(dataset.labels, dataset.class_names, numbered=True), stated, "class_names")
            dataset = replace(dataset, labels=found.labels, class_names=found.names)
        return dataset.part(splits.kept(len(dataset), self.holdout, self.holdout_seed, self.split))
