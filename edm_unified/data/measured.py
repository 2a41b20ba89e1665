"""An array of numbers as a data set: how its axes lie, what its scale is, and whether its numbers are whole.

Whatever file an array comes from, this is decided here, after one look at all of it (:func:`described`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dataset import AS_STORED, BYTES, Dataset, Scaling, between
from .fields import Standardise
from .layouts import ArrayLike, arranged
from .rows import ArrayRows

AXIS_STD = 0.5
"""What ``standardise: per_axis`` brings every axis to: EDM's σ_data."""
_CHUNK = 2**24
"""Numbers that are looked at in one go."""


def check_scale(extent: tuple[float, float] | None, standardise: Standardise | None) -> None:
    """Raise ``ValueError`` where a ``range`` and a ``standardise`` are both given."""
    if standardise is not None and extent is not None:
        raise ValueError("standardise: leave out `range`; the scale is taken from the data")


class Described(NamedTuple):
    """An array as (N, C, …) or (N, d), and what is known of its numbers."""

    array: ArrayLike
    scaling: Scaling
    extent: tuple[float, float] | None
    whole: bool
    notes: tuple[str, ...]

    def dataset(
        self,
        labels: Tensor | None,
        name: str,
        class_names: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        unit: str = "",
    ) -> Dataset:
        """The data set of it."""
        return Dataset(
            ArrayRows(self.array), labels, name, self.scaling, class_names, notes=(*notes, *self.notes), unit=unit,
            extent=self.extent, whole=self.whole,
        )  # fmt: skip


class _Seen(NamedTuple):
    """The least and the greatest number of an array, and whether all are whole."""

    low: float
    high: float
    whole: bool


def described(
    array: ArrayLike,
    where: str,
    extent: tuple[float, float] | None = None,
    standardise: Standardise | None = None,
    *,
    signals: bool = False,
    layout: str | None = None,
    like: Dataset | None = None,
) -> Described:
    """``array``, all of which is looked at, in parts.

    Bytes become (b − 127.5)/127.5, unless ``extent`` (``range`` of a recipe) says what is −1 and 1; images and volumes
    of other numbers need one, or ``standardise``, where they are not in [−1, 1]. ``like``: other data, whose scale is
    that of numbers of which nothing is said; images in [−1, 1] are still that, where those know black and white. Raises
    ValueError, begun with ``where``, for numbers that cannot be what they should be.
    """
    found, notes = arranged(array, layout, signals, where)
    pictures = len(found.shape) > 3 or (len(found.shape) > 2 and not signals and "L" not in (layout or ""))
    if math.prod(found.shape) == 0:
        raise ValueError(f"{where}: must be images (N, C, H, W) or vectors (N, d), got shape {tuple(array.shape)}")
    _check_type(found.dtype, where)
    bytes_as_usual = found.dtype == np.uint8 and extent is None
    seen = _Seen(0.0, 255.0, True) if bytes_as_usual else _look(found, where)
    scaling = BYTES if bytes_as_usual else AS_STORED if extent is None else between(*extent)
    if bytes_as_usual:
        extent = (0.0, 255.0)
    elif like is not None and extent is None:
        as_usual = pictures and like.extent is not None and -1 - 1e-4 <= seen.low < 0 and seen.high <= 1 + 1e-4
        scaling, extent = (AS_STORED, (-1.0, 1.0)) if as_usual else (like.scaling, like.extent)
    elif pictures and standardise is None:
        _in_range(scaling, seen, where, extent is None)
        extent = extent or (-1.0, 1.0)
    if standardise is not None:
        each = standardise == "per_axis"
        scaling = standardised(found, scaling, AXIS_STD if each else float(standardise), each)
    whole = seen.whole and (scaling is not AS_STORED or found.dtype.kind != "f")
    return Described(found, scaling, extent, whole, notes)


def _check_type(dtype: np.dtype, where: str) -> None:  # type: ignore[type-arg]
    whole = dtype.kind in "iub" and dtype != np.uint64
    if not whole and (dtype.kind != "f" or dtype.itemsize > 8):  # torch has no longdouble
        raise ValueError(
            f"{where}: must hold whole numbers or floating-point numbers of up to 64 bits, got {dtype}; "
            "convert it first"
        )


def _look(array: ArrayLike, where: str) -> _Seen:
    low, high, whole = np.inf, -np.inf, True
    rows = max(1, _CHUNK // max(1, math.prod(array.shape[1:])))
    for first in range(0, array.shape[0], rows):
        part = np.asarray(array[first : first + rows])
        if part.dtype.kind == "f":
            with np.errstate(over="ignore"):  # becomes inf, reported here
                part = part.astype(np.float32, copy=False)
            bad = ~np.isfinite(part).reshape(len(part), -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{where}: has NaN, inf or an overflow of float32, first in sample {first + int(bad.argmax())}"
                )
            whole = whole and bool((part == np.round(part)).all())
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    return _Seen(low, high, whole)


def _in_range(scaling: Scaling, seen: _Seen, where: str, unstated: bool) -> None:
    low, high = (float(scaling.to_unit(torch.tensor(v, dtype=torch.float64))) for v in (seen.low, seen.high))
    if low < -1 - 1e-4 or high > 1 + 1e-4:
        raise ValueError(
            f"{where}: images must lie in [-1, 1], found {low:.4g} to {high:.4g}; say what is black and white with "
            "`range:`, e.g. [0, 1] or [0, 255], or set `standardise: 0.5` for latents"
        )
    if low >= 0 and unstated:
        raise ValueError(
            f"{where}: images have no value below 0 (found {low:.4g} to {high:.4g}), so 0 is probably black; "
            "set `range: [0, 1]`, or `range: [-1, 1]` if they are right as they are"
        )


def standardised(array: ArrayLike, scaling: Scaling, std: float, each: bool = True) -> Scaling:
    """``scaling``, and after it each channel of (N, C, …) to mean 0 and deviation ``std``; of (N, d) all, or ``each``.

    Raises ValueError naming the first channel that is constant.
    """
    apart = each or len(array.shape) > 2
    axes = tuple(i for i in range(len(array.shape)) if i != 1) if apart else None
    total, square, n, origin = 0.0, 0.0, 0, None
    rows = max(1, _CHUNK // math.prod(array.shape[1:]))
    for first in range(0, array.shape[0], rows):
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
        what = "column" if len(array.shape) == 2 else "channel"
        which = f"{what} {int(flat.argmax())} of the data" if apart else "all of the data"
        raise ValueError(f"standardise: {which} is constant, {mean[flat][0]:.6g}; leave it out")
    trailing = (-1, *(1,) * (len(array.shape) - 2)) if apart else ()
    shift, scale = (torch.from_numpy(v).reshape(trailing) for v in (mean, spread / std))
    return scaling.then(shift, scale)
