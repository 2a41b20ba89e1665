"""How likely samples are under the exact density, beside exact draws."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.metrics._common import (
    DIVERGED,
    Estimate,
    estimate,
    finite,
    resample,
    rows,
)


class Density(Protocol):
    """What ``log_density_gap`` needs of a denoiser: ``edm_unified.denoisers.exact`` has it."""

    def log_prob(self, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """log p(x; σ) in nats, (B,)."""
        ...

    def sample(self, n: int, seed: int = 0, sigma: float = 0.0, label: Tensor | None = None) -> Tensor:
        """Exact draws of x_0 + σn."""
        ...


def log_density_gap(
    x: Float[Tensor, "N *shape"],
    density: Density,
    sigma: float = 0.0,
    label: Tensor | None = None,
    draws: int = 2048,
    seed: int = 0,
    fresh: Float[Tensor, " draws"] | None = None,
) -> Estimate:
    """(mean log p of fresh exact draws − mean log p of x) / d, in nats per dimension, under the exact p(·; σ).

    Zero for a perfect method; positive where samples are less likely than real ones (blurred, noisy, off the data);
    negative where they are too likely (collapsed on the modes). ``draws`` exact draws, resampled in the interval too.
    With ``label`` (N,) the density of each row is that of its class, and there is one fresh draw for each row.
    ``fresh``: log p of the exact draws, ``fresh_log_density`` of the same numbers, where it is known already.
    """
    flat = rows("x", x, 1)
    if not finite(flat):
        return DIVERGED
    if fresh is None:
        fresh = fresh_log_density(density, sigma, label, draws if label is None else len(x), seed)
    mine = density.log_prob(x.detach(), sigma, label=label).to(torch.float64)
    if not (finite(mine) and finite(fresh)):
        return DIVERGED
    d = flat.shape[1]
    draws_mean = resample(fresh, seed + 1).mean(1) - resample(mine, seed).mean(1)
    return estimate((fresh.mean() - mine.mean()) / d, draws_mean / d)


def fresh_log_density(
    density: Density, sigma: float = 0.0, label: Tensor | None = None, draws: int = 2048, seed: int = 0
) -> Float[Tensor, " draws"]:
    """log p of the exact draws that ``log_density_gap`` compares with: the same for all samples under test."""
    if label is None:
        return density.log_prob(density.sample(draws, seed=seed + 1, sigma=sigma), sigma)
    return density.log_prob(density.sample(draws, seed=seed + 1, sigma=sigma, label=label), sigma, label=label)
