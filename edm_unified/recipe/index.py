"""Write the index that the command line reads in place of importing torch (see ``components.shipped``).

    python -m edm_unified.recipe.index

writes three files into ``edm_unified/components/index/``: the families with their components (``list``, ``show heun``,
the Tab key, the options of a run), the JSON Schema (``schema``), and the cards of the shipped recipes (``show edm``).
Run it after adding or changing a component or a recipe; ``tests/units/test_index.py`` says when they are out of date.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from edm_unified import metrics
from edm_unified.components import shipped
from edm_unified.components.files import write_atomic
from edm_unified.recipe import codec
from edm_unified.recipe.card import card
from edm_unified.recipe.catalogue import paragraphs, recipe_fields
from edm_unified.recipe.comparison import MetricName
from edm_unified.recipe.json_schema import json_schema
from edm_unified.recipe.labels import default
from edm_unified.recipe.loading import load_any


def build() -> dict[str, str]:
    """The text of every file, by name."""
    return {
        "families.json": _lines(_families()),
        "schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        "cards.json": _lines(_cards()),
    }


def write(folder: Path = shipped.INDEX) -> None:
    """Write the files of :func:`build`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in build().items():
        write_atomic(folder / name, text)


def _families() -> dict[str, Any]:
    found: dict[str, Any] = {"places": {}, "components": {}, "metrics": {}}
    for field in recipe_fields():
        found["places"][field.path] = {
            "family": field.family,
            "option": field.option,
            "help": field.help,
            "optional": field.optional,
            "words": list(field.words),
            "joined": field.joined,
        }
        for kind, cls in codec.components(field.hint).items() if field.family else ():
            found["components"][f"{field.family}/{kind}"] = component_entry(cls)
    for name in codec.members(MetricName)[0].__args__:
        found["metrics"][name] = paragraphs(metrics.MEASURES[name])
    return found


def component_entry(cls: Any) -> dict[str, Any]:
    """What the index has of a component."""
    hints = codec.parameters(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "text": paragraphs(cls),
        "formulas": dict(getattr(cls, "formulas", {})),
        "parameters": {name: [codec.describe(hint), *_default(fields[name])] for name, hint in hints.items()},
    }


def _default(field: dataclasses.Field[Any]) -> list[str]:
    return [] if field.default is dataclasses.MISSING else [default(field.default)]


def _cards() -> dict[str, Any]:
    found = {}
    for name in shipped.recipe_names():
        text = (shipped.recipes_folder() / f"{name}.yaml").read_bytes()
        found[name] = {"sha256": hashlib.sha256(text).hexdigest(), **card(load_any(name), name)}
    return found


def _lines(tree: dict[str, Any]) -> str:
    """JSON with a line for each entry of the first two levels, so that two changes seldom meet in one line."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))

    parts = []
    for name, value in tree.items():
        inner = ",\n".join(f"  {dump(key)}: {dump(item)}" for key, item in value.items())
        parts.append(f"{dump(name)}: {{\n{inner}\n}}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    write()
