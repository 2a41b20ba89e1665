"""What a comparison will run, decided before anything is run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from edm_unified.compare.sets import solver_set
from edm_unified.recipe import Comparison, Recipe, Sampler, same_range
from edm_unified.sampling.levels import Explicit, TableSubset
from edm_unified.schedules import BetaTable

MOST_BESIDE = 32
"""Steps for each evaluation of the budget, at most, where an analytic start leaves few of them to D, or none."""


@dataclass(frozen=True)
class Method:
    """One line of the plots: a recipe, as overridden. Its ``sampler.steps.n`` is set anew for each budget."""

    name: str
    recipe: Recipe

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way, so that there is no endpoint to compare with the reference."""
        sampler = self.recipe.sampler
        return bool(sampler.solver.stochastic or sampler.renoising is not None or sampler.corrector is not None)

    @property
    def labels(self) -> dict[str, str]:
        """The five labels that name the method in the records; the solver's says how it begins and ends, too."""
        sampler = self.recipe.sampler
        whole = [
            label(sampler.solver),
            *([label(sampler.analytic_start)] if sampler.analytic_start is not None else []),
        ]
        whole += [f"last={sampler.last}"] if sampler.last != "solver" else []
        whole += [label(sampler.guidance)] if sampler.guidance is not None else []
        whole += [f"{label(sampler.threshold)} threshold"] if sampler.threshold is not None else []
        noise = [label(part) for part in (sampler.renoising, sampler.corrector) if part is not None]
        return {
            "recipe": self.name,
            "schedule": label(self.recipe.schedule),
            "steps": label(sampler.steps),
            "solver": " + ".join(whole),
            "renoising": " + ".join(noise) or "none",
        }

    def with_steps(self, n: int) -> Recipe:
        """The recipe at ``n`` steps."""
        return _with_steps(self.recipe, n)

    def nfe(self, n: int) -> int:
        """Evaluations of D in ``n`` steps, counted."""
        return _nfe(self.with_steps(n))

    def n_for(self, budget: int) -> int | None:
        """The most steps whose counted evaluations stay within ``budget``; None where one step is too many."""
        low, high = 0, min(budget, _most_steps(self.recipe))  # every step evaluates D at least once,
        if self.recipe.sampler.analytic_start is not None:  # but for those that an analytic start takes
            high = min(MOST_BESIDE * budget, _most_steps(self.recipe))
        while low < high:  # the count grows with n
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.nfe(middle) <= budget else (low, middle - 1)
        return low or None


@dataclass(frozen=True)
class Cell:
    """One run: a method at a budget from one seed."""

    method: Method
    budget: int
    n: int
    nfe: int
    seed: int

    def key(self, common: str) -> str:
        """Two cells of one key give the same samples. ``common`` covers data, dtype and number of samples."""
        return digest([self.method.with_steps(self.n).hash, self.seed, common])


@dataclass(frozen=True)
class Plan:
    """A comparison with its methods and cells."""

    comparison: Comparison
    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]
    skipped: tuple[str, ...]
    """One line for each method and budget that cannot be run, with the reason."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each budget whose walks are too short for the order of some solvers."""
        short: dict[int, dict[str, None]] = {}
        for cell in self.cells:
            recipe = cell.method.with_steps(cell.n)
            if recipe.sampler.shortfall(recipe.schedule):
                short.setdefault(cell.budget, {})[label(recipe.sampler.solver)] = None
        return tuple(
            f"note: {budget} evaluations are too few for the order of {', '.join(names)}, which is lower throughout"
            for budget, names in sorted(short.items())
        )


