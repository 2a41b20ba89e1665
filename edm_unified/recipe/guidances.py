"""Guidance as a choice of a recipe, ``sampler.guidance``: what :mod:`~edm_unified.denoisers.guidance` needs besides a
denoiser.

``build(model, dataset, device)`` looks whether the model can be guided and gives a :class:`Guide`, which turns it, or a
wrapper that counts its calls, into the guided denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from edm_unified.components.component import component
from edm_unified.components.constraints import Finite, Nonnegative, Positive
from edm_unified.data import Dataset
from edm_unified.denoisers import guidance
from edm_unified.denoisers.denoiser import Counted, Denoiser
from edm_unified.training import random_numbers
from edm_unified.training.runs import checkpoint
from edm_unified.training.trained_denoiser import TrainedDenoiser


@dataclass(frozen=True)
class Guide:
    """A guidance with all that it needs: ``guided(denoiser)`` applies it.

    ``fingerprint`` changes when a second network's weights do. ``class_counts``: how often the data have each class,
    where every sample has to have one; else None. ``class_sets``: the classes of some samples, where they have several.
    ``second``: the second network, if there is one.
    """

    guided: Callable[[Denoiser], Denoiser]
    fingerprint: str = ""
    class_counts: tuple[int, ...] | None = None
    class_sets: tuple[tuple[int, ...], ...] = ()
    second: nn.Module | None = None

    def labels_for(self, count: int, seed: int = 0, first: int = 0) -> Tensor | None:
        """Classes for samples ``first`` … of ``seed``, as frequent as in the data; None where none is needed."""
        if self.class_sets:
            return random_numbers.class_sets(self.class_sets, len(self.class_counts or ()), count, seed, first)
        return None if self.class_counts is None else random_numbers.classes(self.class_counts, count, seed, first)


@component
class ClassifierFree:
    """Classifier-free guidance: away from D without a class (Ho & Salimans 2022, Eq. 6), where ``low`` < σ ≤ ``high``
    (Kynkäänniemi et al. 2024; ``high`` null: all levels). ``w`` = 1 is off; the paper's own w is ours − 1.

    Two evaluations where it is on. The model must have classes and an answer without one (``label_dropout``).
    """

    w: Finite
    low: Nonnegative = 0.0
    high: Positive | None = None
    kind: Literal["classifier_free"] = "classifier_free"
    formulas: ClassVar[dict[str, str]] = {"D": "D_∅ + w (D_c − D_∅) for low < σ ≤ high, D_c elsewhere"}

    def __post_init__(self) -> None:
        _check(self)

    def guided(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` guided by itself."""
        return guidance.ClassifierFree(denoiser, self.w, _interval(self))

    counting = guided

    def build(self, model: Any, dataset: Dataset, device: torch.device) -> Guide:
        """Raises ``ValueError`` for a model without classes, and for one that has no answer without a class."""
        if isinstance(model, TrainedDenoiser):
            if model.classes == 0:
                raise ValueError("sampler.guidance: this network was trained without classes; leave it out")
            if model.needs_label:
                raise ValueError(
                    "sampler.guidance: this network saw a class with every image and has no answer without one; train "
                    "it with training.label_dropout: 0.1, or take {kind: autoguidance}"
                )
            return Guide(self.guided, class_counts=tuple(model.about["class_counts"]), class_sets=_sets(model))
        counts = _counts(model, dataset, device)
        if counts is None:
            raise ValueError("sampler.guidance: this denoiser has no classes; leave it out")
        return Guide(self.guided, class_counts=counts)


@component
class Autoguidance:
    """Autoguidance: away from a weaker version of the network, where ``low`` < σ ≤ ``high`` (Karras et al. 2024,
    arXiv:2406.02507).

    ``guide``: a run of `edm-unified train`, or one of its checkpoints: smaller, or trained for less; ``ema`` as in
    ``{kind: checkpoint}``. Both get the same class. ``w`` = 1 is off. Two evaluations where it is on.
    """

    guide: str
    w: Finite
    ema: Nonnegative | None = None
    low: Nonnegative = 0.0
    high: Positive | None = None
    kind: Literal["autoguidance"] = "autoguidance"
    formulas: ClassVar[dict[str, str]] = {"D": "D_guide + w (D − D_guide) for low < σ ≤ high, D elsewhere"}

    def __post_init__(self) -> None:
        _check(self)

    def counting(self, denoiser: Denoiser) -> Denoiser:
        """``denoiser`` in both places: it costs the same, and needs no network."""
        return guidance.Autoguidance(denoiser, denoiser, self.w, _interval(self))

    def build(self, model: Any, dataset: Dataset, device: torch.device) -> Guide:
        """Raises ``ValueError`` where the guide cannot be read, or is of other samples or classes than the model."""
        try:
            lesser = checkpoint.load(self.guide, self.ema)
        except ValueError as error:
            raise ValueError(f"sampler.guidance.guide: {error}") from None
        if lesser.shape != dataset.shape:
            raise ValueError(
                f"sampler.guidance.guide: {self.guide} was trained on samples of shape {lesser.shape}, the data have "
                f"{tuple(dataset.shape)}"
            )
        if isinstance(model, TrainedDenoiser) and lesser.classes != model.classes:
            raise ValueError(
                f"sampler.guidance.guide: {self.guide} was trained with {lesser.classes} classes, the network with "
                f"{model.classes}; both are told the same class"
            )
        lesser, counts = lesser.to(device), None
        if lesser.needs_label:
            counts = _counts(model, dataset, device)
            if counts is None or len(counts) != lesser.classes:
                raise ValueError(
                    f"sampler.guidance.guide: {self.guide} has no answer without one of its {lesser.classes} classes, "
                    "and the denoiser does not have them; train a guide with training.label_dropout"
                )

        def guided(denoiser: Denoiser) -> Denoiser:
            guide = denoiser.sharing_count(lesser) if isinstance(denoiser, Counted) else lesser
            return guidance.Autoguidance(denoiser, guide, self.w, _interval(self))

        return Guide(guided, lesser.fingerprint, counts, () if counts is None else _sets(model), lesser)


AnyGuidance = ClassifierFree | Autoguidance


def _check(choice: AnyGuidance) -> None:
    if choice.high is not None and choice.high <= choice.low:
        raise ValueError(f"high: must be above low = {choice.low:g}, got {choice.high:g}")


def _sets(model: Any) -> tuple[tuple[int, ...], ...]:
    """The classes of some of the samples that a network was trained on, where these have several."""
    return tuple(map(tuple, model.about.get("class_sets", ()))) if isinstance(model, TrainedDenoiser) else ()


def _counts(model: Any, dataset: Dataset, device: torch.device) -> tuple[int, ...] | None:
    """How often the data have each class of ``model``; None where it has no classes."""
    if isinstance(model, TrainedDenoiser):
        return tuple(model.about["class_counts"]) if model.classes else None
    if dataset.labels is None or dataset.several:
        return None
    counts = torch.tensor(dataset.class_counts)
    try:  # the denoiser itself knows whether it takes a class
        model(torch.zeros(1, *dataset.shape, device=device), 1.0, label=int(counts.argmax()))
    except ValueError:
        return None
    return tuple(counts.tolist())


def _interval(choice: AnyGuidance) -> tuple[float, float]:
    return choice.low, math.inf if choice.high is None else choice.high
