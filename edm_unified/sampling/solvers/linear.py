"""Every solver in this package takes steps that are linear in the state, the outputs of D and the noise:

    x ← w_0 x + Σ_j w_j D_j + std · n.

The weights are numbers that depend on the levels alone. They are computed in float64 before the loop; in the loop a
step is :func:`combine`. Where the weights sum to one (every step does that maps x = D = c to c) the sum is a chain of
``torch.lerp``, each of which reads two tensors and writes one: a two-term step is one pass at the memory floor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Dynamics, Level, Walk

Randn = Callable[[], Tensor]
"""Draws unit normal noise in the shape of the state."""


class Row(NamedTuple):
    """Weights of a linear combination. ``ratios``, where not empty, are those of the equivalent chain of lerps."""

    weights: tuple[float, ...]
    ratios: tuple[float, ...] = ()


def row(weights: Sequence[float]) -> Row:
    """Prepare ``weights`` for :func:`combine`."""
    weights = tuple(weights)
    if len(weights) == 1 or abs(sum(weights) - 1) > 1e-13 * max(map(abs, weights)):
        return Row(weights)
    total, ratios = weights[0], []
    for weight in weights[1:]:
        previous, total = total, total + weight
        if abs(total) < 1e-3 * (abs(previous) + abs(weight)):  # a partial sum cancels: lerp would lose digits
            return Row(weights)
        ratios.append(weight / total)
    return Row(weights, tuple(ratios))


def combine(row: Row, tensors: Sequence[Tensor]) -> Tensor:
    """Σ_j weights_j · tensors_j, without touching the tensors. The fewest passes come from the state being *last*."""
    weights, ratios = row
    if ratios:
        out = torch.lerp(tensors[0], tensors[1], ratios[0])
        for ratio, tensor in zip(ratios[1:], tensors[2:], strict=True):
            out.lerp_(tensor, ratio)
        return out
    if len(weights) == 1:
        return tensors[0] if weights[0] == 1 else tensors[0] * weights[0]
    out = tensors[0] * weights[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        out.add_(tensor, alpha=weight)
    return out


class Plan(NamedTuple):
    """State of a one-evaluation solver: its rows, one for each fall, and which is next."""

    rows: tuple[tuple[Row, float], ...]  # weights of (D, x), standard deviation of the noise
    turn: int


class OneEvaluation(ABC):
    """A solver whose step is w_D D(x; a) + w_x x + std n: final subclasses say what the three numbers are."""

    @abstractmethod
    def weights(self, dynamics: Dynamics, a: Level, b: Level) -> tuple[float, float, float]:
        """(w_D, w_x, std) of the fall from a to b."""

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All rows of the walk."""
        weights = [self.weights(dynamics, a, b) for a, b in walk.falls]
        return Plan(tuple((row((w_D, w_x)), std) for w_D, w_x, std in weights), 0)

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        weights, std = state.rows[state.turn]
        x = combine(weights, (dynamics.denoise(x, a), x))
        return torch.add(x, randn(), alpha=std) if std else x, Plan(state.rows, state.turn + 1)
