"""Files of safetensors, which stay on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edm_unified.data.array_files.chosen import Chosen, choose
from edm_unified.data.errors import RefusedError, readable


def read_safetensors(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    from safetensors import safe_open

    def array(field: str, name: str) -> np.ndarray:
        about = opened.get_slice(name)
        if about.get_dtype() not in (*_DTYPES, *_CONVERTED):
            raise RefusedError(
                f"{field}: {file}: '{name}' holds {about.get_dtype()}, which is not read; store it as float32"
            )
        if about.get_dtype() in _CONVERTED:
            tensor: Tensor = opened.get_tensor(name)
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        shape, first = about.get_shape(), _offset(file, name)
        if 0 in shape:
            return np.empty(shape, _DTYPES[about.get_dtype()])
        return np.memmap(file, _DTYPES[about.get_dtype()], "r", first, tuple(shape))

    with (
        readable(f"path: {file}", "safetensors file"),
        safe_open(file, framework="pt") as opened,  # checks the header and the length of the file
    ):
        wanted, classes = choose(list(opened.keys()), key, label_key, file)
        return array("key", wanted), None if classes is None else array("label_key", classes)


_DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
"""Those that stay on disk."""


_CONVERTED = ("BF16", "BOOL", "I8", "I16", "U16", "U32", "U64")
"""Those that torch reads; NumPy has no bfloat16."""


def _offset(file: Path, name: str) -> int:
    """Where the bytes of an array begin: after 8 bytes of length, a header in JSON, and the arrays before it."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return 8 + length + int(json.loads(opened.read(length))[name]["data_offsets"][0])


def read_tensors(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """An array of a safetensors file, left on the disk."""
    return Chosen(*read_safetensors(file, key, label_key))
