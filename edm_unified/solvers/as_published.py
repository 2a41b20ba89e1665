"""Samplers as other libraries ship them, where the coefficients are not those of the method that they are named for.

For parity: to reproduce a published picture or to check an import. To sample, take the corrected ones
(:class:`~edm_unified.solvers.DPMSolverPP3M`, :class:`~edm_unified.solvers.DPMSolverPP3MSDE`). ``order`` is the true
order of each, measured by the same test as that of every other solver.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from edm_unified._component import component, nonnegative
from edm_unified.solvers.exponential import ExponentialMultistep, _midpoint_weights, phi
from edm_unified.solvers.taylor import taylor_weights


@component
class DPMSolverPP3MPublished(ExponentialMultistep):
    """DPM-Solver++(3M) of the authors' code, diffusers and diff-sampler: D2 = (d_0 − d_1)/(r_0 + r_1), half of h² D''.

    Order 2, where 3 was meant, and close to second-order 2M with a smaller constant; one evaluation per step. The
    second step is 2M's midpoint form, as there.
    """

    kind: Literal["dpmpp_3m_published"] = "dpmpp_3m_published"
    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    most_outputs: ClassVar[int] = 3  # type: ignore[assignment]
    noise: ClassVar[float] = 0.0  # type: ignore[assignment]

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return _midpoint_weights(H, nodes) if len(nodes) < 3 else taylor_weights(H, nodes, factor=1.0)


@component
class DPMSolverPP3MSDEPublished(ExponentialMultistep):
    """SDE-DPM-Solver++(3M) of k-diffusion (``sample_dpmpp_3m_sde``; its ``eta`` is our η²): the same missing 2.

    The drift has order 2, where 3 was meant, and the samples weak order 2; one evaluation per step. The second step
    is 2M's exact ("heun") form, as there.
    """

    eta: float = 1.0
    kind: Literal["dpmpp_3m_sde_published"] = "dpmpp_3m_sde_published"
    order: ClassVar[int] = 2
    most_outputs: ClassVar[int] = 3  # type: ignore[assignment]

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def noise(self) -> float:
        return self.eta

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return taylor_weights(H, nodes, factor=1.0)


@component
class DPMSolverPP3MSDEDiffusers(ExponentialMultistep):
    """``sde-dpmsolver++`` of order 3 in diffusers, η = 1: no 2 in D2, and ((1 − e^{−H} − H)/H² **−** ½) D2 for + ½.

    What should be H φ_3(−H) D2, and vanish as the step does, tends to −D2: the drift has order 1, and so have the
    samples; less where short and long steps alternate. One evaluation per step; the second step is 2M's midpoint form.
    """

    kind: Literal["dpmpp_3m_sde_diffusers"] = "dpmpp_3m_sde_diffusers"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    eta: ClassVar[float] = 1.0
    most_outputs: ClassVar[int] = 3  # type: ignore[assignment]
    noise: ClassVar[float] = 1.0  # type: ignore[assignment]

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        if len(nodes) < 3:
            return _midpoint_weights(H, nodes)
        return taylor_weights(H, nodes, factor=1.0, phi_3=(-phi(2, -H) - 0.5) / H)


AsPublished = DPMSolverPP3MPublished | DPMSolverPP3MSDEPublished | DPMSolverPP3MSDEDiffusers
