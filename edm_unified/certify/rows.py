"""Which settings of a solver the whole table shows, found from its fields alone.

Every admissible order, without noise and with all of it where there is an η; and, one at a time beside the defaults,
every value of a choice or a switch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import chain, product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from edm_unified.solvers import AnySolver


def union() -> tuple[type, ...]:
    """The classes of ``AnySolver``."""
    return get_args(AnySolver)


def every() -> list[Any]:
    """The rows of the whole table."""
    return list(dict.fromkeys(chain.from_iterable(map(settings, union()))))


def settings(cls: type) -> list[Any]:
    """Instances of ``cls``: the defaults first. What its constructor refuses is left out."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    plain = _made(cls, {})
    if plain is None:
        return []
    orders = [{"order": n} for n in range(1, 6)] if "order" in fields else [{}]
    noises = [{"eta": eta} for eta in (0.0, 1.0)] if "eta" in fields else [{}]
    changes = [
        {name: value}
        for name, field in fields.items()
        if name != "kind"
        for value in _alternatives(field.default, hints[name])
    ]
    made = (_made(cls, change) for change in chain(({**o, **n} for o, n in product(orders, noises)), changes))
    return [plain, *(solver for solver in made if solver is not None and solver != plain)]


def _alternatives(default: Any, hint: Any) -> Iterator[Any]:
    if isinstance(default, bool):
        yield not default
    elif get_origin(hint) is Literal:
        yield from get_args(hint)


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
    changed = [
        f"{field.name}={_short(getattr(solver, field.name))}"
        for field in dataclasses.fields(solver)
        if field.name != "kind" and getattr(solver, field.name) != field.default
    ]
    return f"{kind}({', '.join(changed)})" if changed else kind


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_adaptive(solver: Any) -> bool:
    """Whether it takes steps of its own inside a fall, so that its error follows a tolerance and not the levels."""
    return bool(getattr(solver, "adaptive", False))
