"""Schedules with s = 1: noise is added and the data are never scaled."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import LARGEST, component, falling
from edm_unified.components.constraints import Positive, interval
from edm_unified.schedules.base import Schedule

Base = Annotated[float, interval(1, LARGEST, "(]")]
"""The b of dx = b^t dw."""


@component
class EDM(Schedule):
    """s = 1, σ = t: time is the noise level (Karras et al. 2022, Table 1 and Eq. 4).

    The straightest of the choices: dx/dt = (x − D)/t points at the denoised image. Also the frame in which DDIM is
    Euler's method (Song et al. 2020, Eq. 14).
    """

    kind: Literal["edm"] = "edm"
    formulas: ClassVar[dict[str, str]] = {"s": "1", "sigma": "t", "f": "0", "g": "√(2t)", "time": "σ"}

    @property
    def t_max(self) -> float:
        return math.inf

    def _s(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return t

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return torch.reciprocal(t)

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma


@component
class VE(Schedule):
    """s = 1, σ = √t: the variance-exploding SDE dx = dw (Song et al. 2021 as read by Karras et al. 2022, Table 1)."""

    kind: Literal["ve"] = "ve"
    formulas: ClassVar[dict[str, str]] = {"s": "1", "sigma": "√t", "f": "0", "g": "1", "time": "σ²"}

    @property
    def t_max(self) -> float:
        return math.inf

    def _s(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 / t

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma**2


@component
class GeometricVE(Schedule):
    """s = 1, σ = σ_min (σ_max/σ_min)^t for t in [0, 1]: the variance-exploding SDE of Song et al. 2021, Eq. 30.

    σ(0) = σ_min, not 0: the published perturbation kernel starts blurred. The time σ⁻¹ of a level below σ_min is
    negative, and that of σ = 0 would be −∞; a solver that steps in t therefore takes its last step, from the lowest
    level to σ = 0, in σ. Levels are in the units of the data: the paper's [0.01, 50] are for data in [0, 1] and are
    [0.02, 100] for data in [−1, 1].
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0  # type: ignore[assignment]  # σ(t_max) by the formula of the base class as well
    kind: Literal["geometric_ve"] = "geometric_ve"
    formulas: ClassVar[dict[str, str]] = {
        "s": "1",
        "sigma": "σ_min (σ_max/σ_min)^t",
        "f": "0",
        "g": "σ √(2 ln(σ_max/σ_min))",
        "time": "ln(σ/σ_min)/ln(σ_max/σ_min)",
    }

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _s(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self._log_ratio)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self._log_ratio)

    def _time(self, sigma: Tensor) -> Tensor:
        return torch.log(sigma / self.sigma_min) / self._log_ratio


@component
class ExponentialVE(Schedule):
    """s = 1, σ = √((b^{2t} − 1)/(2 ln b)) for t in [0, 1]: the SDE dx = b^t dw of Song's score-SDE tutorial.

    ``base`` is b > 1; the tutorial's 25 reaches σ = 9.84 at t = 1.
    """

    base: Base = 25.0
    kind: Literal["exponential_ve"] = "exponential_ve"
    formulas: ClassVar[dict[str, str]] = {
        "s": "1",
        "sigma": "√((b^{2t} − 1)/(2 ln b))",
        "f": "0",
        "g": "b^t",
        "time": "ln(1 + 2σ² ln b)/(2 ln b)",
    }

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.base)

    def _s(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(self._rate * t) / self._rate)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 * self._rate / -torch.expm1(-self._rate * t)

    def _time(self, sigma: Tensor) -> Tensor:
        return torch.log1p(self._rate * sigma**2) / self._rate
