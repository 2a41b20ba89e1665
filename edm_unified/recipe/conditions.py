"""The class that samples are conditioned on: from what a user calls it to what a denoiser is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edm_unified.data import Dataset
from edm_unified.data.classes import number_of

Words = str | int | None


def names_of(denoiser: Any, dataset: Dataset) -> tuple[str, ...]:
    """The classes of ``denoiser`` by name: those a network was trained with, or those of the data of a closed form."""
    own = getattr(denoiser, "class_names", None)
    return own if own is not None else () if dataset.several else dataset.class_names


def label_of(words: Words, denoiser: Any, dataset: Dataset, where: str = "label") -> int | Tensor | None:
    """The class of that name or number; of several, ``red,circle``, whether each class is there, (classes,) bool.

    None is None, and −1 no class. Raises ``ValueError``, begun with ``where``, for a name that there is not.
    """
    if words is None or isinstance(words, int):
        return words
    names, text = names_of(denoiser, dataset), words.strip()
    if text == "-1":
        return -1
    if not names:
        if text.isdigit():
            return int(text)  # the denoiser says that it has none
        raise ValueError(f"{where}: this denoiser has no classes; leave it out")
    parts = [text] if text in names or "," not in text else text.split(",")
    found = [number_of(part, names, where) for part in parts]
    if len(found) == 1:
        return found[0]
    if not getattr(denoiser, "several", False):
        raise ValueError(f"{where}: {text}: each sample of these data has one class; name one")
    return torch.isin(torch.arange(len(names)), torch.tensor(found))


def rows(label: int | Tensor, count: int) -> Tensor:
    """``label`` for each of ``count`` samples: (count,) long or (count, classes) bool."""
    return torch.as_tensor(label).expand(count, *torch.as_tensor(label).shape).clone()
