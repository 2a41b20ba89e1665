"""The text of ``edm-unified train --dry-run``: the resolved recipe and its cost. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe


def describe(
    name: str,
    recipe: Recipe,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    device: torch.device | None = None,
) -> Iterator[str]:
    """The lines. ``shape`` and ``classes`` say what the data are where they are not at hand.

    Where they are, and ``device`` is given, a few steps of the training are timed there. Raises ``ValueError`` as
    :func:`~edm_unified.recipe.training_cost.training_cost` does.
    """
    from edm_unified.recipe.training_cost import training_cost

    cost = training_cost(name, recipe, shape, classes)
    settings, size = recipe.training, cost.samples
    assert settings is not None
    yield recipe.dump()
    if recipe.objective is not None and (note := recipe.objective.note(recipe.preconditioning)):
        yield f"note        {note}"
    backward = 4 if settings.checkpoint_activations else 3
    yield f"data        {'×'.join(map(str, cost.shape))}" + (
        f", {size:,} samples" if size is not None else ", not at hand"
    )
    if cost.classes:
        yield f"classes     {cost.classes}"
    yield f"parameters  {cost.parameters:,} ({cost.parameters / 1e6:.2f} M)"
    yield f"FLOPs       {_large(cost.flops)} forward, about {_large(backward * cost.flops)} in training, per image"
    yield f"training    {settings.images:,} images in {settings.steps:,} steps of {settings.batch:,}"
    yield f"            about {_large(backward * cost.flops * settings.images)}FLOP in all"
    if device is not None and size is not None:
        yield f"time        {_time(recipe, device, cost.flops, min(needs.total for needs in cost.memory.values()))}"
    for count, needs in cost.memory.items():
        parts = ", ".join(f"{field} {_bytes(value)}" for field, value in needs._asdict().items())
        yield f"memory      {_bytes(needs.total)} at least, with {count:,} images at a time ({parts})"


def _large(value: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} "


def _bytes(value: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _time(recipe: Recipe, device: torch.device, flops: float, memory: float) -> str:
    """How long the training takes on this machine, as far as a few steps tell."""
    from edm_unified.recipe.draft import in_hours
    from edm_unified.training.timing import machine_memory, time_steps

    room, job = machine_memory(device), recipe.job()
    if memory > room / 2:
        return f"not timed on {device}: it needs more than half of the {_bytes(room)} of memory here"
    timing = time_steps(job, device, flops)
    if timing is None:
        return f"not timed on {device}: one image takes it too long"
    hours = in_hours(timing.hours(job.settings.images))
    return f"about {hours} on {device}, an estimate: {timing.images:,.3g} images/s in {timing.steps} steps just now"
