"""The control of adaptive methods: one loop over the steps of a fall, for all samples of a batch at once.

Per-sample numbers, (B,), are kept in float64 on the CPU; :func:`~edm_unified.sampling.by_sample.along` takes them to
the state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from edm_unified.sampling.by_sample import along, each, row_sum
from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.trial import SampleLevels, States, Trial

SAFETY, LEAST, MOST = 0.9, 0.2, 5.0
SHORTEST_STEP = 1e-9
FIRST_STEP = 0.1
"""In ln σ. Far from the optimum either way it costs one or two steps."""


def check_resolution(rtol: float, x: Tensor) -> None:
    """Raise ``ValueError`` where ``rtol`` is below the rounding of x, so that no step would ever be accepted."""
    least = 10 * torch.finfo(x.dtype).eps
    if 0 < rtol < least:
        raise ValueError(f"rtol: {rtol:g} is below what {x.dtype} resolves; use at least {least:.0e}, or dtype=float64")


def size(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> Tensor:
    """E = RMS over a sample's elements of error/(atol + rtol max(|before|, |after|)), (B,) in float64 on the CPU.

    No gradient flows through it.
    """
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


class Noises(Protocol):
    """The noise of the steps of one fall, of which a rejected one takes none."""

    def next(self, u: Tensor, wanted: Tensor, active: Tensor, x: Tensor, randn: Randn) -> tuple[Tensor, Tensor]:
        """How far the steps from u go, at most as far as ``wanted``, (B,), and the noise of them, (B, *)."""
        ...

    def pop(self, which: Tensor) -> None:
        """The steps of these samples have been accepted."""
        ...


class State(NamedTuple):
    """What is carried from fall to fall; the tensors are of shape (B,) but for ``denoised``."""

    streaks: tuple[int, ...] = ()  # of the falls that are still to come
    step: Tensor | None = None
    errors: tuple[Tensor, ...] = ()  # of the last two accepted steps
    denoised: Tensor | None = None  # D at the current x, if it is known
    evaluations: Tensor | None = None
    rejected: Tensor | None = None
    drawn: Any = None  # noise that some samples have used and others have not yet


class Adaptive(ABC):
    """The loop over the steps of one fall; final subclasses print a pair of steps and say how long the next one is."""

    adaptive: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False

    rtol: float
    atol: float
    most_evaluations: int

    def __post_init__(self) -> None:
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol: rtol and atol are both 0, which no step can meet; set rtol=1e-5, or either of them")

    @abstractmethod
    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]:
        """The state that is returned where the step is accepted, and the one that it is compared with."""

    @abstractmethod
    def factor(self, error: float, last: float, before: float, accepted: bool) -> float:
        """What the next step of a sample is of this one, given its error and those of the last two accepted steps."""

    @abstractmethod
    def cut_short(self, length: Tensor, h: Tensor, arrived: Tensor) -> Tensor:
        """Steps that were shorter than they might have been, (B,): they say nothing against a longer one."""

    def error(self, x: Tensor, high: Tensor, low: Tensor) -> Tensor:
        """E of each sample, (B,)."""
        return size(high - low, x, high, self.rtol, self.atol)

    def noises(self, B: int, drawn: Any) -> Noises | None:
        """That of a fall, for a batch of B; ``drawn`` is what falls before have left."""
        return None

    def init(self, axis: Axis, walk: Walk) -> State:
        """Nothing is known before the batch is."""
        return State(tuple(walk.streaks))

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: State, randn: Randn
    ) -> tuple[Tensor, State]:
        """One fall from level a to level b."""
        check_resolution(self.rtol, x)
        none, never = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.bool)
        evaluations = none if state.evaluations is None else state.evaluations
        rejected = none if state.rejected is None else state.rejected
        D = state.denoised if state.streaks[0] else None
        if D is None:
            D, evaluations = dynamics.denoise(x, a), evaluations + 1
        noises = self.noises(len(x), state.drawn)
        if b.sigma == 0:
            return D, State(state.streaks[1:], state.step, state.errors, None, evaluations, rejected, state.drawn)

        H = math.log(a.sigma / b.sigma)

        def place(u: Tensor) -> SampleLevels:
            return SampleLevels(torch.where(u < H, a.sigma * decay(u), b.sigma), u)  # the end is the walk's own number

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            return dynamics.denoise(x, a._replace(sigma_tensor=sigma.to(x.device)))

        u = none.double()
        h = torch.full_like(u, FIRST_STEP) if state.step is None else state.step
        errors = state.errors or (torch.ones_like(u),) * 2
        stale = never  # samples that have moved on from their D
        lost = Lost(never, never)
        at_end: Tensor | None = None
        while bool((active := (u < H) & ~lost.any).any()):
            if bool(stale.any()):
                D = torch.where(along(stale, x), evaluate(x, place(u).sigma), D)
                evaluations = evaluations + stale
            reach, noise = torch.where(h < H - u, u + h, H), None  # the last step ends on the level, to the bit
            if noises is not None:
                reach, noise = noises.next(u, reach, active, x, randn)
            here, there = place(u), place(reach)
            trial = Trial(evaluate, place, D, noise, here, there)
            high, low = (value.x for value in self.pair(trial, States(x), here, there))
            error = self.error(x, high, low)
            accepted = active & (error <= 1)
            evaluations = evaluations + trial.evaluations * active
            rejected = rejected + (active & ~accepted)
            arrived = accepted & (reach == H)
            lost.find(self, active & ~arrived, accepted, evaluations, trial.h)

            wanted = trial.h * each(self.factor, error, *errors, accepted)
            cut = accepted & self.cut_short(trial.h, h, arrived)
            h = torch.where(active, torch.where(cut, torch.maximum(wanted, h), wanted), h)
            kept = error.clamp(1e-8)
            errors = (torch.where(accepted, kept, errors[0]), torch.where(accepted, errors[0], errors[1]))
            if noises is not None:
                noises.pop(accepted)
            u = torch.where(accepted, reach, u)
            x = torch.where(along(accepted, x), high, x)
            at_end = trial.at_end
            if at_end is not None:
                D = torch.where(along(accepted, x), at_end, D)
            else:
                stale = accepted & (u < H)
        lost.report(self, place(u).sigma)
        drawn = getattr(noises, "drawn", None)
        return x, State(state.streaks[1:], h, errors, None if at_end is None else D, evaluations, rejected, drawn)


@dataclass
class Lost:
    """The samples (B,) that will not converge. They wait, as those that have arrived do, until all are told at once."""

    spent: Tensor
    stuck: Tensor

    @property
    def any(self) -> Tensor:
        return self.spent | self.stuck

    def find(self, solver: Adaptive, unfinished: Tensor, accepted: Tensor, evaluations: Tensor, h: Tensor) -> None:
        """Add those of the ``unfinished`` that have used up their evaluations, or whose steps have become too short."""
        self.stuck = self.stuck | unfinished & ~accepted & (h < SHORTEST_STEP)
        self.spent = self.spent | unfinished & ~self.stuck & (evaluations >= solver.most_evaluations)

    def report(self, solver: Adaptive, sigma: Tensor) -> None:
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
