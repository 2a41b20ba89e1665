"""Runge–Kutta methods on the probability-flow ODE in t: the solvers that see the schedule.

They take straight steps in the scaled state x_t = s(t) x (Karras et al. 2022, Eq. 4 and Algorithm 1),

    dx_t/dt = (s'/s) x_t + (σ'/σ) (x_t − s D(x_t/s; σ)),

which is ``step.slope(x_t, level)``. The fall to σ = 0 is Euler's whatever the method, since D is not defined on it (EDM
Algorithm 1, line 6): a method of s stages on N steps costs s(N−1) + 1 evaluations. Under a schedule whose σ(t) never
reaches 0 that fall returns D.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import interval
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.printed import Form, Printed, Step


def euler(step: Step, x: Form, a: Level, b: Level) -> Form:
    """x_{t+h} = x_t + h dx_t/dt."""
    if b.sigma == 0 and not step.axis.schedule.reaches_zero:
        return step.denoise(x, a)
    x_t = a.s * x
    return (x_t + (b.t - a.t) * step.slope(x_t, a)) / b.s


def second_order(step: Step, x: Form, a: Level, b: Level, alpha: float) -> Form:
    """Karras et al. 2022, Algorithm 3, lines 7 to 12, without its noise."""
    if b.sigma == 0:
        return euler(step, x, a, b)
    x_t, h = a.s * x, b.t - a.t
    d = step.slope(x_t, a)
    d_prime = step.slope(x_t + alpha * h * d, step.in_time(alpha))
    return (x_t + h * ((1 - 1 / (2 * alpha)) * d + 1 / (2 * alpha) * d_prime)) / b.s


@component
class Euler(Printed):
    """x_{t+h} = x_t + h dx_t/dt, order 1, one evaluation per step (Karras et al. 2022, Algorithm 1 without line 6).

    Under :class:`~edm_unified.schedules.EDM` it is DDIM; under VP with uniform t it is the probability-flow sampler of
    Song et al. 2021; under flow matching it is the flow's usual sampler.
    """

    kind: Literal["euler"] = "euler"
    order: ClassVar[int] = 1

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return euler(step, x, a, b)


@component
class Heun(Printed):
    """Heun's method, EDM's deterministic sampler (Karras et al. 2022, Algorithm 1).

    Order 2, two evaluations per step.
    """

    kind: Literal["heun"] = "heun"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if b.sigma == 0:  # line 6
            return euler(step, x, a, b)
        x_t, h = a.s * x, b.t - a.t
        d = step.slope(x_t, a)  # line 4
        x_next = x_t + h * d  # line 5
        d_prime = step.slope(x_next, b)  # line 7
        x_next = x_t + h * (0.5 * d + 0.5 * d_prime)  # line 8
        return x_next / b.s


@component
class Midpoint(Printed):
    """The midpoint rule, order 2, two evaluations per step; the customary choice for flow matching."""

    kind: Literal["midpoint"] = "midpoint"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if b.sigma == 0:
            return euler(step, x, a, b)
        x_t, h = a.s * x, b.t - a.t
        half = x_t + h / 2 * step.slope(x_t, a)
        return (x_t + h * step.slope(half, step.in_time(0.5))) / b.s


@component
class Ralston(Printed):
    """Ralston's method, order 2, two evaluations per step: the α = ⅔ of least truncation error bound (Ralston 1962)."""

    kind: Literal["ralston"] = "ralston"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return second_order(step, x, a, b, 2 / 3)


@component
class SecondOrder(Printed):
    """The two-stage methods of order 2: b = (1 − 1/2α, 1/2α), c = (0, α) (Karras et al. 2022, Algorithm 3).

    α = 1 is Heun, ½ the midpoint rule, ⅔ Ralston's. α must lie in (0, 1].
    """

    alpha: Annotated[float, interval(0, 1, "(]")] = 1.0
    kind: Literal["second_order"] = "second_order"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return second_order(step, x, a, b, self.alpha)


@component
class RK4(Printed):
    """The classical method of order 4, four evaluations per step; for tight tolerances, not for small budgets.

    Hairer, Nørsett & Wanner 1993, Table II.1.2.
    """

    kind: Literal["rk4"] = "rk4"
    order: ClassVar[int] = 4

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if b.sigma == 0:
            return euler(step, x, a, b)
        x_t, h, middle = a.s * x, b.t - a.t, step.in_time(0.5)
        k1 = step.slope(x_t, a)
        k2 = step.slope(x_t + h / 2 * k1, middle)
        k3 = step.slope(x_t + h / 2 * k2, middle)
        k4 = step.slope(x_t + h * k3, b)
        return (x_t + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)) / b.s
