"""Classic NetCDF: variables that stay on the disk."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from edm_unified.data.array_files.chosen import Chosen, choose
from edm_unified.data.array_files.on_disk import PACKING, OnDisk, Packed
from edm_unified.data.errors import readable


def read_netcdf3(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """A variable of a classic NetCDF file, left on the disk."""
    with readable(f"path: {file}", "NetCDF file"):
        found = _variables(file)
        wanted, classes = choose(list(found), key, label_key, file)
        arrays = [_mapped(*found[name]) for name in (wanted, classes) if name is not None]
        return Chosen(arrays[0], arrays[1][:] if classes is not None else None)


def _variables(file: Path) -> dict[str, tuple[np.ndarray, Packed | None]]:
    """The variables that are no coordinates, mapped by us where SciPy found them."""
    from scipy.io import netcdf_file

    opened = netcdf_file(file, "r", mmap=True, maskandscale=False)
    mapped, start = np.memmap(file, np.uint8, "r"), opened._mm_buf.__array_interface__["data"][0]
    found = {}
    for name, variable in opened.variables.items():
        data = variable.data
        if data.ndim and data.dtype.kind in "fiu" and variable.dimensions != (name,):
            place = data.__array_interface__["data"][0] - start
            packed = Packed.of({word: getattr(variable, word) for word in PACKING if hasattr(variable, word)})
            found[name] = np.ndarray(data.shape, data.dtype, mapped, place, data.strides), packed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that its own arrays, which nobody keeps, are still there
        opened.close()
    return found


def _mapped(array: np.ndarray, packed: Packed | None) -> OnDisk:
    return OnDisk(array, lambda rows: array[rows], packed)
