"""Read checkpoints of ``torch.distributed.checkpoint`` without executing anything in them.

Torch unpickles two things when it loads such a checkpoint: the list of contents, ``.metadata``, and whatever is not a
tensor, such as the numbers of an optimizer. Here the list is read as data: its opcodes are those that torch's own
writer uses, each class in it becomes an inert record, and torch's classes are made anew from records whose values have
the right types, names of entries, and places within the files beside it. What is not a tensor is read by
``torch.load(weights_only=True)``, as the tensors are.

    load(tree, directory)       in the place of torch.distributed.checkpoint.load
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed import checkpoint
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import ReadItem

T = TypeVar("T")

CONTENTS = ".metadata"
MOST_BYTES = 2**28
"""The largest list that is read: one of a tensor in a piece has about 600 bytes."""

_OPCODES = frozenset("""
    PROTO FRAME STOP MARK MEMOIZE BINGET LONG_BINGET NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    SHORT_BINUNICODE BINUNICODE EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2
    TUPLE3 STACK_GLOBAL REDUCE NEWOBJ BUILD
""".split())  # noqa: SIM905  # fmt: skip
"""All that Python's protocols 4 and 5 need for plain data and dataclasses."""

_METADATA = "torch.distributed.checkpoint.metadata"
_CLASSES = {
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    ("builtins", "getattr"),  # Python 3.11 writes a member of an enumeration as getattr(class, name)
}
"""What the lists of torch 2.6 to 2.15 name, besides types of tensors. None of it is called."""


class _Placeholder:
    """What a class or a function of the list stands for: its name, the arguments it was given, and its state."""

    name: str
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Placeholder:
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Inert(pickle.Unpickler):
    """Makes records, of classes that live no longer than it does."""

    def __init__(self, content: bytes) -> None:
        pickle.Unpickler.__init__(self, io.BytesIO(content))
        self._made: dict[tuple[str, str], type[_Placeholder]] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name == "torch" and isinstance(found := vars(torch).get(global_name), torch.dtype):
            return found
        key = (module_name, global_name)
        if key not in _CLASSES:
            raise ValueError(f"names {module_name}.{global_name}, which no checkpoint needs")
        if key not in self._made:
            self._made[key] = type("_Placeholder", (_Placeholder,), {"name": global_name})
        return self._made[key]


def read_contents(directory: Path) -> torch_metadata.Metadata:
    """The list of contents of the checkpoint in ``directory``; nothing of it is executed.

    Raises ``ValueError`` naming the file and what is wrong in it, ``OSError`` where it cannot be read.
    """
    file = directory / CONTENTS
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    if sizes.get(CONTENTS, 0) > MOST_BYTES:
        raise ValueError(f"{file}: {sizes[CONTENTS]:,} bytes are more than any list of contents has")
    content = file.read_bytes()
    try:
        for opcode, _, _ in pickletools.genops(content):
            if opcode.name not in _OPCODES:
                raise ValueError(f"has the opcode {opcode.name}, which no checkpoint needs")
        return _contents(_Inert(content).load(), sizes)
    except RecursionError:
        raise ValueError(f"{file}: cannot be read (nested too deeply)") from None
    except Exception as error:  # a damaged pickle raises whatever it pleases
        first = next(iter(str(error).splitlines()), "")[:160]
        raise ValueError(f"{file}: cannot be read ({first or type(error).__name__})") from None


def _contents(found: Any, sizes: dict[str, int]) -> torch_metadata.Metadata:
    """Torch's own objects, from records; ``sizes`` of the files beside the list, in bytes."""
    fields = _fields(found, "Metadata")
    entries = {_text(name): _entry(entry) for name, entry in _of(dict, fields["state_dict_metadata"]).items()}
    paths = {_text(name): _path(path) for name, path in _of(dict, fields.get("planner_data") or {}).items()}
    places = {_index(key): _place(info, sizes) for key, info in _of(dict, fields["storage_data"]).items()}
    made = torch_metadata.Metadata(state_dict_metadata=entries, planner_data=paths, storage_data=places)
    if isinstance(version := fields.get("version"), str):  # torch 2.9 and later
        made.version = version
    made.storage_meta = torch_metadata.StorageMeta()
    return made


