"""Rules in a time: the schedule's own, the VP SDE's, a flow's, or an angle."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from scipy.special import betaincinv
from torch import Tensor

from edm_unified.components.component import component, falling, positive
from edm_unified.components.constraints import Count, Positive
from edm_unified.sampling.levels.base import check_falling, ramp, then_zero
from edm_unified.schedules import PRACTICAL_INFINITY, FlowMatching, Schedule
from edm_unified.schedules.base import float64


@component
class UniformTime:
    """t_i equally spaced on the schedule's own time axis, σ_i = σ(t_i): the grid of the score SDEs and of flows.

    The start is ``t_max``, or σ⁻¹(``sigma_max``), or else the end of the schedule's axis. With ``t_min`` or
    ``sigma_min`` the n levels include it and a last step goes to σ = 0 (Song et al. 2021: 1 → 1e-3); without, n equal
    steps reach t = 0 itself (flow matching: 1, 1 − 1/n, …, 0).

    Raises ``ValueError`` where the schedule's axis has no end (EDM, VE) and neither ``t_max`` nor ``sigma_max`` is
    given.
    """

    n: Count = 18
    t_max: float | None = None
    t_min: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    kind: Literal["uniform_time"] = "uniform_time"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = σ(t_i), t_i equally spaced from t_max to t_min (then 0), or to 0"
    }

    def __post_init__(self) -> None:
        for name in ("t_max", "t_min", "sigma_max", "sigma_min"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.t_max is not None and self.sigma_max is not None:
            raise ValueError("t_max: give t_max or sigma_max, not both")
        if self.t_min is not None and self.sigma_min is not None:
            raise ValueError("t_min: give t_min or sigma_min, not both")

    def levels(self, schedule: Schedule) -> Tensor:
        start = float(schedule.time(self.sigma_max)) if self.sigma_max is not None else self.t_max or schedule.t_max
        if not math.isfinite(start):
            raise ValueError(
                f"sigma_max: the time axis of {type(schedule).__name__} has no end of its own; give sigma_max or t_max"
            )
        end = float(schedule.time(self.sigma_min)) if self.sigma_min is not None else self.t_min
        if end is None and schedule.reaches_zero:
            t = torch.linspace(start, 0, self.n + 1, dtype=torch.float64)[:-1]
        else:
            t = float64([start + r * ((end or 0.0) - start) for r in ramp(self.n)])
        if end is not None and not end < start:
            name = "t_min" if self.sigma_min is None else "sigma_min"
            raise ValueError(f"{name}: must lie below the start of the walk, which is at t = {start:.6g}")
        sigmas = schedule.sigma(t)
        if not 0 < float(sigmas[0]) < math.inf:
            raise ValueError(
                f"t_max: sigma is {float(sigmas[0]):.6g} at t = {start:.6g} under {type(schedule).__name__}; a walk "
                f"cannot start there; use t_max up to {schedule.t_max!r}, or a large finite sigma_max such as 1e6"
            )
        low = self.sigma_min if self.sigma_min is not None else float(sigmas[-1])
        high = self.sigma_max if self.sigma_max is not None else float(sigmas[0])
        return check_falling(then_zero(sigmas.tolist(), high, low), "t_min" if self.sigma_min is None else "sigma_min")


@component
class VPTime:
    """σ_i = √(e^{½β_d t² + β_m t} − 1), t_i = (1 + i/(N−1) (ε^{1/p} − 1))^p, σ_N = 0: powers of the VP time.

    β_d, β_m are set so that σ(1) = σ_max and σ(ε) = σ_min (EDM Table 1, VP). p = 1 is the VP grid, p = 2 DEIS's
    quadratic one (Zhang & Chen 2022, appendix), which few-step multistep solvers like best.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    power: Positive = 2.0
    epsilon: Positive = 1e-3
    kind: Literal["vp_time"] = "vp_time"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = √(e^{½β_d t² + β_m t} − 1), t_i = (1 + i/(N−1)(ε^{1/p} − 1))^p, σ_N = 0"
    }

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        if not self.epsilon < 1:
            raise ValueError(f"epsilon: must be below 1, the time at which σ = σ_max, got {self.epsilon!r}")

    def levels(self, schedule: Schedule) -> Tensor:
        high, low = math.log1p(self.sigma_max**2), math.log1p(self.sigma_min**2)
        beta_d = 2 * (low / self.epsilon - high) / (self.epsilon - 1)
        beta_m = high - 0.5 * beta_d
        times = [(1 + r * (self.epsilon ** (1 / self.power) - 1)) ** self.power for r in ramp(self.n)]
        exponents = [t * (0.5 * beta_d * t + beta_m) for t in times]
        sigmas = [math.sqrt(max(0.0, math.expm1(min(B, 700.0)))) for B in exponents]  # 700 is beyond any sigma_max
        return check_falling(then_zero(sigmas, self.sigma_max, self.sigma_min), "epsilon")


