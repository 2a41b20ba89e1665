"""Orders: the slope of the log error against the log step, and the error beside Heun's at equal evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from edm_unified.certify.runs import WARM, Errors, final_errors, local_errors, pooled, refined, run, slope
from edm_unified.certify.targets import DIMENSIONS, Flow, exact_flow, graded, nothing, uneven
from edm_unified.denoisers.denoiser import Counted, Denoiser
from edm_unified.sampling.solvers import Heun
from edm_unified.schedules import VP, FlowMatching, Schedule

GRIDS = (20, 40, 80, 160, 320)
BEYOND = (640, 1280, 2560)
"""Where an order above the stated one is followed to: errors of two orders may cancel, and then only for a while."""
BUDGETS = (10, 20, 40, 80)
SCHEDULES: dict[str, Schedule] = {"vp": VP(), "flow_matching": FlowMatching()}
"""Under EDM t = σ and s = 1, so that a time in place of a level would go unseen; these two tell them apart."""

ABOVE = 0.3
"""How far a measured order may exceed the stated one before it is looked into."""

Rule = Callable[[int], list[float]]


class Orders(NamedTuple):
    """What the mixtures tell. ``exact``, ``plain``, ``local`` and ``uneven`` are orders pooled over the targets."""

    exact: float
    plain: float
    local: float
    uneven: float
    beyond: float
    """``exact`` on finer grids yet, where that was clearly above what is stated; NaN where it was not."""
    by_dimension: dict[int, float]
    by_schedule: dict[str, float]
    curves: dict[str, dict[int, float]]


def orders(solver: Any, stated: int | None, flow: Flow, blind: bool) -> Orders:
    """Measure them; ``flow`` is the exact flow of the solver's own drift, ``blind``: it does not see the schedule."""
    wanted = stated or 1

    def measured(
        warm: int, grids: tuple[int, ...], least: float, schedule: Schedule | None = None, rule: Rule = graded
    ) -> dict[int, Errors]:
        found = {n: final_errors(solver, rule(n), flow, warm, schedule) for n in grids}
        errors = _pool(found)
        for n in refined(errors, least):
            found[n] = final_errors(solver, rule(n), flow, warm, schedule)
            errors[n] = pooled(found[n])
        return found

    exact = measured(WARM, GRIDS, wanted)
    plain = measured(0, GRIDS, min(wanted, 2))
    local = {n: local_errors(solver, graded(n), flow) for n in GRIDS[1:-1]}
    jagged = measured(WARM, GRIDS[-3:], wanted, rule=uneven)
    order = _order(exact)
    above = order > wanted + ABOVE
    further = {n: exact[n] if n in exact else final_errors(solver, graded(n), flow, WARM) for n in BEYOND if above}
    return Orders(
        exact=order,
        beyond=_order({GRIDS[-1]: exact[GRIDS[-1]], **further}) if above else math.nan,
        plain=_order(plain),
        local=_order(local),
        uneven=_order(jagged),
        by_dimension={d: slope({n: e[i] for n, e in exact.items()}) for i, d in enumerate(DIMENSIONS)},
        by_schedule={
            name: order if blind else _order(measured(WARM, GRIDS[-3:], wanted, schedule))
            for name, schedule in SCHEDULES.items()
        },
        curves={"exact": _pool(exact), "plain": _pool(plain)},
    )


def _pool(errors: dict[int, Errors]) -> dict[int, float]:
    return {n: pooled(e) for n, e in errors.items()}


def _order(errors: dict[int, Errors]) -> float:
    return slope(_pool(errors))


def beside_heun(solver: Any) -> dict[int, float]:
    """Error over Heun's error for the same number of counted evaluations, from a plain start."""
    return {b: e / heun for b in BUDGETS if (e := error_at(solver, b)) is not None and (heun := _heun(b))}


def error_at(solver: Any, budget: int) -> float | None:
    """Pooled error of the most steps whose counted evaluations stay within ``budget``; None where one is too many."""
    low, high = 0, budget
    while low < high:  # the count grows with n
        middle = (low + high + 1) // 2
        low, high = (middle, high) if evaluations(solver, graded(middle)) <= budget else (low, middle - 1)
    return pooled(final_errors(solver, graded(low), exact_flow())) if low else None


@cache
def _heun(budget: int) -> float:
    return error_at(Heun(), budget) or 0.0


def evaluations(solver: Any, levels: list[float], denoiser: Denoiser = nothing, width: int = 1) -> int:
    """Evaluations of D, counted by a wrapper on it: of D = 0, for a method of fixed steps asks any D as often.

    That a solver does so is one of the requirements. ``width``: entries of the one sample, as ``denoiser`` wants them.
    """
    counted = Counted(denoiser)
    x = torch.ones(1, width, dtype=torch.float64)
    run(solver, levels, counted, x, lambda: torch.zeros_like(x))
    return counted.nfe


def drift_error(solver: Any, flow: Flow, n: int = 2) -> float:
    """Pooled error over ``n`` falls: for an adaptive method, what its tolerance amounts to."""
    return pooled(final_errors(solver, graded(n), flow))
