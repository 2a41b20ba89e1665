"""Exponential multistep methods in λ = −ln σ: exact in the linear part, blind to the schedule.

With noise amplitude η the reverse process is dx = (1+η²)(D − x) dλ + √2 η σ dw. Over a step h = ln(a/b), A = 1 + η²,

    x_b = e^{−Ah} x_a + ∫_0^h A e^{−A(h−u)} D(λ_a + u) du + b √(1 − e^{−2η²h}) n · …

precisely, the factor of x_a is (b/a) e^{−η²h} and the noise has standard deviation b √(1 − e^{−2η²h}). A multistep
method replaces D by its interpolant through the last outputs; the integrals of that are φ-functions,

    φ_0(z) = e^z,   φ_{k+1}(z) = (φ_k(z) − 1/k!)/z,   ∫_0^1 H e^{−H(1−v)} v^k dv = k! H φ_{k+1}(−H),   H = Ah.

History does not reach across a rise or a repeat of the level (x has then left the curve on which D was evaluated), and
the fall to σ = 0 (h = ∞) returns D: order 1. ``end="lower"`` leads up to that: order 2 in the step before it, 3 in the
one before that, as published ("lower order final"), for the last finite steps are long in λ where levels are few.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import choice, component, count, nonnegative
from edm_unified.sampling.dynamics import Dynamics, Level, Walk
from edm_unified.sampling.solvers.coordinates import ENDS, STARTS, End, Start, weights_of_moments
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row


def phi(k: int, z: float) -> float:
    """φ_k(z) in float64 (Hochbruck & Ostermann 2010, Eq. 2.10)."""
    return phis(k, z)[k]


def phis(k: int, z: float) -> list[float]:
    """φ_0(z) … φ_k(z): where |z| < 1 the series of the last and the recursion down, beyond it the recursion up.

    Each way the recursion multiplies an error by less than one.
    """
    if abs(z) >= 1:
        values = [math.exp(z)]
        for i in range(k):
            values.append((values[-1] - 1 / math.factorial(i)) / z)
        return values
    term = total = 1 / math.factorial(k)
    j = k
    while abs(term) > 1e-18 * total:
        j += 1
        term *= z / j
        total += term
    values = [total]
    for i in reversed(range(k)):
        values.append(z * values[-1] + 1 / math.factorial(i))
    return values[::-1]


class Plan(NamedTuple):
    """State: rows for each fall (weights of history oldest first, then x; noise), which is next, and past outputs."""

    rows: tuple[tuple[int, Row, float], ...]  # how many past outputs are used, weights, standard deviation
    turn: int
    history: tuple[Tensor, ...]  # oldest first
    closings: Mapping[int, Row] = MappingProxyType({})  # of (D at b, D at a, x), for the falls that evaluate D twice


class ExponentialMultistep(ABC):
    """Final subclasses weigh the outputs; the rest (decay, noise, history) is common to all of them."""

    @property
    @abstractmethod
    def most_outputs(self) -> int:
        """How many outputs of D a step uses once the history is long enough."""

    @property
    @abstractmethod
    def noise(self) -> float:
        """η."""

    start: ClassVar[str] = "plain"
    end: ClassVar[str] = "full"

    @abstractmethod
    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        """Weights of the outputs at ``nodes``, in units of the step (0 is the newest, the others negative, falling)."""

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All rows of the walk."""
        falls = walk.falls
        streaks = walk.streaks
        outputs = walk.outputs(self.most_outputs, self.end)
        rows = tuple(self._row(falls, i, used - 1) for i, used in enumerate(outputs))
        if self.start == "plain" or self.most_outputs == 1:
            return Plan(rows, 0, ())
        first = [i for i, streak in enumerate(streaks) if streak == 0 and falls[i][1].sigma > 0]
        return Plan(rows, 0, (), {i: self._closing(rows[i], falls[i]) for i in first})

    def _closing(self, first: tuple[int, Row, float], fall: tuple[Level, Level]) -> Row:
        """Weights of (D at b, D at a, x) that end a step whose ``first`` row led to b: the integral through both."""
        H = (1 + self.noise**2) * math.log(fall[0].sigma / fall[1].sigma)
        at_a, at_b = self.output_weights(H, [0.0, 1.0])
        return row((at_b, at_a, first[1].weights[-1]))

    def _row(self, falls: list[tuple[Level, Level]], i: int, past: int) -> tuple[int, Row, float]:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return 0, row((1.0, 0.0)), 0.0
        h = math.log(a / b)
        nodes = [math.log(a / falls[i - j][0].sigma) / h for j in range(past + 1)]
        eta2 = self.noise**2
        outputs = self.output_weights((1 + eta2) * h, nodes)
        keep = b / a * math.exp(-eta2 * h)
        return past, row((*reversed(outputs), keep)), b * math.sqrt(-math.expm1(-2 * eta2 * h))

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        past, weights, std = state.rows[state.turn]
        used = (*state.history[len(state.history) - past :], dynamics.denoise(x, a))
        out = combine(weights, (*used, x))
        history = used[-(self.most_outputs - 1) :] if self.most_outputs > 1 else ()
        noise = randn() if std else None
        out = out if noise is None else torch.add(out, noise, alpha=std)
        if state.closings and state.turn in state.closings:
            out = combine(state.closings[state.turn], (dynamics.denoise(out, b), used[-1], x))
            out = out if noise is None else torch.add(out, noise, alpha=std)  # the same noise: one path of the SDE
        return out, Plan(state.rows, state.turn + 1, history, state.closings)


