"""The objective: E_σ E_{x_0, n} λ(σ) ‖D(x_0 + σn; σ) − x_0‖², with σ ~ p(σ) (Karras et al. 2022, Eqs. 2 and 8).

At each σ the minimum is D = E[x_0 | z] whatever p and λ are: these only say where a network of finite size spends
its effort. A loss on another output F, with D = c_skip z + c_out F, is this one with λ = 1/c_out²:

    ‖F − target‖² = ‖D − x_0‖²/c_out²,      target = (x_0 − c_skip z)/c_out.

Hence one loss, in D, and the table

=========================  =====================  =====================================================
weight                     λ(σ)                   is the plain squared error of
=========================  =====================  =====================================================
:class:`EDMWeight`         (σ²+σ_d²)/(σσ_d)²      EDM's F
:class:`EpsilonWeight`     1/σ²                   ε ("L_simple")
:class:`ScoreWeight`       1/σ²                   the score, times σ² as published: σ² ‖ΔD/σ²‖²
:class:`VWeight`           1 + 1/σ²               v
:class:`VelocityWeight`    ((1+σ)/σ)²             the flow's velocity
:class:`X0Weight`          1                      x_0
=========================  =====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified._component import component, positive
from edm_unified.denoiser import Denoiser
from edm_unified.parametrization import along
from edm_unified.schedules.base import float64
from edm_unified.training.noise import (
    AnyNoise,
    LogitNormalTime,
    LogNormal,
    LogUniform,
    Sigma,
    TableIndex,
    UniformTime,
)

Weight = Callable[[Tensor], Tensor]


@component
class EDMWeight:
    """λ = (σ²+σ_d²)/(σσ_d)² = 1/c_out² of EDM (Karras et al. 2022, Table 1 and appendix B.6): with an untrained F = 0
    the expected loss is the same at every σ. ``sigma_data`` must be that of the preconditioning.
    """

    sigma_data: float = 0.5
    kind: Literal["edm"] = "edm"
    formulas: ClassVar[dict[str, str]] = {"lambda": "(σ²+σ_d²)/(σ σ_d)²"}

    def __post_init__(self) -> None:
        positive("sigma_data", self.sigma_data)

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return 1 / float64(sigma) ** 2 + 1 / self.sigma_data**2


@component
class EpsilonWeight:
    """λ = 1/σ²: the squared error of ε, DDPM's L_simple (Ho et al. 2020, Eq. 14)."""

    kind: Literal["epsilon"] = "epsilon"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1/σ²"}

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return 1 / float64(sigma) ** 2


@component
class ScoreWeight:
    """λ = 1/σ²: the squared error of the score (D − z)/σ², weighted by σ² (Song & Ermon 2019, Eq. 6 with λ(σ) = σ²;
    Song et al. 2021, Eq. 7). The same number as :class:`EpsilonWeight`, as ε = −σ · score.
    """

    kind: Literal["score"] = "score"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1/σ²  (σ² on the score)"}

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return 1 / float64(sigma) ** 2


@component
class VWeight:
    """λ = 1 + 1/σ²: the squared error of v, "SNR + 1" (Salimans & Ho 2022, section 4)."""

    kind: Literal["v"] = "v"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1 + 1/σ²"}

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return 1 + 1 / float64(sigma) ** 2


@component
class VelocityWeight:
    """λ = ((1+σ)/σ)² = 1/t²: the squared error of the velocity n − x_0 (Lipman et al. 2023, Eq. 9; Liu et al. 2023)."""

    kind: Literal["velocity"] = "velocity"
    formulas: ClassVar[dict[str, str]] = {"lambda": "((1+σ)/σ)²"}

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return (1 + 1 / float64(sigma)) ** 2


@component
class X0Weight:
    """λ = 1: the squared error of x_0 itself. It leaves the low levels, the fine detail, almost untrained."""

    kind: Literal["x0"] = "x0"
    formulas: ClassVar[dict[str, str]] = {"lambda": "1"}

    def __call__(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))


AnyWeight = EDMWeight | EpsilonWeight | ScoreWeight | VWeight | VelocityWeight | X0Weight


@component
class Objective:
    """p(σ) and λ(σ): what is minimized. A pure function of its draws, which the training loop makes."""

    noise: AnyNoise = LogNormal()
    weight: AnyWeight = EDMWeight()

    def losses(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        u: Tensor,
        n: Tensor,
        schedule: Sigma,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """λ(σ) · mean over the entries of (D(x_0 + σn; σ) − x_0)², one number per sample: (B,), in x_0's dtype.

        ``x0`` (B, *): clean data. ``u`` (B,): numbers in (0, 1), from which σ = Q(u). ``n``: unit normal, x_0's shape.
        ``schedule``: gives σ(t) to the distributions over time; the others do not look at it. ``cond``: keywords for
        the denoiser. The *mean* over entries: EDM's released code sums, which is the same up to their number.
        """
        if n.shape != x0.shape:
            raise ValueError(f"n: must have the shape of x0 {tuple(x0.shape)}, got {tuple(n.shape)}")
        if u.shape != x0.shape[:1]:
            raise ValueError(f"u: must have shape ({len(x0)},), one number per sample, got {tuple(u.shape)}")
        sigma = self.noise.quantile(u, schedule)
        denoised = denoiser(x0 + along(sigma, x0) * n, sigma, **(cond or {}))
        # √λ times the difference is of order one; λ times its square may be 10¹² × 10⁻¹², which half precision lacks
        error = along(self.weight(sigma).sqrt(), x0) * (denoised - x0)
        return error.square().flatten(1).mean(1)

    def loss(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        u: Tensor,
        n: Tensor,
        schedule: Sigma,
        cond: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The mean of :meth:`losses` over the batch: the number to differentiate."""
        return self.losses(denoiser, x0, u, n, schedule, cond).mean()


__all__ = [
    "AnyNoise",
    "AnyWeight",
    "EDMWeight",
    "EpsilonWeight",
    "LogNormal",
    "LogUniform",
    "LogitNormalTime",
    "Objective",
    "ScoreWeight",
    "TableIndex",
    "UniformTime",
    "VWeight",
    "VelocityWeight",
    "X0Weight",
]
