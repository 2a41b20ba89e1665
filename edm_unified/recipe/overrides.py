"""``--set sampler.solver.alpha=0.5``: one value of a recipe replaced, under the same checks as the file itself.

The value is YAML. The path must exist in the recipe's types, whether or not the file spells it out. Setting a ``kind``
replaces the component: fields that the new one also has are kept, the others take their defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from edm_unified.recipe import words
from edm_unified.recipe.codec import Fault, components, encode, from_words, join, parameters, pick, unknown_key
from edm_unified.recipe.reader import RecipeError


def apply(root: type, tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``tree`` with the overrides, in order; ``tree`` itself is left as it is."""
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise RecipeError(f"--set {text}: must be path=value, such as sampler.solver.kind=heun")
        tree = _set(root, tree, path.strip().split("."), value, "", f"--set {text}")
    return tree


def blame(fault: Fault, overrides: Sequence[str]) -> str:
    """The override, if any, that set the faulty value, to be named next to the path."""
    for text in reversed(overrides):
        path = text.partition("=")[0].strip()
        component = path.removesuffix(".kind")
        parent = component.rpartition(".")[0]
        if fault.path == path or fault.path.startswith(f"{component}.") or (parent and fault.path.startswith(parent)):
            return f" (with --set {text})"
    return ""


def _set(cls: type, tree: dict[str, Any], path: list[str], text: str, at: str, label: str) -> dict[str, Any]:
    name, rest = path[0], path[1:]
    fields = parameters(cls)
    if name not in fields:
        raise RecipeError(f"{label}: {join(at, name)}: {unknown_key(cls, name)}")
    by_kind, here = components(fields[name]), join(at, name)
    value = from_words(fields[name], text, label)
    if by_kind and not rest and isinstance(value, str) and value not in by_kind and words.are_data(fields[name]):
        return tree | {name: words.spelled(fields[name], value, f"{label}: {here}")}
    if by_kind and not rest and isinstance(value, str):  # sampler.solver=heun is short for sampler.solver.kind=heun
        rest = ["kind"]
    if not rest:
        return tree | {name: value}
    if not by_kind:
        raise RecipeError(f"{label}: {here}: has no parts of its own; set the whole value, {here}=...")
    current = tree[name] if name in tree else _default(cls, name)
    if rest == ["kind"]:
        return tree | {name: _with_kind(by_kind, current, value, here, label)}
    if current is None:
        raise RecipeError(f"{label}: {here}: is not there yet; put --set {here}.kind=... first")
    faults: list[Fault] = []
    inner = pick(by_kind, current, here, faults)
    if inner is None:
        raise RecipeError(f"{label}: {faults[0].path}: {faults[0].message}")
    return tree | {name: _set(inner, current, rest, text, here, label)}


def _default(cls: type, name: str) -> Any:
    """The component that the field has where a recipe does not say, as plain data; None where it has none."""
    value = getattr(cls, name, None)  # a dataclass keeps its plain defaults as attributes of the class
    return encode(value) if dataclasses.is_dataclass(value) else None


def _with_kind(by_kind: dict[str, type], current: Any, kind: Any, here: str, label: str) -> dict[str, Any]:
    """``{kind: ...}`` and those fields of the current mapping that the new kind has too."""
    faults: list[Fault] = []
    cls = pick(by_kind, {"kind": kind}, here, faults)
    if cls is None:
        raise RecipeError(f"{label}: {faults[0].path}: {faults[0].message}")
    kept = current if isinstance(current, dict) else {}
    return {"kind": kind} | {name: item for name, item in kept.items() if name in parameters(cls)}
