"""Arguments of the exact denoisers: their checks and shapes, classes, seeds, eigenvalues, and moves to a device."""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Sigmas = float | Tensor
Label = int | Tensor | None

CHUNK_BYTES = 64 * 2**20
"""Default bound on one working array of a chunked evaluation."""

TINY = 1e-200
"""Stands for a variance of exactly zero: y²/TINY and log TINY are still finite in float64, so no NaN arises."""


def float64(name: str, value: Any, ndim: tuple[int, ...] | None = None) -> Tensor:
    """``value`` as a detached float64 tensor, finite, with one of the numbers of axes in ``ndim``."""
    tensor = torch.as_tensor(value, dtype=torch.float64).detach()  # at once: a Python 0.1 must not become a float32
    if ndim is not None and tensor.ndim not in ndim:
        expected = " or ".join(str(n) for n in ndim)
        raise ValueError(f"{name}: must have {expected} axes, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0 or not bool(torch.isfinite(tensor).all()):
        raise ValueError(
            f"{name}: must be non-empty and finite, got shape {tuple(tensor.shape)} with NaN, inf or nothing"
        )
    return tensor


def flat(x: Tensor, shape: torch.Size) -> Tensor:
    """``x`` of shape (B, *shape) as (B, d) float64."""
    if not isinstance(x, Tensor) or x.ndim != len(shape) + 1 or x.shape[1:] != shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: must be a tensor of shape {('B', *shape)}, got {got}".replace("'B'", "B"))
    return x.to(torch.float64).reshape(len(x), math.prod(shape))


def levels(sigma: Sigmas, x: Tensor) -> tuple[Tensor, float]:
    """σ as a 0-d or (B, 1) float64 tensor beside ``x`` (B, d), and its smallest value as a number.

    A (B,) tensor of equal levels becomes 0-d, because one shared level is much cheaper to evaluate.
    """
    level = torch.as_tensor(sigma, dtype=torch.float64)
    if level.ndim > 1 or (level.ndim == 1 and len(level) != len(x)):
        raise ValueError(f"sigma: must have shape () or ({len(x)},) to match x, got {tuple(level.shape)}")
    if level.numel() == 0:
        return level.to(x.device)[:, None], 1.0
    low, high = (float(v) for v in torch.aminmax(level.detach()))
    if not (low >= 0 and math.isfinite(high)):
        raise ValueError(f"sigma: must be finite and not negative, got {low if low == high else (low, high)}")
    if level.ndim == 1 and low == high and not level.requires_grad:
        level = level[0]
    return level.to(x.device) if level.ndim == 0 else level.to(x.device)[:, None], low


def classes(label: Label, batch: int, known: tuple[int, ...]) -> list[tuple[int, Tensor]]:
    """The batch grouped by class: pairs (class, its row numbers); class −1 is "all classes".

    ``known``: the sorted labels that exist, () where the denoiser has no classes.
    """
    if label is None or batch == 0:
        return [(-1, torch.arange(batch))]
    values = torch.as_tensor(label)
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise ValueError(f"label: must hold whole numbers, got {values.dtype}")
    if values.ndim > 1 or (values.ndim == 1 and len(values) != batch):
        raise ValueError(f"label: must be one number or have shape ({batch},) to match x, got {tuple(values.shape)}")
    found = values.unique().tolist()
    for c in found:
        if c != -1 and c not in known:
            what = f"one of {_ranges(known)} or -1 for all" if known else "None or -1: this denoiser has no classes"
            raise ValueError(f"label: must be {what}, got {c}")
    return [(c, (values.expand(batch) == c).nonzero().squeeze(1)) for c in found]


def _ranges(values: tuple[int, ...]) -> str:
    if len(values) > 2 and values == tuple(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(str(v) for v in values[:20]) + (", ..." if len(values) > 20 else "")


def generator(seed: int) -> torch.Generator:
    """A local CPU generator, so that draws depend on ``seed`` alone, never on a global state or a device."""
    return torch.Generator().manual_seed(seed)


def count(n: int) -> int:
    """``n``, checked to be a whole number, zero or above."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ValueError(f"n: must be a whole number, zero or above, got {n!r}")
    return n


def moved(thing: T, device: torch.device | str) -> T:
    """A shallow copy whose tensors live on ``device``."""
    other = copy.copy(thing)
    for name, value in vars(other).items():
        if isinstance(value, Tensor):
            setattr(other, name, value.to(device))
    return other


def spectrum(name: str, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (…, d) and eigenvectors *as rows* (…, d, d) of symmetric matrices, negative rounding removed."""
    scale = cov.abs().amax(dim=(-2, -1), keepdim=True)
    if bool(((cov - cov.mT).abs() > 1e-8 * scale).any()):
        raise ValueError(f"{name}: must be symmetric; use (C + Cᵀ)/2")
    values, vectors = torch.linalg.eigh((cov + cov.mT) / 2)
    if bool((values < -1e-8 * scale.squeeze(-1)).any()):
        raise ValueError(
            f"{name}: must have no negative eigenvalue, got {float(values.min()):.3g}; add a floor to the diagonal"
        )
    return values.clamp(min=0), vectors.mT.contiguous()
