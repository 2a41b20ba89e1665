"""The leading directions of few samples in many dimensions, without a matrix of d×d.

n samples lie in a plane of n − 1 dimensions. Their covariance, and every covariance that is estimated from them with a
floor, is the floor in all directions but these; so the estimate is made in the coordinates of that plane, exactly, at
the price of a singular value decomposition of (n, d): O(n² d) instead of O(d³).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import generator

MOST_EXACT = 2048
"""Samples or dimensions, whichever are fewer, up to which the directions come from a full decomposition."""
ROUNDS = 6
"""Of the block power iteration beyond that: directions of variance λ converge as (λ_q/λ)^(2·ROUNDS)."""


def plane(centred: Tensor) -> Tensor:
    """Orthonormal rows (p, d), 1 ≤ p < n, that span the rows of ``centred`` (n, d), whose sum is zero."""
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    least = max(centred.shape) * torch.finfo(centred.dtype).eps * singular[0]
    return axes[: max(1, min(len(centred) - 1, int((singular > least).sum())))]


def leading(centred: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest variances (falling) of the rows of ``centred`` (n, d) and their directions (count, d).

    Beyond 2048 samples and dimensions they are found by block power iteration from a fixed start, with half as many
    directions to spare: of variances that are nearly alike a mixture may be found in their place.
    """
    n, d = centred.shape
    if min(n, d) <= MOST_EXACT or 3 * count >= min(n, d):
        _, singular, axes = torch.linalg.svd(centred / n**0.5, full_matrices=False)
        return singular[:count].square(), axes[:count]
    block = min(count + max(16, count // 2), n, d)
    y = torch.randn(d, block, generator=generator(0), dtype=torch.float64).to(centred)
    for _ in range(ROUNDS):
        y = torch.linalg.qr(centred.mT @ (centred @ y)).Q
    _, singular, axes = torch.linalg.svd(centred @ y / math.sqrt(n), full_matrices=False)
    return singular[:count].square(), (y @ axes.mT).mT[:count].contiguous()
