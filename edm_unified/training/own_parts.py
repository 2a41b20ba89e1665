"""A network, a preconditioning or an objective of one's own in a job: what a run says of it, and finds again.

A run keeps no code. Of a part that is none of this package it keeps the name of the class, and ``edm.load`` is given
the part, or, in the process that trained it, finds it among the jobs that are still there. The name is looked up
nowhere else, so that nothing in a file is executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from edm_unified.components import plugins
from edm_unified.components.component import encode
from edm_unified.networks.conditioned import Shapes, build_conditioned
from edm_unified.training.runs import decoding

OWN = "own"
_MADE_HERE: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The parts of the jobs of this process, by the name of their class."""


def described(part: Any, union: Any) -> dict[str, Any]:
    """``part`` as plain data: a component of ``union`` with its fields; of one's own, the name of its class."""
    foreign = list(_foreign(part))
    if decoding.is_member(union, part) and not foreign:
        return dict(encode(part))
    name = ", ".join(foreign) or _name(part)
    with contextlib.suppress(TypeError):  # no weak reference to it: then it has to be given
        _MADE_HERE[name] = part
    return {OWN: name}


def _foreign(value: Any) -> Iterator[str]:
    """The classes in ``value`` that are none of this package."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _foreign(item)
    elif dataclasses.is_dataclass(value) and (
        type(value).__module__.partition(".")[0] == "edm_unified" or plugins.is_added(type(value))
    ):
        for field in dataclasses.fields(value):
            yield from _foreign(getattr(value, field.name))
    elif not isinstance(value, (str, int, float, type(None))):
        yield _name(value)


def _name(part: Any) -> str:
    """Of a function its own name, else that of the class."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


class NeededError(ValueError):
    """A part has to be given, or must not be."""


def found(said: dict[str, Any], union: Any, given: Any, field: str) -> Any:
    """The part that ``said`` describes: ``given``, where it is one's own.

    Raises :class:`NeededError` where that is missing, or not called for.
    """
    if OWN not in said:
        if given is not None:
            raise NeededError(f"{field}: the run knows its {field}, {said.get('kind')}; leave it out")
        return decoding.decode(union, said)
    part = given if given is not None else _MADE_HERE.get(str(said[OWN]))
    if part is None:
        how = "make(shape, classes, augment) builds it" if field == "network" else f"{field} is an object of that class"
        name = "make" if field == "network" else field
        raise NeededError(
            f"this run's {field} is your own, {said[OWN]}; load it in Python: edm.load(RUN, {field}={name}), where "
            f"{how}"
        )
    return part


def module_of(
    part: Any, shape: tuple[int, ...], classes: int, augment: int, conditions: Shapes | None = None
) -> nn.Module:
    """The network that ``part`` is or makes: a module, what has ``build``, or a function of the next three.

    With ``conditions`` what has ``build`` is conditioned on them; a module of one's own takes them by their names.
    """
    if isinstance(part, nn.Module):
        return part
    if conditions and hasattr(part, "build"):
        return build_conditioned(part, shape, classes, augment, conditions)
    make = getattr(part, "build", part)
    if not callable(make):
        raise ValueError(f"network: must be a module, or build one from (shape, classes, augment), got {part!r}")
    made = make(shape, classes, augment)
    if not isinstance(made, nn.Module):
        raise ValueError(f"network: must build a torch.nn.Module, got {type(made).__name__}")
    return made
