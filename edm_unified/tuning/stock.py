"""The best stock method of one evaluation a step, on the same noises: what a fit has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.compare.sets import FAST, solver_set
from edm_unified.denoisers.denoiser import Denoiser
from edm_unified.sampling.dynamics import Axis, Dynamics
from edm_unified.sampling.last_step import prepared
from edm_unified.sampling.levels import Steps
from edm_unified.sampling.loop import count_nfe, sample
from edm_unified.sampling.solvers import Solver
from edm_unified.sampling.solvers.fitted import Rows
from edm_unified.schedules import EDM
from edm_unified.tuning.starts import Rule

_FIRST, _KEPT, _LAST = 4, 12, 3
"""All are tried on the first few noises, the best of them on all, and the best of those on the held-out ones."""


class Stock(NamedTuple):
    """A stock method: its solver, its levels by name and as a rule."""

    solver: Any
    levels: str
    steps: Steps

    @property
    def name(self) -> str:
        from edm_unified.recipe.labels import label

        return f"{label(self.solver)} on {self.levels}"


def candidates(rules: dict[str, Rule], n: int) -> list[Stock]:
    """Every deterministic solver that takes ``n`` evaluations in n steps, at its defaults and as listed in ``fast``,
    on every rule."""
    solvers: list[Any] = list(dict.fromkeys([*solver_set("deterministic"), *FAST]))
    found = []
    for name, rule in rules.items():
        steps = rule(n)
        try:
            steps.levels(EDM())
        except ValueError:  # levels that coincide, where the data leave no room
            continue
        found += [Stock(solver, name, steps) for solver in solvers if _costs(solver, steps) == n]
    return found


def _costs(solver: Any, steps: Steps) -> int:
    return count_nfe(steps, solver)


def squared_errors(denoiser: Denoiser, noise: Tensor, exact: Tensor, cond: Any, steps: Steps, solver: Solver) -> Tensor:
    """‖x − exact‖²/d of each noise; infinite where the method overflows."""
    try:
        x = sample(denoiser, noise, steps=steps, solver=solver, cond=cond)
    except FloatingPointError:
        return torch.full((len(noise),), torch.inf, dtype=torch.float64)
    return (x - exact).flatten(1).square().mean(1).cpu()


Measured = Callable[[Stock, int], float]
"""The median error of a method on the first so many noises."""


def best(stock: Sequence[Stock], on: Measured, held_out: Callable[[Stock], float], noises: int) -> Stock:
    """The one of the least median error on the held-out noises, of those that are best on the others."""
    first = sorted(stock, key=lambda one: on(one, min(_FIRST, noises)))[:_KEPT]
    second = sorted(first, key=lambda one: on(one, noises))[:_LAST]
    return min(second, key=held_out)


def rows_of(solver: Any, sigmas: Sequence[float]) -> Rows:
    """The rows of weights of a linear method of one evaluation a step on these levels, which end at 0.

    It is run with basis vectors: x_0 is one, and every output of D another. Then the state in which D is asked is the
    vector of its weights.
    """
    n = len(sigmas) - 1
    basis = torch.eye(n + 1, dtype=torch.float64)[:, None, :]
    asked: list[Tensor] = []

    def denoiser(x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        asked.append(x[0].clone())
        return basis[len(asked)].clone()

    axis = Axis(EDM())
    walk = axis.walk(tuple(sigmas))
    dynamics = Dynamics(EDM(), denoiser, {}, torch.device("cpu"))
    x, state = basis[0], prepared(solver, axis, walk)
    for a, b in walk.moves:
        x, state = solver.step(dynamics, x, a, b, state, lambda: torch.zeros(1, n + 1, dtype=torch.float64))
    points = torch.stack([*asked, x[0]])
    rows = []
    for i in range(n):
        kept = points[i + 1, 0] / points[i, 0]
        change = points[i + 1] - kept * points[i]
        of_x, *past = (round(float(w), 10) for w in (kept, *change[1 : i + 1].flip(0)))  # D_i below
        while past and past[-1] == 0:
            past.pop()
        total = float(kept + change[1:].sum())
        rows.append((of_x, round((1.0 if abs(total - 1) < 1e-9 else total) - of_x - sum(past), 10), *past))
    return tuple(rows)
