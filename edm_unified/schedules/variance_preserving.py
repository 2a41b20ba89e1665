"""Schedules that shrink the data as they add noise, written in B(t) = ∫ β, the integral of the noise rate.

The variance-preserving SDE dx = −½β x dt + √β dw (Song et al. 2021, Eq. 11) gives s = e^{−B/2}, σ² = e^B − 1, hence

    s'/s = −½ B',    σ'/σ = ½ B'/(1 − e^{−B}),    B = ln(1 + σ²).

``expm1`` and ``log1p`` keep these exact where B is small: written with ``exp(B) − 1`` in float32, EDM's released code
is 2.4 % off at the smallest level.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative, Positive
from edm_unified.schedules.base import PRACTICAL_INFINITY, Schedule


def _linear_integral(t: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """B(t) of the linear rate β(t) = β_d t + β_min."""
    return t * (0.5 * beta_d * t + beta_min)


def _linear_integral_inverse(B: Tensor, beta_d: float, beta_min: float) -> Tensor:
    """The t ≥ 0 at which B(t) = B; the root is written without the cancellation of the schoolbook form."""
    return 2 * B / (beta_min + torch.sqrt(beta_min**2 + 2 * beta_d * B))


@component
class VP(Schedule):
    """σ = √(e^{½β_d t² + β_min t} − 1), s = 1/√(1+σ²) for t in [0, 1] (Song et al. 2021, Eq. 32; EDM Table 1)."""

    beta_d: Nonnegative = 19.9
    beta_min: Positive = 0.1
    kind: Literal["vp"] = "vp"
    formulas: ClassVar[dict[str, str]] = {
        "s": "1/√(1+σ²)",
        "sigma": "√(e^{½β_d t² + β_min t} − 1)",
        "f": "−½(β_d t + β_min)",
        "g": "√(β_d t + β_min)",
        "time": "(√(β_min² + 2β_d ln(1+σ²)) − β_min)/β_d",
    }

    @property
    def t_max(self) -> float:
        return 1.0

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * _linear_integral(t, self.beta_d, self.beta_min))

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(_linear_integral(t, self.beta_d, self.beta_min)))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_d * t + self.beta_min)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        B = _linear_integral(t, self.beta_d, self.beta_min)
        return 0.5 * (self.beta_d * t + self.beta_min) / -torch.expm1(-B)

    def _time(self, sigma: Tensor) -> Tensor:
        return _linear_integral_inverse(torch.log1p(sigma**2), self.beta_d, self.beta_min)


@component
class SubVP(Schedule):
    """s = e^{−B/2}, s σ = 1 − e^{−B} with B = ½β_d t² + β_min t, hence σ = 2 sinh(B/2) (Song et al. 2021, Eq. 12).

    The variance is always below that of :class:`VP` with the same β, and the same at the end.
    """

    beta_d: Nonnegative = 19.9
    beta_min: Positive = 0.1
    kind: Literal["subvp"] = "subvp"
    formulas: ClassVar[dict[str, str]] = {
        "s": "e^{−B/2}, B = ½β_d t² + β_min t",
        "sigma": "2 sinh(B/2)",
        "f": "−½(β_d t + β_min)",
        "g": "√((β_d t + β_min)(1 − e^{−2B}))",
        "time": "B⁻¹(2 arsinh(σ/2))",
    }

    @property
    def t_max(self) -> float:
        return 1.0

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * _linear_integral(t, self.beta_d, self.beta_min))

    def _sigma(self, t: Tensor) -> Tensor:
        return 2 * torch.sinh(0.5 * _linear_integral(t, self.beta_d, self.beta_min))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_d * t + self.beta_min)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        B = _linear_integral(t, self.beta_d, self.beta_min)
        return 0.5 * (self.beta_d * t + self.beta_min) / torch.tanh(0.5 * B)

    def _time(self, sigma: Tensor) -> Tensor:
        return _linear_integral_inverse(2 * torch.asinh(0.5 * sigma), self.beta_d, self.beta_min)


@component
class Cosine(Schedule):
    """ᾱ(t) = cos²θ/cos²θ_0 with θ = (π/2)(t + offset)/(1 + offset), θ_0 = θ(0) (Nichol & Dhariwal 2021, Eq. 17).

    The continuous-time form, without the clipping of β at 0.999 that the table has (for that, see
    ``BetaTable(betas="cosine")``). σ → ∞ as t → 1; ``t_max`` is where σ = 1e6.
    """

    offset: Nonnegative = 0.008
    kind: Literal["cosine"] = "cosine"
    formulas: ClassVar[dict[str, str]] = {
        "s": "cos θ/cos θ_0, θ = (π/2)(t + c)/(1 + c), c = 0.008",
        "sigma": "√(cos²θ_0/cos²θ − 1)",
        "f": "−θ' tan θ",
        "g": "√(2 θ' tan θ)",
        "time": "arctan(√(σ² + sin²θ_0)/cos θ_0) · 2(1 + c)/π − c",
    }

    @property
    def t_max(self) -> float:
        return float(self._time(torch.tensor(PRACTICAL_INFINITY, dtype=torch.float64)))

    @property
    def _theta_rate(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _theta_0(self) -> float:
        return self._theta_rate * self.offset

    def _s(self, t: Tensor) -> Tensor:
        return torch.cos(self._theta_0 + self._theta_rate * t) / math.cos(self._theta_0)

    def _sines(self, t: Tensor) -> Tensor:
        """cos²θ_0 − cos²θ = sin(θ−θ_0) sin(θ+θ_0), the form that does not cancel at t = 0."""
        turn = self._theta_rate * t
        return torch.sin(turn) * torch.sin(turn + 2 * self._theta_0)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self._sines(t)) / torch.cos(self._theta_0 + self._theta_rate * t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -self._theta_rate * torch.tan(self._theta_0 + self._theta_rate * t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        tangent = torch.tan(self._theta_0 + self._theta_rate * t)
        return math.cos(self._theta_0) ** 2 * self._theta_rate * tangent / self._sines(t)

    def _time(self, sigma: Tensor) -> Tensor:
        # tan θ − tan θ_0, again without cancellation, then the tangent of the difference
        sin0, cos0 = math.sin(self._theta_0), math.cos(self._theta_0)
        root = torch.sqrt(sigma**2 + sin0**2)
        difference = sigma**2 / (cos0 * (root + sin0))
        return torch.atan(difference / (1 + root * sin0 / cos0**2)) / self._theta_rate
