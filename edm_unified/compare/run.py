"""Run the cells of a comparison whose records are not in its directory yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified import metrics as measure
from edm_unified.compare.plan import Cell, Method, Plan, digest, without_paths
from edm_unified.compare.problem import ENDPOINT, TARGET_SAMPLES, Problem, Problems, Settings
from edm_unified.compare.store import Store
from edm_unified.denoisers.denoiser import Counted, Denoiser, supported_range
from edm_unified.recipe import Comparison, Recipe, Sampler
from edm_unified.sampling.loop import Progress, levels_of, unit_noise
from edm_unified.sampling.reference import reference

REFERENCE_EVALUATIONS = 700
"""What a reference solution costs, about; for the estimate of the time left only."""

MOST_SHOWN = 2000
"""Vectors that are kept of each method for its cloud of points."""


class Event(NamedTuple):
    """Progress: ``done`` of ``total`` units of work (evaluations × samples), and the present step."""

    what: str
    cell: int
    cells: int
    nfe: int
    done: float
    total: float
    finished: bool = False


Observer = Callable[[Event], object]


def prepare(plan: Plan, problems: Problems, say: Callable[[str], object]) -> None:
    """Load the data, make every model and what is drawn from it; ``say`` is called with the name of each phase.

    Raises ``ValueError`` naming the recipe and what is wrong.
    """
    seen = set()
    for method in plan.methods:
        problem = problems.of(method.recipe)
        if problem not in seen:
            say(f"{method.name}: making the denoiser")
        try:
            problem.check(method.recipe.sampler)
        except ValueError as error:
            raise ValueError(f"{method.name}: {error}") from None
        if problem not in seen and set(plan.comparison.metrics) - set(ENDPOINT):
            say(f"{method.name}: drawing what its samples are compared with")
            try:
                _ = problem.target
            except ValueError as error:
                own = ",".join(ENDPOINT)
                raise ValueError(f"{method.name}: {error}; without them there are --set metrics=[{own}]") from None
        seen.add(problem)


def common_key(plan: Plan, method: Method, problem: Problem, settings: Settings) -> str:
    """What a cell's outcome depends on besides its recipe and seed, such as the weights of the networks."""
    guide = problem.guide(method.recipe.sampler)
    second = [guide.fingerprint] if guide is not None and guide.fingerprint else []
    return digest([problem.fingerprint, str(settings.dtype), plan.comparison.samples, TARGET_SAMPLES, *second])


def keys_of(plan: Plan, settings: Settings, problems: Problems) -> dict[Cell, str]:
    """The key of every cell of ``plan``, by which its records are found."""
    common = {method: common_key(plan, method, problems.of(method.recipe), settings) for method in plan.methods}
    return {cell: cell.key(common[cell.method]) for cell in plan.cells}


def identity_of(cell: Cell) -> dict[str, Any]:
    """Method, budget and recipe hash, as a record names them. Cells of one key differ in nothing else."""
    return cell.method.labels | {"budget": cell.budget, "hash": cell.method.recipe.hash}


def metrics_of(plan: Plan, cell: Cell, problem: Problem) -> tuple[str, ...]:
    """The metrics that apply to a cell."""
    names = plan.comparison.metrics
    names = tuple(n for n in names if not (cell.method.stochastic and n in ENDPOINT))
    return tuple(n for n in names if problem.applies(n, plan.comparison.samples))


