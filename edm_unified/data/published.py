"""The files of published sets as their authors distribute them: CIFAR, SVHN, STL-10 and MNIST's format.

CIFAR's Python version is pickles. They are read by :class:`_CifarUnpickler`, which knows dictionaries, text, numbers
and NumPy's arrays of bytes, makes them itself, and calls nothing that a file names.
"""

from __future__ import annotations

import gzip
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from edm_unified.components import paths
from edm_unified.components.component import component

from .array_files.chosen import MOST_DEFLATED
from .array_files.matlab import read_mat
from .classes import whole_labels
from .dataset import BYTES, Dataset
from .errors import RefusedError, readable
from .fields import directory, existing
from .rows import ArrayRows

_MOST = 2**31
"""Bytes of one file of CIFAR, or of MNIST's format unpacked."""


def _labelled(stored: Any, labels: np.ndarray | None, n: int, name: str, names: Sequence[str], where: str) -> Dataset:
    found = None if labels is None else whole_labels(labels, n, where)
    return Dataset(stored, found, name, BYTES, tuple(names) if found is not None else ())


# -- CIFAR ------------------------------------------------------------------------------------------------------------


@component
class Cifar:
    """CIFAR-10 or CIFAR-100, (N, 3, 32, 32), from the unpacked folder of its Python or binary version.

    ``path``: ``cifar-10-batches-py``, ``cifar-100-python``, ``cifar-10-batches-bin`` or ``cifar-100-binary``, wherever
    it lies. ``train`` false reads the 10,000 of the test. ``coarse``: of CIFAR-100, the 20 superclasses.
    """

    path: str
    train: bool = True
    coarse: bool = False
    kind: Literal["cifar"] = "cifar"

    def load(self) -> Dataset:
        """Read the batches. Raises ValueError naming the file that is missing or damaged."""
        root = directory("path", self.path)
        hundred = (root / "fine_label_names.txt").is_file() or (root / "meta").is_file()
        if self.coarse and not hundred:
            raise ValueError("coarse: belongs to CIFAR-100; leave it out")
        binary = (root / "batches.meta.txt").is_file() or (root / "fine_label_names.txt").is_file()
        parts = "train" if self.train else "test"
        if hundred:
            files = [root / (f"{parts}.bin" if binary else parts)]
        else:
            batches = [f"data_batch_{i}" for i in range(1, 6)] if self.train else ["test_batch"]
            files = [root / (f"{name}.bin" if binary else name) for name in batches]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise ValueError(f"path: {missing}: no such file; unpack the whole archive of CIFAR")
        pixels, labels = [], []
        for file in files:
            one = self._binary(file, hundred) if binary else self._pickled(file, hundred)
            pixels.append(one[0])
            labels.append(one[1])
        stored = torch.from_numpy(np.concatenate(pixels)).reshape(-1, 3, 32, 32)
        names = self._names(root, binary, hundred)
        name = f"cifar{100 if hundred else 10}{'' if self.train else ' test'}"
        return _labelled(stored, np.concatenate(labels), len(stored), name, names, self.path)

    def _binary(self, file: Path, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
        head = 2 if hundred else 1
        size = file.stat().st_size
        if size == 0 or size % (head + 3072):
            raise ValueError(f"path: {file}: {size:,} bytes are not pictures of {head + 3072}; copy it again")
        with readable(f"path: {file}", "file of CIFAR"):
            rows = np.fromfile(file, np.uint8).reshape(-1, head + 3072)
        return rows[:, head:], rows[:, 0 if self.coarse or not hundred else 1].astype(np.int64)

    def _pickled(self, file: Path, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
        key = ("coarse_labels" if self.coarse else "fine_labels") if hundred else "labels"
        with readable(f"path: {file}", "file of CIFAR"):
            found = _inert(file)
            data, labels = found.get("data"), found.get(key)
            if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072:
                raise RefusedError(f"path: {file}: holds no pictures of CIFAR; unpack the archive again")
            if not isinstance(labels, list) or not all(type(value) is int for value in labels):
                raise RefusedError(f"path: {file}: holds no {key}; unpack the archive again")
            return data, np.asarray(labels, np.int64)

    def _names(self, root: Path, binary: bool, hundred: bool) -> list[str]:
        what = ("coarse" if self.coarse else "fine") if hundred else ""
        if binary:
            file = root / (f"{what}_label_names.txt" if hundred else "batches.meta.txt")
            return (
                [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
                if file.is_file()
                else []
            )
        file = root / ("meta" if hundred else "batches.meta")
        if not file.is_file():
            return []
        with readable(f"path: {file}", "file of CIFAR"):
            names = _inert(file).get(f"{what}_label_names" if hundred else "label_names", [])
            plain = [name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in names]
            return plain if isinstance(names, list) else []


class _Dtype:
    """A type of numbers in a pickle; the state that it is set to says no more than the code."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """An array in a pickle; ``value`` once its bytes are there."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        right = isinstance(dtype, _Dtype) and dtype.code in ("u1", "|u1") and isinstance(raw, bytes)
        if not right or not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != len(raw):
            raise pickle.UnpicklingError("it holds an array that is not of bytes, or not whole")
        flat = np.frombuffer(raw, np.uint8)
        self.value = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


class _CifarUnpickler(pickle.Unpickler):
    """Reads what CIFAR's files are made of; whatever else a file names is refused, and not so much as imported."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: _Array()
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): lambda code, *_: _Dtype(str(code)),
            ("_codecs", "encode"): _latin,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, as no file of CIFAR does; it was not opened")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside, as no file of CIFAR does; it was not opened")


def _latin(text: Any, encoding: Any) -> bytes:
    """What newer Pythons write for bytes in an old pickle."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes text as no file of CIFAR does; it was not opened")
    return text.encode("latin-1")


def _inert(file: Path) -> dict[str, Any]:
    """The dictionary in a file of CIFAR, its arrays of bytes as NumPy's."""
    if file.stat().st_size > _MOST:
        raise RefusedError(f"path: {file}: is larger than 2 GiB, as no file of CIFAR is")
    with file.open("rb") as opened:
        found = _CifarUnpickler(opened, encoding="latin-1").load()
    if not isinstance(found, dict):
        raise RefusedError(f"path: {file}: holds no dictionary; unpack the archive again")
    return {
        (name.decode("latin-1") if isinstance(name, bytes) else str(name)): (
            value.value if isinstance(value, _Array) else value
        )
        for name, value in found.items()
    }


# -- SVHN -------------------------------------------------------------------------------------------------------------


@component
class Svhn:
    """SVHN's cropped digits, (N, 3, 32, 32), from its MATLAB files: ``path``/train_32x32.mat and its kin.

    The class of a picture is its digit; the files call 0 ten.
    """

    path: str
    split: Literal["train", "test", "extra"] = "train"
    kind: Literal["svhn"] = "svhn"

    def load(self) -> Dataset:
        """Read the file of the split. Raises ValueError naming what is missing or damaged."""
        file = directory("path", self.path) / f"{self.split}_32x32.mat"
        if not file.is_file():
            raise ValueError(f"path: {file}: no such file; put that of SVHN there")
        found = read_mat(file, "X", "y")
        pixels, labels = found.array[:], found.labels
        if pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3) or labels is None:
            raise ValueError(
                f"path: {file}: X is {pixels.dtype} of {pixels.shape}, not bytes (32, 32, 3, N) as in SVHN"
            )
        stored = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
        digits = labels.astype(np.int64) % 10
        return _labelled(stored, digits, len(stored), f"svhn {self.split}", tuple("0123456789"), self.path)


# -- STL-10 -----------------------------------------------------------------------------------------------------------


@component
class Stl10:
    """STL-10, (N, 3, 96, 96), from its unpacked binary version, left on the disk: ``path``/train_X.bin and its kin.

    ``split``: train and test have 10 classes, the 100,000 of unlabeled have none.
    """

    path: str
    split: Literal["train", "test", "unlabeled"] = "train"
    kind: Literal["stl10"] = "stl10"

    def load(self) -> Dataset:
        """Map the file of the split. Raises ValueError naming what is missing or damaged."""
        root = directory("path", self.path)
        file = root / f"{self.split}_X.bin"
        if not file.is_file():
            raise ValueError(f"path: {file}: no such file; unpack stl10_binary.tar.gz there")
        size, each = file.stat().st_size, 3 * 96 * 96
        if size == 0 or size % each:
            raise ValueError(f"path: {file}: {size:,} bytes are not pictures of {each:,}; copy it again")
        pixels = np.memmap(file, np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # columns come first
        answers = root / f"{self.split}_y.bin"
        labels = np.fromfile(answers, np.uint8).astype(np.int64) - 1 if answers.is_file() else None
        words = root / "class_names.txt"
        names = words.read_text("utf-8").split() if words.is_file() else ()
        where = f"{answers} (classes from 1)"
        return _labelled(ArrayRows(pixels), labels, len(pixels), f"stl10 {self.split}", names, where)


# -- MNIST's format ---------------------------------------------------------------------------------------------------

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@component
class Idx:
    """Files of MNIST's format (idx), plain or gzipped: MNIST, FashionMNIST, KMNIST, EMNIST and their like.

    ``path``: a file of pictures of bytes, (N, H, W), or a folder with files named as in MNIST, of which ``train`` false
    takes the t10k (or test) ones. ``labels``: the file of the classes; null: that of the same name beside the pictures,
    if any. Plain files stay on the disk. EMNIST's pictures lie on their side: ``transposed`` sets them up.
    """

    path: str
    labels: str | None = None
    train: bool = True
    transposed: bool = False
    kind: Literal["idx"] = "idx"

    def load(self) -> Dataset:
        """Read the header, and map the file or unpack it. Raises ValueError naming the file that is at fault."""
        place = paths.regular(paths.expanded(self.path, "path"), f"path: {self.path}")
        file = _pictures_in(place, self.train) if place.is_dir() else existing(self.path)
        pixels = _read_idx(file)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise ValueError(f"path: {file}: is {pixels.dtype} of {pixels.shape}; pictures are bytes (N, H, W)")
        answers = existing(self.labels, "file of classes") if self.labels is not None else _labels_beside(file)
        labels = None if answers is None else _read_idx(answers).astype(np.int64)
        stored = ArrayRows((pixels.transpose(0, 2, 1) if self.transposed else pixels)[:, None])
        name = file.name.removesuffix(".gz").removesuffix("-images-idx3-ubyte")
        title = f"{file.parent.resolve().name} {name}" if place.is_dir() else name
        return _labelled(stored, labels, len(pixels), title, (), str(answers))


def _pictures_in(folder: Path, train: bool) -> Path:
    found = sorted(file for file in folder.iterdir() if "images" in file.name and "idx3" in file.name)
    wanted = [file for file in found if ("train" in file.name) == train]
    plain = {file.name.removesuffix(".gz"): file for file in sorted(wanted, reverse=True)}  # the unpacked one of two
    if len(plain) != 1:
        which = "training" if train else "test"
        names = ", ".join(sorted(plain)) if plain else "none"
        raise ValueError(f"path: {folder}: must have one file of {which} pictures, has {names}; name the file")
    return next(iter(plain.values()))


def _labels_beside(file: Path) -> Path | None:
    for before, after in (("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1")):
        name = file.name.removesuffix(".gz").replace(before, after)
        for one in (name, f"{name}.gz"):
            if one != file.name and before in file.name and (file.parent / one).is_file():
                return file.parent / one
    return None


def _read_idx(file: Path) -> np.ndarray:
    """The array of an idx file: two zeros, the type, how many axes, their lengths in four bytes each, the numbers."""
    where = f"path: {file}"
    with readable(where, "file of MNIST's format (idx)"):
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as opened:
            head = opened.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 5:
                raise RefusedError(f"{where}: not a readable file of MNIST's format (idx)")
            shape = tuple(int(n) for n in np.frombuffer(opened.read(4 * head[3]), ">u4"))
            dtype = np.dtype(_IDX_TYPES[head[2]])
            first, wanted = 4 + 4 * head[3], math.prod(shape) * dtype.itemsize
            there = file.stat().st_size * (MOST_DEFLATED if packed else 1)
            if len(shape) != head[3] or wanted > min(there, _MOST if packed else there):
                raise RefusedError(f"{where}: its header says shape {shape}, more than is there; copy it again")
            if not packed and wanted:
                if first + wanted > there:
                    raise RefusedError(f"{where}: its header says shape {shape}, more than is there; copy it again")
                return np.memmap(file, dtype, "r", first, shape)
            content = opened.read(wanted)
            if len(content) != wanted or (packed and opened.read(1)):
                raise RefusedError(f"{where}: is longer or shorter than its header says; copy it again")
            return np.frombuffer(content, dtype).reshape(shape)
