"""A trained denoiser on disk: weights as safetensors, and beside them all that is needed to use them.

    RUN/checkpoints/000000200000/
        model.safetensors        the weights as they are trained
        ema.safetensors          their average, by half-life; or ema-0.050.safetensors, ... by power functions
        data.safetensors         what is kept of the data: scale, classes, moments, a few samples
        checkpoint.json          network, preconditioning, shape, classes, images seen, SHA-256 of the files
        recipe.yaml              the whole recipe, to be read
        state/                   what training continues from; in the newest checkpoint only

A folder appears under its name when it is whole. ``load`` reads JSON and safetensors, and never looks into ``state/``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified.components import paths, plugins
from edm_unified.components.files import write_atomic
from edm_unified.data import Dataset, order
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.networks import AnyNetwork
from edm_unified.training import own_parts
from edm_unified.training.job import Job
from edm_unified.training.runs import kept_data
from edm_unified.training.runs.storage import check_signature, signed
from edm_unified.training.trained_denoiser import TrainedDenoiser

FORMAT = "edm_unified checkpoint 1"
META = "checkpoint.json"
RAW = "model.safetensors"
MOST_SETS = 1000


class Average(NamedTuple):
    """Weights under the name of their average: ``std`` of a power function, None for a half-life, 0 for none."""

    std: float | None
    weights: dict[str, Tensor]

    @property
    def file(self) -> str:
        """Two lengths never share a name: three decimals where these are the length, else all it has."""
        if self.std is None:
            return "ema.safetensors"
        short = f"{self.std:.3f}"
        return f"ema-{short if float(short) == self.std else self.std}.safetensors" if self.std else RAW


def about(job: Job, step: int) -> dict[str, Any]:
    """What ``checkpoint.json`` says, but for the files."""
    dataset = job.dataset
    several = {"class_sets": _sets(dataset)} if job.classes and dataset.several else {}
    named = {"plugins": job.tree["plugins"]} if job.tree.get("plugins") else {}
    scaling = [torch.as_tensor(value).flatten().tolist() for value in dataset.scaling]
    return {
        "format": FORMAT,
        "step": step,
        "images": step * job.settings.batch,
        "shape": list(job.shape),
        "classes": job.classes,
        "class_counts": dataset.class_counts if job.classes else [],
        "class_names": list(dataset.class_names) if job.classes else [],
        **several,
        "label_dropout": job.settings.label_dropout,
        "augment": job.augment,
        **({"conditions": _conditions(job)} if job.conditions else {}),
        "network": job.described["network"],
        "preconditioning": job.described["preconditioning"],
        "data": {"name": dataset.name, "shift": scaling[0], "scale": scaling[1]},
        "recipe": job.fingerprint,
        **named,
    }


def _conditions(job: Job) -> dict[str, Any]:
    """Of each condition its shape, its scale, and whether the network has an answer without it."""
    found = {}
    for kind, shape in job.conditions.items():
        scaling = job.dataset.conditions[kind].scaling  # type: ignore[index]  # by its kind
        shift, scale = (torch.as_tensor(value).flatten().tolist() for value in scaling)
        optional = job.settings.condition_dropout > 0
        found[kind] = {"shape": list(shape), "shift": shift, "scale": scale, "optional": optional}
    return found


def _sets(dataset: Dataset) -> list[list[int]]:
    """The classes of up to ``MOST_SETS`` samples, in the place of counts where a sample may have several."""
    assert dataset.labels is not None
    chosen = order.indices(len(dataset), 0, 0, min(MOST_SETS, len(dataset)))
    return [row.nonzero().flatten().tolist() for row in dataset.labels[chosen]]


def write(directory: Path, job: Job, step: int, averages: list[Average], origin: dict[str, Any] | None = None) -> None:
    """Fill ``directory``, which is not in its place yet. ``origin``: the file whose weights training began with.

    Raises ``OSError`` naming the file that cannot be written.
    """
    meta = about(job, step) | ({} if origin is None else {"init": origin})
    meta["weights"] = [add(directory, average, meta["recipe"]) for average in averages]
    meta["data"] |= kept_data.write(directory, job.measured_dataset, job.tree.get("data"))
    write_atomic(directory / "recipe.yaml", job.text)
    write_meta(directory, meta)


def write_meta(directory: Path, meta: dict[str, Any]) -> None:
    """``checkpoint.json``, with the SHA-256 of what it says."""
    write_atomic(directory / META, json.dumps(signed(meta), indent=1) + "\n")


def add(directory: Path, average: Average, recipe: str, existing: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Write one set of weights; what ``checkpoint.json`` is to say of it.

    ``existing``: the weights that it names already. No file of theirs is changed: other weights get another name.
    """
    from safetensors.torch import save

    weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in average.weights.items()}
    content = save(weights, metadata={"recipe": recipe})
    file, digest = average.file, hashlib.sha256(content).hexdigest()
    if any(entry["file"] == file and entry["sha256"] != digest for entry in existing):
        file = f"{file.removesuffix('.safetensors')}-{digest[:8]}.safetensors"
    write_atomic(directory / file, content)
    return {"std": average.std, "file": file, "sha256": digest}


