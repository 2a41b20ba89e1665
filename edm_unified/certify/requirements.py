"""Requirements: what every solver must do whatever its order; each item is one small run on a random denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edm_unified.certify.noise import draws
from edm_unified.certify.orders import evaluations
from edm_unified.certify.rows import is_adaptive, own_walk
from edm_unified.certify.runs import dynamics_of, run
from edm_unified.certify.targets import Random, graded
from edm_unified.schedules import EDM, VP, FlowMatching

_START = torch.linspace(-1.6, 1.9, 20, dtype=torch.float64).reshape(4, 5)
_AFTER_RISE = (8.0, 4.0, 2.0, 0.5)


def check_requirements(solver: Any) -> dict[str, str]:
    """For each item nothing if it is met, else what was seen. One that has walks of its own is put to those alone, and
    not to the items that take others."""
    checks = {name: check for name, check in CHECKS.items() if name not in OTHER_WALKS or not own_walk(solver)}
    return {name: _seen(check, solver) for name, check in checks.items()}


def _seen(check: Callable[[Any], str], solver: Any) -> str:
    try:
        return check(solver)
    except (Exception, SystemExit) as error:  # a plugin may raise anything; the certificate says what
        return raised(error)


def raised(error: BaseException) -> str:
    """What was raised, on one line."""
    return f"raised {type(error).__name__}: {' '.join(str(error).split())}"


def _quiet() -> Tensor:
    return torch.zeros_like(_START)


def _short(solver: Any) -> str:
    for schedule in (EDM(), VP(), FlowMatching()):
        for levels in ((80.0, 0.0), (80.0, 0.002), (10.0, 1.0, 0.0)):
            out = run(solver, levels, Random(), levels[0] * _START, _quiet, schedule)
            if out.shape != _START.shape or not bool(torch.isfinite(out).all()):
                return f"the walk {levels} under {schedule.kind} ends in {tuple(out.shape)} with NaN or infinity"
    return ""


def _history(solver: Any) -> str:
    for again in (_AFTER_RISE[0], 5.0):  # a rise, a repeat
        levels = (20.0, 10.0, 5.0, again, *_AFTER_RISE[1:])
        dynamics = dynamics_of(Random())
        path = dynamics.walk(levels)
        x, state = 20.0 * _START, solver.init(dynamics.axis, path)
        between = x
        for a, b in path.moves:
            if b.sigma < a.sigma:
                x, state = solver.step(dynamics, x, a, b, state, _quiet)
            else:
                between = x
        fresh = run(solver, (again, *_AFTER_RISE[1:]), Random(), between, _quiet)
        off = _apart(x, fresh)
        if not off < (1e-2 if is_adaptive(solver) else 1e-12):  # a step's length may be carried on
            return (
                f"after a move to {again:g} it differs by {off:.1e} from a run that starts there: a rise or a repeat "
                "moves x off the curve, and what is remembered must be dropped there; walk.streaks tells in init how "
                "many falls each fall may look back, and step.past(…) of solvers.Printed gives no more than those"
            )
    return ""


def _fall_to_zero(solver: Any) -> str:
    drawn = draws(solver, (10.0, 1.0, 0.0)) - draws(solver, (10.0, 1.0))
    return f"draws noise {drawn} time(s) on the fall to 0" if drawn else ""


def _noise_as_stated(solver: Any) -> str:
    stated = getattr(solver, "stochastic", None)
    drawn = draws(solver, own_walk(solver) or graded(4))
    return f"says stochastic = {stated} and draws noise {drawn} times" if stated not in (None, drawn > 0) else ""


def _repeatable(solver: Any) -> str:
    levels = own_walk(solver) or graded(6)
    first, second = (run(solver, levels, Random(), levels[0] * _START, _quiet) for _ in range(2))
    return "" if torch.equal(first, second) else "the same run twice gives two results: state is kept on the solver"


def _untouched(solver: Any) -> str:
    levels = own_walk(solver) or graded(3)
    start = levels[0] * _START
    run(solver, levels, Random(), start, _quiet)
    return "" if torch.equal(start, levels[0] * _START) else "writes into the state that it is given"


def _alone(solver: Any) -> str:
    levels = own_walk(solver) or graded(6)
    start = levels[0] * _START
    together = run(solver, levels, Random(), start, _quiet)
    alone = torch.cat([run(solver, levels, Random(), row[None], lambda: torch.zeros(1, 5).double()) for row in start])
    off = _apart(together, alone)
    return "" if off < 1e-11 else f"a sample alone differs by {off:.1e} from itself in a batch"


def _evaluations(solver: Any) -> str:
    if is_adaptive(solver):
        return ""
    levels = list(own_walk(solver)) or [*graded(5, 80.0, 0.002), 0.0]
    none, some = evaluations(solver, levels), evaluations(solver, levels, Random(), *Random.shape)
    return "" if none == some else f"asks a D that is 0 {none} times and another {some} times: say adaptive = True"


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


CHECKS = {
    "one step": _short,
    "history": _history,
    "fall to 0": _fall_to_zero,
    "noise": _noise_as_stated,
    "repeatable": _repeatable,
    "state": _untouched,
    "batch": _alone,
    "evaluations": _evaluations,
}
OTHER_WALKS = ("one step", "history", "fall to 0")
"""Items that run a solver over walks of one step, with a rise in them, or without an end."""


def counted_nfe(solver: Any) -> tuple[str, dict[int, int]]:
    """Evaluations in N steps that end at 0, as a formula where it is one: ``2N − 1``."""
    if own_walk(solver):
        counts = {len(levels) - 1: evaluations(solver, list(levels)) for levels in solver.walks}
        return ", ".join(f"{count} in {n}" for n, count in counts.items()), counts
    counts = {n: evaluations(solver, [*graded(n - 1, 80.0, 0.002), 0.0]) for n in (10, 11, 20, 23)}
    each, rest = divmod(counts[20] - counts[10], 10)
    offset = counts[10] - 10 * each
    if rest or any(count != each * n + offset for n, count in counts.items()):
        return f"{counts[10]} in 10, {counts[20]} in 20", counts
    sign = "+" if offset > 0 else "−"
    return (f"{each if each != 1 else ''}N" + (f" {sign} {abs(offset)}" if offset else "")), counts
