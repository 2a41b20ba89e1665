"""Fitting the sampler of a recipe: what is refused, the session of its model, and the recipe that comes of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from edm_unified.compare.plan import Plan
from edm_unified.compare.problem import Problem, Problems
from edm_unified.metrics import Estimate
from edm_unified.recipe import Recipe
from edm_unified.recipe.prepared import Prepared
from edm_unified.sampling.loop import unit_noise
from edm_unified.sampling.solvers import Fitted
from edm_unified.tuning.answers import answers, unlike
from edm_unified.tuning.session import HELD_OUT, HELD_OUT_SEED, Fit, Session, Tell, Tuning
from edm_unified.tuning.teacher import Teacher


def check_recipe(recipe: Recipe) -> None:
    """Raise ``ValueError`` where the sampler has parts that a fitted solver cannot stand beside."""
    sampler = recipe.sampler
    for name, part in sampler.stochastic_parts().items():
        raise ValueError(
            f"sampler.{name}: {part.kind} is stochastic, and a solver is fitted to where the ODE ends; take a "
            f"deterministic sampler, as with {'--solver heun' if name == 'solver' else f'--{name} none'}"
        )
    if getattr(sampler.solver, "adaptive", False):
        raise ValueError(
            f"sampler.solver: {sampler.solver.kind} is adaptive and has no budget to compare with; take a solver of "
            "fixed steps, as with --solver heun"
        )
    if sampler.analytic_start is not None:
        raise ValueError(
            "sampler.analytic_start: a fitted solver begins at the highest level itself; leave it out with "
            "--analytic-start none"
        )
    if sampler.anchor is not None:
        raise ValueError(
            f"sampler.anchor: the walk begins at {sampler.anchor}, another one for each sample, and a solver is fitted "
            "to walks from noise alone; take a recipe without an anchor"
        )
    if sampler.last == "stop":
        raise ValueError(
            "sampler.last: stop leaves noise in the samples, where a fit goes to the end; take --last solver"
        )


def levels(recipe: Recipe) -> tuple[float, float]:
    """The highest and the lowest level above 0 of the recipe's walk."""
    above = [sigma for sigma in recipe.levels if sigma > 0]
    return max(above), min(above)


def session(
    recipe: Recipe,
    problem: Problem,
    samples: int = 32,
    held_out: int = HELD_OUT,
    seed: int = 0,
    told: bool = False,
    teachers: tuple[Teacher, Teacher] | None = None,
    tell: Tell = lambda what, share: None,
) -> Session:
    """That of the recipe's model, guided and conditioned as it says, from noises of ``seed``."""
    sampler = recipe.sampler
    high, low = levels(recipe)
    device = problem.device
    judges = HELD_OUT_SEED + seed
    return Session(
        sampler.within(problem.denoiser, problem.guide(sampler)),
        unit_noise(samples, problem.shape, seed=seed).to(device),
        sigma_max=high,
        sigma_min=low,
        cond=problem.cond(sampler, samples, seed),
        held_out=unit_noise(held_out, problem.shape, seed=judges).to(device),
        held_out_cond=problem.cond(sampler, held_out, judges) or {},
        told=told,
        seed=seed,
        teachers=teachers,
        model=model_of(recipe, problem),
        tell=tell,
    )


def tuned(recipe: Recipe, tuning: Tuning) -> Recipe:
    """``recipe`` with the fitted levels and solver in the place of its own."""
    nfe = ", ".join(str(fit.nfe) for fit in tuning.fits)
    sampler = dataclasses.replace(recipe.sampler, steps=tuning.steps(), solver=tuning.solver, last="solver")
    return dataclasses.replace(
        recipe, title=f"{recipe.title}, fitted to {nfe} evaluations".replace("\n", " "), sampler=sampler
    )


def transfer(
    recipe: Recipe, problem: Problem, tuning: Tuning, w: float, samples: int
) -> dict[int, tuple[Estimate, Estimate, Estimate]]:
    """For each budget the gain, the error and the stock error at another weight ``w`` of the guidance, held out."""
    guidance = dataclasses.replace(recipe.sampler.guidance, w=w)  # type: ignore[arg-type, type-var]
    other = dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, guidance=guidance))
    found = session(other, problem, 2, samples, tuning.fits[0].seed)
    return {fit.nfe: found.compared(fit) for fit in tuning.fits}


