"""What ``edm-unified convert`` writes, and how it is read: a network of ours with all that is known of it.

    OUT/model.safetensors    the weights under our names; in the header the network, its convention, schedule and levels
    OUT/recipe.yaml          a recipe around them, to be read and changed

The folder appears when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from edm_unified.components.component import encode
from edm_unified.components.files import write_atomic
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.interop import files
from edm_unified.interop.moving import LARGEST, Moving
from edm_unified.interop.networks import AnyForeign
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.networks import AnyNetwork
from edm_unified.sampling.levels import AnySteps
from edm_unified.schedules import AnySchedule
from edm_unified.training.runs import decoding

FORMAT = "edm_unified network 1"
KEY = "edm_unified"
WEIGHTS = "model.safetensors"
RECIPE = "recipe.yaml"


def is_folder(place: Path) -> bool:
    """Whether ``place`` is a folder that was written by :func:`write`, by its files alone."""
    return place.is_dir() and (place / WEIGHTS).is_file() and not (place / "config.json").is_file()


def knows(content: Content) -> bool:
    return KEY in content.words


def write(source: Source, out: Path, recipe: Callable[[Source], str]) -> None:
    """Write the network of ``source`` to the folder ``out``; ``recipe`` makes the text of a recipe of it.

    Raises ``ValueError`` where ``out`` is there and not empty, where the network has no form of ours, or where its
    weights do not fit.
    """
    from safetensors.torch import save

    if source.component is None:
        raise ValueError(
            f"{source.place}: {source.network} is run by its own library and has no form here; it is read where it is"
        )
    _free(out)
    network = source.build()
    about = _about(source)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = save(weights, metadata={KEY: json.dumps(about, ensure_ascii=False)})
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".edm-convert-", dir=out.parent))
    try:
        write_atomic(made / WEIGHTS, content)
        write_atomic(made / RECIPE, recipe(source))
        made.chmod(0o777 & ~_umask())
        _free(out)
        if out.is_dir():
            out.rmdir()
        os.rename(made, out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _free(out: Path) -> None:
    if os.path.lexists(out) and not (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
        raise ValueError(f"{out}: is there already; name another, or remove it first")


def _about(source: Source) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "from": source.what,
        "name": source.network,
        "network": encode(source.component),
        "shape": list(source.shape),
        "classes": source.classes,
        "augment": source.augment,
        "optional": source.optional,
        "clip": source.clip,
        "convention": encode(source.convention),
        "schedule": encode(source.schedule),
        "levels": encode(source.steps),
        "notes": list(source.notes),
        "sha256": files.digest(source.weights),
    }


def recognise(content: Content, asked: Asked) -> Source:
    """The source that :func:`write` wrote. Raises ``ValueError`` where its header is not as it was."""
    label = content.label
    try:
        about = json.loads(content.words[KEY])
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError(f"is not of the format {FORMAT!r}")
        component = decoding.decode(AnyNetwork | AnyForeign, about["network"])
        shape = tuple(about["shape"])
        classes, augment = int(about["classes"]), int(about["augment"])
        if not all(type(n) is int and 0 <= n <= LARGEST for n in (*shape, classes, augment)):
            raise ValueError("shape, classes and augment must be whole numbers")
        row = decoding.decode(AnyPreconditioning, about["convention"])
        source = Source(
            place=label,
            what=f"network of ours, converted from {str(about['from'])[:60]}",
            network=str(about["name"])[:100],
            convention=asked.convention or row,
            schedule=decoding.decode(AnySchedule, about["schedule"]),
            steps=decoding.decode(AnySteps, about["levels"]),
            shape=shape,
            weights=(content.file,),
            build=lambda: _build(content, component, shape, classes, augment),
            component=component,
            augment=augment,
            classes=classes,
            optional=bool(about["optional"]),
            own=True,
            clip=bool(about["clip"]),
            notes=tuple(str(note)[:200] for note in about["notes"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{label}: its header was changed ({' '.join(str(error).split())[:140]})") from None
    return source


def _build(content: Content, component: Any, shape: tuple[int, ...], classes: int, augment: int) -> nn.Module:
    moving = Moving(content.tree, content.label)
    for name in list(moving.left):
        moving.put(name, moving.take(name))
    return moving.into(component, shape, classes, augment)


def moved(source: Source, place: str) -> Source:
    """``source`` as it is to be found at ``place`` after it was written."""
    return dataclasses.replace(source, place=place)
