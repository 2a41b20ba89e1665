"""The weight w(λ) over the log-SNR to which any objective amounts (Kingma & Gao 2023, section 3).

With λ = ln SNR = −2 ln σ, every objective here is, up to a factor, a weighted integral of the ε-error:

    E_{σ~p} λ_D(σ) ‖D − x_0‖² = ∫ p(λ) λ_D(σ) σ² E‖ε̂ − ε‖² dλ = ½ ∫ w(λ) E‖ε̂ − ε‖² dλ,       w(λ) ∝ p(λ) λ_D(σ) σ²,

because D − x_0 = −σ (ε̂ − ε). Two objectives with one w have one expected loss at every network, and differ in the
variance of its gradient alone. w = const is the variational bound; one that rises to higher noise, as nearly all in use
do, is a bound on noisier data (Kingma & Gao 2023, Theorem 1).

p(λ) comes from the quantile function: p = |du/dλ| at σ = Q(u), by differences. A table of noise levels, whose Q is a
staircase, is read as the density that its levels stand for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import count
from edm_unified.training.objective import Objective
from edm_unified.training.objective.noise import SigmaOfTime


class Weighting(NamedTuple):
    """Along the log-SNR, from high noise to low; each (n,), float64."""

    log_snr: Tensor
    density: Tensor
    """p(λ): where the training looks. Its integral is 1."""
    weight: Tensor
    """w(λ), with 1 as its largest value."""


def weighting(objective: Objective, schedule: SigmaOfTime, points: int = 32768) -> Weighting:
    """p(λ) and w(λ) of ``objective``, between ``points`` quantiles and more of them in the tails.

    ``schedule`` gives σ(t) to distributions over time. Raises ``ValueError`` where there is but one noise level.
    """
    count("points", points, least=8)
    inside = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    tail = inside[0] * torch.logspace(-6, 0, 201, dtype=torch.float64)[:-1]
    u = torch.cat([tail, inside, 1 - tail.flip(0)])
    sigma = objective.noise.quantile(u, schedule)
    # levels that several u share are one step of a staircase: it counts with the middle of its u
    levels, group = torch.unique(sigma, return_inverse=True)
    low, high = (
        torch.zeros_like(levels).scatter_reduce(0, group, u, way, include_self=False) for way in ("amin", "amax")
    )
    share = 0.5 * (low + high)
    if len(levels) < 2:
        raise ValueError("noise: has a single level, which has no density")
    log_snr = -2 * levels.log()
    middle = 0.5 * (log_snr[1:] + log_snr[:-1])
    density = (share[1:] - share[:-1]).abs() / (log_snr[:-1] - log_snr[1:])
    at = torch.exp(-0.5 * middle)
    weight = density * objective.weight(at, schedule) * at.square()
    return Weighting(middle, density, weight / weight.max())


def on_grid(found: Weighting, grid: Tensor) -> Tensor:
    """w at the λ of ``grid``, by straight lines; 0 where the objective does not look."""
    order = found.log_snr.argsort()
    x, y = found.log_snr[order], found.weight[order]
    i = torch.searchsorted(x, grid).clamp(1, len(x) - 1)
    share = (grid - x[i - 1]) / (x[i] - x[i - 1])
    inside = (grid >= x[0]) & (grid <= x[-1])
    return torch.where(inside, torch.lerp(y[i - 1], y[i], share), 0.0)
