"""From what the command line says to a comparison and its recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edm_unified.compare.sets import solver_set
from edm_unified.components import shipped
from edm_unified.recipe import Comparison, Recipe, from_tree, load_any, parse_component
from edm_unified.recipe.guidances import AnyGuidance
from edm_unified.sampling.analytic_starts import AnyAnalyticStart
from edm_unified.sampling.levels import AnySteps
from edm_unified.sampling.solvers import AnySolver
from edm_unified.schedules import AnySchedule


def load(names: Sequence[str], overrides: Sequence[str] = ()) -> tuple[Comparison, list[tuple[str, Recipe]]]:
    """The comparison that the names amount to, and its recipes with the overrides applied to them or to it."""
    fields = set(Comparison.__dataclass_fields__)
    own = tuple(
        text for text in overrides if text.partition("=")[0].partition(".")[0].strip() in fields - {"data", "denoiser"}
    )
    theirs = tuple(text for text in overrides if text not in own)
    whole = [(name, found) for name in names if isinstance(found := load_any(name), Comparison)]
    if len(whole) > 1:
        raise ValueError(
            f"{whole[1][0]}: is a second comparison beside {whole[0][0]}; name one comparison and any number of recipes"
        )
    wanted: list[str] = []
    for name in names:
        if whole and name == whole[0][0]:
            wanted += [shipped.beside(name, recipe) for recipe in whole[0][1].recipes]
        else:
            wanted.append(name)
    loaded = [(short_name((name,)), _recipe(name, theirs, names, whole)) for name in dict.fromkeys(wanted)]
    comparison = Comparison.load(whole[0][0], own) if whole else _default_comparison(wanted, own)
    return comparison, _told_apart(loaded, list(dict.fromkeys(wanted)))


def _recipe(
    name: str, overrides: Sequence[str], named: Sequence[str], whole: Sequence[tuple[str, Comparison]]
) -> Recipe:
    """The recipe ``name``; where it was a comparison that asked for it, errors begin with the comparison."""
    try:
        return Recipe.load(name, overrides)
    except ValueError as error:
        if name in named:
            raise
        raise ValueError(f"{whole[0][0]}: recipes: {error}") from None


def _default_comparison(names: list[str], own: tuple[str, ...]) -> Comparison:
    tree = {
        "title": f"Comparison of {', '.join(short_name((name,)) for name in names)}",
        "recipes": list(dict.fromkeys(names)),
    }
    comparison = from_tree(tree, "comparison", own)
    assert isinstance(comparison, Comparison)
    return comparison


def short_name(names: Sequence[str]) -> str:
    """A name for what was asked for: the stems of the files, three at most."""
    return "-".join(Path(name).stem for name in names[:3]) + ("-and-more" if len(names) > 3 else "")


def _told_apart(loaded: list[tuple[str, Recipe]], paths: list[str]) -> list[tuple[str, Recipe]]:
    """Recipes whose files have one stem in different folders go by their paths."""
    stems = [name for name, _ in loaded]
    return [
        (name if stems.count(name) == 1 else path, recipe) for (name, recipe), path in zip(loaded, paths, strict=True)
    ]


def with_options(
    comparison: Comparison,
    solvers: Sequence[str],
    schedules: Sequence[str],
    steps_rules: Sequence[str],
    nfe: tuple[int, ...] | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    analytic_starts: tuple[AnyAnalyticStart | None, ...] = (),
    guidances: tuple[AnyGuidance | None, ...] = (),
) -> Comparison:
    """``comparison`` with what the options of the command line say; components as text, ``kind:name=value``."""
    changes: dict[str, Any] = {}
    if solvers:
        chosen: list[Any] = []
        for text in solvers:
            named = text.strip() in shipped.SOLVER_SETS
            chosen += solver_set(text.strip()) if named else [parse_component(AnySolver, text, "--solver")]  # type: ignore[arg-type]
        changes |= {"solvers": tuple(dict.fromkeys(chosen)), "solver_set": None}
    if schedules:
        changes["schedules"] = tuple(
            parse_component(AnySchedule, text, "--schedule") for text in dict.fromkeys(schedules)
        )
    if steps_rules:
        changes["steps_rules"] = tuple(
            parse_component(AnySteps, text, "--steps-rule") for text in dict.fromkeys(steps_rules)
        )
    if analytic_starts:
        changes["analytic_starts"] = tuple(dict.fromkeys(analytic_starts))
    if guidances:
        changes["guidances"] = tuple(dict.fromkeys(guidances))
    if nfe is not None:
        changes["nfe"] = nfe
        if comparison.grid_nfe not in nfe:
            changes["grid_nfe"] = sorted(nfe)[len(nfe) // 2]
    if samples is not None:
        changes["samples"] = samples
    if seeds is not None:
        changes["seeds"] = seeds
    return dataclasses.replace(comparison, **changes) if changes else comparison
