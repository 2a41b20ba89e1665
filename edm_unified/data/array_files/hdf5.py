"""HDF5, and NetCDF 4, which is HDF5: arrays that stay on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edm_unified.data.array_files.chosen import Chosen, choose, slashless
from edm_unified.data.array_files.on_disk import PACKING, OnDisk, Packed, check_size, chunk_note
from edm_unified.data.errors import RefusedError, needs, readable


def read_hdf5(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """An array of an HDF5 file, left on the disk. Groups are written as in paths: ``group/images``."""
    h5py = needs("h5py", "an HDF5 file")
    with readable(f"path: {file}", "HDF5 file"):
        opened = h5py.File(file, "r")
        plain: dict[str, Any] = {}

        def visit(name: str, item: Any) -> None:  # goes through no soft and no external link
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiub" and item.ndim and not _is_scale(item):
                plain[name] = item

        opened.visititems(visit)
        wanted, classes = choose(list(plain), slashless(key), slashless(label_key), file)
        notes: list[str] = []

        def array(name: str) -> OnDisk:
            item = plain[name]
            if item.is_virtual or item.external:
                raise RefusedError(f"key: {file}: '{name}' has its numbers in other files; copy it into one")
            check_size(file, name, item.size * item.dtype.itemsize, item.id.get_storage_size(), item.compression)
            if "MATLAB_class" in item.attrs:
                notes.append(f"'{name}' is of MATLAB 7.3, which HDF5 has with its axes reversed: {tuple(item.shape)}")
            notes.extend(chunk_note(name, item.chunks, item.shape, item.compression))
            packed = Packed.of({name: item.attrs[name] for name in PACKING if name in item.attrs})
            return OnDisk(item, lambda rows: item[rows], packed, opened)

        labels = None if classes is None else array(classes)[:]
        return Chosen(array(wanted), labels, tuple(notes))


def _is_scale(item: Any) -> bool:
    """Whether that is a coordinate of other arrays, as NetCDF stores them."""
    return item.attrs.get("CLASS") in (b"DIMENSION_SCALE", "DIMENSION_SCALE") and item.ndim == 1
