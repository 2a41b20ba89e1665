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
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from edm_unified._component import component
from edm_unified.dynamics import Dynamics, Level, Walk
from edm_unified.solvers.exponential import phi, phis
from edm_unified.solvers.linear import Randn, Row, combine, row

Weights = tuple[float, ...]


class Scheme(NamedTuple):
    """A tableau: the places c_i, of which the first is 0, and z ↦ (rows a_ij(z), weights b_j(z))."""

    nodes: Weights
    weights: Callable[[float], tuple[tuple[Weights, ...], Weights]]


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


# -- tableaus --------------------------------------------------------------------------------------------------------


def one_stage() -> Scheme:
    """DDIM: order 1."""
    return Scheme((0.0,), lambda z: (((),), (phi(1, z),)))


def two_stages(c: float) -> Scheme:
    """Order 2 with weights of φ_1 alone: b = φ_1 (1 − 1/2c, 1/2c)."""

    def weights(z: float) -> tuple[tuple[Weights, ...], Weights]:
        whole = phi(1, z)
        return ((), (c * phi(1, c * z),)), (whole * (1 - 0.5 / c), whole * 0.5 / c)

    return Scheme((0.0, c), weights)


def two_stages_stiff(c: float) -> Scheme:
    """Order 2 in the stiff sense too: b_2 = φ_2/c, b_1 = φ_1 − b_2 (Hochbruck & Ostermann 2010, section 2.3)."""

    def weights(z: float) -> tuple[tuple[Weights, ...], Weights]:
        _, whole, second = phis(2, z)
        return ((), (c * phi(1, c * z),)), (whole - second / c, second / c)

    return Scheme((0.0, c), weights)


def three_stages(c: float) -> Scheme:
    """Order 3: c_3 = ⅔, b = (φ_1 − 3/2 φ_2, 0, 3/2 φ_2) (Hochbruck & Ostermann 2005, Eq. 5.8)."""

    def weights(z: float) -> tuple[tuple[Weights, ...], Weights]:
        _, whole, second = phis(2, z)
        _, third_1, third_2 = phis(2, 2 / 3 * z)
        a32 = 4 / (9 * c) * third_2
        return ((), (c * phi(1, c * z),), (2 / 3 * third_1 - a32, a32)), (whole - 1.5 * second, 0.0, 1.5 * second)

    return Scheme((0.0, c, 2 / 3), weights)


def _krogstad(z: float) -> tuple[tuple[Weights, ...], Weights]:
    _, half_1, half_2 = phis(2, z / 2)
    _, one, two, three = phis(3, z)
    rows = (), (half_1 / 2,), (half_1 / 2 - half_2, half_2), (one - 2 * two, 0.0, 2 * two)
    middle = 2 * two - 4 * three
    return rows, (one - 3 * two + 4 * three, middle, middle, 4 * three - two)


def _hochbruck_ostermann(z: float) -> tuple[tuple[Weights, ...], Weights]:
    _, half_1, half_2, half_3 = phis(3, z / 2)
    _, one, two, three = phis(3, z)
    a52 = half_2 / 2 - three + two / 4 - half_3 / 2
    a54 = half_2 / 4 - a52
    rows = (
        (),
        (half_1 / 2,),
        (half_1 / 2 - half_2, half_2),
        (one - 2 * two, two, two),
        (half_1 / 2 - 2 * a52 - a54, a52, a52, a54),
    )
    return rows, (one - 3 * two + 4 * three, 0.0, 0.0, 4 * three - two, 4 * two - 8 * three)


KROGSTAD = Scheme((0.0, 0.5, 0.5, 1.0), _krogstad)
HOCHBRUCK_OSTERMANN = Scheme((0.0, 0.5, 0.5, 1.0, 0.5), _hochbruck_ostermann)


def _inside(name: str, c: float) -> None:
    if not 0 < c < 1:
        raise ValueError(f"{name}: must lie strictly between 0 and 1, got {c!r}")


# -- on D ------------------------------------------------------------------------------------------------------------


@component
class DPMSolverPP2S(ExponentialRungeKutta):
    """DPM-Solver++(2S): u = D at λ + r h from a DDIM step, x_b = (b/a) x + (1 − e^{−h}) [(1 − 1/2r) D_0 + u/(2r)].

    Lu et al. 2022b, Algorithm 1. Order 2, two evaluations per step. :class:`RES2S` has half its error at r = ½; take
    this one for parity.
    """

    r: float = 0.5
    kind: Literal["dpmpp_2s"] = "dpmpp_2s"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _inside("r", self.r)

    @property
    def scheme(self) -> Scheme:
        return two_stages(self.r)


@component
class DPMSolverPP3S(ExponentialRungeKutta):
    """DPM-Solver-3's tableau (c = 0, ⅓, ⅔) on D, the single-step DPM-Solver++ of order 3; three evaluations per step.

    Lu et al. 2022a, Algorithm 2 with D for ε. It is :class:`RES3S` with c2 = ⅓.
    """

    kind: Literal["dpmpp_3s"] = "dpmpp_3s"
    order: ClassVar[int] = 3

    @property
    def scheme(self) -> Scheme:
        return three_stages(1 / 3)


