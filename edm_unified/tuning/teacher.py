"""The teacher: where the probability-flow ODE takes each noise, with the states on the way, and its own error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.denoisers.denoiser import Denoiser, DenoiserWrapper
from edm_unified.sampling.levels import VPTime
from edm_unified.sampling.loop import sample
from edm_unified.sampling.solvers import VelocityAdams

STEPS = 96
"""Steps of the teacher. Half as many give its error."""
SHOWN = 16
"""Noises whose states are kept."""


class Teacher(NamedTuple):
    """Ends (B, *shape) of noises; ``levels`` (K,), the states and the outputs of D there, (K, b, *shape), of the first.

    ``error``: median over the noises of the distance per √d to the ends of half as many steps: an upper bound of its
    own error where that falls with the steps.
    """

    ends: Tensor
    levels: tuple[float, ...]
    states: Tensor
    outputs: Tensor
    error: float
    name: str

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        noise: Tensor,
        sigma_max: float = 80.0,
        sigma_min: float = 0.002,
        cond: Mapping[str, object] | None = None,
        steps: int = STEPS,
        tell: Callable[[float], object] = lambda share: None,
    ) -> Teacher:
        """Adams–Bashforth of order 4 on the velocity, in ``steps`` steps of VP time from σ_max · ``noise``."""
        solver = VelocityAdams(order=4)
        kept = _Kept(denoiser, noise[:SHOWN].shape)

        def ended(n: int, D: Any, of: Tensor, begin: float, share: float) -> Tensor:
            rule = VPTime(n=n, sigma_min=sigma_min, sigma_max=sigma_max, power=3.0)
            told = lambda progress: tell(begin + share * progress.move / progress.moves)  # noqa: E731
            return sample(D, of, steps=rule, solver=solver, cond=cond, callback=told)

        ends = ended(steps, kept, noise, 0.0, 2 / 3)
        half = ended(steps // 2, denoiser, noise, 2 / 3, 1 / 3)
        error = (ends - half).flatten(1).square().mean(1).sqrt().median()
        levels = tuple(kept.levels)
        return cls(
            ends, levels, torch.stack(kept.states), torch.stack(kept.outputs), float(error),
            f"{solver.kind} of order {solver.order}, {steps} steps of VP time, σ {sigma_max:g} to {sigma_min:g}",
        )  # fmt: skip


class _Kept(DenoiserWrapper):
    """D, keeping the first rows of what it is asked and what it answers at falling levels, every other one."""

    def __init__(self, denoiser: Denoiser, shape: torch.Size) -> None:
        self.denoiser, self.shape = denoiser, shape
        self.levels, self.states, self.outputs = list[float](), list[Tensor](), list[Tensor]()
        self._asked = 0

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        out = self.denoiser(x, sigma, **cond)
        level = float(sigma)
        self._asked += 1
        if not self.levels or (level < 0.97 * self.levels[-1] and math.isfinite(level)):
            self.levels.append(level)
            self.states.append(x[: self.shape[0]].clone())
            self.outputs.append(out[: self.shape[0]].to(x.dtype).clone())
        return out
