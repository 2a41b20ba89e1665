"""Files that hold named arrays beside NumPy's and safetensors: HDF5, NetCDF, Zarr, torch.save and MATLAB.

Each reader gives the chosen array, the array of classes or None, and notes: an array is anything with ``shape``,
``dtype`` and rows by a slice or by whole numbers, and stays on the disk where the format allows it. What a header
claims is compared with what is stored before memory is asked for; links out of the file are not followed; of torch.save
only tensors are read, by torch's restricted reader, and no codec of Zarr is used that could execute something.
"""

from __future__ import annotations

import importlib
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .layouts import ArrayLike
from .readers import MOST_DEFLATED, RefusedError, choose, read_numpy, read_safetensors, readable


class Chosen(NamedTuple):
    """What a reader found: the array of samples, that of classes or None, and what a user should know."""

    array: ArrayLike
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()


Reader = Callable[[Path, "str | None", "str | None"], Chosen]


def needs(module: str, what: str) -> Any:
    """The module that reads ``what``. Raises ValueError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"path: {what} needs `{module}`; pip install 'edm_unified[formats]'") from None


class _Packed(NamedTuple):
    """value = raw · scale + offset, and NaN for ``missing``: how NetCDF's conventions store numbers."""

    scale: float = 1.0
    offset: float = 0.0
    missing: tuple[float, ...] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> _Packed | None:
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


class _OnDisk:
    """An array of HDF5, NetCDF or Zarr, of which only the rows that are asked for are read, and unpacked."""

    def __init__(self, raw: Any, rows: Callable[[np.ndarray], Any], packed: _Packed | None, keep: Any = None) -> None:
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


# -- NumPy and safetensors --------------------------------------------------------------------------------------------


