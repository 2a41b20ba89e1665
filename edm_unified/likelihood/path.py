"""The integral of dy/du = rate(y, σ) in u = ln σ, from one noise level to another, up or down.

Fixed steps are those of the classical Runge–Kutta method, equal in u. Adaptive ones are :class:`DormandPrince45`'s: for
each sample by itself, so that a sample's answer does not lean on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from edm_unified._component import count, positive
from edm_unified.denoiser import Denoiser
from edm_unified.dynamics import Dynamics, Level
from edm_unified.solvers import DormandPrince45
from edm_unified.solvers.adaptive import State

Rate = Callable[[Tensor, Tensor], Tensor]
"""dy/d ln σ of y (B, n) at σ, () or (B,) on the device of y."""
Told = Callable[[int, int, float], object]
"""A callback: steps done, steps in all, σ."""


def denoised(denoiser: Denoiser, x: Tensor, sigma: Tensor, cond: Mapping[str, object]) -> Tensor:
    """D(x; σ) in the dtype of x. Raises ``ValueError`` where it has another shape, which might broadcast."""
    out = denoiser(x, sigma, **cond)
    if out.shape != x.shape:
        raise ValueError(f"denoiser: returned shape {tuple(out.shape)} for x of shape {tuple(x.shape)}")
    return out.to(x.dtype)


def grid(start: float, end: float, steps: int) -> Tensor:
    """2·steps + 1 levels, equal in ln σ, from ``start`` to ``end`` to the bit: the ends and middles of the steps."""
    count("steps", steps)
    levels = torch.linspace(math.log(start), math.log(end), 2 * steps + 1, dtype=torch.float64).exp()
    levels[0], levels[-1] = start, end
    return levels


def integrate(
    rate: Rate, y: Tensor, start: float, end: float, steps: int, tolerance: float | None, callback: Told | None = None
) -> Tensor:
    """y at σ = ``end``, given y (B, n) at ``start``. With a ``tolerance``, by adaptive steps."""
    if tolerance is not None:
        return _adaptive(rate, y, start, end, tolerance)
    levels = grid(start, end, steps)
    numbers, levels = levels.tolist(), levels.to(y.device)  # both now: a copy in the loop would wait for the device
    h = math.log(end / start) / steps
    for i in range(steps):
        low, middle, high = levels[2 * i], levels[2 * i + 1], levels[2 * i + 2]
        k1 = rate(y, low)
        k2 = rate(y + 0.5 * h * k1, middle)
        k3 = rate(y + 0.5 * h * k2, middle)
        k4 = rate(y + h * k3, high)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if callback is not None:
            callback(i + 1, steps, numbers[2 * i + 2])
    return y


def _adaptive(rate: Rate, y: Tensor, start: float, end: float, tolerance: float) -> Tensor:
    """The solver falls; a rise is a fall of the mirrored level σ_start σ_end/σ, with the rate's sign turned."""
    positive("tolerance", tolerance)
    rises = end > start
    high, low = max(start, end), min(start, end)

    class Mirror:
        def denoise(self, y: Tensor, level: Level) -> Tensor:
            sigma = level.sigma_tensor.to(y.device).expand(len(y))
            slope = rate(y, (start * end / sigma).clamp(low, high) if rises else sigma)
            return y + slope if rises else y - slope  # the solver integrates dy/dλ = D − y

    def level(sigma: float) -> Level:
        return Level(sigma, sigma, 1.0, 0.0, 1.0 / sigma, torch.tensor(sigma, dtype=torch.float64, device=y.device))

    solver = DormandPrince45(rtol=tolerance, atol=tolerance)
    dynamics = cast("Dynamics", Mirror())
    none: Any = None  # the solver draws nothing
    return solver.step(dynamics, y, level(high), level(low), State((0,)), none)[0]
