"""What all rules share: the protocol, and how the ends of a grid are kept exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from edm_unified.schedules import Schedule


class Steps(Protocol):
    """A rule for the levels."""

    def levels(self, schedule: Schedule) -> Tensor:
        """σ_0 > … > σ_N, float64."""
        ...


def then_zero(sigmas: Sequence[float], sigma_max: float, sigma_min: float) -> Tensor:
    """Pin both ends to the numbers that were asked for (no rounding of a root or a tangent) and append 0."""
    inner = list(sigmas)[1:-1]
    return torch.tensor([sigma_max, *inner, *([sigma_min] if len(sigmas) > 1 else []), 0.0], dtype=torch.float64)


def check_falling(sigmas: Tensor, name: str) -> Tensor:
    """``sigmas``, unless two of them coincide or rise: then a ``ValueError`` about the field ``name``."""
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"{name}: the levels do not fall: {[float(f'{v:.6g}') for v in sigmas[:8]]} …")
    return sigmas


def ramp(n: int) -> list[float]:
    """0 … 1 in n points; a single point is 0. Python numbers: for a few dozen levels, tensors are ten times slower."""
    return [i / (n - 1) for i in range(n)] if n > 1 else [0.0]
