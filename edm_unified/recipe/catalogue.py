"""What a recipe can name: the families of components with their places, found in the annotations of the tree.

:func:`places` walks the fields of :class:`~edm_unified.recipe.Recipe` and of what it is made of. A field whose
annotation is a union of components is a family; there is no other list of them. :func:`json_schema` is the JSON Schema
by which an editor completes a recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import TypeAdapter

from edm_unified.components.family import Family
from edm_unified.recipe import codec
from edm_unified.recipe.tree import Comparison, Recipe

TRUNK = "sampler"
"""The part of a recipe all of whose fields may be changed after training: each has an option of the command line."""


class Place(NamedTuple):
    """A field of the tree: ``path`` in a recipe, its annotation, and what is said of it.

    ``family`` is null for a field that holds no component, such as ``sampler.last``; ``option`` is null for what a
    trained network depends on. ``optional``: it may be null.
    """

    path: str
    hint: Any
    family: str | None
    option: str | None
    help: str
    optional: bool

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the field takes, where it takes nothing else."""
        found = codec.members(self.hint)
        return tuple(str(word) for one in found for word in get_args(one)) if get_origin(found[0]) is Literal else ()


def places(root: type = Recipe) -> tuple[Place, ...]:
    """Every family in the tree of ``root``, and every other field that has an option, in the order of the fields."""
    return tuple(_places(root, ""))


def _places(cls: type, above: str) -> list[Place]:
    found = []
    for name, hint in codec.parameters(cls).items():
        by_kind, path = codec.components(hint), codec.join(above, name)
        if by_kind and not codec.has_kind(next(iter(by_kind.values()))):  # a part of the trunk
            found += _places(next(iter(by_kind.values())), path)
            continue
        mark = _mark(hint)
        option = mark.option or f"--{name.replace('_', '-')}"
        swapped = above == TRUNK or (above == "" and mark.help is not None)
        if by_kind or swapped:
            family = (mark.plural or name) if by_kind else None
            words = mark.help or f"Another {name.replace('_', ' ')}."
            optional = type(None) in codec.members(hint)
            found.append(Place(path, hint, family, option if swapped else None, words, optional))
    return found


def _mark(hint: Any) -> Family:
    marks = [item for item in get_args(hint)[1:] if isinstance(item, Family)] if get_origin(hint) is Annotated else []
    return marks[0] if marks else Family()


def families(root: type = Recipe) -> dict[str, Any]:
    """The union of every family of ``root``, by the name that the command line has for it."""
    return {place.family: place.hint for place in places(root) if place.family is not None}


FAMILIES: dict[str, Any] = families()
"""Those of a recipe."""


def place_of(path: str) -> Place:
    """The place of that path in a recipe."""
    return next(place for place in places() if place.path == path)


def summary(cls: Any) -> str:
    """The first paragraph of a docstring as one line of plain text."""
    return next(iter(paragraphs(cls)), "").rstrip(":")


def paragraphs(cls: Any) -> list[str]:
    """The paragraphs of a docstring, each one line of plain text; formulas set apart are left as they stand."""
    found = []
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        if not paragraph.strip():
            continue
        text = paragraph if paragraph.startswith("    ") else " ".join(paragraph.split())
        found.append(re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text).replace("``", ""))
    return found


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
    if "Comparison" in schema["$defs"]:
        by_path = {place.path: {"type": "array", "items": _at(schema, place.path)} for place in places()}
        schema["$defs"]["Comparison"]["properties"]["cross"] |= {"properties": by_path}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edm_unified recipe"} | schema


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
