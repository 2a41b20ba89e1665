"""Load and check a recipe from a file, a name, or the values of the command line."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from edm_unified import interop
from edm_unified.components import paths, plugins, shipped
from edm_unified.data import AnyData
from edm_unified.recipe import by_path, codec, old_forms, reader, sources, words
from edm_unified.recipe import overrides as overriding
from edm_unified.recipe.codec import Fault
from edm_unified.recipe.comparison import Comparison
from edm_unified.recipe.reader import RecipeError
from edm_unified.recipe.tree import Names, Recipe, Sampler
from edm_unified.sampling import analytic_starts
from edm_unified.sampling.dynamics import Axis
from edm_unified.sampling.levels import Steps, TableSubset, UniformTime
from edm_unified.schedules import BetaTable, Schedule
from edm_unified.training.runs import checkpoint

Amend = Callable[[dict[str, Any]], dict[str, Any]]
"""A change to a recipe as plain data, before the overrides: a network of one's own in the place of its denoiser."""


def load_any(name: Names, overrides: Sequence[str] = (), amend: Amend | None = None) -> Recipe | Comparison:
    """A recipe or a comparison: the file that has the key ``recipes`` is a comparison."""
    return load(None, name, overrides, amend)


def load(
    cls: type[Recipe] | type[Comparison] | None, name: Names, overrides: Sequence[str], amend: Amend | None = None
) -> Recipe | Comparison:
    """The recipe of ``name``: of a file, a shipped one, a run, or a checkpoint of another library. It must be a ``cls``
    where one is given. ``amend`` changes a recipe before the overrides do.

    This and :meth:`Recipe.build` are the one way from whatever a command is given to a denoiser.
    """

    def made(tree: dict[str, Any]) -> Recipe | Comparison:
        changed = amend(tree) if amend is not None and "recipes" not in tree else tree
        return from_tree(changed, label, overrides, cls)

    label = os.fspath(name)
    try:
        place = paths.expanded(label)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    is_run, is_source = checkpoint.is_run(label), interop.is_source(label)
    if (is_run or is_source) and label in shipped.recipe_names():
        what = "run" if is_run else "checkpoint"
        raise RecipeError(
            f"{label}: is a {what} in this directory and a shipped recipe too; write ./{label} for the {what}, or give "
            "it another name"
        )
    if is_run:
        tree = reader.read(place / "recipe.yaml", label)
        return made(tree | {"denoiser": {"kind": "checkpoint", "path": label}})
    if is_source:
        try:
            return made(sources.tree(label))
        except ValueError as error:
            raise RecipeError(str(error)) from None
    if (place / "run.json").is_file():
        raise RecipeError(
            f"{Path(label) / 'recipe.yaml'}: is missing; copy that of one of the run's checkpoints back to its place"
        )
    try:
        path = shipped.find(name)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return made(reader.read(path, label))


def loads(text: str, label: str = "recipe", overrides: Sequence[str] = ()) -> Recipe | Comparison:
    """As :func:`load_any`, from YAML text."""
    return from_tree(reader.parse_mapping(text, label), label, overrides)


def from_tree(
    tree: dict[str, Any],
    label: str = "recipe",
    overrides: Sequence[str] = (),
    cls: type[Recipe] | type[Comparison] | None = None,
) -> Recipe | Comparison:
    """A recipe or a comparison from plain data, such as ``codec.encode(recipe)`` gives."""
    found = Comparison if "recipes" in tree else Recipe
    if cls is not None and cls is not found:
        if found is Comparison:
            raise RecipeError(f"{label}: is a comparison, not a recipe; run it with `edm-unified compare {label}`")
        raise RecipeError(f"{label}: is a recipe, not a comparison, which is a file with the key 'recipes'")
    tree = old_forms.modernised(tree, label) if found is Comparison else tree
    try:
        whole = _with_data(overriding.apply(found, _with_data(tree, label), overrides), label)
        result = codec.checked(found, whole, label, lambda fault: overriding.blame(fault, overrides))
    except RecipeError:
        if wanted := plugins.wanted(tree.get("plugins")):
            raise RecipeError(f"{label}: {wanted}") from None
        raise
    for name in plugins.changed(tree.get("plugins")):
        warnings.warn(f"{label}: {name} is not as it was when this was written", plugins.ChangedWarning, stacklevel=2)
    fault = walk_fault(result) if isinstance(result, Recipe) else None
    if fault is not None:
        raise RecipeError(f"{label}: {fault.path}: {fault.message}{overriding.blame(fault, overrides)}")
    return cast("Recipe | Comparison", result)


