"""Arrays in files: ``.npy``, ``.npz``, ``.safetensors``."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch

from edm_unified.components import paths
from edm_unified.components.component import component, count, positive

from .dataset import AS_STORED, BYTES, Dataset, Scaling
from .readers import read_numpy, read_safetensors, whole_labels
from .rows import ArrayRows

AXIS_STD = 0.5
"""What ``standardise: per_axis`` brings every axis to: EDM's σ_data."""
_CHUNK = 2**24
"""Numbers that are looked at in one go."""


class _Seen(NamedTuple):
    """The least and the greatest number of an array, and whether all are whole."""

    low: float
    high: float
    whole: bool


@component
class Arrays:
    """One array of a ``.npy``, ``.npz`` or ``.safetensors`` file: images (N, C, H, W), (N, H, W, C), (N, H, W), or
    vectors (N, d). With ``signals``, (N, C, L) or (N, L).

    ``key``: which array, where the file holds several; ``label_key``: the array of classes (N,), if any. Bytes (uint8)
    become (b − 127.5)/127.5. Floating-point images must already lie in [−1, 1], or ``range`` = [low, high] says what to
    map to it, e.g. [0, 1]; floating-point vectors are mapped only when ``range`` is given. ``standardise``: instead,
    each channel (of vectors: all of them) is moved to mean zero and this standard deviation, e.g. 0.5 for the latents
    of an autoencoder; ``per_axis`` moves each channel, and each column of vectors, to mean zero and 0.5. ``unit``: what
    the numbers are in, such as K, to be said where they are shown. Pickled arrays are refused. A trailing axis of 1 or
    3 with a second axis that is neither is read as channels-last. .npy and .safetensors stay on disk, and a batch reads
    what it needs. ``shape`` of a sample and ``classes``, where given, are what the data must have, and what they are
    taken for while they are not at hand.
    """

    path: str
    key: str | None = None
    label_key: str | None = None
    range: tuple[float, float] | None = None
    standardise: float | Literal["per_axis"] | None = None
    signals: bool = False
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    unit: str = ""
    kind: Literal["arrays"] = "arrays"
    added_later: ClassVar[tuple[str, ...]] = ("shape", "classes", "unit")

    def __post_init__(self) -> None:
        if self.range is not None and not (np.isfinite(self.range).all() and self.range[0] < self.range[1]):
            raise ValueError(f"range: must be two finite numbers, the lower first, got {list(self.range)}")
        if self.standardise is not None:
            if self.standardise != "per_axis":
                positive("standardise", self.standardise)
            if self.range is not None:
                raise ValueError("standardise: leave out `range`; the scale is taken from the data")
        if self.shape is not None:
            for size in self.shape:
                count("shape", size)
        if self.classes is not None:
            count("classes", self.classes, least=0)

    def load(self) -> Dataset:
        """Map and check the array. Raises ValueError naming the file and what is wrong in it."""
        file = paths.regular(paths.expanded(self.path, "path"), f"path: {self.path}")
        if file.is_dir():
            raise ValueError(
                f"path: {self.path}: is a folder; name a .npy, .npz or .safetensors file, or use image_folder"
            )
        if not file.is_file():
            raise ValueError(f"path: {self.path}: no such file")
        readers = {".npy": read_numpy, ".npz": read_numpy, ".safetensors": read_safetensors}
        if file.suffix.lower() not in readers:
            raise ValueError(f"path: {self.path}: cannot read '{file.suffix}'; use .npy, .npz or .safetensors")
        array, labels = readers[file.suffix.lower()](file, self.key, self.label_key)
        seen = self._checked(array)
        scaling, extent = self._scaling(array, seen)
        array = self._arranged(array)
        if self.standardise is not None:
            each = self.standardise == "per_axis"
            scaling = standardised(array, scaling, AXIS_STD if each else float(self.standardise), each)
        classes = None if labels is None else whole_labels(labels, len(array), self.path)
        dataset = Dataset(
            ArrayRows(array), classes, file.stem, scaling, unit=self.unit, extent=extent,
            whole=seen.whole and scaling is not AS_STORED,
        )  # fmt: skip
        if self.shape is not None and dataset.shape != tuple(self.shape):
            raise ValueError(
                f"shape: is {list(self.shape)}, and a sample of {self.path} has {list(dataset.shape)}; correct it, or "
                "leave it out"
            )
        if self.classes is not None and dataset.classes != self.classes:
            raise ValueError(
                f"classes: is {self.classes}, and {self.path} has {dataset.classes}; correct it, or leave it out"
            )
        return dataset

    def _checked(self, array: np.ndarray) -> _Seen:
        """What is in ``array``, all of which is looked at, in parts."""
        where = f"path: {self.path}"
        if array.ndim not in ((2, 3) if self.signals else (2, 3, 4)) or array.size == 0:
            wanted = "signals (N, C, L)" if self.signals else "images (N, C, H, W) or vectors (N, d)"
            raise ValueError(f"{where}: must be {wanted}, got shape {array.shape}")
        if array.dtype == np.uint8:
            return _Seen(0.0, 255.0, True)
        if array.dtype.kind != "f" or array.dtype.itemsize > 8:  # torch has no longdouble
            raise ValueError(
                f"{where}: must hold uint8 or floating-point numbers of up to 64 bits, got {array.dtype}; "
                "convert it first"
            )
        low, high, whole = np.inf, -np.inf, True
        rows = max(1, _CHUNK // array[0].size)
        for first in range(0, len(array), rows):
            with np.errstate(over="ignore"):  # becomes inf, reported here
                part = np.asarray(array[first : first + rows], np.float32)
            bad = ~np.isfinite(part).reshape(len(part), -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{where}: has NaN, inf or an overflow of float32, first in sample {first + int(bad.argmax())}"
                )
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            whole = whole and bool((part == np.round(part)).all())
        return _Seen(low, high, whole)

    def _scaling(self, array: np.ndarray, seen: _Seen) -> tuple[Scaling, tuple[float, float] | None]:
        """The map of what was ``seen`` to [−1, 1], and what is black and white of it, where that is known."""
        if array.dtype == np.uint8:
            return BYTES, (0.0, 255.0)
        scaling, extent, (low, high) = AS_STORED, self.range, (seen.low, seen.high)
        if self.range is not None:
            black, white = self.range
            middle, half = (black + white) / 2, (white - black) / 2
            scaling = Scaling(middle, half)
            low, high = (low - middle) / half, (high - middle) / half
        if array.ndim > 2 and not self.signals and self.standardise is None:
            self._in_range(low, high, f"path: {self.path}")
            extent = extent or (-1.0, 1.0)
        return scaling, extent

    def _in_range(self, low: float, high: float, where: str) -> None:
        if low < -1 - 1e-4 or high > 1 + 1e-4:
            raise ValueError(
                f"{where}: images must lie in [-1, 1], found {low:.4g} to {high:.4g}; say what is black and white with "
                "`range:`, e.g. [0, 1] or [0, 255], or set `standardise: 0.5` for latents"
            )
        if low >= 0 and self.range is None:
            raise ValueError(
                f"{where}: images have no value below 0 (found {low:.4g} to {high:.4g}), so 0 is probably black; "
                "set `range: [0, 1]`, or `range: [-1, 1]` if they are right as they are"
            )

    def _arranged(self, array: np.ndarray) -> np.ndarray:
        """A view with the channels second."""
        if self.signals:
            return array[:, None] if array.ndim == 2 else array
        if array.ndim == 3:
            return array[:, None]
        if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
            return np.moveaxis(array, 3, 1)
        return array


def standardised(array: np.ndarray, scaling: Scaling, std: float, each: bool = True) -> Scaling:
    """``scaling``, and after it each channel of (N, C, …) to mean 0 and deviation ``std``; of (N, d) all, or ``each``.

    Raises ValueError naming the first channel that is constant.
    """
    apart = each or array.ndim > 2
    axes = tuple(i for i in range(array.ndim) if i != 1) if apart else None
    total, square, n, origin = 0.0, 0.0, 0, None
    rows = max(1, _CHUNK // array[0].size)
    for first in range(0, len(array), rows):
        raw = np.array(array[first : first + rows], np.float64)
        part = (raw - scaling.shift) / scaling.scale
        origin = part.mean(axes, keepdims=True) if origin is None else origin  # squares of what is left do not cancel
        part = part - origin
        total, square = total + part.sum(axes), square + np.square(part).sum(axes)
        n += part.size // (array.shape[1] if apart else 1)
    assert origin is not None
    off = np.asarray(total) / n
    spread = np.sqrt(np.maximum(np.asarray(square) / n - off**2, 0)).reshape(-1)
    mean = (origin.reshape(off.shape) + off).reshape(-1)
    flat = ~(spread > 1e-12 * (1 + abs(mean)))
    if flat.any():
        what = "column" if array.ndim == 2 else "channel"
        which = f"{what} {int(flat.argmax())} of the data" if apart else "all of the data"
        raise ValueError(f"standardise: {which} is constant, {mean[flat][0]:.6g}; leave it out")
    trailing = (-1, *(1,) * (array.ndim - 2)) if apart else ()
    shift, scale = (torch.from_numpy(v).reshape(trailing) for v in (mean, spread / std))
    return scaling.then(shift, scale)
