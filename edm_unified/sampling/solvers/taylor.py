"""DPM-Solver++(3M) and its SDE form in the Taylor form in which they are printed, with the coefficient they need.

With divided differences of the last three outputs, in units of the step,

    d_0 = (D_0 − D_{−1})/r_0,   d_1 = (D_{−1} − D_{−2})/r_1,   r_0 = h_{−1}/h,  r_1 = h_{−2}/h,
    D1 = d_0 + r_0/(r_0 + r_1) (d_0 − d_1) ≈ h D',    D2 = 2 (d_0 − d_1)/(r_0 + r_1) ≈ h² D'',
    x_b = e^{−H} x + H φ_1 D_0 + H φ_2 D1 + H φ_3 D2 + noise,   φ_k = φ_k(−H),   H = (1 + η²) h.

The 2 in D2 makes it the second derivative, which is what φ_3 multiplies; without it the method has order 2
(:mod:`~edm_unified.sampling.solvers.as_published`). With it the method is exponential Adams of order 3, to rounding.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from edm_unified.components.component import choice, component, nonnegative
from edm_unified.sampling.solvers.coordinates import ENDS, STARTS, End, Start
from edm_unified.sampling.solvers.exponential import ExponentialMultistep, phis


def taylor_weights(H: float, nodes: list[float], factor: float = 2.0, phi_3: float | None = None) -> list[float]:
    """Weights of (D_0, D_{−1}, D_{−2}), or of as many as there are ``nodes``; ``phi_3`` replaces φ_3(−H)."""
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
class DPMSolverPP3M(ExponentialMultistep):
    """DPM-Solver++(3M) with D2 = 2 (d_0 − d_1)/(r_0 + r_1): order 3, one evaluation per step.

    In the code of Lu et al. 2022b, not in the paper. The same method as ``ExponentialAdams(order=3)``, with its
    ``start`` and ``end``. Four widely used libraries lack the 2 and have order 2: ``dpmpp_3m_published`` is theirs. At
    ten steps the two are alike.
    """

    start: Start = "plain"  # type: ignore[misc]
    end: End = "full"  # type: ignore[misc]
    kind: Literal["dpmpp_3m"] = "dpmpp_3m"
    later: ClassVar[tuple[str, ...]] = ("start", "end")
    order: ClassVar[int] = 3
    stochastic: ClassVar[bool] = False
    most_outputs: ClassVar[int] = 3  # type: ignore[assignment]
    noise: ClassVar[float] = 0.0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        choice("start", self.start, STARTS)
        choice("end", self.end, ENDS)

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return taylor_weights(H, nodes)


@component
class DPMSolverPP3MSDE(ExponentialMultistep):
    """SDE-DPM-Solver++(3M): 3M with h → H = (1 + η²) h, plus b √(1 − e^{−2η²h}) n; one evaluation per step.

    The same method as ``ExponentialAdams(order=3, eta=eta)``, with its ``start`` and ``end``. The drift has order 3,
    the samples weak order 2.
    """

    eta: float = 1.0
    start: Start = "plain"  # type: ignore[misc]
    end: End = "full"  # type: ignore[misc]
    kind: Literal["dpmpp_3m_sde"] = "dpmpp_3m_sde"
    later: ClassVar[tuple[str, ...]] = ("start", "end")
    order: ClassVar[int] = 3
    most_outputs: ClassVar[int] = 3  # type: ignore[assignment]

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)
        choice("start", self.start, STARTS)
        choice("end", self.end, ENDS)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def noise(self) -> float:
        return self.eta

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return taylor_weights(H, nodes)