def run(plan: Plan, store: Store, settings: Settings, problems: Problems, observe: Observer | None = None) -> None:
    """Run every unfinished cell of ``plan`` and append it to ``store``, whose report of fewer cells goes first."""
    keys = keys_of(plan, settings, problems)
    todo = [
        cell
        for cell in plan.cells
        if not store.finished(keys[cell], metrics_of(plan, cell, problems.of(cell.method.recipe)), identity_of(cell))
        or _unsaved(plan, cell, keys[cell], store, problems.of(cell.method.recipe))
    ]
    if todo:
        store.withdraw_report()
    ledger = _Ledger(plan, todo, store, problems, settings, observe)
    for index, cell in enumerate(todo):
        ledger.start(index, f"{cell.method.name} · {cell.nfe} evaluations")
        problem = problems.of(cell.method.recipe)
        if store.finished(keys[cell], metrics_of(plan, cell, problem)) and not _unsaved(
            plan, cell, keys[cell], store, problem
        ):
            # two budgets buy the same number of steps, or two recipes are equal: one run, recorded under each
            store.append(keys[cell], [record | identity_of(cell) for record in store.records(keys[cell])])
            continue
        exact = None
        if not cell.method.stochastic and set(ENDPOINT) & set(plan.comparison.metrics):
            exact = _reference(plan, cell, problem, store, settings, ledger)
        x, seconds = _sample(plan, cell, problem, settings, ledger)
        records = _records(plan, cell, problem, keys[cell], x, exact, seconds, ledger)
        if _shown(plan, cell):
            store.save(f"samples/{keys[cell]}", x[: pictured(plan.comparison, problem.shape)].float())
        metrics = metrics_of(plan, cell, problem)
        if not store.finished(keys[cell], metrics, identity_of(cell)):  # else only a picture was wanted
            store.append(keys[cell], records)
    ledger.end(len(todo))


def pictured(comparison: Comparison, shape: tuple[int, ...]) -> int:
    """How many samples of a method are kept to be shown: of vectors, which are a cloud together, up to 2,000."""
    wanted = MOST_SHOWN if len(shape) == 1 and comparison.grid_samples else comparison.grid_samples
    return min(wanted, comparison.samples)


def _unsaved(plan: Plan, cell: Cell, key: str, store: Store, problem: Problem) -> bool:
    if not _shown(plan, cell):
        return False
    kept = store.load(f"samples/{key}", problem.shape)
    return kept is None or len(kept) < pictured(plan.comparison, problem.shape)


def _shown(plan: Plan, cell: Cell) -> bool:
    shown = plan.comparison
    return shown.grid_samples > 0 and cell.budget == shown.grid_nfe and cell.seed == shown.seeds[0]


def _records(
    plan: Plan,
    cell: Cell,
    problem: Problem,
    key: str,
    x: Tensor,
    exact: Tensor | None,
    seconds: float,
    ledger: _Ledger,
) -> list[dict[str, Any]]:
    records = []
    endpoint = None if exact is None else measure.endpoint_error(x[: len(exact)], exact)
    for name in metrics_of(plan, cell, problem):
        ledger.say(f"{cell.method.name} · {cell.nfe} evaluations · {name.replace('_', ' ')}")
        estimate = getattr(endpoint, name[6:], None) if name in ENDPOINT else problem.measure(x, name)
        if estimate is not None:
            records.append(
                identity_of(cell)
                | {
                    "nfe": cell.nfe,
                    "n": cell.n,
                    "seed": cell.seed,
                    "samples": plan.comparison.samples,
                    "metric": name,
                    **estimate._asdict(),
                    "seconds": round(seconds, 4),
                    "cell": key,
                }
            )
    return records


def _sample(plan: Plan, cell: Cell, problem: Problem, settings: Settings, ledger: _Ledger) -> tuple[Tensor, float]:
    recipe, sampler = cell.method.with_steps(cell.n), cell.method.with_steps(cell.n).sampler
    counted = Counted(problem.denoiser)
    parts, began = [], time.perf_counter()
    for first in range(0, plan.comparison.samples, settings.batch):
        size = min(settings.batch, plan.comparison.samples - first)

        def moved(progress: Progress, size: int = size) -> None:
            ledger.work(cell.nfe * size / progress.moves, counted.nfe)

        try:
            parts.append(
                sampler.sample(
                    counted,
                    unit_noise(size, problem.shape, seed=cell.seed, first=first).to(settings.device),
                    recipe.schedule,
                    guide=problem.guide(sampler),
                    analytic_start=problem.analytic_start(sampler),
                    seed=cell.seed,
                    first=first,
                    dtype=settings.dtype,
                    cond=problem.cond(sampler, size, cell.seed, first),
                    callback=moved,
                )
            )
        except FloatingPointError:  # a method that diverges is a result
            parts.append(torch.full((size, *problem.shape), math.nan, dtype=settings.dtype, device=settings.device))
    return torch.cat(parts), time.perf_counter() - began


