"""Run the cells that are not there yet."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified import metrics as measure
from edm_unified.compare.plan import Cell, Plan, digest
from edm_unified.compare.store import Store
from edm_unified.data import Dataset
from edm_unified.denoiser import Counted, Denoiser
from edm_unified.recipe import Recipe
from edm_unified.reference_solution import reference
from edm_unified.sampling import Progress, levels_of, sample, unit_noise

TARGET_SAMPLES = 2048
"""Exact draws (or data) that the distribution metrics compare with."""
MOST_MOMENTS = 4096
"""Dimensions up to which the Fréchet distance takes the model's exact covariance instead of that of its draws."""
REFERENCE_EVALUATIONS = 700
"""What a reference solution costs, about; for the estimate of the time left only."""
ENDPOINT = ("error_median", "error_rms")


class Settings(NamedTuple):
    """What is the machine's and not the comparison's."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float64
    batch: int = 1024


class Event(NamedTuple):
    """Progress: ``done`` of ``total`` units of work (evaluations × samples), and what is under way."""

    what: str
    cell: int
    cells: int
    nfe: int
    done: float
    total: float
    finished: bool = False


Observer = Callable[[Event], object]


class Problem:
    """A model of the data with all that is measured against it. Nothing is built before it is needed."""

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self._recipe, self._settings = recipe, settings

    @cached_property
    def _built(self) -> tuple[Any, Dataset]:
        return self._recipe.build()

    @property
    def dataset(self) -> Dataset:
        return self._built[1]

    def check(self) -> None:
        """Load the data and build the denoiser, or raise ``ValueError`` naming what is wrong with them."""
        _ = self._built

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the data change."""
        images = self.dataset.images.contiguous()
        return digest([list(images.shape), hashlib.sha256(images.numpy().tobytes()).hexdigest()])

    @cached_property
    def denoiser(self) -> Any:
        denoiser = self._built[0]
        return denoiser.to(self._settings.device) if hasattr(denoiser, "to") else denoiser

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.images.shape[1:])

    @cached_property
    def target(self) -> Tensor:
        """Exact draws of the model, or the data where the model cannot be drawn from."""
        if hasattr(self.denoiser, "sample"):
            return self.denoiser.sample(TARGET_SAMPLES, seed=20_220_601).to(torch.float64)
        return self.dataset.images[:TARGET_SAMPLES].to(torch.float64)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor] | None:
        """The exact mean and covariance of the model, where they are known and a matrix of that size is affordable."""
        if not hasattr(self.denoiser, "moments") or math.prod(self.shape) > MOST_MOMENTS:
            return None
        return self.denoiser.moments()

    @cached_property
    def has_density(self) -> bool:
        """Whether log p of a clean sample is known: not for a set of points."""
        if not hasattr(self.denoiser, "log_prob"):
            return False
        try:
            return bool(torch.isfinite(self.denoiser.log_prob(self.target[:1], 0.0)).all())
        except ValueError:
            return False

    def measure(self, x: Tensor, name: str) -> measure.Estimate | None:
        """One metric of the samples as a distribution, or None where it does not apply."""
        if name == "log_density_gap":
            return measure.log_density_gap(x, self.denoiser) if self.has_density else None
        if name == "frechet":
            return measure.frechet(x, self.moments or self.target)
        if name == "energy_distance":
            return measure.energy_distance(x, self.target)
        return measure.sliced_wasserstein(x, self.target)


