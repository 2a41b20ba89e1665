"""The objective: E_σ E_{x_0, n} λ(σ) ‖D(x_0 + σn; σ) − x_0‖², with σ ~ p(σ) (Karras et al. 2022, Eqs. 2 and 8).

At each σ the minimum is D = E[x_0 | z] for any p and λ: these set how a network of finite size divides its capacity
over the levels. A loss on another output F, with D = c_skip z + c_out F, is this one with λ = 1/c_out²:

    ‖F − target‖² = ‖D − x_0‖²/c_out²,      target = (x_0 − c_skip z)/c_out.

Hence one loss, in D. p(σ) is of :mod:`edm_unified.training.objective.noise`, λ(σ) of
:mod:`edm_unified.training.objective.weights`. What does not fit this frame is small: the error may be estimated without
x_0 (:mod:`edm_unified.training.objective.score_matching`), and each level may be divided by what was learnt to be its
share (:mod:`edm_unified.training.objective.uncertainty`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.family import Family
from edm_unified.denoisers.denoiser import Denoiser
from edm_unified.denoisers.parametrization import along
from edm_unified.training.objective.noise import (
    AnyNoise,
    CosMapTime,
    Ladder,
    LogitNormalTime,
    LogNormal,
    LogUniform,
    ModeTime,
    OneLevel,
    SigmaOfTime,
    TableIndex,
    UniformTime,
)
from edm_unified.training.objective.score_matching import AnyMatching, Denoising, Implicit, Sliced
from edm_unified.training.objective.uncertainty import AnyUncertainty, LearnedUncertainty
from edm_unified.training.objective.weights import (
    EDM_SIGMA_DATA,
    AnyWeight,
    EDMWeight,
    EpsilonWeight,
    LikelihoodWeight,
    MinSNRWeight,
    P2Weight,
    ScoreWeight,
    SigmoidWeight,
    SoftMinSNRWeight,
    VelocityWeight,
    VWeight,
    Weight,
    X0Weight,
)


@component
class Objective:
    """p(σ) and λ(σ): what is minimized. A pure function of its draws, which the training loop makes.

    ``matching``: how the error is estimated; all but ``denoising`` are for study, on vectors and small images.
    ``uncertainty``: EDM2's learned u(σ), whose module is trained along and handed to :meth:`losses`.
    """

    noise: AnyNoise = LogNormal()
    weight: Annotated[AnyWeight, Family("weights")] = EDMWeight()
    matching: AnyMatching = Denoising()
    uncertainty: AnyUncertainty | None = None
    added_later: ClassVar[tuple[str, ...]] = ("matching", "uncertainty")

    def with_sigma_data_of(self, preconditioning: object) -> Objective:
        """This objective, with the preconditioning's ``sigma_data`` where that of the weight is null."""
        if not isinstance(self.weight, EDMWeight) or self.weight.sigma_data is not None:
            return self
        sigma_data = getattr(preconditioning, "sigma_data", EDM_SIGMA_DATA)
        return dataclasses.replace(self, weight=EDMWeight(sigma_data))

    def note(self, preconditioning: object) -> str | None:
        """A sentence where the weight was given another ``sigma_data`` than the preconditioning."""
        ours, theirs = getattr(self.weight, "sigma_data", None), getattr(preconditioning, "sigma_data", None)
        if ours is None or theirs is None or ours == theirs:
            return None
        return (
            f"objective.weight.sigma_data is {ours:g}, the preconditioning's is {theirs:g}: an untrained network then "
            "has not the same loss at every level; leave the weight's out to have one for both"
        )

    def losses(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        u: Tensor,
        n: Tensor,
        schedule: SigmaOfTime,
        cond: Mapping[str, Any] | None = None,
        uncertainty: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """λ(σ) · mean over the entries of (D(x_0 + σn; σ) − x_0)², one number per sample: (B,), in x_0's dtype.

        ``x0`` (B, *): clean data. ``u`` (B,): numbers in (0, 1), from which σ = Q(u). ``n``: unit normal, x_0's shape.
        ``schedule``: gives σ(t) to what depends on time; the rest does not look at it. ``cond``: keywords for the
        denoiser. ``uncertainty``: the module that ``self.uncertainty`` built; the loss is then that over e^u, plus u.
        The *mean* over entries: EDM's released code sums, which is the same up to their number.
        """
        if n.shape != x0.shape:
            raise ValueError(f"n: must have the shape of x0 {tuple(x0.shape)}, got {tuple(n.shape)}")
        if u.shape != x0.shape[:1]:
            raise ValueError(f"u: must have shape ({len(x0)},), one number per sample, got {tuple(u.shape)}")
        sigma = self.noise.quantile(u, schedule)
        z = x0 + along(sigma, x0) * n
        weight = self.weight(sigma, schedule)
        losses = self.matching.errors(lambda z: denoiser(z, sigma, **(cond or {})), x0, z, sigma, weight)
        if self.uncertainty is None:
            return losses
        if uncertainty is None:
            raise ValueError("uncertainty: missing; give the module that objective.uncertainty.build() made")
        log_variance = uncertainty(sigma).to(losses)
        return losses / log_variance.exp() + log_variance

    def loss(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        u: Tensor,
        n: Tensor,
        schedule: SigmaOfTime,
        cond: Mapping[str, Any] | None = None,
        uncertainty: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The mean of :meth:`losses` over the batch: the number to differentiate."""
        return self.losses(denoiser, x0, u, n, schedule, cond, uncertainty).mean()


__all__ = [
    "AnyMatching",
    "AnyNoise",
    "AnyUncertainty",
    "AnyWeight",
    "CosMapTime",
    "Denoising",
    "EDMWeight",
    "EpsilonWeight",
    "Implicit",
    "Ladder",
    "LearnedUncertainty",
    "LikelihoodWeight",
    "LogNormal",
    "LogUniform",
    "LogitNormalTime",
    "MinSNRWeight",
    "ModeTime",
    "Objective",
    "OneLevel",
    "P2Weight",
    "ScoreWeight",
    "SigmoidWeight",
    "Sliced",
    "SoftMinSNRWeight",
    "TableIndex",
    "UniformTime",
    "VWeight",
    "VelocityWeight",
    "Weight",
    "X0Weight",
]
