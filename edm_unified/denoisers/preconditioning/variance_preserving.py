"""ε-networks whose c_noise is a continuous time: VP and sub-VP."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.components.component import component, falling
from edm_unified.components.constraints import Nonnegative, Positive, whole
from edm_unified.denoisers import parametrization
from edm_unified.denoisers.preconditioning.base import EPSILON_FORMULAS, Predicts, unit_variance
from edm_unified.schedules.base import float64


@component
class VP(Predicts):
    """ε-network of the VP SDE: c_noise = (M−1) σ⁻¹(σ), in [0, M−1] (Song et al. 2021; EDM Table 1).

    β(t) = β_d t + β_min on t in [``epsilon_t``, 1], which the network saw in training: σ from 0.00100 to 152.2.
    """

    beta_d: Nonnegative = 19.9
    beta_min: Positive = 0.1
    M: Annotated[int, whole(least=2)] = 1000
    epsilon_t: Positive = 1e-5
    kind: Literal["vp"] = "vp"
    form: ClassVar[parametrization.Parametrization] = parametrization.Epsilon()
    formulas: ClassVar[dict[str, str]] = EPSILON_FORMULAS | {
        "c_noise": "(M−1) t, t = (√(β_min² + 2β_d ln(1+σ²)) − β_min)/β_d"
    }

    def __post_init__(self) -> None:
        falling("epsilon_t", self.epsilon_t, "t_max", self._schedule.t_max)

    @cached_property
    def _schedule(self) -> schedules.VP:
        return schedules.VP(self.beta_d, self.beta_min)

    @property
    def sigma_min(self) -> float:
        return float(self._schedule.sigma(self.epsilon_t))

    @property
    def sigma_max(self) -> float:
        return self._schedule.sigma_max

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return (self.M - 1) * self._schedule.time(sigma)


@component
class SubVP(Predicts):
    """ε-network of the sub-VP SDE: as :class:`VP` with its σ⁻¹, t = B⁻¹(2 arsinh(σ/2)) (Song et al. 2021, Eq. 12).

    ``input``: ``unit_variance`` gives F the input z/√(1+σ²); ``state`` gives it x_t = s z, s = 2/(σ + √(σ²+4)), which
    is what the networks published with that paper were trained on, and down to 0.87 times as large. Choose ``state``
    for their weights only. (For VP the two are one.)
    """

    beta_d: Nonnegative = 19.9
    beta_min: Positive = 0.1
    M: Annotated[int, whole(least=2)] = 1000
    epsilon_t: Positive = 1e-5
    input: Literal["unit_variance", "state"] = "unit_variance"
    kind: Literal["subvp"] = "subvp"
    form: ClassVar[parametrization.Parametrization] = parametrization.Epsilon()
    formulas: ClassVar[dict[str, str]] = EPSILON_FORMULAS | {
        "c_noise": "(M−1) t, t = B⁻¹(2 arsinh(σ/2)), B = ½β_d t² + β_min t"
    }

    def __post_init__(self) -> None:
        falling("epsilon_t", self.epsilon_t, "t_max", self._schedule.t_max)

    @cached_property
    def _schedule(self) -> schedules.SubVP:
        return schedules.SubVP(self.beta_d, self.beta_min)

    @property
    def sigma_min(self) -> float:
        return float(self._schedule.sigma(self.epsilon_t))

    @property
    def sigma_max(self) -> float:
        return self._schedule.sigma_max

    def c_in(self, sigma: float | Tensor) -> Tensor:
        if self.input == "unit_variance":
            return unit_variance(sigma)
        sigma = float64(sigma)
        return 2 / (sigma + torch.sqrt(sigma**2 + 4))

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return (self.M - 1) * self._schedule.time(sigma)
