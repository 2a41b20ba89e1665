"""Densities over ln σ that are measured on a denoiser, for :class:`~edm_unified.sampling.levels.DensitySpaced`.

The entropy of x_0 given x = x_0 + σ n changes with the noise level at the rate (I-MMSE, Guo, Shamai & Verdú 2005)

    dH/d ln σ = E‖D(x; σ) − x_0‖²/σ²,

so that the loss of a denoiser at each level says where information is won. Levels with equal shares of it are the
"entropic time" of Stancevic et al. 2025. The "rescaled" entropy, σ times that rate, is what
``recipes/solver_atlas.yaml`` uses: the plain rate puts nearly all levels at the floor of the data.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edm_unified.components.component import choice, count, falling
from edm_unified.denoisers.denoiser import Denoiser, estimate
from edm_unified.sampling.levels.base import ramp
from edm_unified.sampling.levels.density import DensitySpaced

DENSITIES = {"entropy": 2, "rescaled_entropy": 1}
"""The densities that can be measured: the power of σ by which the mean squared error is divided."""


def mean_squared_errors(
    denoiser: Denoiser, x0: Tensor, sigmas: tuple[float, ...], seed: int = 0, batch: int = 512
) -> tuple[float, ...]:
    """E‖D(x_0 + σn; σ) − x_0‖²/d at each of ``sigmas``, over the samples ``x0`` (N, *shape).

    The noise n is the same at every level, so that what is left of the chance is the same in all of them, and from a
    stream of its own, so that it is not the noise that ``x0`` was drawn with by the same seed.
    """
    stream = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(2,))))
    noise = torch.from_numpy(stream.standard_normal(tuple(x0.shape))).to(x0.device)
    x0, found = x0.to(torch.float64), []
    with torch.no_grad():
        for sigma in sigmas:
            level = torch.tensor(sigma, dtype=torch.float64, device=x0.device)
            parts = zip(x0.split(batch), noise.split(batch), strict=True)
            total = sum(float((estimate(denoiser, x + sigma * n, level, {}) - x).square().sum()) for x, n in parts)
            found.append(total / x0.numel())
    return tuple(found)


def measured_density(
    denoiser: Denoiser,
    x0: Tensor,
    density: Literal["entropy", "rescaled_entropy"] = "rescaled_entropy",
    *,
    n: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    nodes: int = 25,
    seed: int = 0,
    batch: int = 512,
) -> DensitySpaced:
    """The rule whose ``n`` steps take equal shares of a density measured on ``denoiser`` and data ``x0`` (N, *shape).

    Costs ``nodes`` evaluations of each of the N samples; the result serves any number of steps and any solver. Where
    the denoiser is the exact one of a model, ``x0`` should be drawn from that model (``D.sample(2048)``), for a trained
    network from its data. Raises ``ValueError`` for settings that do not fit and where the error of D is not positive.
    """
    choice("density", density, DENSITIES)
    count("nodes", nodes, least=2)
    falling("sigma_min", sigma_min, "sigma_max", sigma_max)
    span = math.log(sigma_min / sigma_max)
    sigmas = (sigma_max, *(sigma_max * math.exp(r * span) for r in ramp(nodes)[1:-1]), sigma_min)
    errors = mean_squared_errors(denoiser, x0, sigmas, seed, batch)
    power = DENSITIES[density]
    return DensitySpaced(n, sigmas, tuple(error / sigma**power for sigma, error in zip(sigmas, errors, strict=True)))
