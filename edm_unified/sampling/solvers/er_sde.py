"""ER-SDE: reverse processes in terms of any rising function φ(σ), solved in σ.

Every φ with φ/σ not falling gives a reverse process with the marginals of the forward one (Cui et al. 2023, Eq. 8):

    x_b = r x_a + φ(b) ∫_b^a (φ'/φ²)(u) D(x_u; u) du + √(b² − a² r²) n,        r = φ(b)/φ(a),

whose drift is dx/dσ = (φ'/φ)(x − D). φ = σ is the probability-flow ODE and φ = σ² the reverse SDE (η = 1); between and
beyond them φ sets how much noise there is at which level. D is replaced by its interpolant in σ through the last
outputs, and that is integrated exactly, by Gauss–Legendre in ln u.

The published order 3 takes the slope of that interpolant from two outputs and its curvature from three; the slope is
then wrong by the curvature times half a step, which leaves order 2
(:class:`~edm_unified.sampling.solvers.ERSDE3Published`). Here the interpolant is the interpolant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import exp, expm1, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from edm_unified.components.component import component
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.multistep import End, Multistep, UpTo3
from edm_unified.sampling.solvers.phi import weights_of_moments
from edm_unified.sampling.solvers.printed import Form, Step, weighed
from edm_unified.sampling.solvers.quadrature import moments, panelled


class Scale(NamedTuple):
    """φ through its logarithm: g = ln(φ/σ), not falling, and the rate d ln φ/d ln σ = 1 + g'(ln σ).

    Functions of a number or of an array.
    """

    excess: Callable[[Any], Any]
    rate: Callable[[Any], Any]


def _er_excess(sigma: Any) -> Any:
    """ln(e^{σ^0.3} + 10)."""
    xp, power = np if isinstance(sigma, np.ndarray) else math, sigma**0.3  # NumPy is slow on a number
    return power + xp.log1p(10 * xp.exp(-power))


def _er_rate(sigma: Any) -> Any:
    power = sigma**0.3
    return 1 + 0.3 * power / (1 + 10 * np.exp(-power))


Phi = Literal["er_sde", "ode", "reverse_sde"]
SCALES = {
    "er_sde": Scale(_er_excess, _er_rate),
    "ode": Scale(lambda sigma: 0.0 * sigma, lambda sigma: 1 + 0.0 * sigma),
    "reverse_sde": Scale(np.log, lambda sigma: 2 + 0.0 * sigma),
}


def er_sde_step(
    step: Step,
    x: Form,
    a: Level,
    b: Level,
    phi: str,
    weights: Callable[..., Sequence[float]],
    outputs: int,
    end: End = "full",
) -> Form:
    """x_b = r x + Σ_j w_j D_j + √(b² − a² r²) n, r = φ(b)/φ(a) (Cui et al. 2023, Eq. 8)."""
    D = step.denoise(x, a)
    levels, values = step.history(a, D, outputs, end)
    if b.sigma == 0:
        return D
    excess = SCALES[phi].excess
    gained = float(excess(b.sigma) - excess(a.sigma))  # ln of (φ(b)/b)/(φ(a)/a), at most 0
    r = b.sigma / a.sigma * exp(gained)
    std = b.sigma * sqrt(max(0.0, -expm1(2 * gained)))
    w = weights(phi, a.sigma, b.sigma, [level.sigma for level in levels])
    return r * x + weighed(w, values) + std * step.noise()


def ratio(phi: str, b: float, u: np.ndarray) -> np.ndarray:
    """φ(b)/φ(u)."""
    excess = SCALES[phi].excess
    found: np.ndarray = b / u * np.exp(excess(b) - excess(u))
    return found


def interpolant_weights(phi: str, a: float, b: float, nodes: Sequence[float]) -> list[float]:
    """φ(b) ∫_b^a (φ'/φ²) ℓ_j du for the Lagrange basis in σ on ``nodes``, by the moments of v = (u − a)/(b − a)."""
    u, du = panelled(a, b)
    v, density = (u - a) / (b - a), du / u * SCALES[phi].rate(u) * ratio(phi, b, u)
    return weights_of_moments([(node - a) / (b - a) for node in nodes], moments(density, v, len(nodes)))


@component
class ERSDE(Multistep):
    """ER-SDE-Solver (Cui et al. 2023, Algorithm 2) of order 1 to 3, one evaluation per step.

    ``phi`` is the noise scale: ``er_sde`` σ(e^{σ^0.3} + 10), the authors' choice (their ER-SDE 5): much noise at high
    levels, little at low; ``ode`` σ, no noise; ``reverse_sde`` σ², η = 1. ``order`` outputs are interpolated in σ; in
    the weak sense the order is at most 2. ``end="lower"`` has fewer of them in the last steps before the fall to 0. For
    20 steps and more, where a stochastic sampler is wanted at few steps.
    """

    order: UpTo3 = 3
    phi: Phi = "er_sde"
    end: End = "full"
    kind: Literal["er_sde"] = "er_sde"
    added_later: ClassVar[tuple[str, ...]] = ("end",)

    @property
    def stochastic(self) -> bool:
        return self.phi != "ode"

    def rate(self, sigma: float) -> float:
        """d ln φ/d ln σ: 1 + η² where η does not depend on the level."""
        return float(SCALES[self.phi].rate(sigma))

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        return er_sde_step(step, x, a, b, self.phi, interpolant_weights, self.order, self.end)
