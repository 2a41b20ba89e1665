"""Runs of a solver outside ``sample``: with exact states fed to it, with its noise off, with noise given.

Nothing is asked of a solver but ``init`` and ``step``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.certify.targets import HIGH, LOW, Flow, mixtures
from edm_unified.denoisers.denoiser import Denoiser
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.loop import walk
from edm_unified.schedules import EDM, Schedule

WARM = 4
"""Falls that an exact start replaces: more than the history of any method here is long."""
FINER = (640, 1280)
"""Grids for a method whose leading error is so small, by cancellation, that it does not rule at 320 steps yet."""
CLOSE = 0.1
"""A measured order nearer than this to the wanted one needs no finer grid."""
SETTLED = 0.03
"""A measured order that changes by less when the grid is halved has reached its limit."""
Errors = tuple[float, ...]


def silence() -> Tensor:
    """Noise switched off: what remains is the drift of the method's SDE."""
    return torch.zeros_like(mixtures().start)


def dynamics_of(denoiser: Denoiser, schedule: Schedule | None = None) -> Dynamics:
    return Dynamics(schedule or EDM(), denoiser, {}, torch.device("cpu"))


def run(
    solver: Any,
    levels: Sequence[float],
    denoiser: Denoiser,
    start: Tensor,
    randn: Callable[[], Tensor],
    schedule: Schedule | None = None,
) -> Tensor:
    """The package's own loop over ``levels`` from ``start``; a rise adds no noise."""
    dynamics = dynamics_of(denoiser, schedule)
    return walk(dynamics, start, dynamics.walk(levels), solver, None, 0.0, randn)


class _ExactPast:
    """D, which while ``exact`` is set answers at a level of the walk as if it had been asked about the exact state.

    A method that keeps an evaluation for its next step (UniPC) would else start from outputs at its own first guesses.
    """

    def __init__(self, flow: Flow, levels: Sequence[float]) -> None:
        self.flow, self.levels, self.exact = flow, frozenset(levels[: WARM + 2]), True

    def __call__(self, x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        if self.exact and sigma.ndim == 0 and float(sigma) in self.levels:
            x = self.flow(float(sigma))
        return mixtures()(x, sigma)


def final_errors(
    solver: Any, levels: Sequence[float], flow: Flow, warm: int = 0, schedule: Schedule | None = None
) -> Errors:
    """Errors at the end of a run over ``levels`` whose first ``warm`` falls were replaced by the exact flow."""
    guide = _ExactPast(flow, levels)
    dynamics = dynamics_of(guide, schedule)
    path = dynamics.walk(levels)
    x, state = mixtures().start.clone(), solver.init(dynamics.axis, path)
    for i, (a, b) in enumerate(path.moves):
        guide.exact = i < warm
        x, state = solver.step(dynamics, x, a, b, state, silence)
        if i < warm:
            x = flow(b.sigma)
    return mixtures().errors(x, flow(levels[-1]))


def local_errors(solver: Any, levels: Sequence[float], flow: Flow) -> Errors:
    """RMS error of a single fall from the exact state with an exact past, over the middle of the range."""
    guide = _ExactPast(flow, levels)
    dynamics = dynamics_of(guide)
    path = dynamics.walk(levels)
    x, state = mixtures().start.clone(), solver.init(dynamics.axis, path)
    found = []
    for i, (a, b) in enumerate(path.moves):
        guide.exact = i < WARM
        x, state = solver.step(dynamics, x, a, b, state, silence)
        exact = flow(b.sigma)
        if b.sigma > LOW * 1.5 and a.sigma < HIGH / 4:
            found.append(mixtures().errors(x, exact))
        x = exact
    return tuple(np.sqrt(np.mean(np.square(found), axis=0)).tolist())


def pooled(errors: Errors) -> float:
    """The geometric mean over the targets, infinite if one diverged."""
    if not all(math.isfinite(e) for e in errors):
        return math.inf
    return math.exp(math.fsum(math.log(max(e, 1e-300)) for e in errors) / len(errors))


FLOOR = 2e-12
"""Errors below it are rounding and the reference's own."""


def slope(errors: dict[int, float]) -> float:
    """−d log(error)/d log(N) between the two finest grids above rounding; NaN if all is rounding, or diverged."""
    above = sorted((n, e) for n, e in errors.items() if FLOOR < e < math.inf)
    if len(above) < 2:
        return math.nan
    (n0, e0), (n1, e1) = above[-2:]
    return math.log(e0 / e1) / math.log(n1 / n0)


def refined(errors: dict[int, float], least: float) -> Iterator[int]:
    """The finer grids worth measuring: while the order falls short of ``least`` and still changes from grid to grid.

    ``errors`` is looked at again after each, so that the caller adds what it found.
    """
    for n in FINER:
        *coarse, _ = sorted(errors)
        order, before = slope(errors), slope({m: errors[m] for m in coarse})
        if order > least - CLOSE or abs(order - before) < SETTLED:
            return
        yield n
