"""Correctors: one step of Langevin dynamics at a fixed noise level.

    x ← x + ε ∇ln p(x; σ) + √(2ε) n,    ∇ln p(x; σ) = (D(x; σ) − x)/σ²,

leaves the marginal p(x; σ) unchanged as ε → 0, so it mends what discretization has done to the distribution of x
without moving along the noise axis. They act on the repeats of a walk (``renoising=Corrected(repeats)``); each costs
one evaluation. In x = x_t/s the step does not depend on the schedule.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified._component import component, positive
from edm_unified.dynamics import Dynamics, Level
from edm_unified.solvers.linear import Randn


class Corrector(Protocol):
    """A move that stays on its level."""

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor: ...


@component
class Langevin:
    """ε = 2 (snr ‖n‖/‖∇ln p‖)², the norms taken per sample (Song et al. 2021, Algorithm 4).

    The published code averages the norms over the batch, so that a sample depends on its neighbours; this one does not.
    """

    snr: float = 0.16
    kind: Literal["langevin"] = "langevin"
    formulas: ClassVar[dict[str, str]] = {"corrector": "ε = 2 (snr ‖n‖/‖∇ln p‖)², per sample"}

    def __post_init__(self) -> None:
        positive("snr", self.snr)

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        score = (dynamics.denoise(x, level) - x) / level.sigma**2
        noise = randn()
        length = (-1, *[1] * (x.ndim - 1))
        B = len(x)
        ratio = noise.view(B, -1).norm(dim=1) / score.reshape(B, -1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        epsilon = (2 * (self.snr * ratio) ** 2).view(length)
        return x + epsilon * score + torch.sqrt(2 * epsilon) * noise


@component
class AnnealedLangevin:
    """ε = 2 (snr σ)²: the step follows the noise level (Song et al. 2021, Algorithm 5; Song & Ermon 2019).

    The drift is 2 snr² (D − x) and the noise 2 snr σ n, whatever the score: linear in D and stable for snr < 1.
    """

    snr: float = 0.16
    kind: Literal["annealed_langevin"] = "annealed_langevin"
    formulas: ClassVar[dict[str, str]] = {"corrector": "ε = 2 (snr σ)²"}

    def __post_init__(self) -> None:
        positive("snr", self.snr)

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        pull = 2 * self.snr**2
        mean = torch.lerp(x, dynamics.denoise(x, level), pull)
        return torch.add(mean, randn(), alpha=math.sqrt(2 * pull) * level.sigma)


AnyCorrector = Langevin | AnnealedLangevin
