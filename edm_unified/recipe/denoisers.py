"""Denoisers as choices of a recipe: closed-form models of the data, and trained networks.

``build(dataset)`` returns the denoiser (see ``edm_unified.denoisers.exact``) for the images that ``data.load()`` gave,
or that of a checkpoint that was trained on them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch

from edm_unified import interop
from edm_unified.components.component import component, encode
from edm_unified.components.constraints import Count, Nonnegative, Positive, whole
from edm_unified.data import Dataset
from edm_unified.data.units import in_units_of
from edm_unified.denoisers import exact
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.training.runs import checkpoint
from edm_unified.training.trained_denoiser import TrainedDenoiser


@component
class Gaussian:
    """One Gaussian with the mean and covariance of the data: D is linear, the flow a closed formula.

    ``floor`` is added to every variance, in squared data units. With ``rank`` = r only the r largest directions are
    kept and the other variances are replaced by their mean: needed above a few thousand dimensions.
    """

    rank: Count | None = None
    floor: Positive = 1e-3
    kind: Literal["gaussian"] = "gaussian"
    formulas: ClassVar[dict[str, str]] = {"D": "μ + C (C + σ²I)⁻¹ (x − μ)"}

    def build(self, dataset: Dataset) -> exact.Gaussian:
        """Fit it. The classes of the data play no part."""
        return exact.Gaussian.fit(dataset.images, self.rank, self.floor)


@component
class GaussianMixture:
    """A mixture of Gaussians fitted to each class of the data (or to all of it, where there are no classes).

    ``components_per_class`` Gaussians each, by expectation–maximisation with ``floor`` added to every variance.
    ``rank`` keeps that many directions of each full covariance (probabilistic PCA): fewer, and the model underfits;
    all (null), and it learns noise. The defaults are a compromise of held-out likelihood and speed on the digits.
    The classes stay selectable: the denoiser takes ``label``. Data with several classes a sample are fitted as one.
    """

    components_per_class: Count = 3
    covariance: Literal["full", "diag", "isotropic"] = "full"
    rank: Count | None = 16
    floor: Positive = 1e-2
    seed: Annotated[int, whole(least=0, most=2**32 - 1)] = 0
    kind: Literal["gaussian_mixture"] = "gaussian_mixture"
    formulas: ClassVar[dict[str, str]] = {
        "D": "Σ_k r_k [ μ_k + C_k (C_k + σ²I)⁻¹ (x − μ_k) ]",
        "r": "softmax_k( log w_k + log N(x; μ_k, C_k + σ²I) )",
    }

    def build(self, dataset: Dataset) -> exact.GaussianMixture:
        """Fit it; deterministic by ``seed``."""
        rank = self.rank
        if self.covariance != "full" or (rank is not None and rank >= dataset.images[0].numel()):
            rank = None
        return exact.GaussianMixture.fit(
            dataset.images,
            self.components_per_class,
            None if dataset.several else dataset.labels,
            covariance=self.covariance,
            rank=rank,
            floor=self.floor,
            seed=self.seed,
        )


@component
class Empirical:
    """The data themselves: the posterior mean over all samples, what an unlimited network would learn.

    A deterministic solver then ends on a training sample; useful as the sharpest, least smooth exact denoiser.
    """

    kind: Literal["empirical"] = "empirical"
    formulas: ClassVar[dict[str, str]] = {"D": "Σ_n r_n y_n", "r": "softmax_n( −‖x − y_n‖² / (2σ²) )"}

    def build(self, dataset: Dataset) -> exact.Empirical:
        """No fit; the classes stay selectable through ``label``."""
        return exact.Empirical(dataset.images, None if dataset.several else dataset.labels)


@component
class Known:
    """The true D of data that were drawn from a Gaussian mixture: fractal, random_mixture, eight_gaussians.

    Nothing is fitted: the data know their distribution. What a perfectly trained network would be.
    """

    kind: Literal["known"] = "known"
    formulas: ClassVar[dict[str, str]] = {
        "D": "Σ_k r_k [ μ_k + C_k (C_k + σ²I)⁻¹ (x − μ_k) ]",
        "r": "softmax_k( log w_k + log N(x; μ_k, C_k + σ²I) )",
    }

    def build(self, dataset: Dataset) -> exact.GaussianMixture:
        """The mixture of the data. Raises ``ValueError`` where their distribution is not a formula."""
        if dataset.exact is None:
            raise ValueError(
                f"denoiser: the distribution of {dataset.name} is not known; use data: {{kind: fractal}}, or another "
                "denoiser, such as gaussian_mixture"
            )
        return dataset.exact()


@component
class Checkpoint:
    """A network that was trained: that of a run of `edm-unified train`, or of a checkpoint of another library.

    ``path``: the run, or one folder of its ``checkpoints/``. ``ema``: null for the average that the run made (of
    several, the first), 0 for the weights as they were trained, or the length of a power-function average, such as
    0.05. ``source``, in place of ``path``: what ``edm.load`` reads of other libraries, such as a folder of diffusers;
    ``convention``: a preconditioning in place of the one that its files say. There is no density, no exact sample and
    no closed formula: what it draws is compared with the data.
    """

    path: str | None = None
    ema: Nonnegative | None = None
    source: str | None = None
    convention: AnyPreconditioning | None = None
    kind: Literal["checkpoint"] = "checkpoint"
    added_later: ClassVar[tuple[str, ...]] = ("source", "convention")

    def __post_init__(self) -> None:
        if (self.path is None) == (self.source is None):
            raise ValueError("path: name a run here, or a checkpoint of another library under source")
        if self.ema is not None and self.source is not None:
            raise ValueError("ema: is of runs of edm-unified; a source of another library has one set of weights")
        if self.convention is not None and self.source is None:
            raise ValueError("convention: a run knows its own; leave it out")

    @property
    def place(self) -> str:
        """The run or the source."""
        return self.path or self.source or ""

    def nowhere(self) -> Checkpoint:
        """The same without its place, which says where its weights are and not what they are."""
        return dataclasses.replace(self, path="") if self.source is None else dataclasses.replace(self, source="")

    def open(self, data: Any, load: Callable[[], Dataset]) -> tuple[TrainedDenoiser, Dataset]:
        """The network, and its data as the run keeps them, where ``data`` are those it was trained on, or None.

        They are opened, by ``load``, when a sample is asked for. Other ``data`` are opened at once, and those of a run
        that keeps nothing; they are brought to the scale of the run (:func:`edm_unified.data.units.in_units_of`). Of a
        checkpoint without data there are no samples (``len`` 0).
        """
        found = None if self.path is None else checkpoint.data(self.path, load)
        if found is not None and (data is None or _same_source(data, found[1])):
            return self.build(None), found[0]
        if data is None:
            trained = self.build(None)
            return trained, Dataset(torch.empty(0, *trained.shape), None, "no data")
        dataset = load()
        return self.build(dataset), dataset if found is None else in_units_of(found[0], dataset)

    def build(self, dataset: Dataset | None) -> TrainedDenoiser:
        """Load it. Raises ``ValueError`` where the data, if there are any, are not of the shape it was trained on."""
        shape = () if dataset is None else dataset.shape
        try:
            if self.source is not None:
                trained = interop.load(self.source, convention=self.convention, shape=shape)
            else:
                trained = interop.load(self.place, self.ema)
        except ValueError as error:
            raise ValueError(f"denoiser: {error}") from None
        if dataset is not None and trained.shape != dataset.shape:
            got, want = tuple(dataset.shape), trained.shape
            raise ValueError(f"denoiser: {self.place} was trained on samples of shape {want}, the data have {got}")
        return trained


AnyDenoiser = Gaussian | GaussianMixture | Empirical | Known | Checkpoint


def _same_source(data: Any, kept: Any) -> bool:
    """Whether ``data`` are what a run says of its own, ``kept``; fields that are newer than the run have defaults."""
    said = json.loads(json.dumps(encode(data)))
    if not isinstance(kept, dict) or not kept.keys() <= said.keys():
        return False
    newer = {name for name in said if name not in kept}
    known = {field.name for field in dataclasses.fields(data) if getattr(data, field.name) == field.default}
    return newer <= known and all(said[name] == value for name, value in kept.items())


def opens(denoiser: Any) -> bool:
    """Whether it is a network, which needs no data: a checkpoint, or one's own."""
    return hasattr(denoiser, "open")


def made(denoiser: AnyDenoiser, data: Any, load: Callable[[], Dataset]) -> tuple[Any, Dataset]:
    """The denoiser and its data; those of a trained one stay closed until a sample is asked for."""
    if opens(denoiser):
        return denoiser.open(data, load)  # type: ignore[union-attr,no-any-return]
    dataset = load()
    return denoiser.build(dataset), dataset
