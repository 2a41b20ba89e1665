"""Schedule + denoiser: what a solver integrates.

The state of a run is x = x_t/s(t) = x_0 + σ n, in the units of the data. In it the probability-flow ODE is

    dx/dσ = (x − D(x; σ))/σ                                          (Karras et al. 2022, Eqs. 1 and 3)

for *every* schedule: all deterministic methods approximate one and the same curve. What the schedule changes is the
variable in which a Runge–Kutta method takes its straight steps: x_t = s x against t, with

    dx_t/dt = (s'/s) x_t + (σ'/σ) (x_t − s D(x_t/s; σ))              (Karras et al. 2022, Eq. 4, in log-rates).

**Anchored processes**, x_t = y + s (x_0 − y) + s σ n, decay to an observation y in place of zero. Then x_t − y is an
ordinary process of x_0 − y, and the walk is made on z = x − y = (x_t − y)/s with D_z(z; σ) = D(z + y; σ) − y. D itself
is told x = x_0 + σ n, as ever. So no solver, renoising rule or corrector knows of y: this file adds and subtracts it.

Everything that depends on levels alone is computed here and in ``solver.init`` in float64 on the CPU, once, before the
loop. The loop itself only combines tensors with Python numbers, so it never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from edm_unified.denoisers.denoiser import Denoiser, OutputError, estimate
from edm_unified.schedules import PRACTICAL_INFINITY, Schedule, is_value
from edm_unified.schedules.base import float64

CPU = torch.device("cpu")


class Level(NamedTuple):
    """A noise level of the walk. ``sigma`` is the number that was asked for, copied and never recomputed from t."""

    sigma: float
    t: float
    s: float
    f: float
    """s'/s, the log-rate of the scale."""
    l: float
    """σ'/σ, the log-rate of the noise level; infinite at t = 0."""
    sigma_tensor: Tensor
    """``sigma`` as a 0-d float64 tensor on the device of the state: what D is called with."""


def levels(
    schedule: Schedule, sigmas: Sequence[float], times: Sequence[float] | None, device: torch.device
) -> tuple[Level, ...]:
    """Levels for ``sigmas`` at ``times``, or else at σ⁻¹, in one transfer to the device.

    Remembered for the last few lists under a shipped schedule: batch after batch is drawn with the same settings.
    """
    key = (schedule, tuple(sigmas), None if times is None else tuple(times), device, torch.is_inference_mode_enabled())
    return _remembered_levels(*key) if is_value(schedule) else _levels(*key)


def _levels(
    schedule: Schedule,
    sigmas: tuple[float, ...],
    times: tuple[float, ...] | None,
    device: torch.device,
    inference: bool,
) -> tuple[Level, ...]:
    times = _times(schedule, sigmas) if times is None else times
    t = float64(times)
    s, f, l = (of(t).tolist() for of in (schedule.s, schedule.log_s_rate, schedule.log_sigma_rate))
    if 0 in s:
        raise ValueError(
            f"sigma: {sigmas[s.index(0)]:.6g} is so high under {type(schedule).__name__} that nothing is left of the "
            "data, s = 0; start lower, or give the schedule more noise"
        )
    return tuple(map(Level, sigmas, times, s, f, l, float64(sigmas).to(device).unbind()))


_remembered_levels = lru_cache(maxsize=64)(_levels)


