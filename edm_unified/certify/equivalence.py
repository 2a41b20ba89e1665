"""Which methods are one and the same, which only nearly, and which do not see the schedule.

Two methods run over the same levels on a random nonlinear denoiser, with the same noises in the same order. Methods
that are one under two names agree to rounding; a formula that merely resembles another does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.certify.rows import every, is_adaptive, label, own_walk
from edm_unified.certify.runs import run
from edm_unified.certify.targets import Random, graded
from edm_unified.schedules import Schedule

SCHEDULES: dict[str, Schedule] = {
    schedule.kind: schedule
    for schedule in (
        schedules.VP(),
        schedules.SubVP(),
        schedules.VE(),
        schedules.Cosine(),
        schedules.Trigonometric(),
        schedules.FlowMatching(),
    )
}
SAME = 1e-10
"""Relative difference below which two methods are one; a near miss must differ by a thousand times as much."""

IDENTITIES: tuple[tuple[str, str, str], ...] = (
    ("euler", "ddim", "Euler's steps under EDM are DDIM"),
    ("ddim", "exponential_adams:order=1", "and the exponential step of order 1"),
    ("ddim:eta=1", "ddpm", "DDIM at η = 1 is ancestral sampling"),
    ("ddpm", "exponential_adams:order=1,eta=1", "and the exponential step of the reverse SDE"),
    ("euler_maruyama:eta=0", "euler", "Euler–Maruyama without noise"),
    ("second_order:alpha=1", "heun", "the α-family"),
    ("second_order:alpha=0.5", "midpoint", "the α-family"),
    ("dpmpp_2m_sde:eta=0", "dpmpp_2m", "2M SDE without noise"),
    ("dpmpp_2m_sde:correction=heun", "exponential_adams:order=2,eta=1", "2M SDE, heun: the exact integral"),
    ("dpmpp_3m", "exponential_adams:order=3", "3M with its factor 2 is the exact integral"),
    ("dpmpp_3m_sde", "exponential_adams:order=3,eta=1", "and with noise"),
    ("unipc:p=2,corrector=false", "dpmpp_2m", "UniP-2 with bh2 and ρ = ½ is 2M"),
    ("deis:order=1", "ddim", "first orders are Euler's step in σ"),
    ("lms:order=1", "ddim", "first orders are Euler's step in σ"),
    ("ipndm:max_order=1", "ddim", "first orders are Euler's step in σ"),
    ("exponential_adams_epsilon:order=1", "ddim", "and DPM-Solver-1"),
    ("velocity_adams:order=1", "ddim", "a straight line in flow time is one in σ"),
    ("ddpm:variance=large", "reverse_diffusion", "β is the noise of the forward step"),
    ("er_sde:order=1,phi=ode", "ddim", "ER-SDE with φ = σ is the ODE"),
    ("er_sde:order=1,phi=reverse_sde", "ddpm", "and with φ = σ² the reverse SDE"),
    ("dpmpp_sde:eta=0", "dpmpp_2s", "the two-stage SDE without noise"),
    ("seeds:order=2", "dpmpp_sde", "SEEDS-2 in data prediction"),
    ("seeds:order=3,eta=0", "dpmpp_3s", "SEEDS-3 without noise"),
    ("sa_solver:predictor=3,corrector=0", "exponential_adams:order=3,eta=1", "SA-Solver P3"),
    ("sa_solver:predictor=1,corrector=0", "exponential_adams:order=1,eta=1", "SA-Solver P1"),
    ("seeds:order=1", "exponential_adams:order=1,eta=1", "SEEDS-1 is SDE-DPM-Solver++1"),
)
"""Pairs that must agree. A pair whose kinds or parameters do not exist here is left out."""

NEAR_MISSES: tuple[tuple[str, str, str], ...] = (
    ("dpmpp_2m", "exponential_adams:order=2", "the interpolant's middle value for its integral"),
    ("dpmpp_2m_sde", "dpmpp_2m_sde:correction=heun", "the same, with noise"),
    ("ddim:eta=0.5", "exponential_adams:order=1,eta=0.5", "one SDE, to first order only"),
    ("ddpm", "ddpm:variance=large", "β̃ against β"),
    ("euler_maruyama", "ddpm", "Euler's step of the SDE against its posterior"),
    ("heun", "midpoint", "two of the α-family"),
    ("dpmpp_3m", "dpmpp_3m_published", "the factor 2"),
    ("dpmpp_3m_sde", "dpmpp_3m_sde_published", "the factor 2"),
    ("ipndm", "lms", "weights for even steps against those of the levels"),
    ("trigonometric_adams:order=1", "ddim", "a straight line in arctan σ is not one in σ"),
    ("exponential_adams_epsilon:order=2", "exponential_adams:order=2", "ε against D under the same kernel"),
    ("res_2s", "dpmpp_2s", "stiff order 2 against 2S"),
    ("dpm_solver_2", "dpmpp_2s", "ε against D"),
    ("unipc:p=3,corrector=false", "exponential_adams:order=3", "UniP-3: one step of the warm-up has ρ = ½"),
    ("unipc:p=2", "unipc:p=2,variant=bh1", "B(h) of the corrector"),
)
"""Pairs that look alike and must not agree."""


class Pair(NamedTuple):
    """Two methods and the relative difference of what they return."""

    a: str
    b: str
    why: str
    difference: float
    same: bool
    """Whether they are meant to agree."""

    @property
    def holds(self) -> bool:
        return self.difference < SAME if self.same else self.difference > 1000 * SAME


_START = torch.linspace(-1.7, 1.9, 20, dtype=torch.float64).reshape(4, 5)
_LEVELS = [*graded(11, 80.0, 0.002), 0.0]


def outcome(solver: Any, schedule: Schedule | None = None) -> Tensor | None:
    """What the solver returns on the random denoiser, or None where it raises or overflows."""
    generator = torch.Generator().manual_seed(0)
    noise = lambda: torch.randn(_START.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    levels = own_walk(solver) or _LEVELS
    try:
        out = run(solver, levels, Random(), levels[0] * _START, noise, schedule)
    except (ValueError, ArithmeticError):
        return None
    return out if bool(torch.isfinite(out).all()) else None


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """The largest difference relative to the largest element."""
    if a is None or b is None:
        return math.inf
    return float((a - b).abs().max() / max(float(b.abs().max()), 1e-300))


def constant_error(solver: Any, levels: Sequence[float]) -> float:
    """How far x = D = c is from c at the end of a walk, relative to c."""
    start = torch.linspace(1.0, 2.0, 5, dtype=torch.float64)[None]
    out = run(solver, levels, lambda x, sigma, **cond: start.clone(), start, lambda: torch.zeros_like(start))
    return difference(out, start)


def schedules_seen(solver: Any) -> dict[str, float]:
    """For each schedule, how much the result differs from that under EDM."""
    plain = outcome(solver)
    return {name: difference(outcome(solver, schedule), plain) for name, schedule in SCHEDULES.items()}


@cache
def pairs() -> tuple[Pair, ...]:
    """The two tables, over what exists."""
    found = []
    for table, same in ((IDENTITIES, True), (NEAR_MISSES, False)):
        for a, b, why in table:
            x, y = built(a), built(b)
            if x is not None and y is not None and x != y:
                found.append(Pair(label(x), label(y), why, difference(outcome(x), outcome(y)), same))
    return tuple(found)


def built(text: str) -> Any:
    """A solver of this package from ``kind:name=value``, or None where there is no such kind or parameter."""
    from edm_unified.recipe import parse_component
    from edm_unified.sampling.solvers import AnySolver

    try:
        return parse_component(AnySolver, text, "solver")
    except ValueError:
        return None


@cache
def _known() -> tuple[tuple[str, Tensor | None], ...]:
    return tuple((label(solver), outcome(solver)) for solver in every() if not is_adaptive(solver))


def relatives(solver: Any) -> tuple[list[tuple[str, float]], tuple[str, float] | None]:
    """The rows of the whole table that are this very method; and the nearest that is not, with its difference."""
    own, name = outcome(solver), label(solver)
    apart = sorted(((difference(own, other), known) for known, other in _known() if known != name))
    same = [(known, gap) for gap, known in apart if gap < SAME]
    rest: Sequence[tuple[float, str]] = [pair for pair in apart if pair[0] >= SAME and math.isfinite(pair[0])]
    return same, (rest[0][1], rest[0][0]) if rest else None