def _with_data(tree: dict[str, Any], label: str) -> dict[str, Any]:
    """``tree`` with ``data: pictures.zip``, a path or data in words, as the mapping that it stands for."""
    named = tree.get("data")
    if not isinstance(named, (str, dict)):
        return tree
    try:
        return tree | {"data": words.spelled(AnyData, named, "data")}
    except RecipeError as error:
        raise RecipeError(f"{label}: {error}") from None


def walk_fault(recipe: Recipe) -> Fault | None:
    """What is wrong with the levels, the schedule and the corrector together, which no constructor can check."""
    sampler = recipe.sampler
    try:
        levels = recipe.levels
        if sampler.analytic_start is not None:
            analytic_starts.check(sampler.analytic_start, levels, getattr(sampler.solver, "adaptive", False))
        if sampler.corrector is None and any(a == b for a, b in pairwise(levels)):
            return Fault("sampler.corrector", "missing; the walk repeats levels: add corrector: {kind: langevin}")
        if sampler.corrector is not None and not any(a == b for a, b in pairwise(levels)):
            return Fault("sampler.corrector", "no level is repeated for it to act on: add renoising: {kind: corrected}")
        Axis(recipe.schedule).walk(levels)
    except ArithmeticError as error:
        return Fault("sampler.steps", codec.words_of(error))
    except ValueError as error:
        parts = (("sampler.steps", sampler.steps), ("sampler.renoising", sampler.renoising), ("sampler", sampler))
        for part, value in parts:
            fault = codec.located(type(value), part, str(error)) if value is not None else None
            if fault is not None and fault.path != part:
                return fault
        return Fault("sampler.steps", str(error).removeprefix("steps: ").removeprefix("sigma: "))
    return None


def replace(recipe: Recipe, **parts: Any) -> Recipe:
    """``recipe`` with any part of it or of its sampler replaced (schedule, steps, solver, …); see :func:`changed`."""
    inner = [field.name for field in dataclasses.fields(Sampler)]  # type: ignore[arg-type]  # a dataclass by @component
    return changed(recipe, {f"sampler.{name}" if name in inner else name: value for name, value in parts.items()})


def changed(recipe: Recipe, parts: Mapping[str, Any]) -> Recipe:
    """``recipe`` with other values at some paths (``sampler.solver``, ``sampler.steps.rho``), and checked again.

    A schedule that replaces another keeps the range of noise levels (see :func:`same_range`), unless the levels are
    given too. Raises ``ValueError`` where the parts do not fit.
    """
    result = recipe
    if "schedule" in parts and "sampler.steps" not in parts:
        result = by_path.put(result, "sampler.steps", same_range(recipe.sampler.steps, recipe.schedule))
    for path, value in parts.items():
        result = by_path.put(result, path, value)
    fault = walk_fault(result)
    if fault is not None:
        raise ValueError(f"{fault.path}: {fault.message}")
    return result


def same_range(steps: Steps, schedule: Schedule) -> Steps:
    """``steps`` with the same range of σ written out, so that it no longer depends on ``schedule``."""
    if isinstance(steps, TableSubset) and steps.table is None and isinstance(schedule, BetaTable):
        return dataclasses.replace(steps, table=schedule)
    if isinstance(steps, UniformTime):
        bottom = float(schedule.sigma(steps.t_min)) if steps.t_min is not None else steps.sigma_min
        return UniformTime(n=steps.n, sigma_max=float(steps.levels(schedule)[0]), sigma_min=bottom)
    return steps
