"""Reading what others wrote: JSON and tensors, nothing executed, and no more memory than the files have bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edm_unified.components import paths
from edm_unified.interop import pickles

MOST_JSON = 50_000_000
"""Bytes of a JSON file; an index of the shards of the largest networks has two million."""
TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")


def inside(file: Path, folder: Path) -> Path:
    """``file`` of ``folder``, a regular file in it. Raises ``ValueError`` for a link that leads out of the folder.

    In a cache of Hugging Face a snapshot is made of links to the ``blobs`` beside it; those are inside.
    """
    base = folder.resolve()
    if base.parent.name == "snapshots":
        base = base.parent.parent
    try:
        real = file.resolve(strict=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: is missing") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{file}: cannot be followed ({error})") from None
    if not real.is_relative_to(base):
        raise ValueError(f"{file}: is a link out of {folder}; copy what it leads to into the folder")
    paths.regular(real, str(file))
    if not real.is_file():
        raise ValueError(f"{file}: is not a file")
    return real


def read_json(file: Path) -> dict[str, Any]:
    """An object of JSON. Raises ``ValueError`` where there is none."""
    if file.stat().st_size > MOST_JSON:
        raise ValueError(f"{file}: has {file.stat().st_size:,} bytes, too many for a description")
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not JSON ({_brief(error)})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: must hold an object, got {type(found).__name__}")
    return found


def read_tensors(file: Path) -> dict[str, Any]:
    """What a file of weights holds: of safetensors its tensors, of torch's format whatever tree it is.

    Raises ``ValueError`` for what is damaged, and for what holds anything but tensors, numbers, words and containers.
    """
    if file.suffix == ".safetensors":
        return dict(read_safetensors(file)[0])
    return _torch_tree(file)


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the words of the header. Raises ``ValueError`` where the header and the file do not agree."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except (SafetensorError, ValueError, OSError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{file}: not a readable safetensors file, it was cut off or changed ({_brief(error)})"
        ) from None


def _torch_tree(file: Path) -> dict[str, Any]:
    found = pickles.read(file)
    if not isinstance(found, Mapping):
        raise ValueError(f"{file}: holds {type(found).__name__}; a mapping of names to tensors is needed")
    return dict(found)


def _brief(error: BaseException) -> str:
    """The first sentence of an error, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:140]


def check_fit(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], file: Path | str) -> None:
    """Raise ``ValueError`` with the first three names unless ``weights`` have the names and shapes of ``wanted``."""
    faults = [f"no {name!r}" for name in wanted if name not in weights]
    faults += [
        f"{name!r} of shape {tuple(weights[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    faults += [f"{name!r} besides" for name in weights if name not in wanted]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(f"{file}: does not fit the network: {'; '.join(faults[:3])}{more}")


def fill(module: nn.Module, weights: Mapping[str, Tensor], file: Path | str) -> None:
    """Put ``weights`` into ``module``. Raises ``ValueError`` where they do not fit."""
    check_fit(module.state_dict(), weights, file)
    module.load_state_dict(dict(weights))


def digest(files: Iterable[Path]) -> str:
    """The SHA-256 of the contents of ``files``, in their order."""
    whole = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            whole.update(
                hashlib.file_digest(opened, "sha256").digest() if hasattr(hashlib, "file_digest") else _old(opened)
            )
    return whole.hexdigest()


def _old(opened: Any) -> bytes:
    """The digest of a file, before Python 3.11 had a function for it."""
    found = hashlib.sha256()
    while part := opened.read(1 << 20):
        found.update(part)
    return found.digest()