def read_npy(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """The array of a .npy, left on the disk."""
    return Chosen(*read_numpy(file, key, label_key))


def read_npz(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """An array of a .npz, in memory; of guided-diffusion's, ``arr_0`` and the classes ``arr_1``."""
    if key is None and label_key is None:
        with readable(f"path: {file}", "NumPy file"), zipfile.ZipFile(file) as archive:
            names = sorted(archive.namelist())
        if names == ["arr_0.npy", "arr_1.npy"]:
            array, labels = read_numpy(file, "arr_0", "arr_1")
            if labels is not None and labels.shape == array.shape[:1] and labels.dtype.kind in "iu":
                return Chosen(
                    array, labels, ("arr_0 are the samples and arr_1 their classes, as guided-diffusion has it",)
                )
            key = None
    return Chosen(*read_numpy(file, key, label_key))


def read_tensors(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """An array of a safetensors file, left on the disk."""
    return Chosen(*read_safetensors(file, key, label_key))


# -- HDF5, and NetCDF 4, which is HDF5 --------------------------------------------------------------------------------


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
        wanted, classes = choose(list(plain), _slashless(key), _slashless(label_key), file)
        notes: list[str] = []

        def array(name: str) -> _OnDisk:
            item = plain[name]
            if item.is_virtual or item.external:
                raise RefusedError(f"key: {file}: '{name}' has its numbers in other files; copy it into one")
            _check_size(file, name, item.size * item.dtype.itemsize, item.id.get_storage_size(), item.compression)
            if "MATLAB_class" in item.attrs:
                notes.append(f"'{name}' is of MATLAB 7.3, which HDF5 has with its axes reversed: {tuple(item.shape)}")
            notes.extend(_chunk_note(name, item.chunks, item.shape, item.compression))
            packed = _Packed.of({name: item.attrs[name] for name in _PACKING if name in item.attrs})
            return _OnDisk(item, lambda rows: item[rows], packed, opened)

        labels = None if classes is None else array(classes)[:]
        return Chosen(array(wanted), labels, tuple(notes))


_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value")


def _slashless(name: str | None) -> str | None:
    return None if name is None else name.strip("/")


def _is_scale(item: Any) -> bool:
    """Whether that is a coordinate of other arrays, as NetCDF stores them."""
    return item.attrs.get("CLASS") in (b"DIMENSION_SCALE", "DIMENSION_SCALE") and item.ndim == 1


def _check_size(file: Path, name: str, claimed: int, stored: int, compression: Any) -> None:
    """Raise where an array claims more bytes than what is stored of it can stand for."""
    if stored == 0 or claimed > stored * (MOST_DEFLATED if compression else 1) * 4:  # 4: chunks reach over the edge
        raise RefusedError(
            f"path: {file}: '{name}' says that it holds {claimed:,} bytes, and {stored:,} are stored; it is damaged or "
            "was never written"
        )


def _chunk_note(name: str, chunks: tuple[int, ...] | None, shape: tuple[int, ...], compression: Any) -> list[str]:
    if chunks is None or not compression or chunks[0] < 16 or len(shape) < 2:
        return []
    return [
        f"'{name}' is compressed in chunks of {chunks[0]:,} samples, all of which are unpacked to read one; copied to "
        ".npy it is read faster"
    ]


# -- NetCDF 3 ---------------------------------------------------------------------------------------------------------


def read_netcdf3(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """A variable of a classic NetCDF file, left on the disk."""
    with readable(f"path: {file}", "NetCDF file"):
        found = _variables(file)
        wanted, classes = choose(list(found), key, label_key, file)
        arrays = [_mapped(*found[name]) for name in (wanted, classes) if name is not None]
        return Chosen(arrays[0], arrays[1][:] if classes is not None else None)


def _variables(file: Path) -> dict[str, tuple[np.ndarray, _Packed | None]]:
    """The variables that are no coordinates, mapped by us where SciPy found them."""
    from scipy.io import netcdf_file

    opened = netcdf_file(file, "r", mmap=True, maskandscale=False)
    mapped, start = np.memmap(file, np.uint8, "r"), opened._mm_buf.__array_interface__["data"][0]
    found = {}
    for name, variable in opened.variables.items():
        data = variable.data
        if data.ndim and data.dtype.kind in "fiu" and variable.dimensions != (name,):
            place = data.__array_interface__["data"][0] - start
            packed = _Packed.of({word: getattr(variable, word) for word in _PACKING if hasattr(variable, word)})
            found[name] = np.ndarray(data.shape, data.dtype, mapped, place, data.strides), packed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that its own arrays, which nobody keeps, are still there
        opened.close()
    return found


def _mapped(array: np.ndarray, packed: _Packed | None) -> _OnDisk:
    return _OnDisk(array, lambda rows: array[rows], packed)


# -- Zarr -------------------------------------------------------------------------------------------------------------

_CODECS = (
    "blosc", "zlib", "gzip", "bz2", "lzma", "lz4", "zstd", "delta", "fixedscaleoffset", "quantize", "bitround",
    "packbits", "shuffle", "astype", "crc32", "crc32c", "adler32", "fletcher32", "bytes", "transpose",
    "sharding_indexed",
)  # fmt: skip
"""Codecs that turn bytes into bytes or numbers. Others are refused: one of numcodecs unpickles what it is given."""
_MOST_CHUNK = 2**31


def read_zarr(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """An array of a Zarr store (format 2 or 3; a folder or a zip), left on the disk."""
    with readable(f"path: {file}", "Zarr store"):
        for name, metadata in _zarr_metadata(file):
            _check_codecs(f"path: {file}: {name}", metadata)
    zarr = needs("zarr", "a Zarr store")
    with readable(f"path: {file}", "Zarr store"):
        store = zarr.storage.ZipStore(str(file), mode="r") if file.is_file() else str(file)
        opened = zarr.open(store, mode="r")
        single = hasattr(opened, "chunks")
        if single:
            for field, value in (("key", key), ("label_key", label_key)):
                if value is not None:
                    raise RefusedError(f"{field}: {file} holds a single array without a name; leave it out")
        arrays = {"": opened} if single else dict(_zarr_arrays(opened))
        plain = {name: a for name, a in arrays.items() if np.dtype(a.dtype).kind in "fiub" and a.ndim}
        plain = {name: a for name, a in plain.items() if list(_dimensions(a)) != [name.rpartition("/")[2]]}
        wanted, classes = choose(list(plain), _slashless(key) or ("" if single else None), _slashless(label_key), file)
        notes: list[str] = []

        def array(name: str) -> _OnDisk:
            item = plain[name]
            chunk = math.prod(item.chunks) * np.dtype(item.dtype).itemsize
            if chunk > _MOST_CHUNK:
                raise RefusedError(f"path: {file}: '{name}' has chunks of {chunk:,} bytes, more than 2 GiB")
            whole = getattr(item, "shards", None) or item.chunks  # what is one file, of format 3 several chunks
            wanted = math.prod(-(-side // part) for side, part in zip(item.shape, whole, strict=True))
            there = min(wanted, _zarr_files(file, str(item.path)))
            if there == 0 or wanted > 1000 * there:
                raise RefusedError(
                    f"path: {file}: {name or 'it'} has {there:,} of its {wanted:,} chunks; copy it again"
                )
            if there < wanted:
                notes.append(f"{wanted - there:,} of {wanted:,} chunks are not there and read as {item.fill_value}")
            notes.extend(_chunk_note(name or file.name, item.chunks, item.shape, True))
            packed = _Packed.of({k: item.attrs[k] for k in _PACKING if k in item.attrs})
            return _OnDisk(item, lambda rows: item.oindex[rows], packed)

        labels = None if classes is None else array(classes)[:]
        return Chosen(array(wanted), labels, tuple(notes))


def _dimensions(array: Any) -> tuple[str, ...]:
    """The names of the axes, where they have names: in xarray's attribute, or in the metadata of format 3."""
    named = array.attrs.get("_ARRAY_DIMENSIONS") or getattr(getattr(array, "metadata", None), "dimension_names", None)
    return tuple(named or ())


def _zarr_arrays(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in group.arrays():
        yield f"{above}{name}", array
    for name, inner in group.groups():
        yield from _zarr_arrays(inner, f"{above}{name}/")


def _zarr_metadata(store: Path) -> Iterator[tuple[str, Any]]:
    """Every file of metadata in the store, as plain data."""
    names = (".zarray", ".zmetadata", "zarr.json")
    if store.is_file():
        with zipfile.ZipFile(store) as archive:
            for info in archive.infolist():
                if info.filename.rpartition("/")[2] in names:
                    if info.file_size > 100_000_000:
                        raise RefusedError(f"path: {store}: {info.filename} is larger than 100 MB")
                    yield info.filename, json.loads(archive.read(info))
        return
    for name in names:
        for found in store.rglob(name):
            if found.stat().st_size > 100_000_000:
                raise RefusedError(f"path: {store}: {name} is larger than 100 MB")
            yield str(found.relative_to(store)), json.loads(found.read_bytes())


def _zarr_files(store: Path, name: str) -> int:
    """How many files of chunks an array has; other files of the store lie beside it or begin with a dot."""
    if store.is_file():
        with zipfile.ZipFile(store) as archive:
            names = [found for found in archive.namelist() if found.startswith(f"{name}/" if name else "")]
    else:
        names = [file.name for file in (store / name).rglob("*") if file.is_file()]
    last = [found.rpartition("/")[2] for found in names]
    return sum(not (found.startswith(".") or found == "zarr.json" or not found) for found in last)


def _check_codecs(where: str, value: Any, inside: str = "") -> None:
    """Raise unless every codec that the metadata name is one of ``_CODECS``."""
    if isinstance(value, dict):
        codec = value.get("id") if inside in ("compressor", "filters") else None
        codec = value.get("name") if inside in ("codecs", "index_codecs") else codec
        if codec is not None and str(codec).removeprefix("numcodecs.") not in _CODECS:
            raise RefusedError(f"{where}: its codec {str(codec)[:40]!r} is not used here; store it with zstd or gzip")
        for name, inner in value.items():
            _check_codecs(where, inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_codecs(where, inner, inside)


# -- torch.save -------------------------------------------------------------------------------------------------------


def read_pt(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """A tensor of torch.save: alone, in a mapping by name, or in a list as ``0``, ``1``, …; mapped where it can be.

    ``(images, labels)``, a pair whose second is whole numbers, one for each row, needs no names.
    """
    where = f"path: {file}"
    with readable(where, "file of torch.save"):
        try:
            mapped = zipfile.is_zipfile(file)
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except MemoryError:
            raise
        except Exception as error:
            if "weights_only" in str(error) or "Unsupported" in str(error):
                raise RefusedError(
                    f"{where}: holds more than tensors, which is not opened; save tensors alone"
                ) from None
            raise
        if isinstance(found, torch.Tensor):
            for name, value in (("key", key), ("label_key", label_key)):
                if value is not None:
                    raise RefusedError(f"{name}: {file} holds a single tensor without a name; leave it out")
            return Chosen(_numbers(found, where))
        items = (
            found.items()
            if isinstance(found, Mapping)
            else enumerate(found)
            if isinstance(found, (list, tuple))
            else ()
        )
        tensors = {str(name): value for name, value in items if isinstance(value, torch.Tensor) and value.ndim}
        if key is None and label_key is None and isinstance(found, (list, tuple)) and list(tensors) == ["0", "1"]:
            first, second = tensors["0"], tensors["1"]
            if second.shape == first.shape[:1] and not second.is_floating_point():
                key, label_key = "0", "1"
        wanted, classes = choose(list(tensors), key, label_key, file)
        labels = None if classes is None else _numbers(tensors[classes], f"{where}: '{classes}'")
        return Chosen(_numbers(tensors[wanted], f"{where}: '{wanted}'"), labels)


def _numbers(tensor: torch.Tensor, where: str) -> np.ndarray:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise RefusedError(f"{where}: is {tensor.layout}, not a plain tensor; save x.to_dense()")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RefusedError(
            f"{where}: its shape {tuple(tensor.shape)} is larger than what is stored; save x.contiguous()"
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


# -- MATLAB -----------------------------------------------------------------------------------------------------------


def read_mat(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """A variable of a MATLAB file before 7.3, in memory (7.3 is HDF5). Its axes are as in MATLAB."""
    from scipy.io import loadmat, whosmat

    with readable(f"path: {file}", "MATLAB file"):
        names: dict[str, tuple[int, ...]] = {
            name: shape for name, shape, kind in whosmat(str(file)) if kind in _MAT_NUMBERS
        }
        wanted, classes = choose(list(names), key, label_key, file)
        for name in filter(None, (wanted, classes)):
            claimed = math.prod(names[name])
            if claimed > MOST_DEFLATED * file.stat().st_size:
                raise RefusedError(
                    f"path: {file}: '{name}' says that it holds {claimed:,} numbers, more than can be in it"
                )
        found = loadmat(str(file), variable_names=[name for name in (wanted, classes) if name is not None])
        labels = None if classes is None else np.asarray(found[classes]).reshape(-1)
        return Chosen(np.asarray(found[wanted]), labels)


_MAT_NUMBERS = (
    "double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "logical",
)  # fmt: skip
