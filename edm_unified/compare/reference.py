"""Reference solutions: the exact endpoints that the errors of a comparison are measured against, kept and shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from edm_unified.compare.plan import Cell, Plan, digest, without_paths
from edm_unified.compare.problem import ENDPOINT, Problem, Problems, Settings
from edm_unified.compare.progress import Work
from edm_unified.compare.store import Store
from edm_unified.denoisers.denoiser import Counted, Denoiser, supported_range
from edm_unified.recipe import Recipe, Sampler
from edm_unified.sampling.loop import levels_of, unit_noise
from edm_unified.sampling.reference import reference

REFERENCE_EVALUATIONS = 700
"""What a reference solution costs, about; for the estimate of the time left only."""


def start_of(recipe: Recipe) -> float:
    """σ_0 of a recipe's levels, those that an analytic start takes among them."""
    return levels_of(recipe.sampler.steps, recipe.schedule)[0]


def reference_name(plan: Plan, problem: Problem, recipe: Recipe, sigma_max: float, seed: int) -> str:
    """Where the reference from σ_max is kept; references of equal problem, guidance, start and seed are shared."""
    c = plan.comparison
    number = min(c.reference_samples, c.samples)
    same = without_paths(recipe)
    whole = [repr(same.denoiser), problem.fingerprint, number, c.reference_tolerance]
    whole += [] if recipe.sampler.anchor is None else [recipe.sampler.anchor]
    guide = problem.guide(recipe.sampler)
    denoiser = digest(whole if guide is None else [*whole, repr(same.sampler.guidance), guide.fingerprint])
    return f"reference/{digest([denoiser, sigma_max, seed])}"


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
    cond = problem.cond(sampler, number, seed)
    anchor = sampler.anchor_of(cond)
    return reference(
        denoiser if guide is None else guide.guided(denoiser),
        noise,
        sigma_max=sigma_max,
        sigma_floor=max(1e-4, supported_range(denoiser)[0]),
        tolerance=tolerance,
        cond=cond,
        anchor=None if anchor is None else anchor.expand_as(noise),
        callback=callback,
    )


def reference_of(plan: Plan, cell: Cell, problem: Problem, store: Store, settings: Settings, work: Work) -> Tensor:
    recipe = cell.method.with_steps(cell.n)
    sigma_max = start_of(recipe)
    name = reference_name(plan, problem, recipe, sigma_max, cell.seed)
    saved = store.load(name, problem.shape)
    if saved is not None:
        return saved.to(settings.device)
    number = min(plan.comparison.reference_samples, plan.comparison.samples)
    work.say(f"exact solution from σ = {sigma_max:.4g}")
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
        lambda sigma: work.done(number if counted.nfe < REFERENCE_EVALUATIONS else 0, counted.nfe),
    )
    work.say(f"{cell.method.name} · {cell.nfe} evaluations")
    store.save(name, exact)
    return exact


def missing_work(plan: Plan, todo: Sequence[Cell], store: Store, problems: Problems) -> float:
    """The evaluations × samples of the references that these cells need and that ``store`` has not yet, about."""
    missing = set()
    for cell in todo:
        if needs_reference(plan, cell):
            recipe = cell.method.with_steps(cell.n)
            problem = problems.of(recipe)
            name = reference_name(plan, problem, recipe, start_of(recipe), cell.seed)
            if store.load(name, problem.shape) is None:
                missing.add(name)
    return float(len(missing) * REFERENCE_EVALUATIONS * min(plan.comparison.reference_samples, plan.comparison.samples))


def needs_reference(plan: Plan, cell: Cell) -> bool:
    """Whether the errors of a cell are asked for: those of a method without noise."""
    return not cell.method.stochastic and bool(set(ENDPOINT) & set(plan.comparison.metrics))
