"""Pairs (x, y): samples, and of each a condition that a network is told, such as a noisy or a small copy of it.

The two come from any two kinds of data, and are matched by name where both have names, as pictures in folders and in
archives have, else by their place. A sample without a partner is never left out in silence: it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Seed
from edm_unified.components.family import Family

from . import splits
from .arrays import Arrays
from .dataset import ConditionKind, Dataset, check_condition
from .fields import Holdout
from .folders import CelebA, ImageFolder, ImageNet
from .image_zip import ImageZip
from .libraries import HuggingFace, TorchVision
from .published import Cifar, Idx, Stl10, Svhn
from .tables import Parquet
from .webdataset import WebDataset

AnyPart = (
    ImageFolder
    | Arrays
    | TorchVision
    | CelebA
    | ImageNet
    | HuggingFace
    | ImageZip
    | WebDataset
    | Parquet
    | Cifar
    | Svhn
    | Stl10
    | Idx
)
"""What a pair may be made of."""


@component
class Pairs:
    """Samples x, and of each a condition y: two folders, two arrays, or any two of the other kinds of data.

    ``samples`` and ``condition``: each a mapping as under ``data:`` itself, or a path whose kind is told by its
    contents. Two arrays of one file are two mappings with another ``key``. ``match``: ``name``, the path of a picture
    within its folder without its suffix, or ``row``, the place in the order of either; null takes the names where both
    have them. What lacks a partner is an error that names the first three. The classes are those of ``samples``, and
    each of the two has a scale of its own.

    ``given_as``: what the condition is to a network: an ``image`` as large as the sample, whose channels are joined
    to it; a ``vector`` (K,); or ``tokens`` (L, K). Null tells image and vector by their shape.

    ``holdout``: a share such as 0.1 of the pairs is held out, chosen by their names (without names, by their place) and
    ``holdout_seed`` (null: 0); ``split: held_out`` is that part, null what is left.
    """

    samples: Annotated[AnyPart, Family("parts of pairs")]
    condition: Annotated[AnyPart, Family("parts of pairs")]
    match: Literal["name", "row"] | None = None
    given_as: ConditionKind | None = None
    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    split: Literal["train", "held_out", "all"] | None = None
    kind: Literal["pairs"] = "pairs"

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split, splits.HOLDOUT_CHOICES)

    def load(self) -> Dataset:
        """Load both and match them. Raises ValueError naming the part that is at fault, or what lacks a partner."""
        x, y = _loaded("samples", self.samples), _loaded("condition", self.condition)
        if self.match == "name" or (self.match is None and x.names is not None and y.names is not None):
            y = y.part(_partners(x, y))
        elif len(x) != len(y):
            raise ValueError(
                f"condition: {y.name} has {len(y):,} rows and {x.name}, the samples, {len(x):,}: the first without a "
                f"partner is row {min(len(x), len(y))} (from 0) of the {'samples' if len(x) > len(y) else 'condition'}"
            )
        kind = self.given_as or ("vector" if len(y.shape) == 1 else "image")
        try:
            check_condition(kind, y.shape, x.shape)
        except ValueError as error:
            raise ValueError(f"condition: {str(error).removeprefix('conditions: ')}") from None
        notes = (*x.notes, *(f"condition: {note}" for note in y.notes))
        whole = replace(x, conditions={kind: y}, notes=notes)
        return splits.without_held_out(whole, self.holdout, self.holdout_seed, self.split)


def _loaded(field: str, source: AnyPart) -> Dataset:
    try:
        return source.load()
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def _partners(x: Dataset, y: Dataset) -> Tensor | None:
    """For each sample of ``x`` the index of that of ``y`` with its name; None where they are in one order already."""
    for field, part in (("samples", x), ("condition", y)):
        if part.names is None:
            raise ValueError(f"match: name: the {field} ({part.name}) have no names; take match: row")
    ours, theirs = x.names or (), y.names or ()
    if ours == theirs and len(set(ours)) == len(ours):
        return None
    places: dict[str, int] = {name: i for i, name in enumerate(theirs)}
    for field, names, different in (("samples", ours, set(ours)), ("condition", theirs, set(places))):
        if len(different) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise ValueError(f"{field}: two are called {twice!r} but for their suffix; rename one")
    alone = [name for name in ours if name not in places]
    if len(alone) == len(ours):
        raise ValueError(
            f"condition: none has the name of a sample: {_first(theirs)} in {y.name}, {_first(ours)} in {x.name}; name "
            "them alike, or take match: row for one order"
        )
    if alone:
        raise ValueError(f"samples: {_lacking(alone, len(ours))} in {y.name}, the condition; add or remove them")
    wanted = set(ours)
    left = [name for name in theirs if name not in wanted]
    if left:
        raise ValueError(f"condition: {_lacking(left, len(theirs))} in {x.name}, the samples; add or remove them")
    return torch.tensor([places[name] for name in ours])


def _lacking(names: Sequence[str], of: int) -> str:
    verb = "has" if len(names) == 1 else "have"
    return f"{len(names):,} of {of:,} {verb} no partner ({_first(names)})"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
