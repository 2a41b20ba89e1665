"""Distances between samples and data, or their exact distribution, in the space of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.metrics._common import (
    DIVERGED,
    Estimate,
    counts,
    estimate,
    finite,
    generator,
    linear,
    pair,
    resample,
    rows,
)


class EndpointError(NamedTuple):
    """The median and the root mean square, over samples, of the distance to the reference."""

    median: Estimate
    rms: Estimate


class LowRank(NamedTuple):
    """A mean (*shape) and a covariance FᵀF + floor·I with F of shape (q, d): what ``frechet`` takes for (d, d)."""

    mean: Tensor
    factor: Tensor
    floor: float | Tensor


class Density(Protocol):
    """What ``log_density_gap`` needs of a denoiser: ``edm_unified.denoisers.exact`` has it."""

    def log_prob(self, x: Tensor, sigma: float, label: Tensor | None = None) -> Tensor:
        """log p(x; σ) in nats, (B,)."""
        ...

    def sample(self, n: int, seed: int = 0, sigma: float = 0.0, label: Tensor | None = None) -> Tensor:
        """Exact draws of x_0 + σn."""
        ...


def endpoint_error(x: Float[Tensor, "N *shape"], reference: Float[Tensor, "N *shape"], seed: int = 0) -> EndpointError:
    """‖x−reference‖/√d of each pair of rows, in data units: its median and root mean square.

    For deterministic methods, against the exact solution from the same noise.
    """
    if x.shape != reference.shape:
        raise ValueError(f"x: must have the shape of reference, got {tuple(x.shape)} against {tuple(reference.shape)}")
    a, b = rows("x", x, 1), rows("reference", reference, 1)
    if not (finite(a) and finite(b)):
        return EndpointError(DIVERGED, DIVERGED)
    error = (a - b).square().mean(1).sqrt()
    draws = resample(error, seed)
    # The middle of an even number is the mean of its two middle ones: torch.median would take the lower.
    return EndpointError(
        estimate(error.quantile(0.5), draws.quantile(0.5, dim=1)),
        estimate(error.square().mean().sqrt(), draws.square().mean(1).sqrt()),
    )


def sliced_wasserstein(
    x: Float[Tensor, "N *shape"], data: Float[Tensor, "M *shape"], directions: int = 128, seed: int = 0
) -> Estimate:
    """Sliced 2-Wasserstein distance: √ of the mean over random unit directions u of W₂²(u·x, u·data), in data units.

    (Bonneel et al. 2015.) In one dimension W₂² = ∫₀¹ (F⁻¹(q) − G⁻¹(q))² dq, exact for any two sample sizes.
    The ``directions`` depend on ``seed`` and the dimension only, so all methods are measured along the same ones.
    Bias: for equal normal distributions it is not 0 but about 1.8 √(1/N + 1/M) standard deviations.
    """
    a, b = pair(x, data, 1)
    if not (finite(a) and finite(b)):
        return DIVERGED
    if isinstance(directions, bool) or not isinstance(directions, int) or directions < 1:
        raise ValueError(f"directions: must be a positive whole number, got {directions!r}")
    u = torch.randn(directions, a.shape[1], generator=generator(seed), dtype=torch.float64).to(a.device)
    u = u / u.norm(dim=1, keepdim=True)
    sorted_a, order = (u @ a.mT).sort(1)  # (L, N)
    sorted_b = (u @ b.mT).sort(1).values  # (L, M)
    n, m = len(a), len(b)
    # Both quantile functions are constant between the numbers i/n and j/m: counted in units of 1/(n m), exactly.
    edges = torch.cat([torch.arange(n) * m, torch.arange(m + 1) * n]).unique()
    widths = (edges.diff().to(torch.float64) / (n * m)).to(a.device)
    i, j = (edges[:-1] // m).to(a.device), (edges[:-1] // n).to(a.device)
    gap = sorted_a[:, i] - sorted_b[:, j]
    squared = (gap.square() * widths).sum(1).mean()
    # Influence: the Kantorovich potential φ, with φ' = 2 (x − T(x)), T the monotone map; by the trapezoid rule.
    towards = torch.zeros_like(sorted_a).index_add_(1, i, gap * widths) * n  # x − T(x), averaged where mass splits
    steps = (towards[:, 1:] + towards[:, :-1]) * sorted_a.diff(dim=1)
    potential = torch.cat([torch.zeros_like(towards[:, :1]), steps.cumsum(1)], 1)
    influence = torch.zeros_like(potential).scatter_(1, order, potential).mean(0)
    return linear(squared, influence, seed, root=True)


def energy_distance(
    x: Float[Tensor, "N *shape"], data: Float[Tensor, "M *shape"], seed: int = 0, spread: float | None = None
) -> Estimate:
    """2 E‖X−Y‖ − E‖X−X'‖ − E‖Y−Y'‖ in data units, by unbiased U-statistics (Székely & Rizzo 2013).

    Zero only for equal distributions. Without bias it may come out slightly negative for a perfect method. Distances
    are taken in chunks of rows: memory O((N+M)·1024), time O((N+M)² d). ``spread``: the ``mean_distance`` of the data,
    E‖Y−Y'‖, where it is known already; it is what takes the time where N < M.
    """
    a, b = pair(x, data, 2)
    if not (finite(a) and finite(b)):
        return DIVERGED
    centre = b.mean(0)
    a, b = a - centre, b - centre
    n = len(a)
    w = torch.cat([torch.full((1, n), 1.0 / n, dtype=torch.float64), counts(n, 400, seed) / n]).to(a.device)
    cross = torch.zeros(n, dtype=torch.float64, device=a.device)
    within_a = torch.zeros(len(w), dtype=torch.float64, device=a.device)
    for i in range(0, n, 1024):
        part = slice(i, i + 1024)
        cross[part] = torch.cdist(a[part], b).mean(1)
        distance = torch.cdist(a[part], a)
        distance.diagonal(i).zero_()  # exactly, where the fast form leaves rounding
        within_a += ((w[:, part] @ distance) * w).sum(1)
    # A pair of copies of one row is no pair of samples: 1 − Σw² is the weight of the true pairs.
    pairs = 1 - w.square().sum(1)
    values = 2 * (w @ cross) - within_a / pairs.clamp(min=1e-300) - (_within(b) if spread is None else spread)
    return estimate(values[0], values[1:][pairs[1:] > 1e-12])


def mean_distance(data: Float[Tensor, "M *shape"]) -> float:
    """E‖Y−Y'‖ over the pairs of different rows of ``data``: the last term of ``energy_distance``."""
    b = rows("data", data, 2)
    return float(_within(b - b.mean(0)))


