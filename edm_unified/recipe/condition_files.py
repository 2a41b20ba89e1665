"""Conditions from files: embeddings of a text, the values of a sensor, whatever a network needs besides x and σ.

``sampler.cond`` and ``--cond`` name them: ``FILE``, whose arrays have the names of the conditions (``.npz``,
``.safetensors``) or which holds one array (``.npy``); or ``NAME=FILE``, with commas between several. An array of one
row goes with every sample; of several rows, row i goes with sample i. A dot in a name is a mapping in a mapping:
``added_cond_kwargs.text_embeds``. A name that is given twice is that of the later file.

What is read are numbers alone; nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.components import paths
from edm_unified.data import Dataset
from edm_unified.data.dataset import batch
from edm_unified.interop import files

SUFFIXES = (".npy", ".npz", ".safetensors")
MOST_OF_DATA = 4096
"""How many samples may be drawn with the conditions of the data, one after the other."""


class Conditions:
    """What every call of a denoiser is told besides x, σ and a class. ``fingerprint`` changes with the numbers.

    Raises ``ValueError``, begun with ``cond: ``, for a file that cannot be read, arrays without a name, and arrays of
    different numbers of rows.
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self.arrays = dict(arrays)
        counts = {name: len(array) for name, array in self.arrays.items() if array.ndim and len(array) != 1}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{name} has {count:,}" for name, count in counts.items())
            raise ValueError(f"cond: {shown} rows; give one row for all samples, or as many rows of each")
        self.count = next(iter(counts.values()), None)

    @classmethod
    def read(cls, words: str, needs: Sequence[str] = ()) -> Conditions:
        """Those that ``words`` name. ``needs``: what the denoiser asks for, whose name an array without one gets."""
        found: dict[str, Tensor] = {}
        for name, file in parse(words):
            arrays = dict(_arrays(paths.expanded(file, "cond"), file))
            if name:
                if len(arrays) != 1:
                    raise ValueError(
                        f"cond: {file}: holds {len(arrays)} arrays ({_names(arrays)}); leave the name {name!r} out, or "
                        "save one array"
                    )
                arrays = {name: next(iter(arrays.values()))}
            elif "" in arrays:
                if len(needs) != 1:
                    wanted = f"; this network needs {', '.join(needs)}" if needs else ""
                    raise ValueError(f"cond: {file}: is an array without a name; write NAME={file}{wanted}")
                arrays = {needs[0]: arrays[""]}
            found |= arrays
        return cls(found)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and numbers."""
        whole = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            plain = array.contiguous()
            whole.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            whole.update(plain.view(torch.uint8).numpy().tobytes() if plain.ndim else str(plain.item()).encode())
        return whole.hexdigest()

    def rows(self, count: int, first: int = 0, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Those of samples ``first`` … first + count − 1, by their names."""
        if self.count is not None and first + count > self.count:
            raise ValueError(
                f"cond: has {self.count:,} rows, and sample {max(first, self.count):,} is asked for; draw "
                f"{self.count:,} at most, or give one row for all"
            )
        nested: dict[str, Any] = {}
        for name, array in self.arrays.items():
            *outer, last = name.split(".")
            place = nested
            for part in outer:
                place = place.setdefault(part, {})
            of_all = array.ndim == 0 or len(array) == 1
            place[last] = (array if of_all else array[first : first + count]).to(device)
        return nested


def parse(words: str) -> list[tuple[str, str]]:
    """Names and files: ``a=x.npy,b=y.npy``, ``all.npz``. A comma ends a file only where ``NAME=`` follows."""
    parts = [part.strip() for part in re.split(r",(?=\s*[A-Za-z_][\w.]*=)", words)]
    found = []
    for part in parts:
        named = re.fullmatch(r"([A-Za-z_][\w.]*)=(.*)", part, re.DOTALL)
        name, file = (named[1], named[2].strip()) if named and not Path(part).is_file() else ("", part)
        if not file:
            raise ValueError(f"cond: {words!r}: must be FILE or NAME=FILE, such as encoder_hidden_states=text.npy")
        found.append((name, file))
    return found


def _arrays(place: Path, label: str) -> Iterator[tuple[str, Tensor]]:
    paths.regular(place, f"cond: {label}")
    if not place.is_file():
        raise ValueError(f"cond: {label}: {'is a folder' if place.is_dir() else 'no such file'}")
    if place.suffix not in SUFFIXES:
        raise ValueError(f"cond: {label}: must end in {', '.join(SUFFIXES)}")
    if place.suffix == ".safetensors":
        try:
            yield from files.read_tensors(place).items()
        except ValueError as error:
            raise ValueError(f"cond: {error}") from None
        return
    try:
        loaded = np.load(place, allow_pickle=False)
        named = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # NumPy and zipfile have many ways of saying that a file is damaged
        words = " ".join(str(error).split())[:120]
        raise ValueError(f"cond: {label}: is not a readable file of NumPy ({words})") from None
    for name, array in named.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"cond: {label}: {name or 'its array'} holds {array.dtype}, not numbers")
        native = array.astype(array.dtype.newbyteorder("="))
        if native.dtype.kind == "f" and native.dtype.itemsize > 8:
            native = native.astype(np.float64)
        yield name, torch.from_numpy(native.astype(np.int64) if native.dtype.kind == "u" else native)


def _names(arrays: Mapping[str, Tensor]) -> str:
    shown = ", ".join(list(arrays)[:3])
    return f"{shown}, …" if len(arrays) > 3 else shown


def given(
    words: str | None, denoiser: Any, where: str = "sampler.cond", dataset: Dataset | None = None
) -> Conditions | None:
    """The conditions that ``words`` name, for ``denoiser``. Raises ``ValueError`` for what it does not take or lacks.

    Without words they are those of the ``dataset``, where it has what the denoiser needs: sample i goes with the
    condition of sample i of the data. What is read from files is in the units of the data.

    What a denoiser takes it says itself, by ``takes(name)``, and what it needs by ``needs``; see
    :class:`~edm_unified.training.trained_denoiser.TrainedDenoiser`.
    """
    needs = tuple(getattr(denoiser, "needs", ()))
    if words is None:
        if needs and dataset is not None and len(dataset) and set(needs) <= dataset.conditions.keys():
            return Conditions({kind: _rows_of(part) for kind, part in dataset.conditions.items() if kind in needs})
        if needs:
            raise ValueError(
                f"{where}: missing; this network needs {', '.join(needs)}: give --cond {needs[0]}=FILE, a file .npy, "
                ".npz or .safetensors"
            )
        return None
    try:
        found = Conditions.read(words, needs)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('cond: ')}") from None
    names = list(dict.fromkeys(name.partition(".")[0] for name in found.arrays))
    takes = getattr(denoiser, "takes", None)
    if takes is None or not all(map(takes, names)):
        wrong = next((name for name in names if takes is None or not takes(name)), names[0])
        asks = f"; it needs {', '.join(needs)}" if needs else "; leave it out"
        raise ValueError(f"{where}: this denoiser takes no condition {wrong!r}{asks}")
    if missing := [name for name in needs if name not in names]:
        raise ValueError(f"{where}: {missing[0]}: missing; this network needs {', '.join(needs)}")
    scale = getattr(denoiser, "in_network_scale", None)
    if scale is None:
        return found
    try:
        return Conditions({name: scale(name, array) for name, array in found.arrays.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _rows_of(condition: Dataset) -> Tensor:
    """Up to :data:`MOST_OF_DATA` conditions, as a network takes them."""
    return batch(condition, torch.arange(min(MOST_OF_DATA, len(condition))))[0]
