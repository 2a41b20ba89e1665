"""ER-SDE: reverse processes in terms of any rising function φ(σ), solved in σ.

Every φ with φ/σ not falling gives a reverse process with the marginals of the forward one (Cui et al. 2023, Eq. 8):

    x_b = r x_a + φ(b) ∫_b^a (φ'/φ²)(u) D(x_u; u) du + √(b² − a² r²) n,        r = φ(b)/φ(a),

whose drift is dx/dσ = (φ'/φ)(x − D). φ = σ is the probability-flow ODE and φ = σ² the reverse SDE (η = 1); between and
beyond them φ sets how much noise there is at which level. D is replaced by its interpolant in σ through the last
outputs, and that is integrated exactly: Gauss–Legendre in ln u, on panels short enough for the last digit.

The published order 3 takes the slope of that interpolant from two outputs and its curvature from three; the slope is
then wrong by the curvature times half a step, which leaves order 2
(:class:`~edm_unified.sampling.solvers.ERSDE3Published`). Here the interpolant is the interpolant.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified.components.component import choice, component, count
from edm_unified.sampling.dynamics import Dynamics, Level, Walk
from edm_unified.sampling.solvers.coordinates import ENDS, End
from edm_unified.sampling.solvers.exponential import Plan
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row


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


def panelled(a: float, b: float) -> list[tuple[float, float]]:
    """Places in [b, a] and their weights du: Gauss–Legendre in ln u, on panels of at most a half."""
    span = math.log(a / b)
    panels = math.ceil(span / 0.5)
    half = 0.5 * span / panels
    places = [math.log(b) + half * (2 * panel + 1 + v) for panel in range(panels) for v in _V]
    return [(math.exp(place), half * w * math.exp(place)) for place, w in zip(places, _W * panels, strict=True)]


class InSigma(ABC):
    """Final subclasses weigh the outputs; the scale φ, the noise it leaves and the history are common to them."""

    end: ClassVar[str] = "full"

    @property
    @abstractmethod
    def phi(self) -> str:
        """The name of the scale."""

    @property
    @abstractmethod
    def most_outputs(self) -> int:
        """How many outputs of D a step uses once the history is long enough."""

    @abstractmethod
    def _interpolated(self, a: float, b: float, nodes: list[float]) -> list[float]:
        """Weights of the outputs at the levels ``nodes``, newest first, in the fall from a to b."""

    @property
    def stochastic(self) -> bool:
        return self.phi != "ode"

    def rate(self, sigma: float) -> float:
        """d ln φ/d ln σ: 1 + η² where η does not depend on the level."""
        return SCALES[self.phi].rate(sigma)

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All rows of the walk."""
        falls = walk.falls
        outputs = walk.outputs(self.most_outputs, self.end)
        return Plan(tuple(self._row(falls, i, used) for i, used in enumerate(outputs)), 0, ())

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        past, weights, std = state.rows[state.turn]
        used = (*state.history[len(state.history) - past :], dynamics.denoise(x, a))
        x = combine(weights, (*used, x))
        history = used[-(self.most_outputs - 1) :] if self.most_outputs > 1 else ()
        return torch.add(x, randn(), alpha=std) if std else x, Plan(state.rows, state.turn + 1, history)

    def _row(self, falls: list[tuple[Level, Level]], i: int, used: int) -> tuple[int, Row, float]:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return 0, row((1.0, 0.0)), 0.0
        nodes = [falls[i - j][0].sigma for j in range(used)]
        excess = SCALES[self.phi].excess
        gained = excess(b) - excess(a)  # ln of (φ(b)/b)/(φ(a)/a), at most 0
        keep = b / a * math.exp(gained)
        std = b * math.sqrt(max(0.0, -math.expm1(2 * gained)))
        return len(nodes) - 1, row((*reversed(self._interpolated(a, b, nodes)), keep)), std


@component
class ERSDE(InSigma):
    """ER-SDE-Solver (Cui et al. 2023, Algorithm 2) of order 1 to 3, one evaluation per step.

    ``phi`` is the noise scale: ``er_sde`` σ(e^{σ^0.3} + 10), the authors' choice (their ER-SDE 5): much noise at high
    levels, little at low; ``ode`` σ, no noise; ``reverse_sde`` σ², η = 1. ``order`` outputs are interpolated in σ; in
    the weak sense the order is at most 2. ``end="lower"`` has fewer of them in the last steps before the fall to 0. For
    20 steps and more, where a stochastic sampler is wanted at few steps.
    """

    order: int = 3
    phi: Literal["er_sde", "ode", "reverse_sde"] = "er_sde"  # type: ignore[assignment]
    end: End = "full"  # type: ignore[misc]
    kind: Literal["er_sde"] = "er_sde"
    later: ClassVar[tuple[str, ...]] = ("end",)

    def __post_init__(self) -> None:
        count("order", self.order, most=3)
        choice("phi", self.phi, SCALES)
        choice("end", self.end, ENDS)

    @property
    def most_outputs(self) -> int:
        return self.order

    def _interpolated(self, a: float, b: float, nodes: list[float]) -> list[float]:
        return list(_weights(self.phi, a, b, tuple(nodes)))


@lru_cache(maxsize=4096)
def _weights(phi: str, a: float, b: float, nodes: tuple[float, ...]) -> tuple[float, ...]:
    """φ(b) ∫_b^a (φ'/φ²) ℓ_j du for the Lagrange basis in σ on ``nodes``, remembered between runs."""
    scale = SCALES[phi]
    at_b = math.log(b) + scale.excess(b)
    weights = [0.0] * len(nodes)
    for u, du in panelled(a, b):
        kernel = du / u * scale.rate(u) * math.exp(at_b - math.log(u) - scale.excess(u))
        for j, node in enumerate(nodes):
            basis = math.prod((u - other) / (node - other) for other in nodes if other != node)
            weights[j] += kernel * basis
    return tuple(weights)
