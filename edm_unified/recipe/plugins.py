"""Register the components of a file or module of one's own: ``--plugin``, and the same in Python.

    with edm.plugin("mylab/solvers.py"):
        recipe = edm.Recipe.load("edm", ["sampler.solver.kind=mine"])

Every class of the module that is a component, has a ``kind``, and has what the members of a family have in common (the
methods, or the base class) joins that family; ``family = "optimizers"`` in the class says it where several are meant. A
class that is named (``mylab/solvers.py:Mine``) needs no ``kind``: it gets that of its name, ``mine``. ``METRICS``, a
mapping of names to functions of samples and data, (N, *shape) each, that give a number or an ``Estimate``, are metrics
(smaller is better).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, get_args

from edm_unified.components import constraints, own_code, plugins
from edm_unified.components.component import component
from edm_unified.components.own_code import OwnCode
from edm_unified.components.plugins import Plugin, PluginRecord
from edm_unified.recipe import codec
from edm_unified.recipe.catalogue import FAMILIES
from edm_unified.recipe.comparison import MetricName


@contextmanager
def plugin(text: str, option: str = "plugin") -> Iterator[Plugin]:
    """The components of ``text``, a file or module with or without ``:NAME``, registered until the end.

    Raises ``ValueError``, begun with ``option`` and ``text``, where it cannot be imported, has no components, or has a
    kind that is taken.
    """
    label = f"{option} {text}"
    with own_code.imported(text, option) as code:
        made = _made(code, label)
        plugins.ACTIVE.append(made)
        constraints.constraints_of.cache_clear()  # a choice of metrics has more words now
        try:
            yield made
        finally:
            plugins.ACTIVE.remove(made)
            constraints.constraints_of.cache_clear()


def _made(code: OwnCode, label: str) -> Plugin:
    members: list[tuple[frozenset[Any], type]] = []
    entries: dict[str, Any] = {}
    objects: list[tuple[str, Any]] = []
    for name, found in _candidates(code, label):
        family = _family(found, label, named=bool(code.attribute))
        if family is None:
            continue
        objects.append((family, found))
        if any(_class(found) is _class(one) for plugin in plugins.ACTIVE for _, one in plugin.objects):
            continue  # named twice, as a class and as an object of it
        cls = _component(_class(found), family, label)
        kind = codec.kind_of(cls)
        if kind in codec.components(FAMILIES[family]) or f"{family}/{kind}" in entries:
            raise ValueError(f"{label}: {name}: the kind {kind!r} is taken among {family}; give it another")
        members.append((frozenset(one for one in codec.members(FAMILIES[family]) if one is not type(None)), cls))
        entries[f"{family}/{kind}"] = _entry(cls)
    metrics = _metrics(code, label)
    if not objects and not metrics:
        raise ValueError(
            f"{label}: has no components; write classes with @edm.component and a kind, as docs/own-code.md shows"
        )
    return Plugin(PluginRecord(code.name, code.sha256), tuple(members), entries, metrics, tuple(objects))


def _entry(cls: type) -> dict[str, Any]:
    from edm_unified.recipe.index import component_entry

    return component_entry(cls)


def _candidates(code: OwnCode, label: str) -> list[tuple[str, Any]]:
    """The class that was named, or all of the module's own that have a ``kind``."""
    if code.attribute:
        return [(code.attribute, code.get(code.attribute, label))]
    own = [(name, value) for name, value in vars(code.module).items() if isinstance(value, type)]
    return [(name, cls) for name, cls in own if cls.__module__ == code.module.__name__ and hasattr(cls, "kind")]


@cache
def _common(family: str) -> tuple[frozenset[str], tuple[type, ...]]:
    """The methods that all members of a family have, and the base classes of this package that they share."""
    shipped = [one for one in get_args(codec.bare(FAMILIES[family])) or (FAMILIES[family],) if isinstance(one, type)]
    known: list[Any] = [cls for one in shipped for cls in codec.members(one) if dataclasses.is_dataclass(cls)]
    methods = [{n for n in dir(cls) if not n.startswith("_") and callable(getattr(cls, n))} for cls in known]
    bases = [
        {one for one in cls.__mro__ if one.__module__.startswith("edm_unified") and one is not cls} for cls in known
    ]
    return frozenset(set.intersection(*methods)), tuple(set.intersection(*bases)) if len(known) > 1 else ()


