"""Samples that are read from the disk when they are indexed: arrays, and files of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .prefetch import prefetch
from .readers import read_image


class ArrayRows:
    """A NumPy array, in memory or mapped from a file; only the samples asked for are copied."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape = array.shape

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = np.ascontiguousarray(self._array[indices.numpy()])
        return torch.from_numpy(rows if rows.dtype.isnative else rows.astype(rows.dtype.newbyteorder("=")))


class ImageRows:
    """Image files, decoded when they are asked for, one after the other. All must give the shape of the first."""

    def __init__(self, files: Sequence[Path], size: int | tuple[int, int] | None, channels: int) -> None:
        self._files, self._size, self._channels = files, size, channels
        self.shape = (len(files), *self._read(0).shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return stacked([self._checked(i) for i in indices.tolist()])

    def _read(self, i: int) -> Tensor:
        return read_image(self._files[i], self._size, self._channels)

    def _checked(self, i: int) -> Tensor:
        image = self._read(i)
        if image.shape != self.shape[1:]:
            raise ValueError(unequal(self._files[0], self.shape[2:], self._files[i], tuple(image.shape[1:])))
        return image


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images as one tensor: of bytes, or of float32 where one of them has 16 bits."""
    all_bytes = all(image.dtype == torch.uint8 for image in images)
    return torch.stack([image if all_bytes else image.to(torch.float32) for image in images])


def gathered(rows: ImageRows) -> Tensor:
    """All of them in memory: as bytes, or as float32 in 0 … 255 where a file has 16 bits."""
    kept = torch.empty(rows.shape, dtype=torch.uint8)
    first = 0
    for part in prefetch(rows, torch.arange(len(kept)).split(64)):
        if kept.dtype == torch.uint8 and bool((part != part.round()).any()):
            kept = kept.to(torch.float32)
        kept[first : first + len(part)] = part
        first += len(part)
    return kept


def unequal(first: Path, size: tuple[int, ...], other: Path, found: tuple[int, ...]) -> str:
    """The message for two images of different size, each (height, width)."""
    (h0, w0), (h, w) = size, found
    return (
        f"path: images differ in size: {first} is {w0}x{h0} and {other} is {w}x{h} (width x height); "
        "set `size:` to resize and crop them all"
    )