def digest(value: Any) -> str:
    """12 hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def label(component: Any) -> str:
    """A component in a few words: its kind, and what differs from the defaults, without the number of steps.

    >>> label(Karras(n=5, rho=5.0))
    'karras(rho=5)'
    """
    changed = []
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if field.name in ("kind", "n") or value == field.default or value is None:
            continue
        changed.append(f"{field.name}={_short(value)}")
    return f"{component.kind}({', '.join(changed)})" if changed else component.kind


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if dataclasses.is_dataclass(value):
        return label(value)
    if isinstance(value, tuple) and len(value) > 4:
        return f"<{len(value)} values>"
    return str(value)


def make_plan(comparison: Comparison, recipes: Sequence[tuple[str, Recipe]]) -> Plan:
    """Methods and cells of ``comparison`` over the loaded ``recipes`` (name, recipe).

    Each of ``comparison``'s solvers, schedules, steps rules, analytic starts and guidances replaces the recipe's own,
    in all combinations; the denoiser and data, where given, replace everyone's. A schedule that replaces another keeps
    the noise levels' range.

    Raises ``ValueError`` where nothing is left to run, where two methods are the same, for a rule of fixed length, and
    for an adaptive solver, which has no fixed number of evaluations.
    """
    methods = []
    named = () if comparison.solver_set is None else solver_set(comparison.solver_set)
    solvers = tuple(dict.fromkeys((*comparison.solvers, *named)))
    for name, recipe in recipes:
        choices = itertools.product(
            comparison.schedules or [None],
            comparison.steps_rules or [None],
            solvers or [None],
            comparison.analytic_starts or [recipe.sampler.analytic_start],
            comparison.guidances or [recipe.sampler.guidance],
        )
        methods += [Method(name, _override(name, recipe, comparison, *choice)) for choice in choices]
    twice = [m for m, times in Counter((m.name, m.recipe.hash) for m in methods).items() if times > 1]
    if twice:
        raise ValueError(f"recipes: {twice[0][0]} is named twice with the same settings; name it once")

    cells, skipped = [], []
    for method in methods:
        for budget in comparison.nfe:
            n = method.n_for(budget)
            if n is None:
                cost = f"one step costs {method.nfe(1)} evaluations, more than the budget of {budget}"
                skipped.append(f"left out: {method.name}: {cost}")
                continue
            cells += [Cell(method, budget, n, method.nfe(n), seed) for seed in comparison.seeds]
    if not cells:
        raise ValueError("nfe: no budget buys a single step of any method; raise it")
    return Plan(comparison, tuple(methods), tuple(cells), tuple(skipped))


def _override(
    name: str,
    recipe: Recipe,
    comparison: Comparison,
    schedule: Any | None,
    steps: Any | None,
    solver: Any | None,
    analytic_start: Any | None,
    guidance: Any | None,
) -> Recipe:
    sampler = dataclasses.replace(recipe.sampler, analytic_start=analytic_start, guidance=guidance)
    if isinstance(steps or sampler.steps, Explicit):
        raise ValueError(
            f"{name}: sampler.steps: a list of levels has one length and no budgets; use --steps-rule karras"
        )
    if steps is not None:
        sampler = dataclasses.replace(sampler, steps=steps)
    elif schedule is not None:
        sampler = dataclasses.replace(sampler, steps=cast(Any, same_range(sampler.steps, recipe.schedule)))
    if solver is not None:
        sampler = dataclasses.replace(sampler, solver=solver)
    if getattr(sampler.solver, "adaptive", False):
        raise ValueError(
            f"{name}: sampler.solver: {sampler.solver.kind} is adaptive and takes as many evaluations as its tolerance "
            "asks for, so that no budget fits it; leave it out, or run it with `edm-unified sample`"
        )
    changes: dict[str, Any] = {"sampler": sampler}
    changes |= {"schedule": schedule} if schedule is not None else {}
    changes |= {"denoiser": comparison.denoiser} if comparison.denoiser is not None else {}
    changes |= {"data": comparison.data} if comparison.data is not None else {}
    recipe = dataclasses.replace(recipe, **changes)
    try:
        # a walk that this schedule does not have is found here, not after an hour
        Method(name, recipe).nfe(2 if sampler.last == "stop" else 1)
    except ValueError as error:
        raise ValueError(f"{name} with {label(recipe.schedule)}, {label(sampler.steps)}: {error}") from None
    return recipe


def _most_steps(recipe: Recipe) -> int:
    steps = recipe.sampler.steps
    if isinstance(steps, TableSubset):
        table = steps.table or recipe.schedule
        return len(table.sigmas) if isinstance(table, BetaTable) else 1
    return 100_000


@lru_cache(maxsize=16384)
def _with_steps(recipe: Recipe, n: int) -> Recipe:
    """Remembered, and with it the hash, which takes a millisecond: a large comparison asks for each several times."""
    steps: Any = dataclasses.replace(cast(Any, recipe.sampler.steps), n=n)
    return dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, steps=steps))


def _nfe(recipe: Recipe) -> int:
    return _counted(recipe.sampler, recipe.schedule)


_counted = lru_cache(maxsize=16384)(Sampler.nfe)  # the same whatever the data and the denoiser
