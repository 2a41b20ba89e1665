"""The energy distance between samples and data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.metrics._common import (
    DIVERGED,
    Estimate,
    counts,
    estimate,
    finite,
    pair,
    rows,
)


def energy_distance(
    x: Float[Tensor, "N *shape"], data: Float[Tensor, "M *shape"], seed: int = 0, spread: float | None = None
) -> Estimate:
    """2 E‖X−Y‖ − E‖X−X'‖ − E‖Y−Y'‖ in data units, by unbiased U-statistics (Székely & Rizzo 2013).

    Zero only for equal distributions. Without bias it may come out slightly negative for a perfect method. Distances
    are taken in chunks of rows: memory O((N+M)·1024), time O((N+M)² d). ``spread``: the ``mean_distance`` of the data,
    E‖Y−Y'‖, where it is known already; it is what takes the time where N < M.
    """
    a, b = pair(x, data, 2)
    if not (finite(a) and finite(b)):
        return DIVERGED
    centre = b.mean(0)
    a, b = a - centre, b - centre
    n = len(a)
    w = torch.cat([torch.full((1, n), 1.0 / n, dtype=torch.float64), counts(n, 400, seed) / n]).to(a.device)
    cross = torch.zeros(n, dtype=torch.float64, device=a.device)
    within_a = torch.zeros(len(w), dtype=torch.float64, device=a.device)
    for i in range(0, n, 1024):
        part = slice(i, i + 1024)
        cross[part] = torch.cdist(a[part], b).mean(1)
        distance = torch.cdist(a[part], a)
        distance.diagonal(i).zero_()  # exactly, where the fast form leaves rounding
        within_a += ((w[:, part] @ distance) * w).sum(1)
    # A pair of copies of one row is no pair of samples: 1 − Σw² is the weight of the true pairs.
    pairs = 1 - w.square().sum(1)
    values = 2 * (w @ cross) - within_a / pairs.clamp(min=1e-300) - (_within(b) if spread is None else spread)
    return estimate(values[0], values[1:][pairs[1:] > 1e-12])


def mean_distance(data: Float[Tensor, "M *shape"]) -> float:
    """E‖Y−Y'‖ over the pairs of different rows of ``data``: the last term of ``energy_distance``."""
    b = rows("data", data, 2)
    return float(_within(b - b.mean(0)))


def _within(b: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=b.device)
    for i in range(0, len(b), 1024):
        distance = torch.cdist(b[i : i + 1024], b)
        distance.diagonal(i).zero_()
        total += distance.sum()
    return total / (len(b) * (len(b) - 1))
