"""Single-step methods for the reverse SDE: DPM++ SDE and SEEDS.

They are exponential Runge–Kutta methods (:mod:`~edm_unified.sampling.solvers.exponential_single_step`) whose stages
carry one and the same noise process, as they must. A step whose stages draw independent noises, each right by itself,
puts into D(u) a noise that x does not have: its weak order is 1, and on data of standard deviation 0.5, at EDM's 18
steps, DPM++ SDE then returns 0.398. Drawing both from one Brownian path in σ, as k-diffusion does, gives 0.475, and the
exact joint law 0.457; both have weak order 2, as tested on Gaussian data.

η scales the amplitude of the noise: dx = (1+η²)(D − x) dλ + √2 η σ dw. A fall to σ = 0 draws none.
"""

from __future__ import annotations

from math import expm1, sqrt
from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.exponential_single_step import Inside, on_data
from edm_unified.sampling.solvers.multistep import UpTo3
from edm_unified.sampling.solvers.printed import Form, Printed, Step, weighed
from edm_unified.sampling.solvers.tableaux import Scheme, one_stage, three_stages, two_stages


def on_noise(step: Step, x: Form, a: Level, b: Level, scheme: Scheme, eta: float) -> Form:
    """X_i = x − A h m_i Σ_j a_ij(h) ε_j + N(c_i), ε_j = (X_j − D_j)/m_j; the same with b_j at b.

    N(c') = N(c) + η m' √(e^{2δ} − 1) n, δ = (c' − c) h: one process again.
    """
    if b.sigma == 0:
        return step.denoise(x, a)
    h, A = step.h, 1 + eta**2
    rows, closing = scheme.weights(h)
    outputs: list[Form] = []
    N, place = Form(), 0.0
    for c, weights in zip((*scheme.nodes, 1.0), (*rows, closing), strict=True):
        level = step.in_log_sigma(c)
        if eta and c > place:
            N = N + eta * level.sigma * sqrt(expm1(2 * (c - place) * h)) * step.noise()
            place = c
        X = x - A * h * level.sigma * weighed(weights, outputs) + N
        if len(outputs) < len(rows):
            outputs.append((X - step.denoise(X, level)) / level.sigma)
    return X


@component
class DPMSolverPPSDE(Printed):
    """DPM++ SDE: the stage at λ + r h, then (1 − e^{−H}) [(1 − 1/2r) D_0 + D(u)/(2r)], H = (1 + η²) h, and noise.

    The two-stage SDE sampler of k-diffusion (Lu et al. 2022b, Eq. 18, made single-step), with the exact joint law of
    its two noises. Order 2, weak order 2, two evaluations and two draws per step.
    """

    eta: Nonnegative = 1.0
    r: Inside = 0.5
    kind: Literal["dpmpp_sde"] = "dpmpp_sde"
    order: ClassVar[int] = 2

    @property
    def scheme(self) -> Scheme:
        return two_stages(self.r)

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return on_data(step, x, a, b, self.scheme, self.eta)


@component
class SEEDS(Printed):
    """SEEDS-1, 2 and 3 (Gonzalez et al. 2023): ``order`` stages with one noise process.

    ``prediction`` is what is interpolated: ``data`` D, the paper's choice for EDM's networks, or ``noise`` ε, its
    choice for VP. SEEDS-1 is the exponential Euler step of the SDE (``data`` at η = 1: DDPM), SEEDS-2 on data is
    :class:`DPMSolverPPSDE`, SEEDS-3 has DPM-Solver-3's tableau. The noises have their exact joint law. So they have in
    the authors' code for orders 1 and 2; its order 3 has another law on ε, and on D a third stage that leaves order 1.
    ``order`` is that of the drift; the weak order is 1, 2, 2.
    """

    order: UpTo3 = 2
    prediction: Literal["data", "noise"] = "data"
    eta: Nonnegative = 1.0
    kind: Literal["seeds"] = "seeds"

    @property
    def scheme(self) -> Scheme:
        return {1: one_stage(), 2: two_stages(0.5), 3: three_stages(1 / 3)}[self.order]

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        kind = on_data if self.prediction == "data" else on_noise
        return kind(step, x, a, b, self.scheme, self.eta)
