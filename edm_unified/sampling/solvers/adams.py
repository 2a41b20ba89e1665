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
from typing import Annotated, ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative, Positive, positive_number
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.coordinates import Arc, Coordinate, FlowTime, LogSNR, Sigma, StepIndex, TimeOfVP
from edm_unified.sampling.solvers.multistep import End, Multistep, Start, UpTo4
from edm_unified.sampling.solvers.phi import weights_of_moments
from edm_unified.sampling.solvers.printed import Form, Step, weighed


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
    f = coordinate.f(x, D, a.sigma)
    levels, values = step.history(a, f, outputs, end)
    if b.sigma == 0 and not (len(levels) > 1 and coordinate.reaches_zero):
        return D
    y, m_b, span = coordinate.m(a.sigma) * x, coordinate.m(b.sigma), coordinate.span(a.sigma, b.sigma)
    nodes = coordinate.nodes(a.sigma, b.sigma, [level.sigma for level in levels[1:]])
    w = weights_of_moments(nodes, coordinate.moments(a.sigma, b.sigma, len(nodes)))
    x_b = (y + span * weighed(w, values)) / m_b
    if start == "plain" or outputs == 1 or step.past(1) or b.sigma == 0:
        return x_b
    f_b = coordinate.f(x_b, step.denoise(x_b, b), b.sigma)
    w = weights_of_moments([0.0, 1.0], coordinate.moments(a.sigma, b.sigma, 2))
    return (y + span * weighed(w, [f, f_b])) / m_b


class AdamsBashforth(Multistep):
    """What these methods have in common; final subclasses say in which coordinate they work."""

    start: Start
    end: End
    added_later: ClassVar[tuple[str, ...]] = ("end",)

    @property
    @abstractmethod
    def coordinate(self) -> Coordinate: ...

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return adams_step(step, x, a, b, self.coordinate, self.most_outputs, self.start, self.end)


@component
class LMS(AdamsBashforth):
    """Adams–Bashforth on ε in σ with the steps as they are: x_b = x_a + Σ_j ε_j ∫_a^b ℓ_j(σ) dσ.

    k-diffusion's LMS, iPNDM_v, and ρAB-DEIS (Zhang & Chen 2022, Eq. 15, in their ρ = σ). Order 1 (DDIM) to 4. On widely
    spread levels :class:`IPNDM`, of lower order, is often better.
    """

    order: UpTo4 = 4
    start: Start = "plain"
    end: End = "full"
    kind: Literal["lms"] = "lms"
    coordinate: ClassVar[Coordinate] = Sigma()


@component
class IPNDM(AdamsBashforth):
    """x_b = x_a + (b − a)(55ε_0 − 59ε_1 + 37ε_2 − 9ε_3)/24: the weights of even steps, on steps that are not.

    Zhang & Chen 2022, appendix (as "improved PNDM"; Liu et al. 2022, Eq. 9). 1, (3, −1)/2, (23, −16, 5)/12 while the
    history is short. ε is extrapolated in the number of the step. Formally of order 2 where the levels are a smooth
    function of it and 1 on others, order ``max_order`` where steps in σ are even (it is :class:`LMS` then); yet with
    four outputs it is among the best published methods at 5 to 10 evaluations.
    """

    max_order: UpTo4 = 4
    start: Start = "plain"
    end: End = "full"
    kind: Literal["ipndm"] = "ipndm"
    coordinate: ClassVar[Coordinate] = StepIndex()

    @property
    def order(self) -> int:
        return min(self.max_order, 2)

    @property
    def most_outputs(self) -> int:
        return self.max_order


@component
class PNDM(Multistep):
    """:class:`IPNDM` of four outputs, whose first three steps are pseudo-Runge–Kutta (Liu et al. 2022, Algorithm 2).

    Those take four evaluations each: ε at a, twice at the level in the middle of the step in t, and at b, weighed
    (1, 2, 2, 1)/6, all steps straight in σ; under :class:`~edm_unified.schedules.EDM` it is
    :class:`~edm_unified.sampling.solvers.RK4`. So N steps cost N + 9 evaluations. Order 2, as IPNDM.
    """

    kind: Literal["pndm"] = "pndm"
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

    order: UpTo4 = 3
    beta_d: Nonnegative = 19.9
    beta_min: Positive = 0.1
    start: Start = "plain"
    end: End = "full"
    kind: Literal["deis"] = "deis"

    @property
    def coordinate(self) -> Coordinate:
        return TimeOfVP(self.beta_d, self.beta_min)


@component
class ExponentialAdamsNoise(AdamsBashforth):
    """Exponential Adams on ε: x_b = x_a − Σ_j ε_j ∫_0^h σ ℓ_j(λ) dλ, λ = −ln σ.

    The multistep form of DPM-Solver (Lu et al. 2022a, Eq. 3.4; UniP in its noise prediction, Zhao et al. 2023). Order 1
    (DDIM) to 4. :class:`~edm_unified.sampling.solvers.ExponentialAdams` interpolates D instead, and is stabler at few
    steps.
    """

    order: UpTo4 = 2
    start: Start = "plain"
    end: End = "full"
    kind: Literal["exponential_adams_epsilon"] = "exponential_adams_epsilon"
    coordinate: ClassVar[Coordinate] = LogSNR()


@component
class VelocityAdams(AdamsBashforth):
    """Adams–Bashforth on the flow's velocity v = ε − D in u = σ/(1+σ): y_b = y_a + Σ_j v_j ∫ ℓ_j du, y = x/(1+σ).

    Order 1 is Euler under :class:`~edm_unified.schedules.FlowMatching`, orders 2 to 4 its multistep forms: natural for
    rectified-flow networks, and good at 5 to 20 evaluations on any.
    """

    order: UpTo4 = 3
    start: Start = "plain"
    end: End = "full"
    kind: Literal["velocity_adams"] = "velocity_adams"
    coordinate: ClassVar[Coordinate] = FlowTime()


@component
class TrigonometricAdams(AdamsBashforth):
    """Adams–Bashforth on the raw output F in θ = arctan(σ/σ_d): y_b = y_a + Σ_j F_j ∫ ℓ_j dθ, y = x/√(σ²+σ_d²).

    F = (c_skip x − D)/c_out with EDM's c_skip and c_out (Karras et al. 2022, Table 1), or v-prediction's for σ_d = 1,
    has unit variance at every θ; dy/dθ = F is TrigFlow's ODE (Lu & Song 2024, Eq. 4). Order 1 is Euler under
    :class:`~edm_unified.schedules.Trigonometric` for σ_d = 1, and not DDIM, which turns by the angle of the step where
    this goes straight. For 20 evaluations and more. Unlike the others it does not keep a constant x = D exactly.
    """

    order: UpTo4 = 3
    sigma_data: Annotated[float, positive_number(1e-6, 1e6)] = 0.5  # cos of arctan σ/σ_d must keep digits
    start: Start = "plain"
    end: End = "full"
    kind: Literal["trigonometric_adams"] = "trigonometric_adams"

    @property
    def coordinate(self) -> Coordinate:
        return Arc(self.sigma_data)
