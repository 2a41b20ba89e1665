"""The plan of a comparison: its methods and cells, decided before anything is run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from edm_unified.compare.sets import solver_set
from edm_unified.denoisers.preconditioning import Consistency
from edm_unified.recipe import Comparison, Recipe, Sampler, by_path, same_range
from edm_unified.recipe.guidances import Autoguidance
from edm_unified.recipe.labels import label as label
from edm_unified.recipe.labels import words_of
from edm_unified.sampling.levels import Explicit, TableSubset
from edm_unified.schedules import BetaTable

MOST_BESIDE = 32
"""Steps for each evaluation of the budget, at most, where an analytic start leaves few of them to D, or none."""


@dataclass(frozen=True)
class Method:
    """One line of the plots: a recipe, as overridden. Its ``sampler.steps.n`` is set anew for each budget."""

    name: str
    recipe: Recipe
    swept: tuple[tuple[str, float], ...] = ()
    """The numbers that the comparison gave it, with their paths: ``(("sampler.renoising.S_churn", 40.0),)``."""
    usual: tuple[tuple[str, float], ...] = ()
    """The recipe's own numbers at those paths, where it has some."""

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
        whole += [f"class {sampler.label}"] if sampler.label is not None else []
        whole += [f"cond {sampler.cond}"] if sampler.cond is not None else []
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
        """The most steps whose counted evaluations stay within ``budget``; None where there are none.

        That is so where one step is too many, and where the steps are too few for a walk, as when no level of theirs
        lies below the interval of a Restart.
        """
        low, high = 0, min(budget, _most_steps(self.recipe))  # every step evaluates D at least once,
        if self.recipe.sampler.analytic_start is not None:  # but for those that an analytic start takes
            high = min(MOST_BESIDE * budget, _most_steps(self.recipe))
        while low < high:  # the count grows with n
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(middle, budget) else (low, middle - 1)
        return low if low and not self._fault(low) else None

    def left_out(self, budget: int) -> str:
        """A line for a budget that has no steps of this method."""
        fault = self._fault(1)
        if fault:
            return f"left out: {_in_words(self)} at {budget} evaluations: {fault}"
        return f"left out: {self.name}: one step costs {self.nfe(1)} evaluations, more than the budget of {budget}"

    def _fits(self, n: int, budget: int) -> bool:
        return bool(self._fault(n)) or self.nfe(n) <= budget  # where n are too few for a walk, more may make one

    def _fault(self, n: int) -> str:
        """Why ``n`` steps make no walk; empty where they do."""
        try:
            self.nfe(n)
        except ValueError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class Cell:
    """One run: a method at a budget from one seed."""

    method: Method
    budget: int
    n: int
    nfe: int
    seed: int

    def key(self, common: str) -> str:
        """Two cells of one key give the same samples. ``common`` covers data, dtype, number of samples, weights."""
        return digest([without_paths(self.method.with_steps(self.n)).hash, self.seed, common])


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
        """A line for each budget whose walks are too short for the order of some solvers; for distilled networks."""
        short: dict[int, dict[str, None]] = {}
        for cell in self.cells:
            recipe = cell.method.with_steps(cell.n)
            if recipe.sampler.shortfall(recipe.schedule):
                short.setdefault(cell.budget, {})[label(recipe.sampler.solver)] = None
        too_few = [
            f"note: {budget} evaluations are too few for the order of {', '.join(names)}, which is lower throughout"
            for budget, names in sorted(short.items())
        ]
        return (*too_few, *self._of_one_step(), *self.coincidences())

    def _of_one_step(self) -> Iterator[str]:
        """A line for each recipe whose network was distilled."""
        distilled = {m.recipe.title for m in self.methods if isinstance(m.recipe.preconditioning, Consistency)}
        for title in sorted(distilled):
            yield (
                f"note: {title}: was distilled to few steps and is no denoiser in between: this says nothing of solvers"
            )

    def coincidences(self) -> Iterator[str]:
        """A line for each budget at which values of a swept parameter of the renoising give one and the same walk."""
        same: dict[Any, list[Cell]] = {}
        for cell in self.cells:
            if cell.method.swept and cell.seed == self.comparison.seeds[0]:
                recipe = cell.method.with_steps(cell.n)
                rest = dataclasses.replace(recipe.sampler, renoising=None)
                S_noise = getattr(recipe.sampler.renoising, "S_noise", 1.0)
                key = (cell.method.name, cell.budget, recipe.levels, S_noise, rest, recipe.schedule)
                same.setdefault(key, []).append(cell)
        for cells in same.values():
            for path in dict(cells[0].method.swept):
                values = list(dict.fromkeys(dict(cell.method.swept)[path] for cell in cells))
                if path.startswith("sampler.renoising.") and len(values) > 1:
                    words = f"{', '.join(f'{value:g}' for value in values[:-1])} and {values[-1]:g}"
                    yield (
                        f"note: {path} = {words} visit the same noise levels at {cells[0].budget} evaluations, where a "
                        "limit of the renoising acts; their results are equal"
                    )


