"""Comparisons written before there was ``cross``: five fields, each of which crossed one part of a recipe."""

from __future__ import annotations

import warnings
from typing import Any

from edm_unified.recipe.reader import RecipeError

OLD = {
    "schedules": "schedule",
    "steps_rules": "sampler.steps",
    "solvers": "sampler.solver",
    "analytic_starts": "sampler.analytic_start",
    "guidances": "sampler.guidance",
}
"""The old fields, and the paths that they crossed."""


class OldFormWarning(FutureWarning):
    """A file is read as it is, and there is a newer way to write it."""


def modernised(tree: dict[str, Any], label: str) -> dict[str, Any]:
    """``tree`` with ``cross`` in place of the old fields, and an :class:`OldFormWarning` that tells the new form.

    Raises ``RecipeError`` where the file crosses one path in both ways.
    """
    old = [name for name in OLD if name in tree]
    if not old:
        return tree
    crossed = tree.get("cross")
    crossed = dict(crossed) if isinstance(crossed, dict) else {}
    for name in old:
        if OLD[name] in crossed:
            raise RecipeError(f"{label}: {name}: is the old name of cross.{OLD[name]}, which is there too; keep that")
        if tree[name] != []:
            crossed[OLD[name]] = tree[name]
    new = ", ".join(f"{OLD[name]}: […]" for name in old)
    warnings.warn(f"{label}: write cross: {{{new}}} in place of {', '.join(old)}", OldFormWarning, stacklevel=2)
    return {name: value for name, value in tree.items() if name not in OLD} | {"cross": crossed}