def _times(schedule: Schedule, sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """σ⁻¹ of the levels. Raises ``ValueError`` where σ is so high that rounding makes its time another level's."""
    positive = iter(schedule.time(float64([sigma for sigma in sigmas if sigma > 0])).tolist())
    times = tuple(next(positive) if sigma > 0 else 0.0 for sigma in sigmas)
    high = sigmas[0]  # a walk may rise above its start, but not by orders of magnitude
    if high > PRACTICAL_INFINITY and not abs(float(schedule.sigma(times[0])) - high) <= 1e-6 * high:
        raise ValueError(
            f"sigma: {high:.6g} is so high that its time under {type(schedule).__name__} rounds to the "
            f"end of the axis; start at {PRACTICAL_INFINITY:g} or below"
        )
    return times


class Walk(NamedTuple):
    """The levels of a run, in order, and the moves between neighbours."""

    levels: tuple[Level, ...]

    @property
    def moves(self) -> list[tuple[Level, Level]]:
        """Every pair of neighbours: a fall, a rise or a repeat."""
        return list(pairwise(self.levels))

    @property
    def falls(self) -> list[tuple[Level, Level]]:
        """The moves that a solver makes, in the order in which it makes them."""
        return [(a, b) for a, b in self.moves if b.sigma < a.sigma]

    @property
    def streaks(self) -> list[int]:
        """For each fall, how many falls led up to it without a rise or repeat: the past that a multistep method has."""
        streaks, streak = [], 0
        for a, b in self.moves:
            streaks.extend([streak] if b.sigma < a.sigma else [])
            streak = streak + 1 if b.sigma < a.sigma else 0
        return streaks

    def outputs(self, most: int, end: str = "full") -> list[int]:
        """For each fall, how many outputs of D, the newest included, a multistep method of ``most`` outputs uses.

        No more than its streak has; where ``end`` is "lower", no more than the falls that are left, this one included.
        """
        falls, streaks = len(self.falls), self.streaks
        left = [falls - i if end == "lower" else most for i in range(falls)]
        return [min(most, streak + 1, rest) for streak, rest in zip(streaks, left, strict=True)]


class Substitute(NamedTuple):
    """A closed form that answers in the place of D wherever σ is not below ``sigma``: an analytic start's."""

    sigma: float
    denoise: Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Axis:
    """The axis of noise levels under a schedule: all that a solver's weights depend on. Levels live on ``device``."""

    schedule: Schedule
    device: torch.device = CPU

    def levels(self, sigmas: Sequence[float], times: Sequence[float] | None = None) -> tuple[Level, ...]:
        """Levels for ``sigmas``; ``times`` where they are known already, or else σ⁻¹."""
        return levels(self.schedule, sigmas, times, self.device)

    def walk(self, sigmas: Sequence[float]) -> Walk:
        """The walk over ``sigmas``, each a finite level that the schedule has."""
        return Walk(self.levels(sigmas))


def _nothing() -> None:
    """What a weak reference returns once its tensor is gone."""


def _restore(level: Level) -> None:
    """Undo what D may have written into the tensor of a level before it failed: other runs are given the same one."""
    if not level.sigma_tensor.is_inference():
        level.sigma_tensor.fill_(level.sigma)


@dataclass(frozen=True)
class Dynamics:
    """A denoiser with its conditioning, under a schedule; of a process that is anchored, with its y, ``anchor``."""

    schedule: Schedule
    denoiser: Denoiser
    cond: Mapping[str, object]
    device: torch.device
    substitute: Substitute | None = None
    anchor: Tensor | None = None
    last_output: list[Any] = field(default_factory=lambda: [_nothing, 0], compare=False, repr=False)
    """A weak reference to it, and how often it had been written into when it was returned."""

    @property
    def axis(self) -> Axis:
        """The levels, apart from the denoiser."""
        return Axis(self.schedule, self.device)

    def levels(self, sigmas: Sequence[float], times: Sequence[float] | None = None) -> tuple[Level, ...]:
        """Those of the axis."""
        return self.axis.levels(sigmas, times)

    def walk(self, sigmas: Sequence[float]) -> Walk:
        """That of the axis."""
        return self.axis.walk(sigmas)

    def denoise(self, x: Tensor, level: Level) -> Tensor:
        """D(x; σ) in the dtype of x. Raises :class:`OutputError` for what :func:`estimate` refuses, and where D has
        written into what it returned the last time (a buffer of its own) and somebody still holds.

        Of an anchored process, x is x − y, and so is what is returned.
        """
        return self._denoise(x, level) if self.anchor is None else self._denoise(x + self.anchor, level) - self.anchor

    def in_data_units(self, x: Tensor) -> Tensor:
        """The state of a walk as x = x_0 + σ n: with the anchor, where there is one."""
        return x if self.anchor is None else x + self.anchor

    def _denoise(self, x: Tensor, level: Level) -> Tensor:
        if self.substitute is not None and level.sigma >= self.substitute.sigma:
            return self.substitute.denoise(x, level.sigma)
        try:
            out = estimate(self.denoiser, x, level.sigma_tensor, self.cond)
        except BaseException:
            _restore(level)
            raise
        last = self.last_output
        held = last[0]()
        if held is not None and held._version != last[1]:
            raise OutputError("denoiser: wrote into a tensor that it had returned before; return a new one each time")
        try:
            last[1] = out._version
            last[0] = ref(out)
        except RuntimeError:  # an inference tensor, which has no count
            last[0] = _nothing
        return out

    def velocity(self, x: Tensor, level: Level) -> Tensor:
        """dx/dσ = (x − D(x; σ))/σ = ε."""
        return (x - self.denoise(x, level)) / level.sigma


def checked_anchor(anchor: object, like: Tensor) -> Tensor:
    """``anchor`` on the device of ``like``. Raises ``ValueError`` unless it is real, finite and of the same shape."""
    if not isinstance(anchor, Tensor) or not anchor.is_floating_point() or anchor.shape != like.shape:
        got = f"{anchor.dtype} of {tuple(anchor.shape)}" if isinstance(anchor, Tensor) else type(anchor).__name__
        raise ValueError(
            f"anchor: must be a floating-point tensor of the samples' shape {tuple(like.shape)}, one row for each, "
            f"got {got}"
        )
    if not bool(torch.isfinite(anchor).all()):
        raise ValueError("anchor: holds NaN or infinity")
    return anchor.to(like.device)
