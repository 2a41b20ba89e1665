"""Any part of a recipe by its path: ``schedule``, ``sampler.solver``, ``sampler.renoising.S_churn``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from edm_unified.recipe import codec
from edm_unified.recipe.codec import Fault

T = TypeVar("T")


def hints(root: type, path: str) -> list[Any]:
    """The annotations that ``path`` may have under ``root``: of several where components share the name of a field.

    Raises ``ValueError`` with the nearest spelling where there is none.
    """
    found: list[Any] = [root]
    done: list[str] = []
    for name in path.split("."):
        classes = list(dict.fromkeys(cls for hint in found for cls in codec.components(hint).values()))
        if not classes:
            raise ValueError(f"{'.'.join(done)}: has no parts of its own")
        inner = [codec.parameters(cls)[name] for cls in classes if name in codec.parameters(cls)]
        done.append(name)
        if not inner:
            names = dict.fromkeys(one for cls in classes for one in codec.parameters(cls))
            if len(classes) == 1:
                raise ValueError(f"{'.'.join(done)}: {codec.unknown_key(classes[0], name)}")
            raise ValueError(f"{'.'.join(done)}: unknown key{codec.suggest(name, names)}")
        found = list(dict.fromkeys(inner))
    return found


def decode(root: type, path: str, value: Any, at: str, faults: list[Fault]) -> Any:
    """``value`` as what may stand at ``path`` under ``root``; faults are named under ``at``."""
    tried: list[Fault] = []
    for hint in hints(root, path):
        tried = []
        result = codec.decode(hint, value, at, tried)
        if not tried:
            return result
    faults += tried
    return None


def get(tree: Any, path: str) -> Any:
    """What stands at ``path``; None where a part on the way is null or has no such field."""
    for name in path.split("."):
        tree = getattr(tree, name, None)
    return tree


def put(tree: T, path: str, value: Any, above: str = "") -> T:
    """``tree`` with ``value`` at ``path``. Raises ``ValueError`` naming the path where that cannot be."""
    name, _, rest = path.partition(".")
    here = codec.join(above, name)
    cls: Any = type(tree)
    if name not in codec.parameters(cls):
        raise ValueError(f"{here}: {codec.unknown_key(cls, name)}")
    if rest:
        inner = getattr(tree, name)
        if not dataclasses.is_dataclass(inner):
            raise ValueError(f"{here}: is {'not there' if inner is None else 'a value'}, and has no {rest}")
        value = put(inner, rest, value, here)
    try:
        return dataclasses.replace(tree, **{name: value})  # type: ignore[type-var]
    except ValueError as error:
        fault = codec.located(cls, above, str(error))
        raise ValueError(f"{fault.path}: {fault.message}" if fault.path else fault.message) from None


@dataclass(frozen=True)
class Crossed:
    """The annotation of a mapping from paths under ``root`` to lists of what may stand there."""

    root: type

    def decode(self, value: Any, path: str, faults: list[Fault]) -> dict[str, tuple[Any, ...]]:
        """``{sampler.solver: [{kind: heun}]}`` with every item as the annotation at its path says."""
        if not isinstance(value, dict):
            faults.append(Fault(path, "must be a mapping of paths to lists, such as {sampler.solver: [{kind: heun}]}"))
            return {}
        found: dict[str, tuple[Any, ...]] = {}
        for key, items in value.items():
            at = codec.join(path, str(key))
            if not isinstance(items, list):
                faults.append(Fault(at, f"must be a list of values, got {items!r}"))
                continue
            try:
                hints(self.root, str(key))
            except ValueError as error:
                faults.append(Fault(path, str(error)))
                continue
            found[str(key)] = tuple(decode(self.root, key, item, f"{at}.{i}", faults) for i, item in enumerate(items))
        return found
