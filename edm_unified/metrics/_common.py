"""What metrics share: the estimate with its interval, checks of the samples, and the bootstrap."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 1000


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval; all None where the samples had diverged."""

    value: float | None
    low: float | None
    high: float | None


DIVERGED = Estimate(None, None, None)


def rows(name: str, x: Tensor, least: int) -> Tensor:
    """(N, *shape) as (N, d) float64."""
    if x.ndim < 1 or len(x) < least or x.numel() == 0:
        raise ValueError(f"{name}: must have shape (N, *shape) with N >= {least}, got {tuple(x.shape)}")
    return x.detach().to(torch.float64).reshape(len(x), -1)


def pair(x: Tensor, data: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if x.shape[1:] != data.shape[1:]:
        raise ValueError(
            f"data: must hold events of the shape of x, got {tuple(data.shape[1:])} against {tuple(x.shape[1:])}"
        )
    return rows("x", x, least), rows("data", data.to(x.device), least)


def finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def resample(values: Tensor, seed: int) -> Tensor:
    """(RESAMPLES, N) rows drawn with replacement from ``values`` (N,)."""
    index = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator(seed))
    return values[index.to(values.device)]


def counts(n: int, times: int, seed: int) -> Tensor:
    """(times, n): how often each of n rows was drawn in n draws with replacement."""
    index = torch.randint(n, (times, n), generator=generator(seed))
    return torch.zeros(times, n, dtype=torch.float64).scatter_add_(1, index, torch.ones(times, n, dtype=torch.float64))


def linear(value: Tensor, influence: Tensor, seed: int, root: bool) -> Estimate:
    """The bootstrap of ``value`` + mean influence of the rows drawn, and the root of it all where asked."""
    draws = value + resample(influence - influence.mean(), seed).mean(1)
    return estimate(value.clamp(min=0).sqrt(), draws.clamp(min=0).sqrt()) if root else estimate(value, draws)


def estimate(value: Tensor, draws: Tensor) -> Estimate:
    v = float(value)
    if not math.isfinite(v) or not finite(draws):
        return DIVERGED
    if draws.numel() == 0:
        return Estimate(v, v, v)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype, device=draws.device)).tolist()
    return Estimate(v, low, high)
