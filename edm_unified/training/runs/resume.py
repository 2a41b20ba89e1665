"""Check whether a run may be continued with a recipe, and remove what was written only because it had ended.

What no weight depends on may have changed (``Job.FREE``, ``Training.FREE``): the title, the sampler, when to write
what, and the length. A run that had ended and is now to be longer becomes, bit for bit, what it had been with that
length from the beginning: the line of the log, the snapshot, the picture and, in time, the checkpoint that are there
only because it ended are taken back. What was summed up for that line is in the state of its last checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edm_unified.training.job import Job
from edm_unified.training.runs import checkpoint, decoding, log
from edm_unified.training.runs.storage import check_signature
from edm_unified.training.settings import Training


def check(directory: Path, job: Job) -> Training | None:
    """The settings that the run in ``directory`` has had; None where there is none.

    Raises ``ValueError`` naming the first value of the recipe that differs and may not, and where the run cannot have
    the length that is asked for.
    """
    file = directory / "run.json"
    if not file.exists():
        if checkpoint.folders(directory):
            raise ValueError(f"{directory}: has checkpoints but no run.json; start over with --fresh")
        return None
    now = json.loads(json.dumps(job.tree))
    unreadable = ValueError(f"{file}: cannot be read; copy it again, or start over with --fresh")
    try:
        about = dict(json.loads(file.read_text("utf-8")).items())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise unreadable from None
    check_signature(about, file)
    try:
        before = dict(about["recipe"].items())
        settings = decoding.decode(Training, before["training"]) if before else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise unreadable from None
    if not isinstance(settings, Training | None):
        raise unreadable
    key = decoding.first_difference(Job.bound(before), Job.bound(now))
    if key is not None:
        past = ", and with it the learning rate of what was already learnt" if key.startswith("training.rate") else ""
        raise ValueError(
            f"{directory}: was begun with another recipe: {key} was {_value(before, key)} and is {_value(now, key)}"
            f"{past}; name another directory with --out, or start over with --fresh"
        )
    now_of = data_of(job)
    kept = about.get("data")
    if kept is not None and not (isinstance(kept, dict) and all(now_of.get(key) == kept[key] for key in kept)):
        raise ValueError(
            f"{directory}: was begun with other data: {_said(kept)}, and now {_said(now_of)}; bring the "
            "first back, name another directory with --out, or start over with --fresh"
        )
    if settings is not None:
        _check_length(directory, settings, job.settings)
    return settings


def data_of(job: Job) -> dict[str, Any]:
    """What tells that the data are others, without reading them: the recipe names the place only."""
    dataset = job.dataset
    counts = dataset.class_counts
    while counts and not counts[-1]:  # as they were written before classes without samples were counted
        counts.pop()
    about: dict[str, Any] = {
        "samples": len(dataset), "shape": list(job.shape), "classes": dataset.classes, "counts": counts,
        "names": list(dataset.class_names),
    }  # fmt: skip
    if dataset.conditions:
        about["conditions"] = {kind: list(condition.shape) for kind, condition in dataset.conditions.items()}
    return about


def origin_of(directory: Path) -> dict[str, Any] | None:
    """What the run in ``directory`` recorded of the weights that it began with."""
    file = directory / "run.json"
    found = json.loads(file.read_text("utf-8")).get("init") if file.is_file() else None
    return found if isinstance(found, dict) else None


def _said(data: Any) -> str:
    if not isinstance(data, dict):
        return str(data)[:60]
    shape = data.get("shape")
    shape = "×".join(map(str, shape)) if isinstance(shape, list) else shape
    return f"{data.get('samples')} samples of shape {shape}, classes {_classes(data)[:60]}"


def _classes(data: dict[str, Any]) -> str:
    counts, names = data.get("counts"), data.get("names")
    if isinstance(counts, list) and isinstance(names, list):
        return ", ".join(f"{name} ({count})" for name, count in zip(names, counts, strict=False)) or "none"
    return str(counts or "none")


def _check_length(directory: Path, before: Training, now: Training) -> None:
    found = checkpoint.folders(directory)
    seen = int(found[-1].name) if found else 0
    if now.steps < before.steps and now.steps * now.batch < seen:
        raise ValueError(
            f"{directory}: training.images is {now.images:,}, and {seen:,} have been shown; set it to that or more, "
            "name another directory with --out, or start over with --fresh"
        )
    if now.steps > before.steps and now.rate.factor((now.steps - 1) * now.batch) == 0:
        raise ValueError(
            f"{directory}: cannot be trained longer, to training.images {now.images:,}: its learning rate "
            f"({now.rate.kind}) has come to 0 by then; start over with another training.rate, in another directory "
            "(--out) or with --fresh"
        )


def reopen(directory: Path, before: Training | None, now: Training) -> Path | None:
    """Take back what was written only because the run had ended, where it is to go on.

    Returned is the last checkpoint, where it is of that kind: to be removed when there is a newer one.
    """
    found = checkpoint.folders(directory)
    if before is None or not found or now.steps <= before.steps:
        return None
    end, images = before.steps, before.steps * before.batch
    if int(found[-1].name) != images:
        return None
    if not before.in_turn("log", end):
        log.cut(directory / "log.jsonl", end - 1)
    if not before.in_turn("snapshot", end):
        (directory / "snapshots" / f"{images:012d}.safetensors").unlink(missing_ok=True)
    if not before.in_turn("sample", end):
        for suffix in ("npy", "png"):
            (directory / "samples" / f"{images:012d}.{suffix}").unlink(missing_ok=True)
    return None if before.in_turn("save", end) else found[-1]


def _value(tree: Any, path: str) -> str:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    text = json.dumps(tree)
    return text if len(text) <= 60 else text[:57] + "..."
