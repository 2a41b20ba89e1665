"""The walks of EDM's ``ablation_sampler``: levels, schedules and noises as ours, and what their code is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from authors_repos import NOISE, D, drawn, ours
from torch import Tensor

from edm_unified import schedules
from edm_unified.sampling.levels import Karras, LogLinear, TableSubset, VPTime
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers import Euler, Heun
from edm_unified.schedules.base import Schedule

N = 18
VP_ENDS = tuple(schedules.VP().sigma([1e-3, 1.0]).tolist())
ENDS = {"vp": VP_ENDS, "ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}
"""Their σ_min and σ_max where none is given."""


class Net:
    """What their samplers want of a network: D, and the levels that it supports."""

    sigma_min, sigma_max = 0.0, math.inf

    def __call__(self, x: Tensor, sigma: Tensor, labels: Any = None) -> Tensor:
        return D(x, sigma)

    def round_sigma(self, sigma: Any) -> Tensor:
        return torch.as_tensor(sigma)


class Noises:
    """One noise for each of their steps, and for us those of the steps before which the level rises.

    For the other steps they draw one too, and multiply it by √(σ(t̂)² − σ(t)²) of one level computed twice, which may be
    the root of a rounding: 10⁻⁶ at σ = 100. Their noise is zero there.
    """

    def __init__(self, levels: list[float], churn: Any) -> None:
        random, zero, levels = drawn(5), torch.zeros_like(NOISE), levels[:-1]
        raised = [churn is not None and churn.S_min <= sigma <= churn.S_max for sigma in levels]
        given = [next(random) if up else zero for up in raised]
        self.theirs = iter(given)
        self.ours: Iterator[Tensor] = iter([n for n, up in zip(given, raised, strict=True) if up])


@dataclass(frozen=True)
class Scaled(Schedule):
    """σ(t) of another schedule, with s = 1/√(1+σ²) (``scaled``) or s = 1, whichever the other had."""

    base: Schedule
    scaled: bool
    formulas: ClassVar[dict[str, str]] = {}

    @property
    def t_max(self) -> float:
        return self.base.t_max

    def _s(self, t: Tensor) -> Tensor:
        return torch.rsqrt(1 + self._sigma(t) ** 2) if self.scaled else torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.base._sigma(t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        square = self._sigma(t) ** 2
        return -self._log_sigma_rate(t) * square / (1 + square) if self.scaled else torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return self.base._log_sigma_rate(t)

    def _time(self, sigma: Tensor) -> Tensor:
        return self.base._time(sigma)


def levels_of(discretization: str) -> list[float]:
    low, high = ENDS[discretization]
    rule = {
        "vp": VPTime(N, low, high, power=1.0), "ve": LogLinear(N, low, high), "edm": Karras(N, low, high),
        "iddpm": TableSubset(N, spacing="edm", table=schedules.BetaTable(betas="cosine"), skip=8),
    }[discretization]  # fmt: skip
    found: list[float] = rule.levels(schedules.EDM()).tolist()
    return found


def schedule_of(schedule: str, scaling: str, ends: tuple[float, float]) -> Schedule:
    """Their VP schedule is that whose σ(1) and σ(10⁻³) are the ends of the walk."""
    low, high = (math.log1p(end**2) for end in ends)
    vp = schedules.VP(2 * (low / 1e-3 - high) / (1e-3 - 1))
    object.__setattr__(vp, "beta_min", high - 0.5 * vp.beta_d)  # below zero for EDM's ends, which VP itself refuses
    return Scaled({"vp": vp, "ve": schedules.VE(), "linear": schedules.EDM()}[schedule], scaling == "vp")


COMBINATIONS = list(
    itertools.product(["euler", "heun"], ["vp", "ve", "iddpm", "edm"], ["vp", "ve", "linear"], ["vp", "none"])
)
CHURN = Churn(S_churn=8.0, S_min=0.05, S_max=30.0, S_noise=1.007)


def ablation(solver: str, discretization: str, schedule: str, scaling: str, churn: Churn | None) -> Tensor:
    """What ``ablation_sampler`` returns, by our walk."""
    levels = levels_of(discretization)
    noises = Noises(levels, churn)
    own = schedule_of(schedule, scaling, ENDS[discretization])
    walk = levels if churn is None else list(churn.walk(tuple(levels)))
    S_noise = 1.0 if churn is None else churn.S_noise
    found = ours(Euler() if solver == "euler" else Heun(), walk, own, noises.ours, S_noise=S_noise)
    assert next(noises.ours, None) is None
    return found


def theirs(generate: Any, solver: str, discretization: str, schedule: str, scaling: str, churn: Churn | None) -> Tensor:
    """The same by their code; ``generate`` is their module."""
    noises = Noises(levels_of(discretization), churn)
    options = {} if churn is None else {name: getattr(churn, name) for name in ("S_churn", "S_min", "S_max", "S_noise")}
    out: Tensor = generate.ablation_sampler(
        Net(), NOISE, randn_like=lambda x: next(noises.theirs), num_steps=N, solver=solver,
        discretization=discretization, schedule=schedule, scaling=scaling, **options,
    )  # fmt: skip
    return out
