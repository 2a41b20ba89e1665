"""A training recipe for data: the parts of a published method, levels that suit the data, a network sized to a budget.

The network is the largest of a ladder that, in the hours there are, shows as many images as it wants: a hundred times
the data, at least 200,000 and at most five million. Each is timed on the machine, the smallest first. It has no more
parameters than ten for each number of the data (200,000 are always allowed). What remains of the choices is EDM's
(Karras et al. 2022, appendix F.1), with the averages and the ramp of the learning rate shortened to the training.

What is written is a recipe like any other, every choice with its reason beside it, to be changed by hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import yaml

from edm_unified.components.component import encode
from edm_unified.data import AnyData, Dataset
from edm_unified.data.suggest import Suggestion
from edm_unified.data.survey import Survey
from edm_unified.networks import MLP, AnyNetwork, UNet, cost
from edm_unified.networks.base import level_sides
from edm_unified.recipe.loading import loads
from edm_unified.recipe.tree import Recipe
from edm_unified.training import Training
from edm_unified.training.job import Job
from edm_unified.training.optimization.ema import HalfLife
from edm_unified.training.optimization.optimizers import Adam
from edm_unified.training.optimization.rates import MOST_IMAGES, Constant
from edm_unified.training.timing import Timing

LEAST_IMAGES, MOST_WANTED = 200_000, 5_000_000
_PERCEPTRONS = ((64, 3), (128, 3), (256, 4), (512, 5), (1024, 6), (2048, 6))
"""Width and blocks."""
_UNETS = ((16, 1), (32, 1), (32, 2), (64, 2), (96, 2), (128, 2), (128, 4), (192, 3))
"""Channels and blocks."""


class Budget(NamedTuple):
    """``hours`` on ``device``, with ``memory`` bytes there."""

    hours: float
    device: torch.device
    memory: int


class Draft(NamedTuple):
    """``text``: the recipe as YAML with its reasons; and what it is, in words for whoever asked for it."""

    text: str
    network: str
    images: int
    hours: float


class _Draft(NamedTuple):
    network: AnyNetwork
    parameters: int
    settings: Training
    timing: Timing


def draft(
    source: AnyData,
    dataset: Dataset,
    about: Survey,
    levels: Suggestion,
    method: Recipe,
    budget: Budget,
    timed: Callable[[Job, torch.device, float], Timing | None],
    heading: str,
) -> Draft:
    """A recipe of ``method`` for these data. ``timed``: :func:`~edm_unified.training.timing.time_steps`, or its like.

    Raises ``ValueError`` where the method is not one that is trained, and where no network takes the data.
    """
    check_method(method)
    fitted = _fitted(method, levels)
    conditional = dataset.classes > 1 and not dataset.classes * 2 > len(dataset)
    chosen, wanted = _sized(fitted, dataset, conditional, budget, timed)
    text = _text(fitted, source, dataset, about, levels, conditional, chosen, wanted, budget, heading)
    found = loads(text, "recipe")  # what is written is what a reader makes of it
    assert isinstance(found, Recipe)
    hours = chosen.timing.hours(chosen.settings.images)
    return Draft(text, f"{chosen.network.kind} of {chosen.parameters:,} parameters", chosen.settings.images, hours)


def check_method(method: Recipe) -> None:
    """Raise ``ValueError`` unless the recipe says how a network of its method is trained."""
    if method.preconditioning is None or method.objective is None:
        raise ValueError("--method: says nothing of training; choose one with a preconditioning, such as edm")


def _fitted(method: Recipe, levels: Suggestion) -> Recipe:
    """``method`` with the levels of the data where it has such numbers, and without data, denoiser and guidance."""
    found = {name: float(f"{getattr(levels, name):.3g}") for name in ("sigma_data", "sigma_min", "sigma_max")}
    centre = {"P_mean": round(levels.P_mean, 2), "P_std": round(levels.P_std, 2)}
    assert method.objective is not None
    noise, weight = _with(method.objective.noise, centre), _with(method.objective.weight, found)
    return dataclasses.replace(
        method,
        denoiser=None,
        data=None,
        preconditioning=_with(method.preconditioning, {"sigma_data": found["sigma_data"]}),
        objective=dataclasses.replace(method.objective, noise=noise, weight=weight),
        sampler=dataclasses.replace(
            method.sampler, steps=_with(method.sampler.steps, found), guidance=None, label=None, analytic_start=None
        ),
    )


def _with(part: Any, values: dict[str, float]) -> Any:
    """``part`` with those of ``values`` that it has a number for."""
    own = {name: value for name, value in values.items() if isinstance(getattr(part, name, None), float)}
    return dataclasses.replace(part, **own) if own else part


def _sized(
    method: Recipe,
    dataset: Dataset,
    conditional: bool,
    budget: Budget,
    timed: Callable[[Job, torch.device, float], Timing | None],
) -> tuple[_Draft, int]:
    """The network with its settings, and how many images it wants to be shown."""
    numbers = len(dataset) * math.prod(dataset.shape)
    most, wanted = max(200_000, 10 * numbers), max(LEAST_IMAGES, min(MOST_WANTED, 100 * len(dataset)))
    classes = dataset.classes if conditional else 0
    best: _Draft | None = None
    for network in networks(dataset.shape, method):
        with torch.device("meta"):
            parameters = cost.parameters(network.build(dataset.shape, classes))
        if best is not None and parameters > most:
            break
        settings = _settings(network, dataset, conditional, budget)
        if settings is None:
            break
        parts: Any = (network, method.preconditioning, method.objective, method.schedule, settings, dataset)
        timing = timed(Job(*parts), budget.device, cost.flops(network, dataset.shape, classes))
        if timing is None:
            break
        images = timing.images * budget.hours * 3600
        if best is not None and images < wanted:
            break
        best = _Draft(network, parameters, _lasting(settings, images, dataset), timing)
        if images < wanted:
            break
    if best is None:
        raise ValueError(
            f"DATA: the smallest network for samples of shape {'×'.join(map(str, dataset.shape))} does not fit "
            f"{budget.memory / 2**30:.3g} GiB, or takes this device too long; give more --memory, another --device, or "
            "smaller samples"
        )
    return best, wanted


def networks(shape: tuple[int, ...], method: Recipe) -> Iterator[AnyNetwork]:
    """Those that take samples of ``shape``, the smallest first: U-Nets, and for what has no sides perceptrons."""
    sigma = torch.tensor([sigma for sigma in method.levels if sigma > 0], dtype=torch.float64)
    assert method.preconditioning is not None
    noise = method.preconditioning.c_noise(sigma)
    scale = 1000.0 if float(noise.min()) >= 0 and float(noise.max()) <= 1.001 else 1.0  # a time in [0, 1]
    if len(shape) == 1 or min(shape[1:]) < 4:
        counted = float(noise.abs().max()) > 20  # the number of a step, for which Fourier features are too fast
        for width, blocks in _PERCEPTRONS:
            yield MLP(width, blocks, embedding="positional" if counted else "fourier")
        return
    levels = 1
    while levels < 5 and all(side % 2**levels == 0 and side >> levels >= 4 for side in shape[1:]):
        levels += 1
    sides = level_sides(shape, levels)
    attended = tuple(side for side in sides if 4 < side <= 16 and len(shape) < 4)
    for channels, blocks in _UNETS:
        yield UNet(
            channels, (1, *(2,) * (levels - 1)), blocks, attended, middle_attention=min(sides) <= 16, noise_scale=scale
        )


def _settings(network: AnyNetwork, dataset: Dataset, conditional: bool, budget: Budget) -> Training | None:
    """The batch, cut up so that it fits the memory; None where no image fits."""
    batch = min(512 if len(dataset.shape) == 1 else 256, 2 ** int(math.log2(max(1, len(dataset)))))
    precision: Any = "bfloat16" if budget.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    for cut in range(int(math.log2(batch)) + 1):
        rows = batch >> cut
        classes = dataset.classes if conditional else 0
        needs = cost.memory(network, dataset.shape, classes, batch=rows, precision=precision).total
        if needs <= budget.memory:
            break
    else:
        return None
    dropout = 0.1 if conditional else 0.0
    return Training(
        images=LEAST_IMAGES, batch=batch, accumulation=batch // rows, conditional=conditional, label_dropout=dropout,
        stratified=True, precision=precision,
    )  # fmt: skip


def _lasting(settings: Training, images: float, dataset: Dataset) -> Training:
    """For the time that there is: at most 4000 times the data, in at least a thousand steps if that can be."""
    shown = _rounded(max(settings.batch, min(images, MOST_IMAGES, 4000 * len(dataset))))
    batch = settings.batch
    while batch > 32 and shown < 1000 * batch:
        batch //= 2
    return dataclasses.replace(
        settings,
        images=shown,
        batch=batch,
        accumulation=min(settings.accumulation, batch),
        optimizer=Adam(lr=float(f"{1e-3 * math.sqrt(batch / 512):.1g}")),
        rate=Constant(ramp_up=_rounded(min(10_000_000, shown / 20))),
        ema=HalfLife(images=_rounded(min(500_000, shown / 20))),
    )


def _rounded(value: float) -> int:
    """To two digits, downwards."""
    size = 10 ** max(0, math.floor(math.log10(max(1.0, value))) - 1)
    return max(1, int(value / size) * size)


def _text(
    method: Recipe,
    source: AnyData,
    dataset: Dataset,
    about: Survey,
    levels: Suggestion,
    conditional: bool,
    chosen: _Draft,
    wanted: int,
    budget: Budget,
    heading: str,
) -> str:
    settings, timing, objective = chosen.settings, chosen.timing, method.objective
    assert objective is not None
    shape = "×".join(map(str, dataset.shape))
    classes = f", {dataset.classes} classes" if dataset.labels is not None else ""
    epochs = settings.images / len(dataset)
    given = f"{in_hours(budget.hours)} on {budget.device}"
    why = (
        f"the largest that shows {wanted:,} images in {given} and is not too large for the data"
        if settings.images >= wanted
        else f"the smallest; {given} are too short for the {wanted:,} images that it wants"
    )
    lines = [
        f"# {heading}",
        f"# {about.n:,} samples of shape {shape}, from {about.low:.4g} to {about.high:.4g}{classes}",
        *(f"# note: {text}" for text in about.problems),
        f"title: {_inline(f'{method.title}, on {dataset.name}')}",
        f"source: {_inline(method.source)}",
        "",
        f"schedule: {_inline(encode(method.schedule))}",
        f"data: {_inline(encode(source, brief=True))}",
        "",
        *_because(method.preconditioning, levels, ("sigma_data",)),
        f"preconditioning: {_inline(encode(method.preconditioning))}",
        "objective:",
        *(f"  {line}" for line in _because(objective.noise, levels, ("P_mean", "P_std"))),
        *(f"  {name}: {_inline(part)}" for name, part in encode(objective, brief=True).items()),
        "",
        f"# {chosen.parameters:,} parameters: {why},",
        f"# by {timing.images:,.0f} images/s in {timing.steps} steps",
        f"network: {_inline(_changed(chosen.network))}",
        "training:",
        f"  images: {settings.images}  # {epochs:.3g} times the data, about {in_hours(timing.hours(settings.images))}",
        f"  batch: {settings.batch}",
        *([f"  accumulation: {settings.accumulation}  # for the memory"] if settings.accumulation > 1 else []),
        *(
            ["  conditional: true", "  label_dropout: 0.1  # so that it has an answer without a class, for guidance"]
            if conditional
            else ["  conditional: false  # too few samples of a class"]
            if dataset.classes > 1
            else []
        ),
        "  stratified: true  # the levels of a batch spread evenly: the same loss, less noise",
        f"  optimizer: {{kind: adam, lr: {settings.optimizer.lr}}}  # EDM's 0.001 for a batch of 512, by the root",
        f"  rate: {{kind: constant, ramp_up: {settings.rate.ramp_up}}}",
        f"  ema: {{kind: half_life, images: {getattr(settings.ema, 'images', 0)}}}",
        *([f"  precision: {settings.precision}"] if settings.precision != "float32" else []),
        "",
        "sampler:",
        *(f"  {line}" for line in _because(method.sampler.steps, levels, ("sigma_min", "sigma_max"))),
        *(
            f"  {name}: {_inline(part)}"
            for name, part in encode(method.sampler, brief=True).items()
            if part is not None
        ),
    ]
    return "\n".join(lines) + "\n"


def _because(part: Any, levels: Suggestion, names: tuple[str, ...]) -> list[str]:
    """A comment for each of the numbers that the data gave."""
    return [f"# {name}: {levels.reasons[name]}" for name in names if isinstance(getattr(part, name, None), float)]


def _changed(component: Any) -> dict[str, Any]:
    """A component as plain data, with what differs from its defaults."""
    whole = encode(component)
    usual = {field.name: encode(field.default) for field in dataclasses.fields(component)}
    return {name: value for name, value in whole.items() if name == "kind" or value != usual[name]}


def _inline(value: Any) -> str:
    """On one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def in_hours(hours: float) -> str:
    """``1.5 h``, ``20 min``, ``30 s``."""
    if hours >= 1:
        return f"{hours:.3g} h"
    return f"{60 * hours:.3g} min" if hours >= 1 / 60 else f"{3600 * hours:.3g} s"
