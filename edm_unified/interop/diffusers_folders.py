"""Folders that diffusers saved: a pipeline with ``model_index.json``, or a model with ``config.json``.

The network is one of :data:`~edm_unified.interop.diffusers_classes.MODELS`; what its scheduler says is read in
:mod:`edm_unified.interop.schedulers`. No code of the folder is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.interop import files, schedulers
from edm_unified.interop.diffusers_classes import MODELS, FluxOnLatents, Model, check_numbers, whole_number
from edm_unified.interop.diffusers_weights import build, weights_of
from edm_unified.interop.source import Source


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of diffusers."""
    return path.is_dir() and ((path / "model_index.json").is_file() or (path / "config.json").is_file())


def recognise(
    place: Path, label: str, shape: tuple[int, ...] = (), convention: Preconditioning | None = None
) -> Source:
    """The source in a folder of diffusers. Raises ``ValueError`` where there is none."""
    folder, scheduler = _parts(place, label)
    config = files.read_json(files.inside(folder / "config.json", place if folder.is_relative_to(place) else folder))
    name = str(config.get("_class_name", ""))
    if name == "AutoencoderKL":
        raise ValueError(f"{label}: is an autoencoder of latents, not a denoiser; read it by edm.interop.Latents.load")
    if name not in MODELS:
        what = repr(name[:60]) if name else "without a class"
        raise ValueError(f"{label}: a network {what} is not known; known are {', '.join(MODELS)}; or use edm.wrap")
    check_numbers(config, f"{folder / 'config.json'}")
    model = MODELS[name]
    try:
        found = model.shape(config)
        channels, side = found
        outputs = whole_number(config, "out_channels", None)
        classes, null = model.classes(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    if channels is None:
        raise ValueError(f"{folder / 'config.json'}: in_channels: missing")
    per = 4 if model.around is FluxOnLatents else 1
    if outputs is not None and outputs not in (per * channels, 2 * channels):
        raise ValueError(
            f"{label}: takes {channels} channels and gives {outputs}: what is joined to its input is not known; use "
            "edm.wrap"
        )
    if not shape:
        if side is None:
            raise ValueError(f"{label}: does not say the size of its samples; give shape={channels},H,W")
        shape = (channels, side, side)
    said = _of_scheduler(scheduler, config, model, convention, label)
    weights = weights_of(folder, place)
    return Source(
        place=label,
        what="diffusers folder",
        network=name,
        convention=said.convention,
        schedule=said.schedule,
        steps=said.steps,
        shape=tuple(shape),
        weights=weights,
        build=lambda: model.around(build(name, config, weights, label)),
        arguments=model.arguments,
        classes=classes,
        label="class_labels" if classes else None,
        null=null,
        negate=said.negate,
        needs=tuple(need for need in model.needs(config) if not (classes and need == "class_labels")),
        requires=("diffusers",),
        notes=said.notes,
        said={} if scheduler is None else {"scheduler": scheduler.get("_class_name")},
    )


def _parts(place: Path, label: str) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the network, and the configuration of the scheduler, if there is one."""
    if (place / "model_index.json").is_file():
        index = files.read_json(files.inside(place / "model_index.json", place))
        found = next((part for part in ("transformer", "unet", "prior") if index.get(part)), None)
        if found is None or not (place / found).is_dir():
            raise ValueError(f"{label}: model_index.json names no unet and no transformer in the folder")
        folder = place / found
    else:
        folder = place
    candidates = (place / "scheduler" / "scheduler_config.json", place / "scheduler_config.json",
                  place.parent / "scheduler" / "scheduler_config.json")  # fmt: skip
    there = next((file for file in candidates if file.is_file()), None)
    if there is None:
        return folder, None
    return folder, files.read_json(files.inside(there, place if there.is_relative_to(place) else there.parent))


def _of_scheduler(
    scheduler: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    model: Model,
    convention: Preconditioning | None,
    label: str,
) -> schedulers.ReadScheduler:
    """What the scheduler says, or ``convention`` in its place, with the schedule and levels of a flow where none do."""
    if scheduler is None and convention is None:
        raise ValueError(
            f"{label}: has no scheduler_config.json, which says what the network predicts; put it beside config.json, "
            "or give a convention"
        )
    fourier = config.get("time_embedding_type") == "fourier"
    try:
        reading = schedulers.read(scheduler or schedulers.NONE, fourier, model.told_1000)
    except ValueError as error:
        if convention is None:
            raise ValueError(f"{label}: {error}") from None
        reading = schedulers.read(schedulers.NONE, fourier, model.told_1000)
    return reading if convention is None else reading._replace(convention=convention, negate=False)
