"""Networks that diffusers saved, made by diffusers itself and filled with the weights that their files hold.

The weights are read here, so that one that is missing or left over is an error and not a random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.interop import files

REMEDY = "pip install 'edm_unified[diffusers]'"


def weights_of(folder: Path, place: Path) -> tuple[Path, ...]:
    """The files of weights of a folder: safetensors if there are any, in one file or in shards."""
    stem = "diffusion_pytorch_model"
    for suffix in (".safetensors", ".bin"):
        whole, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
        if whole.is_file():
            return (files.inside(whole, place),)
        if index.is_file():
            named = files.read_json(files.inside(index, place)).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
                raise ValueError(f"{index}: has no weight_map")
            shards = sorted(set(named.values()))
            if any(Path(name).name != name for name in shards):
                raise ValueError(f"{index}: names a file outside its folder")
            return tuple(files.inside(folder / name, place) for name in shards)
        variants = sorted(folder.glob(f"{stem}.*{suffix}"))
        if len(variants) == 1:
            return (files.inside(variants[0], place),)
    raise ValueError(f"{folder}: has no weights, {stem}.safetensors or .bin")


def library() -> Any:
    """diffusers. Raises ``ValueError`` with the line that installs it."""
    try:
        import diffusers
    except ImportError:
        raise ValueError(f"diffusers: is not installed, and this folder needs it; {REMEDY}") from None
    return diffusers


_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Attention layers as they were called before diffusers 0.13."""


def build(name: str, config: Mapping[str, Any], weights: tuple[Path, ...], label: str) -> nn.Module:
    """The network with its weights, in evaluation mode. Raises ``ValueError`` where they do not fit."""
    tensors: dict[str, Tensor] = {}
    for file in weights:
        tensors.update(files.read_tensors(file))
    if (wrong := next((key for key, value in tensors.items() if not isinstance(value, Tensor)), None)) is not None:
        raise ValueError(f"{weights[0]}: {wrong!r} is no tensor; it is not what diffusers writes")
    cls = getattr(library(), name)
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):  # its shapes first: the memory is that of the files, whatever the configuration says
        sized = _made(cls, plain, label).state_dict()
    renamed = {_renamed(key, sized): value for key, value in tensors.items()}
    files.check_fit(sized, renamed, weights[0])
    network = _made(cls, plain, label)
    files.fill(network, renamed, weights[0])
    return network.eval()


def _made(cls: Any, config: dict[str, Any], label: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return cls.from_config(config)  # type: ignore[no-any-return]
    except Exception as error:  # whatever a class makes of a value that it cannot take
        raise ValueError(
            f"{label}: config.json: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        ) from None


def _renamed(key: str, wanted: Mapping[str, Any]) -> str:
    if key in wanted:
        return key
    for old, new in _OLD_NAMES:
        if key.replace(old, new) in wanted:
            return key.replace(old, new)
    return key
