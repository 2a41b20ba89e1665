"""Classes by name: their order, several of them for one sample, and how other data find the classes of a run.

A ``Dataset`` has a name for each class, in an order that the names alone decide (:func:`ordered`). What carries a class
from one set of data to another is its name and never its number: a folder without samples, a class that is absent and
another order move nothing (:func:`matched`).

Labels are (N,) long, one class for each sample, or (N, C) bool where a sample may have several, or none.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edm_unified.components import paths

if TYPE_CHECKING:
    from .dataset import Dataset

MOST_CLASSES = 1_000_000
"""Labels stay below it: a table over all classes is made more than once."""
_SHOWN = 12


class Classes(NamedTuple):
    """The classes of N samples: ``labels`` (N,) long or (N, C) bool, and the ``names`` of all C, in their order.

    ``numbered``: the source has numbers and no names; the names are then ``0`` … ``C − 1``.
    """

    labels: Tensor
    names: tuple[str, ...]
    numbered: bool = False


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in the order that numbers the classes: as numbers where all are whole ones, else as text.

    >>> ordered(["10", "9", "007"])
    ('007', '9', '10')
    """
    found = set(names)
    if all(map(_whole, found)):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _whole(name: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", name) is not None


def numbers(count: int) -> tuple[str, ...]:
    """The names of classes that have numbers alone."""
    return tuple(map(str, range(count)))


def by_name(values: Sequence[str] | Sequence[Collection[str]], more: Iterable[str] = ()) -> Classes:
    """The classes that ``values`` name, one word or several for each sample, and ``more`` that may have no sample."""
    several = any(not isinstance(value, str) for value in values)
    sets: list[Collection[str]] = [(value,) if isinstance(value, str) else value for value in values]
    names = ordered([name for value in sets for name in value] + list(more))
    number = {name: i for i, name in enumerate(names)}
    if not several:
        return Classes(torch.tensor([number[name] for (name,) in sets], dtype=torch.long), names)
    labels = torch.zeros(len(values), len(names), dtype=torch.bool)
    for row, value in enumerate(sets):
        labels[row, [number[name] for name in value]] = True
    return Classes(labels, names)


def of_column(values: Sequence[object], names: Sequence[str], where: str) -> Classes | None:
    """The classes in a column of words, or of lists of words or of numbers of ``names``; None for one of numbers.

    Raises ``ValueError``, begun with ``where``.
    """
    if values and all(isinstance(value, str) for value in values):
        return by_name([str(value) for value in values], names)
    if not any(isinstance(value, (list, tuple)) for value in values):
        return None

    def word(value: object) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < (len(names) or MOST_CLASSES):
            return names[value] if names else str(value)
        raise ValueError(f"{where}: a label must be a word, or a number of the classes, got {str(value)[:40]!r}")

    sets = [[word(item) for item in value] if isinstance(value, (list, tuple)) else [word(value)] for value in values]
    found = by_name(sets, names)
    return in_order(found, names, where) if names else found


def together(parts: Sequence[Classes]) -> Classes:
    """The classes of several sets of samples as those of one, by name."""
    names = max((part.names for part in parts), key=len)
    if not all(part.numbered for part in parts):
        names = ordered([name for part in parts for name in part.names])
    labels = [_moved(part.labels, part.names, names, "", "") for part in parts]
    if len({part.ndim for part in labels}) > 1:
        labels = [rows if rows.ndim == 2 else functional.one_hot(rows, len(names)).bool() for rows in labels]
    return Classes(torch.cat(labels), names, all(part.numbered for part in parts))


def stated_names(stated: str | Sequence[str] | None, field: str = "class_names") -> tuple[str, ...] | None:
    """Names as a recipe states them: a list, or a text file with one a line; of a line such as ``n01440764 tench`` it
    is the first word, where all lines begin so. Raises ``ValueError``, begun with ``field``.
    """
    if not isinstance(stated, str):
        return None if stated is None else tuple(stated)
    file = paths.regular(paths.expanded(stated, field), f"{field}: {stated}")
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text in UTF-8"
        raise ValueError(f"{field}: {stated}: cannot be read ({why}); name a text file, one class a line") from None
    if names and all(re.match(r"n[0-9]{8}\b", name) for name in names):
        names = [name.split()[0] for name in names]
    return tuple(names)


def in_order(found: Classes, stated: Sequence[str], where: str) -> Classes:
    """``found`` numbered in the order of ``stated``, which may have names more; where it has numbers, they are named.

    Raises ``ValueError``, begun with ``where``, where a class is not among ``stated``, and where one is there twice.
    """
    twice = [name for name, times in Counter(stated).items() if times > 1]
    if twice:
        raise ValueError(f"{where}: {twice[0]!r} is there twice; each class has a name of its own")
    if found.numbered and not set(found.names) <= set(stated):
        if len(found.names) > len(stated):
            raise ValueError(f"{where}: names {len(stated)} classes, and the data number {len(found.names)}")
        found = found._replace(names=tuple(stated[: len(found.names)]), numbered=False)
    return Classes(_moved(found.labels, found.names, stated, where, "stated are"), tuple(stated))


def matched(dataset: Dataset, names: Sequence[str], where: str = "data") -> Dataset:
    """``dataset`` with its classes numbered as those of a run, whose ``names`` these are, matched by name.

    Raises ``ValueError``, begun with ``where``, where a sample has a class that is not among ``names``.
    """
    if dataset.labels is None or tuple(names) == dataset.class_names:
        return dataset
    labels = _moved(dataset.labels, dataset.class_names, names, where, "known are")
    return replace(dataset, labels=labels, class_names=tuple(names))


def _moved(labels: Tensor, names: Sequence[str], wanted: Sequence[str], where: str, what: str) -> Tensor:
    """``labels`` of classes ``names`` as those of classes ``wanted``."""
    place = {name: i for i, name in enumerate(wanted)}
    sizes = counts(labels, len(names))
    for name, size in zip(names, sizes, strict=True):
        if size and name not in place:
            near = difflib.get_close_matches(name, list(wanted), 1, 0.7)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: has a class {name!r} ({size:,} samples); {what} {listed(wanted)}{hint}")
    to = torch.tensor([place.get(name, -1) for name in names], dtype=torch.long)
    if labels.ndim == 1:
        return to[labels]
    moved = torch.zeros(len(labels), len(wanted), dtype=torch.bool)
    kept = to >= 0
    moved[:, to[kept]] = labels[:, kept]
    return moved


def counts(labels: Tensor, classes: int) -> list[int]:
    """How many samples each class has; with several classes a sample they sum to more than the samples."""
    found = labels.sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=classes)
    return [int(count) for count in found]


