"""ER-SDE: reverse processes in terms of any rising function φ(σ), solved in σ.

Every φ with φ/σ not falling gives a reverse process with the marginals of the forward one (Cui et al. 2023, Eq. 8):

    x_b = r x_a + φ(b) ∫_b^a (φ'/φ²)(u) D(x_u; u) du + √(b² − a² r²) n,        r = φ(b)/φ(a),

whose drift is dx/dσ = (φ'/φ)(x − D). φ = σ is the probability-flow ODE and φ = σ² the reverse SDE (η = 1); between and
beyond them φ sets how much noise there is at which level. D is replaced by its interpolant in σ through the last
outputs, and that is integrated exactly: Gauss–Legendre in ln u, on panels short enough for the last digit.

The published order 3 takes the slope of that interpolant from two outputs and its curvature from three; the slope is
then wrong by the curvature times half a step, which leaves order 2. Here the interpolant is the interpolant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified._component import choice, component, count
from edm_unified.dynamics import Dynamics, Level, Walk
from edm_unified.solvers.exponential import Plan
from edm_unified.solvers.linear import Randn, Row, combine, row


class Scale(NamedTuple):
    """φ through its logarithm: g = ln(φ/σ), not falling, and the rate d ln φ/d ln σ = 1 + g'(ln σ)."""

    excess: Callable[[float], float]
    rate: Callable[[float], float]


def _er_excess(sigma: float) -> float:
    """ln(e^{σ^0.3} + 10)."""
    power = sigma**0.3
    return power + math.log1p(10 * math.exp(-power))


def _er_rate(sigma: float) -> float:
    power = sigma**0.3
    return 1 + 0.3 * power / (1 + 10 * math.exp(-power))


SCALES = {
    "er_sde": Scale(_er_excess, _er_rate),
    "ode": Scale(lambda sigma: 0.0, lambda sigma: 1.0),
    "reverse_sde": Scale(math.log, lambda sigma: 2.0),
}

_V, _W = (array.tolist() for array in np.polynomial.legendre.leggauss(16))


@component
class ERSDE:
    """ER-SDE-Solver (Cui et al. 2023, Algorithm 2) of order 1 to 3, one evaluation per step.

    ``phi`` is the noise scale: ``er_sde`` σ(e^{σ^0.3} + 10), the authors' choice (their ER-SDE 5): much noise at high
    levels, little at low; ``ode`` σ, no noise; ``reverse_sde`` σ², η = 1. ``order`` outputs are interpolated in σ; in
    the weak sense the order is at most 2. For 20 steps and more, where a stochastic sampler is wanted at few steps.
    """

    order: int = 3
    phi: Literal["er_sde", "ode", "reverse_sde"] = "er_sde"
    kind: Literal["er_sde"] = "er_sde"

    def __post_init__(self) -> None:
        count("order", self.order, most=3)
        choice("phi", self.phi, SCALES)

    @property
    def stochastic(self) -> bool:
        return self.phi != "ode"

    @property
    def most_outputs(self) -> int:
        return self.order

    def rate(self, sigma: float) -> float:
        """d ln φ/d ln σ: 1 + η² where η does not depend on the level."""
        return SCALES[self.phi].rate(sigma)

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All rows of the walk."""
        falls = walk.falls
        return Plan(tuple(self._row(falls, i, streak) for i, streak in enumerate(walk.streaks)), 0, ())

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        past, weights, std = state.rows[state.turn]
        used = (*state.history[len(state.history) - past :], dynamics.denoise(x, a))
        x = combine(weights, (*used, x))
        history = used[-(self.order - 1) :] if self.order > 1 else ()
        return torch.add(x, randn(), alpha=std) if std else x, Plan(state.rows, state.turn + 1, history)

    def _row(self, falls: list[tuple[Level, Level]], i: int, streak: int) -> tuple[int, Row, float]:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return 0, row((1.0, 0.0)), 0.0
        nodes = [falls[i - j][0].sigma for j in range(min(self.order, streak + 1))]
        excess = SCALES[self.phi].excess
        gained = excess(b) - excess(a)  # ln of (φ(b)/b)/(φ(a)/a), at most 0
        keep = b / a * math.exp(gained)
        std = b * math.sqrt(max(0.0, -math.expm1(2 * gained)))
        return len(nodes) - 1, row((*reversed(self._interpolated(a, b, nodes)), keep)), std

    def _interpolated(self, a: float, b: float, nodes: list[float]) -> list[float]:
        """φ(b) ∫_b^a (φ'/φ²) ℓ_j du for the Lagrange basis in σ on ``nodes``, by panels in ln u of at most a half."""
        scale, span = SCALES[self.phi], math.log(a / b)
        panels = math.ceil(span / 0.5)
        at_b = math.log(b) + scale.excess(b)
        weights = [0.0] * len(nodes)
        for panel in range(panels):
            for v, w in zip(_V, _W, strict=True):
                log_u = math.log(b) + span * (panel + 0.5 * (1 + v)) / panels
                u = math.exp(log_u)
                kernel = 0.5 * w * span / panels * scale.rate(u) * math.exp(at_b - log_u - scale.excess(u))
                for j, node in enumerate(nodes):
                    basis = math.prod((u - other) / (node - other) for other in nodes if other != node)
                    weights[j] += kernel * basis
        return weights
