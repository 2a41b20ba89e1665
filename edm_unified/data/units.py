"""Other data in the units of a run: its scale is applied to them, whatever their own moments are.

Where both sets say what is black and white (``extent``: bytes, or a ``range``), black is black and white is white. Else
their numbers are taken as they are stored, in the unit of the run. That is refused where they cannot be: where their
shape is another, or their spread or their mean is so far off that they are in another unit.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .dataset import Dataset, Scaling
from .kept import measure

FAR = 16.0
"""Data whose standard deviation is so many times that of the run, or a part so small, or whose mean is so many standard
deviations away, are in another unit."""
NOTABLE = 2.0
"""From here on there is a note, not a refusal: data may be unlike those of the run, which is what one wants to know."""


def in_units_of(own: Dataset, dataset: Dataset, where: str = "data") -> Dataset:
    """``dataset`` with the scale of ``own``, the data of a run. Raises ``ValueError`` where it cannot have it."""
    if dataset.shape != own.shape:
        raise ValueError(f"{where}: samples of shape {dataset.shape}, but the denoiser is for {own.shape}")
    found = _scaled(own, dataset)
    conditions = dict(dataset.conditions)
    for kind, condition in own.conditions.items():
        theirs = conditions.get(kind)
        if theirs is not None and theirs.shape != condition.shape:
            raise ValueError(f"{where}: {kind}: of shape {theirs.shape}, but the denoiser takes {condition.shape}")
        if theirs is not None:
            conditions[kind] = _scaled(condition, theirs)
    found = replace(found, conditions=conditions)
    found = replace(found, measured=measure(found))  # once
    ratio, off = _compared(own, found)
    if off > FAR or (ratio and not 1 / FAR <= ratio <= FAR):
        raise ValueError(
            f"{where}: {dataset.name} {_moments_of(found)}, and the data of the run {_moments_of(own)}: they are in "
            "another unit; convert them, or say what is black and white with range=[low, high]"
        )
    return found


def _scaled(own: Dataset, dataset: Dataset) -> Dataset:
    """``dataset`` with the scale of ``own``."""
    if own.scaling.same(dataset.scaling):
        return dataset
    scaling = own.scaling
    if own.extent is not None and dataset.extent is not None and own.extent != dataset.extent:
        (black, white), (low, high) = own.extent, dataset.extent
        factor = (white - black) / (high - low)  # its numbers as those of the run: black + (raw − low) factor
        scaling = Scaling((scaling.shift - black) / factor + low, scaling.scale / factor)
    return replace(dataset, scaling=scaling, unit=own.unit, measured=None)


def difference(own: Dataset, dataset: Dataset) -> str | None:
    """A sentence where the moments of ``dataset`` are far from those of ``own``, in whose scale they are."""
    ratio, off = _compared(own, dataset)
    if 1 / NOTABLE <= ratio <= NOTABLE and off <= NOTABLE:
        return None
    return (
        f"{dataset.name} are unlike the data of the run: their standard deviation is {ratio:.3g} times as large, their "
        f"mean {off:.3g} standard deviations away, in the scale of the run"
    )


def _compared(own: Dataset, dataset: Dataset) -> tuple[float, float]:
    """The standard deviation of ``dataset`` in that of ``own``, and the distance of their means, of an entry, in it."""
    mine, theirs = measure(own).moments, measure(dataset).moments
    std = mine.variance**0.5 or 1.0
    return theirs.variance**0.5 / std, float((theirs.mean - mine.mean).square().mean()) ** 0.5 / std


def _moments_of(dataset: Dataset) -> str:
    """The mean and the standard deviation of an entry as they are stored, in words."""
    found = measure(dataset).moments
    shift, scale = (torch.as_tensor(value, dtype=torch.float64) for value in dataset.scaling)
    mean, std = float((found.mean * scale + shift).mean()), found.variance**0.5 * float(scale.mean())
    return (
        f"have a mean of {mean:.3g} and a standard deviation of {std:.3g}{f' {dataset.unit}' if dataset.unit else ''}"
    )


def in_data_units(dataset: Dataset, x: Tensor) -> Tensor:
    """Samples x (n, *shape) of a network in the units of ``dataset``, as they are stored; neither rounded nor clipped.

    float32; float64 where that has too few digits for the scale, such as seconds since 1970.
    """
    raw = dataset.scaling.to_raw(x.to(torch.float64))
    shift, scale = (torch.as_tensor(value, dtype=torch.float64) for value in dataset.scaling)
    return raw if bool((shift.abs() > 1e4 * scale).any()) else raw.to(torch.float32)


def for_pictures(dataset: Dataset, x: Tensor) -> Tensor:
    """Images x (n, C, H, W) of a network with black at −1 and white at 1, as :mod:`edm_unified.report` draws them.

    Black and white are those that the data say; else the least and the greatest number of the samples that are kept,
    or −1 and 1 where there are no data, as for a checkpoint of another library.
    What is no image comes back in the units of the data.
    """
    if len(dataset.shape) != 3:
        return in_data_units(dataset, x)
    black_white = dataset.extent
    if black_white is None:
        if not len(dataset):
            return x
        some = measure(dataset).some.to(torch.float64)
        black_white = float(some.min()), float(some.max())
    low, high = torch.tensor(black_white, dtype=torch.float64)
    black, white = ((value - dataset.scaling.shift) / dataset.scaling.scale for value in (low, high))
    if (bool((black == -1).all()) and bool((white == 1).all())) or bool((white <= black).any()):
        return x
    return (2 * (x.to(torch.float64) - black) / (white - black) - 1).to(x.dtype)
