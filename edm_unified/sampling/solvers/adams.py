"""Adams–Bashforth in a coordinate: the machinery that all of :mod:`~edm_unified.sampling.solvers.multistep` shares.

Before the loop each step becomes numbers (:class:`Fall`); in it, one output is evaluated, weighed with those of the
past and kept for later as g, the combination of D and x that f is a multiple of (``coordinates.Frame``): one operation
on tensors for x and the newest output, one for each before it, and one to keep it, which is as few as there can be.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Dynamics, Level, Walk
from edm_unified.sampling.solvers.coordinates import Coordinate, weights_of_moments
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row


class Stage(NamedTuple):
    """Another evaluation, at ``level``, of the state that ``weights`` combine from the outputs so far and x (last)."""

    level: Level
    weights: Row


class Fall(NamedTuple):
    """One step, ready to be taken: x_b = Σ weights · (outputs, x) + Σ tail · (stored g of the past, oldest first)."""

    stages: tuple[Stage, ...]
    weights: Row
    tail: tuple[float, ...]
    mixed: bool
    """The stored g are under ``weights`` too, before the output: all weights sum to one, and it is a chain of lerps."""
    lean: float | None
    """g = lerp(D, x, lean), or D − x where it is None."""
    kept: bool
    """Whether a later step of the walk uses this one's g."""


class Plan(NamedTuple):
    """State: the falls, which is next, and the g of past steps, oldest first."""

    falls: tuple[Fall, ...]
    turn: int
    history: tuple[Tensor, ...]


class Multistep(ABC):
    """Adams–Bashforth in a coordinate: final subclasses say in which, and with how many outputs."""

    stochastic: ClassVar[bool] = False
    end: ClassVar[str] = "full"

    @property
    @abstractmethod
    def coordinate(self) -> Coordinate: ...

    @property
    @abstractmethod
    def most_outputs(self) -> int:
        """How many outputs a step uses once the history is long enough."""

    @property
    @abstractmethod
    def start(self) -> str: ...

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All falls of the walk."""
        falls = walk.falls
        if not falls:
            return Plan((), 0, ())
        coordinate, most, streaks = self.coordinate, self.most_outputs, walk.streaks
        outputs = walk.outputs(most, self.end)
        sigmas = [(a.sigma, b.sigma) for a, b in falls]
        a, b = np.array(sigmas).T
        u = coordinate.u(a)
        du = (coordinate.u(b) - u).tolist()
        u, spans = u.tolist(), coordinate.span(a, b).tolist()
        moments = coordinate.moments(a, b, max(most, 2))
        frames = [coordinate.frame(a) for a, _ in sigmas]
        starts = self.starts(dynamics, falls, streaks, spans, moments)
        plan = []
        for i, (_, end) in enumerate(sigmas):
            m, n, on_denoised, on_x = frames[i]
            lean = None if (on_denoised, on_x) == (1, -1) else on_x
            kept = i + 1 < len(falls) and outputs[i + 1] > 1
            past = outputs[i] - 1
            if i in starts:
                stages, closing = starts[i]
                plan.append(Fall(stages, closing, (), False, lean, kept))
            elif end == 0 and (past == 0 or not coordinate.reaches_zero):
                plan.append(Fall((), row((1.0, 0.0)), (), False, lean, kept))
            else:
                w = [1.0]
                if past:
                    nodes = coordinate.nodes([u[j] - u[i] for j in range(i, i - past - 1, -1)], du[i])
                    w = weights_of_moments(nodes, moments[i])
                m_end = coordinate.frame(end).m
                tail = tuple([spans[i] / m_end * w[j] * frames[i - j].n for j in range(past, 0, -1)])
                newest = spans[i] / m_end * w[0] * n
                both = (newest * on_denoised, m / m_end + newest * on_x)
                if tail and lean is not None and (chain := row((*tail, *both))).ratios:
                    plan.append(Fall((), chain, (), True, lean, kept))
                else:
                    plan.append(Fall((), row(both), tail, False, lean, kept))
        return Plan(tuple(plan), 0, ())

    def starts(
        self,
        dynamics: Dynamics,
        falls: Sequence[tuple[Level, Level]],
        streaks: Sequence[int],
        spans: Sequence[float],
        moments: Sequence[Sequence[float]],
    ) -> Mapping[int, tuple[tuple[Stage, ...], Row]]:
        """Stages and closing weights of the falls that a one-step method makes, by their number."""
        if self.start == "plain" or self.most_outputs == 1:
            return {}
        rows = {}
        for i, (a, b) in enumerate(falls):
            if streaks[i] == 0 and b.sigma > 0:
                h, half = spans[i], moments[i][1]
                rows[i] = runge_kutta(self.coordinate, a, [b], b, [[h], [h * (1 - half), h * half]])
        return rows

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        fall, history = state.falls[state.turn], state.history
        denoised = dynamics.denoise(x, a)
        if fall.stages:
            outputs: tuple[Tensor, ...] = (denoised,)
            for level, weights in fall.stages:
                outputs += (dynamics.denoise(combine(weights, (*outputs, x)), level),)
            out = combine(fall.weights, (*outputs, x))
        elif fall.mixed:
            out = combine(fall.weights, (*history[2 - len(fall.weights.weights) :], denoised, x))
        else:
            out = combine(fall.weights, (denoised, x))
            if fall.tail:
                for weight, g in zip(fall.tail, history[-len(fall.tail) :], strict=True):
                    out.add_(g, alpha=weight)
        if fall.kept:
            g = torch.sub(denoised, x) if fall.lean is None else torch.lerp(denoised, x, fall.lean)
            history = (*history, g)[1 - self.most_outputs :]
        else:
            history = ()
        return out, Plan(state.falls, state.turn + 1, history)


def runge_kutta(
    coordinate: Coordinate, a: Level, levels: Sequence[Level], b: Level, A: Sequence[Sequence[float]]
) -> tuple[tuple[Stage, ...], Row]:
    """Stages at a and ``levels``, closed at b, with m_i X_i = m_a x + Σ_j A_ij f_j; the last row of ``A`` closes.

    The recursion is run on the weights of (outputs, x).
    """
    m, n, on_denoised, on_x = coordinate.frame(a.sigma)
    size = len(levels) + 1
    start = [*[0.0] * size, m]
    X = [*[0.0] * size, 1.0]
    slopes: list[list[float]] = []
    stages: list[Stage] = []
    for i, level in enumerate((*levels, b)):
        slope = [n * on_x * w for w in X]
        slope[i] += n * on_denoised
        slopes.append(slope)
        m, n, on_denoised, on_x = coordinate.frame(level.sigma)
        X = [(w + sum([c * f[k] for c, f in zip(A[i], slopes, strict=True)])) / m for k, w in enumerate(start)]
        if i < len(levels):
            stages.append(Stage(level, row([*X[: i + 1], X[size]])))
    return tuple(stages), row(X)
