"""Exponential multistep methods in λ = −ln σ: exact in the linear part, blind to the schedule.

With noise amplitude η the reverse process is dx = (1+η²)(D − x) dλ + √2 η σ dw. Over a step h = ln(a/b), A = 1 + η²,

    x_b = e^{−Ah} x_a + ∫_0^h A e^{−A(h−u)} D(λ_a + u) du + b √(1 − e^{−2η²h}) n · …

precisely, the factor of x_a is (b/a) e^{−η²h} and the noise has standard deviation b √(1 − e^{−2η²h}). A multistep
method replaces D by its interpolant through the last outputs; the integrals of that are φ-functions,

    φ_0(z) = e^z,   φ_{k+1}(z) = (φ_k(z) − 1/k!)/z,   ∫_0^1 H e^{−H(1−v)} v^k dv = k! H φ_{k+1}(−H),   H = Ah.

History does not reach across a rise or a repeat of the level (x has then left the curve on which D was evaluated), and
the fall to σ = 0 (h = ∞) returns D: order 1, as published ("lower order final").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified._component import choice, component, count, nonnegative
from edm_unified.dynamics import Dynamics, Level, Walk
from edm_unified.solvers.linear import Randn, Row, combine, row


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

    @abstractmethod
    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        """Weights of the outputs at ``nodes``, in units of the step (0 is the newest, the others negative, falling)."""

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All rows of the walk."""
        falls = walk.falls
        return Plan(tuple(self._row(falls, i, streak) for i, streak in enumerate(walk.streaks)), 0, ())

    def _row(self, falls: list[tuple[Level, Level]], i: int, streak: int) -> tuple[int, Row, float]:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return 0, row((1.0, 0.0)), 0.0
        past = min(self.most_outputs - 1, streak)
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
        x = combine(weights, (*used, x))
        history = used[-(self.most_outputs - 1) :] if self.most_outputs > 1 else ()
        return torch.add(x, randn(), alpha=std) if std else x, Plan(state.rows, state.turn + 1, history)


def lagrange_weights(H: float, nodes: list[float]) -> list[float]:
    """∫_0^1 H e^{−H(1−v)} ℓ_j(v) dv for the Lagrange basis ℓ_j on ``nodes``.

    They are the w with Σ_j w_j v_j^k = ∫_0^1 H e^{−H(1−v)} v^k dv, a Vandermonde system, which is solved by Björck &
    Pereyra 1970 (Golub & Van Loan 2013, Algorithm 4.6.2).
    """
    w = [math.factorial(k) * H * value for k, value in enumerate(phis(len(nodes), -H)[1:])]
    last = len(w) - 1
    for k in range(last):
        for i in range(last, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            w[i] -= w[i + 1]
    return w


@component
class ExponentialAdams(ExponentialMultistep):
    """Exponential Adams–Bashforth on D: the exact integral of the interpolant of the last ``order`` outputs.

    Order 1 to 3 (4 is allowed; it is rarely better), one evaluation per step. η = 0: order 1 is DDIM, order 2 UniP-2,
    order 3 the DPM-Solver++(3M) that was meant (Hochbruck & Ostermann 2010, section 2.5; Lu et al. 2022b). η > 0: the
    predictor of SA-Solver with constant τ = η (Xue et al. 2023), SDE-DPM-Solver++ at order 1.
    """

    order: int = 2
    eta: float = 0.0
    kind: Literal["exponential_adams"] = "exponential_adams"

    def __post_init__(self) -> None:
        count("order", self.order, most=4)
        nonnegative("eta", self.eta)

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
    in the middle of the step, where :class:`ExponentialAdams` of order 2 integrates it exactly.
    """

    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    most_outputs: ClassVar[int] = 2  # type: ignore[assignment]
    noise: ClassVar[float] = 0.0  # type: ignore[assignment]

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
