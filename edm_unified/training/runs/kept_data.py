"""What a checkpoint keeps of its data, so that it stands on its own: ``data.safetensors``.

The scale, black and white, the unit, the number, the classes by name and of every sample, the moments, and a few
samples for pictures; of pairs, the same of their conditions. Numbers that fill arrays are tensors, the rest is JSON in
the header. The samples themselves stay where the recipe says; they are looked for when somebody asks for one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edm_unified.components.files import write_atomic
from edm_unified.data import Dataset, Rows, Scaling
from edm_unified.data.dataset import AS_STORED, BYTES, ConditionKind, LaterRows
from edm_unified.data.kept import Measured, Moments, measure

FILE = "data.safetensors"


def write(directory: Path, dataset: Dataset, source: Any) -> dict[str, str]:
    """Write ``directory``/data.safetensors; what ``checkpoint.json`` says of it. ``source``: the data in the recipe."""
    from safetensors.torch import save

    about, tensors = _plain(dataset)
    about["source"] = source
    if dataset.conditions:
        about["conditions"] = {}
    for kind, condition in dataset.conditions.items():
        about["conditions"][kind], inner = _plain(condition)
        tensors |= {f"{kind}/{name}": value for name, value in inner.items()}
    found = {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}
    content = save(found, metadata={"about": json.dumps(about)})
    write_atomic(directory / FILE, content)
    return {"file": FILE, "sha256": hashlib.sha256(content).hexdigest()}


def _plain(dataset: Dataset) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    """What is kept of ``dataset`` but for its conditions: what goes into the header, and the arrays."""
    measured = measure(dataset)
    own = measured.moments
    about = {
        "name": dataset.name, "number": len(dataset), "class_names": list(dataset.class_names), "unit": dataset.unit,
        "extent": dataset.extent, "whole": dataset.in_whole_numbers, "variance": own.variance, "squared": own.squared,
        "measured": own.samples, "notes": list(dataset.notes),
    }  # fmt: skip
    tensors: dict[str, Tensor | None] = {
        "some": measured.some, "some_labels": _small(measured.labels), "mean": own.mean, "covariance": own.covariance,
        "directions": own.directions, "variances": own.variances,
        "shift": torch.as_tensor(dataset.scaling.shift, dtype=torch.float64),
        "scale": torch.as_tensor(dataset.scaling.scale, dtype=torch.float64), "labels": _small(dataset.labels),
    }  # fmt: skip
    return about, tensors


def _small(labels: Tensor | None) -> Tensor | None:
    """Classes in the smallest type that has room for them."""
    if labels is None or labels.dtype == torch.bool:
        return labels
    most = int(labels.max()) if labels.numel() else 0
    return labels.to(torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32)


def read(folder: Path, said: dict[str, Any], load: Callable[[], Dataset]) -> tuple[Dataset, Any] | None:
    """The data as a checkpoint in ``folder`` keeps them, and what the recipe said of them.

    ``said``: what ``checkpoint.json`` says of the data; None is returned where it has no such file, as those from
    before it was kept. ``load`` is called when a sample is asked for that is not kept. Raises ``ValueError`` naming the
    file where it is missing, or not as it was written.
    """
    from safetensors.torch import load as parse

    if "file" not in said:
        return None
    file = folder / FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file}: is missing, though checkpoint.json names it; copy the run again") from None
    if hashlib.sha256(content).hexdigest() != said.get("sha256"):
        raise ValueError(
            f"{file}: was changed after it was written (its SHA-256 is not that in checkpoint.json); copy it again"
        )
    try:
        tensors = parse(content)
        about = json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["about"])
        conditions = {
            kind: _kept(
                inner,
                {
                    name.removeprefix(f"{kind}/"): value
                    for name, value in tensors.items()
                    if name.startswith(f"{kind}/")
                },
                partial(_condition, load, kind),
            )
            for kind, inner in about.get("conditions", {}).items()
        }
        kept = replace(_kept(about, tensors, load), conditions=conditions)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: cannot be read ({str(error)[:120]}); copy it again") from None
    return kept, about["source"]


def _condition(load: Callable[[], Dataset], kind: ConditionKind) -> Dataset:
    """A condition of the data, which are loaded for it."""
    return load().conditions[kind]


def _kept(about: dict[str, Any], tensors: Mapping[str, Tensor], load: Callable[[], Dataset]) -> Dataset:
    """What :func:`_plain` took apart, whose samples are those that ``load`` finds."""
    own = Moments(
        tensors["mean"], about["variance"], about["squared"], about["measured"],
        *map(tensors.get, ("covariance", "directions", "variances")),
    )  # fmt: skip
    measured = Measured(own, tensors["some"], _long(tensors.get("some_labels")))
    number, shape, labels = about["number"], tuple(measured.some.shape[1:]), _long(tensors.get("labels"))
    return Dataset(
        LaterRows(number, shape, lambda: _opened(load, number, shape, labels)), labels, about["name"],
        _scaling(tensors["shift"], tensors["scale"]), tuple(about["class_names"]), notes=tuple(about["notes"]),
        unit=about["unit"], extent=None if about["extent"] is None else tuple(about["extent"]),
        whole=about["whole"], measured=measured,
    )  # fmt: skip


def _long(labels: Tensor | None) -> Tensor | None:
    return labels if labels is None or labels.dtype == torch.bool else labels.long()


def _scaling(shift: Tensor, scale: Tensor) -> Scaling:
    """The map as it was made: that of bytes is told by what it is."""
    found = Scaling(*(float(value) if value.ndim == 0 else value for value in (shift, scale)))
    return next((known for known in (AS_STORED, BYTES) if found == known), found) if shift.ndim == 0 else found


def _opened(load: Callable[[], Dataset], number: int, shape: tuple[int, ...], labels: Tensor | None) -> Rows:
    try:
        dataset = load()
    except ValueError as error:
        raise ValueError(f"{error}; this needs the data, of which a run keeps a few samples only") from None
    same = labels is dataset.labels or (
        labels is not None and dataset.labels is not None and torch.equal(labels, dataset.labels)
    )
    if len(dataset) != number or dataset.shape != shape or not same:
        raise ValueError(
            f"data: {dataset.name} are no longer those of the run: {len(dataset):,} samples of shape {dataset.shape}, "
            f"and it was trained on {number:,} of {shape}{'' if same else ', with other classes'}; bring them back"
        )
    return dataset.stored
