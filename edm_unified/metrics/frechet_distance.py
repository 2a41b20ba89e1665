"""The Fréchet distance between samples and data, or known moments: the squared W₂ of two Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.metrics._common import (
    DIVERGED,
    Estimate,
    finite,
    linear,
    pair,
    rows,
)


class LowRank(NamedTuple):
    """A mean (*shape) and a covariance FᵀF + floor·I with F of shape (q, d): what ``frechet`` takes for (d, d)."""

    mean: Tensor
    factor: Tensor
    floor: float | Tensor


def frechet(
    x: Float[Tensor, "N *shape"],
    data: Float[Tensor, "M *shape"] | tuple[Float[Tensor, "*shape"], Float[Tensor, "d d"]] | LowRank,
    seed: int = 0,
) -> Estimate:
    """‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½), the squared W₂ of the two Gaussians (Fréchet distance, as in FID).

    In data space, in squared data units. ``data``: samples (M, *shape), or their (mean, covariance), (*shape) and
    (d, d), or a ``LowRank``. Sees two moments only. Bias at small N: the covariance of N samples misses the truth by
    O(d/N), so that a perfect method scores about tr(C)·(d+5)/(4N) rather than 0 (exact to first order for C ∝ I).

    Exact at the price of the smallest matrix that has the trace: N×N, M×M or d×d. With fewer samples than dimensions
    on either side none of d×d is formed: time O((N+M)² d).
    """
    a = rows("x", x, 2)
    if isinstance(data, tuple):
        mean2, second = _known_moments(data, a)
    else:
        a, b = pair(x, data, 2)
        mean2 = b.mean(0)
        second = _Factored((b - mean2) / (len(b) - 1) ** 0.5, torch.zeros((), dtype=b.dtype, device=b.device))
    if not (finite(mean2) and second.finite() and finite(a)):
        return DIVERGED
    mean1 = a.mean(0)
    z = a - mean1
    trace, kept = _transport(z, second)
    value = (mean1 - mean2).square().sum() + z.square().sum() / (len(z) - 1) + second.trace() - 2 * trace
    # Influence, from the derivative of the value in C₁: I − T, T = C₂^½ (C₂^½ C₁ C₂^½)^−½ C₂^½ the map of C₁ to C₂.
    return linear(value, 2 * (z @ (mean1 - mean2)) + z.square().sum(1) - kept, seed, root=False)


def _transport(z: Tensor, second: _Dense | _Factored) -> tuple[Tensor, Tensor]:
    """tr (C₁^½ C₂ C₁^½)^½ and zᵀTz of each centred row, for C₁ = ZᵀZ/(n−1); NaN where the products overflow.

    With A = C₂^½ Zᵀ/√(n−1) the trace is that of (AAᵀ)^½, d×d, and of (AᵀA)^½, n×n, and zᵀTz is n−1 times the diagonal
    of the latter. For C₂ = FᵀF and H = F C₁ Fᵀ the trace is that of H^½, too, and zᵀTz = (Fz)ᵀ H^−½ (Fz).
    """
    n, d = z.shape
    if n < d:
        roots, vectors = _root(second.sandwich(z) / (n - 1))
        return roots.sum(), (n - 1) * (vectors.square() * roots).sum(1)
    if (factor := second.factor()) is not None:
        y = z @ factor.mT
    else:
        values, axes = torch.linalg.eigh(second.matrix())
        y = z @ ((axes * values.clamp(min=0).sqrt()) @ axes.mT)
    roots, vectors = _root(y.mT @ y / (n - 1))
    inverse = torch.where(roots > 1e-7 * roots.max(), 1 / roots, 0.0)
    return roots.sum(), ((y @ vectors).square() * inverse).sum(1)


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the eigenvalues, and the eigenvectors as columns."""
    if not finite(matrix):
        return torch.full_like(matrix[0], math.nan), torch.full_like(matrix, math.nan)
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values.clamp(min=0).sqrt(), vectors


@dataclass(frozen=True)
class _Dense:
    """A covariance (d, d)."""

    cov: Tensor

    def finite(self) -> bool:
        return finite(self.cov)

    def trace(self) -> Tensor:
        return self.cov.trace()

    def factor(self) -> Tensor | None:
        return None

    def matrix(self) -> Tensor:
        return self.cov

    def sandwich(self, z: Tensor) -> Tensor:
        """Z C Zᵀ."""
        return z @ self.cov @ z.mT


@dataclass(frozen=True)
class _Factored:
    """A covariance FᵀF + floor·I, F (q, d)."""

    F: Tensor
    floor: Tensor

    def finite(self) -> bool:
        return finite(self.F) and finite(self.floor)

    def trace(self) -> Tensor:
        return self.F.square().sum() + self.F.shape[1] * self.floor

    def factor(self) -> Tensor | None:
        """F where that is all and fewer rows than d."""
        return self.F if len(self.F) < self.F.shape[1] and float(self.floor) == 0 else None

    def matrix(self) -> Tensor:
        return self.F.mT @ self.F + self.floor * torch.eye(self.F.shape[1], dtype=self.F.dtype, device=self.F.device)

    def sandwich(self, z: Tensor) -> Tensor:
        """Z C Zᵀ."""
        y = z @ self.F.mT
        return y @ y.mT + self.floor * (z @ z.mT)


def _known_moments(data: tuple[Tensor, Tensor] | LowRank, a: Tensor) -> tuple[Tensor, _Dense | _Factored]:
    mean, *spread = (torch.as_tensor(v).detach().to(a.device, torch.float64) for v in data)
    mean, d = mean.reshape(-1), a.shape[1]
    cov = spread[0]
    square = not isinstance(data, LowRank)
    if len(mean) != d or cov.ndim != 2 or cov.shape[1] != d or (square and len(cov) != d):
        what, shape = ("covariance", f"({d}, {d})") if square else ("factor", f"(q, {d})")
        raise ValueError(
            f"data: mean and {what} must have {d} and {shape} entries to match x, got {len(mean)} and "
            f"{tuple(cov.shape)}"
        )
    return mean, _Dense(cov) if square else _Factored(*spread)
