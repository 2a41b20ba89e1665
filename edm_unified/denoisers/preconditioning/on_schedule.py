"""Networks as other libraries train them: on the state of a schedule, told its time or index, of five targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Positive
from edm_unified.denoisers.preconditioning.table import index_in
from edm_unified.schedules import AnySchedule, BetaTable, FlowMatching
from edm_unified.schedules.base import float64

Prediction = Literal["epsilon", "v", "velocity", "score", "x0"]
NoiseInput = Literal["t", "index", "nearest_index", "sigma", "log_sigma"]


@component
class OnSchedule:
    """F sees x_t = s z, the state of ``schedule``, is told its time, and predicts a quantity of x_t.

    ``predicts``, with α = s, β = sσ and x_t = α x_0 + β n:

    * ``epsilon``: n;   ``x0``: x_0;   ``score``: ∇ log p(x_t), in the variable x_t;
    * ``v``: α n − β x_0 (Salimans & Ho 2022, section 4, where α² + β² = 1);
    * ``velocity``: dx_t/dt = α' x_0 + β' n, toward the noise, as t = 0 are the data here. Of a network that predicts
      the opposite, as those do whose own time runs from noise to data (Lipman et al. 2023; torchcfm, SiT), say
      ``toward: data``.

    ``noise`` is what F is told of the noise level: the time ``t`` of the schedule; the ``index`` k = 0 … M−1 of a table
    of betas, between levels linear in ln σ; ``nearest_index``, rounded to the level that is nearest in ln σ, for
    embeddings that are tables; ``sigma``; or ``log_sigma``. With ``reversed`` it is t_max − t, or M−1−k. It is
    multiplied by ``scale``: 1000 for t in [0, 1000].

    The rows above are special cases: ``DDPM`` is epsilon and index on a table, ``FlowMatching`` velocity and t.
    """

    schedule: AnySchedule = FlowMatching()
    predicts: Prediction = "velocity"
    noise: NoiseInput = "t"
    reversed: bool = False
    toward: Literal["noise", "data"] = "noise"
    scale: Positive = 1.0
    kind: Literal["on_schedule"] = "on_schedule"
    formulas: ClassVar[dict[str, str]] = {
        "c_skip": "1 (epsilon, score), 0 (x0), 1/(1+σ²) (v), 1 + f/l (velocity; f = s'/s, l = σ'/σ)",
        "c_out": "−σ (epsilon), sσ² (score), 1 (x0), −σ/(s(1+σ²)) (v), ∓1/(s l) (velocity)",
        "c_in": "s",
        "c_noise": "scale · (t, t_max − t, k, M−1−k, σ or ln σ)",
    }

    def __post_init__(self) -> None:
        if self.noise in ("index", "nearest_index") and not isinstance(self.schedule, BetaTable):
            raise ValueError(f"noise: {self.noise} is that of a table; {type(self.schedule).__name__} has none, take t")
        if self.reversed and self.noise in ("sigma", "log_sigma"):
            raise ValueError(f"reversed: {self.noise} has no other direction; leave it out")
        if self.toward == "data" and self.predicts != "velocity":
            raise ValueError(f"toward: is of a velocity, and this network predicts {self.predicts}; leave it out")
        if self.reversed and not math.isfinite(self.schedule.t_max):
            raise ValueError(f"reversed: the time of {type(self.schedule).__name__} has no end to be counted from")

    @cached_property
    def _log_table(self) -> Tensor:
        assert isinstance(self.schedule, BetaTable)
        return self.schedule.sigmas.log()

    @property
    def sigma_min(self) -> float:
        """The lowest level of a table; of continuous time, that at t = 0."""
        if isinstance(self.schedule, BetaTable):
            return float(self.schedule.sigmas[0])
        return float(self.schedule.sigma(0.0))

    @property
    def sigma_max(self) -> float:
        return self.schedule.sigma_end

    def _time(self, sigma: float | Tensor) -> Tensor:
        return self.schedule.time(float64(sigma).clamp(max=self.schedule.sigma_limit))

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return _FORMS[self.predicts](self, float64(sigma))[0]

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return _FORMS[self.predicts](self, float64(sigma))[1]

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return self.schedule.s(self._time(sigma))

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        value, end = _NOISE_INPUTS[self.noise](self, float64(sigma))
        return self.scale * (end - value if self.reversed else value)


def _epsilon(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(sigma), -sigma


def _x0(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(sigma), torch.ones_like(sigma)


def _score(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(sigma), row.c_in(sigma) * sigma**2  # ∇_z = s ∇_x


def _v(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, Tensor]:
    return 1 / (1 + sigma**2), -sigma / (row.c_in(sigma) * (1 + sigma**2))


def _velocity(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """From x_t = s z and dx_t/dt = s ((f + l) z − l D): D = (1 + f/l) z − (dx_t/dt)/(s l)."""
    t, schedule = row._time(sigma), row.schedule
    f, l = schedule.log_s_rate(t), schedule.log_sigma_rate(t)
    c_out = 1 / (schedule.s(t) * l)
    return 1 + f / l, c_out if row.toward == "data" else -c_out


_FORMS: dict[str, Callable[[OnSchedule, Tensor], tuple[Tensor, Tensor]]] = {
    "epsilon": _epsilon,
    "v": _v,
    "velocity": _velocity,
    "score": _score,
    "x0": _x0,
}
"""c_skip and c_out of each target."""


def _t(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, float]:
    # a time that ends where σ is a practical infinity stands for one that ends at 1
    t_max = row.schedule.t_max
    return row._time(sigma), t_max if abs(t_max - 1) > 1e-5 else 1.0


def _index(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, float]:
    return index_in(row._log_table, sigma), len(row._log_table) - 1.0


def _nearest(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, float]:
    return index_in(row._log_table, sigma).round(), len(row._log_table) - 1.0


def _sigma(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, float]:
    return sigma.clone(), 0.0


def _log_sigma(row: OnSchedule, sigma: Tensor) -> tuple[Tensor, float]:
    return torch.log(sigma), 0.0


_NOISE_INPUTS: dict[str, Callable[[OnSchedule, Tensor], tuple[Tensor, float]]] = {
    "t": _t,
    "index": _index,
    "nearest_index": _nearest,
    "sigma": _sigma,
    "log_sigma": _log_sigma,
}
"""What F is told, and from where it is counted where that is ``reversed``."""
