"""Single-step methods for the ODE: DPM-Solver and DPM-Solver++(S), RES, and exponential Runge–Kutta of order 4.

Each is a tableau (:mod:`~edm_unified.sampling.solvers.exponential_schemes`) for the mechanism of
:mod:`~edm_unified.sampling.solvers.exponential_runge_kutta`, on D or on ε. They keep
their order on walks with rises (churn, restart, ancestral noise), where a multistep method has no past to use.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.sampling.solvers.exponential_runge_kutta import ExponentialRungeKutta
from edm_unified.sampling.solvers.exponential_schemes import (
    HOCHBRUCK_OSTERMANN,
    KROGSTAD,
    Scheme,
    one_stage,
    three_stages,
    two_stages,
    two_stages_stiff,
)


def inside(name: str, c: float) -> None:
    """Raise ``ValueError`` unless the place ``c`` lies inside the step."""
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
        inside("r", self.r)

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

    Hochbruck & Ostermann 2010, section 2.3; Zhang et al. 2023 (RES). Order 2, two evaluations per step: the method of
    two evaluations to start from.
    """

    c2: float = 0.5
    kind: Literal["res_2s"] = "res_2s"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        inside("c2", self.c2)

    @property
    def scheme(self) -> Scheme:
        return two_stages_stiff(self.c2)


@component
class RES3S(ExponentialRungeKutta):
    """Order 3, three evaluations per step: c = (0, c_2, ⅔), b = (φ_1 − 3/2 φ_2, 0, 3/2 φ_2), φ_k = φ_k(−h).

    Hochbruck & Ostermann 2005, section 5.2; Zhang et al. 2023 (RES).
    """

    c2: float = 0.5
    kind: Literal["res_3s"] = "res_3s"
    order: ClassVar[int] = 3

    def __post_init__(self) -> None:
        inside("c2", self.c2)
        if not self.c2 < 2 / 3:
            raise ValueError(f"c2: must lie below 2/3, where the third stage is, got {self.c2!r}")

    @property
    def scheme(self) -> Scheme:
        return three_stages(self.c2)


@component
class Krogstad4(ExponentialRungeKutta):
    """Krogstad's ETD4RK on D, c = (0, ½, ½, 1): order 4 (3 on a stiff D), four evaluations per step.

    Krogstad 2005, Eq. 51. For tight tolerances.
    """

    kind: Literal["krogstad_4"] = "krogstad_4"
    order: ClassVar[int] = 4

    @property
    def scheme(self) -> Scheme:
        return KROGSTAD


@component
class HochbruckOstermann4(ExponentialRungeKutta):
    """The method of order 4 that keeps it on a stiff D, c = (0, ½, ½, 1, ½): five evaluations per step.

    Hochbruck & Ostermann 2005, Eq. 5.19. For tight tolerances.
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

    Lu et al. 2022a, Algorithm 1 (r = ½; any r in its appendix). Order 2, two evaluations per step.
    """

    r: float = 0.5
    kind: Literal["dpm_solver_2"] = "dpm_solver_2"
    order: ClassVar[int] = 2
    on_noise: ClassVar[bool] = True  # type: ignore[assignment]

    def __post_init__(self) -> None:
        inside("r", self.r)

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
    """DPM-Solver-fast: steps of order 3, and lower orders at the end (Lu et al. 2022a, appendix).

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
        return ([self.scheme] * falls + tail)[len(tail) :] if falls >= len(tail) else tail[len(tail) - falls :]
