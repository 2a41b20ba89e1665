"""Plain data to components and back, by the type annotations alone.

A union of components is the registry: ``kind`` in a mapping picks the member, its fields are decoded by their own
annotations, and its constructor checks the values. What is not a component (numbers, words, lists of them) is left to
pydantic, in strict mode: ``true`` is not 1, ``"7"`` is not 7 and 18.0 is not a count.

All faults are collected, each a path and a message: ``sampler.solver.kind``, ``unknown 'hein'; did you mean 'heun'?``
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from pydantic import TypeAdapter, ValidationError

from edm_unified.components import plugins
from edm_unified.components.component import encode as encode
from edm_unified.components.component import shown
from edm_unified.components.shipped import suggest
from edm_unified.recipe import reader
from edm_unified.recipe.reader import RecipeError


class Fault(NamedTuple):
    """What is wrong, and where: ``sampler.steps.rho``, ``must be positive and finite, got -1``."""

    path: str
    message: str


@runtime_checkable
class CustomDecoding(Protocol):
    """In ``Annotated[…, decoder]``: the annotation decides for itself what it makes of plain data."""

    def decode(self, value: Any, path: str, faults: list[Fault]) -> Any: ...


def bare(hint: Any) -> Any:
    """The annotation without what ``Annotated`` adds to it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation: those of a union, or the annotation itself, and what plugins add to them."""
    hint = bare(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return plugins.widened(tuple(member for arg in get_args(hint) for member in members(arg)))
    return plugins.widened((hint,))


def components(hint: Any) -> dict[str, type]:
    """The components among the alternatives of ``hint``, by kind."""
    found: list[Any] = [member for member in members(hint) if dataclasses.is_dataclass(member)]
    return {kind_of(member): member for member in found}


def kind_of(cls: type) -> str:
    """The ``kind`` that a recipe names ``cls`` by; for the trunk of the tree (Recipe, Sampler) its own name."""
    return str(getattr(cls, "kind")) if has_kind(cls) else cls.__name__.lower()  # noqa: B009  # a field of the final class


def has_kind(cls: type) -> bool:
    return "kind" in _fields(cls)


@cache
def _fields(cls: type) -> dict[str, Any]:
    """Field names of a component and their annotations, in the order of the constructor."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def parameters(cls: type) -> dict[str, Any]:
    """The fields that a user sets, with their annotations: all but ``kind``."""
    return {name: hint for name, hint in _fields(cls).items() if name != "kind"}


def join(path: str, name: str) -> str:
    """``sampler`` and ``solver`` give ``sampler.solver``."""
    return f"{path}.{name}" if path else name


def decode(hint: Any, value: Any, path: str, faults: list[Fault]) -> Any:
    """``value`` as what ``hint`` says; what is wrong is appended to ``faults`` and the result is then meaningless."""
    for mark in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(mark, CustomDecoding):
            return mark.decode(value, path, faults)
    by_kind, hint = components(hint), bare(hint)
    if by_kind and not (value is None and type(None) in members(hint)):
        return _component(by_kind, value, path, faults)
    if get_origin(hint) is tuple and components(get_args(hint)[0]):
        if not isinstance(value, list):
            faults.append(Fault(path, f"must be a list of components, got {shown(value)}"))
            return ()
        return tuple(decode(get_args(hint)[0], item, f"{path}.{i}", faults) for i, item in enumerate(value))
    return _leaf(hint, value, path, faults)


def checked(hint: Any, value: Any, label: str, remark: Callable[[Fault], str] = lambda fault: "") -> Any:
    """``value`` decoded. Raises :class:`RecipeError` with the first fault, a ``remark`` on it, and how many follow."""
    faults: list[Fault] = []
    result = decode(hint, value, "", faults)
    if faults:
        fault, more = faults[0], len(faults) - 1
        where = f"{fault.path}: " if fault.path else ""
        others = f" (and {more} more)" if more else ""
        raise RecipeError(f"{label}: {where}{fault.message}{remark(fault)}{others}")
    return result


def pick(by_kind: dict[str, type], value: Any, path: str, faults: list[Fault]) -> type | None:
    """The component that the mapping ``value`` names, or None with a fault."""
    example = next(iter(by_kind))
    if not isinstance(value, dict):
        kind = value if isinstance(value, str) and value in by_kind else example
        wanted = f"a mapping such as {{kind: {kind}}}" if has_kind(by_kind[example]) else "a mapping"
        faults.append(Fault(path, f"must be {wanted}, got {shown(value)}"))
        return None
    if not has_kind(by_kind[example]) or (len(by_kind) == 1 and "kind" not in value):
        return by_kind[example]
    if "kind" not in value:
        faults.append(Fault(join(path, "kind"), f"missing{suggest('', by_kind)}"))
        return None
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in by_kind:
        faults.append(Fault(join(path, "kind"), f"unknown {shown(kind)}{suggest(kind, by_kind)}"))
        return None
    return by_kind[kind]


