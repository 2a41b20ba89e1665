"""What ships with the package, found without importing torch: the recipes by name, and an index of all components.

The command line answers ``--help``, the Tab key, ``list``, ``show`` and ``schema`` from here. The index is made from
the annotations of the recipe's tree by :mod:`edm_unified.recipe.index`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from edm_unified.components import paths, plugins

_PACKAGE = Path(__file__).resolve().parent.parent
SUFFIXES = (".yaml", ".yml")
MOST_NAMED = 16
"""How many alternatives an error names before it names the command that lists them."""


def recipes_folder() -> Path:
    """The folder of the shipped recipes: inside the wheel, or beside the package in a checkout."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def recipe_names() -> list[str]:
    """The shipped recipes, sorted by name: ``edm``, …, then those in folders, ``toy/mixture_2d``, …"""
    folder = recipes_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def titles() -> dict[str, str]:
    """The shipped recipes by name, each with the title that its file gives on a line of its own."""
    found = {name: (recipes_folder() / f"{name}.yaml").read_text("utf-8") for name in recipe_names()}
    lines = {name: re.search(r'^title: *"?(.*?)"? *$', text, re.MULTILINE) for name, text in found.items()}
    return {name: line[1] if line else "" for name, line in lines.items()}


def find(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe: a path as it stands, or the name of a shipped recipe: ``edm``, ``toy/mixture_2d``.

    A file that is there comes before a shipped recipe of that name with a folder in it. Raises ``ValueError`` with the
    nearest spelling for a name that is not shipped, and with the shipped name where a path to a shipped recipe does not
    exist.
    """
    text = os.fspath(name)
    path, names = paths.regular(paths.expanded(text), text), recipe_names()
    folders = {name.rpartition("/")[0] for name in names} - {""}
    bare = len(path.parts) == 1 or (path.parent.as_posix() in folders and not path.exists())
    if path.is_file() or path.suffix.lower() in SUFFIXES or not bare:
        shipped = {name.rpartition("/")[2]: name for name in reversed(names)}
        if not path.exists() and path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{text}: no such file or run; `edm-unified train RECIPE --out {text}` makes a run")
        if not path.exists() and path.stem in shipped:
            raise ValueError(f"{text}: no such file; the shipped recipe is called {shipped[path.stem]!r}")
        return path
    if text not in names:
        raise ValueError(f"{text}: no such recipe{suggest(text, names, 'edm-unified list recipes')}")
    return recipes_folder() / f"{text}.yaml"


def relative_to(comparison: str, recipe: str) -> str:
    """The recipe that a comparison names: a path relative to the comparison's own file, or a shipped name.

    What is no file beside the comparison, and has not the name of one, is a run where the command is run.
    """
    path = Path(recipe)
    if path.is_absolute() or recipe in recipe_names() or (len(path.parts) == 1 and path.suffix not in SUFFIXES):
        return recipe
    found = find(comparison).parent / path
    return str(found) if found.exists() or path.suffix in SUFFIXES else recipe


def is_absent_run(name: str) -> bool:
    """Whether ``name`` is that of a run (``runs/edm``) which is not there."""
    path = paths.expanded(name)
    return len(path.parts) > 1 and not path.suffix and not path.exists() and name not in recipe_names()


def suggest(word: object, options: Iterable[object], listing: str = "") -> str:
    """``; did you mean 'heun'?`` for a word near one of the options; else all of them, or the command that does so."""
    names = [str(option) for option in options]
    folded = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(str(word).lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    if listing:
        return f"; see `{listing}`"
    if len(names) > MOST_NAMED:
        return f"; `edm-unified list` names all {len(names)}"
    return f"; choose from {', '.join(names)}" if names else ""


SOLVER_SETS = {
    "all": "every solver that takes a fixed number of evaluations",
    "deterministic": "all that draw no noise",
    "fast": "the ten best at small budgets",
}
"""What ``compare --solver`` and a comparison's ``solver_set`` take besides single solvers."""

INDEX = Path(__file__).resolve().parent / "index"
"""The files that ``python -m edm_unified.recipe.index`` makes from the annotations."""


def index() -> dict[str, Any]:
    """The families with their places in a recipe, the components by ``family/kind``, and the metrics; of the plugins
    that are registered too."""
    shipped = _index()
    if not plugins.ACTIVE:
        return shipped
    entries = {name: entry for plugin in plugins.ACTIVE for name, entry in plugin.entries.items()}
    texts = {name: _paragraphs(function) for name, function in plugins.metrics().items()}
    return shipped | {"components": shipped["components"] | entries, "metrics": shipped["metrics"] | texts}


def _paragraphs(function: Any) -> list[str]:
    return [" ".join(part.split()) for part in (function.__doc__ or "").split("\n\n") if part.strip()] or [""]


@cache
def _index() -> dict[str, Any]:
    return _read("families.json")


def families() -> dict[str, dict[str, Any]]:
    """Every family by its name: ``path`` in a recipe, ``option`` (or null), ``help``, ``optional``."""
    return {place["family"]: {"path": path, **place} for path, place in index()["places"].items() if place["family"]}


def members(family: str) -> dict[str, dict[str, Any]]:
    """The components of a family by kind: ``class``, ``text``, ``formulas``, ``parameters``."""
    parts = ((name.partition("/"), item) for name, item in index()["components"].items())
    return {kind: item for (here, _, kind), item in parts if here == family}


def kinds(family: str) -> list[str]:
    """The kinds of a family, sorted."""
    return sorted(members(family))


def schema() -> str:
    """The JSON Schema of recipes and comparisons."""
    return (INDEX / "schema.json").read_text("utf-8")


def card(name: str) -> dict[str, Any] | None:
    """The card of a shipped recipe; None for any other name, and where the file was changed since it was made."""
    if name not in recipe_names() or Path(name, "run.json").is_file():
        return None
    found: dict[str, Any] | None = _read("cards.json").get(name)
    text = (recipes_folder() / f"{name}.yaml").read_bytes()
    return found if found is not None and found["sha256"] == hashlib.sha256(text).hexdigest() else None


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INDEX / name).read_text("utf-8"))
    return found
