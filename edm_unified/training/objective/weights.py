"""λ(σ): how much an error at each noise level counts, as a weight on ‖D − x_0‖².

With SNR = 1/σ² (the signal-to-noise ratio of data whose scale is 1) and the velocity, v, ε … forms of the error being
‖D − x_0‖²/c_out², the published weightings are

===========================  =====================  ===================================================================
weight                       λ(σ)                   is the plain squared error of, or as published
===========================  =====================  ===================================================================
:class:`EDMWeight`           (σ²+σ_d²)/(σσ_d)²      EDM's F
:class:`EpsilonWeight`       1/σ²                   ε ("L_simple")
:class:`ScoreWeight`         1/σ²                   the score, times σ² as published: σ² ‖ΔD/σ²‖²
:class:`LikelihoodWeight`    2 (d ln σ/dt)/σ²       the score of x_t, times g(t)²
:class:`VWeight`             1 + 1/σ²               v
:class:`VelocityWeight`      ((1+σ)/σ)²             the flow's velocity
:class:`X0Weight`            1                      x_0
:class:`MinSNRWeight`        min(SNR, γ)            x_0 times min(SNR, γ); ε times min(SNR, γ)/SNR; v times
                                                    min(SNR, γ)/(SNR + 1)
:class:`SoftMinSNRWeight`    1/(σ² + 1/γ)           x_0 times γ SNR/(SNR + γ)
:class:`SigmoidWeight`       1/(σ² + e^{−b})        ε times sigmoid(b − ln SNR): the soft minimum with γ = e^b
:class:`P2Weight`            SNR/(k + SNR)^γ        ε times 1/(k + SNR)^γ
===========================  =====================  ===================================================================

What a network is trained on is λ p, not λ: ``docs/weighting.md`` draws the product for every recipe.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative, Positive, interval
from edm_unified.schedules.base import float64
from edm_unified.training.objective.noise import SigmaOfTime

EDM_SIGMA_DATA = 0.5
"""The standard deviation of images in [−1, 1], roughly (Karras et al. 2022, Table 1)."""


class Weight(Protocol):
    """λ(σ). Only :class:`LikelihoodWeight` looks at the schedule."""

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor: ...


@component
class EDMWeight:
    """λ = (σ²+σ_d²)/(σσ_d)² = 1/c_out² of EDM (Karras et al. 2022, Table 1 and appendix B.6): with an untrained F = 0
    the expected loss is the same at every σ.

    ``sigma_data``: null for that of the preconditioning, which a recipe puts there (0.5 where it has none, or where
    this is used by itself). Another number is another λ, with which that expected loss differs from level to level.
    """

    sigma_data: Positive | None = None
    kind: Literal["edm"] = "edm"
    formulas: ClassVar[dict[str, str]] = {"lambda": "(σ²+σ_d²)/(σ σ_d)²"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 / float64(sigma) ** 2 + 1 / (EDM_SIGMA_DATA if self.sigma_data is None else self.sigma_data) ** 2


@component
class EpsilonWeight:
    """λ = 1/σ²: the squared error of ε, DDPM's L_simple (Ho et al. 2020, Eq. 14)."""

    kind: Literal["epsilon"] = "epsilon"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1/σ²"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 / float64(sigma) ** 2


@component
class ScoreWeight:
    """λ = 1/σ²: the squared error of the score (D − z)/σ², weighted by σ² (Song & Ermon 2019, Eq. 6 with λ(σ) = σ²;
    Song et al. 2021, Eq. 7). The same number as :class:`EpsilonWeight`, as ε = −σ · score.
    """

    kind: Literal["score"] = "score"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1/σ²  (σ² on the score)"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 / float64(sigma) ** 2


