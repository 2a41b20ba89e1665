"""What the training of a recipe costs, before anything is trained: parameters, FLOPs and memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from edm_unified.networks import cost
from edm_unified.recipe.tree import Recipe
from edm_unified.training.objective import Implicit

_TORCHVISION = {"MNIST": (1, 28, 28), "FashionMNIST": (1, 28, 28), "CIFAR10": (3, 32, 32)}


class TrainingCost(NamedTuple):
    """``shape`` of a sample, ``classes`` that the network is conditioned on, ``samples`` of the data where they are at
    hand. ``flops``: of one evaluation of one image. ``memory``: by the number of images at a time, the largest first.
    """

    shape: tuple[int, ...]
    classes: int
    samples: int | None
    parameters: int
    flops: float
    memory: dict[int, cost.Memory]


def training_cost(
    name: str, recipe: Recipe, shape: tuple[int, ...] | None = None, classes: int | None = None
) -> TrainingCost:
    """``shape`` and ``classes`` say what the data are where they are not at hand.

    Raises ``ValueError``, begun with ``name``, where a part that training needs is missing, or the network does not
    take the shape.
    """
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
            at_once = settings.batch // settings.accumulation
            memory = {
                count: cost.memory(
                    network, shape, labels, augment, batch=count, averages=_averages(settings),
                    precision=settings.precision, checkpoint_activations=settings.checkpoint_activations,
                )
                for count in dict.fromkeys((at_once, 1))
            }  # fmt: skip
        except ValueError as error:
            raise ValueError(f"network.{error}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return TrainingCost(shape, labels, size, number, work, memory)


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
    with torch.device("meta"):
        return cost.parameters(network.build(shape, classes, augment))


def _averages(settings: Any) -> int:
    if settings.ema is None:
        return 0
    return len(getattr(settings.ema, "stds", (0,)))
