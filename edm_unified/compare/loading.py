"""Load the comparison and the recipes that the arguments of ``edm-unified compare`` name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from edm_unified.components import paths, shipped
from edm_unified.recipe import Comparison, Recipe, RecipeError, by_path, from_tree, load_any, loading, reader
from edm_unified.recipe.codec import Fault


def load(
    names: Sequence[str], overrides: Sequence[str] = (), amend: loading.Amend | None = None
) -> tuple[Comparison, list[tuple[str, Recipe]]]:
    """The comparison of the files ``names``, and its recipes; overrides apply to either, ``amend`` to every recipe."""
    fields = set(Comparison.__dataclass_fields__)
    own = tuple(
        text for text in overrides if text.partition("=")[0].partition(".")[0].strip() in fields - {"data", "denoiser"}
    )
    theirs = tuple(text for text in overrides if text not in own)
    whole = [(name, found) for name in names if isinstance(found := load_any(name, (), amend), Comparison)]
    if len(whole) > 1:
        raise ValueError(
            f"{whole[1][0]}: is a second comparison beside {whole[0][0]}; name one comparison and any number of recipes"
        )
    wanted: list[str] = []
    for name in names:
        if whole and name == whole[0][0]:
            wanted += [shipped.relative_to(name, recipe) for recipe in whole[0][1].recipes]
        else:
            wanted.append(name)
    loaded = [(short_name((name,)), _recipe(name, theirs, names, whole, amend)) for name in dict.fromkeys(wanted)]
    comparison = Comparison.load(whole[0][0], own) if whole else _default_comparison(wanted, own)
    return comparison, _distinct_names(loaded, list(dict.fromkeys(wanted)))


def _recipe(
    name: str,
    overrides: Sequence[str],
    named: Sequence[str],
    whole: Sequence[tuple[str, Comparison]],
    amend: loading.Amend | None,
) -> Recipe:
    """The recipe ``name``; where it was a comparison that asked for it, errors begin with the comparison."""
    try:
        return cast("Recipe", loading.load(Recipe, name, overrides, amend))
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
    """A short name for several files: their stems, three at most."""
    return "-".join(paths.short_name(name) for name in names[:3]) + ("-and-more" if len(names) > 3 else "")


def _distinct_names(loaded: list[tuple[str, Recipe]], paths: list[str]) -> list[tuple[str, Recipe]]:
    """Name by its path every recipe whose file shares its stem with another one."""
    stems = [name for name, _ in loaded]
    return [
        (name if stems.count(name) == 1 else path, recipe) for (name, recipe), path in zip(loaded, paths, strict=True)
    ]


def with_options(
    comparison: Comparison,
    crossed: Mapping[str, Sequence[Any]],
    nfe: tuple[int, ...] | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
) -> Comparison:
    """``comparison`` with the values of the command line's options; ``crossed`` are values to cross, by their paths."""
    changes: dict[str, Any] = {}
    given = {path: tuple(dict.fromkeys(values)) for path, values in crossed.items() if values}
    if given:
        changes["cross"] = {**comparison.cross, **given}
    if "sampler.solver" in given:
        changes["solver_set"] = None
    if nfe is not None:
        changes["nfe"] = nfe
        if comparison.grid_nfe not in nfe:
            changes["grid_nfe"] = sorted(nfe)[len(nfe) // 2]
    if samples is not None:
        changes["samples"] = samples
    if seeds is not None:
        changes["seeds"] = seeds
    return dataclasses.replace(comparison, **changes) if changes else comparison


def parse_sweep(text: str) -> tuple[str, tuple[Any, ...]]:
    """``sampler.renoising.S_churn=0,10,40``: the path, and the values that it is to have.

    Raises ``ValueError`` for no path, no values, and values that do not fit.
    """
    path, equals, values = text.partition("=")
    path, label = path.strip(), f"--sweep {text}"
    if not equals or not path or not values.strip():
        raise RecipeError(f"{label}: must be path=value,value,..., such as sampler.renoising.S_churn=0,10,40")
    items = reader.parse(f"[{values}]", label)
    faults: list[Fault] = []
    found = by_path.Crossed(Recipe).decode({path: items}, "", faults)
    if faults:
        where = faults[0].path.rpartition(".")[0]
        raise RecipeError(f"{label}: {where}: {faults[0].message}" if where else f"{label}: {faults[0].message}")
    return path, found[path]
