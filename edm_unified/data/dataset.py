"""A data set: samples that are read by index, their classes, and the map to [−1, 1] and back.

A ``Dataset`` keeps its samples as they are stored: bytes stay bytes (a quarter of the memory), an array on disk stays
on disk, a folder of a million photographs is read file by file. ``batch(dataset, indices)`` gives a few of them as the
float32 that a network sees; ``dataset.images`` gives all, which is for data that fit in memory.

The two are one invertible map, ``Scaling``: unit = (raw − shift) / scale. Bytes have shift = scale = 127.5, so that

    0 → −1,   255 → 1,   and  255 − b  →  minus what b becomes, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .prefetch import read

if TYPE_CHECKING:
    from edm_unified.denoisers.exact import GaussianMixture


class Rows(Protocol):
    """Samples as they are stored, read by index: a tensor is one; so are an array on disk and a list of files."""

    @property
    def shape(self) -> Any: ...  # (N, *shape)

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class Scaling(NamedTuple):
    """unit = (raw − shift) / scale, with numbers, or tensors that broadcast against a sample, e.g. (C, 1, 1)."""

    shift: float | Tensor = 0.0
    scale: float | Tensor = 1.0

    def to_unit(self, raw: Tensor) -> Tensor:
        """What is stored as what a network sees, in float32."""
        return (raw.to(torch.float32) - self.shift) / self.scale

    def to_raw(self, unit: Tensor) -> Tensor:
        """The inverse of :meth:`to_unit`, to rounding: in the dtype of ``unit``, neither rounded nor clipped."""
        return unit * self.scale + self.shift

    def then(self, shift: float | Tensor, scale: float | Tensor) -> Scaling:
        """This map, and after it (unit − shift) / scale, as one."""
        return Scaling(self.shift + self.scale * shift, self.scale * scale)


AS_STORED = Scaling()
BYTES = Scaling(127.5, 127.5)
"""Bytes 0 … 255 to [−1, 1]."""


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes (uint8) as float32 in [−1, 1]: b becomes (b − 127.5) / 127.5."""
    return BYTES.to_unit(pixels)


def to_bytes(unit: Tensor) -> Tensor:
    """[−1, 1] as bytes (uint8): the nearest, with what lies outside clipped. The exact inverse of :func:`to_unit`."""
    return BYTES.to_raw(unit).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What ``load()`` returns: images (N, C, H, W), signals (N, C, L) or vectors (N, d).

    ``stored``: the samples as they are kept, read by index. ``labels`` (N,) long, the class of each sample from 0, or
    None. ``scaling``: from what is stored to what a network sees. ``class_names``: in words, where the source has them.
    ``exact``: the ``edm_unified.denoisers.exact`` denoiser of the distribution the samples were drawn from, where that
    is a formula: a function without arguments that makes it. ``notes``: what a user should know of the source, a line
    each. Raises ValueError where labels and samples do not match.
    """

    stored: Rows
    labels: Tensor | None
    name: str
    scaling: Scaling = AS_STORED
    class_names: tuple[str, ...] = ()
    exact: Callable[[], GaussianMixture] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        n, labels = len(self), self.labels
        if labels.shape != (n,) or labels.dtype != torch.long:
            raise ValueError(f"labels: must be {n} whole numbers (long), got {labels.dtype} of {tuple(labels.shape)}")
        if n and int(labels.min()) < 0:
            at = int((labels < 0).nonzero()[0])
            raise ValueError(f"labels: must be 0 or above, got {int(labels[at])} for sample {at}")

    def __len__(self) -> int:
        return int(self.stored.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.stored.shape[1:])

    @property
    def classes(self) -> int:
        """How many classes there are: the largest label and one, or the number of names; 0 without labels."""
        if self.labels is None:
            return 0
        return max(len(self.class_names), int(self.labels.max()) + 1 if len(self) else 0)

    @cached_property
    def images(self) -> Tensor:
        """All samples as float32, (N, *shape), kept once made. For data too large for that, use :func:`batch`."""
        if isinstance(self.stored, Tensor) and self.stored.dtype == torch.float32 and self.scaling is AS_STORED:
            return self.stored
        return batch(self, torch.arange(len(self)))[0]


def batch(dataset: Dataset, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    """The samples at ``indices`` (B,) long: (B, *shape) float32 as a network sees them, and their labels (B,) or None.

    Only these samples are read and converted; from a disk by several threads.
    """
    return prepared(dataset, indices, read(dataset.stored, indices))


def prepared(dataset: Dataset, indices: Tensor, raw: Tensor) -> tuple[Tensor, Tensor | None]:
    """What :func:`batch` gives, where the samples at ``indices`` have been read: ``raw``, as they are stored."""
    samples = dataset.scaling.to_unit(raw).contiguous()
    return samples, None if dataset.labels is None else dataset.labels[indices]
