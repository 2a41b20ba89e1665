"""``edm-unified show --weights``: write the figure of the weights of objectives over the log-SNR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edm_unified.cli import options
from edm_unified.components import paths, shipped
from edm_unified.components.files import write_atomic

if TYPE_CHECKING:
    from edm_unified.recipe import Comparison, Recipe


def draw(file: str, found: Recipe | Comparison, out: Path) -> None:
    """Write the figure of the weights of the recipe ``file``, or of all recipes of a comparison, to ``out``."""
    from edm_unified.recipe import Recipe
    from edm_unified.report.weighting import figure

    options.check_file(out, "--weights")
    if isinstance(found, Recipe):
        recipes = {paths.short_name(file): found}
    else:
        recipes = {name: Recipe.load(shipped.relative_to(file, name)) for name in found.recipes}
    if not any(recipe.objective for recipe in recipes.values()):
        raise ValueError("--weights: none of these recipes has an objective; add objective: {noise: …, weight: …}")
    write_atomic(out, figure(recipes))
