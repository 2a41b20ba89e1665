"""The weights and nodes of an ONNX file, read by its wire format; no graph is run, and no package is needed.

A file is a message of Protocol Buffers: fields of a number, a type and a value, and a field may be a message in turn.
Only what is needed is looked at: of the model (ModelProto) its graph and metadata; of the graph its nodes, its
initialisers, and the names of its inputs. Everything is a slice of the file, so that memory is that of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}
"""TensorProto.DataType."""


@dataclass(frozen=True)
class Node:
    """One operation: its type, and the names of what it takes and gives."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Initialisers by name, nodes in their order, the names of the inputs, and the words of the metadata."""

    tensors: dict[str, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)


def read(file: Path) -> Graph:
    """The graph of ``file``. Raises ``ValueError`` where it is not one, or its weights are not in it."""
    content = memoryview(file.read_bytes())
    try:
        return _model(content)
    except (_MalformedError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"{file}: not a readable ONNX file, it was cut off or changed ({error})") from None


class _MalformedError(ValueError):
    """What is not in the wire format."""


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(content) or shift > 63:
            raise _MalformedError("a number has no end")
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _fields(content: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: a whole number, or the bytes of a string, message or packed list."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(content, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _MalformedError(f"a field of type {wire}")
        if size > len(content) - at:
            raise _MalformedError(f"a field of {size:,} bytes with {len(content) - at:,} left")
        yield number, content[at : at + size]
        at += size


def _text(value: Any) -> str:
    if not isinstance(value, memoryview):
        raise _MalformedError("a number for a word")
    return bytes(value).decode("utf-8")


def _message(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise _MalformedError("a number for a message")
    return value


def _model(content: memoryview) -> Graph:
    graph, metadata = None, {}
    for number, value in _fields(content):
        if number == 7:
            graph = _message(value)
        elif number == 14:
            pair = dict(_fields(_message(value)))
            metadata[_text(pair.get(1, memoryview(b"")))] = _text(pair.get(2, memoryview(b"")))
    if graph is None:
        raise _MalformedError("no graph in it")
    tensors, nodes, inputs = {}, [], []
    for number, value in _fields(graph):
        if number == 1:
            nodes.append(_node(_message(value)))
        elif number == 5:
            name, tensor = _tensor(_message(value))
            if tensor is not None:
                tensors[name] = tensor
        elif number == 11:
            inputs.append(_text(dict(_fields(_message(value))).get(1, memoryview(b""))))
    given = tuple(name for name in inputs if name not in tensors)
    return Graph(tensors, tuple(nodes), given, metadata)


def _node(content: memoryview) -> Node:
    inputs, outputs, op = [], [], ""
    for number, value in _fields(content):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            op = _text(value)
    return Node(op, tuple(inputs), tuple(outputs))


def _tensor(content: memoryview) -> tuple[str, Tensor | None]:
    """The name and value of an initialiser; None for types that no weight has."""
    shape: list[int] = []
    name, kind, raw, floats = "", 0, None, None
    for number, value in _fields(content):
        if number == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif number == 2:
            kind = value
        elif number == 4:
            floats = _message(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _message(value)
        elif number == 13 or (number == 14 and value == 1):
            raise _MalformedError(f"{name or 'a tensor'} is in another file; save it with its weights inside")
    if kind not in _DTYPES or (raw is None and floats is None):
        return name, None
    data = raw if raw is not None else floats
    assert data is not None
    dtype = np.dtype(_DTYPES[kind] if raw is not None else np.float32)
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise _MalformedError(f"{name or 'a tensor'} of {count:,} numbers in {len(data):,} bytes")
    array = np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    return name, torch.from_numpy(array)


def _packed(content: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(content):
        value, at = _varint(content, at)
        found.append(value)
    return found
