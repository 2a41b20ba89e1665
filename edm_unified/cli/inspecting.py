"""``edm-unified inspect``: what a checkpoint is, and whether it is read rightly."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own

if TYPE_CHECKING:
    from edm_unified.data import Dataset
    from edm_unified.interop import Source
    from edm_unified.interop.checking import Check
    from edm_unified.training.trained_denoiser import TrainedDenoiser

SAMPLES = 64
"""Of the data, in a check."""


@click.command(short_help="Say what a checkpoint is, and check its convention.")
@click.argument("source", type=options.PATH, required=False)
@own.network()
@click.option("--check", is_flag=True, help="Compare its convention with neighbouring ones, on --data.")
@click.option(
    "--data", "data_words", metavar="DATA", help="Data for --check, as in likelihood, e.g. digits or images.npy."
)
@click.option("--cond", "conds", multiple=True, metavar="[NAME=]FILE",
              help="What the network needs besides a class, for --check, as in sample; may be repeated.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(source: Path | None, check: bool, data_words: str | None, conds: tuple[str, ...], as_json: bool) -> None:
    """Print what SOURCE is, a run or a checkpoint of another library: its convention, shape, classes, levels, needs.

    --check asks the denoiser itself: D → x as σ → 0, the size of its output at high σ, and its loss on data when it is
    read in this convention and in others that are taken for it (ε for v, the other sign, the time from the other end or
    another scale). It warns where another fits better. Exit code 2 where the source cannot be loaded.

    \b
    edm-unified inspect MODEL_FOLDER
    edm-unified inspect MODEL_FOLDER --check --data images.npy
    """
    if check and data_words is None:
        raise ValueError("--check: needs data of the network; name some by --data, e.g. digits or images.npy")
    if not check and (data_words is not None or conds):
        raise ValueError(f"{'--cond' if conds else '--data'}: is for --check; give both")
    named = own.amend() is not None
    if (source is None) is not named:
        raise ValueError("inspect: name a SOURCE, or a network of your own by --network FILE.py:make; one of the two")
    about, model = _about(source) if source is not None else _about_own(own.fields_of_the_network(), data_words)
    if check and model is not None:
        assert data_words is not None
        about["check"] = _checked(model, data_words, ",".join(conds) or None)
    if as_json:
        click.echo(json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        for name, value in about.items():
            for line in _lines(name, value):
                click.echo(line)
    if about["loads"] is not True:
        raise ValueError(about["loads"])


def _about(path: Path) -> tuple[dict[str, Any], TrainedDenoiser | None]:
    from edm_unified import interop
    from edm_unified.training.runs import checkpoint

    label = str(path)
    if checkpoint.is_run(label):
        model = checkpoint.load(label)
        meta = model.about
        found = {"source": label, "what": "run of edm-unified", "network": meta["network"]["kind"]}
        return found | _of_model(model) | {"loads": True}, model
    source = interop.recognise(path)
    found = {"source": label, "what": source.what, "network": source.network, **source.said}
    try:
        model = source.denoiser()
    except ValueError as error:
        return found | _of_source(source) | {"loads": str(error)}, None
    return found | _of_model(model) | _of_source(source) | {"loads": True}, model


def _about_own(fields: dict[str, Any], data_words: str | None) -> tuple[dict[str, Any], TrainedDenoiser | None]:
    """Of a network of the user's own, whose shape the data may say."""
    from edm_unified.recipe import codec
    from edm_unified.recipe.own_network import OwnNetwork
    from edm_unified.recipe.words import data_named

    if data_words is not None and "shape" not in fields:
        fields = fields | {"shape": list(data_named(data_words).shape)}
    chosen = codec.checked(OwnNetwork, {"kind": "own_network"} | fields, "--network")
    found = {"source": chosen.network, "what": "network of your own"}
    try:
        model = chosen.build(None)
    except ValueError as error:
        return found | {"loads": str(error).removeprefix("denoiser: ")}, None
    network: Any = model.denoiser.network
    inner = getattr(network, "network", network)
    return found | {"network": type(inner).__name__} | _of_model(model) | {"loads": True}, model


def _of_source(source: Source) -> dict[str, Any]:
    from edm_unified.components.component import encode

    said: dict[str, Any] = {
        "convention": encode(source.convention),
        "shape": list(source.shape),
        "classes": source.classes,
        "schedule": encode(source.schedule),
        "levels": encode(source.steps),
    }
    if source.negate:
        said["sign"] = "of the output turned"
    said |= {"needs": list(source.needs), "requires": list(source.requires), "notes": list(source.notes)}
    return {name: value for name, value in said.items() if value not in ([], 0)}


def _of_model(model: TrainedDenoiser) -> dict[str, Any]:
    from edm_unified.components.component import encode

    row = model.denoiser.preconditioning
    low, high = model.sigma_min, model.sigma_max
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "convention": encode(row) if dataclasses.is_dataclass(row) else type(row).__name__,
        "shape": list(model.shape),
        "classes": model.classes,
        "sigma": [low, high if math.isfinite(high) else None],
    }


def _checked(model: TrainedDenoiser, words: str, conds: str | None) -> dict[str, Any]:
    from edm_unified.data import batch
    from edm_unified.data.survey import part
    from edm_unified.interop import checking
    from edm_unified.recipe import condition_files
    from edm_unified.recipe.words import data_named

    dataset: Dataset = data_named(words)
    if dataset.shape != model.shape:
        raise ValueError(f"--data {words}: samples are of shape {dataset.shape}, the network's of {model.shape}")
    chosen = part(dataset, SAMPLES)[:SAMPLES]
    x0, labels = batch(dataset, chosen)
    known = labels is not None and model.classes and labels.ndim == 1 and int(labels.max()) < model.classes
    conditions = condition_files.given(conds, model, "--cond")
    cond = None if conditions is None else conditions.rows(len(x0))
    found: Check = checking.check(model, x0, labels if known else None, cond=cond)
    told = {
        "sigmas": [round(sigma, 6) for sigma in found.sigmas],
        "rms(D - x)/sigma at the lowest": found.nearness,
        "std of D at the highest": found.spread,
        "std of the data": found.sigma_data,
        "loss": {fit.words: fit.loss if math.isfinite(fit.loss) else None for fit in found.fits},
        "best": found.best.words,
        "warning": found.warning,
    }
    if math.isfinite(found.between):
        told["fraction against nearest step, rms/sigma"] = found.between
    return told


def _lines(name: str, value: Any) -> list[str]:
    """``name`` in a column, and the value beside it; mappings a line for each entry."""
    if isinstance(value, dict) and "kind" in value:
        rest = ", ".join(f"{key} {_word(item)}" for key, item in value.items() if key != "kind")
        value = f"{value['kind']}  {rest}".rstrip()
    if isinstance(value, dict):
        return [name, *(line for key, item in value.items() for line in _lines(f"  {key}", item))]
    width = max(18, len(name) + 2)
    return [f"{name:<{width}}{_word(value)}"]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return (
            "("
            + " ".join(f"{_word(item)}" if key == "kind" else f"{key}={_word(item)}" for key, item in value.items())
            + ")"
        )
    if isinstance(value, list):
        return f"<{len(value)} values>" if len(value) > 12 else ", ".join(map(_word, value))
    return "none" if value is None else str(value)
