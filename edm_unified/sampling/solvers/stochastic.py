"""One-evaluation methods in σ, with and without noise: DDIM, DDPM, Euler–Maruyama and reverse diffusion.

A fall to σ = 0 draws no noise. η scales the amplitude of the noise throughout this package: η = 0 is the ODE, η = 1 the
reverse SDE (in k-diffusion's 2M/3M SDE samplers ``eta`` is our η²).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from edm_unified.components.component import choice, component, nonnegative
from edm_unified.sampling.dynamics import Dynamics, Level
from edm_unified.sampling.renoising import ancestral_split
from edm_unified.sampling.solvers.linear import OneEvaluation


@component
class DDIM(OneEvaluation):
    """x_b = D + (down/a)(x − D) + up n, down² + up² = b², up = η b √(1 − b²/a²) (Song et al. 2020, Eqs. 12 and 16).

    η = 0 is the deterministic DDIM, Euler's method in σ whatever the schedule; η = 1 is DDPM's posterior. Order 1
    (weak order 1 for η > 0), one evaluation per step.
    """

    eta: float = 0.0
    kind: Literal["ddim"] = "ddim"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def weights(self, dynamics: Dynamics, a: Level, b: Level) -> tuple[float, float, float]:
        down, up = ancestral_split(a.sigma, b.sigma, self.eta)
        return 1 - down / a.sigma, down / a.sigma, up


@component
class DDPM(OneEvaluation):
    """Ancestral sampling: the posterior mean, and noise of one of two variances (Ho et al. 2020, Eq. 6, §3.2).

    ``small``: β̃, the exact posterior variance when x_0 is a point; in x, std = (b/a) √(a² − b²).
    ``large``: β, that of the forward step; in x, std = (s_a/s_b) √(a² − b²), which depends on the schedule's s.
    Order 1 in the weak sense, one evaluation per step.
    """

    variance: Literal["small", "large"] = "small"
    kind: Literal["ddpm"] = "ddpm"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("variance", self.variance, ("small", "large"))

    def weights(self, dynamics: Dynamics, a: Level, b: Level) -> tuple[float, float, float]:
        down, small = ancestral_split(a.sigma, b.sigma, eta=1.0)
        large = a.s / b.s * math.sqrt(a.sigma**2 - b.sigma**2)
        std = {"small": small, "large": large}[self.variance] if b.sigma > 0 else 0.0
        return 1 - down / a.sigma, down / a.sigma, std


@component
class EulerMaruyama(OneEvaluation):
    """Euler–Maruyama on the reverse SDE in t (Song et al. 2021, Eq. 6; Karras et al. 2022, Eq. 6):

        dx_t = [f x_t − ½(1 + η²) g² ∇ln p] dt + η g dw̄,    −½ g² ∇ln p = (σ'/σ)(x_t − s D).

    η = 1 is the reverse SDE, η = 0 is :class:`~edm_unified.sampling.solvers.Euler`. Weak order 1, one evaluation per
    step; its explicit step is unstable where σ falls by much more than half at once. The fall to 0 has the drift and no
    noise.
    """

    eta: float = 1.0
    kind: Literal["euler_maruyama"] = "euler_maruyama"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        nonnegative("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def weights(self, dynamics: Dynamics, a: Level, b: Level) -> tuple[float, float, float]:
        if b.sigma == 0 and not dynamics.schedule.reaches_zero:
            return 1.0, 0.0, 0.0
        h = b.t - a.t
        pull = h * (1 + self.eta**2) * a.l
        std = self.eta * a.sigma * math.sqrt(-2 * a.l * h) if b.sigma > 0 else 0.0
        ratio = a.s / b.s
        return -ratio * pull, ratio * (1 + h * a.f + pull), ratio * std


@component
class ReverseDiffusion(OneEvaluation):
    """Reverse diffusion: the forward transition b → a run backwards (Song et al. 2021, Eq. 46).

    A forward step x_a = x_b + F x_b + G n of the scaled state becomes x_b = x_a − F x_a + G² ∇ln p(x_a) + G n. Of the
    exact transition, F = s_a/s_b − 1 and G = s_a √(a² − b²): for the VP and VE SDEs Song's own. Where s = 1 it is
    :class:`DDPM` with the large variance. It is the predictor of the score SDEs' predictor–corrector samplers. Weak
    order 1, one evaluation per step. The fall to 0 returns D (their denoising step).
    """

    kind: Literal["reverse_diffusion"] = "reverse_diffusion"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def weights(self, dynamics: Dynamics, a: Level, b: Level) -> tuple[float, float, float]:
        if b.sigma == 0:
            return 1.0, 0.0, 0.0
        ratio = a.s / b.s
        pull = (1 - b.sigma / a.sigma) * (1 + b.sigma / a.sigma)
        return ratio * pull, ratio * (2 - ratio - pull), ratio * math.sqrt((a.sigma - b.sigma) * (a.sigma + b.sigma))
