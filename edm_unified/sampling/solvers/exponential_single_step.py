"""Single-step methods for the ODE: DPM-Solver and DPM-Solver++(S), RES, and exponential Runge–Kutta of order 4.

They are exponential Runge–Kutta methods in λ = −ln σ: several evaluations within a step, no history, blind to the
schedule. Two linear problems y' = L y + N share one family of tableaus
(:mod:`~edm_unified.sampling.solvers.tableaux`), whose entries are φ-functions of z = L · length:

    data    dx/dλ = A (D − x) + …        L = −A, y = x        DPM-Solver++, RES, SEEDS in data prediction
    noise   d(x/σ)/dλ = x/σ − A ε + …    L = +1, y = x/σ      DPM-Solver, SEEDS in noise prediction

with A = 1 + η². The sums Σ_j a_ij = c_i φ_1(c_i z) and Σ_j b_j = φ_1(z) make a constant D (or ε) exact. Those with
noise are in :mod:`~edm_unified.sampling.solvers.single_step_sde`.

The fall to σ = 0 returns D: one evaluation, as published ("denoise to zero"). A method of s stages on N steps to 0
costs s(N−1) + 1 evaluations. They keep their order on walks with rises (churn, restart, ancestral noise), where a
multistep method has no past to use.
"""

from __future__ import annotations

from abc import abstractmethod
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import interval
from edm_unified.sampling.by_sample import exp, expm1
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.phi import phi
from edm_unified.sampling.solvers.printed import Form, Printed, Step, weighed
from edm_unified.sampling.solvers.tableaux import (
    HOCHBRUCK_OSTERMANN,
    KROGSTAD,
    Scheme,
    three_stages,
    two_stages,
    two_stages_stiff,
)

Inside = Annotated[float, interval(0, 1, "()")]
"""A place inside the step, as a part of it."""


# -- on D ------------------------------------------------------------------------------------------------------------


def on_data(step: Step, x: Form, a: Level, b: Level, scheme: Scheme, eta: float = 0.0) -> Form:
    """X_i = (m_i/a) e^{−η² c_i h} x + A h Σ_j a_ij(−Ah) D_j + N(c_i) at m_i = a e^{−c_i h}; the same with b_j at b.

    N is the noise of the reverse SDE. The intervals [0, c_i] of the stages overlap, so it is *one* process, carried
    along from stage to stage and never drawn afresh:

        N(c') = (m'/m) e^{−η² δ} N(c) + m' √(1 − e^{−2η² δ}) n,    δ = (c' − c) h.
    """
    if b.sigma == 0:
        return step.denoise(x, a)
    h, A = step.h, 1 + eta**2
    rows, closing = scheme.weights(-A * h)
    outputs: list[Form] = []
    N, m, place = Form(), a, 0.0
    for c, weights in zip((*scheme.nodes, 1.0), (*rows, closing), strict=True):
        level = step.in_log_sigma(c)
        if eta and c > place:
            delta = eta**2 * (c - place) * h
            N = level.sigma / m.sigma * exp(-delta) * N + level.sigma * sqrt(-expm1(-2 * delta)) * step.noise()
            m, place = level, c
        X = level.sigma / a.sigma * exp(-(eta**2) * c * h) * x + A * h * weighed(weights, outputs) + N
        if len(outputs) < len(rows):
            outputs.append(step.denoise(X, level))
    return X


class OnData(Printed):
    """A method on D with a tableau: final subclasses say which."""

    @property
    @abstractmethod
    def scheme(self) -> Scheme: ...

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return on_data(step, x, a, b, self.scheme)


@component
class DPMSolverPP2S(OnData):
    """DPM-Solver++(2S): u = D at λ + r h from a DDIM step, x_b = (b/a) x + (1 − e^{−h}) [(1 − 1/2r) D_0 + u/(2r)].

    Lu et al. 2022b, Algorithm 1. Order 2, two evaluations per step. :class:`RES2S` has half its error at r = ½; take
    this one for parity.
    """

    r: Inside = 0.5
    kind: Literal["dpmpp_2s"] = "dpmpp_2s"
    order: ClassVar[int] = 2

    @property
    def scheme(self) -> Scheme:
        return two_stages(self.r)


@component
class DPMSolverPP3S(OnData):
    """DPM-Solver-3's tableau (c = 0, ⅓, ⅔) on D, the single-step DPM-Solver++ of order 3; three evaluations per step.

    Lu et al. 2022a, Algorithm 2 with D for ε. It is :class:`RES3S` with c2 = ⅓.
    """

    kind: Literal["dpmpp_3s"] = "dpmpp_3s"
    order: ClassVar[int] = 3
    scheme: ClassVar[Scheme] = three_stages(1 / 3)


@component
class RES2S(OnData):
    """x_b = (b/a) x + h [(φ_1 − φ_2/c_2) D_0 + (φ_2/c_2) D(u)], φ_k = φ_k(−h): the exact integral of the interpolant.

    Hochbruck & Ostermann 2010, section 2.3; Zhang et al. 2023 (RES). Order 2, two evaluations per step: the method of
    two evaluations to start from.
    """

    c2: Inside = 0.5
    kind: Literal["res_2s"] = "res_2s"
    order: ClassVar[int] = 2

    @property
    def scheme(self) -> Scheme:
        return two_stages_stiff(self.c2)


