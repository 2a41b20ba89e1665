"""Constraints on the values of fields, in their annotations: ``rho: Positive = 7.0``, ``n: Count = 18``.

A constraint is checked by the constructor of every component, for recipes and Python alike, and stands in the JSON
Schema, so that an editor knows the range. ``Positive | None`` allows null besides; in ``tuple[Count, ...]`` every item
is checked. A field whose annotation is a choice of words, ``Literal["last", "all"]``, is checked in the same way. What
takes two fields to check stays in ``__post_init__``, which runs after the constraints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from edm_unified.components import plugins
from edm_unified.components.component import (
    LARGEST,
    MOST,
    MOST_SEED,
    SMALLEST,
    choice,
    count,
    finite,
    nonnegative,
    positive,
    within,
)


@dataclasses.dataclass(frozen=True)
class Constraint:
    """``check(name, value, **keywords)`` raises ``ValueError`` that starts with the name; ``schema`` says it in JSON
    Schema. JSON Schema has the range; a check may refuse more, such as numbers below 1e-50 other than 0."""

    check: Callable[..., None]
    schema: tuple[tuple[str, float], ...]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, name: str, value: Any) -> None:
        self.check(name, value, **dict(self.keywords))

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """What pydantic asks of an annotation; it is not imported here."""
        return {**handler(core_schema), **dict(self.schema)}


def whole(least: int = 1, most: int = MOST) -> Constraint:
    """Whole numbers in [least, most]: ``offset: Annotated[int, whole(least=0)]``."""
    return Constraint(count, (("minimum", least), ("maximum", most)), (("least", least), ("most", most)))


def positive_number(least: float = SMALLEST, most: float = LARGEST) -> Constraint:
    """Numbers above zero, from ``least`` to ``most``."""
    return Constraint(positive, (("minimum", least), ("maximum", most)), (("least", least), ("most", most)))


def nonnegative_number(most: float = LARGEST) -> Constraint:
    """Zero, and numbers up to ``most``."""
    return Constraint(nonnegative, (("minimum", 0), ("maximum", most)), (("most", most),))


def finite_number(most: float = LARGEST) -> Constraint:
    """Numbers of either sign, at most ``most`` in size."""
    return Constraint(finite, (("minimum", -most), ("maximum", most)), (("most", most),))


def interval(low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]") -> Constraint:
    """Numbers between ``low`` and ``high``; a square bracket in ``ends`` takes that end in, a round one does not."""
    bounds = (("minimum" if ends[0] == "[" else "exclusiveMinimum", low),
              ("maximum" if ends[1] == "]" else "exclusiveMaximum", high))  # fmt: skip
    return Constraint(within, bounds, (("low", low), ("high", high), ("ends", ends)))


Positive = Annotated[float, positive_number()]
"""A number from 1e-50 to 1e50."""
Nonnegative = Annotated[float, nonnegative_number()]
"""Zero, or a number from 1e-50 to 1e50."""
Finite = Annotated[float, finite_number()]
"""A number from −1e50 to 1e50."""
Share = Annotated[float, interval(0, 1)]
"""A share or a probability, from 0 to 1."""
Count = Annotated[int, whole()]
"""A whole number from 1 to a million."""
Seed = Annotated[int, whole(least=0, most=MOST_SEED)]
"""A seed of torch's generators, from 0 to 2⁶³ − 1."""


def check(component: Any) -> None:
    """Raise ``ValueError`` for the first field whose value is not what its annotation allows."""
    cls: type = type(component)
    found = constraints_of(cls)
    for name, constraint, of_items in found:
        value = getattr(component, name)
        if not isinstance(value, (list, tuple)):
            if value is not None:
                constraint(name, value)
        elif of_items:
            for item in value:
                constraint(name, item)
        elif not any(other == name and items for other, _, items in found):  # a list where there may be none
            constraint(name, value)


@cache
def constraints_of(cls: type) -> tuple[tuple[str, Constraint, bool], ...]:
    """The constraints of a component, each with its field, and whether it is on the items of a list there."""
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    return tuple((name, *found) for name in names for found in _found(hints[name]))


def _found(hint: Any, of_items: bool = False) -> list[tuple[Constraint, bool]]:
    found = [(mark, of_items) for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Constraint)]
    words = _words(hint)
    if words is not None:
        return [*found, (Constraint(choice, (), (("choices", words),)), of_items)]
    if get_origin(hint) is tuple:
        return found + [one for arg in get_args(hint) for one in _found(arg, True)]
    inner = [arg for arg in get_args(hint) if get_origin(arg) is not Literal]  # a word among other things is no choice
    return found + [one for arg in inner for one in _found(arg, of_items)]


def _words(hint: Any) -> tuple[Any, ...] | None:
    """The words of an annotation that takes nothing else but null: they are a choice."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) is Literal:
        return plugins.widened_words(get_args(bare))
    others = [arg for arg in get_args(bare) if arg is not type(None)]
    return _words(others[0]) if len(others) == 1 and type(None) in get_args(bare) else None
