"""What a file or folder is, by its first bytes and its members; names decide only where contents cannot.

``format_of(path)`` is cheap (a few kilobytes are read), executes nothing and raises nothing: what cannot be told is
None.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zipfile
from itertools import islice
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_LOOKED_AT = 2000
"""Entries of a folder or an archive that are looked at."""


class Format(NamedTuple):
    """``name`` for the code, ``words`` for a message (``a NumPy array``), ``data``: whether samples can be in it."""

    name: str
    words: str
    data: bool = True


NPY = Format("npy", "a NumPy array")
NPZ = Format("npz", "an archive of NumPy arrays (.npz)")
SAFETENSORS = Format("safetensors", "a safetensors file")
PT = Format("pt", "a file of torch.save")
HDF5 = Format("hdf5", "an HDF5 file")
NETCDF3 = Format("netcdf3", "a NetCDF file")
ZARR = Format("zarr", "a Zarr store")
MAT = Format("mat", "a MATLAB file")
PARQUET = Format("parquet", "a Parquet table")
PARQUETS = Format("parquet", "a folder of Parquet tables")
SAVED = Format("hugging_face", "what `datasets` wrote with save_to_disk")
IMAGES_ZIP = Format("image_zip", "a zip of pictures")
TAR = Format("webdataset", "a tar of samples")
TARS = Format("webdataset", "a folder of tars")
IDX = Format("idx", "a file of MNIST's format (idx)")
IDX_FOLDER = Format("idx", "a folder of MNIST's files (idx)")
CIFAR = Format("cifar", "a folder of CIFAR's batches")
SVHN = Format("svhn", "a folder of SVHN's 32×32 files")
STL10 = Format("stl10", "a folder of STL-10's binary files")
FOLDER = Format("image_folder", "a folder of pictures")
IMAGE = Format("image", "one picture", data=False)

_STARTS = (
    (b"\x93NUMPY", NPY),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"CDF\1", NETCDF3),
    (b"CDF\2", NETCDF3),
    (b"CDF\5", NETCDF3),
    (b"PAR1", PARQUET),
    (b"MATLAB 5.0 MAT-file", MAT),
    (b"\x89PNG", IMAGE._replace(words="a PNG image")),
    (b"\xff\xd8\xff", IMAGE._replace(words="a JPEG image")),
    (b"GIF8", IMAGE._replace(words="a GIF image")),
    (b"II*\0", IMAGE._replace(words="a TIFF image")),
    (b"MM\0*", IMAGE._replace(words="a TIFF image")),
    (b"\x1f\x8b", Format("gzip", "a gzip archive", data=False)),
    (b"BZh", Format("bzip2", "a bzip2 archive", data=False)),
    (b"\xfd7zXZ\0", Format("xz", "an xz archive", data=False)),
    (b"7z\xbc\xaf\x27\x1c", Format("7z", "a 7-Zip archive", data=False)),
    (b"Rar!", Format("rar", "a RAR archive", data=False)),
    (b"\x28\xb5\x2f\xfd", Format("zstd", "a Zstandard archive", data=False)),
    (b"ARROW1", Format("arrow", "an Arrow file", data=False)),
    (b"%PDF-", Format("pdf", "a PDF document", data=False)),
    (b"\x7fELF", Format("program", "a program", data=False)),
    (b"GGUF", Format("gguf", "a GGUF file", data=False)),
    (b"<!DOCTYPE", Format("html", "a web page", data=False)),
    (b"<html", Format("html", "a web page", data=False)),
    (b"SQLite format 3\0", Format("sqlite", "a SQLite database", data=False)),
    *((b"\x80" + bytes([protocol]), Format("pickle", "a Python pickle", data=False)) for protocol in range(2, 6)),
)


def format_of(path: Path) -> Format | None:
    """What ``path`` is, or None where that cannot be told: text, an unknown kind, a pipe or device, nothing there."""
    try:
        if path.is_dir():
            return _of_folder(path)
        return _of_file(path) if path.is_file() else None
    except Exception:  # whatever a damaged archive makes a library raise
        return None


def _of_file(path: Path) -> Format | None:
    with path.open("rb") as opened:
        start = opened.read(1024)
    found = next((kind for magic, kind in _STARTS if start.startswith(magic)), None)
    if found is not None and found.name in ("gzip", "pickle"):
        if _unzipped_start(path)[:2] == b"\0\0" and found.name == "gzip":
            return IDX
        if start.startswith(b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"):  # torch.save before 1.6
            return PT
        return found
    if found is not None:
        return found
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return _of_zip(path)
    if start[512:520] == b"\x89HDF\r\n\x1a\n":  # after a user block, as MATLAB 7.3 writes
        return HDF5
    if start[257:262] == b"ustar" or (path.suffix.lower() == ".tar" and tarfile.is_tarfile(path)):
        return TAR
    if start[:2] == b"\0\0" and start[2:3] in b"\x08\x09\x0b\x0c\x0d\x0e" and 0 < start[3] <= 5:
        return IDX
    return SAFETENSORS if _has_safetensors_header(start) else None


def _has_safetensors_header(start: bytes) -> bool:
    """Eight bytes of length below 100 MB, and JSON."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= 100_000_000


