"""Single-step methods for the reverse SDE: DPM++ SDE and SEEDS.

They are exponential Runge–Kutta methods (:mod:`~edm_unified.sampling.solvers.exponential_runge_kutta`) whose stages
carry one and the same noise process, as they must. A step whose stages draw independent noises, each right by itself,
puts into D(u) a noise that x does not have: its weak order is 1, and on data of standard deviation 0.5, at EDM's 18
steps, DPM++ SDE then returns 0.398. Drawing both from one Brownian path in σ, as k-diffusion does, gives 0.475, and the
exact joint law 0.457; both have weak order 2, as tested on Gaussian data.

η scales the amplitude of the noise: dx = (1+η²)(D − x) dλ + √2 η σ dw. A fall to σ = 0 draws none.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from edm_unified.components.component import choice, component, count, nonnegative
from edm_unified.sampling.solvers.exponential_runge_kutta import ExponentialRungeKutta
from edm_unified.sampling.solvers.exponential_schemes import Scheme, one_stage, three_stages, two_stages
from edm_unified.sampling.solvers.single_step import inside


@component
class DPMSolverPPSDE(ExponentialRungeKutta):
    """DPM++ SDE: the stage at λ + r h, then (1 − e^{−H}) [(1 − 1/2r) D_0 + D(u)/(2r)], H = (1 + η²) h, and noise.

    The two-stage SDE sampler of k-diffusion (Lu et al. 2022b, Eq. 18, made single-step), with the exact joint law of
    its two noises. Order 2, weak order 2, two evaluations and two draws per step.
    """

    eta: float = 1.0
    r: float = 0.5
    kind: Literal["dpmpp_sde"] = "dpmpp_sde"
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)
        inside("r", self.r)

    @property
    def noise(self) -> float:
        return self.eta

    @property
    def scheme(self) -> Scheme:
        return two_stages(self.r)


@component
class SEEDS(ExponentialRungeKutta):
    """SEEDS-1, 2 and 3 (Gonzalez et al. 2023): ``order`` stages with one noise process.

    ``prediction`` is what is interpolated: ``data`` D, the paper's choice for EDM's networks, or ``noise`` ε, its
    choice for VP. SEEDS-1 is the exponential Euler step of the SDE (``data`` at η = 1: DDPM), SEEDS-2 on data is
    :class:`DPMSolverPPSDE`, SEEDS-3 has DPM-Solver-3's tableau. The noises have their exact joint law. So they have in
    the authors' code for orders 1 and 2; its order 3 has another law on ε, and on D a third stage that leaves order 1.
    ``order`` is that of the drift; the weak order is 1, 2, 2.
    """

    order: int = 2
    prediction: Literal["data", "noise"] = "data"
    eta: float = 1.0
    kind: Literal["seeds"] = "seeds"

    def __post_init__(self) -> None:
        count("order", self.order, most=3)
        choice("prediction", self.prediction, ("data", "noise"))
        nonnegative("eta", self.eta)

    @property
    def noise(self) -> float:
        return self.eta

    @property
    def on_noise(self) -> bool:
        return self.prediction == "noise"

    @property
    def scheme(self) -> Scheme:
        return {1: one_stage(), 2: two_stages(0.5), 3: three_stages(1 / 3)}[self.order]
