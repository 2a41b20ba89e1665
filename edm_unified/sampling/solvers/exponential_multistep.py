"""Exponential multistep methods in λ = −ln σ: exact in the linear part, blind to the schedule.

With noise amplitude η the reverse process is dx = (1+η²)(D − x) dλ + √2 η σ dw. Over a step of length h = ln(a/b), with
A = 1 + η² and n a unit noise,

    x_b = (b/a) e^{−η²h} x_a + ∫_0^h A e^{−A(h−u)} D(λ_a + u) du + b √(1 − e^{−2η²h}) n.

A multistep method replaces D by its interpolant through the last outputs; the integrals of that are φ-functions of
H = Ah (:mod:`~edm_unified.sampling.solvers.phi`).

History does not reach across a rise or a repeat of the level (x has then left the curve on which D was evaluated), and
the fall to σ = 0 (h = ∞) returns D: order 1. ``end="lower"`` leads up to that: order 2 in the step before it, 3 in the
one before that, as published ("lower order final"), for the last finite steps are long in λ where levels are few.
``start="rk2"`` closes the first step of a history with a second evaluation, at b, with the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, expm1, log, sqrt
from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.multistep import End, Multistep, Start, UpTo4
from edm_unified.sampling.solvers.phi import lagrange_weights, phis
from edm_unified.sampling.solvers.printed import Form, Step, weighed

WeightsOf = Callable[[float, list[float]], list[float]]
"""H and the places of outputs of D, in units of the step (0 is its start, the past negative) to their weights."""


def exponential_step(
    step: Step,
    x: Form,
    a: Level,
    b: Level,
    weights: WeightsOf,
    outputs: int,
    eta: float = 0.0,
    start: Start = "plain",
    end: End = "full",
) -> Form:
    """x_b = (b/a) e^{−η²h} x + Σ_j w_j D_j + b √(1 − e^{−2η²h}) n, of at most ``outputs`` outputs D_j."""
    D = step.denoise(x, a)
    levels, values = step.history(a, D, outputs, end)
    if b.sigma == 0:
        return D
    h, H = step.h, (1 + eta**2) * step.h
    nodes = [log(a.sigma / level.sigma) / h for level in levels]
    x_b = b.sigma / a.sigma * exp(-(eta**2) * h) * x + b.sigma * sqrt(-expm1(-2 * eta**2 * h)) * step.noise()
    predicted = x_b + weighed(weights(H, nodes), values)
    if start == "plain" or outputs == 1 or step.past(1):
        return predicted
    return x_b + weighed(weights(H, [0.0, 1.0]), [D, step.denoise(predicted, b)])


def midpoint_weights(H: float, nodes: Sequence[float]) -> list[float]:
    """(1 − e^{−H}) on D_0 + (D_0 − D_{−1})/(2r), r = h_prev/h: the printed coefficients of the 2M methods."""
    if len(nodes) == 1:
        return [-expm1(-H)]
    r = -nodes[1]
    return [-expm1(-H) * (1 + 1 / (2 * r)), expm1(-H) / (2 * r)]


def taylor_weights(H: float, nodes: Sequence[float], factor: float = 2.0, phi_3: float | None = None) -> list[float]:
    """Weights of (D_0, D_{−1}, D_{−2}), or of as many as there are ``nodes``, in the Taylor form of the 3M methods:

        d_0 = (D_0 − D_{−1})/r_0,   d_1 = (D_{−1} − D_{−2})/r_1,   r_0 = h_{−1}/h,  r_1 = h_{−2}/h,
        D1 = d_0 + r_0/(r_0 + r_1) (d_0 − d_1) ≈ h D',    D2 = 2 (d_0 − d_1)/(r_0 + r_1) ≈ h² D'',
        Σ_j w_j D_j = H φ_1 D_0 + H φ_2 D1 + H φ_3 D2,    φ_k = φ_k(−H).

    The 2 in D2 (``factor``) makes it the second derivative, which is what φ_3 multiplies; without it the method has
    order 2 (:mod:`~edm_unified.sampling.solvers.as_published`). With it the method is exponential Adams of order 3, to
    rounding. ``phi_3`` stands in the place of φ_3(−H).
    """
    _, one, two, three = phis(3, -H)
    if len(nodes) == 1:
        return [H * one]
    r0 = -nodes[1]
    if len(nodes) == 2:
        return [H * one + H * two / r0, -H * two / r0]
    r1 = nodes[1] - nodes[2]
    third = three if phi_3 is None else phi_3
    slope = H * two * (1 + r0 / (r0 + r1)) + H * third * factor / (r0 + r1)  # of d_0
    before = -H * two * r0 / (r0 + r1) - H * third * factor / (r0 + r1)  # of d_1
    return [H * one + slope / r0, before / r1 - slope / r0, -before / r1]


@component
class DPMSolverPP2M(Multistep):
    """DPM-Solver++(2M): (1 − e^{−h}) on D_0 + (D_0 − D_{−1})/(2r), r = h_prev/h. Order 2, one evaluation per step.

    Lu et al. 2022b, Algorithm 2. It takes the interpolant at the middle of the step, where :class:`ExponentialAdams` of
    order 2 integrates it exactly. ``start="rk2"`` spends a second evaluation on the first step; the order is 2 without
    it.
    """

    start: Start = "plain"
    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    added_later: ClassVar[tuple[str, ...]] = ("start",)
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.remember(step.denoise(x, a))
        if b.sigma == 0:
            return D
        h = step.h
        for before, D_before in step.past(1):  # none in the first step of a history
            r = log(before.sigma / a.sigma) / h
            D = (1 + 1 / (2 * r)) * D - 1 / (2 * r) * D_before  # Algorithm 2, line 7
        x_b = b.sigma / a.sigma * x - expm1(-h) * D  # line 8
        if self.start == "plain" or step.past(1):
            return x_b
        return b.sigma / a.sigma * x - expm1(-h) * (0.5 * D + 0.5 * step.denoise(x_b, b))


@component
class DPMSolverPP2MSDE(Multistep):
    """SDE-DPM-Solver++(2M): as 2M with h → H = (1+η²)h in the exponentials, plus b √(1 − e^{−2η²h}) n.

    Lu et al. 2022b, Eq. 18. ``correction`` is the form of the second-order term: ``midpoint`` as printed, ``heun`` its
    exact integral H φ_2(−H), which is :class:`ExponentialAdams` of order 2. Weak order 2, one evaluation per step.
    """

    eta: Nonnegative = 1.0
    correction: Literal["midpoint", "heun"] = "midpoint"
    kind: Literal["dpmpp_2m_sde"] = "dpmpp_2m_sde"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        weights = midpoint_weights if self.correction == "midpoint" else lagrange_weights
        return exponential_step(step, x, a, b, weights, 2, self.eta)


@component
class DPMSolverPP3M(Multistep):
    """DPM-Solver++(3M) with D2 = 2 (d_0 − d_1)/(r_0 + r_1): order 3, one evaluation per step.

    In the code of Lu et al. 2022b, not in the paper. The same method as ``ExponentialAdams(order=3)``, with its
    ``start`` and ``end``. Four widely used libraries lack the 2 and have order 2: ``dpmpp_3m_published`` is theirs. At
    ten steps the two are alike.
    """

    start: Start = "plain"
    end: End = "full"
    kind: Literal["dpmpp_3m"] = "dpmpp_3m"
    added_later: ClassVar[tuple[str, ...]] = ("start", "end")
    order: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, taylor_weights, 3, start=self.start, end=self.end)


@component
class DPMSolverPP3MSDE(Multistep):
    """SDE-DPM-Solver++(3M): 3M with h → H = (1 + η²) h, plus b √(1 − e^{−2η²h}) n; one evaluation per step.

    The same method as ``ExponentialAdams(order=3, eta=eta)``, with its ``start`` and ``end``. The drift has order 3,
    the samples weak order 2.
    """

    eta: Nonnegative = 1.0
    start: Start = "plain"
    end: End = "full"
    kind: Literal["dpmpp_3m_sde"] = "dpmpp_3m_sde"
    added_later: ClassVar[tuple[str, ...]] = ("start", "end")
    order: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, taylor_weights, 3, self.eta, self.start, self.end)


@component
class ExponentialAdams(Multistep):
    """Exponential Adams–Bashforth on D: the exact integral of the interpolant of the last ``order`` outputs.

    Order 1 to 4, one evaluation per step; with noise the weak order is 2 at most. η = 0: order 1 is DDIM, order 2
    UniP-2, order 3 the DPM-Solver++(3M) that was meant (Hochbruck & Ostermann 2010, section 2.5; Lu et al. 2022b). η >
    0: the predictor of SA-Solver with constant τ = η (Xue et al. 2023), SDE-DPM-Solver++ at order 1.

    The first step of a history is of order 1, which leaves order 2 at the end whatever comes after. ``start="rk2"``
    closes it with a second evaluation, at b (and the same noise), which keeps order 3.
    """

    order: UpTo4 = 2
    eta: Nonnegative = 0.0
    start: Start = "plain"
    end: End = "full"
    kind: Literal["exponential_adams"] = "exponential_adams"
    added_later: ClassVar[tuple[str, ...]] = ("end",)

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, lagrange_weights, self.order, self.eta, self.start, self.end)