def start_of(recipe: Recipe) -> float:
    """σ_0 of a recipe's levels, those that an analytic start takes among them."""
    return levels_of(recipe.sampler.steps, recipe.schedule)[0]


def reference_name(plan: Plan, problem: Problem, recipe: Recipe, sigma_max: float, seed: int) -> str:
    """Where the reference from σ_max is kept; references of equal problem, guidance, start and seed are shared."""
    c = plan.comparison
    number = min(c.reference_samples, c.samples)
    same = without_paths(recipe)
    whole = [repr(same.denoiser), problem.fingerprint, number, c.reference_tolerance]
    guide = problem.guide(recipe.sampler)
    denoiser = digest(whole if guide is None else [*whole, repr(same.sampler.guidance), guide.fingerprint])
    return f"reference/{digest([denoiser, sigma_max, seed])}"


def _reference(plan: Plan, cell: Cell, problem: Problem, store: Store, settings: Settings, ledger: _Ledger) -> Tensor:
    recipe = cell.method.with_steps(cell.n)
    sigma_max = start_of(recipe)
    name = reference_name(plan, problem, recipe, sigma_max, cell.seed)
    saved = store.load(name, problem.shape)
    if saved is not None:
        return saved.to(settings.device)
    number = min(plan.comparison.reference_samples, plan.comparison.samples)
    ledger.say(f"exact solution from σ = {sigma_max:.4g}")
    counted = Counted(problem.denoiser)
    exact = solve_reference(
        counted,
        problem,
        recipe.sampler,
        sigma_max,
        cell.seed,
        number,
        problem.tolerance(plan.comparison.reference_tolerance),
        settings,
        lambda sigma: ledger.work(number if counted.nfe < REFERENCE_EVALUATIONS else 0, counted.nfe),
    )
    ledger.say(f"{cell.method.name} · {cell.nfe} evaluations")
    store.save(name, exact)
    return exact


def solve_reference(
    denoiser: Denoiser,
    problem: Problem,
    sampler: Sampler,
    sigma_max: float,
    seed: int,
    number: int,
    tolerance: float,
    settings: Settings,
    callback: Callable[[float], object] | None = None,
) -> Tensor:
    """The exact endpoints of the first ``number`` samples of ``seed``, under the guidance of ``sampler``."""
    noise = unit_noise(number, problem.shape, seed=seed).to(settings.device)
    guide = problem.guide(sampler)
    return reference(
        denoiser if guide is None else guide.guided(denoiser),
        noise,
        sigma_max=sigma_max,
        sigma_floor=max(1e-4, supported_range(denoiser)[0]),
        tolerance=tolerance,
        cond=problem.cond(sampler, number, seed),
        callback=callback,
    )


class _Ledger:
    """Adds up the work done and reports it to the observer."""

    def __init__(
        self,
        plan: Plan,
        todo: list[Cell],
        store: Store,
        problems: Problems,
        settings: Settings,
        observe: Observer | None,
    ) -> None:
        self._observe, self._cells, self._cell, self._what, self._done = observe, len(todo), 0, "", 0.0
        self._total = float(sum(cell.nfe * plan.comparison.samples for cell in todo))
        missing = set()
        for cell in todo:
            if not cell.method.stochastic and set(ENDPOINT) & set(plan.comparison.metrics):
                recipe = cell.method.with_steps(cell.n)
                problem = problems.of(recipe)
                name = reference_name(plan, problem, recipe, start_of(recipe), cell.seed)
                if store.load(name, problem.shape) is None:
                    missing.add(name)
        number = min(plan.comparison.reference_samples, plan.comparison.samples)
        self._total += len(missing) * REFERENCE_EVALUATIONS * number

    def start(self, cell: int, what: str) -> None:
        self._cell = cell
        self.say(what)

    def say(self, what: str) -> None:
        self._what = what
        self._tell(0)

    def work(self, amount: float, nfe: int) -> None:
        self._done = min(self._done + amount, self._total)
        self._tell(nfe)

    def end(self, cells: int) -> None:
        self._cell, self._done = cells, self._total
        self._tell(0, finished=True)

    def _tell(self, nfe: int, finished: bool = False) -> None:
        if self._observe is not None:
            self._observe(Event(self._what, self._cell, self._cells, nfe, self._done, self._total, finished))
