"""Discretizations: which noise levels σ_0 > σ_1 > … > σ_N a run visits.

``levels(schedule)`` returns them in float64. All rules but :class:`Explicit` end at σ_N = 0 and take ``n`` steps, so
that n = N levels above zero are visited: those rules that have a σ_min put it in place N−1 (EDM Eq. 5), and n = 1 is
the single step σ_max → 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified._component import choice, component, count, falling, nonnegative, positive
from edm_unified.schedules import BetaTable, Schedule
from edm_unified.schedules.base import float64


class Steps(Protocol):
    """A rule for the levels."""

    def levels(self, schedule: Schedule) -> Tensor:
        """σ_0 > … > σ_N, float64."""
        ...


def _then_zero(sigmas: Sequence[float], sigma_max: float, sigma_min: float) -> Tensor:
    """Pin both ends to the numbers that were asked for (no rounding of a root or a tangent) and append 0."""
    inner = list(sigmas)[1:-1]
    return torch.tensor([sigma_max, *inner, *([sigma_min] if len(sigmas) > 1 else []), 0.0], dtype=torch.float64)


def _falling(sigmas: Tensor, name: str) -> Tensor:
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"{name}: the levels do not fall: {[float(f'{v:.6g}') for v in sigmas[:8]]} …")
    return sigmas


def _ramp(n: int) -> list[float]:
    """0 … 1 in n points; a single point is 0. Python numbers: for a few dozen levels, tensors are ten times slower."""
    return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]


@component
class Karras:
    """σ_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, σ_N = 0 (Karras et al. 2022, Eq. 5).

    ρ = 7 is EDM's; ρ = 1 spaces σ evenly, ρ → ∞ is :class:`LogLinear`.
    """

    n: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    kind: Literal["karras"] = "karras"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = (σ_max^{1/ρ} + i/(N−1)(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, σ_N = 0"
    }

    def __post_init__(self) -> None:
        count("n", self.n)
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        positive("rho", self.rho)

    def levels(self, schedule: Schedule) -> Tensor:
        # in units of σ_max, so that no ρ overflows
        ratio = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        sigmas = [self.sigma_max * (1 + r * (ratio - 1)) ** self.rho for r in _ramp(self.n)]
        return _then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class LogLinear:
    """σ_i = σ_max (σ_min/σ_max)^{i/(N−1)}, σ_N = 0: uniform in log-SNR, the usual grid of exponential solvers.

    For σ = √t it is the grid of the VE row of EDM Table 1, σ_i² = σ_max² (σ_min²/σ_max²)^{i/(N−1)}.
    """

    n: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    kind: Literal["log_linear"] = "log_linear"
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_i = σ_max (σ_min/σ_max)^{i/(N−1)}, σ_N = 0"}

    def __post_init__(self) -> None:
        count("n", self.n)
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def levels(self, schedule: Schedule) -> Tensor:
        span = math.log(self.sigma_min / self.sigma_max)
        sigmas = [self.sigma_max * math.exp(r * span) for r in _ramp(self.n)]
        return _then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class PolynomialExponential:
    """ln σ_i = ln σ_min + (1 − i/(N−1))^ρ (ln σ_max − ln σ_min), σ_N = 0: k-diffusion's "polyexponential".

    ρ = 1 is :class:`LogLinear`; ρ > 1 puts more levels near σ_min.
    """

    n: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 1.0
    kind: Literal["polynomial_exponential"] = "polynomial_exponential"
    formulas: ClassVar[dict[str, str]] = {"levels": "ln σ_i = ln σ_min + (1 − i/(N−1))^ρ ln(σ_max/σ_min), σ_N = 0"}

    def __post_init__(self) -> None:
        count("n", self.n)
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        positive("rho", self.rho)

    def levels(self, schedule: Schedule) -> Tensor:
        span = math.log(self.sigma_max / self.sigma_min)
        sigmas = [self.sigma_min * math.exp((1 - r) ** self.rho * span) for r in _ramp(self.n)]
        return _then_zero(sigmas, self.sigma_max, self.sigma_min)


@component
class UniformTime:
    """t_i equally spaced on the schedule's own time axis, σ_i = σ(t_i): the grid of the score SDEs and of flows.

    The start is ``t_max``, or σ⁻¹(``sigma_max``), or else the end of the schedule's axis. With ``t_min`` or
    ``sigma_min`` the n levels include it and a last step goes to σ = 0 (Song et al. 2021: 1 → 1e-3); without, n equal
    steps reach t = 0 itself (flow matching: 1, 1 − 1/n, …, 0).

    Raises ``ValueError`` where the schedule's axis has no end (EDM, VE) and neither ``t_max`` nor ``sigma_max`` is
    given.
    """

    n: int = 18
    t_max: float | None = None
    t_min: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    kind: Literal["uniform_time"] = "uniform_time"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = σ(t_i), t_i equally spaced from t_max to t_min (then 0), or to 0"
    }

    def __post_init__(self) -> None:
        count("n", self.n)
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
            t = float64([start + r * ((end or 0.0) - start) for r in _ramp(self.n)])
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
        return _falling(_then_zero(sigmas.tolist(), high, low), "t_min" if self.sigma_min is None else "sigma_min")


@component
class VPTime:
    """σ_i = √(e^{½β_d t² + β_m t} − 1), t_i = (1 + i/(N−1) (ε^{1/p} − 1))^p, σ_N = 0: powers of the VP time.

    β_d, β_m are set so that σ(1) = σ_max and σ(ε) = σ_min (EDM Table 1, VP). p = 1 is the VP grid, p = 2 DEIS's
    quadratic one (Zhang & Chen 2022, appendix), which few-step multistep solvers like best.
    """

    n: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    power: float = 2.0
    epsilon: float = 1e-3
    kind: Literal["vp_time"] = "vp_time"
    formulas: ClassVar[dict[str, str]] = {
        "levels": "σ_i = √(e^{½β_d t² + β_m t} − 1), t_i = (1 + i/(N−1)(ε^{1/p} − 1))^p, σ_N = 0"
    }

    def __post_init__(self) -> None:
        count("n", self.n)
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        positive("power", self.power)
        positive("epsilon", self.epsilon)
        if not self.epsilon < 1:
            raise ValueError(f"epsilon: must be below 1, the time at which σ = σ_max, got {self.epsilon!r}")

    def levels(self, schedule: Schedule) -> Tensor:
        high, low = math.log1p(self.sigma_max**2), math.log1p(self.sigma_min**2)
        beta_d = 2 * (low / self.epsilon - high) / (self.epsilon - 1)
        beta_m = high - 0.5 * beta_d
        times = [(1 + r * (self.epsilon ** (1 / self.power) - 1)) ** self.power for r in _ramp(self.n)]
        sigmas = [math.sqrt(max(0.0, math.expm1(t * (0.5 * beta_d * t + beta_m)))) for t in times]
        return _falling(_then_zero(sigmas, self.sigma_max, self.sigma_min), "epsilon")


@component
class Tan:
    """σ_i = c tan θ_i, θ equally spaced, σ_N = 0: the optimum of AYS's bound for Gaussian data of std c.

    With c = σ_data = 1 it is the uniform grid of v-prediction (Sabour et al. 2024, section 3; Salimans & Ho 2022).
    """

    n: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    kind: Literal["tan"] = "tan"
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_i = σ_data tan θ_i, θ equally spaced, σ_N = 0"}

    def __post_init__(self) -> None:
        count("n", self.n)
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        positive("sigma_data", self.sigma_data)

    def levels(self, schedule: Schedule) -> Tensor:
        top, bottom = math.atan(self.sigma_max / self.sigma_data), math.atan(self.sigma_min / self.sigma_data)
        sigmas = [self.sigma_data * math.tan(top + r * (bottom - top)) for r in _ramp(self.n)]
        return _then_zero(sigmas, self.sigma_max, self.sigma_min)


def _leading(n: int, length: int, offset: int) -> list[int]:
    return [i * (length // n) + offset for i in reversed(range(n))]


def _trailing(n: int, length: int, offset: int) -> list[int]:
    return [round(Fraction(length * (n - i), n)) - 1 + offset for i in range(n)]


def _linspace(n: int, length: int, offset: int) -> list[int]:
    if n == 1:
        return [length - 1]
    return [round(Fraction((length - 1) * (n - 1 - i), n - 1)) + offset for i in range(n)]


_SPACINGS = {"leading": _leading, "trailing": _trailing, "linspace": _linspace}


@component
class TableSubset:
    """n of the M levels of a table of betas, then 0: what DDPM, DDIM and Stable Diffusion visit.

    ``spacing`` picks the indices k (0 … M−1) as Lin et al. 2023, Table 2 names them: ``leading`` i·⌊M/n⌋ (with
    ``offset`` 1 for Stable Diffusion), ``trailing`` round(M − i M/n) − 1, ``linspace`` round(i (M−1)/(n−1)); the
    arithmetic is in exact fractions. ``table`` is the table; by default the schedule's own.

    Raises ``ValueError`` for n above M, for an index beyond the table, and where there is no table.
    """

    n: int = 50
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    offset: int = 0
    table: BetaTable | None = None
    kind: Literal["table"] = "table"
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_{k_i} of the table, k leading, trailing or linspace, then 0"}

    def __post_init__(self) -> None:
        count("n", self.n)
        count("offset", self.offset, least=0)
        choice("spacing", self.spacing, _SPACINGS)

    def levels(self, schedule: Schedule) -> Tensor:
        table = self.table if self.table is not None else schedule
        if not isinstance(table, BetaTable):
            raise ValueError(
                f"table: {type(schedule).__name__} is not a table of betas; set table, or choose another rule"
            )
        sigmas = table.sigmas
        if self.n > len(sigmas):
            raise ValueError(f"n: {self.n} steps out of a table of {len(sigmas)}; lower n")
        index = _SPACINGS[self.spacing](self.n, len(sigmas), self.offset)
        if index[0] >= len(sigmas):
            raise ValueError(f"offset: index {index[0]} is beyond the table of {len(sigmas)}; lower offset")
        return torch.cat([sigmas[index], torch.zeros(1, dtype=torch.float64)])


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


AnySteps = Karras | LogLinear | PolynomialExponential | UniformTime | VPTime | Tan | TableSubset | Explicit
