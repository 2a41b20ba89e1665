"""Files of pickle and of torch, read as tensors, numbers, words and containers; nothing in them is executed.

A pickle is a program for a small machine: it names functions and classes, and has them called. Here every name that it
may use leads to a function of this file, which makes a tensor, a container, or a :class:`Record` that only keeps what
it was given; any other name is refused. Before the machine starts, its program is read through: instructions that could
have memory allocated that the file does not fill are refused, and a tensor is never larger than its storage, which is
a part of the file. So memory is that of the file, a few times over, whatever it says.

Three containers hold such programs: a pickle itself (NVIDIA's .pkl, whose storages are files of torch's old format,
inside), torch's old format, and torch's zip archive.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C
"""With which torch's old format begins."""
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
COPIES = 8
"""How many times its own size a file may have copied; NVIDIA's have each storage copied twice."""
_FORBIDDEN = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID"}
"""Instructions that no pickle here has: they allocate what they only announce, or reach outside the file."""


class RefusedError(ValueError):
    """A name that is no tensor and no container."""


class DamagedError(ValueError):
    """What is not as torch or pickle writes it."""


class Record:
    """An object of a class that is not made: the ``path`` of the class, what it was called with, and its ``state``."""

    path = ""

    def __new__(cls, *args: Any) -> Record:
        made = object.__new__(cls)
        made.args, made.state = args, {}
        return made

    args: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def name(self) -> str:
        """The last word of the path."""
        return self.path.rpartition(".")[2]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute that the object would have."""
        return self.state.get(name, default) if isinstance(self.state, Mapping) else default


class Words(dict[Any, Any]):
    """A dictionary of a class of its own, such as dnnlib's EasyDict."""

    def __setstate__(self, state: Any) -> None:
        """What such a class has besides its entries is none of ours."""


def read(file: Path) -> Any:
    """What ``file`` holds. Raises ``ValueError`` in one line where it is damaged, or holds more than may be read."""
    try:
        if zipfile.is_zipfile(file):
            return _archive(file)
        content = file.read_bytes()
        found, end = _program(content, 0, _storage_refused)
        if found != MAGIC:
            return found
        return _old_format(content, end)
    except RefusedError as error:
        remedy = "save its state_dict alone"
        raise ValueError(f"{file}: holds more than tensors and containers ({error}); {remedy}") from None
    except (DamagedError, zipfile.BadZipFile, OSError, RecursionError, MemoryError) as error:
        words = " ".join(str(error).split())[:140] or type(error).__name__
        raise ValueError(
            f"{file}: not a readable file of torch or pickle, it was cut off or changed ({words})"
        ) from None


