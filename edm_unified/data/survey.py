"""What a data set is like, in numbers: its range, σ_data, classes, what is wrong with it, and its spectrum.

Large sets are judged by a part of them, drawn by the seeded order that training uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from .dataset import BYTES, Dataset, batch
from .order import indices

CHUNK = 256
"""Samples that are read at a time."""


class Survey(NamedTuple):
    """The figures of ``surveyed`` samples out of ``n``; ``mean`` and ``std`` are per channel (per axis of vectors)."""

    name: str
    n: int
    surveyed: int
    shape: tuple[int, ...]
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_data: float
    counts: dict[str, int]
    duplicates: int
    problems: tuple[str, ...]
    conditions: Mapping[Any, Survey] = MappingProxyType({})
    """Of pairs, the figures of what each sample comes with, by the name under which a denoiser takes it."""


def survey(dataset: Dataset, samples: int = 10_000) -> Survey:
    """Read up to ``samples`` samples and describe them; the classes are counted over all."""
    chosen = part(dataset, samples)
    low, high, total, square, numbers = math.inf, -math.inf, 0.0, 0.0, 0
    seen: dict[bytes, int] = {}
    first_bad = None
    axes = (0, *range(2, len(dataset.shape) + 1))
    for first in range(0, len(chosen), CHUNK):
        own = chosen[first : first + CHUNK]
        rows = batch(dataset, own)[0]
        finite = torch.isfinite(rows).flatten(1).all(1)
        if not bool(finite.all()):
            first_bad = int(own[~finite].min()) if first_bad is None else min(first_bad, int(own[~finite].min()))
            rows = rows[finite]
        if not len(rows):
            continue
        for row in rows.numpy():
            key = row.tobytes()
            seen[key] = seen.get(key, 0) + 1
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
        wide = rows.to(torch.float64).numpy()
        total, square, numbers = total + wide.sum(axes), square + np.square(wide).sum(axes), numbers + len(rows)
    if not numbers:
        raise ValueError(f"{dataset.name}: no sample without NaN or inf")
    each = numbers * math.prod(dataset.shape[1:])
    mean, second = np.asarray(total) / each, np.asarray(square) / each
    sigma_data = math.sqrt(max(float(second.mean() - mean.mean() ** 2), 0.0))
    duplicates = numbers - len(seen)
    counts = _counts(dataset)
    spread = np.sqrt(np.maximum(second - mean**2, 0))
    problems = _problems(dataset, sigma_data, float(mean.mean()), (low, high), counts)
    problems += _uneven(dataset, spread, sigma_data)
    problems += [note for note in [zeros_and_ones(dataset, high)] if note is not None]
    conditions = {kind: survey(condition, samples) for kind, condition in dataset.conditions.items()}
    known = set(problems)
    problems += [
        f"condition: {problem}"
        for about in conditions.values()
        for problem in about.problems
        if f"condition: {problem}" not in known
    ]
    if first_bad is not None:
        problems.insert(0, f"NaN or inf, first in sample {first_bad}: training would stop there")
    if duplicates:
        problems.append(f"{duplicates} of {numbers} samples are copies of earlier ones")
    return Survey(
        dataset.name, len(dataset), numbers, dataset.shape, low, high,
        tuple(mean.tolist()), tuple(spread.tolist()), sigma_data, counts, duplicates, tuple(problems),
        conditions,
    )  # fmt: skip


def part(dataset: Dataset, samples: int) -> Tensor:
    """The indices of all samples, or of ``samples`` of them drawn without repetition, in rising order."""
    n = len(dataset)
    return torch.arange(n) if n <= samples else indices(n, 0, 0, samples).sort().values


def _counts(dataset: Dataset) -> dict[str, int]:
    return dict(zip(dataset.class_names, dataset.class_counts, strict=True)) if dataset.labels is not None else {}


def _problems(
    dataset: Dataset, sigma_data: float, mean: float, extent: tuple[float, float], counts: dict[str, int]
) -> list[str]:
    """What a user should look at before training."""
    found = list(dataset.notes)
    if sigma_data == 0:
        found.append("every number is the same: there is nothing to learn")
    elif abs(mean) > 0.5 * sigma_data:
        found.append(f"the mean is {mean:+.2g}, {abs(mean) / sigma_data:.1f} σ_data from 0: preconditioning assumes 0")
    if len(dataset.shape) == 3 and (extent[0] < -1.001 or extent[1] > 1.001):
        found.append(f"images reach from {extent[0]:.3g} to {extent[1]:.3g}, outside [-1, 1]; right for latents only")
    empty = [name for name, n in counts.items() if n == 0]
    if empty:
        found.append(f"{len(empty)} of {len(counts)} classes have no sample, the first of them {empty[0]!r}")
    return found


def zeros_and_ones(dataset: Dataset, high: float) -> str | None:
    """A note where bytes, the highest of which a network sees as ``high``, are 0 and 1, as masks often are."""
    if dataset.scaling is not BYTES or not -1 < high <= BYTES.to_unit(torch.tensor(1)):
        return None
    return (
        "the bytes are 0 and 1 alone, of 255: black and all but black; of masks "
        "set range: [0, 1], which kinds image_folder and arrays have"
    )


NARROW = 25
"""An axis this many times narrower than σ_data is lost: σ_data/250, EDM's σ_min, is then more than a tenth of it."""


def _uneven(dataset: Dataset, spread: np.ndarray, sigma_data: float) -> list[str]:
    """A note, where noise that suits the data as a whole leaves nothing of an axis (or a channel)."""
    widest, narrowest = int(spread.argmax()), int(spread.argmin())
    if not 0 < spread[narrowest] < sigma_data / NARROW:
        return []
    what = "axis" if len(dataset.shape) == 1 else "channel"
    lost = int((spread < sigma_data / NARROW).sum())
    return [
        f"{what} {narrowest} has a standard deviation of {spread[narrowest]:.3g}, {what} {widest} of "
        f"{spread[widest]:.3g}: levels that suit all leave nothing of {lost} of {len(spread)}; of a file of arrays set "
        "standardise: per_axis"
    ]


def spectrum(rows: Tensor) -> Tensor:
    """Variances along directions that are (nearly) uncorrelated, of samples (n, *shape), float64.

    The eigenvalues of the covariance where there are four samples to a dimension and at most 1024 dimensions; else, of
    images and signals, the power of each cosine mode (DCT-II) of each principal channel, and of vectors the variance
    of each axis. The latter two are unbiased however few the samples, and their mean is σ² in all three.
    """
    x = rows.to(torch.float64)
    x = x - x.mean(0)
    n, d = len(x), x[0].numel()
    if d <= 1024 and n >= 4 * d:
        flat = x.flatten(1)
        return torch.linalg.eigvalsh(flat.mT @ flat / n).clamp(min=0)
    if x.ndim > 2:
        channels = x.movedim(1, -1).flatten(0, -2)
        axes = torch.linalg.eigh(channels.mT @ channels / len(channels))[1]
        x = torch.einsum("nc...,ck->nk...", x, axes)
        x = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho"))
    return x.square().mean(0).flatten()