@component
class LikelihoodWeight:
    """λ = 2 (d ln σ/dt)/σ²: the squared error of the score ∇ log p(x_t) times g(t)² (Song, Durkan et al. 2021,
    Theorem 1).

    The score of x_t = s z is (D − z)/(s σ²), and g² = 2 s² σ σ'. With t uniform, half of this loss bounds the negative
    log-likelihood, up to a constant; it is ∫ ‖D − x_0‖² dσ/σ³ under every schedule. Low levels dominate it.
    """

    kind: Literal["likelihood"] = "likelihood"
    formulas: ClassVar[dict[str, str]] = {"lambda": "2 (d ln σ/dt)/σ²  (g² on the score of x_t)"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        if schedule is None:
            raise ValueError("schedule: the likelihood weight is g(t)² of a schedule; give one")
        sigma = float64(sigma)
        return 2 * schedule.log_sigma_rate(schedule.time(sigma)) / sigma**2


@component
class VWeight:
    """λ = 1 + 1/σ²: the squared error of v, "SNR + 1" (Salimans & Ho 2022, section 4)."""

    kind: Literal["v"] = "v"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1 + 1/σ²"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 + 1 / float64(sigma) ** 2


@component
class VelocityWeight:
    """λ = ((1+σ)/σ)² = 1/t²: the squared error of the velocity n − x_0 (Lipman et al. 2023, Eq. 9; Liu et al. 2023)."""

    kind: Literal["velocity"] = "velocity"
    formulas: ClassVar[dict[str, str]] = {"lambda": "((1+σ)/σ)²"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return (1 + 1 / float64(sigma)) ** 2


@component
class X0Weight:
    """λ = 1: the squared error of x_0 itself. It leaves the low levels, the fine detail, almost untrained."""

    kind: Literal["x0"] = "x0"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return torch.ones_like(float64(sigma))


@component
class MinSNRWeight:
    """λ = min(1/σ², γ), "min-SNR-γ" (Hang et al. 2023, section 3.4): the error of ε, but no more than γ of that of x_0.

    Their forms for networks that predict x_0, ε and v are this one. γ = 5 is theirs.
    """

    gamma: Positive = 5.0
    kind: Literal["min_snr"] = "min_snr"
    formulas: ClassVar[dict[str, str]] = {"lambda": "min(1/σ², γ)"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return (1 / float64(sigma) ** 2).clamp(max=self.gamma)


@component
class SoftMinSNRWeight:
    """λ = 1/(σ² + 1/γ) = γ SNR/(SNR + γ), "soft-min-SNR" (Crowson et al. 2024): :class:`MinSNRWeight` with no corner.

    γ = 4, their value, is 1/σ_d² for data of std 0.5, and the weight on EDM's F is then (σσ_d)²/(σ²+σ_d²)².
    """

    gamma: Positive = 4.0
    kind: Literal["soft_min_snr"] = "soft_min_snr"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1/(σ² + 1/γ)"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 / (float64(sigma) ** 2 + 1 / self.gamma)


@component
class SigmoidWeight:
    """λ = sigmoid(b − ln SNR)/σ² = 1/(σ² + e^{−b}): the error of ε times a sigmoid in log-SNR (Kingma & Gao
    2023; Hoogeboom et al. 2024).

    They mean the weight of the loss per unit of log-SNR: take ``log_uniform`` for p(σ), or else p comes on top of it.
    Non-decreasing in the noise, it makes the loss a bound on a likelihood of noised data.
    """

    bias: Annotated[float, interval(-100, 100)] = 2.0
    kind: Literal["sigmoid"] = "sigmoid"
    formulas: ClassVar[dict[str, str]] = {"lambda": "sigmoid(b − ln SNR)/σ² = 1/(σ² + e^(−b))"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        return 1 / (float64(sigma) ** 2 + math.exp(-self.bias))


@component
class P2Weight:
    """λ = SNR/(k + SNR)^γ: the error of ε, less where little noise is left (Choi et al. 2022, Eq. 8, "P2").

    ``gamma`` 0 is :class:`EpsilonWeight`; 0.5 and 1 are theirs.
    """

    gamma: Nonnegative = 1.0
    k: Positive = 1.0
    kind: Literal["p2"] = "p2"
    formulas: ClassVar[dict[str, str]] = {"lambda": "SNR/(k + SNR)^γ, SNR = 1/σ²"}

    def __call__(self, sigma: float | Tensor, schedule: SigmaOfTime | None = None) -> Tensor:
        snr = 1 / float64(sigma) ** 2
        return snr / (self.k + snr) ** self.gamma


AnyWeight = (
    EDMWeight
    | EpsilonWeight
    | ScoreWeight
    | LikelihoodWeight
    | VWeight
    | VelocityWeight
    | X0Weight
    | MinSNRWeight
    | SoftMinSNRWeight
    | SigmoidWeight
    | P2Weight
)
