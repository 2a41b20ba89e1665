"""Exact denoisers as choices of a recipe: a model of the data whose D, score and density are closed formulas.

``build(dataset)`` returns the denoiser (see ``edm_unified.exact``) for the images that ``data.load()`` gave.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from edm_unified._component import component, count, positive

from . import exact
from .data import Dataset


@component
class Gaussian:
    """One Gaussian with the mean and covariance of the data: D is linear, the flow a closed formula.

    ``floor`` is added to every variance, in squared data units. With ``rank`` = r only the r largest directions are
    kept and the other variances are replaced by their mean: needed above a few thousand dimensions.
    """

    rank: int | None = None
    floor: float = 1e-3
    kind: Literal["gaussian"] = "gaussian"
    formulas: ClassVar[dict[str, str]] = {"D": "μ + C (C + σ²I)⁻¹ (x − μ)"}

    def __post_init__(self) -> None:
        positive("floor", self.floor)
        if self.rank is not None:
            count("rank", self.rank)

    def build(self, dataset: Dataset) -> exact.Gaussian:
        """Fit it. The classes of the data play no part."""
        rows = dataset.images.to(torch.float64).flatten(1)
        n, d = rows.shape
        if n < 2:
            raise ValueError(f"data: a Gaussian needs at least 2 samples, got {n}")
        mean = rows.mean(0)
        centred = rows - mean
        shape = dataset.images.shape[1:]
        if self.rank is None or self.rank >= d:
            cov = centred.mT @ centred / n + self.floor * torch.eye(d, dtype=torch.float64)
            return exact.Gaussian(mean.reshape(shape), cov)
        r = min(self.rank, n)
        # The top r directions, from the smaller of the two Gram matrices.
        _, singular, axes = torch.linalg.svd(centred / n**0.5, full_matrices=False)
        values = singular.square()
        rest = ((centred.square().sum() / n - values[:r].sum()) / (d - r)).clamp(min=0)
        factor = axes[:r].mT * (values[:r] - rest).clamp(min=0).sqrt()
        return exact.Gaussian.low_rank(mean.reshape(shape), factor, rest + self.floor)


@component
class GaussianMixture:
    """A mixture of Gaussians fitted to each class of the data (or to all of it, where there are no classes).

    ``components_per_class`` Gaussians each, by expectation–maximisation with ``floor`` added to every variance.
    ``rank`` keeps that many directions of each full covariance (probabilistic PCA): fewer, and the model underfits;
    all (null), and it learns noise. The defaults are a compromise of held-out likelihood and speed on the digits.
    The classes stay selectable: the denoiser takes ``label``.
    """

    components_per_class: int = 3
    covariance: Literal["full", "diag", "isotropic"] = "full"
    rank: int | None = 16
    floor: float = 1e-2
    seed: int = 0
    kind: Literal["gaussian_mixture"] = "gaussian_mixture"
    formulas: ClassVar[dict[str, str]] = {
        "D": "Σ_k r_k [ μ_k + C_k (C_k + σ²I)⁻¹ (x − μ_k) ]",
        "r": "softmax_k( log w_k + log N(x; μ_k, C_k + σ²I) )",
    }

    def __post_init__(self) -> None:
        count("components_per_class", self.components_per_class)
        positive("floor", self.floor)
        if self.rank is not None:
            count("rank", self.rank)

    def build(self, dataset: Dataset) -> exact.GaussianMixture:
        """Fit it; deterministic by ``seed``."""
        rank = self.rank
        if self.covariance != "full" or (rank is not None and rank >= dataset.images[0].numel()):
            rank = None
        return exact.GaussianMixture.fit(
            dataset.images,
            self.components_per_class,
            dataset.labels,
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
        return exact.Empirical(dataset.images, dataset.labels)


AnyDenoiser = Gaussian | GaussianMixture | Empirical
