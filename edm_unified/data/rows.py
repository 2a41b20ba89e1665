"""Samples that are read when they are indexed: arrays, and encoded pictures in files, archives and tables."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from torch import Tensor

from .images import Decoding, check_header, count_pages, read_image
from .layouts import ArrayLike
from .prefetch import prefetch

IN_MEMORY = 2 * 2**30
"""Bytes of pixels up to which pictures are kept in memory once they have been decoded."""


class ArrayRows:
    """An array, in memory or on a disk; only the samples asked for are copied."""

    def __init__(self, array: ArrayLike) -> None:
        self._array = array
        self.shape = tuple(array.shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = np.ascontiguousarray(self._array[indices.numpy()])
        wider = _WIDER.get(rows.dtype.newbyteorder("=").str[1:])
        if wider is not None or not rows.dtype.isnative:
            rows = rows.astype(wider or rows.dtype.newbyteorder("="))
        return torch.from_numpy(rows)


_WIDER = {"u2": "i4", "u4": "i8", "b1": "u1"}
"""Types with which torch does not count, and those that hold the same numbers."""


class Pictures(Protocol):
    """Encoded pictures: files, members of an archive, or rows of a table."""

    def __len__(self) -> int: ...

    def where(self, i: int) -> str:
        """What a message about picture ``i`` starts with: ``path: folder/7.png``."""
        ...

    def open(self, i: int) -> Path | IO[bytes]:
        """Where its bytes are to be read."""
        ...

    def page(self, i: int) -> int | None:
        """Which page of that file it is; None where it is the file."""
        ...


class Files:
    """Pictures that are files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def where(self, i: int) -> str:
        return f"path: {self._files[i]}"

    def open(self, i: int) -> Path:
        return self._files[i]

    def page(self, i: int) -> None:
        return None


class Pages:
    """The pages of files, one after the other; ``counts``: how many each file has."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.counts = torch.tensor([count_pages(file, f"path: {file}") for file in files])
        self._ends = self.counts.cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def where(self, i: int) -> str:
        file, page = self._place(i)
        return f"path: {self._files[file]}, page {page + 1}"

    def open(self, i: int) -> Path:
        return self._files[self._place(i)[0]]

    def page(self, i: int) -> int:
        return self._place(i)[1]

    def _place(self, i: int) -> tuple[int, int]:
        file = int(torch.searchsorted(self._ends, i, right=True))
        return file, i - int(self._ends[file] - self.counts[file])


class ImageRows:
    """Pictures, decoded when they are asked for, one after the other. All must give the shape of the first."""

    def __init__(self, pictures: Pictures, decoding: Decoding) -> None:
        self._pictures, self._decoding = pictures, decoding
        first = self._read(0)
        self.shape, self.dtype = (len(pictures), *first.shape), first.dtype

    def __getitem__(self, indices: Tensor) -> Tensor:
        return stacked([self._checked(i) for i in indices.tolist()])

    def check_headers(self) -> None:
        """Raise ValueError for a picture whose header is damaged, or says another size or another kind of pixels.

        That is told now, and not in the middle of training.
        """
        height, width = self.shape[-2:]
        for i in range(len(self._pictures)):
            found = check_header(
                self._pictures.open(i), self._decoding, self._pictures.where(i), self._pictures.page(i)
            )
            if self._decoding.size is None and found != (height, width):
                raise ValueError(self._unequal(i, (*self.shape[1:-2], *found)))

    def _read(self, i: int) -> Tensor:
        pictures = self._pictures
        return read_image(pictures.open(i), self._decoding, pictures.where(i), pictures.page(i))

    def _checked(self, i: int) -> Tensor:
        image = self._read(i)
        if image.shape != self.shape[1:]:
            raise ValueError(self._unequal(i, tuple(image.shape)))
        return image

    def _unequal(self, i: int, found: tuple[int, ...]) -> str:
        """The message for picture ``i``, of the shape ``found``, which is not that of the first."""
        (h0, w0), (h, w) = self.shape[-2:], found[-2:]
        first, other = (self._pictures.where(k).removeprefix("path: ") for k in (0, i))
        if (h0, w0) == (h, w):
            return (
                f"path: {first} has {self.shape[-3]} pages and {other} has {found[-3]}; a sample is one number of them"
            )
        return (
            f"path: images differ in size: {first} is {w0}x{h0} and {other} is {w}x{h} (width x height); "
            "set `size:` to resize and crop them all"
        )


class KeptRows:
    """Pictures that stay in memory once they have been decoded; each is decoded when it is first asked for.

    They are kept as bytes, or, from the first picture on that is not of bytes, as float32. Several threads may ask.
    """

    def __init__(self, rows: ImageRows) -> None:
        self._rows, self.shape = rows, rows.shape
        self._kept = torch.empty(rows.shape, dtype=rows.dtype)  # the system gives the memory when it is written to
        self._there = torch.zeros(len(self._kept), dtype=torch.bool)
        self._lock = threading.Lock()

    def __getitem__(self, indices: Tensor) -> Tensor:
        missing = indices[~self._there[indices]].unique()
        if len(missing):
            read = self._rows[missing]
            with self._lock:
                if read.is_floating_point() and not self._kept.is_floating_point():
                    self._kept = self._kept.to(torch.float32)
                self._kept[missing] = read.to(self._kept.dtype)
                self._there[missing] = True
        with self._lock:
            return self._kept[indices]


def pictures_in_memory_or_not(
    pictures: Pictures, decoding: Decoding, in_memory: bool | None
) -> ImageRows | KeptRows | Tensor:
    """The pictures, to be decoded when they are asked for.

    ``in_memory``: None keeps up to ``IN_MEMORY`` bytes of pixels once they are decoded; true decodes all now; false
    keeps none.
    """
    rows = ImageRows(pictures, decoding)
    if in_memory:
        return gathered(rows)
    kept = in_memory is None and math.prod(rows.shape) * rows.dtype.itemsize <= IN_MEMORY
    if kept or decoding.size is None:
        rows.check_headers()
    return KeptRows(rows) if kept else rows


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
