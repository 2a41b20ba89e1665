"""Analytic starts: the highest noise levels without the network, where the data look like one Gaussian to it.

At σ far above the spread of the data, D(x; σ) depends on little but their mean μ and covariance C (Wang & Vastola
2024, arXiv 2412.09726): it is that of N(μ, C), up to the third cumulant κ₃ of the data. On one axis, with x = μ + σz,

    D(x; σ) = D of the Gaussian + κ₃ (z² − 1)/(2σ²) + O(σ⁻³).

For the Gaussian everything is a closed formula (:class:`~edm_unified.denoisers.exact.Gaussian`, C = U diag(λ) Uᵀ):

    D(x; σ) = μ + U diag( λ/(λ+σ²) ) Uᵀ (x−μ)
    x(σ₁)   = μ + U diag( √((λ+σ₁²)/(λ+σ₀²)) ) Uᵀ (x(σ₀)−μ)

An analytic start puts one of the two in the place of what D would have cost there. **Analytic first step**: the first,
as D, at the highest levels; the solver goes on as ever, and its history is filled. **Gaussian jump**: the second,
exactly, from σ_0 to a lower level at once; the walk begins there. Both spend nothing: fewer evaluations, or more steps
at a budget.

    Karras(6)             80   21   4.3   0.58   0.04   0.002   0
    AnalyticFirstStep()   80*  21   4.3   0.58   0.04   0.002   0        * D is the formula
    GaussianJump(10)      80 → 21   4.3   0.58   0.04   0.002   0        → the flow, in one go

The Gaussian is isotropic, of standard deviation ``sigma_data`` about ``mean`` (0 where it is null), or, with
``sigma_data`` null, that of the data: ``build(dataset)`` estimates it, as recipes do, keeping the ``rank`` largest
directions of C and the mean of the other variances; ``of(gaussian)`` takes one that is known. Classes play no part.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Finite, Positive
from edm_unified.data import Dataset
from edm_unified.denoisers import exact
from edm_unified.sampling.dynamics import Substitute


class AnalyticStart(Protocol):
    """What :func:`~edm_unified.sample` takes."""

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        """Those of the falling ``levels`` that are left to the solver; the run jumps to the first of them."""
        ...

    def answers_from(self, levels: tuple[float, ...]) -> float:
        """The σ from which on the closed form answers in the place of D; infinite where it never does."""
        ...

    def gaussian(self, shape: tuple[int, ...]) -> exact.Gaussian:
        """What the data are taken for. Raises ``ValueError`` where that is not known."""
        ...


@dataclass(frozen=True)
class Fitted:
    """An analytic start with the Gaussian that it goes by."""

    rule: AnalyticStart
    model: exact.Gaussian

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        return self.rule.walk(levels)

    def answers_from(self, levels: tuple[float, ...]) -> float:
        return self.rule.answers_from(levels)

    def gaussian(self, shape: tuple[int, ...]) -> exact.Gaussian:
        if tuple(self.model.shape) != shape:
            raise ValueError(
                f"analytic_start: its Gaussian has shape {tuple(self.model.shape)}, and a sample has {shape}"
            )
        return self.model


class ByGaussian(ABC):
    """A start that goes by a Gaussian: of two numbers, or of the data; final subclasses say what for."""

    kind: str
    sigma_data: float | None
    mean: float | None
    rank: int | None

    def __post_init__(self) -> None:
        if self.mean is not None and self.sigma_data is None:
            raise ValueError(
                f"mean: is estimated from the data, as sigma_data is null; set sigma_data too, got {self.mean!r}"
            )

    @abstractmethod
    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]: ...

    @abstractmethod
    def answers_from(self, levels: tuple[float, ...]) -> float: ...

    def build(self, dataset: Dataset) -> AnalyticStart:
        """With the Gaussian of the data, where ``sigma_data`` is null: of a run, that of what it keeps of its data."""
        if self.sigma_data is not None:
            return self
        kept = None if dataset.measured is None else dataset.measured.moments.gaussian(self.rank)
        return self.of(exact.Gaussian.fit(dataset.images, self.rank) if kept is None else kept)

    def of(self, gaussian: exact.Gaussian) -> Fitted:
        """With this Gaussian."""
        return Fitted(self, gaussian)

    def gaussian(self, shape: tuple[int, ...]) -> exact.Gaussian:
        """That of the two numbers. Raises ``ValueError`` where they are null."""
        if self.sigma_data is None:
            raise ValueError(
                f"analytic_start: sigma_data of {self.kind} is null, to be estimated from the data: give a number, or "
                "pass its build(dataset), or its of(exact.Gaussian(mean, cov))"
            )
        return exact.Gaussian(torch.full(shape, float(self.mean or 0.0), dtype=torch.float64), self.sigma_data**2)


@component
class AnalyticFirstStep(ByGaussian):
    """D(x; σ) = μ + C (C + σ²I)⁻¹ (x − μ) at the ``levels`` highest levels of the walk: an evaluation less for each.

    Dockhorn et al. 2022 (GENIE), appendix, for one level, with N(0, I) for what the prior looks like under VP: in x,
    ε = x/√(1+σ²). The exact answer for unit variance, ``sigma_data`` 1, is σx/(1+σ²), which at σ = 80 is the same to
    8e-5. A method of several stages saves those that fall on these levels: Heun's one. ``levels`` may be all of them
    (the result is then a sample of the Gaussian). Not for the adaptive solvers, which choose their own levels.
    """

    levels: Count = 1
    sigma_data: Positive | None = None
    mean: Finite | None = None
    rank: Count | None = 64
    kind: Literal["analytic_first_step"] = "analytic_first_step"
    formulas: ClassVar[dict[str, str]] = {"D": "μ + C (C + σ²I)⁻¹ (x − μ) at the highest levels"}

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        return levels

    def answers_from(self, levels: tuple[float, ...]) -> float:
        above_zero = [sigma for sigma in levels if sigma > 0]
        return above_zero[min(self.levels, len(above_zero)) - 1]


@component
class GaussianJump(ByGaussian):
    """x_1 = μ + √((C + σ_1²I)(C + σ_0²I)⁻¹) (x_0 − μ): the flow of the Gaussian to σ_1, the lowest not below ``sigma``.

    "Analytical teleportation" (Wang & Vastola 2024). Levels that it passes are not visited and cost nothing; at few
    steps there may be none between σ_0 and ``sigma``, and nothing is done. The error does not fall with more steps: it
    is that of taking the data for a Gaussian above ``sigma``, κ₃ (z² − 1)/(6σ³) of what x is wide at σ, and so much of
    the spread of the data at the end. For any solver, the adaptive ones too.
    """

    sigma: Positive = 20.0
    sigma_data: Positive | None = None
    mean: Finite | None = None
    rank: Count | None = 64
    kind: Literal["gaussian_jump"] = "gaussian_jump"
    formulas: ClassVar[dict[str, str]] = {"x": "μ + √((C + σ_1²I)(C + σ_0²I)⁻¹) (x_0 − μ)"}

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        passed = sum(sigma >= self.sigma for sigma in levels) - 1
        return levels[max(0, passed) :]

    def answers_from(self, levels: tuple[float, ...]) -> float:
        return math.inf


AnyAnalyticStart = AnalyticFirstStep | GaussianJump


def check(analytic_start: AnalyticStart, levels: tuple[float, ...], adaptive: bool) -> None:
    """Raise ``ValueError`` where the start answers at levels of the walk and the adaptive solver has its own."""
    if adaptive and analytic_start.answers_from(levels) < math.inf:
        raise ValueError(
            "analytic_start: it answers at levels of the walk; an adaptive solver has its own: use gaussian_jump"
        )


def applied(
    analytic_start: AnalyticStart, x: Tensor, levels: tuple[float, ...], left: tuple[float, ...], adaptive: bool
) -> tuple[Tensor, Substitute | None]:
    """From x at the first of all ``levels`` to the state at the first of those ``left``; what answers in D's place."""
    shape = tuple(x.shape[1:]) or (1,)
    gaussian = analytic_start.gaussian(shape).to(x.device)

    def each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``function`` of a batch, row by row where it turns them to the axes of C: a matrix product of more rows may
        round differently, and sample i is to be the same in any batch."""
        rows = x.reshape(len(x), *shape)
        out = function(rows) if gaussian.diagonal else torch.cat([function(row) for row in rows.split(1)])
        return out.reshape(x.shape)

    if left[0] < levels[0]:
        x = each(lambda rows: gaussian.flow(rows, levels[0], left[0]), x)
    check(analytic_start, levels, adaptive)
    lowest = analytic_start.answers_from(levels)
    if lowest == math.inf:
        return x, None
    return x, Substitute(lowest, lambda x, sigma: each(lambda rows: gaussian.denoise(rows, sigma), x))