@component
class RES2S(ExponentialRungeKutta):
    """x_b = (b/a) x + h [(φ_1 − φ_2/c_2) D_0 + (φ_2/c_2) D(u)], φ_k = φ_k(−h): the exact integral of the interpolant.

    Zhang et al. 2023 (RES), Eq. 12; Hochbruck & Ostermann 2010, section 2.3. Order 2, two evaluations per step: the
    two-evaluation method to start from.
    """

    c2: float = 0.5
    kind: Literal["res_2s"] = "res_2s"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _inside("c2", self.c2)

    @property
    def scheme(self) -> Scheme:
        return two_stages_stiff(self.c2)


@component
class RES3S(ExponentialRungeKutta):
    """Order 3, three evaluations per step: c = (0, c_2, ⅔), b = (φ_1 − 3/2 φ_2, 0, 3/2 φ_2), φ_k = φ_k(−h).

    Hochbruck & Ostermann 2005, Eq. 5.8; Zhang et al. 2023. Worth it from some 30 evaluations on.
    """

    c2: float = 0.5
    kind: Literal["res_3s"] = "res_3s"
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _inside("c2", self.c2)
        if not self.c2 < 2 / 3:
            raise ValueError(f"c2: must lie below 2/3, where the third stage is, got {self.c2!r}")

    @property
    def scheme(self) -> Scheme:
        return three_stages(self.c2)


@component
class Krogstad4(ExponentialRungeKutta):
    """Krogstad's ETD4RK on D, c = (0, ½, ½, 1): order 4 (3 on a stiff D), four evaluations per step.

    Krogstad 2005, Eq. 51; Hochbruck & Ostermann 2005, Eq. 5.5. For tight tolerances.
    """

    kind: Literal["krogstad_4"] = "krogstad_4"
    order: ClassVar[int] = 4

    @property
    def scheme(self) -> Scheme:
        return KROGSTAD


@component
class HochbruckOstermann4(ExponentialRungeKutta):
    """The method of order 4 that keeps it on a stiff D, c = (0, ½, ½, 1, ½): five evaluations per step.

    Hochbruck & Ostermann 2005, Eq. 5.19. For tight tolerances and data that nearly lie on a plane.
    """

    kind: Literal["hochbruck_ostermann_4"] = "hochbruck_ostermann_4"
    order: ClassVar[int] = 4

    @property
    def scheme(self) -> Scheme:
        return HOCHBRUCK_OSTERMANN


# -- on ε ------------------------------------------------------------------------------------------------------------


@component
class DPMSolver2(ExponentialRungeKutta):
    """DPM-Solver-2: u = x − m(e^{rh} − 1) ε_0, x_b = x − b(e^h − 1) [ε_0 + (ε(u, m) − ε_0)/(2r)], m = a e^{−rh}.

    Lu et al. 2022a, Algorithm 1 (r = ½) and Algorithm 4. Order 2, two evaluations per step.
    """

    r: float = 0.5
    kind: Literal["dpm_solver_2"] = "dpm_solver_2"
    order: ClassVar[int] = 2
    on_noise: ClassVar[bool] = True  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _inside("r", self.r)

    @property
    def scheme(self) -> Scheme:
        return two_stages(self.r)


@component
class DPMSolver3(ExponentialRungeKutta):
    """DPM-Solver-3, with the stages at ⅓ and ⅔ of the step: order 3, three evaluations per step.

    Lu et al. 2022a, Algorithm 2.
    """

    kind: Literal["dpm_solver_3"] = "dpm_solver_3"
    order: ClassVar[int] = 3
    on_noise: ClassVar[bool] = True  # type: ignore[assignment]

    @property
    def scheme(self) -> Scheme:
        return three_stages(1 / 3)


@component
class DPMSolverFast(ExponentialRungeKutta):
    """DPM-Solver-fast: steps of order 3, and lower orders at the end (Lu et al. 2022a, section 3.4 and Appendix D.4).

    Of N falls that end at σ = 0 the orders are 3, …, 3, 2, 1 and the evaluations 3(N − 1), the paper's split of a
    budget K that 3 divides, with its last step the fall to 0; one fall costs one evaluation. A walk that ends above 0
    takes 3, …, 3, 2, the paper's split of K = 3N − 1. Order 3 either way: one step of order 2 leaves an error of h³.
    """

    kind: Literal["dpm_solver_fast"] = "dpm_solver_fast"
    order: ClassVar[int] = 3
    on_noise: ClassVar[bool] = True  # type: ignore[assignment]

    @property
    def scheme(self) -> Scheme:
        return three_stages(1 / 3)

    def schemes(self, falls: int, to_zero: bool) -> list[Scheme]:
        tail = [two_stages(0.5), one_stage()] if to_zero else [two_stages(0.5)]
        return ([self.scheme] * falls + tail)[len(tail) :] if falls >= len(tail) else tail[-falls:]