@component
class RES3S(OnData):
    """Order 3, three evaluations per step: c = (0, c_2, ⅔), b = (φ_1 − 3/2 φ_2, 0, 3/2 φ_2), φ_k = φ_k(−h).

    Hochbruck & Ostermann 2005, section 5.2; Zhang et al. 2023 (RES).
    """

    c2: Inside = 0.5
    kind: Literal["res_3s"] = "res_3s"
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not self.c2 < 2 / 3:
            raise ValueError(f"c2: must lie below 2/3, where the third stage is, got {self.c2!r}")

    @property
    def scheme(self) -> Scheme:
        return three_stages(self.c2)


@component
class Krogstad4(OnData):
    """Krogstad's ETD4RK on D, c = (0, ½, ½, 1): order 4 (3 on a stiff D), four evaluations per step.

    Krogstad 2005, Eq. 51. For tight tolerances.
    """

    kind: Literal["krogstad_4"] = "krogstad_4"
    order: ClassVar[int] = 4
    scheme: ClassVar[Scheme] = KROGSTAD


@component
class HochbruckOstermann4(OnData):
    """The method of order 4 that keeps it on a stiff D, c = (0, ½, ½, 1, ½): five evaluations per step.

    Hochbruck & Ostermann 2005, Eq. 5.19. For tight tolerances.
    """

    kind: Literal["hochbruck_ostermann_4"] = "hochbruck_ostermann_4"
    order: ClassVar[int] = 4
    scheme: ClassVar[Scheme] = HOCHBRUCK_OSTERMANN


# -- on ε ------------------------------------------------------------------------------------------------------------


def dpm_solver_2(step: Any, x: Any, a: Any, b: Any, r: float = 0.5) -> tuple[Any, Any]:
    """Lu et al. 2022a, Algorithm 4 of the appendix; r = ½ is Algorithm 1. And DPM-Solver-1, its first two terms."""
    h, middle = step.h, step.in_log_sigma(r)
    eps = (x - step.denoise(x, a)) / a.sigma
    u = x - middle.sigma * expm1(r * h) * eps
    eps_u = (u - step.denoise(u, middle)) / middle.sigma
    first = x - b.sigma * expm1(h) * eps
    return first - b.sigma * expm1(h) / (2 * r) * (eps_u - eps), first


def dpm_solver_3(step: Any, x: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Lu et al. 2022a, Algorithm 2, r_1 = ⅓, r_2 = ⅔, and the step of order 2 that shares D_1 with it (appendix C.4).

    The paper's (e^z − 1)/z − 1 is z φ_2(z).
    """
    r1, r2 = 1 / 3, 2 / 3
    h, m1, m2 = step.h, step.in_log_sigma(r1), step.in_log_sigma(r2)
    eps = (x - step.denoise(x, a)) / a.sigma
    u1 = x - m1.sigma * expm1(r1 * h) * eps
    D1 = (u1 - step.denoise(u1, m1)) / m1.sigma - eps
    u2 = x - m2.sigma * expm1(r2 * h) * eps - m2.sigma * r2 / r1 * (r2 * h * phi(2, r2 * h)) * D1
    D2 = (u2 - step.denoise(u2, m2)) / m2.sigma - eps
    first = x - b.sigma * expm1(h) * eps
    return first - b.sigma / r2 * (h * phi(2, h)) * D2, first - b.sigma * expm1(h) / (2 * r1) * D1


@component
class DPMSolver2(Printed):
    """DPM-Solver-2: u = x − m(e^{rh} − 1) ε_0, x_b = x − b(e^h − 1) [ε_0 + (ε(u, m) − ε_0)/(2r)], m = a e^{−rh}.

    Lu et al. 2022a, Algorithm 1 (r = ½; any r in its appendix). Order 2, two evaluations per step.
    """

    r: Inside = 0.5
    kind: Literal["dpm_solver_2"] = "dpm_solver_2"
    order: ClassVar[int] = 2

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return step.denoise(x, a) if b.sigma == 0 else dpm_solver_2(step, x, a, b, self.r)[0]


@component
class DPMSolver3(Printed):
    """DPM-Solver-3, with the stages at ⅓ and ⅔ of the step: order 3, three evaluations per step.

    Lu et al. 2022a, Algorithm 2.
    """

    kind: Literal["dpm_solver_3"] = "dpm_solver_3"
    order: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return step.denoise(x, a) if b.sigma == 0 else dpm_solver_3(step, x, a, b)[0]


@component
class DPMSolverFast(Printed):
    """DPM-Solver-fast: steps of order 3, and lower orders at the end (Lu et al. 2022a, appendix).

    Of N falls that end at σ = 0 the orders are 3, …, 3, 2, 1 and the evaluations 3(N − 1), the paper's split of a
    budget K that 3 divides, with its last step the fall to 0; one fall costs one evaluation. A walk that ends above 0
    takes 3, …, 3, 2, the paper's split of K = 3N − 1. Order 3 either way: one step of order 2 leaves an error of h³.
    """

    kind: Literal["dpm_solver_fast"] = "dpm_solver_fast"
    order: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if b.sigma == 0:
            return step.denoise(x, a)
        return (dpm_solver_2 if step.last_above_zero else dpm_solver_3)(step, x, a, b)[0]
