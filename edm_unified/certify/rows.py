"""Which settings of a solver the whole table shows, found from its fields alone.

Every admissible order (the first whole number among the fields, whatever its name), each without noise and with all of
it where there is an η or τ, and with each switch on and off; and, one at a time beside the defaults, every value of a
choice or of another whole number, and all whole numbers alike (P2C2). But for ``end``: on the walks of a certificate,
which end above 0, a lower order at the end is the order of that one step, and says nothing of the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import chain, product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edm_unified.sampling.solvers import AnySolver


def union() -> tuple[type, ...]:
    """The classes of ``AnySolver`` that solve, on any walk: one whose order is 0 has nothing to certify, and one that
    was fitted is certified by its file."""
    return tuple(cls for cls in get_args(AnySolver) if getattr(cls, "order", None) != 0 and not hasattr(cls, "walks"))


def every() -> list[Any]:
    """The rows of the whole table."""
    return list(dict.fromkeys(chain.from_iterable(map(settings, union()))))


def settings(cls: type) -> list[Any]:
    """Instances of ``cls``: the defaults first. What its constructor refuses is left out."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls) if field.name != "kind"}  # type: ignore[arg-type]
    plain = _made(cls, {})
    if plain is None:
        return []
    whole = [name for name, value in defaults.items() if _is_small(value)]
    crossed = [_each(whole[0], range(6))] if whole else []
    crossed += [_each(name, (0.0, 1.0)) for name in ("eta", "tau") if name in defaults]
    crossed += [_each(name, (True, False)) for name, value in defaults.items() if isinstance(value, bool)]
    hints = get_type_hints(cls)
    single = [_each(name, range(6)) for name in whole[1:]]
    single += [[dict.fromkeys(whole, n) for n in range(6)]] if len(whole) > 1 else []
    choices = [name for name in defaults if get_origin(hints[name]) is Literal and name != "end"]
    single += [_each(name, get_args(hints[name])) for name in choices]
    changes = chain((dict(chain.from_iterable(c.items() for c in change)) for change in product(*crossed)), *single)
    made = (_made(cls, change) for change in changes)
    return [plain, *(solver for solver in made if solver is not None and solver != plain)]


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 5


def _each(name: str, values: Iterable[Any]) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def _made(cls: type, values: dict[str, Any]) -> Any:
    try:
        return cls(**values)
    except (ValueError, TypeError):
        return None


def label(solver: Any) -> str:
    """``ddim(eta=1)``: the kind, or the name of a class that has none, with what differs from the defaults."""
    kind = str(getattr(solver, "kind", type(solver).__name__))
    if not dataclasses.is_dataclass(solver):
        return kind
    untold = ("kind", *getattr(solver, "untold", ()))
    changed = [
        f"{field.name}={_short(getattr(solver, field.name))}"
        for field in dataclasses.fields(solver)
        if field.name not in untold and getattr(solver, field.name) != field.default
    ]
    return f"{kind}({', '.join(changed)})" if changed else kind


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def own_walk(solver: Any) -> tuple[float, ...]:
    """The longest of the walks that the solver was made for; empty where it takes any."""
    return max(getattr(solver, "walks", ()), key=len, default=())


def is_adaptive(solver: Any) -> bool:
    """Whether it takes steps of its own inside a fall, so that its error follows a tolerance and not the levels."""
    return bool(getattr(solver, "adaptive", False))


def tolerances(solver: Any, factor: float) -> Any:
    """An adaptive solver with every tolerance ``factor`` times its own, or None where it has none among its fields.

    A very loose one accepts every step that it tries, so that over short falls it takes one step for each.
    """
    names = [f.name for f in dataclasses.fields(solver) if "tol" in f.name] if dataclasses.is_dataclass(solver) else []
    changes: dict[str, Any] = {name: factor * getattr(solver, name) for name in names}
    return dataclasses.replace(solver, **changes) if changes and not isinstance(solver, type) else None
