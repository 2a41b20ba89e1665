"""Sets of solvers that a comparison can name: all of them, the deterministic ones, and the best at small budgets."""

from __future__ import annotations

from typing import Any, Literal

from edm_unified.recipe import codec
from edm_unified.solvers import AnySolver

SetName = Literal["all", "deterministic", "fast"]

FAST: tuple[AnySolver, ...] = ()


def solver_set(name: SetName) -> tuple[AnySolver, ...]:
    """The solvers of that name, each with its defaults (``fast``: as listed).

    ``all`` is every solver of the registry that takes a fixed number of evaluations; ``deterministic`` those of them
    that draw no noise. Adaptive solvers are in none: they have no budget.
    """
    if name == "fast":
        return FAST
    found: list[Any] = [cls() for cls in codec.components(AnySolver).values()]
    return tuple(
        solver
        for solver in found
        if not getattr(solver, "adaptive", False) and not (name == "deterministic" and solver.stochastic)
    )