def other_model(prepared: Prepared) -> str | None:
    """A line where the solver of a recipe was fitted to another model than the one it is used with."""
    sampler = prepared.recipe.sampler
    if not (isinstance(sampler.solver, Fitted) and sampler.solver.model):
        return None
    labels = prepared.labels(2)
    cond = None if labels is None else {"label": labels}
    denoiser = sampler.within(prepared.denoiser, prepared.guide)
    return unlike(sampler.solver.model, answers(denoiser, prepared.dataset.shape, cond, prepared.device))


def model_of(recipe: Recipe, problem: Problem) -> tuple[float, ...]:
    """The answers of the recipe's model, guided and conditioned as it says."""
    sampler = recipe.sampler
    denoiser = sampler.within(problem.denoiser, problem.guide(sampler))
    return answers(denoiser, problem.shape, problem.cond(sampler, 2, 0), problem.device)


def other_models(plan: Plan, problems: Problems) -> list[str]:
    """A line for each method of a comparison whose solver was fitted to another model."""
    found: dict[str, None] = {}
    for method in plan.methods:
        sampler = method.recipe.sampler
        if isinstance(sampler.solver, Fitted) and sampler.solver.model:
            own = model_of(method.recipe, problems.of(method.recipe))
            if (words := unlike(sampler.solver.model, own)) is not None:
                found[f"{method.name}: {words}"] = None
    return list(found)


def as_text(recipe: Recipe, tuning: Tuning) -> str:
    """The recipe as YAML, a line for each step, under what is known of the fits."""
    lists = {"weights": tuning.solver.weights, "sigmas": tuning.solver.sigmas}
    bare = dataclasses.replace(tuning.solver, sigmas=(), weights=(), told=())
    steps = dataclasses.replace(tuning.steps(), sigmas=((1.0, 0.0),))
    short = dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, solver=bare, steps=steps))
    lines = [f"# {line}" for line in _heading(tuning)]
    for line in short.dump().splitlines():
        name = line.strip().partition(":")[0]
        if line == "    sigmas: [[1.0, 0.0]]" or line == "    sigmas: []":
            lines += ["    sigmas:", *(f"      - {_row(one)}" for one in lists["sigmas"])]
        elif name == "weights" and line.endswith("[]"):
            lines += ["    weights:   # x, then the outputs of D, the newest first"]
            for rows in tuning.solver.weights:
                lines += [f"      {'- ' if i == 0 else '  '}- {_row(row)}" for i, row in enumerate(rows)]
        elif name == "told" and line.endswith("[]") and tuning.solver.told:
            lines += ["    told:", *(f"      - {_row(one)}" for one in tuning.solver.told)]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _heading(tuning: Tuning) -> list[str]:
    first = tuning.fits[0]
    lines = [
        "Written by edm-unified tune: a recipe like any other, whose levels and solver were fitted to its model.",
        f"Teacher: {first.teacher}; {first.samples} noises of seed {first.seed}.",
        "Median error on held-out noises, in the units of the model, beside the best stock method:",
    ]
    return lines + [in_words(fit) for fit in tuning.fits]


def in_words(fit: Fit) -> str:
    """One line: the errors of a fit and of the stock method, the gain and what is used."""
    gain = (
        f"{fit.held_out.value:.3g} times less ({fit.held_out.low:.3g} to {fit.held_out.high:.3g})"
        if (fit.held_out.value is not None)
        else "diverged"
    )
    used = "" if fit.better else "; not better beyond its interval, so the stock method is what stands here"
    return (
        f"{fit.nfe:>3} evaluations: {_number(fit.error.value)}, {fit.stock.name} {_number(fit.stock_error.value)}: "
        f"{gain}{used}"
    )


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3g}"


def _row(values: Any) -> str:
    return f"[{', '.join(repr(float(value)) for value in values)}]"