@lru_cache(maxsize=16384)
def without_paths(recipe: Recipe) -> Recipe:
    """``recipe`` without the paths of its networks: two runs of the same weights in different folders are equal."""
    changes: dict[str, Any] = {}
    nowhere_of = getattr(recipe.denoiser, "nowhere", None)  # of a checkpoint, and of a network of one's own
    if nowhere_of is not None:
        changes["denoiser"] = nowhere_of()
    guidance = recipe.sampler.guidance
    if isinstance(guidance, Autoguidance):
        nowhere = dataclasses.replace(guidance, guide="")
        changes["sampler"] = dataclasses.replace(recipe.sampler, guidance=nowhere)
    return dataclasses.replace(recipe, **changes) if changes else recipe


def digest(value: Any) -> str:
    """12 hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def make_plan(comparison: Comparison, recipes: Sequence[tuple[str, Recipe]]) -> Plan:
    """Methods and cells of ``comparison`` over the loaded ``recipes`` (name, recipe).

    The values that ``comparison`` crosses replace the recipe's own, in all combinations; the denoiser and data, where
    given, replace everyone's. A schedule that replaces another keeps the noise levels' range.

    Raises ``ValueError`` where nothing is left to run, where two methods are the same, for a rule of fixed length, and
    for an adaptive solver, which has no fixed number of evaluations.
    """
    methods = []
    named = () if comparison.solver_set is None else solver_set(comparison.solver_set)
    solvers = (*comparison.cross.get("sampler.solver", ()), *named)
    crossed: dict[str, tuple[Any, ...]] = dict(comparison.cross)
    if solvers:
        crossed["sampler.solver"] = tuple(dict.fromkeys(solvers))
    crossed = dict(dataclasses.replace(comparison, cross=crossed).cross)  # in the order of the recipe's fields
    for name, recipe in recipes:
        for choice in itertools.product(*crossed.values()):
            given = dict(zip(crossed, choice, strict=True))
            methods.append(_method(name, _override(name, recipe, comparison, given), given, recipe))
    twice = [m for m, times in Counter((m.name, m.recipe.hash) for m in methods).items() if times > 1]
    if twice:
        raise ValueError(f"recipes: {twice[0][0]} is named twice with the same settings; name it once")

    cells, skipped = [], []
    for method in methods:
        for budget in comparison.nfe:
            n = method.n_for(budget)
            if n is None:
                skipped.append(method.left_out(budget))
                continue
            cells += [Cell(method, budget, n, method.nfe(n), seed) for seed in comparison.seeds]
    if not cells:
        raise ValueError("nfe: no budget buys a single step of any method; raise it")
    return Plan(comparison, tuple(methods), tuple(cells), tuple(skipped))


def _method(name: str, recipe: Recipe, given: Mapping[str, Any], original: Recipe) -> Method:
    """``recipe``, made of ``original``, under ``name``, and with what no label of the records tells.

    That is a value outside schedule and sampler.
    """
    untold = [path for path in given if not path.startswith(("schedule", "sampler"))]
    name = ", ".join([name, *(f"{path}={words_of(given[path])}" for path in untold)])
    swept = {path: float(value) for path, value in given.items() if _is_number(value)}
    own = {path: by_path.get(original, path) for path in swept}
    usual = {path: float(value) for path, value in own.items() if _is_number(value)}
    return Method(name, recipe, tuple(swept.items()), tuple(usual.items()))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _override(name: str, recipe: Recipe, comparison: Comparison, given: Mapping[str, Any]) -> Recipe:
    """``recipe`` on the comparison's data and denoiser, with the values ``given`` at their paths."""
    changes: dict[str, Any] = {}
    changes |= {"denoiser": comparison.denoiser} if comparison.denoiser is not None else {}
    changes |= {"data": comparison.data} if comparison.data is not None else {}
    if "schedule" in given and "sampler.steps" not in given:
        changes["sampler.steps"] = same_range(recipe.sampler.steps, recipe.schedule)
    try:
        for path, value in (changes | dict(given)).items():
            recipe = by_path.put(recipe, path, value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    sampler = recipe.sampler
    if isinstance(sampler.steps, Explicit):
        raise ValueError(
            f"{name}: sampler.steps: a list of levels has one length and no budgets; use --steps-rule karras"
        )
    if getattr(sampler.solver, "adaptive", False):
        raise ValueError(
            f"{name}: sampler.solver: {sampler.solver.kind} is adaptive and takes as many evaluations as its tolerance "
            "asks for, so that no budget fits it; leave it out, or run it with `edm-unified sample`"
        )
    method, least = Method(name, recipe), 2 if sampler.last == "stop" else 1
    most = max(least, min(max(comparison.nfe), _most_steps(recipe)))
    try:
        # a walk that this schedule does not have is found here, not after an hour
        method.nfe(most)
    except ValueError as error:
        raise ValueError(f"{_in_words(method)} at {most} steps, all that the budgets may buy: {error}") from None
    return recipe


def _in_words(method: Method) -> str:
    labels = method.labels
    parts = [labels["schedule"], labels["steps"], *([labels["renoising"]] if labels["renoising"] != "none" else [])]
    return f"{method.name} with {', '.join(parts)}"


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
