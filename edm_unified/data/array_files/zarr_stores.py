"""Stores of Zarr, of format 2 or 3: arrays that stay on the disk. No codec is used that could execute something."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edm_unified.data.array_files.chosen import Chosen, choose, slashless
from edm_unified.data.array_files.on_disk import PACKING, OnDisk, Packed, chunk_note
from edm_unified.data.errors import RefusedError, needs, readable

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
        wanted, classes = choose(list(plain), slashless(key) or ("" if single else None), slashless(label_key), file)
        notes: list[str] = []

        def array(name: str) -> OnDisk:
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
            notes.extend(chunk_note(name or file.name, item.chunks, item.shape, True))
            packed = Packed.of({k: item.attrs[k] for k in PACKING if k in item.attrs})
            return OnDisk(item, lambda rows: item.oindex[rows], packed)

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