def modules(record: Any) -> dict[str, Tensor]:
    """The state dict of a torch module that is a :class:`Record`: its parameters and buffers by their names."""
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any, int]] = [("", record, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        if depth > 50:
            raise ValueError("a module within itself")
        for kind in ("_parameters", "_buffers"):
            for name, value in _entries(module, kind):
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
        waiting += [(f"{prefix}{name}.", part, depth + 1) for name, part in _entries(module, "_modules") if part]
    return found


def _entries(module: Any, kind: str) -> list[tuple[str, Any]]:
    table = module.get(kind) if isinstance(module, Record) else None
    return list(table.items()) if isinstance(table, Mapping) else []


# -- the machine -----------------------------------------------------------------------------------------------------


def _program(content: bytes, start: int, storage: Callable[[Any], Tensor]) -> tuple[Any, int]:
    """The result of the pickle in ``content`` from ``start``, and where it ends. ``storage`` makes that of an id."""
    stream = io.BytesIO(content)
    stream.seek(start)
    _look_through(stream)
    end = stream.tell()
    stream.seek(start)
    machine = _Machine(stream, storage)
    try:
        return machine.load(), end
    except (RefusedError, DamagedError):
        raise
    except Exception as error:  # a program that is damaged fails in as many ways as there are instructions
        raise DamagedError(f"{type(error).__name__}: {error}") from None


def _look_through(stream: io.BytesIO) -> None:
    """Read a program without running it, up to its end. Raises :class:`DamagedError`."""
    count = 0
    try:
        for op, value, _ in pickletools.genops(stream):
            count += 1
            if op.name in _FORBIDDEN:
                raise DamagedError(f"an instruction {op.name}")
            if op.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(value or 0) <= count:
                raise DamagedError(f"a place {value:,} for a memory of {count:,}")
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(str(error)) from None


class _Machine(pickle.Unpickler):
    """pickle's, with the names of :func:`_named` alone.

    A program may have one value copied again and again. What copies is therefore metered, and all copies together are
    at most :data:`COPIES` times the file.
    """

    def __init__(self, stream: io.BytesIO, storage: Callable[[Any], Tensor]) -> None:
        super().__init__(stream, encoding="latin1")
        self._storage = storage
        self._left = COPIES * len(stream.getbuffer()) + 2**16

    def find_class(self, module: str, name: str) -> Any:
        found = _named(module, name)
        if found is _Array:
            return partial(_Array, self.meter)
        return partial(self._metered, found) if found in _COPYING else found

    def meter(self, size: int) -> None:
        """Have ``size`` bytes or entries more copied. Raises :class:`DamagedError` where that is too much."""
        self._left -= size
        if self._left < 0:
            raise DamagedError("has its own contents copied again and again")

    def _metered(self, function: Callable[..., Any], *values: Any) -> Any:
        self.meter(sum(len(value) for value in values if hasattr(value, "__len__")))
        return function(*values)

    def persistent_load(self, key: Any) -> Tensor:
        return self._storage(key)


def _named(module: str, name: str) -> Any:
    """What stands for ``module.name``. Raises :class:`RefusedError` where nothing does."""
    path = f"{module}.{name}"
    if path in _NAMES:
        return _NAMES[path]
    if module in ("torch", "torch.storage", "torch.cuda") and name in DTYPES:
        return DTYPES[name]
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module.startswith("torch.nn.modules."):
        return _record(path)
    raise RefusedError(path[:100])


@lru_cache(maxsize=256)
def _record(path: str) -> type[Record]:
    return type("Record", (Record,), {"path": path})


def _persistent(meta: Any) -> Record:
    """An object of NVIDIA's ``torch_utils.persistence``; the source text of its class is left alone."""
    if not isinstance(meta, Mapping) or not isinstance(meta.get("class_name"), str):
        raise DamagedError("a persistent object without the name of its class")
    made = _record(f"persistent.{meta['class_name'][:100]}")()
    made.state = meta.get("state")
    return made


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor on a storage, a vector. It may not have more entries than that."""
    if not isinstance(storage, Tensor) or storage.ndim != 1:
        raise DamagedError("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise DamagedError(f"a tensor of size {str(tuple(size))[:60]}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > len(storage) or (count and last >= len(storage)):
        raise DamagedError(f"a tensor of size {tuple(size)} on a storage of {len(storage):,}")
    return storage.as_strided(tuple(size), tuple(stride), offset) if count else storage[:0].reshape(tuple(size))


def _parameter(data: Any, *rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise DamagedError("a parameter without a tensor")
    return data


def _inner(content: Any) -> Tensor:
    """A storage as a file of torch's old format within a pickle."""
    if not isinstance(content, bytes):
        raise DamagedError("a storage without its bytes")
    magic, end = _program(content, 0, _storage_refused)
    found = _old_format(content, end) if magic == MAGIC else None
    if not isinstance(found, Tensor):
        raise DamagedError("a storage that is none")
    return found


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """How pickle's protocol 2 has bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DamagedError("bytes in an unknown encoding")
    return text.encode("latin1")


def _dtype(kind: Any, *rest: Any) -> _Dtype:
    return _Dtype(str(kind)[:8])


class _Dtype:
    """A type of NumPy, by its letters; what pickle tells it besides is the byte order."""

    def __init__(self, letters: str) -> None:
        self.letters, self.order = letters, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.order = "<" if state[1] == "|" else state[1]

    def numpy(self) -> np.dtype[Any]:
        if self.letters.lstrip("<>|=") not in {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} | {"b1"}:
            raise RefusedError(f"numpy.dtype {self.letters}")
        return np.dtype(self.letters.lstrip("<>|=")).newbyteorder(self.order)  # type: ignore[arg-type]


def _scalar(dtype: Any, content: Any = b"") -> float | int | bool:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or len(content) != dtype.numpy().itemsize:
        raise DamagedError("a number of NumPy")
    return np.frombuffer(content, dtype.numpy())[0].item()  # type: ignore[no-any-return]


class _Array:
    """An array of NumPy: :meth:`__setstate__` gets its shape, type and bytes. What is kept is ``value``, a tensor."""

    def __init__(self, meter: Callable[[int], None], *args: Any) -> None:
        self.value: Tensor | None = None
        self._meter = meter

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        kind = dtype.numpy()
        if not isinstance(content, bytes) or math.prod(shape) * kind.itemsize != len(content):
            raise DamagedError("an array of NumPy")
        self._meter(2 * len(content))
        array = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
        self.value = torch.from_numpy(array.reshape(shape, order="F" if fortran else "C").copy())


def _set(items: Any = ()) -> set[Any]:
    return set(items)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(items)


def _size(items: Any = ()) -> tuple[int, ...]:
    return tuple(items)


def _device(*words: Any) -> str:
    return ":".join(map(str, words))


_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "_codecs.encode": _encoded,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.storage._load_from_bytes": _inner,
    "torch.Size": _size,
    "torch.device": _device,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "dnnlib.util.EasyDict": Words,
    "dnnlib.EasyDict": Words,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.ndarray": _record("numpy.ndarray"),
    "argparse.Namespace": _record("argparse.Namespace"),
}
"""Every name that a file may use, but for storages, dtypes and the layers of torch.nn."""
_COPYING = (_encoded, _inner, _set, _ordered, _size)
"""Those that copy what they are given."""


# -- containers ------------------------------------------------------------------------------------------------------


def _storage_refused(key: Any) -> Tensor:
    raise DamagedError("a storage outside a file of torch")


def _announced(key: Any) -> tuple[torch.dtype, str, int]:
    """Type, name and length of a storage, from ("storage", type, name, device, length, …)."""
    sound = isinstance(key, tuple) and len(key) >= 5 and key[0] in ("storage", b"storage")
    if not sound or not isinstance(key[1], torch.dtype) or type(key[4]) is not int or key[4] < 0:
        raise DamagedError("a storage that is not described")
    return key[1], str(key[2]), key[4]


def _vector(content: memoryview, dtype: torch.dtype, length: int) -> Tensor:
    """``length`` numbers in ``content``, which must be all that it has. They are the file's own bytes, not a copy."""
    if len(content) != length * dtype.itemsize:
        raise DamagedError(f"{length:,} numbers in {len(content):,} bytes")
    if not length:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=dtype)


def _archive(file: Path) -> Any:
    """The object in torch's zip archive, whose parts are stored plain."""
    size = file.stat().st_size
    with _opened(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        unpacked = sum(entry.file_size for entry in entries.values())
        if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise DamagedError(f"would unpack to {unpacked:,} bytes from {size:,}; torch's own files are stored plain")
        program = next((name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1), None)
        if program is None:
            raise DamagedError("no data.pkl in the archive")
        base = program.removesuffix("data.pkl")
        if f"{base}byteorder" in entries and _part(archive, f"{base}byteorder") != b"little":
            raise DamagedError("written on a machine of the other byte order")
        known: dict[str, Tensor] = {}

        def storage(key: Any) -> Tensor:
            dtype, name, length = _announced(key)
            if name not in known:
                known[name] = _vector(memoryview(_part(archive, f"{base}data/{name}")), dtype, length)
            return _typed(known[name], dtype)

        return _program(_part(archive, program), 0, storage)[0]


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # zipfile has a class for each way of being damaged
        raise DamagedError(f"{type(error).__name__}: {error}") from None


def _part(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # zipfile has a class for each way of being damaged
        raise DamagedError(f"{name}: {error}") from None


def _old_format(content: bytes, at: int) -> Any:
    """The object of torch's format before 1.6 whose magic number ends at ``at``: version, system, object, the names of
    the storages, and these one after the other, each with its length before it."""
    for _ in range(2):
        _, at = _program(content, at, _storage_refused)
    start = at
    stream = io.BytesIO(content)
    stream.seek(at)
    _look_through(stream)
    names, place = _program(content, stream.tell(), _storage_refused)
    lengths: dict[str, memoryview] = {}
    whole = memoryview(content)
    kinds = _kinds(content, start)
    for name in names if isinstance(names, list) else ():
        dtype = kinds.get(str(name))
        if dtype is None or place + 8 > len(content):
            raise DamagedError(f"a storage {str(name)[:40]!r} without its numbers")
        length = int.from_bytes(content[place : place + 8], "little", signed=True)
        end = place + 8 + length * dtype.itemsize
        if length < 0 or end > len(content):
            raise DamagedError(f"a storage of {length:,} numbers with {len(content) - place - 8:,} bytes left")
        lengths[str(name)] = whole[place + 8 : end]
        place = end
    known: dict[str, Tensor] = {}

    def storage(key: Any) -> Tensor:
        dtype, name, length = _announced(key)
        view = key[5] if len(key) > 5 else None
        if name not in lengths:
            raise DamagedError(f"a storage {name[:40]!r} that is not there")
        if name not in known:
            known[name] = _vector(lengths[name], dtype, length)
        if view is None:
            return _typed(known[name], dtype)
        _, offset, count = view
        return _typed(known[name], dtype)[offset : offset + count]

    return _program(content, start, storage)[0]


def _kinds(content: bytes, start: int) -> dict[str, torch.dtype]:
    """The types of the storages by their names, which the program at ``start`` says; run on tensors without numbers."""
    found: dict[str, torch.dtype] = {}

    def note(key: Any) -> Tensor:
        dtype, name, length = _announced(key)
        found[name] = dtype
        return torch.empty(length, dtype=dtype, device="meta")

    _program(content, start, note)
    return found


def _typed(storage: Tensor, dtype: torch.dtype) -> Tensor:
    if storage.dtype != dtype:
        raise DamagedError("a storage of two types")
    return storage