class Problems:
    """One :class:`Problem` for each (data, denoiser) among the recipes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._problems: dict[Any, Problem] = {}

    def of(self, recipe: Recipe) -> Problem:
        key = (recipe.data, recipe.denoiser)
        if key not in self._problems:
            self._problems[key] = Problem(recipe, self._settings)
        return self._problems[key]


def common_key(plan: Plan, problem: Problem, settings: Settings) -> str:
    """What all cells of a problem share and their outcome depends on."""
    return digest([problem.fingerprint, str(settings.dtype), plan.comparison.samples, TARGET_SAMPLES])


def metrics_of(plan: Plan, cell: Cell, problem: Problem) -> tuple[str, ...]:
    """The metrics that apply to a cell."""
    names = plan.comparison.metrics
    names = tuple(n for n in names if not (cell.method.stochastic and n in ENDPOINT))
    return names if problem.has_density else tuple(n for n in names if n != "log_density_gap")


def run(plan: Plan, store: Store, settings: Settings, problems: Problems, observe: Observer | None = None) -> None:
    """Run every unfinished cell of ``plan`` and append it to ``store``."""
    keys = {cell: cell.key(common_key(plan, problems.of(cell.method.recipe), settings)) for cell in plan.cells}
    todo = [
        cell
        for cell in plan.cells
        if not store.finished(keys[cell], metrics_of(plan, cell, problems.of(cell.method.recipe)), cell.budget)
        or _unsaved(plan, cell, keys[cell], store)
    ]
    ledger = _Ledger(plan, todo, store, problems, settings, observe)
    for index, cell in enumerate(todo):
        ledger.start(index, f"{cell.method.name} · {cell.nfe} evaluations")
        problem = problems.of(cell.method.recipe)
        if store.finished(keys[cell], metrics_of(plan, cell, problem)) and not _unsaved(plan, cell, keys[cell], store):
            # two budgets buy the same number of steps: one run, told of under each
            store.append(keys[cell], [record | {"budget": cell.budget} for record in store.records(keys[cell])])
            continue
        exact = None
        if not cell.method.stochastic and set(ENDPOINT) & set(plan.comparison.metrics):
            exact = _reference(plan, cell, problem, store, settings, ledger)
        x, seconds = _sample(plan, cell, problem, settings, ledger)
        records = _records(plan, cell, problem, keys[cell], x, exact, seconds)
        if _shown(plan, cell):
            store.save(f"samples/{keys[cell]}", x[: plan.comparison.grid_samples].float())
        store.append(keys[cell], records)
    ledger.end(len(todo))


def _unsaved(plan: Plan, cell: Cell, key: str, store: Store) -> bool:
    return _shown(plan, cell) and store.load(f"samples/{key}") is None


def _shown(plan: Plan, cell: Cell) -> bool:
    shown = plan.comparison
    return shown.grid_samples > 0 and cell.budget == shown.grid_nfe and cell.seed == shown.seeds[0]


def _records(
    plan: Plan, cell: Cell, problem: Problem, key: str, x: Tensor, exact: Tensor | None, seconds: float
) -> list[dict[str, Any]]:
    records = []
    endpoint = None if exact is None else measure.endpoint_error(x[: len(exact)], exact)
    for name in metrics_of(plan, cell, problem):
        estimate = getattr(endpoint, name[6:], None) if name in ENDPOINT else problem.measure(x, name)
        if estimate is not None:
            records.append(
                cell.method.labels
                | {
                    "budget": cell.budget,
                    "nfe": cell.nfe,
                    "n": cell.n,
                    "seed": cell.seed,
                    "samples": plan.comparison.samples,
                    "metric": name,
                    **estimate._asdict(),
                    "seconds": round(seconds, 4),
                    "hash": cell.method.recipe.hash,
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
                sample(
                    counted,
                    unit_noise(size, problem.shape, seed=cell.seed, first=first).to(settings.device),
                    schedule=recipe.schedule,
                    steps=sampler.steps,
                    solver=sampler.solver,
                    renoising=sampler.renoising,
                    corrector=sampler.corrector,
                    seed=cell.seed,
                    first=first,
                    dtype=settings.dtype,
                    callback=moved,
                )
            )
        except FloatingPointError:  # a method that diverges is a result
            parts.append(torch.full((size, *problem.shape), math.nan, dtype=settings.dtype, device=settings.device))
    return torch.cat(parts), time.perf_counter() - began


def start_of(recipe: Recipe) -> float:
    """σ_0 of a recipe's walk."""
    return levels_of(recipe.sampler.steps, recipe.schedule, recipe.sampler.renoising)[0]


def reference_name(plan: Plan, problem: Problem, recipe: Recipe, sigma_max: float, seed: int) -> str:
    """Where the reference from σ_max is kept; references of equal problem, start and seed are shared by methods."""
    c = plan.comparison
    denoiser = digest([repr(recipe.denoiser), problem.fingerprint, c.reference_samples, c.reference_tolerance])
    return f"reference/{digest([denoiser, sigma_max, seed])}"


def _reference(plan: Plan, cell: Cell, problem: Problem, store: Store, settings: Settings, ledger: _Ledger) -> Tensor:
    recipe = cell.method.with_steps(cell.n)
    sigma_max = start_of(recipe)
    name = reference_name(plan, problem, recipe, sigma_max, cell.seed)
    saved = store.load(name)
    if saved is not None:
        return saved.to(settings.device)
    number = min(plan.comparison.reference_samples, plan.comparison.samples)
    ledger.say(f"exact solution from σ = {sigma_max:.4g}")
    counted = Counted(problem.denoiser)
    exact = solve_reference(
        counted,
        problem,
        sigma_max,
        cell.seed,
        number,
        plan.comparison.reference_tolerance,
        settings,
        lambda sigma: ledger.work(number if counted.nfe < REFERENCE_EVALUATIONS else 0, counted.nfe),
    )
    ledger.say(f"{cell.method.name} · {cell.nfe} evaluations")
    store.save(name, exact)
    return exact


def solve_reference(
    denoiser: Denoiser,
    problem: Problem,
    sigma_max: float,
    seed: int,
    number: int,
    tolerance: float,
    settings: Settings,
    callback: Callable[[float], object] | None = None,
) -> Tensor:
    """The exact endpoints of the first ``number`` samples of ``seed``."""
    noise = unit_noise(number, problem.shape, seed=seed).to(settings.device)
    return reference(denoiser, noise, sigma_max=sigma_max, sigma_floor=1e-4, tolerance=tolerance, callback=callback)


class _Ledger:
    """Adds up the work done and tells the observer."""

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
                name = reference_name(plan, problems.of(recipe), recipe, start_of(recipe), cell.seed)
                if store.load(name) is None:
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