def _component(by_kind: dict[str, type], value: Any, path: str, faults: list[Fault]) -> Any:
    cls = pick(by_kind, value, path, faults)
    if cls is None:
        return None
    before, known = len(faults), _fields(cls)
    for key in value:
        if key not in known:
            faults.append(Fault(join(path, key), unknown_key(cls, key)))
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            faults.append(Fault(join(path, field.name), f"missing; must be {describe(known[field.name])}"))
    given = {key: decode(known[key], item, join(path, key), faults) for key, item in value.items() if key in known}
    if len(faults) > before:
        return None
    try:
        return cls(**given)
    except (ValueError, ArithmeticError) as error:
        faults.append(located(cls, path, words_of(error)))
        return None


def words_of(error: Exception) -> str:
    """What an error says; of arithmetic, whose own words are ``(34, 'Numerical result out of range')``, in ours."""
    if isinstance(error, OverflowError):
        return "these values together are beyond the range of floating point; take less extreme ones"
    return "these values together divide by zero; change one" if isinstance(error, ZeroDivisionError) else str(error)


def located(cls: type, path: str, message: str) -> Fault:
    """The fault of a constructor, whose message starts with the field: ``rho: must be positive``."""
    head, colon, rest = message.partition(": ")
    return Fault(join(path, head), rest) if colon and head.split(".")[0] in _fields(cls) else Fault(path, message)


def unknown_key(cls: type, key: str) -> str:
    """``unknown key; did you mean 'sigma_min'? (karras takes n, sigma_min, sigma_max, rho)``."""
    names = list(parameters(cls))
    near = suggest(key, names)
    near = near if near.startswith("; did you mean") else ";"
    takes = f"{kind_of(cls)} takes {', '.join(names) if names else 'nothing'}"
    return f"unknown key{near} ({takes})" if near != ";" else f"unknown key; {takes}"


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _leaf(hint: Any, value: Any, path: str, faults: list[Fault]) -> Any:
    hint = plugins.widened_leaf(hint)
    try:
        # from JSON and not from Python objects: only there may a list be a tuple although the mode is strict
        found = _adapter(hint).validate_json(json.dumps(value), strict=True)
    except (ValidationError, ValueError):  # ValueError: a whole number of more than 4300 digits
        faults.append(Fault(path, _mismatch(hint, value)))
        return None
    words = _words(hint)
    if words and isinstance(value, (bool, float)) and type(value) not in (*members(hint), *map(type, words)):
        faults.append(Fault(path, _mismatch(hint, value)))  # of a choice among numbers, pydantic has true for 1
    return found


def _words(hint: Any) -> tuple[str, ...]:
    return tuple(word for member in members(hint) if get_origin(member) is Literal for word in get_args(member))


def _mismatch(hint: Any, value: Any) -> str:
    words = _words(hint)
    texts = [word for word in words if isinstance(word, str)]
    if isinstance(value, str) and texts:
        near = suggest(value, texts)
        others = any(get_origin(member) is not Literal and member is not type(None) for member in members(hint))
        if near.startswith("; did you mean") or not (others or len(texts) < len(words)):
            return f"unknown {shown(value)}{near}"
    items = get_args(hint)[:1] if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis else ()
    if items and isinstance(value, list):  # name the first item that is wrong
        for i, item in enumerate(value):
            inner: list[Fault] = []
            _leaf(items[0], item, "", inner)
            if inner:
                return f"item {i}: {inner[0].message}"
    numeric = {int, float} & {*members(hint), *map(type, words)}
    quoted = isinstance(value, str) and bool(numeric) and _is_number(value)
    return f"must be {describe(hint)}, got {shown(value)}" + ("; remove the quotes" if quoted else "")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def from_words(hint: Any, text: str, label: str) -> Any:
    """Plain data for ``hint`` from a value of the command line: YAML, but text as it is written where text is meant.

    So a folder may be called 007, 2024 or [a], and ``null`` is null where that is allowed. Quotes are taken off.
    """
    kinds = members(hint)
    if str not in kinds:
        return reader.parse(text, label)
    try:
        value = reader.parse(text, label)
    except RecipeError:
        return text.strip()
    taken = isinstance(value, str) or (value is None and type(None) in kinds)
    listed = isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds)
    return value if taken or listed else text.strip()


_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def describe(hint: Any) -> str:
    """An annotation in words: ``a number or null``."""
    kinds = components(hint)
    if kinds:
        first = next(iter(kinds.values()))
        return f"a mapping such as {{kind: {kind_of(first)}}}" if has_kind(first) else "a mapping"
    parts = [member for member in members(hint) if member is not type(None)]
    return " or ".join(map(_describe, [*parts, *([type(None)] if type(None) in members(hint) else [])]))


def _describe(member: Any) -> str:
    if get_origin(member) is Literal:
        return f"one of {', '.join(map(str, get_args(member)))}"
    if get_origin(member) is tuple:
        args = get_args(member)
        if args[-1] is Ellipsis:
            return f"a list (each item {describe(args[0])})"
        return f"a list of {len(args)} (" + ", ".join(map(describe, args)) + ")"
    if hasattr(member, "_fields"):
        return f"[{', '.join(member._fields)}]"
    return _PLAIN.get(member, getattr(member, "__name__", str(member)))
