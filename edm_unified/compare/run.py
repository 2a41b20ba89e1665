"""Run the cells of a comparison whose records are not in its directory yet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edm_unified import metrics as measure
from edm_unified.compare.plan import Cell, Method, Plan, digest
from edm_unified.compare.problem import ENDPOINT, TARGET_SAMPLES, Problem, Problems, Settings
from edm_unified.compare.progress import Observer, Work
from edm_unified.compare.reference import missing_work, needs_reference, reference_of
from edm_unified.compare.store import Store
from edm_unified.denoisers.denoiser import Counted
from edm_unified.recipe import Comparison
from edm_unified.sampling.loop import Progress, unit_noise

MOST_SHOWN = 2000
"""Vectors that are kept of each method for its cloud of points."""


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
    second += [f"units of the {plan.comparison.units}"] if plan.comparison.units != "network" else []
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
    total = float(sum(cell.nfe * plan.comparison.samples for cell in todo))
    work = Work(len(todo), total + missing_work(plan, todo, store, problems), observe)
    for index, cell in enumerate(todo):
        work.start(index, f"{cell.method.name} · {cell.nfe} evaluations")
        problem = problems.of(cell.method.recipe)
        if store.finished(keys[cell], metrics_of(plan, cell, problem)) and not _unsaved(
            plan, cell, keys[cell], store, problem
        ):
            # two budgets buy the same number of steps, or two recipes are equal: one run, recorded under each
            store.append(keys[cell], [record | identity_of(cell) for record in store.records(keys[cell])])
            continue
        exact = None
        if needs_reference(plan, cell):
            exact = reference_of(plan, cell, problem, store, settings, work)
        x, seconds = _sample(plan, cell, problem, settings, work)
        records = _records(plan, cell, problem, keys[cell], x, exact, seconds, work)
        if _shown(plan, cell):
            shown = problem.in_units(x[: pictured(plan.comparison, problem.shape)], plan.comparison.units)
            store.save(f"samples/{keys[cell]}", shown.float())
        metrics = metrics_of(plan, cell, problem)
        if not store.finished(keys[cell], metrics, identity_of(cell)):  # else only a picture was wanted
            store.append(keys[cell], records)
    work.end(len(todo))


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
    work: Work,
) -> list[dict[str, Any]]:
    records = []
    units = plan.comparison.units
    endpoint = None
    if exact is not None:
        own, exact = problem.in_units(x[: len(exact)], units), problem.in_units(exact, units)
        endpoint = measure.endpoint_error(own.to(torch.float64), exact.to(torch.float64))
    for name in metrics_of(plan, cell, problem):
        work.say(f"{cell.method.name} · {cell.nfe} evaluations · {name.replace('_', ' ')}")
        estimate = getattr(endpoint, name[6:], None) if name in ENDPOINT else problem.measure(x, name, units)
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


def _sample(plan: Plan, cell: Cell, problem: Problem, settings: Settings, work: Work) -> tuple[Tensor, float]:
    recipe, sampler = cell.method.with_steps(cell.n), cell.method.with_steps(cell.n).sampler
    counted = Counted(problem.denoiser)
    parts, began = [], time.perf_counter()
    for first in range(0, plan.comparison.samples, settings.batch):
        size = min(settings.batch, plan.comparison.samples - first)

        def moved(progress: Progress, size: int = size) -> None:
            work.done(cell.nfe * size / progress.moves, counted.nfe)

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
