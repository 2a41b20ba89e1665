"""Plain data back to components, without the checks of a recipe: for what this package wrote itself."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from edm_unified.components import plugins


def decode(hint: Any, tree: Any) -> Any:
    """The component of the union ``hint`` that ``tree`` describes. Raises ``ValueError`` where there is none."""
    if isinstance(tree, dict):
        cls = _member(hint, tree.get("kind"))
        hints = get_type_hints(cls)
        unknown = next((name for name in tree if name not in hints), None)
        if unknown is not None:
            raise ValueError(f"{unknown}: {cls.__name__} has no such field")
        try:
            return cls(**{name: decode(hints[name], value) for name, value in tree.items()})
        except TypeError as error:
            raise ValueError(str(error)) from None
    if isinstance(tree, list):
        inner = [get_args(member)[0] for member in _members(hint) if get_origin(member) is tuple]
        return tuple(decode(inner[0] if inner else Any, item) for item in tree)
    return tree


def is_member(hint: Any, value: Any) -> bool:
    """Whether ``value`` is a component of the union ``hint``."""
    return type(value) in _members(hint)


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """The path of the first value in which two trees differ: ``training.batch``; None where they are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            found = first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    return None if type(a) is type(b) and a == b else path


def _members(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return plugins.widened(tuple(member for arg in get_args(hint) for member in _members(arg)))
    return plugins.widened((hint,))


def _member(hint: Any, kind: Any) -> type:
    found = [member for member in _members(hint) if dataclasses.is_dataclass(member)]
    for member in found:
        if getattr(member, "kind", None) == kind:
            return member  # type: ignore[return-value]
    raise ValueError(f"kind: unknown {kind!r}")
