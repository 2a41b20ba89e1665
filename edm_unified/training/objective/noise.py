"""p(σ): which noise levels are trained, each distribution given by its quantile function.

Levels are σ = Q(u) for u uniform in (0, 1), so that one may draw u at random, spread it evenly over a batch
(u_i = (π(i) + U_i)/B: the same expectation, less variance) or lay it on a grid to look at the density.

==========================  ======================================================  ==================================
distribution                σ                                                       method
==========================  ======================================================  ==================================
:class:`LogNormal`          ln σ ~ N(P_mean, P_std²)                                EDM, EDM2
:class:`LogUniform`         ln σ uniform                                            VE
:class:`UniformTime`        m σ(t), t uniform                                       VP, v-prediction, flow matching
:class:`LogitNormalTime`    m σ(t), logit t ~ N(mean, std²)                         Stable Diffusion 3
:class:`ModeTime`           m σ(t), t = u − s (sin² (πu/2) − u)                     Stable Diffusion 3, "mode"
:class:`CosMapTime`         m σ(t), t = 1 − 1/(1 + tan(πu/2))                       Stable Diffusion 3, "CosMap"
:class:`TableIndex`         σ_k of a table of betas, k uniform                      DDPM, iDDPM
:class:`Ladder`             L levels evenly spaced in ln σ, each as often           NCSN
:class:`OneLevel`           always the same                                         denoising autoencoder
==========================  ======================================================  ==================================

Where time goes through a schedule, ``shift`` m turns σ(t) into m σ(t): on the straight path that is Stable Diffusion
3's t ↦ m t/(1 + (m−1) t) for larger images (Esser et al. 2024, Eq. 23). A schedule that is shifted itself needs none.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.components.component import component, falling
from edm_unified.components.constraints import Nonnegative, Positive, finite_number, interval, positive_number, whole
from edm_unified.schedules.base import PRACTICAL_INFINITY, float64
from edm_unified.schedules.table import Beta, BetaKind, NumSteps

MOST_LOG = 20.0
"""What a normal distribution of ln σ may have as mean and width: e^{20 + 8.3·20}, the highest σ that can be drawn, and
its inverse have squares in float64."""
MOST_SCALE = 2 / (math.pi - 2)
"""The largest s at which t of :class:`ModeTime` still rises with u."""


class SigmaOfTime(Protocol):
    """What is needed of a schedule for training: σ(t); and d ln σ/dt and σ⁻¹ for the likelihood weight."""

    def sigma(self, t: float | Tensor) -> Tensor: ...
    def time(self, sigma: float | Tensor) -> Tensor: ...
    def log_sigma_rate(self, t: float | Tensor) -> Tensor: ...


class Noise(Protocol):
    """p(σ) by its quantile function."""

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor: ...


def _unit_normal_quantile(u: Tensor) -> Tensor:
    """Φ⁻¹(u), finite also for the u = 0 that a generator of uniforms may return once in 2⁵³ draws."""
    return torch.special.ndtri(float64(u).clamp(2.0**-54, 1 - 2.0**-53))


def _finite_sigma(schedule: SigmaOfTime, t: Tensor, shift: float) -> Tensor:
    """m σ(t), with 1e6 for what lies above: there the data are one part in a million of z."""
    return (shift * schedule.sigma(t)).clamp(max=PRACTICAL_INFINITY)


@component
class LogNormal:
    """ln σ ~ N(P_mean, P_std²) (Karras et al. 2022, Table 1): effort goes where it changes D. Uses no schedule."""

    P_mean: Annotated[float, finite_number(MOST_LOG)] = -1.2
    P_std: Annotated[float, positive_number(most=MOST_LOG)] = 1.2
    kind: Literal["log_normal"] = "log_normal"
    formulas: ClassVar[dict[str, str]] = {"p": "ln σ ~ N(P_mean, P_std²)"}

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        return torch.exp(self.P_mean + self.P_std * _unit_normal_quantile(u))


@component
class LogUniform:
    """ln σ ~ U(ln σ_min, ln σ_max) (VE of Song et al. 2021 as read by EDM, Table 1). Uses no schedule."""

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0
    kind: Literal["log_uniform"] = "log_uniform"
    formulas: ClassVar[dict[str, str]] = {"p": "ln σ ~ U(ln σ_min, ln σ_max)"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + float64(u) * (high - low))


@component
class UniformTime:
    """σ = m σ(t), t ~ U(t_min, t_max) in the schedule's time (VP and sub-VP of Song et al. 2021, v-prediction, flow
    matching). Where σ(t) runs to infinity at t = 1 it is cut at 1e6.
    """

    t_min: Nonnegative = 1e-5
    t_max: Positive = 1.0
    shift: Positive = 1.0
    kind: Literal["uniform_time"] = "uniform_time"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = m σ(t), t ~ U(t_min, t_max)"}
    added_later: ClassVar[tuple[str, ...]] = ("shift",)

    def __post_init__(self) -> None:
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min: must be below t_max, got {self.t_min!r} against {self.t_max!r}")

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        return _finite_sigma(schedule, self.t_min + float64(u) * (self.t_max - self.t_min), self.shift)


@component
class LogitNormalTime:
    """σ = m σ(t), ln(t/(1−t)) ~ N(mean, std²) (Esser et al. 2024, section 3.1, for flow matching).

    On the unshifted path σ = t/(1−t) this *is* ln σ ~ N(mean, std²), EDM's :class:`LogNormal`.
    """

    mean: Annotated[float, finite_number(MOST_LOG)] = 0.0
    std: Annotated[float, positive_number(most=MOST_LOG)] = 1.0
    shift: Positive = 1.0
    kind: Literal["logit_normal_time"] = "logit_normal_time"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = m σ(t), ln(t/(1−t)) ~ N(mean, std²)"}
    added_later: ClassVar[tuple[str, ...]] = ("shift",)

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        return _finite_sigma(schedule, torch.sigmoid(self.mean + self.std * _unit_normal_quantile(u)), self.shift)


@component
class ModeTime:
    """σ = m σ(t), t = u − s (sin²(πu/2) − u) (Esser et al. 2024, Eq. 20, "mode sampling with heavy tails").

    ``scale`` s in [−1, 1.75]: times crowd at the middle where s > 0, at the ends where s < 0; 0 is uniform. 1.29 is the
    best of theirs. Unlike :class:`LogitNormalTime` it leaves no time untrained.
    """

    scale: Annotated[float, interval(-1, MOST_SCALE)] = 1.29
    shift: Positive = 1.0
    kind: Literal["mode_time"] = "mode_time"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = m σ(t), t = u − s (sin²(πu/2) − u)"}

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        u = float64(u).clamp(min=2.0**-54)
        t = u - self.scale * (torch.sin(0.5 * math.pi * u) ** 2 - u)
        return _finite_sigma(schedule, t.clamp(2.0**-54, 1), self.shift)


@component
class CosMapTime:
    """σ = m σ(t), t = 1 − 1/(1 + tan(πu/2)) (Esser et al. 2024, Eq. 21, "CosMap").

    On the straight path σ = tan(πu/2): the levels of the cosine path with uniform time.
    """

    shift: Positive = 1.0
    kind: Literal["cos_map_time"] = "cos_map_time"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = m σ(t), t = 1 − 1/(1 + tan(πu/2))"}

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        angle = 0.5 * math.pi * float64(u).clamp(min=2.0**-54)
        sine, cosine = torch.sin(angle), torch.cos(angle)
        return _finite_sigma(schedule, sine / (sine + cosine), self.shift)


@component
class TableIndex:
    """σ = σ_k, k uniform over the steps of a table of betas (Ho et al. 2020; Nichol & Dhariwal 2021 with ``cosine``).

    The fields are those of :class:`edm_unified.schedules.BetaTable`. Uses no schedule.
    """

    betas: BetaKind | tuple[float, ...] = "linear"
    num_steps: NumSteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    kind: Literal["table_index"] = "table_index"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = √((1−ᾱ_k)/ᾱ_k), k uniform on 0 … M−1"}

    def __post_init__(self) -> None:
        schedules.BetaTable(self.betas, self.num_steps, self.beta_start, self.beta_end)  # for its checks

    @cached_property
    def _sigmas(self) -> Tensor:
        return schedules.table_sigmas(schedules.beta_table(self.betas, self.num_steps, self.beta_start, self.beta_end))

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        u = float64(u)
        sigmas = self._sigmas.to(u.device, non_blocking=True)
        return sigmas[(u * len(sigmas)).long().clamp(0, len(sigmas) - 1)]


@component
class Ladder:
    """One of L noise levels (``levels``), evenly spaced in ln σ, each as often as the others (Song & Ermon 2019).

    NCSN on CIFAR-10: 10 levels from 1 to 0.01, for data in [0, 1]. Uses no schedule.
    """

    levels: Annotated[int, whole(least=2)] = 10
    sigma_min: Positive = 0.01
    sigma_max: Positive = 1.0
    kind: Literal["ladder"] = "ladder"
    formulas: ClassVar[dict[str, str]] = {"p": "σ = σ_min (σ_max/σ_min)^(k/(L−1)), k uniform on 0 … L−1"}

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        k = (float64(u) * self.levels).floor().clamp(0, self.levels - 1)
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + k / (self.levels - 1) * (high - low))


@component
class OneLevel:
    """Always the same σ: denoising score matching as of Vincent 2011. The score is then that of data blurred by σ."""

    sigma: Positive = 0.5
    kind: Literal["one_level"] = "one_level"
    formulas: ClassVar[dict[str, str]] = {"p": "σ"}

    def quantile(self, u: Tensor, schedule: SigmaOfTime) -> Tensor:
        return torch.full_like(float64(u), self.sigma)


AnyNoise = (
    LogNormal | LogUniform | UniformTime | LogitNormalTime | ModeTime | CosMapTime | TableIndex | Ladder | OneLevel
)
