"""The fit: damped Gauss–Newton on where students end, with D as a black box.

For noises n_m with exact ends y_m the objective is, q_m(θ) = ‖x_m(θ) − y_m‖²/d,

    mean_m ln(q_m + δ²) + ρ Σ_k p_k (θ_k − θ⁰_k)².

The logarithm makes it the median that is fitted: a noise that ends beside another mode of the data than its exact
solution, as some do at few evaluations, counts for no more than its share. Each iteration is a least-squares problem
with weights 1/(q_m + δ²); the derivatives are finite differences, one student for each number of θ. δ² follows the
median of q down. The ridge leans on the start θ⁰, which is a stock method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified.tuning.many import Array, Asked, Layout, ends

RIDGE = 1e-3
"""ρ. Numbers of θ are of order one; a gain of 1 % is 0.02 in the objective."""
_LEVELS_FREE = 0.05
"""p_k of the levels; 1 for the weights, 10 for what D is told."""
_TOLD_HELD = 10.0
_DIFFERENCE = 1e-3
"""Of the finite differences: far above what a network in float32 rounds."""
_SOFT = 0.1
"""δ² over the median of q."""
_LEAST_STEP = 0.02
"""Neighbouring levels differ by so much in ln σ at least."""
ITERATIONS = 12
_SETTLED = 0.01
"""A gain in the objective below which the fit ends."""
_TRIES = 2
"""Of three dampings each, every one eight times the one before."""
_MOST_NUMBERS = 16_000_000
"""Numbers of states held at a time, of all students and past outputs together: more noises are taken in parts."""


class Found(NamedTuple):
    """θ and the value of the objective at the start and there."""

    theta: Array
    before: float
    after: float
    iterations: int


class Noises(NamedTuple):
    """What is fitted on: D with its condition, x at σ_max (B, *shape), and where it should end."""

    asked: Asked
    start: Tensor
    exact: Tensor
    sigma_max: float
    sigma_min: float

    def only(self, chosen: Tensor) -> Noises:
        """Those noises alone."""
        rows = chosen.to(self.start.device)
        return self._replace(asked=self.asked.only(rows), start=self.start[rows], exact=self.exact[rows])


def errors(noises: Noises, layout: Layout, thetas: Array) -> Tensor:
    """q of every student and noise, (V, B); infinite where a walk overflowed."""
    return torch.cat([_squares(noises, layout, thetas, part) for part in _parts(noises, len(thetas), layout)], dim=1)


def _squares(noises: Noises, layout: Layout, thetas: Array, part: slice) -> Tensor:
    x = ends(noises.asked, layout, thetas, noises.start[part], noises.sigma_max, part)
    return (x - noises.exact[part]).square().flatten(2).mean(2).nan_to_num(nan=torch.inf).cpu()


def _parts(noises: Noises, students: int, layout: Layout) -> list[slice]:
    each = students * noises.start[0].numel() * (2 + layout.depth)
    size = max(1, _MOST_NUMBERS // each)
    return [slice(begin, begin + size) for begin in range(0, len(noises.start), size)]


def fit(
    noises: Noises,
    layout: Layout,
    theta: Array,
    iterations: int = ITERATIONS,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> Found:
    """θ from ``theta`` on. ``tell`` is called with the iterations done and their greatest number.

    The objective is that of all noises. Derivatives are of a few of them, others in each iteration, and of twice as
    many from where on those gave no step that lowers it.
    """
    origin, held = theta.copy(), np.ones(layout.size)
    held[: layout.n - 1] = _LEVELS_FREE
    held[layout.of_told] = _TOLD_HELD
    q = errors(noises, layout, theta[None])[0]
    soft = _SOFT * float(q.median())
    if not np.isfinite(soft) or soft == 0:
        return Found(theta, float(soft), float(soft), 0)

    def objective(q: Tensor, theta: Array) -> float:
        return float(torch.log(q + soft).mean()) + RIDGE * float(held @ (theta - origin) ** 2)

    damping, before, done, some = 1e-2, objective(q, theta), 0, enough(layout, noises)
    for iteration in range(iterations):
        tell(iteration, iterations)
        soft = min(soft, _SOFT * float(q.median()))
        now = objective(q, theta)
        A, g = _normal(_rotated(noises, some, iteration), layout, theta, soft)
        A, g = A + RIDGE * np.diag(held), g + RIDGE * held * (theta - origin)
        gain = 0.0
        for _ in range(_TRIES):
            dampings = [damping * 8**k for k in range(3)]
            steps = [np.linalg.solve(A + mu * np.diag(np.diag(A)), g) for mu in dampings]
            tried = [
                (mu, theta - s) for mu, s in zip(dampings, steps, strict=True) if _falls(noises, layout, theta - s)
            ]
            damping *= 8**3
            if tried:
                found = errors(noises, layout, np.stack([one for _, one in tried]))
                values = [objective(row, one) for row, (_, one) in zip(found, tried, strict=True)]
                best = int(np.nanargmin(values))
                if values[best] < now:
                    gain, done = now - values[best], iteration + 1
                    damping, theta, q = max(tried[best][0] / 8, 1e-7), tried[best][1], found[best]
                    break
        if gain < _SETTLED:
            if some >= len(noises.start):
                break
            some, damping = min(2 * some, len(noises.start)), 1e-2
    return Found(theta, before, objective(q, theta), done)


def _normal(noises: Noises, layout: Layout, theta: Array, soft: float) -> tuple[Array, Array]:
    """Jᵀ W J and Jᵀ W r over all noises, divided by their numbers; W = 1/(q + δ²)."""
    A, g = np.zeros((layout.size, layout.size)), np.zeros(layout.size)
    near = np.concatenate([theta[None], theta[None] + _DIFFERENCE * np.eye(layout.size)])
    for part in _parts(noises, len(near), layout):
        x = ends(noises.asked, layout, near, noises.start[part], noises.sigma_max, part, share=True).flatten(2)
        r = x[0] - noises.exact[part].flatten(1)
        J = (x[1:] - x[:1]) / _DIFFERENCE
        w = 1 / (r.square().mean(1, keepdim=True) + soft)
        kept = torch.isfinite(J).all(2).all(0) & torch.isfinite(r).all(1)  # of a walk that overflows nothing is learnt
        J, r = (J * w.sqrt())[:, kept].flatten(1), (r * w.sqrt())[kept].flatten()
        A += (J @ J.mT).cpu().numpy()
        g += (J @ r).cpu().numpy()
    return A / noises.start.numel(), g / noises.start.numel()


def enough(layout: Layout, noises: Noises) -> int:
    """Noises whose derivatives say enough of a step: eight, and four times as many numbers as are fitted."""
    return min(len(noises.start), max(8, -(-4 * layout.size * len(noises.start) // noises.start.numel())))


def _rotated(noises: Noises, size: int, turn: int) -> Noises:
    """``size`` of the noises, others in each turn."""
    total = len(noises.start)
    if size >= total:
        return noises
    chosen = torch.arange(turn * size, (turn + 1) * size) % total
    return noises.only(chosen)


def _falls(noises: Noises, layout: Layout, theta: Array) -> bool:
    """Whether the levels fall, from σ_max to no less than σ_min, and those that D is told are within."""
    sigmas, told = (of(noises.sigma_max, theta[None])[0] for of in (layout.sigmas, layout.asked))
    low, high = noises.sigma_min * (1 - 1e-9), noises.sigma_max * (1 + 1e-9)
    inside = bool((sigmas >= low).all() and (told >= low).all() and (told <= high).all())
    return inside and bool((np.diff(np.log(sigmas)) < -_LEAST_STEP).all())
