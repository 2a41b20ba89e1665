"""The text of ``edm-unified train --dry-run``: the resolved recipe and its cost. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe

_TORCHVISION = {"MNIST": (1, 28, 28), "FashionMNIST": (1, 28, 28), "CIFAR10": (3, 32, 32)}


def describe(
    name: str,
    recipe: Recipe,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    device: torch.device | None = None,
) -> Iterator[str]:
    """The lines. ``shape`` and ``classes`` say what the data are where they are not at hand.

    Where they are, and ``device`` is given, a few steps of the training are timed there.

    Raises ``ValueError`` where a part that training needs is missing, or the network does not take the shape.
    """
    from edm_unified.networks import cost
    from edm_unified.training.objective import Implicit

    network, settings = recipe.network, recipe.training
    for part in ("data", "network", "preconditioning", "objective", "training"):
        if getattr(recipe, part) is None:
            raise ValueError(f"{name}: {part}: missing; training needs it")
    assert network is not None
    assert settings is not None
    try:
        shape, known, size = _data(recipe, shape, classes)
        labels = (known or 0) if settings.conditional else 0
        augment = 0 if settings.augment is None else settings.augment.labels
        if settings.conditional and known is None:
            raise ValueError(
                "training.conditional: the data are not at hand; say what they are with --shape and --classes, e.g. "
                f"--shape {','.join(map(str, shape))} --classes 10, or set conditional: false"
            )
        if settings.conditional and not labels:
            raise ValueError("training.conditional: the data have no labels; set conditional: false, or give --classes")
        if size is not None and settings.batch > size:
            raise ValueError(
                f"training.batch: must not be more than the {size:,} samples of the data, got {settings.batch:,}"
            )
        if settings.augment is not None:
            settings.augment.check(shape)
        if recipe.objective is not None and isinstance(recipe.objective.matching, Implicit):
            recipe.objective.matching.check(shape)
        try:
            number = _parameters(network, shape, labels, augment)
            work = cost.flops(network, shape, labels, augment)
            micro = settings.batch // settings.accumulation
            memory = {
                count: cost.memory(
                    network, shape, labels, augment, batch=count, averages=_averages(settings),
                    precision=settings.precision, checkpoint_activations=settings.checkpoint_activations,
                )
                for count in dict.fromkeys((micro, 1))
            }  # fmt: skip
        except ValueError as error:
            raise ValueError(f"network.{error}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    yield recipe.dump()
    if recipe.objective is not None and (note := recipe.objective.note(recipe.preconditioning)):
        yield f"note        {note}"
    backward = 4 if settings.checkpoint_activations else 3
    yield f"data        {'×'.join(map(str, shape))}" + (f", {size:,} samples" if size is not None else ", not at hand")
    if labels:
        yield f"classes     {labels}"
    yield f"parameters  {number:,} ({number / 1e6:.2f} M)"
    yield f"FLOPs       {_large(work)} forward, about {_large(backward * work)} in training, per image"
    yield f"training    {settings.images:,} images in {settings.steps:,} steps of {settings.batch:,}"
    yield f"            about {_large(backward * work * settings.images)}FLOP in all"
    if device is not None and size is not None:
        yield f"time        {_time(recipe, device, work, min(needs.total for needs in memory.values()))}"
    for count, needs in memory.items():
        parts = ", ".join(f"{field} {_bytes(value)}" for field, value in needs._asdict().items())
        yield f"memory      {_bytes(needs.total)} at least, with {count:,} images at a time ({parts})"


def _data(
    recipe: Recipe, shape: tuple[int, ...] | None, classes: int | None
) -> tuple[tuple[int, ...], int | None, int | None]:
    """The shape of a sample, the classes where known, and the number of samples where the data are on this machine."""
    if shape is not None:
        return shape, classes, None
    try:
        dataset = recipe.load_data()
    except (ValueError, OSError) as error:
        outline = _outline(recipe.data)
        if outline is None:
            raise ValueError(
                f"{error}; or say what they are with --shape and --classes, e.g. --shape 3,32,32 --classes 10"
            ) from None
        return outline[0], outline[1] if classes is None else classes, None
    return dataset.shape, dataset.classes if classes is None else classes, len(dataset)


def _outline(data: Any) -> tuple[tuple[int, ...], int | None] | None:
    """The shape and the classes (None: unknown) of data that are not here, as far as their component states them."""
    if getattr(data, "name", None) in _TORCHVISION:
        return _TORCHVISION[data.name], 10
    if getattr(data, "shape", None) is not None:
        return tuple(data.shape), data.classes
    size = getattr(data, "size", None)
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    known = {"imagenet": 1000, "celeba": 2 if getattr(data, "attribute", None) else 0}
    return (getattr(data, "channels", 3), *sides), known.get(data.kind)


def _parameters(network: Any, shape: tuple[int, ...], classes: int, augment: int) -> int:
    import torch

    from edm_unified.networks import cost

    with torch.device("meta"):
        return cost.parameters(network.build(shape, classes, augment))


def _averages(settings: Any) -> int:
    if settings.ema is None:
        return 0
    return len(getattr(settings.ema, "stds", (0,)))


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
