"""What a recipe can name: families of components and the fields that hold them, from the annotations of the tree.

:func:`recipe_fields` visits the fields of :class:`~edm_unified.recipe.Recipe` and of the parts that it is made of. A
field whose annotation is a union of components is a family; there is no other list of them.
"""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from edm_unified.components.family import Family
from edm_unified.recipe import codec
from edm_unified.recipe.tree import Recipe

TRUNK = "sampler"
"""The part of a recipe all of whose fields may be changed after training: each has an option of the command line."""


class RecipeField(NamedTuple):
    """A field of the tree: ``path`` in a recipe, its annotation, and what is said of it.

    ``family`` is null for a field that holds no component, such as ``sampler.last``; ``option`` is null for what a
    trained network depends on. ``optional``: it may be null. ``joined`` is that of the
    :class:`~edm_unified.components.family.Family`.
    """

    path: str
    hint: Any
    family: str | None
    option: str | None
    help: str
    optional: bool
    joined: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the field takes, where it takes nothing else."""
        found = codec.members(self.hint)
        return tuple(str(word) for one in found for word in get_args(one)) if get_origin(found[0]) is Literal else ()


def recipe_fields(root: type = Recipe) -> tuple[RecipeField, ...]:
    """Every family in the tree of ``root``, and every other field that has an option, in the order of the fields."""
    return tuple(_fields_under(root, ""))


def _fields_under(cls: type, above: str) -> list[RecipeField]:
    found = []
    for name, hint in codec.parameters(cls).items():
        by_kind, path = codec.components(hint), codec.join(above, name)
        if by_kind and not codec.has_kind(next(iter(by_kind.values()))):  # a part of the trunk
            found += _fields_under(next(iter(by_kind.values())), path)
            continue
        mark = _mark(hint)
        option = mark.option or f"--{name.replace('_', '-')}"
        swapped = above == TRUNK or (above == "" and mark.help is not None)
        if by_kind or swapped:
            family = (mark.plural or name) if by_kind else None
            words = mark.help or f"Another {name.replace('_', ' ')}."
            optional = type(None) in codec.members(hint)
            found.append(RecipeField(path, hint, family, option if swapped else None, words, optional, mark.joined))
    return found


def _mark(hint: Any) -> Family:
    marks = [item for item in get_args(hint)[1:] if isinstance(item, Family)] if get_origin(hint) is Annotated else []
    return marks[0] if marks else Family()


def families(root: type = Recipe) -> dict[str, Any]:
    """The union of every family of ``root``, by the name that the command line has for it."""
    return {field.family: field.hint for field in recipe_fields(root) if field.family is not None}


FAMILIES: dict[str, Any] = families()
"""Those of a recipe."""


def field_at(path: str) -> RecipeField:
    """The field at that path of a recipe."""
    return next(field for field in recipe_fields() if field.path == path)


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
