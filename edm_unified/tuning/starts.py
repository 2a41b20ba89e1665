"""Where a fit may start: levels in closed form, and levels measured on the teacher's trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from edm_unified.sampling.levels import DensitySpaced, Karras, LogLinear, Steps, Tan, VPTime
from edm_unified.sampling.levels.base import then_zero
from edm_unified.schedules import Schedule
from edm_unified.tuning.teacher import Teacher

Rule = Callable[[int], Steps]
"""From a number of steps to a rule for the levels."""


def closed(teacher: Teacher, sigma_min: float, sigma_max: float) -> dict[str, Rule]:
    """The rules that stock methods are tried on, by name: four that know nothing of the data, and two that do.

    ``tangent``: the tangent law of the variances of the teacher's ends, coordinate by coordinate. ``entropy``: equal
    shares of the rescaled entropy, E‖D − x_0‖²/σ along the teacher's trajectories.
    """
    low, high = sigma_min, sigma_max
    variances = teacher.ends.flatten(1).var(0).clamp(min=1e-12)
    floor = 1e-4 * float(variances.mean())  # of a few noises, the least are chance
    spread = [max(float(value), floor, 1e-24) for value in variances]
    gap = (teacher.outputs - teacher.ends[: teacher.outputs.shape[1]]).square().flatten(1).mean(1)
    density = _positive(gap / torch.tensor(teacher.levels, device=gap.device))
    entropy = DensitySpaced(sigmas=teacher.levels, density=density)
    return {
        "vp_time": lambda n: VPTime(n=n, power=2.0, sigma_min=low, sigma_max=high),
        "vp_time, power 3": lambda n: VPTime(n=n, power=3.0, sigma_min=low, sigma_max=high),
        "karras": lambda n: Karras(n=n, sigma_min=low, sigma_max=high),
        "log_linear": lambda n: LogLinear(n=n, sigma_min=low, sigma_max=high),
        "tangent": lambda n: Tan.of(spread, n=n, sigma_min=low, sigma_max=high),
        "entropy": lambda n: DensitySpaced(n=n, sigmas=entropy.sigmas, density=entropy.density),
    }


def measured(teacher: Teacher) -> dict[str, Rule]:
    """``local error``: equal shares of (E‖d²D/dλ²‖²)^{1/6}, the cube root of the local error of a method of order 2.
    ``shortest``: the nodes of the least sum of Euler's errors between them, by dynamic programming (as GITS)."""
    lam = -torch.tensor(teacher.levels, dtype=torch.float64).log().to(teacher.outputs.device)
    D = teacher.outputs.flatten(1)
    slopes = (D[1:] - D[:-1]) / (lam[1:] - lam[:-1])[:, None]
    bend = (slopes[1:] - slopes[:-1]).square().mean(1).sqrt() / (0.5 * (lam[2:] - lam[:-2]))
    q = torch.cat([bend[:1], bend, bend[-1:]]) ** (1 / 3)
    local = DensitySpaced(sigmas=teacher.levels, density=_positive(q + 0.1 * q.mean()))
    costs = _costs(teacher)
    return {
        "local error": lambda n: DensitySpaced(n=n, sigmas=local.sigmas, density=local.density),
        "shortest": lambda n: _Listed(_shortest(costs, teacher.levels, n)),
    }


class _Listed:
    """Levels as they are, and 0."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas

    def levels(self, schedule: Schedule) -> torch.Tensor:
        return then_zero(self.sigmas, self.sigmas[0], self.sigmas[-1])


def _positive(values: torch.Tensor) -> tuple[float, ...]:
    """As a density: no value below a thousandth of the largest."""
    top = max(float(values.max()), 1e-30)
    return tuple(max(value, 1e-3 * top) for value in values.tolist())


def _costs(teacher: Teacher) -> np.ndarray:
    """(K, K + 1): E‖the Euler step from node i to j, less the teacher's state there‖; the last column is σ = 0."""
    sigmas = [*teacher.levels, 0.0]
    states = torch.cat([teacher.states, teacher.ends[None, : teacher.states.shape[1]]]).flatten(2)
    found = np.full((len(teacher.levels), len(sigmas)), math.inf)
    for i, a in enumerate(teacher.levels):
        x, D = states[i], teacher.outputs[i].flatten(1)
        kept = torch.tensor([b / a for b in sigmas[i + 1 :]], dtype=x.dtype, device=x.device)[:, None, None]
        off = kept * x + (1 - kept) * D - states[i + 1 :]
        found[i, i + 1 :] = off.square().mean(2).sqrt().mean(1).cpu().numpy()
    return found


def _shortest(costs: np.ndarray, levels: Sequence[float], n: int) -> list[float]:
    """The n nodes, the first among them, from which n Euler steps to 0 have the least sum of errors."""
    last = costs.shape[1] - 1
    best, via = costs[:, last].copy(), []
    for _ in range(n - 1):
        total = costs[:, :last] + best[None]
        via.append(total.argmin(1))
        best = total.min(1)
    path = [0]
    for chosen in reversed(via):
        path.append(int(chosen[path[-1]]))
    return [levels[i] for i in path]
