"""Rules in σ itself: powers, exponentials, and levels given one by one."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component, falling, nonnegative
from edm_unified.components.constraints import Count, Positive
from edm_unified.sampling.levels.base import ramp, then_zero
from edm_unified.schedules import Schedule


@component
class Karras:
    """σ_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, σ_N = 0 (Karras et al. 2022, Eq. 5).

    ρ = 7 is EDM's; ρ = 1 spaces σ evenly, ρ → ∞ is :class:`LogLinear`.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    kind: Literal["karras"] = "karras"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = (σ_max^{1/ρ} + i/(N−1)(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, σ_N = 0"
    }

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        # in units of σ_max, so that no ρ overflows
        ratio = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        sigmas = [self.sigma_max * (1 + r * (ratio - 1)) ** self.rho for r in ramp(self.n)]
        return then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class LogLinear:
    """σ_i = σ_max (σ_min/σ_max)^{i/(N−1)}, σ_N = 0: uniform in log-SNR, the usual grid of exponential solvers.

    For σ = √t it is the grid of the VE row of EDM Table 1, σ_i² = σ_max² (σ_min²/σ_max²)^{i/(N−1)}.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    kind: Literal["log_linear"] = "log_linear"
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_i = σ_max (σ_min/σ_max)^{i/(N−1)}, σ_N = 0"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        span = math.log(self.sigma_min / self.sigma_max)
        sigmas = [self.sigma_max * math.exp(r * span) for r in ramp(self.n)]
        return then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class PolynomialExponential:
    """ln σ_i = ln σ_min + (1 − i/(N−1))^ρ (ln σ_max − ln σ_min), σ_N = 0: k-diffusion's "polyexponential".

    ρ = 1 is :class:`LogLinear`; ρ > 1 puts more levels near σ_min.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 1.0
    kind: Literal["polynomial_exponential"] = "polynomial_exponential"
    formulas: ClassVar[dict[str, str]] = {"levels": "ln σ_i = ln σ_min + (1 − i/(N−1))^ρ ln(σ_max/σ_min), σ_N = 0"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        span = math.log(self.sigma_max / self.sigma_min)
        sigmas = [self.sigma_min * math.exp((1 - r) ** self.rho * span) for r in ramp(self.n)]
        return then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class Explicit:
    """The levels as given: strictly falling, finite, positive except that the last may be 0.

    A list that ends above 0 leaves x at that level: x = x_0 + σ_N n.
    """

    sigmas: tuple[float, ...]
    kind: Literal["explicit"] = "explicit"
    formulas: ClassVar[dict[str, str]] = {"levels": "as listed"}

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(map(float, self.sigmas)))  # from a list, an array or a tensor as well
        if len(self.sigmas) < 2:
            raise ValueError("sigmas: at least two levels are needed, a start and an end")
        for sigma in self.sigmas:
            if sigma == math.inf:
                raise ValueError("sigmas: inf cannot be started from; use a large finite level such as 1e6")
            nonnegative("sigmas", sigma)
        for i, (a, b) in enumerate(zip(self.sigmas, self.sigmas[1:], strict=False)):
            if not b < a:
                raise ValueError(f"sigmas: must fall, but level {i + 1} is {b!r} after {a!r}")

    def levels(self, schedule: Schedule) -> Tensor:
        return torch.tensor(self.sigmas, dtype=torch.float64)