@component
class Tan:
    """σ_i = c tan θ_i, θ equally spaced, σ_N = 0: the optimum of AYS's bound for Gaussian data of std c.

    With c = σ_data = 1 it is the uniform grid of v-prediction (Sabour et al. 2024, section 3; Salimans & Ho 2022).
    :meth:`of` takes c from the variances of data that are not the same in all directions.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5
    kind: Literal["tan"] = "tan"
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_i = σ_data tan θ_i, θ equally spaced, σ_N = 0"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        top, bottom = math.atan(self.sigma_max / self.sigma_data), math.atan(self.sigma_min / self.sigma_data)
        sigmas = [self.sigma_data * math.tan(top + r * (bottom - top)) for r in ramp(self.n)]
        return then_zero(sigmas, self.sigma_max, self.sigma_min)

    @classmethod
    def of(cls, variances: Iterable[float], n: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tan:
        """The tangent law of data with these ``variances``, the eigenvalues λ_k of their covariance:
        c⁴ = Σ_k λ_k / Σ_k 1/λ_k.

        Of a Gaussian, N steps of DDIM leave in ln std along λ an error ∝ (1/N) ∫ λ (λ + σ²)⁻² σ'(u)² du. With σ =
        c tan θ, θ even in u, that is √λ/c + c/√λ times a constant; the KL divergence, the sum of the squares, is least
        at this c. That a tangent law is best is Sun, Poor & Zhang 2026 (arXiv:2601.13602).
        """
        values = [float(value) for value in variances]
        for value in values:
            positive("variances", value)
        if not values:
            raise ValueError("variances: needs one at least")
        c = (math.fsum(values) / math.fsum(1 / value for value in values)) ** 0.25
        return cls(n=n, sigma_min=sigma_min, sigma_max=sigma_max, sigma_data=c)


@component
class ResolutionShift:
    """σ_i = m t_i/(1 − t_i), t_i = t_0 (1 − i/N): a flow's uniform time, shifted by m, for any schedule.

    Esser et al. 2024, Eq. 23: t ↦ m t/(1 + (m − 1) t) is exactly σ ↦ m σ. A network tuned at n pixels and run at M
    wants m = √(M/n); Stable Diffusion 3 uses 3 at 1024², FLUX.1 e^μ with μ linear in the number of tokens. t_0
    is where σ = ``sigma_max``, by default the practical infinity at which a flow's pure noise begins. Under
    :class:`~edm_unified.schedules.FlowMatching` of the same shift it is :class:`UniformTime`.
    """

    n: Count = 18
    shift: Positive = 3.0
    sigma_max: Positive = PRACTICAL_INFINITY
    kind: Literal["resolution_shift"] = "resolution_shift"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = m t_i/(1 − t_i), t_i = t_0 (1 − i/N), m t_0/(1 − t_0) = σ_max"
    }

    def levels(self, schedule: Schedule) -> Tensor:
        return UniformTime(n=self.n, sigma_max=self.sigma_max).levels(FlowMatching(shift=self.shift))


@component
class BetaQuantiles:
    """t_i = t_min + Q(1 − i/(N−1)) (t_max − t_min), Q the quantiles of Beta(α, β), then 0: dense at both ends.

    Lee et al. 2024 ("Beta Sampling is All You Need"), α = β = 0.6, on the schedule's own time axis between σ⁻¹ of the
    two ends: under a table or :class:`~edm_unified.schedules.VP` the paper's time, under
    :class:`~edm_unified.schedules.EDM` σ itself, as diffusers has it. α = β = 1 spaces t evenly.
    """

    n: Count = 18
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    alpha: Positive = 0.6
    beta: Positive = 0.6
    kind: Literal["beta_quantiles"] = "beta_quantiles"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = σ(t_i), t_i = t_min + Q(1 − i/(N−1))(t_max − t_min), Q quantile of Beta(α, β), σ_N = 0"
    }

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        low, high = schedule.time(float64([self.sigma_min, self.sigma_max])).tolist()
        rising = float64(ramp(self.n)).numpy()
        # Q(1 − p; α, β) = 1 − Q(p; β, α), each half from the side on which it keeps its digits
        times = [
            high - q * (high - low) if q < 0.5 else low + Q * (high - low)
            for q, Q in zip(
                betaincinv(self.beta, self.alpha, rising).tolist(),
                betaincinv(self.alpha, self.beta, 1 - rising).tolist(),
                strict=True,
            )
        ]
        sigmas = schedule.sigma(float64(times)).tolist()
        return check_falling(then_zero(sigmas, self.sigma_max, self.sigma_min), "alpha, beta")
