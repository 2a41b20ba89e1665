"""Guidance: a denoiser extrapolated from two others, D = D_1 + w (D_0 − D_1).

The convention of w is that of EDM2 and diffusers: **w = 1 is off** (the first denoiser alone), w = 0 is the second
alone, w > 1 extrapolates. Libraries in which 0 is off (azula, smalldiffusion) use w − 1.

Since D − z is linear in the score, guiding D is guiding the score, ε, v or the velocity with the same w.

Cost: inside the interval two evaluations, outside and at w = 1 one. A :class:`~edm_unified.denoisers.denoiser.Counted`
around the inner denoiser counts these; one around the guided denoiser counts guided evaluations. Whether σ is inside is
asked on the host only if σ already lies there, which is so in sampling. A σ on an accelerator is never copied back:
then both are evaluated, and the weight is chosen on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edm_unified.denoisers.denoiser import Denoiser, DenoiserWrapper, OutputError, supported_range
from edm_unified.denoisers.parametrization import along
from edm_unified.schedules.base import float64


@dataclass(frozen=True)
class ClassifierFree(DenoiserWrapper):
    """D = D_∅ + w (D_c − D_∅) for σ in ``interval`` = (low, high], D_c elsewhere (Ho & Salimans 2022, Eq. 6; the
    interval is that of Kynkäänniemi et al. 2024).

    ``denoiser(x, sigma, **cond)`` is both: the condition is ``cond[key]``, and D_∅ is the same call with ``null`` in
    its place. A whole number such as the default −1, which the exact denoisers of this package read as
    "unconditional", fills a tensor of the condition's shape; of bool, which says of each class whether a sample has it,
    it is false. A tensor or None is passed as it is. Without a condition in the call there is nothing to guide, and D_∅
    is returned.

    Their ``w`` is w − 1 here. w = 1 is off.
    """

    denoiser: Denoiser
    w: float
    interval: tuple[float, float] = (0.0, math.inf)
    key: str = "label"
    null: int | Tensor | None = -1

    def __post_init__(self) -> None:
        _check(self.w, self.interval)

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        label = cond.get(self.key)
        conditional = self.denoiser(x, sigma, **cond)
        if label is None:
            return conditional
        null = _null(torch.as_tensor(label), self.null) if isinstance(self.null, int) else self.null
        return _guide(conditional, lambda: self.denoiser(x, sigma, **{**cond, self.key: null}), self, x, sigma)


@dataclass(frozen=True)
class Autoguidance:
    """D = D_guide + w (D_main − D_guide) for σ in ``interval``, D_main elsewhere (Karras et al. 2024, "Guiding a
    diffusion model with a bad version of itself").

    ``guide`` is a smaller or less trained version of ``main``; both get the same condition. w = 1 is off.
    """

    main: Denoiser
    guide: Denoiser
    w: float
    interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        _check(self.w, self.interval)

    @property
    def sigma_min(self) -> float:
        return max(supported_range(self.main)[0], supported_range(self.guide)[0])

    @property
    def sigma_max(self) -> float:
        return min(supported_range(self.main)[1], supported_range(self.guide)[1])

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        return _guide(self.main(x, sigma, **cond), lambda: self.guide(x, sigma, **cond), self, x, sigma)


def _null(label: Tensor, null: int) -> Tensor:
    """``null`` for every sample; of labels of bool, none of the classes."""
    return torch.zeros_like(label) if label.dtype == torch.bool else torch.full_like(label, null)


def _check(w: float, interval: tuple[float, float]) -> None:
    if not math.isfinite(w):
        raise ValueError(f"w: must be finite, got {w!r}")
    if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
        raise ValueError(f"interval: must be two rising noise levels, zero or above, got {tuple(interval)}")


def _guide(
    first: Tensor, second: Callable[[], Tensor], guidance: ClassifierFree | Autoguidance, x: Tensor, sigma: Tensor
) -> Tensor:
    """second + w (first − second) where σ is in the interval, ``first`` elsewhere; ``second`` is called if needed."""
    if guidance.w == 1:
        return first
    low, high = guidance.interval
    sigma = float64(sigma)
    inside = (sigma > low) & (sigma <= high)
    if sigma.device.type == "cpu" and not inside.any():
        return first
    version = None if first.is_inference() else first._version
    other = second()
    if version is not None and first._version != version:
        raise OutputError("denoiser: wrote into a tensor that it had returned before; return a new one each time")
    guided = other + guidance.w * (first - other)
    # chosen, not blended with a weight of 1: outside the interval the answer is ``first`` to the last bit
    return torch.where(along(inside, x).bool(), guided, first)
