"""The integral of dy/du = rate(y, σ) in u = ln σ, from one noise level to another, up or down.

It is a walk like any other: the loop of :mod:`edm_unified.sampling.loop`, with y for the state. Fixed steps are those
of :class:`RK4` under the geometric schedule, whose time is u, and so equal in u. Adaptive ones are
:class:`DormandPrince45`'s: for each sample by itself, so that a sample's answer does not lean on its batch.

A walk falls. A path that rises is followed on the mirrored levels σ_start σ_end/σ, with the rate's sign turned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edm_unified.components.component import count, positive
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.loop import Progress, walk
from edm_unified.sampling.solvers import RK4, DormandPrince45, Solver
from edm_unified.schedules import GeometricVE

Rate = Callable[[Tensor, Tensor], Tensor]
"""dy/d ln σ of y (B, n) at σ, () or (B,) on the device of y."""
ProgressCallback = Callable[[int, int, float], object]
"""A callback: steps done, steps in all, σ."""


def integrate(
    rate: Rate,
    y: Tensor,
    start: float,
    end: float,
    steps: int,
    tolerance: float | None,
    callback: ProgressCallback | None = None,
) -> Tensor:
    """y at σ = ``end``, given y (B, n) at ``start``. With a ``tolerance``, by adaptive steps."""
    count("steps", steps)
    high, low, rises = max(start, end), min(start, end), end > start

    def own(sigma: Tensor) -> Tensor:
        """The noise level of the path that corresponds to the loop's level ``sigma``."""
        return (start * end / sigma).clamp(low, high) if rises else sigma

    def denoiser(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        """The D for which dx/dλ = D − x, λ = −ln σ of the loop, is the rate: what the solver is given."""
        slope = rate(x, own(sigma))
        return x + slope if rises else x - slope

    def on_progress(progress: Progress) -> None:
        if callback is not None:
            callback(progress.move, progress.moves, float(own(torch.tensor(progress.sigma, dtype=torch.float64))))

    if tolerance is None:
        solver: Solver = RK4()
        inner = [high * (low / high) ** (i / steps) for i in range(1, steps)]
        levels = [high, *inner, low]
    else:
        positive("tolerance", tolerance)
        solver, levels = DormandPrince45(rtol=tolerance, atol=tolerance), [high, low]
    dynamics = Dynamics(GeometricVE(low, high), denoiser, {}, y.device)
    return walk(dynamics, y, dynamics.walk(levels), solver, None, 1.0, _no_noise, on_progress)


def _no_noise() -> Tensor:
    raise AssertionError("these solvers draw nothing")
