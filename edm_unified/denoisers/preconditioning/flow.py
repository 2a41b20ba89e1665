"""Networks of the paths that run from data to pure noise: v, velocity and x_0."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.denoisers import parametrization
from edm_unified.denoisers.preconditioning.base import Predicts, unit_variance
from edm_unified.schedules.base import float64


@component
class VPrediction(Predicts):
    """c_skip = 1/(1+σ²), c_out = −σ/√(1+σ²), c_in = 1/√(1+σ²), c_noise = 2 arctan(σ)/π (Salimans & Ho 2022).

    EDM's row with σ_data = 1 and the sign of F turned; c_noise is the t of the schedule s = cos(πt/2), σ = tan(πt/2).
    """

    kind: Literal["v_prediction"] = "v_prediction"
    form: ClassVar[parametrization.Parametrization] = parametrization.V()
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "1/(1+σ²)",
        "c_out": "−σ/√(1+σ²)",
        "c_in": "1/√(1+σ²)",
        "c_noise": "2 arctan(σ)/π",
    }

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return torch.atan(float64(sigma)) * 2 / math.pi


@component
class FlowMatching(Predicts):
    """c_skip = 1/(1+σ), c_out = −σ/(1+σ), c_in = 1/(1+σ), c_noise = t = σ/(1+σ) (Lipman et al. 2023; Liu et al. 2023).

    F is the velocity n − x_0 at x_t = (1−t) x_0 + t n, and c_noise is t in [0, 1], 0 for the data.
    """

    kind: Literal["flow_matching"] = "flow_matching"
    form: ClassVar[parametrization.Parametrization] = parametrization.Velocity()
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "1/(1+σ)",
        "c_out": "−σ/(1+σ)",
        "c_in": "1/(1+σ)",
        "c_noise": "σ/(1+σ)",
    }

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return 1 / (1 + float64(sigma))

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        sigma = float64(sigma)
        return sigma / (1 + sigma)


@component
class DataPrediction(Predicts):
    """F predicts x_0: c_skip = 0, c_out = 1, with the input of :class:`VPrediction` (Salimans & Ho 2022, section 4)."""

    kind: Literal["data_prediction"] = "data_prediction"
    form: ClassVar[parametrization.Parametrization] = parametrization.X0()
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "0",
        "c_out": "1",
        "c_in": "1/√(1+σ²)",
        "c_noise": "2 arctan(σ)/π",
    }

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return torch.atan(float64(sigma)) * 2 / math.pi
