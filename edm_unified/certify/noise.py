"""The noise of a method, without a single random number.

**How much.** A fall from x = 0 under D = 0 leaves nothing but the method's noise. From its variance over a step h in
ln σ, and h → 0, follows the amplitude η(σ) of the SDE that the method follows, whatever it is called and however it is
set. Its drift must then be (1 + η²)(D − x): if drift and noise do not belong together, no marginal is right.

**Its law.** Under a linear D a sampler is a linear map of its noises. Fed orthonormal basis vectors in place of random
numbers, the squared length of its output *is* the variance of its samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.certify.runs import refined, run, slope
from edm_unified.certify.targets import HIGH, LOW, VARIANCES, Spectrum, graded, nothing

STEPS = (10, 20, 40, 80)
_PROBES = 24
_STEP = 1e-2


class Basis:
    """In place of unit noise: a basis vector orthogonal to all that came before; one row for each variance."""

    def __init__(self, rows: int, size: int) -> None:
        self.rows, self.size, self.next = rows, size, 0

    def __call__(self) -> Tensor:
        e = torch.zeros(self.rows, self.size, dtype=torch.float64)
        e[:, self.next] = 1  # IndexError: a method that draws more in one run than in another alike
        self.next += 1
        return e


def draws(solver: Any, levels: Sequence[float]) -> int:
    """How often a run over ``levels`` draws noise."""
    drawn = 0

    def count() -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros(1, 1, dtype=torch.float64)

    run(solver, levels, nothing, torch.ones(1, 1, dtype=torch.float64), count)
    return drawn


def squared_amplitude(solver: Any) -> tuple[float, ...] | None:
    """Chebyshev coefficients of η² over the smooth range; None where it is not smooth there."""
    lam = (-math.log(HIGH), -math.log(LOW))
    middle, half = sum(lam) / 2, (lam[1] - lam[0]) / 2
    points = middle + half * np.cos(np.pi * (np.arange(_PROBES) + 0.5) / _PROBES)
    values = np.array([_amplitude_at(solver, u) for u in points])
    mean = float(values.mean())
    if np.abs(values - mean).max() < 1e-6:
        return (round(mean, 6) + 0.0,)
    fit = np.polynomial.Chebyshev.fit(points, values, _PROBES - 1, domain=lam)
    between = np.linspace(lam[0], lam[1], 9)[1:-1]
    off = max(abs(float(fit(u)) - _amplitude_at(solver, u)) for u in between)
    return tuple(fit.coef.tolist()) if off < 1e-5 * (1 + np.abs(values).max()) else None


def _amplitude_at(solver: Any, lam: float) -> float:
    """η² at one level: steps h, h/2, h/4, h/8 about it, extrapolated to none (Neville)."""
    h = [_STEP / 2**k for k in range(4)]
    found = []
    for step in h:
        a, b = (math.exp(-lam + s * step / 2) for s in (1, -1))
        size = draws(solver, (a, b))
        zero = torch.zeros(1, max(size, 1), dtype=torch.float64)
        out = run(solver, (a, b), nothing, zero, Basis(1, max(size, 1)))
        share = float(out.square().sum()) / b**2
        found.append(-math.log1p(-share) / (2 * step) if share < 1 else share / (2 * step))
    for order in range(1, 4):
        for i in range(4 - order):
            found[i] = (found[i + 1] * h[i] - found[i] * h[i + order]) / (h[i] - h[i + order])
    return found[0]


def std_error(solver: Any, levels: Sequence[float]) -> float:
    """The largest relative error of a standard deviation at the last level, from the true marginal at the first."""
    size = draws(solver, levels) + 1
    basis, v = Basis(len(VARIANCES), size), torch.tensor(VARIANCES, dtype=torch.float64)
    start = torch.sqrt(v + levels[0] ** 2)[:, None] * basis()
    out = run(solver, levels, Spectrum(), start, basis)
    ratio = torch.sqrt(out.square().sum(1) / (v + levels[-1] ** 2))
    return float((ratio - 1).abs().max())


def std_errors(solver: Any) -> dict[int, float]:
    """At 10 to 80 steps of Karras' levels from 80 to 0.002."""
    return {n: std_error(solver, graded(n, 80.0, 0.002)) for n in STEPS}


def weak_order(solver: Any, wanted: int) -> tuple[float, dict[int, float]]:
    """The order at which the worst variance converges over the smooth range, and the errors that show it."""
    errors = {n: std_error(solver, graded(n, HIGH, 0.1)) for n in (80, 160, 320)}
    for n in refined(errors, wanted):
        errors[n] = std_error(solver, graded(n, HIGH, 0.1))
    return slope(errors), errors