def _entry(found: Any) -> torch_metadata.TensorStorageMetadata | torch_metadata.BytesStorageMetadata:
    if isinstance(found, _Placeholder) and found.name == "BytesStorageMetadata":
        return torch_metadata.BytesStorageMetadata()
    fields = _fields(found, "TensorStorageMetadata")
    chunks = []
    for chunk in _of(list, fields["chunks"]):
        inner = _fields(chunk, "ChunkStorageMetadata")
        chunks.append(torch_metadata.ChunkStorageMetadata(_size(inner["offsets"]), _size(inner["sizes"])))
    properties = _record(fields["properties"], "TensorProperties")
    dtype, _, requires_grad, _, pin_memory = _of(tuple, properties.state)  # layout and memory format: the usual ones
    made = torch_metadata.TensorProperties(
        dtype=_of(torch.dtype, dtype), requires_grad=_of(bool, requires_grad), pin_memory=_of(bool, pin_memory)
    )
    return torch_metadata.TensorStorageMetadata(made, _size(fields["size"]), chunks)


def _index(found: Any) -> torch_metadata.MetadataIndex:
    fields = _fields(found, "MetadataIndex")
    offset, index = fields.get("offset"), fields.get("index")
    return torch_metadata.MetadataIndex(
        _text(fields["fqn"]),
        None if offset is None else _size(offset),
        None if index is None else _count(index),
    )


def _place(found: Any, sizes: dict[str, int]) -> _StorageInfo:
    """Where an entry is: within one of the files that are there."""
    fields = _fields(found, "_StorageInfo")
    name, offset, length = _text(fields["relative_path"]), _count(fields["offset"]), _count(fields["length"])
    if name not in sizes:
        raise ValueError(f"names the file {name!r}, which is not there")
    if offset + length > sizes[name]:
        raise ValueError(f"names bytes {offset:,} to {offset + length:,} of {name}, which has {sizes[name]:,}")
    if fields.get("transform_descriptors"):
        raise ValueError("names compressed entries, which no checkpoint of ours has")
    return _StorageInfo(name, offset, length)


def _record(found: Any, name: str) -> _Placeholder:
    if not (isinstance(found, _Placeholder) and found.name == name):
        raise ValueError(f"has no {name} where one belongs")
    return found


def _fields(found: Any, name: str) -> dict[str, Any]:
    """The fields of a dataclass of that name."""
    return _of(dict, _record(found, name).state)


def _size(found: Any) -> torch.Size:
    (numbers,) = _record(found, "Size").args
    return torch.Size([_count(number) for number in _of(tuple, numbers)])


def _path(found: Any) -> tuple[str | int, ...]:
    """Where an entry stands in the nested dictionary that was saved."""
    parts = _of(tuple, found)
    return tuple(_of(int, part) if type(part) is int else _text(part) for part in parts)


def _text(found: Any) -> str:
    return _of(str, found)


def _count(found: Any) -> int:
    if _of(int, found) < 0:
        raise ValueError(f"has {found!r} where a size belongs")
    return found  # type: ignore[no-any-return]


def _of(kind: type[T], found: Any) -> T:
    if type(found) is not kind:
        raise ValueError(f"has {type(found).__name__} where {kind.__name__} belongs")
    return found


class _PartReader(FileSystemReader):
    """Torch's reader of a directory, with a list of contents that was read as data."""

    def read_metadata(self) -> torch_metadata.Metadata:  # type: ignore[override]  # without the lists of single ranks
        return read_contents(Path(self.path))


class _Planner(DefaultLoadPlanner):
    """Torch's plan, where what is not a tensor is plain data too."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        found = torch.load(value, map_location="cpu", weights_only=True)
        place: Any = self.original_state_dict
        *parents, last = self.mappings[read_item.dest_index.fqn]
        for key in parents:
            place = place[key]
        place[last] = found


def load(tree: dict[str, Any], directory: Path) -> None:
    """Fill ``tree`` with what is in ``directory``; all processes together.

    Raises what ``torch.distributed.checkpoint.load`` does.
    """
    checkpoint.load(tree, storage_reader=_PartReader(str(directory)), planner=_Planner())
