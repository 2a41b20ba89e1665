"""Components: every choice in the design space is a frozen dataclass with a ``kind``.

A component checks its own values, by the constraints in its annotations (:mod:`edm_unified.components.constraints`) and
in ``__post_init__``, and raises ``ValueError`` whose message starts with the name of the offending field:
``sigma_min: must be positive and finite, got -1``. The recipe loader puts the path in front of that message; a Python
user reads it as it stands.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


T = TypeVar("T")
MOST = 1_000_000
"""The largest count where nothing else is said."""
MOST_SAMPLES = 10_000_000
MOST_SEED = 2**63 - 1
"""What a generator of torch takes. These stand here, so that an option and the check behind it cannot differ."""
SMALLEST, LARGEST = 1e-50, 1e50
"""Positive numbers of a recipe lie between these, so that their squares, the cubes of their quotients and the like are
still numbers of float64."""


@dataclass_transform(frozen_default=True)
def component(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that a recipe may name. Unknown keys in the recipe are errors."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]  # read by recipe.py's TypeAdapter only
    own = getattr(cls, "__post_init__", None)

    def checked(self: Any) -> None:
        from edm_unified.components import constraints  # which is made of the checks below

        constraints.check(self)
        if own is not None:
            own(self)

    cls.__post_init__ = checked  # type: ignore[attr-defined]
    return dataclass(frozen=True)(cls)


def shown(value: object) -> str:
    """A value in a message, as a recipe writes it and kept short."""
    try:
        text = str(value).lower() if isinstance(value, bool) else "null" if value is None else repr(value)
    except ValueError:  # Python's own limit: a whole number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _finite(value: object) -> bool:
    """Whether that is a number, and one of floating point has it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive(name: str, value: float, least: float = SMALLEST, most: float = LARGEST) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number above zero, from ``least`` to ``most``."""
    if not (_finite(value) and value > 0):
        raise ValueError(f"{name}: must be positive and finite, got {shown(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name}: must be from {least:g} to {most:g}, got {shown(value)}")


def nonnegative(name: str, value: float, most: float = LARGEST) -> None:
    """Raise ``ValueError`` unless ``value`` is zero, or a finite number from ``SMALLEST`` to ``most``."""
    if not (_finite(value) and value >= 0):
        raise ValueError(f"{name}: must be zero or positive and finite, got {shown(value)}")
    if value and not SMALLEST <= value <= most:
        raise ValueError(f"{name}: must be 0 or from {SMALLEST:g} to {most:g}, got {shown(value)}")


def finite(name: str, value: float, most: float = LARGEST) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number of either sign, at most ``most`` in size."""
    if not _finite(value):
        raise ValueError(f"{name}: must be finite, got {shown(value)}")
    if abs(value) > most:
        raise ValueError(f"{name}: must be from {-most:g} to {most:g}, got {shown(value)}")


def count(name: str, value: int, least: int = 1, most: int = MOST) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise ValueError(f"{name}: must be a whole number from {least} to {most:,}, got {shown(value)}")


def within(name: str, value: float, low: float, high: float, ends: str = "[]") -> None:
    """Raise ``ValueError`` unless ``value`` is a number between ``low`` and ``high``; ``ends`` as ``"[)"`` takes the
    lower end in and the upper one not."""
    above = _finite(value) and (value >= low if ends[0] == "[" else value > low)
    if not (above and (value <= high if ends[1] == "]" else value < high)):
        inside = f"strictly between {low:g} and {high:g}" if ends == "()" else f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ValueError(f"{name}: must lie {inside}, got {shown(value)}")


def choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ``ValueError``, with the nearest spelling, unless ``value`` is one of ``choices``."""
    known = tuple(choices)
    if any(value == one and type(value) is type(one) for one in known):
        return
    if not all(isinstance(one, str) for one in known):
        raise ValueError(f"{name}: must be one of {', '.join(map(str, known))}, got {shown(value)}")
    near = get_close_matches(str(value), known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"must be one of {', '.join(known)}"
    raise ValueError(f"{name}: unknown {shown(value)}; {remedy}")


def falling(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raise ``ValueError`` unless low < high, both positive and finite."""
    positive(low_name, low)
    positive(high_name, high)
    if not low < high:
        raise ValueError(f"{low_name}: must be below {high_name}, got {low!r} against {high!r}")


def encode(value: Any, brief: bool = False) -> Any:
    """A component as plain data with every field, ``kind`` first; what a recipe or a checkpoint says of it.

    ``brief`` leaves out the fields that a class names in ``added_later`` where they have their default: those that it
    got after hashes of it had been published.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        late = getattr(value, "added_later", ()) if brief else ()
        fields = [f for f in dataclasses.fields(value) if f.name not in late or getattr(value, f.name) != f.default]
        names = [field.name for field in fields]
        names.sort(key=lambda name: name != "kind")  # stable: the rest keep their order
        return {name: encode(getattr(value, name), brief) for name in names}
    if isinstance(value, (tuple, list)):
        return [encode(item, brief) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item, brief) for key, item in value.items()}
    return value
