"""Samplers as other libraries ship them, where the coefficients are not those of the method that they are named for.

For parity: to reproduce a published picture or to check an import. To sample, take the corrected ones
(:class:`~edm_unified.sampling.solvers.DPMSolverPP3M`, :class:`~edm_unified.sampling.solvers.DPMSolverPP3MSDE`,
:class:`~edm_unified.sampling.solvers.ERSDE`). ``order`` is the true order of each, measured by the same test as that of
every other solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.er_sde import SCALES, Phi, er_sde_step, ratio
from edm_unified.sampling.solvers.exponential_multistep import exponential_step, midpoint_weights, taylor_weights
from edm_unified.sampling.solvers.multistep import Multistep
from edm_unified.sampling.solvers.phi import phi
from edm_unified.sampling.solvers.printed import Form, Step
from edm_unified.sampling.solvers.quadrature import panelled


@component
class DPMSolverPP3MPublished(Multistep):
    """DPM-Solver++(3M) of the authors' code, diffusers and diff-sampler: D2 = (d_0 − d_1)/(r_0 + r_1), half of h² D''.

    Order 2, where 3 was meant, and close to second-order 2M with a smaller constant; one evaluation per step. The
    second step is 2M's midpoint form, as there.
    """

    kind: Literal["dpmpp_3m_published"] = "dpmpp_3m_published"
    order: ClassVar[int] = 2
    most_outputs: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, self.output_weights, self.most_outputs)

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return midpoint_weights(H, nodes) if len(nodes) < 3 else taylor_weights(H, nodes, factor=1.0)


@component
class DPMSolverPP3MSDEPublished(Multistep):
    """SDE-DPM-Solver++(3M) of k-diffusion (``sample_dpmpp_3m_sde``; its ``eta`` is our η²): the same missing 2.

    The drift has order 2, where 3 was meant, and the samples weak order 2; one evaluation per step. The second step
    is 2M's exact ("heun") form, as there.
    """

    eta: Nonnegative = 1.0
    kind: Literal["dpmpp_3m_sde_published"] = "dpmpp_3m_sde_published"
    order: ClassVar[int] = 2
    most_outputs: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, self.output_weights, self.most_outputs, self.eta)

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return taylor_weights(H, nodes, factor=1.0)


@component
class DPMSolverPP3MSDEDiffusers(Multistep):
    """``sde-dpmsolver++`` of order 3 in diffusers, η = 1: no 2 in D2, and ((1 − e^{−H} − H)/H² **−** ½) D2 for + ½.

    What should be H φ_3(−H) D2, and vanish as the step does, tends to −D2: the drift has order 1, and so have the
    samples; less where short and long steps alternate. One evaluation per step; the second step is 2M's midpoint form.
    """

    kind: Literal["dpmpp_3m_sde_diffusers"] = "dpmpp_3m_sde_diffusers"
    order: ClassVar[int] = 1
    eta: ClassVar[float] = 1.0
    most_outputs: ClassVar[int] = 3

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return exponential_step(step, x, a, b, self.output_weights, self.most_outputs, self.eta)

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        if len(nodes) < 3:
            return midpoint_weights(H, nodes)
        return taylor_weights(H, nodes, factor=1.0, phi_3=(-phi(2, -H) - 0.5) / H)


@component
class ERSDE3Published(Multistep):
    """ER-SDE-Solver-3 of the authors (Cui et al. 2023, Algorithm 3 and their code): a slope from two outputs.

    With D' = (D_0 − D_{−1})/(σ_0 − σ_{−1}) and D'' = 2 (D' − D'_{before})/(σ_0 − σ_{−2}), each step adds to that of
    order 1

        (b − a + φ(b) ∫_b^a du/φ) D' + ((b − a)²/2 + φ(b) ∫_b^a (u − a)/φ du) D''.

    D' is the slope half a step back, and what it lacks at a is as large as the term in D'': order 2, where 3 was
    meant. ``integrals`` are ``exact``, or, as in the code, ``sums`` of a hundred values from the lower end: a hundredth
    of the term in D' is then wrong, which leaves order 1, with a small constant. The code also leaves out a noise of
    variance below 1e-6; this does not. One evaluation per step.
    """

    phi: Phi = "er_sde"
    integrals: Literal["exact", "sums"] = "exact"
    kind: Literal["er_sde_3_published"] = "er_sde_3_published"
    most_outputs: ClassVar[int] = 3

    @property
    def order(self) -> int:
        return 2 if self.integrals == "exact" else 1

    @property
    def stochastic(self) -> bool:
        return self.phi != "ode"

    def rate(self, sigma: float) -> float:
        """d ln φ/d ln σ."""
        return float(SCALES[self.phi].rate(sigma))

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return er_sde_step(step, x, a, b, self.phi, self._weights, self.most_outputs)

    def _weights(self, phi: str, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        if self.integrals == "exact":
            u, du = panelled(a, b)
        else:
            u, du = b + np.arange(100) / 100 * (a - b), np.full(100, (a - b) / 100)
        shares = du * ratio(phi, b, u)
        total, first = float(shares.sum()), float((shares * (u - a)).sum())
        weights = [1 - float(ratio(phi, b, np.array(a))), 0.0, 0.0]
        for order, factor in enumerate((b - a + total, 0.5 * (b - a) ** 2 + first)[: len(nodes) - 1]):
            weights = [w + factor * d for w, d in zip(weights, _differences(nodes, order), strict=True)]
        return weights[: len(nodes)]


def _differences(nodes: Sequence[float], order: int) -> list[float]:
    """Weights of the outputs in D' (order 0) and D'' (order 1) at the ``nodes``, newest first."""
    late = 1 / (nodes[0] - nodes[1])
    if order == 0:
        return [late, -late, 0.0]
    early, half = 1 / (nodes[1] - nodes[2]), 2 / (nodes[0] - nodes[2])
    return [half * late, -half * (late + early), half * early]


AsPublished = DPMSolverPP3MPublished | DPMSolverPP3MSDEPublished | DPMSolverPP3MSDEDiffusers | ERSDE3Published
