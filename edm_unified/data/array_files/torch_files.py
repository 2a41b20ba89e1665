"""Files of torch.save: tensors alone, read by torch's restricted reader."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edm_unified.data.array_files.chosen import Chosen, choose
from edm_unified.data.errors import RefusedError, readable


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
