"""Sets of solvers that a comparison can name: all of them, the deterministic ones, and the best at small budgets."""

from __future__ import annotations

from typing import Any, Literal

from edm_unified.recipe import codec
from edm_unified.sampling.solvers import DEIS, IPNDM, AnySolver, ExponentialAdamsNoise, VelocityAdams

SetName = Literal["all", "deterministic", "fast"]

FAST: tuple[AnySolver, ...] = (
    IPNDM(max_order=3),
    IPNDM(max_order=3, end="lower"),
    ExponentialAdamsNoise(order=3, end="lower"),
    ExponentialAdamsNoise(order=2),
    VelocityAdams(order=3),
    VelocityAdams(order=4),
    VelocityAdams(order=2),
    VelocityAdams(order=4, end="lower"),
    DEIS(order=3),
    IPNDM(max_order=4),
)
"""The ten with the least median endpoint error at 5, 6, 8 and 10 evaluations, best first.

Measured by ``edm-unified compare solver_atlas --nfe 5,6,8,10``, as its last table: the geometric mean, over those
budgets, four rules for the levels and four problems with exact denoisers, of the error over the least in the column. It
was 1.16 for the first, 1.92 for the last and 1.96 for the next. All are linear multistep methods of one evaluation.
"""


def solver_set(name: SetName) -> tuple[AnySolver, ...]:
    """The solvers of that name, each with its defaults (``fast``: as listed).

    ``all`` is every solver of the registry that takes a fixed number of evaluations; ``deterministic`` those of them
    that draw no noise. Adaptive solvers have no budget, and ``none`` solves nothing: they are in no set.
    """
    if name == "fast":
        return FAST
    found: list[Any] = [cls() for cls in codec.components(AnySolver).values()]
    return tuple(
        solver
        for solver in found
        if not getattr(solver, "adaptive", False)
        and not hasattr(solver, "walks")  # fitted to one model, and no stock method
        and getattr(solver, "order", None) != 0
        and not (name == "deterministic" and solver.stochastic)
    )