def _family(found: Any, label: str, named: bool) -> str | None:
    """The family of a class; None for one that is of none and was not named."""
    cls = _class(found)
    said = getattr(cls, "family", None)
    if isinstance(said, str):
        if said not in FAMILIES:
            raise ValueError(f"{label}: {cls.__name__}: no family {said!r}; choose from {', '.join(FAMILIES)}")
        return said
    based = [family for family in FAMILIES if any(issubclass(cls, base) for base in _common(family)[1])]
    if based:
        return based[0]
    own = {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name, None))}
    fitting = [family for family in FAMILIES if _common(family)[0] and _common(family)[0] <= own]
    most = max((len(_common(family)[0]) for family in fitting), default=0)
    fitting = [family for family in fitting if len(_common(family)[0]) == most]
    if len(fitting) > 1 and "networks" in fitting and len(_parameters(cls, "build")) == 3:
        return "networks"  # build(shape, classes, augment)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and not named:
        return None
    which = " or ".join(fitting) if fitting else "of no family that is known"
    raise ValueError(
        f'{label}: {cls.__name__}: {which}; say which by a line family = "solvers" in the class, or another of '
        f"{', '.join(FAMILIES)}"
    )


def _parameters(cls: Any, method: str) -> list[str]:
    return [name for name in inspect.signature(getattr(cls, method)).parameters if name != "self"]


def _class(found: Any) -> type:
    """A class itself, or that of an object."""
    return found if isinstance(found, type) else type(found)


def _component(found: type, family: str, label: str) -> type:
    """``found`` as a component: itself, where it is one, or a subclass with a ``kind``."""
    whole = dataclasses.is_dataclass(found)
    has_kind = whole and any(field.name == "kind" for field in dataclasses.fields(found))
    more: dict[str, Any] = {}
    if family == "solvers":
        more = {"stochastic": False} if not hasattr(found, "stochastic") else {}
        more |= {"order": 1} if not hasattr(found, "order") else {}
    if has_kind and not more and hasattr(found, "__pydantic_config__"):
        return found
    if not whole and found.__init__ is not object.__init__:  # type: ignore[misc]
        raise ValueError(
            f"{label}: {found.__name__}: has an __init__ of its own; write its parameters as fields, by @edm.component"
        )
    words = getattr(found, "kind", None)
    kind = words if isinstance(words, str) else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", found.__name__).lower()
    names = {
        "__annotations__": {"kind": Literal[kind]},
        "kind": kind,
        "__module__": found.__module__,
        "__qualname__": found.__qualname__,
        "__doc__": found.__doc__,
    }
    try:
        made: type = component(type(found.__name__, (found,), names | more))
        if family == "solvers" and "stochastic" in more and _draws(made()):
            made.stochastic = True  # type: ignore[attr-defined]
    except TypeError as error:
        raise ValueError(f"{label}: {found.__name__}: {error}; make it a frozen dataclass, by @edm.component") from None
    return made


def _draws(solver: Any) -> bool:
    """Whether a solver that does not say so draws noise: on N(0, 1) two seeds then end apart."""
    import torch

    from edm_unified.denoisers.exact import Gaussian
    from edm_unified.sampling.levels import LogLinear
    from edm_unified.sampling.loop import sample

    D: Any = Gaussian([0.0], 1.0)
    noise, steps = torch.ones(1, 1, dtype=torch.float64), LogLinear(n=3)
    try:
        ends = [sample(D, noise, steps=steps, solver=solver, seed=seed) for seed in (0, 1)]
    except (Exception, SystemExit):  # whoever uses it is told
        return False
    return not torch.equal(*ends)


def _metrics(code: OwnCode, label: str) -> dict[str, Any]:
    if code.attribute:
        return {}
    found = getattr(code.module, "METRICS", {})
    known = (*get_args(MetricName), *plugins.metrics())
    if not isinstance(found, Mapping):
        raise ValueError(f"{label}: METRICS: must map names to functions, got {type(found).__name__}")
    for name, function in found.items():
        if not isinstance(name, str) or not name.isidentifier() or not callable(function):
            raise ValueError(f"{label}: METRICS: must map names to functions of samples and data, got {name!r}")
        if name in known:
            raise ValueError(f"{label}: METRICS: the name {name!r} is taken; give it another")
    return dict(found)
