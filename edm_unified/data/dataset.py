"""A data set: samples that are read by index, their classes, and the map to [−1, 1] and back.

A ``Dataset`` keeps its samples as they are stored: bytes stay bytes (a quarter of the memory), an array on disk stays
on disk, a folder of a million photographs is read file by file. ``batch(dataset, indices)`` gives a few of them as the
float32 that a network sees; ``dataset.images`` gives all, which is for data that fit in memory.

The two are one invertible map, ``Scaling``: unit = (raw − shift) / scale. Bytes have shift = scale = 127.5, so that

    0 → −1,   255 → 1,   and  255 − b  →  minus what b becomes, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from . import order
from .classes import counts, numbers
from .prefetch import read

if TYPE_CHECKING:
    from edm_unified.denoisers.exact import GaussianMixture

    from .kept import Measured


class Rows(Protocol):
    """Samples as they are stored, read by index: a tensor is one; so are an array on disk and a list of files."""

    @property
    def shape(self) -> Any: ...  # (N, *shape)

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class PartRows:
    """The samples at ``indices`` of other rows, read when they are asked for."""

    def __init__(self, stored: Rows, indices: Tensor) -> None:
        self._stored, self._indices = stored, indices
        self.shape = (len(indices), *stored.shape[1:])

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self._stored[self._indices[indices]]


class LaterRows:
    """Samples that are opened when the first of them is asked for: ``number`` of ``shape``, by ``open_rows``."""

    def __init__(self, number: int, shape: tuple[int, ...], open_rows: Callable[[], Rows]) -> None:
        self.shape = (number, *shape)
        self._open, self._rows, self._lock = open_rows, cast("Rows | None", None), Lock()

    def __getitem__(self, indices: Tensor) -> Tensor:
        with self._lock:  # several threads read
            if self._rows is None:
                self._rows = self._open()
        return self._rows[indices]


class Scaling(NamedTuple):
    """unit = (raw − shift) / scale, with numbers, or tensors that broadcast against a sample, e.g. (C, 1, 1)."""

    shift: float | Tensor = 0.0
    scale: float | Tensor = 1.0

    def to_unit(self, raw: Tensor) -> Tensor:
        """What is stored as what a network sees, in float32; numbers of more digits are subtracted from with all."""
        wide = raw if raw.dtype in _WIDE else raw.to(torch.float32)
        return ((wide - self.shift) / self.scale).to(torch.float32)

    def to_raw(self, unit: Tensor) -> Tensor:
        """The inverse of :meth:`to_unit`, to rounding: in the dtype of ``unit``, neither rounded nor clipped."""
        return (unit * self.scale + self.shift).to(unit.dtype)

    def same(self, other: Scaling) -> bool:
        """Whether ``other``, of samples of the same shape, is the same map to the digits of float32."""
        pairs = [[torch.as_tensor(v, dtype=torch.float32) for v in pair] for pair in zip(self, other, strict=True)]
        return all(torch.equal(*torch.broadcast_tensors(*pair)) for pair in pairs)

    def then(self, shift: float | Tensor, scale: float | Tensor) -> Scaling:
        """This map, and after it (unit − shift) / scale, as one."""
        return Scaling(self.shift + self.scale * shift, self.scale * scale)


def between(low: float, high: float) -> Scaling:
    """The map of [low, high] to [−1, 1]."""
    return Scaling((low + high) / 2, (high - low) / 2)


_WIDE = (torch.float64, torch.int32, torch.int64)
"""Types with more digits than float32."""
AS_STORED = Scaling()
BYTES = Scaling(127.5, 127.5)
"""Bytes 0 … 255 to [−1, 1]."""


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes (uint8) as float32 in [−1, 1]: b becomes (b − 127.5) / 127.5."""
    return BYTES.to_unit(pixels)


def to_bytes(unit: Tensor) -> Tensor:
    """[−1, 1] as bytes (uint8): the nearest, with what lies outside clipped. The exact inverse of :func:`to_unit`."""
    return BYTES.to_raw(unit).round().clamp(0, 255).to(torch.uint8)


