"""The JSON Schema of recipes and comparisons, by which an editor completes and checks a recipe while it is written.

It is made by pydantic from the annotations of :class:`~edm_unified.recipe.Recipe`. The ranges of numbers come from the
constraints in these annotations (:mod:`edm_unified.components.constraints`), the descriptions from the docstrings.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from pydantic import TypeAdapter

from edm_unified.components import plugins
from edm_unified.recipe import codec
from edm_unified.recipe.catalogue import recipe_fields, summary
from edm_unified.recipe.codec import kind_of
from edm_unified.recipe.comparison import Comparison
from edm_unified.recipe.tree import Recipe


def json_schema(root: Any = Recipe | Comparison) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe or a comparison; a mapping of a union needs its ``kind``."""
    schema = TypeAdapter(root).json_schema()
    texts = {name: summary(cls) for name, cls in _classes(root).items()}
    for name, part in schema["$defs"].items():
        # pydantic names a class that has a namesake in another family edm_unified__schedules__flow__FlowMatching
        part["description"] = texts.get(name.replace("__", "."), texts.get(name, ""))
        if "kind" in part.get("properties", {}):
            part["required"] = ["kind", *part.get("required", [])]
            part["properties"]["kind"].pop("default", None)
    _widen(schema)
    if "Comparison" in schema["$defs"]:
        by_path = {field.path: {"type": "array", "items": _at(schema, field.path)} for field in recipe_fields()}
        schema["$defs"]["Comparison"]["properties"]["cross"] |= {"properties": by_path}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edm_unified recipe"} | schema


def _widen(schema: dict[str, Any]) -> None:
    """Add the components of plugins wherever a union of their family stands, and their metrics."""
    for plugin in plugins.ACTIVE:
        for own, cls in plugin.members:
            name = f"plugin/{kind_of(cls)}/{cls.__name__}".replace("/", "__")
            part = TypeAdapter(cls).json_schema(ref_template="#/$defs/{model}")
            schema["$defs"] |= part.pop("$defs", {})
            part["properties"]["kind"].pop("default", None)
            part["required"] = ["kind", *part.get("required", [])]
            schema["$defs"][name] = part | {"description": summary(cls)}
            kinds = {kind_of(one) for one in own}
            for choice in _choices(schema, "anyOf"):
                here = [one["$ref"].rpartition("/")[2] for one in choice if isinstance(one, dict) and "$ref" in one]
                there = {schema["$defs"][ref].get("properties", {}).get("kind", {}).get("const") for ref in here}
                if kinds <= there:
                    choice.append({"$ref": f"#/$defs/{name}"})
    for words in _choices(schema, "enum"):
        words += [word for word in plugins.widened_words(tuple(words)) if word not in words]


def _choices(tree: Any, key: str) -> list[list[Any]]:
    """Every list under ``key`` in a schema."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            found += [here[key]] if isinstance(here.get(key), list) else []
            waiting += here.values()
        elif isinstance(here, list):
            waiting += here
    return found


def _at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The part of the schema that a recipe has at ``path``."""
    part: dict[str, Any] = {"$ref": "#/$defs/Recipe"}
    for name in path.split("."):
        one = part if "$ref" in part else next(other for other in part["anyOf"] if "$ref" in other)
        part = schema["$defs"][one["$ref"].rpartition("/")[2]]["properties"][name]
    return {key: item for key, item in part.items() if key != "default"}


def _classes(hint: Any) -> dict[str, type]:
    """All dataclasses that the tree under ``hint`` can hold, by name and by module and name."""
    found: dict[str, type] = {}
    waiting = [hint]
    while waiting:
        here = waiting.pop()
        waiting += [arg for arg in get_args(here) if arg is not Ellipsis]
        name = f"{getattr(here, '__module__', '')}.{getattr(here, '__qualname__', '')}"
        if dataclasses.is_dataclass(here) and isinstance(here, type) and name not in found:
            found[here.__name__] = found[name] = here
            waiting += codec.parameters(here).values()
    return found