def listed(names: Sequence[str]) -> str:
    """Names in a message, the first of many."""
    return ", ".join(names[:_SHOWN]) + (f", … ({len(names):,} in all)" if len(names) > _SHOWN else "")


def number_of(word: str | int, names: Sequence[str], where: str = "class") -> int:
    """The number of the class that ``word`` names: its name; else its number, where the names are words.

    With folders ``1`` … ``10`` the class ``1`` is that folder, the first; ``7`` is also the folder ``007``. Raises
    ``ValueError``, begun with ``where``, for a class that there is not.
    """
    text = str(word).strip()
    if text in names:
        return list(names).index(text)
    all_whole = all(map(_whole, names))
    if _whole(text):
        if tuple(names) == numbers(len(names)):
            raise ValueError(f"{where}: must be from 0 to {len(names) - 1}, got {text}")
        same = [i for i, name in enumerate(names) if all_whole and int(name) == int(text)]
        if len(same) == 1:
            return same[0]
        if not all_whole and int(text) < len(names):
            return int(text)
    near = difflib.get_close_matches(text, list(names), 1, 0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = listed(names) if not all_whole or len(names) <= _SHOWN else f"{names[0]} to {names[-1]}"
    raise ValueError(f"{where}: no class {text!r}{hint or f'; there are {known}'}")


def whole_labels(array: np.ndarray, n: int, path: str) -> Tensor:
    """Classes of ``n`` samples, (n,) whole numbers, or (n, C) zeros and ones where each may have several.

    Raises ``ValueError`` naming the first that is not a class.
    """
    where = f"label_key: {path}"
    if array.ndim == 2 and len(array) == n and array.shape[1] and array.dtype.kind in "biu" and array.max() <= 1:
        if array.min() < 0:
            raise ValueError(f"{where}: must be zeros and ones, where a sample may have several classes")
        return torch.from_numpy(array.astype(bool))
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: must hold {n} whole numbers, zero or above, got {array.dtype} of shape {array.shape}"
        )
    if n and array.min() < 0:
        at = int((array < 0).argmax())
        raise ValueError(f"{where}: must be zero or above, got {array[at]} for sample {at}")
    if n and array.max() >= MOST_CLASSES:
        at = int((array >= MOST_CLASSES).argmax())
        raise ValueError(
            f"{where}: must be below {MOST_CLASSES:,}, got {array[at]} for sample {at}; number the classes from 0"
        )
    return torch.from_numpy(array.astype(np.int64))
