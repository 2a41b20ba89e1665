"""NumPy's files: .npy, which stay on the disk, and .npz."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from edm_unified.data.array_files.chosen import MOST_DEFLATED, Chosen, choose
from edm_unified.data.errors import RefusedError, readable


def read_numpy(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The array of a ``.npy``, mapped, or those of a ``.npz``, in memory. Raises ValueError naming the file.

    What a header claims is compared with what is there before any memory is asked for.
    """
    with readable(f"path: {file}", "NumPy file"), file.open("rb") as opened:
        start = opened.read(2)
        opened.seek(0)
        if start != b"PK" and (start == b"\x93N" or file.suffix.lower() != ".npz"):
            for name, value in (("key", key), ("label_key", label_key)):
                if value is not None:
                    raise RefusedError(f"{name}: {file} holds a single array without a name; leave it out")
            check_claim(opened, os.fstat(opened.fileno()).st_size, f"path: {file}")
            return np.load(file, mmap_mode="r", allow_pickle=False), None
        with zipfile.ZipFile(opened) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted, classes = choose(list(members), key, label_key, file)
            arrays = [_member(archive, members[name], file) for name in (wanted, classes) if name is not None]
            return arrays[0], arrays[1] if classes is not None else None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> np.ndarray:
    """One array of an archive. The directory of the archive can lie about sizes as the header of the array can."""
    where = f"path: {file}: '{info.filename.removesuffix('.npy')}'"
    most = MOST_DEFLATED * min(info.compress_size, file.stat().st_size)
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and info.file_size > most:
        raise RefusedError(f"{where}: says that it holds {info.file_size:,} bytes, more than can be in it")
    with archive.open(info) as opened:
        check_claim(opened, info.file_size, where)
    with archive.open(info) as opened:
        found: np.ndarray = np.lib.format.read_array(opened, allow_pickle=False)
        return found


def check_claim(opened: IO[bytes], size: int, where: str) -> None:
    """Raise unless the header of an array in ``size`` bytes asks for no more than there are, and for plain numbers."""
    magic = np.lib.format.MAGIC_PREFIX
    start = opened.read(len(magic) + 6)  # and the version in two bytes, the length of the header in two or four
    if not start.startswith(magic):
        raise RefusedError(f"{where}: not a readable NumPy file, or one of pickled objects, which are not opened")
    first = start[len(magic) : len(magic) + 1] == b"\1"
    if int.from_bytes(start[len(magic) + 2 :][: 2 if first else 4], "little") > size:
        raise RefusedError(f"{where}: not a readable NumPy file (its header is longer than the file)")
    opened.seek(0)
    np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    if dtype.hasobject:
        raise RefusedError(f"{where}: holds pickled objects, which are not opened; save plain arrays")
    wanted, there = math.prod(shape) * dtype.itemsize, size - opened.tell()
    if min(shape, default=0) < 0 or wanted > there:
        raise RefusedError(
            f"{where}: its header says shape {_short(shape)} of {dtype}, {_short(wanted)} bytes, and there are "
            f"{max(there, 0):,}; it is damaged or was cut off, copy it again"
        )


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
