"""Components in a few words: for tables, for cards, and for the lists of the command line."""

from __future__ import annotations

import dataclasses
from typing import Any


def label(component: Any) -> str:
    """A component in a few words: its kind, and what differs from the defaults, without the number of steps and what
    its class leaves ``untold``.

    >>> label(Karras(n=5, rho=5.0))
    'karras(rho=5)'
    """
    changed, untold = [], getattr(component, "untold", ())
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if field.name in ("kind", "n", *untold) or value == field.default or value is None:
            continue
        changed.append(f"{field.name}={words_of(value)}")
    return f"{component.kind}({', '.join(changed)})" if changed else component.kind


def words_of(value: Any) -> str:
    """A value in a few words: a component's label, a number, ``<25 values>``."""
    if isinstance(value, float):
        return f"{value:g}"
    if dataclasses.is_dataclass(value):
        return label(value)
    if isinstance(value, tuple) and len(value) > 4:
        return f"<{len(value)} values>"
    return str(value)


def describe(component: Any) -> str:
    """``karras  n 18, sigma_min 0.002, sigma_max 80, rho 7``: the kind and every parameter that is set."""
    fields = [(f.name, getattr(component, f.name)) for f in dataclasses.fields(component) if f.name != "kind"]
    fields = [(name, value) for name, value in fields if name not in getattr(component, "untold", ())]
    given = ", ".join(f"{name} {_value(value)}" for name, value in fields if value is not None)
    return f"{component.kind}  {given}".rstrip()


def _value(value: Any) -> str:
    if hasattr(value, "kind"):
        return f"({describe(value)})"
    if isinstance(value, tuple):
        shown = [_value(item) for item in value[:6]] + ([f"… {len(value)} in all"] if len(value) > 6 else [])
        return f"[{', '.join(shown)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def default(value: Any) -> str:
    """The default of a field as YAML would have it: ``null``, ``[0.06, 0.3]``, ``{kind: karras}``."""
    if hasattr(value, "kind"):
        return f"{{kind: {value.kind}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(default([*v] if hasattr(v, '_fields') else v) for v in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
