"""By what a fitted solver knows its model: what the model answers to a few fixed noises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from edm_unified.denoisers.denoiser import Denoiser, InOwnType, estimate, supported_range
from edm_unified.sampling.streams import unit_noise

_LEVELS = (10.0, 1.0, 0.3, 0.1)
_ROWS = 2
NEAR = 1e-3
"""Relative difference up to which two models are one: float32, other machines and other batches are far below."""


def answers(
    denoiser: Denoiser,
    shape: Sequence[int],
    cond: Mapping[str, object] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, ...]:
    """Two numbers for each of four levels: the D(σ n; σ) of two fixed noises, each along another fixed noise, over √d.

    ``cond`` is that of two samples. Changes with the weights, the data, the guidance and its weight, the class.
    """
    low, high = supported_range(denoiser)
    noise = unit_noise(_ROWS, tuple(shape), seed=2_022).to(device)
    along = unit_noise(_ROWS, tuple(shape), seed=206).to(device).flatten(1)
    found, asked = list[float](), InOwnType(denoiser)
    with torch.no_grad():
        for sigma in _LEVELS:
            level = torch.tensor(min(max(sigma, low), high), dtype=torch.float64, device=device)
            out = estimate(asked, level * noise, level, dict(cond or {})).flatten(1)
            found += ((out * along).sum(1) / math.sqrt(out.shape[1])).tolist()
    return tuple(float(f"{value:.6g}") for value in found)


def unlike(fitted: Sequence[float], found: Sequence[float]) -> str | None:
    """A line where the answers are those of another model than the solver was fitted to; None where they agree."""
    if len(fitted) != len(found) or not fitted:
        return None
    scale = max(map(abs, fitted)) or 1.0
    off = max(abs(a - b) for a, b in zip(fitted, found, strict=True)) / scale
    if off <= NEAR:
        return None
    return (
        f"the solver was fitted to another model than this one, whose answers differ by {off:.1%}: its gain need not "
        "hold here; `edm-unified tune` fits one"
    )
