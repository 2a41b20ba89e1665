"""Correctors: one step of Langevin dynamics at a fixed noise level.

    x ← x + ε ∇ln p(x; σ) + √(2ε) n,    ∇ln p(x; σ) = (D(x; σ) − x)/σ²,

leaves the marginal p(x; σ) unchanged as ε → 0, so it mends what discretization has done to the distribution of x
without moving along the noise axis. They act on the repeats of a walk (``renoising=Corrected(repeats)``); each costs
one evaluation. What differs is the step size:

=========================  ===================================  =====================================
:class:`Langevin`          ε = 2 (snr ‖n‖/‖∇ln p‖)²             from the norms, each sample by itself
:class:`BatchLangevin`     the same with both norms averaged    as published: a sample sees its batch
:class:`AnnealedLangevin`  ε = 2 (snr σ)²                       from the level alone
:class:`NCSNLangevin`      ε = epsilon σ²/σ_min²                the same, in the letters of 2019
=========================  ===================================  =====================================

**Any schedule.** A step of ε on x = x_t/s is one of s² ε on x_t, whose score is ∇ln p/s. On x_t both published rules
ask for s² times the ε that they ask for here, so that s drops out: a corrector does not see the schedule, and there is
nothing in it that sub-VP, or any other, lacks. The published code for VP scales ε by α = 1 − β_k besides, of the step
below its time, from 0.9999 to 0.98; that is snr √α here, at most 1 % less.

**What remains as the step goes to 0.** On N(0, v) with the exact score the rules that do not look at x settle at
V/(1 − q V⁻¹σ²/2), V = v + σ², q = ε/σ²: a relative error of order snr². The rules that do look at x are not a Langevin
step of any fixed ε: ε falls with ‖∇ln p‖ and rises with the very noise that it scales. By the first a sample stays
longer where its score is small, by the second the noise is (d + 2)/d times what the drift balances. In d dimensions
the variance of an isotropic Gaussian settles at (1 + 2/d)² V: 6 % too much at d = 64, 0.13 % at 3 × 32 × 32. Averaged
over a batch both effects go away with its size.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Positive
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.dynamics import Dynamics, Level
from edm_unified.sampling.solvers.rows import Randn


class Corrector(Protocol):
    """A move that stays on its level."""

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor: ...


@component
class Langevin:
    """ε = 2 (snr ‖n‖/‖∇ln p‖)², the norms taken per sample (Song et al. 2021, Algorithms 4 and 5).

    The published code averages the norms over the batch (:class:`BatchLangevin`); here a sample does not depend on its
    neighbours. For images; in few dimensions it widens the marginal, by 4/d at small steps, and
    :class:`AnnealedLangevin` does not.
    """

    snr: Positive = 0.16
    kind: Literal["langevin"] = "langevin"
    formulas: ClassVar[dict[str, str]] = {"corrector": "ε = 2 (snr ‖n‖/‖∇ln p‖)², per sample"}

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        return _by_norms(self.snr, dynamics, x, level, randn, whole=False)


@component
class BatchLangevin:
    """ε = 2 (snr mean ‖n‖/mean ‖∇ln p‖)², the means over the batch: Song et al. 2021 as in their code.

    **A sample depends on its batch**: the same seed gives other samples in another batch, or split over ranks. To
    reproduce published samples; else take :class:`Langevin`.
    """

    snr: Positive = 0.16
    kind: Literal["batch_langevin"] = "batch_langevin"
    formulas: ClassVar[dict[str, str]] = {
        "corrector": "ε = 2 (snr mean ‖n‖/mean ‖∇ln p‖)², over the batch: a sample depends on its batch"
    }

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        return _by_norms(self.snr, dynamics, x, level, randn, whole=True)


def _by_norms(snr: float, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn, whole: bool) -> Tensor:
    """The step with ε from the norms of each sample, or from their means over the ``whole`` batch."""
    score = (dynamics.denoise(x, level) - x) / level.sigma**2
    noise = randn()
    least = torch.finfo(x.dtype).tiny  # under the root: there the derivative of a norm of 0 is 0 and not NaN
    norms = [row_sum(value.square()).clamp(min=least).sqrt() for value in (noise, score)]
    if whole:
        norms = [value.mean().expand(len(x)) for value in norms]
    epsilon = (2 * (snr * norms[0] / norms[1]) ** 2).view(-1, *[1] * (x.ndim - 1))
    return x + epsilon * score + torch.sqrt(2 * epsilon) * noise


@component
class AnnealedLangevin:
    """ε = 2 (snr σ)²: the step follows the noise level (``ald`` in the code of Song et al. 2021; Song & Ermon 2019).

    The drift is 2 snr² (D − x) and the noise 2 snr σ n, whatever the score: linear in D and stable for snr < 1.
    """

    snr: Positive = 0.16
    kind: Literal["annealed_langevin"] = "annealed_langevin"
    formulas: ClassVar[dict[str, str]] = {"corrector": "ε = 2 (snr σ)²"}

    def __post_init__(self) -> None:
        if not self.snr < 1:
            raise ValueError(f"snr: must be below 1, or the steps overshoot and grow, got {self.snr!r}")

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        return _by_level(2 * self.snr**2, dynamics, x, level, randn)


@component
class NCSNLangevin:
    """ε_i = epsilon σ_i²/σ_min², σ_min the last level of the ladder: annealed Langevin dynamics of NCSN.

    x ← x + ε_i ∇ln p + √(2 ε_i) n (Song & Ermon 2020, Algorithm 1; 2019's writes ε_i/2 and √ε_i, and its code this). It
    is :class:`AnnealedLangevin` with snr = √(epsilon/2)/σ_min, 0.316 with the values of 2019 and 0.176 with those of
    2020 (epsilon 6.2e-6). Stable for epsilon < 2 σ_min².
    """

    epsilon: Positive = 2e-5
    sigma_min: Positive = 0.01
    kind: Literal["ncsn_langevin"] = "ncsn_langevin"
    formulas: ClassVar[dict[str, str]] = {"corrector": "ε_i = epsilon σ_i²/σ_min²"}

    def __post_init__(self) -> None:
        if not self.epsilon < 2 * self.sigma_min**2:
            raise ValueError(
                f"epsilon: must be below 2 sigma_min² = {2 * self.sigma_min**2:g}, or the steps overshoot and grow, "
                f"got {self.epsilon!r}"
            )

    def step(self, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
        return _by_level(self.epsilon / self.sigma_min**2, dynamics, x, level, randn)


def _by_level(pull: float, dynamics: Dynamics, x: Tensor, level: Level, randn: Randn) -> Tensor:
    """The step with ε = pull · σ²: x + pull (D − x) + √(2 pull) σ n."""
    mean = torch.lerp(x, dynamics.denoise(x, level), pull)
    return torch.add(mean, randn(), alpha=math.sqrt(2 * pull) * level.sigma)


AnyCorrector = Langevin | BatchLangevin | AnnealedLangevin | NCSNLangevin
