"""The axes of an array, and how they come to be (N, C, …): by a stated layout, or by the usual rule.

A layout has a letter for each axis: N samples, C channels, and L of signals, H and W of images, D, H and W of volumes;
``NHWC``, ``NDHW``, ``HWCN``. What has no C has one channel, but for ``NC``, which is a table of vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np


class ArrayLike(Protocol):
    """An array in memory or on a disk: rows by a slice, or by whole numbers in any order and repeated."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


_SPACES = ("", "L", "HW", "DHW")


def check_layout(layout: str | None) -> None:
    """Raise ``ValueError`` unless ``layout`` is one."""
    if layout is None:
        return
    letters = set(layout)
    space = letters - {"N", "C"}
    right = len(letters) == len(layout) and "N" in letters and space in [set(s) for s in _SPACES]
    if not right or letters == {"N"}:
        raise ValueError(
            f"layout: must have a letter for each axis, N, C and L, HW or DHW, such as NHWC or NDHW; got {layout!r}"
        )


class _Arrangement(NamedTuple):
    """``order``: the axes of what is stored, as (N, C, …) or (N, …); ``channel``: whether one channel is put in."""

    order: tuple[int, ...]
    channel: bool
    note: str = ""

    def of(self, rows: np.ndarray) -> np.ndarray:
        found = rows.transpose(self.order)
        return found[:, None] if self.channel else found


def arranged(array: ArrayLike, layout: str | None, signals: bool, where: str) -> tuple[ArrayLike, tuple[str, ...]]:
    """``array`` as (N, C, …) or (N, d), and what a user should know of how it was read.

    Raises ValueError, begun with ``where``, where that cannot be told.
    """
    plan = _plan(tuple(array.shape), layout, signals, where)
    notes = (plan.note,) if plan.note else ()
    if isinstance(array, np.ndarray):
        return plan.of(array), notes
    if plan.order[0] != 0:
        raise ValueError(f"layout: {layout}: samples must be the first axis of a file that is read in parts; copy it")
    return _Arranged(array, plan), notes


class _Arranged:
    """An array that is not NumPy's, its rows arranged when they have been read."""

    def __init__(self, array: ArrayLike, plan: _Arrangement) -> None:
        self._array, self._plan, self.dtype = array, plan, array.dtype
        sides = tuple(array.shape[i] for i in plan.order)
        self.shape = (sides[0], 1, *sides[1:]) if plan.channel else sides

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._plan.of(self._array[rows])


def _plan(shape: tuple[int, ...], layout: str | None, signals: bool, where: str) -> _Arrangement:
    if layout is not None:
        if len(layout) != len(shape):
            raise ValueError(f"layout: {layout} has {len(layout)} axes, and the array {len(shape)}: shape {shape}")
        order = tuple(layout.index(letter) for letter in "NCLDHW" if letter in layout)
        return _Arrangement(order, "C" not in layout)
    axes = tuple(range(len(shape)))
    if signals:
        if len(shape) in (2, 3):
            return _Arrangement(axes, len(shape) == 2)
    elif len(shape) in (2, 3):
        return _Arrangement(axes, len(shape) == 3)
    elif len(shape) in (4, 5):
        return _images(shape, axes, where)
    wanted = "signals (N, C, L)" if signals else "images (N, C, H, W), volumes (N, C, D, H, W) or vectors (N, d)"
    raise ValueError(f"{where}: must be {wanted}, got shape {shape}")


def _images(shape: tuple[int, ...], axes: tuple[int, ...], where: str) -> _Arrangement:
    """Channels are 1 to 4 at one of two places; where both or none would do, the rule is as the docstrings say."""
    second, last = shape[1], shape[-1]
    first, behind = _Arrangement(axes, False), _Arrangement((0, len(axes) - 1, *axes[1:-1]), False)
    volume = len(shape) == 5
    letters = ("NCDHW", "NDHWC") if volume else ("NCHW", "NHWC")
    if last in (1, 3) and second not in (1, 3):
        return behind
    if second <= 4 or last > 4:
        cube = not volume and second > 4 and second == shape[2] == shape[3]
        note = f"read as {second} channels of {shape[2]}×{last}; of volumes without channels, set layout: NDHW"
        return first._replace(note=note if cube else "")
    squares = [len(set(sides)) == 1 for sides in (shape[2:], shape[1:-1])]
    if squares == [False, True]:
        return behind._replace(note=f"read as {letters[1]}, {last} channels of {'×'.join(map(str, shape[1:-1]))}; set "
                               f"layout: {letters[0]} where it is {second} channels")  # fmt: skip
    if squares == [True, False]:
        return first
    raise ValueError(
        f"{where}: of shape {shape}, channels may be {second} or {last}; set layout: {letters[0]} or {letters[1]}"
    )