def _unzipped_start(path: Path) -> bytes:
    import gzip

    with path.open("rb") as opened:
        if opened.read(2) != b"\x1f\x8b":
            return b""
    with gzip.open(path) as unzipped:
        return unzipped.read(4)


def _of_zip(path: Path) -> Format | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()[:_LOOKED_AT]
    last = [name.rpartition("/")[2] for name in names]
    if "data.pkl" in last:
        return PT
    if {"zarr.json", ".zgroup", ".zarray"} & set(last):
        return ZARR
    if names and all(name.endswith(".npy") for name in names):
        return NPZ
    if any(is_image(name) for name in last):
        return IMAGES_ZIP
    return Format("zip", "a zip archive", data=False)


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for a picture; what begins with a dot is not."""
    base = os.path.basename(name)
    return not base.startswith(".") and base.lower().endswith(IMAGE_SUFFIXES)


_SHARD = re.compile(r"(?i)\.tar$")
_IDX_NAME = re.compile(r".*(images[-.]idx3|idx3-ubyte).*")


def _of_folder(path: Path) -> Format | None:
    with os.scandir(path) as entries:
        names = {entry.name for entry in islice(entries, 100_000)}
    if names & {"zarr.json", ".zgroup", ".zarray"}:
        return ZARR
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names:
        return SAVED
    if {"batches.meta", "data_batch_1"} <= names or {"meta", "train", "test"} <= names:
        return CIFAR if (path / "test_batch").is_file() or (path / "meta").is_file() else None
    if "data_batch_1.bin" in names or {"train.bin", "test.bin", "fine_label_names.txt"} <= names:
        return CIFAR
    if names & {"train_32x32.mat", "test_32x32.mat"}:
        return SVHN
    if names & {"train_X.bin", "unlabeled_X.bin", "test_X.bin"}:
        return STL10
    if any(_IDX_NAME.match(name) for name in names):
        return IDX_FOLDER
    if any(_SHARD.search(name) for name in names):
        return TARS
    if any(name.endswith(".parquet") for name in names) or _has(path / "data", ".parquet"):
        return PARQUETS
    return FOLDER if _has_image(path) else None


def _has(folder: Path, suffix: str) -> bool:
    return folder.is_dir() and any(name.endswith(suffix) for name in os.listdir(folder))


def _has_image(path: Path) -> bool:
    """Whether a picture is among the first files below ``path``, wherever it lies."""
    seen = 0
    for _, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(is_image(name) for name in files):
            return True
        seen += len(files) + len(folders)
        if seen > 50 * _LOOKED_AT:
            return False
    return False


def json_of(content: bytes, where: str) -> object:
    """The JSON in ``content``. Raises ValueError, begun with ``where``, where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is not readable JSON ({str(error)[:80]}); repair or remove it") from None
