"""Exponential Runge–Kutta methods in λ = −ln σ: several evaluations within a step, no history, blind to the schedule.

Two linear problems y' = L y + N share one family of tableaus, whose entries are φ-functions of z = L · length:

    data    dx/dλ = A (D − x) + …        L = −A, y = x        DPM-Solver++, RES, SEEDS in data prediction
    noise   d(x/σ)/dλ = x/σ − A ε + …    L = +1, y = x/σ      DPM-Solver, SEEDS in noise prediction

with A = 1 + η². A step of length h from a to b visits the levels m_i = a e^{−c_i h}:

    data    X_i = (m_i/a) e^{−η² c_i h} x + A h Σ_j a_ij(−Ah) D_j + N(c_i)
    noise   X_i = x − A h m_i Σ_j a_ij(h) ε_j + N(c_i),    ε_j = (X_j − D_j)/m_j

and x_b is the same with b_j in place of a_ij and c = 1. The sums Σ_j a_ij = c_i φ_1(c_i z) and Σ_j b_j = φ_1(z) make a
constant D (or ε) exact. N is the noise of the reverse SDE. The intervals [0, c_i] of the stages overlap, so it is *one*
process, drawn where it is needed and carried along, never drawn afresh for each stage:

    data    N(c') = (m'/m) e^{−η² δ} N(c) + m' √(1 − e^{−2η² δ}) n,    δ = (c' − c) h
    noise   N(c') = N(c) + η √(m² − m'²) n

Everything is linear in x, D_j and the noises, so the recursion runs once, before the loop, on vectors of weights. The
fall to σ = 0 returns D: one evaluation, as published ("denoise to zero"). A method of s stages on N steps to 0 costs
s(N−1) + 1 evaluations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from edm_unified.sampling.dynamics import Dynamics, Level, Walk
from edm_unified.sampling.solvers.exponential_schemes import Scheme, Weights
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row


class Combination(NamedTuple):
    """What D is called with, or what a step returns: weights of (D_1 …, x), and of the noises drawn by then."""

    level: Level
    weights: Row
    noises: Weights


class Plan(NamedTuple):
    """State: for each fall its stages and, last, its result; and which fall is next."""

    steps: tuple[tuple[Combination, ...], ...]
    turn: int


class ExponentialRungeKutta(ABC):
    """A single-step method; final subclasses give the scheme, and whether it is on D or on ε."""

    @property
    @abstractmethod
    def scheme(self) -> Scheme: ...

    @property
    def on_noise(self) -> bool:
        """Whether ε is what the scheme weighs, and not D."""
        return False

    @property
    def noise(self) -> float:
        """η."""
        return 0.0

    @property
    def stochastic(self) -> bool:
        return self.noise > 0

    @property
    def stages(self) -> int:
        """Evaluations of D per step, but for the fall to 0, which has one."""
        return len(self.scheme.nodes)

    def schemes(self, falls: int, to_zero: bool) -> list[Scheme]:
        """The scheme of each of ``falls``, the last of which may end at 0."""
        return [self.scheme] * falls

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All weights of the walk."""
        falls = walk.falls
        schemes = self.schemes(len(falls), bool(falls) and falls[-1][1].sigma == 0)
        sigmas = _inner_sigmas(falls, schemes)
        inner = iter(dynamics.levels(sigmas) if sigmas else ())
        return Plan(tuple(self._plan(a, b, s, inner) for (a, b), s in zip(falls, schemes, strict=True)), 0)

    def _plan(self, a: Level, b: Level, scheme: Scheme, inner: Iterator[Level]) -> tuple[Combination, ...]:
        if b.sigma == 0:
            return Combination(a, row((1.0,)), ()), Combination(b, row((1.0, 0.0)), ())
        h, A = math.log(a.sigma / b.sigma), 1 + self.noise**2
        rows, closing = scheme.weights(h if self.on_noise else -A * h)
        levels = [_level(a, b, c, inner) for c in scheme.nodes]
        noises = self._noises((*scheme.nodes, 1.0), [level.sigma for level in (*levels, b)], h)
        s = len(levels)
        outputs: list[list[float]] = []  # D_j or ε_j as weights of (D_1 … D_s, x, noises)
        plan = []
        for i, (c, level, weights) in enumerate(zip((*scheme.nodes, 1.0), (*levels, b), (*rows, closing), strict=True)):
            keep, gain = self._linear(a.sigma, level.sigma, c * h, h)
            X = [0.0] * s + [keep] + noises[i]
            for weight, output in zip(weights, outputs, strict=True):
                X = [w + gain * weight * v for w, v in zip(X, output, strict=True)]
            drawn = max((k for k, w in enumerate(noises[i], start=1) if w), default=0)
            plan.append(Combination(level, row((*X[:i], X[s])), tuple(X[s + 1 : s + 1 + drawn])))
            D = [float(k == i) for k in range(len(X))]
            outputs.append([(u - v) / level.sigma for u, v in zip(X, D, strict=True)] if self.on_noise else D)
        return tuple(plan)

    def _linear(self, a: float, m: float, ch: float, h: float) -> tuple[float, float]:
        """The factor of x, and that of the outputs, on the way from a to m."""
        if self.on_noise:
            return 1.0, -(1 + self.noise**2) * h * m
        return m / a * math.exp(-(self.noise**2) * ch), (1 + self.noise**2) * h

    def _noises(self, nodes: Weights, sigmas: list[float], h: float) -> list[list[float]]:
        """N at each of the ``nodes`` (rising) as weights of independent unit noises."""
        if not self.noise:
            return [[] for _ in nodes]
        places = len(nodes) - 1  # no noise at c = 0
        N, rows = [0.0] * places, [[0.0] * places]
        for i in range(1, len(nodes)):
            m, n, delta = sigmas[i - 1], sigmas[i], (nodes[i] - nodes[i - 1]) * h
            if self.on_noise:
                keep, std = 1.0, self.noise * n * math.sqrt(math.expm1(2 * delta))
            else:
                keep = n / m * math.exp(-(self.noise**2) * delta)
                std = n * math.sqrt(-math.expm1(-2 * self.noise**2 * delta))
            N = [keep * weight for weight in N]
            N[i - 1] = std
            rows.append(N)
        return rows

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        *stages, closing = state.steps[state.turn]
        outputs: tuple[Tensor, ...] = ()
        noises: list[Tensor] = []
        for stage in stages:
            outputs += (dynamics.denoise(_at(stage, (*outputs, x), noises, randn), stage.level),)
        return _at(closing, (*outputs, x), noises, randn), Plan(state.steps, state.turn + 1)


def _at(place: Combination, tensors: tuple[Tensor, ...], noises: list[Tensor], randn: Randn) -> Tensor:
    """The state at ``place``; a noise is drawn when it is first used."""
    x = combine(place.weights, tensors)
    for k, weight in enumerate(place.noises):
        if k == len(noises):
            noises.append(randn())
        x = x.add(noises[k], alpha=weight)
    return x


def _inner_sigmas(falls: list[tuple[Level, Level]], schemes: list[Scheme]) -> list[float]:
    """The levels that are not the walk's own, in the order in which :func:`_level` takes them."""
    return [
        a.sigma * math.exp(-c * math.log(a.sigma / b.sigma))
        for (a, b), scheme in zip(falls, schemes, strict=True)
        for c in scheme.nodes
        if b.sigma > 0 and c not in (0, 1)
    ]


def _level(a: Level, b: Level, c: float, inner: Iterator[Level]) -> Level:
    """The level at c; those at the ends are the walk's own."""
    if c in (0, 1):
        return (a, b)[int(c)]
    return next(inner)
