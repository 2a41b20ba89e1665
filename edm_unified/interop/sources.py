"""What a source is, and the denoiser in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edm_unified.components import paths
from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.interop import (
    adm,
    converted,
    diffusers_folders,
    dit,
    lucidrains,
    nvidia,
    score_sde,
    state_dicts,
    terrain,
)
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.training.runs import checkpoint
from edm_unified.training.trained_denoiser import TrainedDenoiser

WEIGHTS = (".pkl", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""Suffixes of files of weights."""
FILES = (".onnx", *WEIGHTS)
"""Suffixes of files that may be sources."""


class Family(NamedTuple):
    """Files of one library: its name, whether ``knows`` them by what they hold, and how it reads them."""

    name: str
    knows: Callable[[Content], bool]
    recognise: Callable[[Content, Asked], Source]


FAMILIES = (
    Family("networks that edm-unified converted", converted.knows, converted.recognise),
    Family("pickles of EDM and EDM2", nvidia.knows, nvidia.recognise),
    Family("improved- and guided-diffusion, torchcfm, Meta's flow_matching", adm.knows, adm.recognise),
    Family("score_sde_pytorch", score_sde.knows, score_sde.recognise),
    Family("denoising-diffusion-pytorch", lucidrains.knows, lucidrains.recognise),
    Family("DiT and SiT", dit.knows, dit.recognise),
)
"""Asked one after the other."""


def is_source(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a checkpoint of another library, by its files alone."""
    try:
        place = paths.expanded(path)
    except ValueError:
        return False
    if place.is_dir():
        return diffusers_folders.is_folder(place) or converted.is_folder(place)
    return place.suffix in FILES and place.is_file()


def recognise(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] = (),
    convention: Preconditioning | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Source:
    """What ``path`` is. Raises ``ValueError`` in one line where it is nothing known.

    ``fields`` are fields of our network that the file does not say, such as ``{"heads": 1}``.
    """
    place, label = paths.expanded(path), os.fspath(path)
    asked = Asked(tuple(shape), convention, dict(fields or {}))
    paths.regular(place, label)
    if diffusers_folders.is_folder(place):
        return diffusers_folders.recognise(place, label, asked.shape, convention)
    if converted.is_folder(place):
        return _weights(files_in(place), label, asked)
    if place.suffix == ".onnx" and place.is_file():
        return terrain.recognise(place, label)
    if place.suffix in WEIGHTS and place.is_file():
        return _weights(place, label, asked)
    if not place.exists():
        raise ValueError(f"{label}: no such file or folder")
    what = "a folder without model_index.json or config.json" if place.is_dir() else "a file of no known kind"
    raise ValueError(
        f"{label}: is {what}; known are runs of edm-unified, folders of diffusers, and files {', '.join(FILES)}"
    )


def files_in(folder: Path) -> Path:
    """The file of weights in a folder that edm-unified converted to."""
    from edm_unified.interop import files

    return files.inside(folder / converted.WEIGHTS, folder)


def _weights(file: Path, label: str, asked: Asked) -> Source:
    content = state_dicts.read(file, label)
    family = next((family for family in FAMILIES if family.knows(content)), None)
    if family is None:
        raise ValueError(
            f"{label}: {_described(content)}, which is of no network that is known; known are "
            f"{'; '.join(family.name for family in FAMILIES)}; of any other use edm.wrap"
        )
    try:
        return family.recognise(content, asked)
    except KeyError as error:
        raise ValueError(f"{label}: does not fit the network: no {str(error.args[0])[:100]!r}") from None
    except IndexError:  # of a shape with too few axes
        raise ValueError(f"{label}: does not fit the network: a weight has too few axes") from None


def _described(content: Content) -> str:
    """What a file of weights holds, in words: the first names."""
    tensors = content.state.tensors
    if tensors:
        return f"holds {', '.join(map(repr, list(tensors)[:3]))} …"
    tree = content.tree
    if isinstance(tree, Mapping):
        return f"holds {', '.join(repr(str(name)[:30]) for name in list(tree)[:3]) or 'nothing'}"
    return f"holds {type(tree).__name__}"


def load(
    path: str | os.PathLike[str],
    ema: float | None = None,
    device: torch.device | str = "cpu",
    *,
    convention: Preconditioning | None = None,
    shape: Sequence[int] = (),
    fields: Mapping[str, Any] | None = None,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> TrainedDenoiser:
    """The denoiser D(x, sigma, **cond) in ``path``: a run of `edm-unified train`, or a checkpoint of another library.

    Of a run ``ema`` chooses the average, as :func:`edm_unified.training.runs.checkpoint.load` says. Of another library
    ``convention`` takes the place of what the files say, ``shape`` is that of a sample and ``fields`` are those of our
    network (``{"heads": 1}``) where they do not say it, ``cond`` are conditions for every call, such as embeddings of a
    text, and ``dtype`` is that of the network.

    Raises ``ValueError`` in one line where a file is missing, damaged, or of a network or scheduler that is not known.
    """
    if checkpoint.is_run(path) or not is_source(path):
        return checkpoint.load(path, ema, device, **more)
    if ema is not None or more:
        raise ValueError(
            f"{os.fspath(path)}: ema is of runs of edm-unified; of this source there is one set of weights"
        )
    source = recognise(path, shape=shape, convention=convention, fields=fields)
    return source.denoiser(convention, cond, dtype).to(device)
