"""What the value of a field may be, in its annotation: ``rho: Positive = 7.0``, ``n: Count = 18``.

A constraint is checked by the constructor of every component, for recipes and Python alike, and stands in the JSON
Schema, so that an editor knows the range. ``Positive | None`` allows null besides. What takes two fields to check stays
in ``__post_init__``, which runs after the constraints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from edm_unified.components.component import MOST, count, nonnegative, positive


@dataclasses.dataclass(frozen=True)
class Constraint:
    """``check(name, value)`` raises ``ValueError`` that starts with the name; ``schema`` says it in JSON Schema."""

    check: Callable[[str, Any], None]
    schema: tuple[tuple[str, float], ...]

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """What pydantic asks of an annotation; it is not imported here."""
        return {**handler(core_schema), **dict(self.schema)}


@dataclasses.dataclass(frozen=True)
class _Whole:
    least: int
    most: int

    def __call__(self, name: str, value: Any) -> None:
        count(name, value, self.least, self.most)


def whole(least: int = 1, most: int = MOST) -> Constraint:
    """Whole numbers in [least, most]: ``offset: Annotated[int, whole(least=0)]``."""
    return Constraint(_Whole(least, most), (("minimum", least), ("maximum", most)))


Positive = Annotated[float, Constraint(positive, (("exclusiveMinimum", 0),))]
"""A finite number above zero."""
Nonnegative = Annotated[float, Constraint(nonnegative, (("minimum", 0),))]
"""A finite number, zero or above."""
Count = Annotated[int, whole()]
"""A whole number from 1 to a million."""


def check(component: Any) -> None:
    """Raise ``ValueError`` for the first field whose value is not what its annotation allows."""
    cls: type = type(component)
    for name, constraint in _constraints(cls):
        value = getattr(component, name)
        if value is not None:
            constraint.check(name, value)


@cache
def _constraints(cls: type) -> tuple[tuple[str, Constraint], ...]:
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    return tuple((name, constraint) for name in names for constraint in _found(hints[name]))


def _found(hint: Any) -> list[Constraint]:
    """The constraints on a value itself or on one of its alternatives, but not those on the items of a list."""
    own = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Constraint)]
    inner = () if getattr(hint, "__origin__", None) is tuple else get_args(hint)
    return own + [constraint for arg in inner for constraint in _found(arg)]