def folders(run: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    place = run / "checkpoints"
    if not place.is_dir():
        return []
    found = [path for path in place.iterdir() if re.fullmatch("[0-9]{12,}", path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is the directory of a run, or of one of its checkpoints."""
    given = paths.expanded(path)
    return (given / "recipe.yaml").is_file() and ((given / META).is_file() or (given / "run.json").is_file())


def find(path: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint: ``path`` itself, or the newest one of the run ``path``."""
    given = paths.expanded(path)
    if (given / META).is_file():
        return given
    found = folders(given)
    if found:
        return found[-1]
    if (given / "run.json").is_file():
        raise ValueError(f"{path}: has no checkpoint yet; continue it with `edm-unified train`, or wait for one")
    what = "no such run" if not given.exists() else "a file, not a run" if given.is_file() else "no checkpoint in it"
    raise ValueError(f"{path}: {what}; name what `edm-unified train RECIPE --out RUN` wrote")


def read_meta(folder: Path) -> dict[str, Any]:
    """What ``checkpoint.json`` says. Raises ``ValueError`` where it is not one of ours."""
    file = folder / META
    try:
        meta = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{file}: is missing, the checkpoint is not whole; copy it again, or remove {folder}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read ({str(error).splitlines()[0][:120]})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{file}: is not an {FORMAT}")
    for name, sound in _SOUND.items():
        if name not in meta:
            raise ValueError(f"{file}: has no {name!r}; it was edited or cut off")
        if not sound(meta[name]):
            raise ValueError(f"{file}: {name} cannot be {str(meta[name])[:60]!r}; it was edited")
    if meta["classes"] and not (len(meta["class_counts"]) == meta["classes"] and sum(meta["class_counts"])):
        raise ValueError(f"{file}: class_counts are not those of {meta['classes']} classes; it was edited")
    names, sets = meta.get("class_names", []), meta.get("class_sets", [])
    named = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if not named or len(names) not in (0, meta["classes"]):  # none: of a checkpoint from before they were kept
        raise ValueError(f"{file}: class_names are not those of {meta['classes']} classes; it was edited")
    known = isinstance(sets, list) and all(isinstance(row, list) for row in sets)
    if not known or not all(type(i) is int and 0 <= i < meta["classes"] for row in sets for i in row):
        raise ValueError(f"{file}: class_sets are not of {meta['classes']} classes; it was edited")
    check_signature(meta, file)
    return meta


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _entry(value: Any) -> bool:
    """Whether that is what :func:`add` says of one set of weights; its file is beside ``checkpoint.json``."""
    if not isinstance(value, dict) or not {"std", "file", "sha256"} <= value.keys():
        return False
    file, std = value["file"], value["std"]
    named = isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")
    return named and (std is None or isinstance(std, (int, float)))


_SOUND: dict[str, Callable[[Any], bool]] = {
    "shape": lambda value: isinstance(value, list) and bool(value) and all(_whole(n) and n for n in value),
    "classes": _whole,
    "class_counts": lambda value: isinstance(value, list) and all(map(_whole, value)),
    "label_dropout": lambda value: isinstance(value, (int, float)),
    "augment": _whole,
    "images": _whole,
    "network": lambda value: isinstance(value, dict),
    "preconditioning": lambda value: isinstance(value, dict),
    "recipe": lambda value: isinstance(value, str),
    "data": lambda value: isinstance(value, dict),
    "weights": lambda value: isinstance(value, list) and bool(value) and all(map(_entry, value)),
}


def same(a: float, b: float) -> bool:
    """Whether ``a`` and ``b`` name one average: equal but for rounding to the six digits that are shown."""
    return math.isclose(a, b, rel_tol=1e-5)


def named(entries: Sequence[dict[str, Any]], std: float) -> dict[str, Any] | None:
    """The one of ``entries`` whose length is ``std``: of several that are the :func:`same`, the nearest."""
    found = [entry for entry in entries if entry["std"] is not None and same(entry["std"], std)]
    return min(found, key=lambda entry: abs(entry["std"] - std), default=None)


def choose(meta: dict[str, Any], ema: float | None, where: Path) -> dict[str, Any]:
    """The weights that ``ema`` names: None the first average (or the raw weights), 0 the raw weights."""
    entries = meta["weights"]
    if ema is None:
        return next((entry for entry in entries if entry["std"] != 0), entries[0])  # type: ignore[no-any-return]
    if (found := named(entries, ema)) is not None:
        return found
    known = [f"{entry['std']:g}" for entry in entries if entry["std"]]
    remedy = f"it has {', '.join(known)}, and 0 for the raw weights" if known else "it has null and 0, the raw weights"
    raise ValueError(f"ema: {where} has no average of {ema:g}; {remedy}; see `edm-unified ema`")


def load(
    path: str | os.PathLike[str],
    ema: float | None = None,
    device: torch.device | str = "cpu",
    *,
    network: Any = None,
    preconditioning: Any = None,
) -> TrainedDenoiser:
    """The denoiser in a checkpoint: that of ``path``, or the newest one of the run ``path``.

    ``ema``: None for the average that the run made, 0 for the weights as they were trained, or the relative length of
    a power-function average. ``network``, ``preconditioning``: those of a run that was trained with one's own: a
    module, or what builds it from (shape, classes, augment), as its ``build`` or as a function; and an object. A run
    keeps the names of their classes and no code. Raises ``ValueError`` in one line where a file is missing, damaged,
    was changed, is another run's, or where one of these is needed.
    """
    folder = find(path)
    meta = read_meta(folder)
    entry = choose(meta, ema, folder)
    try:
        part = own_parts.found(meta["network"], AnyNetwork, network, "network")
        wrapping = own_parts.found(meta["preconditioning"], AnyPreconditioning, preconditioning, "preconditioning")
    except own_parts.NeededError as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        if wanted := plugins.wanted(meta.get("plugins")):
            raise ValueError(f"{path}: {wanted}") from None
        raise ValueError(f"{folder / META}: {error}") from None
    weights = read_weights(folder, entry, meta["recipe"])
    try:
        with torch.random.fork_rng(devices=[]):
            conditions = {kind: tuple(said["shape"]) for kind, said in dict(meta.get("conditions", {})).items()}
            module = own_parts.module_of(part, tuple(meta["shape"]), meta["classes"], meta["augment"], conditions)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / META}: {error}") from None
    check_fit(module, weights, str(folder / entry["file"]))
    module.load_state_dict(weights)
    return TrainedDenoiser(Preconditioned(module, wrapping), meta | {"used": entry}).to(device)


def data(path: str | os.PathLike[str], load: Callable[[], Dataset]) -> tuple[Dataset, Any] | None:
    """What a checkpoint keeps of its data, and how its recipe names them; see :func:`.kept_data.read`."""
    folder = find(path)
    return kept_data.read(folder, read_meta(folder)["data"], load)


def read_weights(folder: Path, entry: dict[str, Any], recipe: str) -> dict[str, Tensor]:
    """The tensors of one file, which must be as it was written. Raises ``ValueError`` where it is not."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    file = folder / entry["file"]
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file}: is missing, though {META} names it") from None
    try:
        weights = parse(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"{file}: not a readable safetensors file, it was cut off or changed ({error})") from None
    if header.get("recipe") != recipe:
        raise ValueError(f"{file}: is a checkpoint of another recipe than {META} beside it")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError(
            f"{file}: was changed after it was written (its SHA-256 is not that in {META}); copy it again, choose "
            "other weights with ema, or go on training to the next checkpoint"
        )
    return weights


def check_fit(module: nn.Module, weights: dict[str, Tensor], where: str, most: int = 1) -> None:
    """Raise ``ValueError``, begun with ``where``, naming the first ``most`` of ``weights`` that do not fit."""
    wanted, wrong = module.state_dict(), []
    for name, tensor in wanted.items():
        if name not in weights:
            wrong.append(f"has no {name!r}")
        elif weights[name].shape != tensor.shape:
            got, want = tuple(weights[name].shape), tuple(tensor.shape)
            wrong.append(f"{name!r} has shape {got}, the network's is {want}")
    wrong += [f"has {name!r}, which the network does not" for name in weights if name not in wanted]
    if wrong:
        more = f", and {len(wrong) - most} more" if len(wrong) > most > 1 else ""
        raise ValueError(f"{where}: {', '.join(wrong[:most])}{more}; it is of another network")
