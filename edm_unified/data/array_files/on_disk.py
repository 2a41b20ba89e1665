"""Arrays of HDF5, NetCDF and Zarr that stay on the disk: their rows, unpacked, and checks of what headers claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edm_unified.data.array_files.chosen import MOST_DEFLATED
from edm_unified.data.errors import RefusedError


class Packed(NamedTuple):
    """value = raw · scale + offset, and NaN for ``missing``: how NetCDF's conventions store numbers."""

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Packed | None:
        def number(name: str) -> tuple[float, ...]:
            value = attributes.get(name)
            array = np.asarray(value).reshape(-1) if value is not None else np.empty(0)
            return tuple(map(float, array)) if array.dtype.kind in "fiu" else ()

        scale, offset = number("scale_factor")[:1], number("add_offset")[:1]
        missing = number("_FillValue") + number("missing_value")
        if not (scale or offset or missing):
            return None
        return cls(scale[0] if scale else 1.0, offset[0] if offset else 0.0, missing)

    def unpacked(self, raw: np.ndarray) -> np.ndarray:
        gone = np.isin(raw, np.asarray(self.missing, np.float64).astype(raw.dtype)) if self.missing else None
        plain = (self.scale, self.offset) == (1.0, 0.0)
        if plain and (gone is None or not gone.any()):
            return raw
        values = raw.astype(np.float64) * self.scale + self.offset
        if gone is not None:
            values[gone] = np.nan
        return values if raw.dtype == np.float64 else values.astype(np.float32)


class OnDisk:
    """An array of HDF5, NetCDF or Zarr, of which only the rows that are asked for are read, and unpacked."""

    def __init__(self, raw: Any, rows: Callable[[np.ndarray], Any], packed: Packed | None, keep: Any = None) -> None:
        self._raw, self._rows, self._packed, self._keep = raw, rows, packed, keep  # keep: the open file
        self.shape: tuple[int, ...] = tuple(raw.shape)
        dtype = np.dtype(raw.dtype)
        plain = packed is None or (packed.scale, packed.offset) == (1.0, 0.0)
        self.dtype = dtype if plain else np.dtype(np.float64 if dtype == np.float64 else np.float32)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            found = np.asarray(self._raw[rows])
        else:
            unique, inverse = np.unique(np.asarray(rows), return_inverse=True)
            found = np.asarray(self._rows(unique))[inverse]
        return found if self._packed is None else self._packed.unpacked(found)


PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value")


def check_size(file: Path, name: str, claimed: int, stored: int, compression: Any) -> None:
    """Raise where an array claims more bytes than what is stored of it can stand for."""
    if stored == 0 or claimed > stored * (MOST_DEFLATED if compression else 1) * 4:  # 4: chunks reach over the edge
        raise RefusedError(
            f"path: {file}: '{name}' says that it holds {claimed:,} bytes, and {stored:,} are stored; it is damaged or "
            "was never written"
        )


def chunk_note(name: str, chunks: tuple[int, ...] | None, shape: tuple[int, ...], compression: Any) -> list[str]:
    if chunks is None or not compression or chunks[0] < 16 or len(shape) < 2:
        return []
    return [
        f"'{name}' is compressed in chunks of {chunks[0]:,} samples, all of which are unpacked to read one; copied to "
        ".npy it is read faster"
    ]
