"""Linear multistep methods: one evaluation a step, and the exact integral of an interpolant of the history.

What tells them apart is the quantity that is interpolated, and the coordinate in which it is taken for a polynomial:
see :mod:`~edm_unified.sampling.solvers.coordinates`, which holds all the mathematics. None of them sees the schedule
(but for the start of :class:`PNDM`).

The first step of a history has one output and is of order 1: its O(h²) error is carried to the end, and leaves order 2
whatever comes after. ``start="rk2"`` makes that step a Heun step in the method's own coordinate, for one evaluation
more, which keeps order 3. History does not reach across a rise or a repeat of the level (x has left the curve on which
D was evaluated); it starts again there.

The fall to σ = 0 integrates the interpolant to the end where the coordinate is finite there, as k-diffusion's LMS does,
and returns D where it is not, or where there is no history. ``end="lower"`` uses no more outputs than there are falls
left, so that the last is D, the one before of order 2, and so on.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from edm_unified.components.component import choice, component, count, nonnegative, positive
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.coordinates import Arc, Coordinate, FlowTime, LogSNR, Sigma, StepIndex, VPTime
from edm_unified.sampling.solvers.options import ENDS, STARTS, End, Start
from edm_unified.sampling.solvers.phi import weights_of_moments
from edm_unified.sampling.solvers.printed import Form, Printed, Step, weighed


def adams_step(
    step: Step,
    x: Form,
    a: Level,
    b: Level,
    coordinate: Coordinate,
    outputs: int,
    start: Start = "plain",
    end: End = "full",
) -> Form:
    """m_b x_b = m_a x_a + Σ_j c_j f_j, c_j = ∫_a^b ℓ_j(u) K du, of at most ``outputs`` outputs f_j."""
    D = step.denoise(x, a)
    f = step.remember(coordinate.f(x, D, a.sigma))
    past = step.past((min(outputs, step.left) if end == "lower" else outputs) - 1)
    if b.sigma == 0 and not (past and coordinate.reaches_zero):
        return D
    y, m_b, span = coordinate.m(a.sigma) * x, coordinate.m(b.sigma), coordinate.span(a.sigma, b.sigma)
    nodes = coordinate.nodes(a.sigma, b.sigma, [before.sigma for before, _ in past])
    w = weights_of_moments(nodes, coordinate.moments(a.sigma, b.sigma, len(nodes)))
    x_b = (y + span * weighed(w, [f, *(f_j for _, f_j in past)])) / m_b
    if start == "plain" or outputs == 1 or step.past(1) or b.sigma == 0:
        return x_b
    f_b = coordinate.f(x_b, step.denoise(x_b, b), b.sigma)
    w = weights_of_moments([0.0, 1.0], coordinate.moments(a.sigma, b.sigma, 2))
    return (y + span * weighed(w, [f, f_b])) / m_b


class AdamsBashforth(Printed):
    """What the methods of a settable ``order`` have in common; final subclasses say in which coordinate they work."""

    order: int
    start: Start
    end: End
    stochastic: ClassVar[bool] = False
    added_later: ClassVar[tuple[str, ...]] = ("end",)

    @property
    @abstractmethod
    def coordinate(self) -> Coordinate: ...

    @property
    def most_outputs(self) -> int:
        """How many outputs a step uses once the history is long enough."""
        return self.order

    def __post_init__(self) -> None:
        count("order", self.order, most=4)
        choice("start", self.start, STARTS)
        choice("end", self.end, ENDS)

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return adams_step(step, x, a, b, self.coordinate, self.most_outputs, self.start, self.end)


@component
class LMS(AdamsBashforth):
    """Adams–Bashforth on ε in σ with the steps as they are: x_b = x_a + Σ_j ε_j ∫_a^b ℓ_j(σ) dσ.

    k-diffusion's LMS, iPNDM_v, and ρAB-DEIS (Zhang & Chen 2022, Eq. 15, in their ρ = σ). Order 1 (DDIM) to 4. On widely
    spread levels :class:`IPNDM`, of lower order, is often better.
    """

    order: int = 4
    start: Start = "plain"
    end: End = "full"
    kind: Literal["lms"] = "lms"

    @property
    def coordinate(self) -> Coordinate:
        return Sigma()


@component
class IPNDM(Printed):
    """x_b = x_a + (b − a)(55ε_0 − 59ε_1 + 37ε_2 − 9ε_3)/24: the weights of even steps, on steps that are not.

    Zhang & Chen 2022, appendix (as "improved PNDM"; Liu et al. 2022, Eq. 9). 1, (3, −1)/2, (23, −16, 5)/12 while the
    history is short. ε is extrapolated in the number of the step. Formally of order 2 where the levels are a smooth
    function of it and 1 on others, order ``max_order`` where steps in σ are even (it is :class:`LMS` then); yet with
    four outputs it is among the best published methods at 5 to 10 evaluations.
    """

    max_order: int = 4
    start: Start = "plain"
    end: End = "full"
    kind: Literal["ipndm"] = "ipndm"
    stochastic: ClassVar[bool] = False
    added_later: ClassVar[tuple[str, ...]] = ("end",)
    coordinate: ClassVar[Coordinate] = StepIndex()

    def __post_init__(self) -> None:
        count("max_order", self.max_order, most=4)
        choice("start", self.start, STARTS)
        choice("end", self.end, ENDS)

    @property
    def order(self) -> int:
        return min(self.max_order, 2)

    @property
    def most_outputs(self) -> int:
        return self.max_order

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return adams_step(step, x, a, b, self.coordinate, self.most_outputs, self.start, self.end)


@component
class PNDM(Printed):
    """:class:`IPNDM` of four outputs, whose first three steps are pseudo-Runge–Kutta (Liu et al. 2022, Algorithm 2).

    Those take four evaluations each: ε at a, twice at the level in the middle of the step in t, and at b, weighed
    (1, 2, 2, 1)/6, all steps straight in σ; under :class:`~edm_unified.schedules.EDM` it is
    :class:`~edm_unified.sampling.solvers.RK4`. So N steps cost N + 9 evaluations. Order 2, as IPNDM.
    """

    kind: Literal["pndm"] = "pndm"
    stochastic: ClassVar[bool] = False
    order: ClassVar[int] = 2
    most_outputs: ClassVar[int] = 4
    coordinate: ClassVar[Coordinate] = StepIndex()

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if len(step.past(3)) == 3 or b.sigma == 0:
            return adams_step(step, x, a, b, self.coordinate, self.most_outputs)
        middle, h = step.in_time(0.5), b.sigma - a.sigma

        def eps(x: Form, level: Level) -> Form:
            return (x - step.denoise(x, level)) / level.sigma

        e1 = step.remember(eps(x, a))  # Eq. 13, with Φ(x, e, a, b) = x + (b − a) e
        e2 = eps(x + (middle.sigma - a.sigma) * e1, middle)
        e3 = eps(x + (middle.sigma - a.sigma) * e2, middle)
        e4 = eps(x + h * e3, b)
        return x + h / 6 * (e1 + 2 * e2 + 2 * e3 + e4)


@component
class DEIS(AdamsBashforth):
    """tAB-DEIS: Adams–Bashforth on ε in the time of VP, x_b = x_a + Σ_j ε_j ∫_a^b ℓ_j(t(σ)) dσ.

    Zhang & Chen 2022, Eq. 15; their tAB-r interpolates r + 1 outputs and is ``order`` r + 1 here (1 is DDIM). β_d and
    β_min are those of the VP schedule whose t is meant, and only β_min²/β_d matters. It goes with levels that are even
    in √t, :class:`~edm_unified.sampling.levels.VPTime`.
    """

    order: int = 3
    beta_d: float = 19.9
    beta_min: float = 0.1
    start: Start = "plain"
    end: End = "full"
    kind: Literal["deis"] = "deis"

    def __post_init__(self) -> None:
        AdamsBashforth.__post_init__(self)
        nonnegative("beta_d", self.beta_d)
        positive("beta_min", self.beta_min)

    @property
    def coordinate(self) -> Coordinate:
        return VPTime(self.beta_d, self.beta_min)


@component
class ExponentialAdamsNoise(AdamsBashforth):
    """Exponential Adams on ε: x_b = x_a − Σ_j ε_j ∫_0^h σ ℓ_j(λ) dλ, λ = −ln σ.

    The multistep form of DPM-Solver (Lu et al. 2022a, Eq. 3.4; UniP in its noise prediction, Zhao et al. 2023). Order 1
    (DDIM) to 4. :class:`~edm_unified.sampling.solvers.ExponentialAdams` interpolates D instead, and is stabler at few
    steps.
    """

    order: int = 2
    start: Start = "plain"
    end: End = "full"
    kind: Literal["exponential_adams_epsilon"] = "exponential_adams_epsilon"

    @property
    def coordinate(self) -> Coordinate:
        return LogSNR()


@component
class VelocityAdams(AdamsBashforth):
    """Adams–Bashforth on the flow's velocity v = ε − D in u = σ/(1+σ): y_b = y_a + Σ_j v_j ∫ ℓ_j du, y = x/(1+σ).

    Order 1 is Euler under :class:`~edm_unified.schedules.FlowMatching`, orders 2 to 4 its multistep forms: natural for
    rectified-flow networks, and good at 5 to 20 evaluations on any.
    """

    order: int = 3
    start: Start = "plain"
    end: End = "full"
    kind: Literal["velocity_adams"] = "velocity_adams"

    @property
    def coordinate(self) -> Coordinate:
        return FlowTime()


@component
class TrigonometricAdams(AdamsBashforth):
    """Adams–Bashforth on the raw output F in θ = arctan(σ/σ_d): y_b = y_a + Σ_j F_j ∫ ℓ_j dθ, y = x/√(σ²+σ_d²).

    F = (c_skip x − D)/c_out with EDM's c_skip and c_out (Karras et al. 2022, Table 1), or v-prediction's for σ_d = 1,
    has unit variance at every θ; dy/dθ = F is TrigFlow's ODE (Lu & Song 2024, Eq. 4). Order 1 is Euler under
    :class:`~edm_unified.schedules.Trigonometric` for σ_d = 1, and not DDIM, which turns by the angle of the step where
    this goes straight. For 20 evaluations and more. Unlike the others it does not keep a constant x = D exactly.
    """

    order: int = 3
    sigma_data: float = 0.5
    start: Start = "plain"
    end: End = "full"
    kind: Literal["trigonometric_adams"] = "trigonometric_adams"

    def __post_init__(self) -> None:
        AdamsBashforth.__post_init__(self)
        positive("sigma_data", self.sigma_data, 1e-6, 1e6)  # cos of arctan σ/σ_data must keep digits

    @property
    def coordinate(self) -> Coordinate:
        return Arc(self.sigma_data)