def _within(b: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=b.device)
    for i in range(0, len(b), 1024):
        distance = torch.cdist(b[i : i + 1024], b)
        distance.diagonal(i).zero_()
        total += distance.sum()
    return total / (len(b) * (len(b) - 1))


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


def log_density_gap(
    x: Float[Tensor, "N *shape"],
    density: Density,
    sigma: float = 0.0,
    label: Tensor | None = None,
    draws: int = 2048,
    seed: int = 0,
    fresh: Float[Tensor, " draws"] | None = None,
) -> Estimate:
    """(mean log p of fresh exact draws − mean log p of x) / d, in nats per dimension, under the exact p(·; σ).

    Zero for a perfect method; positive where samples are less likely than real ones (blurred, noisy, off the data);
    negative where they are too likely (collapsed on the modes). ``draws`` exact draws, resampled in the interval too.
    With ``label`` (N,) the density of each row is that of its class, and there is one fresh draw for each row.
    ``fresh``: log p of the exact draws, ``fresh_log_density`` of the same numbers, where it is known already.
    """
    flat = rows("x", x, 1)
    if not finite(flat):
        return DIVERGED
    if fresh is None:
        fresh = fresh_log_density(density, sigma, label, draws if label is None else len(x), seed)
    mine = density.log_prob(x.detach(), sigma, label=label).to(torch.float64)
    if not (finite(mine) and finite(fresh)):
        return DIVERGED
    d = flat.shape[1]
    draws_mean = resample(fresh, seed + 1).mean(1) - resample(mine, seed).mean(1)
    return estimate((fresh.mean() - mine.mean()) / d, draws_mean / d)


def fresh_log_density(
    density: Density, sigma: float = 0.0, label: Tensor | None = None, draws: int = 2048, seed: int = 0
) -> Float[Tensor, " draws"]:
    """log p of the exact draws that ``log_density_gap`` compares with: the same for all samples under test."""
    if label is None:
        return density.log_prob(density.sample(draws, seed=seed + 1, sigma=sigma), sigma)
    return density.log_prob(density.sample(draws, seed=seed + 1, sigma=sigma, label=label), sigma, label=label)
