"""Which arrays of a file are the samples and their classes, and what a reader gives of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edm_unified.data.errors import RefusedError
from edm_unified.data.layouts import ArrayLike

MOST_DEFLATED = 1032
"""Bytes that one byte can stand for in DEFLATE, at most (zlib's technical details)."""


def choose(names: list[str], key: str | None, label_key: str | None, file: Path) -> tuple[str, str | None]:
    """The names of the array and of its classes, checked to be in the file."""
    for field, name in (("key", key), ("label_key", label_key)):
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(names)) or 'none'}"
            raise RefusedError(f"{field}: {file} has no array '{name}'; {hint}")
    left = [name for name in names if name != label_key]
    if key is None and len(left) != 1:
        what = f"several arrays ({', '.join(sorted(left))}); name one" if left else "no array"
        raise RefusedError(f"key: {file} holds {what}")
    return key or left[0], label_key


class Chosen(NamedTuple):
    """What a reader found: the array of samples, that of classes or None, and what a user should know."""

    array: ArrayLike
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()


Reader = Callable[[Path, "str | None", "str | None"], Chosen]


def slashless(name: str | None) -> str | None:
    return None if name is None else name.strip("/")
