"""Thresholding: D is kept within the range of the data before a solver sees it.

D = E[x_0 | z] lies in the convex hull of the data, so that the exact one needs no threshold. A network's errors need
one where its parametrization multiplies them: an ε-network's D = z − σ ε is off by σ times the error of ε, which the
table of iDDPM, that begins at σ = 20291, turns into images a thousand times too bright. What DDPM and its relatives do
about it in their samplers, without a name, is clipping.

A threshold is a function of D alone, D × σ ↦ D; the other choices of a run do not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Finite, Positive, interval
from edm_unified.denoisers.denoiser import Denoiser, DenoiserWrapper


@component
class Static:
    """D clipped to [low, high], number by number: "clip_denoised" (Ho et al. 2020, in their code; Saharia et al. 2022,
    section 2.3, "static thresholding"). The range is that of the data: −1 to 1 for images.
    """

    low: Finite = -1.0
    high: Finite = 1.0
    kind: Literal["static"] = "static"
    formulas: ClassVar[dict[str, str]] = {"D": "min(max(D, low), high)"}

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low: must be below high, got {self.low!r} against {self.high!r}")

    def of(self, denoised: Tensor) -> Tensor:
        """``denoised``, clipped."""
        return denoised.clamp(self.low, self.high)


@component
class Dynamic:
    """D clipped to [−s, s] and divided by s/``high``, s the ``quantile`` of |D| in a sample, at least ``high`` (Saharia
    et al. 2022, section 2.3, "dynamic thresholding"). For strong guidance, which saturates images under a static one.

    Each sample has an s of its own. Not for latents, which have no range.
    """

    quantile: Annotated[float, interval(0, 1, "(]")] = 0.995
    high: Positive = 1.0
    kind: Literal["dynamic"] = "dynamic"
    formulas: ClassVar[dict[str, str]] = {"D": "high · min(max(D, −s), s)/s, s = max(quantile of |D|, high)"}

    def of(self, denoised: Tensor) -> Tensor:
        """``denoised``, clipped and scaled."""
        sizes = denoised.abs().flatten(1)
        # the order statistic at or above the quantile: torch.quantile refuses half precision and more than 2^24 numbers
        rank = max(1, math.ceil(self.quantile * sizes.shape[1]))
        s = sizes.kthvalue(rank, dim=1).values.clamp(min=self.high).view(-1, *[1] * (denoised.ndim - 1))
        return torch.minimum(torch.maximum(denoised, -s), s) * (self.high / s)


AnyThreshold = Static | Dynamic


@dataclass(frozen=True)
class Thresholded(DenoiserWrapper):
    """``denoiser``, its output under ``threshold``: a denoiser again."""

    denoiser: Denoiser
    threshold: AnyThreshold

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        return self.threshold.of(self.denoiser(x, sigma, **cond))
