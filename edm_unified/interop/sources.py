"""What a source is, and the denoiser in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edm_unified.components import paths
from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.interop import diffusers_folders, terrain
from edm_unified.interop.source import Source
from edm_unified.training.runs import checkpoint
from edm_unified.training.trained_denoiser import TrainedDenoiser

FILES = {".onnx": terrain.recognise}
"""Files by their suffix, and what reads each."""


def is_source(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a checkpoint of another library, by its files alone."""
    try:
        place = paths.expanded(path)
    except ValueError:
        return False
    return diffusers_folders.is_folder(place) or (place.suffix in FILES and place.is_file())


def recognise(
    path: str | os.PathLike[str], *, shape: Sequence[int] = (), convention: Preconditioning | None = None
) -> Source:
    """What ``path`` is, without reading its weights. Raises ``ValueError`` in one line where it is nothing known."""
    place, label = paths.expanded(path), os.fspath(path)
    paths.regular(place, label)
    if diffusers_folders.is_folder(place):
        return diffusers_folders.recognise(place, label, tuple(shape), convention)
    if place.suffix in FILES and place.is_file():
        return FILES[place.suffix](place, label)
    if not place.exists():
        raise ValueError(f"{label}: no such file or folder")
    what = "a folder without model_index.json or config.json" if place.is_dir() else "a file of no known kind"
    raise ValueError(
        f"{label}: is {what}; known are runs of edm-unified, folders of diffusers, and files {', '.join(FILES)}"
    )


def load(
    path: str | os.PathLike[str],
    ema: float | None = None,
    device: torch.device | str = "cpu",
    *,
    convention: Preconditioning | None = None,
    shape: Sequence[int] = (),
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> TrainedDenoiser:
    """The denoiser D(x, sigma, **cond) in ``path``: a run of `edm-unified train`, or a checkpoint of another library.

    Of a run ``ema`` chooses the average, as :func:`edm_unified.training.runs.checkpoint.load` says. Of another library
    ``convention`` takes the place of what the files say, ``shape`` is that of a sample where they do not say it,
    ``cond`` are conditions for every call, such as embeddings of a text, and ``dtype`` is that of the network.

    Raises ``ValueError`` in one line where a file is missing, damaged, or of a network or scheduler that is not known.
    """
    if checkpoint.is_run(path) or not is_source(path):
        return checkpoint.load(path, ema, device, **more)
    if ema is not None or more:
        raise ValueError(
            f"{os.fspath(path)}: ema is of runs of edm-unified; of this source there is one set of weights"
        )
    return recognise(path, shape=shape, convention=convention).denoiser(convention, cond, dtype).to(device)
