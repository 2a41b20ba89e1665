"""The tars of WebDataset, read without unpacking: indexed by their headers, each sample read when it is asked for."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from edm_unified.components import paths
from edm_unified.components.component import component

from .array_files.numpy_files import check_claim
from .classes import MOST_CLASSES, Classes, by_name, numbers
from .dataset import BYTES, Dataset
from .errors import RefusedError, readable
from .fields import Channels, Extent, Size, Standardise, existing
from .image_zip import MOST_MEMBER
from .images import Decoding
from .measured import Described, check_scale, described
from .rows import pictures_in_memory_or_not

_PICTURES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff")


@component
class WebDataset:
    """Tars in which the files of one sample have one name and several endings, as the webdataset library writes them:
    ``000012.jpg``, ``000012.cls``, ``000012.json``. They are read where they lie and need not be in order.

    ``path``: a tar, a folder of tars, or a pattern such as ``train-{000..146}.tar``. ``image``: the ending of the
    samples, a picture's or ``npy``; null: the first that the first sample has. ``label``: the ending of the classes:
    ``cls`` (a number, as text), ``txt`` (a word), or ``json.KEY``, a key of the sample's json; null: cls, where the
    samples have it. ``size``, ``channels`` and ``in_memory`` as for image_folder; ``range`` and ``standardise`` as for
    arrays, for npy. Tars that are compressed as a whole are refused: nothing in them can be found without reading all.
    """

    path: str
    image: str | None = None
    label: str | None = None
    size: Size | None = None
    channels: Channels = 3
    in_memory: bool | None = None
    range: Extent | None = None
    standardise: Standardise | None = None
    kind: Literal["webdataset"] = "webdataset"

    def __post_init__(self) -> None:
        check_scale(self.range, self.standardise)

    def load(self) -> Dataset:
        """Read the headers of the tars. Raises ValueError naming the tar and the member that is at fault."""
        shards = _shards(self.path)
        samples = [sample for shard in shards for sample in _samples(shard)]
        if not samples:
            raise ValueError(f"path: {self.path}: no file in these tars")
        ending = self.image or next((name for name in (*_PICTURES, "npy") if name in samples[0].members), None)
        if ending is None:
            endings = ", ".join(sorted(samples[0].members))
            raise ValueError(
                f"image: {self.path} has neither pictures nor npy in its first sample ({endings}); name one"
            )
        missing = next((sample for sample in samples if ending not in sample.members), None)
        if missing is not None:
            raise ValueError(f"image: {missing.shard}: the sample {missing.key} has no .{ending}; name another ending")
        classes, notes = self._classes(samples)
        labels, known = (None, ()) if classes is None else classes[:2]
        members = _Members(samples, ending)
        name = shards[0].name.split(".")[0] if len(shards) == 1 else shards[0].parent.resolve().name
        if ending.rpartition(".")[2] == "npy":
            about: Described = described(_NpyMembers(members), f"path: {self.path}", self.range, self.standardise)
            return about.dataset(labels, name, known, tuple(notes))
        for field in ("range", "standardise"):
            if getattr(self, field) is not None:
                raise ValueError(f"{field}: belongs to npy, and the samples of {self.path} are pictures; leave it out")
        stored = pictures_in_memory_or_not(members, Decoding(self.size, self.channels), self.in_memory)
        return Dataset(stored, labels, name, BYTES, known, notes=tuple(notes))

    def _classes(self, samples: Sequence[_Sample]) -> tuple[Classes | None, list[str]]:
        first = samples[0].members
        if self.label is None and "cls" not in first:
            other = [name for name in ("json", "txt") if name in first]
            told = f"no classes: no .cls; label: {'json.KEY' if other[:1] == ['json'] else 'txt'} takes them from there"
            return None, [told] if other else []
        ending, _, key = (self.label or "cls").partition(".")
        values: list[Any] = []
        with _Handles() as handles:
            for sample in samples:
                where = f"label: {sample.shard}: {sample.key}.{ending}"
                if ending not in sample.members:
                    raise ValueError(f"{where}: is not there; every sample needs its class")
                values.append(_value(handles.read(sample, ending, where), key, where))
        return _classes_of(values, f"label: {self.path}"), []


def _value(content: bytes, key: str, where: str) -> Any:
    """The class that a member holds: a whole number, a word, or a list of words."""
    try:
        text = content.decode("utf-8").strip()
        value: Any = json.loads(text) if key or re.fullmatch(r"-?[0-9]{1,18}", text) else text
        for part in key.split(".") if key else ():
            value = value[part]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{where}: holds no class{f' under {key!r}' if key else ''}") from None
    if isinstance(value, bool) or not isinstance(value, (int, str, list)) or value == "":
        raise ValueError(f"{where}: a class must be a whole number, a word or a list of words, got {str(value)[:40]!r}")
    return value


def _classes_of(values: Sequence[Any], where: str) -> Classes:
    if all(isinstance(value, int) for value in values):
        low, high = min(values), max(values)
        if low < 0 or high >= MOST_CLASSES:
            raise ValueError(
                f"{where}: classes must be from 0 and below {MOST_CLASSES:,}, got {low if low < 0 else high}"
            )
        return Classes(torch.tensor(values, dtype=torch.long), numbers(high + 1), numbered=True)
    return by_name([tuple(map(str, value)) if isinstance(value, list) else str(value) for value in values])


class _Place(NamedTuple):
    offset: int
    size: int


class _Sample(NamedTuple):
    shard: Path
    key: str
    members: Mapping[str, _Place]


def _shards(path: str) -> list[Path]:
    """The tars that ``path`` names, in the order of their names."""
    match = re.fullmatch(r"(.*)\{([0-9]+)\.\.([0-9]+)\}(.*)", path)
    if match:
        first, last, width = int(match[2]), int(match[3]), len(match[2])
        if not first <= last < first + 1_000_000:
            raise ValueError(f"path: {path}: must count up, and not above a million")
        return [existing(f"{match[1]}{i:0{width}d}{match[4]}", "tar") for i in range(first, last + 1)]
    place = paths.regular(paths.expanded(path, "path"), f"path: {path}")
    if place.is_dir():
        found = sorted(file for file in place.iterdir() if file.suffix == ".tar" and not file.name.startswith("."))
        if not found:
            raise ValueError(f"path: {path}: no .tar in this folder")
        return found
    return [existing(path, "tar")]


def _samples(shard: Path) -> list[_Sample]:
    """The samples of one tar, by the names up to the first dot after the last slash."""
    where = f"path: {shard}"
    with shard.open("rb") as opened:
        if opened.read(2) == b"\x1f\x8b":
            raise ValueError(
                f"{where}: is compressed as a whole; unpack it once with gunzip, the pictures stay as they are"
            )
    size = os.path.getsize(shard)
    found: dict[str, dict[str, _Place]] = {}
    with readable(where, "tar", "; make it again"), tarfile.open(shard, "r:") as archive:
        for member in archive:
            base = member.name.rpartition("/")[2]
            if not member.isreg() or base.startswith(("._", ".")) or "." not in base:
                continue
            if member.issparse():
                raise RefusedError(f"{where}: {member.name} is stored with holes; make the tar again without --sparse")
            if member.offset_data + member.size > size or member.size > MOST_MEMBER:
                raise RefusedError(f"{where}: {member.name} reaches beyond the end; it was cut off, copy it again")
            key, _, ending = member.name.removesuffix(base), *base.partition(".")[::2]
            members = found.setdefault(f"{key}{_}", {})
            if ending.lower() in members:
                raise RefusedError(f"{where}: {member.name} is there twice; each sample needs a name of its own")
            members[ending.lower()] = _Place(member.offset_data, member.size)
            setattr(archive, "members", [])  # noqa: B010  # tarfile keeps them all, and types do not know the list
    return [_Sample(shard, key, members) for key, members in found.items()]


class _Handles:
    """Members that are read one after the other; the tar of the last stays open."""

    def __init__(self) -> None:
        self._shard: Path | None = None
        self._file: io.BufferedReader | None = None

    def __enter__(self) -> _Handles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, sample: _Sample, ending: str, where: str) -> bytes:
        place = sample.members[ending]
        with readable(where, "member of the tar"):
            if self._shard != sample.shard or self._file is None:
                self.__exit__()
                self._shard, self._file = sample.shard, sample.shard.open("rb")
            self._file.seek(place.offset)
            content = self._file.read(place.size)
            if len(content) != place.size:
                raise RefusedError(f"{where}: was cut off; copy the tar again")
            return content


class _Members:
    """One member of each sample; each is read when it is asked for."""

    def __init__(self, samples: Sequence[_Sample], ending: str) -> None:
        self._samples, self._ending = samples, ending

    def __len__(self) -> int:
        return len(self._samples)

    def where(self, i: int) -> str:
        return f"path: {self._samples[i].shard}: {self._samples[i].key}.{self._ending}"

    def read(self, i: int) -> bytes:
        with _Handles() as handles:
            return handles.read(self._samples[i], self._ending, self.where(i))

    def open(self, i: int) -> io.BytesIO:
        return io.BytesIO(self.read(i))

    def page(self, i: int) -> None:
        return None


class _NpyMembers:
    """Members that are arrays of NumPy, all of the shape and type of the first, as one array."""

    def __init__(self, members: _Members) -> None:
        self._members = members
        first = self._one(0)
        self.shape, self.dtype = (len(members), *first.shape), first.dtype

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = range(len(self._members))[rows] if isinstance(rows, slice) else rows
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for place, i in enumerate(chosen):
            one = self._one(int(i))
            if one.shape != self.shape[1:] or one.dtype != self.dtype:
                raise ValueError(
                    f"{self._members.where(int(i))}: is {one.dtype} of {one.shape}, and the first sample is "
                    f"{self.dtype} of {self.shape[1:]}; all must be alike"
                )
            found[place] = one
        return found

    def _one(self, i: int) -> np.ndarray:
        content, where = self._members.read(i), self._members.where(i)
        with readable(where, "NumPy file"):
            check_claim(io.BytesIO(content), len(content), where)
            found: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            return found