ConditionKind = Literal["vector", "image", "tokens"]
"""What a sample's condition besides its class may be; a denoiser takes it by that name."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What ``load()`` returns: images (N, C, H, W), signals (N, C, L) or vectors (N, d).

    ``stored``: the samples as they are kept, read by index. ``labels``: (N,) long, the class of each sample from 0, or
    (N, C) bool, which of C classes it has, several or none; or None. ``scaling``: from what is stored to what a network
    sees. ``class_names``: a name for each class; where the source has none they are the numbers in words. ``exact``:
    the ``edm_unified.denoisers.exact`` denoiser of the distribution the samples were drawn from, where that is a
    formula: a function without arguments that makes it. ``notes``: what a user should know of the source, a line each.
    ``unit``: of what is stored, such as K, where it is known. ``extent``: black and white, the two numbers that the
    source says its samples lie between, as they are stored; 0 and 255 of bytes. ``whole``: whether they are whole
    numbers; None, to see for oneself (:attr:`in_whole_numbers`). ``measured``: what a run keeps of data that may not be
    at hand. ``names``: of each sample, where the source has one, such as the path of a picture without its suffix.

    ``conditions``: what is known of each sample besides its class, by the name under which a denoiser takes it:
    ``vector`` (N, K), ``image`` (N, C, *sides), as large as the sample, ``tokens`` (N, L, K). Each is a data set of its
    own, with its scale and unit, whose sample i belongs to sample i here; :func:`conditions_of` reads them.

    Raises ValueError where labels, names or conditions do not match the samples.
    """

    stored: Rows
    labels: Tensor | None
    name: str
    scaling: Scaling = AS_STORED
    class_names: tuple[str, ...] = ()
    exact: Callable[[], GaussianMixture] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    unit: str = ""
    extent: tuple[float, float] | None = None
    whole: bool | None = None
    measured: Measured | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = field(default=None, repr=False)
    conditions: Mapping[ConditionKind, Dataset] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.names is not None and len(self.names) != len(self):
            raise ValueError(f"names: must be {len(self)}, one for each sample, got {len(self.names)}")
        for kind, condition in self.conditions.items():
            check_condition(kind, condition.shape, self.shape)
            if len(condition) != len(self):
                raise ValueError(f"conditions: {kind}: must be {len(self)}, one for each sample, got {len(condition)}")
        if self.extent is None and self.scaling is BYTES:
            object.__setattr__(self, "extent", (0.0, 255.0))
        if self.labels is None:
            return
        n, labels = len(self), self.labels
        several = labels.dtype == torch.bool and labels.ndim == 2 and len(labels) == n
        if not several and (labels.shape != (n,) or labels.dtype != torch.long):
            raise ValueError(
                f"labels: must be {n} whole numbers (long), or {n} rows of bool, got {labels.dtype} of "
                f"{tuple(labels.shape)}"
            )
        if n and not several and int(labels.min()) < 0:
            at = int((labels < 0).nonzero()[0])
            raise ValueError(f"labels: must be 0 or above, got {int(labels[at])} for sample {at}")
        known = labels.shape[1] if several else int(labels.max()) + 1 if n else 0
        names = self.class_names
        if known > len(names) or (several and known < len(names)):
            if names:
                raise ValueError(f"class_names: must be {known}, one for each class, got {len(names)}")
            object.__setattr__(self, "class_names", numbers(known))

    def __len__(self) -> int:
        return int(self.stored.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.stored.shape[1:])

    @property
    def classes(self) -> int:
        """How many classes there are, those without samples too; 0 without labels."""
        return 0 if self.labels is None else len(self.class_names)

    @property
    def several(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels is not None and self.labels.ndim == 2

    @property
    def class_counts(self) -> list[int]:
        """How many samples each class has."""
        return [] if self.labels is None else counts(self.labels, self.classes)

    def part(self, indices: Tensor | None) -> Dataset:
        """The samples at ``indices`` (n,) long alone, with the same classes and scale; None is all of them."""
        if indices is None:
            return self
        in_memory = isinstance(self.stored, Tensor)
        stored = self.stored[indices] if in_memory else PartRows(self.stored, indices)
        labels = None if self.labels is None else self.labels[indices]
        names = None if self.names is None else tuple(self.names[i] for i in indices.tolist())
        conditions = {kind: condition.part(indices) for kind, condition in self.conditions.items()}
        return replace(self, stored=stored, labels=labels, measured=None, names=names, conditions=conditions)

    @cached_property
    def in_whole_numbers(self) -> bool:
        """Whether samples are whole numbers that a scale is known of, as grey levels are, whatever type they have.

        As ``whole`` says; else all that are in memory are looked at, and of those on a disk some, spread over all.
        """
        if self.whole is not None:
            return self.whole
        n = len(self)
        some = self.stored if isinstance(self.stored, Tensor) else self.stored[order.indices(n, 0, 0, min(n, 256))]
        if not some.is_floating_point():
            return True
        return self.scaling is not AS_STORED and bool((some == some.round()).all())

    @property
    def grey_levels(self) -> tuple[int, int | None]:
        """Of samples in whole numbers, the lowest that ``extent`` allows and how many there are; (0, None) without."""
        if self.extent is None:
            return 0, None
        lowest, highest = math.ceil(self.extent[0]), math.floor(self.extent[1])
        return lowest, highest - lowest + 1

    @cached_property
    def images(self) -> Tensor:
        """All samples as float32, (N, *shape), kept once made. For data too large for that, use :func:`batch`."""
        if isinstance(self.stored, Tensor) and self.stored.dtype == torch.float32 and self.scaling is AS_STORED:
            return self.stored
        return batch(self, torch.arange(len(self)))[0]


def batch(dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    """The samples at ``indices`` (B,) long, (B, *shape) float32 as a network sees them, and their labels or None.

    Only these samples are read and converted; from a disk by several threads.
    """
    return prepared(dataset, indices, read(dataset.stored, indices))


def prepared(dataset: Dataset, indices: Tensor, raw: Tensor) -> tuple[Tensor, Tensor | None]:
    """What :func:`batch` gives, where the samples at ``indices`` have been read: ``raw``, as they are stored."""
    samples = dataset.scaling.to_unit(raw).contiguous()
    return samples, None if dataset.labels is None else dataset.labels[indices]


def conditions_of(dataset: Dataset, indices: Tensor) -> dict[str, Tensor]:
    """What a denoiser is told of the samples at ``indices`` (B,) long: ``label`` and each of the conditions, by name.

    Labels are (B,) long, or (B, classes) bool; conditions (B, *shape) float32, in the scale of the network.
    """
    found = {} if dataset.labels is None else {"label": dataset.labels[indices]}
    return found | {kind: batch(condition, indices)[0] for kind, condition in dataset.conditions.items()}


def check_condition(kind: str, shape: tuple[int, ...], sample: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless a condition of that ``kind`` may have ``shape`` for samples of shape ``sample``."""
    if kind == "image":
        if len(shape) != len(sample) or len(shape) < 2 or shape[1:] != sample[1:]:
            raise ValueError(
                f"conditions: image: is of shape {_by(shape)} and its sample of {_by(sample)}: an image is as large as "
                "the sample, but for its channels; resize one, or take another kind of condition"
            )
        return
    axes = {"vector": 1, "tokens": 2}.get(kind)
    if axes is None:
        raise ValueError(f"conditions: unknown {kind!r}; must be one of vector, image, tokens")
    if len(shape) != axes:
        what = "a vector (K,)" if kind == "vector" else "a list of vectors (L, K)"
        raise ValueError(f"conditions: {kind}: must be {what}, and is of shape {_by(shape)}")


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"
