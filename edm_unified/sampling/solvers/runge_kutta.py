"""Runge–Kutta methods on the probability-flow ODE in t: the solvers that see the schedule.

They take straight steps in the scaled state x_t = s(t) x (Karras et al. 2022, Eq. 4 and Algorithm 1),

    dx_t/dt = (s'/s) x_t + (σ'/σ) (x_t − s D(x_t/s; σ)),
    X_i = x_t + h Σ_j A_ij k_j,   k_j = dx_t/dt (X_j, t + c_j h),   x_{t+h} = x_t + h Σ_i b_i k_i.

X_i and the result are linear in x and the outputs D_j, so the textbook recursion above is run once, before the loop, on
vectors of weights for all steps together; the loop combines tensors with the numbers that come out.

The fall to σ = 0 is Euler's whatever the method, since D is not defined on it (EDM Algorithm 1, line 6): a method of s
stages on N steps costs s(N−1) + 1 evaluations. Under a schedule whose σ(t) never reaches 0 that fall returns D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.sampling.dynamics import Dynamics, Level, Walk, levels
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row
from edm_unified.schedules import Schedule, is_value


class Tableau(NamedTuple):
    """A Butcher tableau (Butcher 2008, section 23)."""

    A: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]


EULER = Tableau(A=((),), b=(1.0,), c=(0.0,))
UNTOUCHED = row((1.0,))


class Stage(NamedTuple):
    """Evaluate D at ``level``, at the state that ``weights`` combine from the earlier outputs and x (last)."""

    level: Level
    weights: Row


class Plan(NamedTuple):
    """State of a Runge–Kutta solver: for each fall its stages and closing weights; and which fall is next."""

    steps: tuple[tuple[tuple[Stage, ...], Row], ...]
    turn: int


class RungeKutta(ABC):
    """An explicit method; final subclasses give the tableau."""

    stochastic: ClassVar[bool] = False

    @property
    @abstractmethod
    def tableau(self) -> Tableau: ...

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """Weights of every fall of the walk."""
        falls = walk.falls
        if self.tableau is EULER and dynamics.schedule.reaches_zero:
            return Plan(_plan(dynamics.schedule, dynamics.device, tuple(falls), EULER), 0)
        above_zero = tuple(fall for fall in falls if fall[1].sigma > 0)
        plans = iter(_plan(dynamics.schedule, dynamics.device, above_zero, self.tableau) if above_zero else ())
        return Plan(tuple(next(plans) if b.sigma > 0 else _fall_to_zero(dynamics, a, b) for a, b in falls), 0)

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        stages, closing = state.steps[state.turn]
        outputs: tuple[Tensor, ...] = ()
        for level, weights in stages:
            outputs += (dynamics.denoise(combine(weights, (*outputs, x)), level),)
        return combine(closing, (*outputs, x)), Plan(state.steps, state.turn + 1)


def _fall_to_zero(dynamics: Dynamics, a: Level, b: Level) -> tuple[tuple[Stage, ...], Row]:
    if dynamics.schedule.reaches_zero:
        return _plan(dynamics.schedule, dynamics.device, ((a, b),), EULER)[0]
    return (Stage(a, UNTOUCHED),), row((1.0, 0.0))


def _plan(
    schedule: Schedule, device: torch.device, falls: tuple[tuple[Level, Level], ...], tableau: Tableau
) -> tuple[tuple[tuple[Stage, ...], Row], ...]:
    weights = _remembered_weights if is_value(schedule) else _all_weights
    return weights(schedule, device, falls, tableau)


def _all_weights(
    schedule: Schedule, device: torch.device, falls: tuple[tuple[Level, Level], ...], tableau: Tableau
) -> tuple[tuple[tuple[Stage, ...], Row], ...]:
    columns = [_stage_levels(schedule, device, falls, c) for c in tableau.c]
    return tuple(_weights(tableau, a, b, at) for (a, b), *at in zip(falls, *columns, strict=True))


_remembered_weights = lru_cache(maxsize=64)(_all_weights)


def _weights(tableau: Tableau, a: Level, b: Level, levels: list[Level]) -> tuple[tuple[Stage, ...], Row]:
    """The recursion of the module docstring, on the weights of (D_1 … D_s, x) in place of tensors."""
    h = b.t - a.t
    x = [0.0] * len(levels) + [a.s]
    slopes: list[list[float]] = []
    stages = []
    for i, (level, A_i) in enumerate(zip(levels, tableau.A, strict=True)):
        X = _advance(x, h, A_i, slopes)
        inputs = row([w / level.s for w in (*X[:i], X[-1])]) if i else UNTOUCHED  # outputs that exist by then, and x
        stages.append(Stage(level, inputs))
        slope = [(level.f + level.l) * w for w in X]
        slope[i] -= level.l * level.s
        slopes.append(slope)
    return tuple(stages), row([w / b.s for w in _advance(x, h, tableau.b, slopes)])


def _advance(x: list[float], h: float, weights: tuple[float, ...], slopes: list[list[float]]) -> list[float]:
    """x + h Σ_j weights_j slopes_j."""
    for weight, slope in zip(weights, slopes, strict=True):
        x = [w + h * weight * k for w, k in zip(x, slope, strict=True)]
    return x


def _stage_levels(
    schedule: Schedule, device: torch.device, falls: tuple[tuple[Level, Level], ...], c: float
) -> list[Level]:
    """The levels at t + c h; those at the ends are the walk's own, so that no level is ever recomputed from a time."""
    if c in (0, 1):
        return [fall[int(c)] for fall in falls]
    t = [a.t + c * (b.t - a.t) for a, b in falls]
    return list(levels(schedule, schedule.sigma(torch.tensor(t, dtype=torch.float64)).tolist(), t, device))


