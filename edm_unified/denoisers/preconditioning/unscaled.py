"""Networks of the methods with s = 1, which see z itself (VE, score) or z brought to unit variance (EDM)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.components.component import component, falling
from edm_unified.components.constraints import Positive
from edm_unified.denoisers import parametrization
from edm_unified.denoisers.preconditioning.base import Predicts, unit_variance
from edm_unified.schedules.base import float64
from edm_unified.schedules.variance_exploding import Base


@component
class EDM:
    """c_skip = σ_d²/(σ²+σ_d²), c_out = σσ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), c_noise = ln(σ)/4 (Karras et al. 2022,
    Table 1 and appendix B.6). ``sigma_data`` is the std of the data, 0.5 for images in [−1, 1]. The default choice for
    a new network: input and target have unit variance at every σ, and F's error is amplified as little as possible.
    """

    sigma_data: Positive = 0.5
    kind: Literal["edm"] = "edm"
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "σ_d²/(σ²+σ_d²)",
        "c_out": "σ σ_d/√(σ²+σ_d²)",
        "c_in": "1/√(σ²+σ_d²)",
        "c_noise": "ln(σ)/4",
    }

    @property
    def sigma_min(self) -> float:
        return 0.0

    @property
    def sigma_max(self) -> float:
        return math.inf

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return self.sigma_data**2 / (float64(sigma) ** 2 + self.sigma_data**2)

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return float64(sigma) * self.sigma_data * unit_variance(sigma, self.sigma_data)

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma, self.sigma_data)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return torch.log(float64(sigma)) / 4


@component
class Consistency:
    """EDM's row moved so that D = z at ``sigma_min`` instead of 0: c_skip = σ_d²/((σ−σ_min)²+σ_d²), c_out =
    (σ−σ_min) σ_d/√(σ²+σ_d²), c_in = 1/√(σ²+σ_d²), c_noise = ln(σ)/4 (Song et al. 2023, Consistency Models, appendix C).
    For consistency models and other networks that are distilled to one step, which are no denoisers at middle levels.
    """

    sigma_data: Positive = 0.5
    sigma_min: Positive = 0.002
    kind: Literal["consistency"] = "consistency"
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "σ_d²/((σ−m)²+σ_d²)  (m = sigma_min)",
        "c_out": "(σ−m) σ_d/√(σ²+σ_d²)",
        "c_in": "1/√(σ²+σ_d²)",
        "c_noise": "ln(σ)/4",
    }

    @property
    def sigma_max(self) -> float:
        return math.inf

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return self.sigma_data**2 / ((float64(sigma) - self.sigma_min) ** 2 + self.sigma_data**2)

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return (float64(sigma) - self.sigma_min) * self.sigma_data * unit_variance(sigma, self.sigma_data)

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma, self.sigma_data)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return torch.log(float64(sigma)) / 4


@component
class VE:
    """c_skip = 1, c_out = σ, c_in = 1, c_noise = ln(σ/2) (Song et al. 2021 as read by EDM, Table 1).

    F predicts −n. Levels are for data in [−1, 1]; the paper's network saw [0, 1] and half of them, hence the σ/2.
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0
    kind: Literal["ve"] = "ve"
    formulas: ClassVar[dict[str, str]] = {"c_skip": "1", "c_out": "σ", "c_in": "1", "c_noise": "ln(σ/2)"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return float64(sigma).clone()

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        return torch.log(float64(sigma) / 2)


@component
class Score(Predicts):
    """F(z; c_noise) = ∇ log p(z; σ), the network normalizing its own output: D = z + σ² F (Song & Ermon 2019; Song's
    score-SDE tutorial; EDM Eq. 3).

    ``noise``, the network's input c_noise: ``log_sigma``, ln σ, even over the levels of any schedule and so the
    default (NCSN++); ``sigma`` itself (NCSN v2); or ``time``, the t of dx = b^t dw at which the noise level is σ, with
    b = ``base`` (the tutorial, whose b = 25 ends at σ = 9.84).
    """

    noise: Literal["log_sigma", "sigma", "time"] = "log_sigma"
    base: Base = 25.0
    kind: Literal["score"] = "score"
    form: ClassVar[parametrization.Parametrization] = parametrization.Score()
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "1",
        "c_out": "σ²",
        "c_in": "1",
        "c_noise": "ln σ, or σ, or t = ln(1 + 2σ² ln b)/(2 ln b)",
    }

    @property
    def sigma_max(self) -> float:
        return schedules.ExponentialVE(self.base).sigma_max if self.noise == "time" else math.inf

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        if self.noise == "time":
            return schedules.ExponentialVE(self.base).time(sigma)
        return float64(sigma).clone() if self.noise == "sigma" else torch.log(float64(sigma))
