"""Parts of data that are kept apart: folders such as train/ and val/ beside each other, and samples that are held out.

Which samples a share of 0.1 holds out is a function of a seed and, of files, of their names, of other samples, of their
place: sample k is held out where u_k < 0.1, with u_k uniform. So the part is about that share and not to the sample;
it is the same on every machine and in every command, and samples that are added later move none from one side to the
other.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .dataset import Dataset

TRAIN, HELD_OUT, ALL = "train", "held_out", "all"
_TRAINING = ("train", "training")
FOLDERS = (*_TRAINING, "val", "valid", "validation", "dev", "test", "testing")
"""Names of folders that are parts of the data and no classes."""
_OWN = int.from_bytes(b"held out", "big")


def check(holdout: float | None, seed: int | None, split: str | None, choices: Sequence[str] | None = None) -> None:
    """Raise ``ValueError``, begun with the field, for values that cannot be. ``choices``: the splits there are."""
    if seed is not None and holdout is None:
        raise ValueError("holdout_seed: nothing is held out; set holdout: 0.1, or leave it out")
    if holdout is None and (split == HELD_OUT or (choices is not None and split not in (None, ALL))):
        raise ValueError(f"split: {split}: nothing is held out; set holdout: 0.1 too, as it was for training")


def check_train(train: bool, split: str | None) -> None:
    """Raise ``ValueError`` where the older field ``train`` says other than ``split``."""
    if not train and split is not None:
        raise ValueError(f"split: {split}: train: false names the other part already; leave out train")


HOLDOUT_CHOICES = (TRAIN, HELD_OUT, ALL)
"""The splits of data that have no folders of them."""


def kept(samples: int | Sequence[str], holdout: float | None, seed: int | None, split: str | None) -> Tensor | None:
    """The indices of the part that ``split`` names, of so many samples, or of files of those names; None for all.

    Without ``split`` it is what is not held out. Of a part that is not for training, such as ``val``, nothing is.
    Raises ``ValueError`` where one of the two parts has no sample.
    """
    if holdout is None or (split not in (None, HELD_OUT) and split.lower() not in _TRAINING):
        return None
    held = _held(samples, holdout, seed or 0)
    if held.all() or not held.any():
        raise ValueError(f"holdout: {holdout:g} of {len(held)} samples leaves one part empty; take another share")
    return torch.from_numpy(np.flatnonzero(held if split == HELD_OUT else ~held))


def without_held_out(dataset: Dataset, holdout: float | None, seed: int | None, split: str | None) -> Dataset:
    """``dataset`` but for what :func:`kept` leaves out, by the names of its samples, or without them by their place."""
    return dataset.part(kept(dataset.names or len(dataset), holdout, seed, split))


def _held(samples: int | Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which samples are held out, (N,) bool."""
    if isinstance(samples, int):  # the words of a bit generator are the same whatever follows them
        words = np.random.PCG64(np.random.SeedSequence([_OWN, seed])).random_raw(samples)
    else:
        key = seed.to_bytes(8, "little")
        digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8, key=key) for name in samples)
        words = np.frombuffer(b"".join(digest.digest() for digest in digests), "<u8")
    found: np.ndarray = words.astype(np.float64) / 2.0**64 < share
    return found


def folders(root: Path) -> dict[str, Path]:
    """The folders of ``root`` that are splits, by name; none where its folders are something else.

    They are splits where there are two, one of them for training, or where there is nothing else.
    """
    with os.scandir(root) as entries:  # of many thousand files, which have not to be asked one by one
        inside = [root / entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    found = {entry.name: entry for entry in sorted(inside) if entry.name.lower() in FOLDERS}
    if len(found) == len(inside) or (len(found) > 1 and any(name.lower() in _TRAINING for name in found)):
        return found
    return {}


def chosen(found: dict[str, Path], split: str | None, where: str) -> list[Path]:
    """The folders that ``split`` names: that one, all, or, without it and where it is held out, that for training.

    ``val`` is also ``validation`` and the like. Raises ``ValueError``, begun with ``where``.
    """
    if split == ALL:
        return list(found.values())
    wanted = TRAIN if split in (None, HELD_OUT) else str(split)
    alike = next((group for group in _ALIKE if wanted.lower() in group), (wanted.lower(),))
    match = [path for name, path in found.items() if name == wanted] or [
        path for name, path in found.items() if name.lower() in alike
    ]
    if not match:
        raise ValueError(f"{where}: there is no {wanted!r}; there are {', '.join(found)}, and all")
    return match[:1]


_ALIKE = (_TRAINING, ("val", "valid", "validation", "dev"), ("test", "testing"))