@component
class Euler(RungeKutta):
    """x_{t+h} = x_t + h dx_t/dt, order 1, one evaluation per step (Karras et al. 2022, Algorithm 1 without line 6).

    Under :class:`~edm_unified.schedules.EDM` it is DDIM; under VP with uniform t it is the probability-flow sampler of
    Song et al. 2021; under flow matching it is the flow's usual sampler.
    """

    kind: Literal["euler"] = "euler"
    order: ClassVar[int] = 1

    @property
    def tableau(self) -> Tableau:
        return EULER


@component
class SecondOrder(RungeKutta):
    """The two-stage methods of order 2: b = (1 − 1/2α, 1/2α), c = (0, α) (Karras et al. 2022, Algorithm 3).

    α = 1 is Heun, ½ the midpoint rule, ⅔ Ralston's. α must lie in (0, 1].
    """

    alpha: float = 1.0
    kind: Literal["second_order"] = "second_order"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha: must lie in (0, 1], got {self.alpha!r}")

    @property
    def tableau(self) -> Tableau:
        return Tableau(A=((), (self.alpha,)), b=(1 - 0.5 / self.alpha, 0.5 / self.alpha), c=(0.0, self.alpha))


@component
class Heun(RungeKutta):
    """Heun's method, order 2, two evaluations per step: EDM's deterministic sampler (Algorithm 1)."""

    kind: Literal["heun"] = "heun"
    order: ClassVar[int] = 2

    @property
    def tableau(self) -> Tableau:
        return Tableau(A=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 1.0))


@component
class Midpoint(RungeKutta):
    """The midpoint rule, order 2, two evaluations per step; the customary choice for flow matching."""

    kind: Literal["midpoint"] = "midpoint"
    order: ClassVar[int] = 2

    @property
    def tableau(self) -> Tableau:
        return Tableau(A=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.5))


@component
class Ralston(RungeKutta):
    """Ralston's method, order 2, two evaluations per step: the α = ⅔ of least truncation error bound (Ralston 1962)."""

    kind: Literal["ralston"] = "ralston"
    order: ClassVar[int] = 2

    @property
    def tableau(self) -> Tableau:
        return Tableau(A=((), (2 / 3,)), b=(0.25, 0.75), c=(0.0, 2 / 3))


@component
class RK4(RungeKutta):
    """The classical method of order 4, four evaluations per step; for tight tolerances, not for small budgets."""

    kind: Literal["rk4"] = "rk4"
    order: ClassVar[int] = 4

    @property
    def tableau(self) -> Tableau:
        return Tableau(
            A=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), c=(0.0, 0.5, 0.5, 1.0)
        )
