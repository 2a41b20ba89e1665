"""Schedules on which the noise level runs to infinity at t = 1: straight lines and arcs from data to pure noise.

σ = ∞ has no place in floating point, so ``t_max`` is where σ = 1e6: the start is then wrong by one part in a million,
far below any discretization error, and a walk that asks for a literal infinity is refused with that remedy.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import positive_number
from edm_unified.schedules.base import PRACTICAL_INFINITY, Schedule


@component
class FlowMatching(Schedule):
    """x_t = (1−t) x_0 + t n: s = 1/(1+σ), σ = m t/(1−t), m = ``shift`` (Lipman et al. 2023; Liu et al. 2023).

    Shifting the time as Stable Diffusion 3 does, t ↦ m t/(1 + (m−1) t) (Esser et al. 2024, Eq. 23), is exactly
    σ ↦ m σ, and s = 1/(1+σ) for every m. With m = 1 this is rectified flow, the linear path.
    """

    shift: Annotated[float, positive_number(1e-6, 1e6)] = 1.0  # 1 − t = m/(m+σ) must keep digits
    kind: Literal["flow_matching"] = "flow_matching"
    formulas: ClassVar[dict[str, str]] = {
        "s": "1/(1+σ)   (= 1 − t for m = 1)",
        "sigma": "m t/(1−t)",
        "f": "−s σ/(t(1−t))   (= −1/(1−t) for m = 1)",
        "g": "s σ √(2/(t(1−t)))   (= √(2t/(1−t)) for m = 1)",
        "time": "σ/(m + σ)",
    }

    @property
    def t_max(self) -> float:
        return PRACTICAL_INFINITY / (self.shift + PRACTICAL_INFINITY)

    def _s(self, t: Tensor) -> Tensor:
        return (1 - t) / (1 - t + self.shift * t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 - t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -self.shift / ((1 - t) * (1 - t + self.shift * t))

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 1 / (t * (1 - t))

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma / (self.shift + sigma)


@component
class Trigonometric(Schedule):
    """x_t = cos(πt/2) x_0 + sin(πt/2) n: s = cos(πt/2), σ = tan(πt/2) (Salimans & Ho 2022, section 4).

    The arc of unit variance for data of unit variance, on which the v-prediction is the velocity.
    """

    kind: Literal["trigonometric"] = "trigonometric"
    formulas: ClassVar[dict[str, str]] = {
        "s": "cos(πt/2)",
        "sigma": "tan(πt/2)",
        "f": "−(π/2) tan(πt/2)",
        "g": "√(π tan(πt/2))",
        "time": "(2/π) arctan σ",
    }

    @property
    def t_max(self) -> float:
        return math.atan(PRACTICAL_INFINITY) * 2 / math.pi

    def _s(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.tan(0.5 * math.pi * t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * torch.tan(0.5 * math.pi * t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return math.pi / torch.sin(math.pi * t)

    def _time(self, sigma: Tensor) -> Tensor:
        return torch.atan(sigma) * 2 / math.pi
