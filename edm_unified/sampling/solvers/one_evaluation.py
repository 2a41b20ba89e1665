"""One-evaluation methods in σ, with and without noise: DDIM, DDPM, Euler–Maruyama and reverse diffusion.

A fall to σ = 0 draws no noise. η scales the amplitude of the noise throughout this package: η = 0 is the ODE, η = 1 the
reverse SDE (in k-diffusion's 2M/3M SDE samplers ``eta`` is our η²).
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Nonnegative
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.printed import Form, Printed, Step


def ancestral_split(a: float, b: float, eta: float) -> tuple[float, float]:
    """(down, up) with down² + up² = b²: the level to fall to from a, and the noise that brings it back to b.

    up = min(b, η b √(1 − b²/a²)); η = 1 is the DDPM posterior, η = 0 is no noise (Song et al. 2020, Eq. 16).
    """
    # 1 − η²(1 − b²/a²), written so that it does not cancel at η = 1
    kept = max(0.0, (1 - eta) * (1 + eta) + (eta * b / a) ** 2)
    return b * sqrt(kept), min(b, eta * b * sqrt(1 - (b / a) ** 2))


@component
class DDIM(Printed):
    """x_b = D + down ε + up n, down² + up² = b², up = η b √(1 − b²/a²) (Song et al. 2020, Eqs. 12 and 16).

    η = 0 is the deterministic DDIM, Euler's method in σ whatever the schedule; η = 1 is DDPM's posterior. Order 1
    (weak order 1 for η > 0), one evaluation per step.
    """

    eta: Nonnegative = 0.0
    kind: Literal["ddim"] = "ddim"
    order: ClassVar[int] = 1

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        eps = (x - D) / a.sigma
        down, up = ancestral_split(a.sigma, b.sigma, self.eta)  # Eq. 16
        return D + down * eps + up * step.noise()  # Eq. 12


@component
class DDPM(Printed):
    """Ancestral sampling: the posterior mean, and noise of one of two variances (Ho et al. 2020, Eqs. 6, 7 and §3.2).

    ``small``: β̃, the exact posterior variance when x_0 is a point; in x, std = (b/a) √(a² − b²).
    ``large``: β, that of the forward step; in x, std = (s_a/s_b) √(a² − b²), which depends on the schedule's s.
    Order 1 in the weak sense, one evaluation per step.
    """

    variance: Literal["small", "large"] = "small"
    kind: Literal["ddpm"] = "ddpm"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        if b.sigma == 0:
            return D
        mean = D + (b.sigma / a.sigma) ** 2 * (x - D)  # Eq. 7, in x = x_t/s
        ratio = b.sigma / a.sigma if self.variance == "small" else a.s / b.s
        return mean + ratio * sqrt(a.sigma**2 - b.sigma**2) * step.noise()  # § 3.2: β̃ or β


@component
class EulerMaruyama(Printed):
    """Euler–Maruyama on the reverse SDE in t (Song et al. 2021, Eq. 6; Karras et al. 2022, Eq. 6):

        dx_t = [f x_t − ½(1 + η²) g² ∇ln p] dt + η g dw̄,    −½ g² ∇ln p = (σ'/σ)(x_t − s D).

    η = 1 is the reverse SDE, η = 0 is :class:`~edm_unified.sampling.solvers.Euler`. Weak order 1, one evaluation per
    step; its explicit step is unstable where σ falls by much more than half at once. The fall to 0 has the drift and no
    noise.
    """

    eta: Nonnegative = 1.0
    kind: Literal["euler_maruyama"] = "euler_maruyama"
    order: ClassVar[int] = 1

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        if b.sigma == 0 and not step.axis.schedule.reaches_zero:
            return D
        x_t, h = a.s * x, b.t - a.t
        drift = a.f * x_t + (1 + self.eta**2) * a.l * (x_t - a.s * D)
        g = a.s * a.sigma * sqrt(2 * a.l)  # g² = 2 s² σ σ'
        std = self.eta * g * sqrt(-h) if b.sigma > 0 else 0.0
        return (x_t + h * drift + std * step.noise()) / b.s


@component
class ReverseDiffusion(Printed):
    """Reverse diffusion: the forward transition b → a run backwards (Song et al. 2021, Eq. 46).

    A forward step x_a = x_b + F x_b + G n of the scaled state becomes x_b = x_a − F x_a + G² ∇ln p(x_a) + G n. Of the
    exact transition, F = s_a/s_b − 1 and G = s_a √(a² − b²): for the VP and VE SDEs Song's own. Where s = 1 it is
    :class:`DDPM` with the large variance. It is the predictor of the score SDEs' predictor–corrector samplers. Weak
    order 1, one evaluation per step. The fall to 0 returns D (their denoising step).
    """

    kind: Literal["reverse_diffusion"] = "reverse_diffusion"
    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        if b.sigma == 0:
            return D
        x_t = a.s * x
        score = (a.s * D - x_t) / (a.s * a.sigma) ** 2
        F = a.s / b.s - 1
        G = a.s * sqrt((a.sigma - b.sigma) * (a.sigma + b.sigma))
        return (x_t - F * x_t + G**2 * score + G * step.noise()) / b.s  # Eq. 46