def lagrange_weights(H: float, nodes: list[float]) -> list[float]:
    """∫_0^1 H e^{−H(1−v)} ℓ_j(v) dv for the Lagrange basis ℓ_j on ``nodes``.

    They are the w with Σ_j w_j v_j^k = ∫_0^1 H e^{−H(1−v)} v^k dv.
    """
    return weights_of_moments(
        nodes, [math.factorial(k) * H * value for k, value in enumerate(phis(len(nodes), -H)[1:])]
    )


@component
class ExponentialAdams(ExponentialMultistep):
    """Exponential Adams–Bashforth on D: the exact integral of the interpolant of the last ``order`` outputs.

    Order 1 to 4, one evaluation per step; with noise the weak order is 2 at most. η = 0: order 1 is DDIM, order 2
    UniP-2, order 3 the DPM-Solver++(3M) that was meant (Hochbruck & Ostermann 2010, section 2.5; Lu et al. 2022b). η >
    0: the predictor of SA-Solver with constant τ = η (Xue et al. 2023), SDE-DPM-Solver++ at order 1.

    The first step of a history is of order 1, which leaves order 2 at the end whatever comes after. ``start="rk2"``
    closes it with a second evaluation, at b (and the same noise), which keeps order 3.
    """

    order: int = 2
    eta: float = 0.0
    start: Start = "plain"  # type: ignore[misc]
    end: End = "full"  # type: ignore[misc]
    kind: Literal["exponential_adams"] = "exponential_adams"
    later: ClassVar[tuple[str, ...]] = ("end",)

    def __post_init__(self) -> None:
        count("order", self.order, most=4)
        nonnegative("eta", self.eta)
        choice("start", self.start, STARTS)
        choice("end", self.end, ENDS)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def most_outputs(self) -> int:
        return self.order

    @property
    def noise(self) -> float:
        return self.eta

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return lagrange_weights(H, nodes)


def _midpoint_weights(H: float, nodes: list[float]) -> list[float]:
    """(1 − e^{−H}) on D_0 + (D_0 − D_{−1})/(2r), r = h_prev/h: the printed coefficients of the 2M methods."""
    whole = -math.expm1(-H)
    if len(nodes) == 1:
        return [whole]
    half_slope = 0.5 * whole / -nodes[1]
    return [whole + half_slope, -half_slope]


@component
class DPMSolverPP2M(ExponentialMultistep):
    """DPM-Solver++(2M): x_b = (b/a) x + (1 − e^{−h}) [D_0 + (D_0 − D_{−1})/(2r)], r = h_prev/h.

    Lu et al. 2022b, Algorithm 2. Order 2, one evaluation per step. The bracket is the value of the linear interpolant
    in the middle of the step, where :class:`ExponentialAdams` of order 2 integrates it exactly. ``start="rk2"`` spends
    a second evaluation on the first step; the order is 2 without it.
    """

    start: Start = "plain"  # type: ignore[misc]
    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    later: ClassVar[tuple[str, ...]] = ("start",)
    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    most_outputs: ClassVar[int] = 2  # type: ignore[assignment]
    noise: ClassVar[float] = 0.0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        choice("start", self.start, STARTS)

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return _midpoint_weights(H, nodes)


@component
class DPMSolverPP2MSDE(ExponentialMultistep):
    """SDE-DPM-Solver++(2M): as 2M with h → H = (1+η²)h in the exponentials, plus b √(1 − e^{−2η²h}) n.

    Lu et al. 2022b, Eq. 18. ``correction`` is the form of the second-order term: ``midpoint`` as printed, ``heun`` its
    exact integral H φ_2(−H), which is :class:`ExponentialAdams` of order 2. Weak order 2, one evaluation per step.
    """

    eta: float = 1.0
    correction: Literal["midpoint", "heun"] = "midpoint"
    kind: Literal["dpmpp_2m_sde"] = "dpmpp_2m_sde"
    order: ClassVar[int] = 2
    most_outputs: ClassVar[int] = 2  # type: ignore[assignment]

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)
        choice("correction", self.correction, _CORRECTIONS)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def noise(self) -> float:
        return self.eta

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return _CORRECTIONS[self.correction](H, nodes)


_CORRECTIONS = {"midpoint": _midpoint_weights, "heun": lagrange_weights}
