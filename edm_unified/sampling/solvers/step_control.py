"""What the adaptive methods share: tolerances, the size of an error, samples that are lost, and the ledger.

Per-sample numbers, (B,), are kept in float64 on the CPU; :func:`along` takes them to the state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import count, nonnegative
from edm_unified.sampling.by_sample import each, row_sum
from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
SHORTEST_STEP = 1e-9
FIRST_STEP = 0.1
"""In ln σ. Far from the optimum either way it costs one or two steps."""


def check_tolerances(rtol: float, atol: float, most_evaluations: int) -> None:
    """Raise ``ValueError`` for tolerances that no step can meet."""
    nonnegative("rtol", rtol)
    nonnegative("atol", atol)
    if rtol == 0 and atol == 0:
        raise ValueError("rtol: rtol and atol are both 0, which no step can meet; set rtol=1e-5, or either of them")
    count("most_evaluations", most_evaluations)


def check_resolution(rtol: float, x: Tensor) -> None:
    """Raise ``ValueError`` where ``rtol`` is below the rounding of x, so that no step would ever be accepted."""
    least = 10 * torch.finfo(x.dtype).eps
    if 0 < rtol < least:
        raise ValueError(f"rtol: {rtol:g} is below what {x.dtype} resolves; use at least {least:.0e}, or dtype=float64")


def along(values: Tensor, x: Tensor) -> Tensor:
    """(B,) as (B, 1, …) on the device of x; numbers in x's dtype."""
    values = values if values.dtype == torch.bool else values.to(x.dtype)
    return values.to(x.device).view(-1, *[1] * (x.ndim - 1))


def size(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    """E of the module docstring for each sample, (B,) in float64 on the CPU; no gradient flows through it."""
    error, before, after = error.detach(), before.detach().abs(), after.detach().abs()
    scaled = error / (atol + rtol * torch.maximum(before, after)).clamp(min=torch.finfo(error.dtype).tiny)
    return (row_sum(scaled.double().square()) / max(1, scaled[0].numel())).sqrt().cpu()


def log_size(error: float) -> float:
    """ln E of a sample, within what says something about a step; a step that ended in NaN was far too long."""
    return math.log(min(max(error, 1e-8), 1e8)) if math.isfinite(error) else math.log(1e8)


def decay(z: Tensor) -> Tensor:
    """e^{−z} of each sample, (B,)."""
    return each(math.exp, -z)


def saturation(z: Tensor) -> Tensor:
    """1 − e^{−z} of each sample, (B,)."""
    return -each(math.expm1, -z)


class Tolerances(Protocol):
    """What an adaptive method is told to meet."""

    @property
    def rtol(self) -> float: ...
    @property
    def atol(self) -> float: ...
    @property
    def most_evaluations(self) -> int: ...


@dataclass
class Lost:
    """The samples (B,) that will not converge. They wait, as those that have arrived do, until all are told at once."""

    spent: Tensor
    stuck: Tensor

    @property
    def any(self) -> Tensor:
        return self.spent | self.stuck

    def find(self, solver: Tolerances, unfinished: Tensor, accepted: Tensor, evaluations: Tensor, h: Tensor) -> None:
        """Add those of the ``unfinished`` that have used up their evaluations, or whose steps have become too short."""
        self.stuck = self.stuck | unfinished & ~accepted & (h < SHORTEST_STEP)
        self.spent = self.spent | unfinished & ~self.stuck & (evaluations >= solver.most_evaluations)

    def report(self, solver: Tolerances, sigma: Tensor) -> None:
        """Raise ``FloatingPointError`` that names them, if there are any; ``sigma`` is where each sample is."""
        tolerance = f"rtol = {solver.rtol:g}, atol = {solver.atol:g}"
        if bool(self.stuck.any()):
            raise FloatingPointError(
                f"rtol: no step is short enough for {tolerance} for {_named(self.stuck, sigma)}; the output of the "
                "denoiser is NaN there, or not smooth: raise the tolerance, or compute in float64 if that was float32"
            )
        if bool(self.spent.any()):
            raise FloatingPointError(
                f"most_evaluations: {solver.most_evaluations:,} were not enough for {_named(self.spent, sigma)}; raise "
                f"it, or the tolerance ({tolerance})"
            )


def _named(which: Tensor, sigma: Tensor) -> str:
    indices = which.nonzero().flatten().tolist()
    named = ", ".join(map(str, indices[:8])) + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")
    places = sigma[which]
    where = f"{float(places.min()):.4g}" + (f" to {float(places.max()):.4g}" if len(indices) > 1 else "")
    return f"{len(indices)} of {len(which)} samples (of the batch: {named}), at sigma = {where}"


class Ledger:
    """``solver``, keeping what its last run cost: hand it to ``sample`` in the solver's place and read it afterwards.

    ``evaluations`` and ``rejected`` are lists with a number for each sample of the batch: evaluations of D that the
    sample needed (the batch as a whole is evaluated at least as often as the most demanding of them), and steps that
    were tried in vain.
    """

    def __init__(self, solver: Any) -> None:
        if not getattr(solver, "adaptive", False):
            raise ValueError(f"solver: {type(solver).__name__} is not adaptive; every sample costs the same with it")
        self.solver = solver
        self.state: Any = None

    adaptive: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return bool(self.solver.stochastic)

    @property
    def evaluations(self) -> list[int]:
        return list(self.state.evaluations.tolist())

    @property
    def rejected(self) -> list[int]:
        return list(self.state.rejected.tolist())

    def init(self, axis: Axis, walk: Walk) -> Any:
        self.state = self.solver.init(axis, walk)
        return self.state

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Any, randn: Randn) -> tuple[Tensor, Any]:
        x, self.state = self.solver.step(dynamics, x, a, b, state, randn)
        return x, self.state
