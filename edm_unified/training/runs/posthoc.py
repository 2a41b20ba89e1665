"""Averages of any length, put together after the training from the snapshots it left (Karras et al. 2024, section 3.2).

A run with ``ema: {kind: power}`` keeps its running averages now and then. Any other length is a sum of them whose
profile comes nearest to the one asked for (:mod:`edm_unified.training.optimization.posthoc_ema`). What is written
goes beside the weights of the newest checkpoint, where ``load(path, ema=std)`` finds it.

Averages that the training made stay as they are. ``checkpoint.json`` names whole files at any moment: new weights get
new names, then it is replaced, then the files that it no longer names are removed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.output_kinds import RUN
from edm_unified.components.outputs import DamagedError, OutputDirectory
from edm_unified.training.optimization.ema import gamma_of
from edm_unified.training.optimization.posthoc_ema import Profiles, fit, nearest
from edm_unified.training.runs import checkpoint
from edm_unified.training.runs.storage import sync

LIMIT = 0.1
"""The largest mismatch of an average that is written. Of 50 snapshots of 0.05 and 0.10, all from 0.01 to 0.28 pass."""

_REMEDY = "copy it again, or remove it to do without"


class ReconstructedAverage(NamedTuple):
    """An average, after how many images, and ‖p − Σ x_i p_i‖/‖p‖: how far its profile is from the one asked for.

    One that the training made is named as it is, with 0.
    """

    std: float
    file: Path
    images: int
    mismatch: float


class _Snapshot(NamedTuple):
    file: Path
    images: int
    stds: tuple[float, ...]


def write(
    run: Path,
    stds: Sequence[float],
    tell: Callable[[int, int], object] = lambda done, total: None,
    note: Callable[[str], object] = lambda text: None,
) -> list[ReconstructedAverage]:
    """Averages of relative widths ``stds`` of the run, into its newest checkpoint.

    ``tell`` is told how many files have been read, ``note`` what else there is to know.

    Raises ``ValueError`` where two widths are the same, where the profile of one would be more than ``LIMIT`` off,
    where the run has no snapshots, where one is damaged, and where another process writes to the run. Raises
    ``OSError`` where a file cannot be written; the checkpoint is as before.
    """
    for a, b in itertools.combinations(stds, 2):
        if checkpoint.same(a, b):
            raise ValueError(f"std: {a} and {b} are one average; name each length once")
    checkpoint.find(run)  # raises where there is no run, before its directory is claimed
    if not _files(run):
        raise ValueError(_without(run))
    with OutputDirectory(run, RUN) as output:
        folder = checkpoint.find(run)
        meta = checkpoint.read_meta(folder)
        found = [s for s in _snapshots(output, meta["recipe"]) if s.images <= meta["images"]]
        if not found:
            raise ValueError(_without(run))
        unknown = sum(not output.is_sealed(_name(snapshot.file)) for snapshot in found)
        if unknown:
            note(f"{run}: of {unknown} of {len(found)} snapshots no SHA-256 was kept; they are taken as they are")
        last = found[-1].images
        profiles = [(float(s.images), gamma_of(std)) for s in found for std in s.stds]
        fits = {std: fit(profiles, float(last), std) for std in stds}
        trained = {std: entry for std in stds if (entry := _trained(folder, meta, std)) is not None}
        for std, (_, off) in fits.items():
            if off > LIMIT and std not in trained:
                raise ValueError(_unmet(run, profiles, found[-1], std, off))
        wanted = [std for std in stds if std not in trained]
        sums = _summed(output, found, [fits[std][0] for std in wanted], tell) if wanted else []
        averages = [checkpoint.Average(std, weights) for std, weights in zip(wanted, sums, strict=True)]
        new = dict(zip(wanted, _put(output, folder, meta, averages, last), strict=True))
    return [
        ReconstructedAverage(std, folder / new[std]["file"], last, fits[std][1])
        if std in new
        else ReconstructedAverage(trained[std]["std"], folder / trained[std]["file"], meta["images"], 0.0)
        for std in stds
    ]


def _without(run: Path) -> str:
    return f"{run}: has no snapshots to put an average together from; train with ema: {{kind: power}} to have them"


def _trained(folder: Path, meta: dict[str, Any], std: float) -> dict[str, Any] | None:
    """The average of that length, where the training made it and its file is whole."""
    entry = checkpoint.named(meta["weights"], std)
    if entry is None or "images" in entry:
        return None
    try:
        checkpoint.read_weights(folder, entry, meta["recipe"])
    except ValueError:  # damaged: it is put together anew
        return None
    return entry


def _unmet(run: Path, profiles: Profiles, last: _Snapshot, std: float, off: float) -> str:
    """What to say of a length that cannot be met: the nearest lengths on either side that can."""
    neighbours = [
        max((s for s in last.stds if s < std), default=None),
        min((s for s in last.stds if s > std), default=None),
    ]
    near = [f"{nearest(profiles, float(last.images), kept, std, LIMIT):g}" for kept in neighbours if kept is not None]
    return (
        f"std: the snapshots of {run} do not make an average of {std:g}, its profile would be {100 * off:.3g} % off "
        f"and at most {100 * LIMIT:g} % may be; the nearest they make: {' and '.join(near)}"
    )


def _put(
    output: OutputDirectory, folder: Path, meta: dict[str, Any], averages: Sequence[checkpoint.Average], images: int
) -> list[dict[str, Any]]:
    """Write ``averages``, each in the place of the one of its length, or after all: the first stays the default."""
    output.own(f"checkpoints/{folder.name}")
    old, new, added = meta["weights"], list(meta["weights"]), []
    kept = {entry["file"] for entry in old}
    try:
        for average in averages:
            assert average.std is not None
            entry = checkpoint.add(folder, average, meta["recipe"], old) | {"images": images}
            added.append(entry)
            before = checkpoint.named(new, average.std)
            place = len(new) if before is None else new.index(before)
            new[place : place + 1] = [entry]
        sync(folder)
        if new != old:
            checkpoint.write_meta(folder, meta | {"weights": new})
    except OSError:  # checkpoint.json is the old one
        for entry in added:
            if entry["file"] not in kept:
                (folder / entry["file"]).unlink(missing_ok=True)
        raise
    sync(folder)
    for file in kept - {entry["file"] for entry in new}:
        (folder / file).unlink(missing_ok=True)
    return added


def _files(run: Path) -> list[Path]:
    """The snapshots, the oldest first: files named by how many images were shown. A copy by another name is none."""
    found = [file for file in (run / "snapshots").glob("*.safetensors") if re.fullmatch("[0-9]{12,}", file.stem)]
    return sorted(found, key=lambda file: int(file.stem))


def _name(file: Path) -> str:
    return f"snapshots/{file.name}"


def _snapshots(output: OutputDirectory, recipe: str) -> list[_Snapshot]:
    """Those of the run, the oldest first, and the lengths in each."""
    from safetensors import SafetensorError, safe_open

    found = []
    for file in _files(output.path):
        try:
            with safe_open(file, framework="pt") as opened:
                header = opened.metadata() or {}
                stds = sorted({float(name.partition("/")[0]) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(
                f"{file}: not a readable snapshot, it was cut off or changed ({error}); copy it again, or remove it"
            ) from None
        if header.get("recipe") != recipe:
            raise ValueError(f"{file}: is a snapshot of another recipe")
        found.append(_Snapshot(file, int(file.stem), tuple(stds)))
    return found


def _summed(
    output: OutputDirectory,
    snapshots: Sequence[_Snapshot],
    shares: Sequence[Sequence[float]],
    tell: Callable[[int, int], object],
) -> list[dict[str, Tensor]]:
    """Σ x_i θ̄_i for each row of ``shares``; summed in float64, one file in memory at a time.

    Raises ``ValueError`` naming a file that is not what was written.
    """
    from safetensors.torch import load

    totals: list[dict[str, Tensor]] = [{} for _ in shares]
    types: dict[str, torch.dtype] = {}
    place = 0
    for number, snapshot in enumerate(snapshots, start=1):
        try:
            content = output.read(_name(snapshot.file))
        except DamagedError as error:
            raise ValueError(f"{error}; {_REMEDY}") from None
        assert content is not None
        tensors = load(content)
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
