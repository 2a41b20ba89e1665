"""Recipes: a method, or a comparison of methods, as one complete YAML file.

The file is the tree of the very dataclasses of this package: a mapping with a ``kind`` is a component, its other keys
are the fields of that component. A recipe is complete (nothing is inherited or merged), cites its source, and imports
no code. ``edm`` is the shipped recipe, ``path/to/edm.yaml`` one of your own.

    recipe = Recipe.load("edm", ["sampler.steps.n=10"])
    D, dataset = recipe.build()

Whatever is wrong in a file is one line with the path in the file and the nearest spelling:

    recipes/edm.yaml: sampler.solver.kind: unknown 'hein'; did you mean 'heun'?
"""

from __future__ import annotations

from typing import Any

from edm_unified.recipe.comparison import Comparison
from edm_unified.recipe.loading import (
    changed,
    from_tree,
    load_any,
    loads,
    replace,
    same_range,
)
from edm_unified.recipe.reader import RecipeError
from edm_unified.recipe.tree import Recipe, Sampler
from edm_unified.recipe.words import parse_component, parse_data


def schema() -> dict[str, Any]:
    """The JSON Schema of recipes and comparisons, for editors."""
    from edm_unified.recipe.json_schema import json_schema

    return json_schema()


__all__ = [
    "Comparison",
    "Recipe",
    "RecipeError",
    "Sampler",
    "changed",
    "from_tree",
    "load_any",
    "loads",
    "parse_component",
    "parse_data",
    "replace",
    "same_range",
    "schema",
]
