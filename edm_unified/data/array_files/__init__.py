"""Files of arrays with names, a module for each format: NumPy, safetensors, torch.save, HDF5, NetCDF, Zarr and MATLAB.

Each reader gives the chosen array, the array of classes or None, and notes: an array is anything with ``shape``,
``dtype`` and rows by a slice or by whole numbers, and stays on the disk where the format allows it. What a header
claims is compared with what is stored before memory is asked for; links out of the file are not followed; of torch.save
only tensors are read, by torch's restricted reader, and no codec of Zarr is used that could execute something.
"""

from __future__ import annotations

from pathlib import Path

from edm_unified.data import formats
from edm_unified.data.array_files import (
    hdf5,
    matlab,
    netcdf3,
    numpy_files,
    safetensors_files,
    torch_files,
    zarr_stores,
)
from edm_unified.data.array_files.chosen import Reader

READERS: dict[str, Reader] = {
    "npy": numpy_files.read_npy,
    "npz": numpy_files.read_npz,
    "safetensors": safetensors_files.read_tensors,
    "pt": torch_files.read_pt,
    "hdf5": hdf5.read_hdf5,
    "netcdf3": netcdf3.read_netcdf3,
    "zarr": zarr_stores.read_zarr,
    "mat": matlab.read_mat,
}
"""By the names of :mod:`edm_unified.data.formats`."""
_SUFFIXES = {
    ".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".pt": "pt", ".pth": "pt", ".h5": "hdf5",
    ".hdf5": "hdf5", ".nc": "hdf5", ".zarr": "zarr", ".mat": "mat",
}  # fmt: skip
"""Where contents say nothing: of an empty or a damaged file."""


def reader(file: Path, path: str) -> Reader:
    """What reads the file, by its contents. Raises ValueError where nothing does."""
    if not file.exists():
        raise ValueError(f"path: {path}: no such file")
    kind = formats.format_of(file)
    if kind is not None and kind.name in READERS:
        return READERS[kind.name]
    if file.is_dir() and file.suffix != ".zarr":
        what = f"is {kind.words}, which kind {kind.name} reads" if kind else "is a folder; name a file"
        raise ValueError(f"path: {path}: {what}")
    if kind is not None and kind.name != "pickle":
        remedy = f"; kind {kind.name} reads it" if kind.data else ""
        raise ValueError(f"path: {path}: is {kind.words}, not a file of arrays{remedy}")
    if file.suffix.lower() not in _SUFFIXES:
        known = ".npy, .npz, .safetensors, .pt, HDF5, NetCDF, Zarr or .mat"
        raise ValueError(f"path: {path}: cannot read '{file.suffix}'; use {known}")
    return READERS[_SUFFIXES[file.suffix.lower()]]
