"""Averages of any length, put together after the training from the snapshots it left (Karras et al. 2024, section 3.2).

A run with ``ema: {kind: power}`` keeps its running averages now and then. Any other length is a sum of them whose
profile comes nearest to the one asked for (:func:`edm_unified.training.ema.reconstruct`). What is written goes beside
the weights of the newest checkpoint, where ``load(path, ema=std)`` finds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified._files import claim, write_atomic
from edm_unified.training import checkpoint
from edm_unified.training.ema import gamma_of, mismatch, reconstruct


class Made(NamedTuple):
    """An average, after how many images, and ‖p − Σ x_i p_i‖/‖p‖: how far its profile is from the one asked for."""

    std: float
    file: Path
    images: int
    mismatch: float


class _Snapshot(NamedTuple):
    file: Path
    images: int
    stds: tuple[float, ...]


def write(
    run: Path, stds: Sequence[float], tell: Callable[[int, int], object] = lambda done, total: None
) -> list[Made]:
    """Averages of relative widths ``stds`` of the run, into its newest checkpoint.

    ``tell`` is told how many files have been read. Raises ``ValueError`` where the run has no snapshots, where one is
    damaged, and where another process writes to the run.
    """
    folder = checkpoint.find(run)
    meta = checkpoint.read_meta(folder)
    found = [s for s in _snapshots(run, meta["recipe"]) if s.images <= meta["images"]]
    if not found:
        raise ValueError(
            f"{run}: has no snapshots to put an average together from; train with ema: {{kind: power}} to have them"
        )
    for std in stds:
        gamma_of(std)  # raises for one that there is not
    last = found[-1].images
    profiles = [(float(s.images), gamma_of(std)) for s in found for std in s.stds]
    shares = [reconstruct(profiles, (float(last), std)) for std in stds]
    with claim(run):
        sums = _summed(found, shares, tell)
        made = []
        for std, share, weights in zip(stds, shares, sums, strict=True):
            entry = checkpoint.add(folder, checkpoint.Average(std, weights), meta["recipe"]) | {"images": last}
            meta["weights"] = [e for e in meta["weights"] if e["file"] != entry["file"]] + [entry]
            made.append(Made(std, folder / entry["file"], last, mismatch(profiles, (float(last), std), share)))
        write_atomic(folder / checkpoint.META, json.dumps(meta, indent=1) + "\n")
    return made


def _snapshots(run: Path, recipe: str) -> list[_Snapshot]:
    """Those of the run, the oldest first, and the lengths in each."""
    from safetensors import SafetensorError, safe_open

    found = []
    for file in sorted((run / "snapshots").glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                header = opened.metadata() or {}
                stds = sorted({float(name.partition("/")[0]) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{file}: not a readable snapshot, it was cut off or changed ({error})") from None
        if header.get("recipe") != recipe:
            raise ValueError(f"{file}: is a snapshot of another recipe")
        found.append(_Snapshot(file, int(file.stem), tuple(stds)))
    return found


def _summed(
    snapshots: Sequence[_Snapshot], shares: Sequence[Sequence[float]], tell: Callable[[int, int], object]
) -> list[dict[str, Tensor]]:
    """Σ x_i θ̄_i for each row of ``shares``; summed in float64, one file in memory at a time."""
    from safetensors.torch import load_file

    totals: list[dict[str, Tensor]] = [{} for _ in shares]
    types: dict[str, torch.dtype] = {}
    place = 0
    for number, snapshot in enumerate(snapshots, start=1):
        tensors = load_file(snapshot.file)
        for std in snapshot.stds:
            for key, tensor in tensors.items():
                label, _, name = key.partition("/")
                if float(label) != std:
                    continue
                types[name] = tensor.dtype
                for total, share in zip(totals, shares, strict=True):
                    if not tensor.is_floating_point():
                        total[name] = tensor
                    elif name in total:
                        total[name].add_(tensor.double(), alpha=share[place])
                    else:
                        total[name] = tensor.double() * share[place]
            place += 1
        tell(number, len(snapshots))
    return [{name: tensor.to(types[name]) for name, tensor in total.items()} for total in totals]
