"""Distances of samples from the answer, in the space of the data."""

from __future__ import annotations

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


def energy_distance(x: Float[Tensor, "N *shape"], data: Float[Tensor, "M *shape"], seed: int = 0) -> Estimate:
    """2 E‖X−Y‖ − E‖X−X'‖ − E‖Y−Y'‖ in data units, by unbiased U-statistics (Székely & Rizzo 2013).

    Zero only for equal distributions. Without bias it may come out slightly negative for a perfect method. Distances
    are taken in chunks of rows: memory O((N+M)·1024), time O((N+M)² d).
    """
    a, b = pair(x, data, 2)
    if not (finite(a) and finite(b)):
        return DIVERGED
    centre = b.mean(0)
    a, b = a - centre, b - centre
    n, m = len(a), len(b)
    w = torch.cat([torch.full((1, n), 1.0 / n, dtype=torch.float64), counts(n, 400, seed) / n]).to(a.device)
    cross = torch.zeros(n, dtype=torch.float64, device=a.device)
    within_a = torch.zeros(len(w), dtype=torch.float64, device=a.device)
    within_b = torch.zeros((), dtype=torch.float64, device=a.device)
    for i in range(0, n, 1024):
        part = slice(i, i + 1024)
        cross[part] = torch.cdist(a[part], b).mean(1)
        distance = torch.cdist(a[part], a)
        distance.diagonal(i).zero_()  # exactly, where the fast form leaves rounding
        within_a += ((w[:, part] @ distance) * w).sum(1)
    for i in range(0, m, 1024):
        distance = torch.cdist(b[i : i + 1024], b)
        distance.diagonal(i).zero_()
        within_b += distance.sum()
    # A pair of copies of one row is no pair of samples: 1 − Σw² is the weight of the true pairs.
    pairs = 1 - w.square().sum(1)
    values = 2 * (w @ cross) - within_a / pairs.clamp(min=1e-300) - within_b / (m * (m - 1))
    return estimate(values[0], values[1:][pairs[1:] > 1e-12])


def frechet(
    x: Float[Tensor, "N *shape"],
    data: Float[Tensor, "M *shape"] | tuple[Float[Tensor, "*shape"], Float[Tensor, "d d"]],
    seed: int = 0,
) -> Estimate:
    """‖μ₁−μ₂‖² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½), the squared W₂ of the two Gaussians (Fréchet distance, as in FID).

    In data space, in squared data units. ``data``: samples (M, *shape), or their (mean, covariance), (*shape) and
    (d, d). Sees two moments only. Bias at small N: the covariance of N samples misses the truth by O(d/N), so that
    a perfect method scores about tr(C)·(d+5)/(4N) rather than 0 (exact to first order for C ∝ I).
    """
    a = rows("x", x, 2)
    if isinstance(data, tuple):
        mean2, cov2 = (v.detach().to(a.device, torch.float64) for v in data)
        mean2, d = mean2.reshape(-1), a.shape[1]
        if len(mean2) != d or cov2.shape != (d, d):
            raise ValueError(
                f"data: mean and covariance must have {d} and ({d}, {d}) entries to match x, "
                f"got {len(mean2)} and {tuple(cov2.shape)}"
            )
        if not (finite(mean2) and finite(cov2)):
            return DIVERGED
    else:
        a, b = pair(x, data, 2)
        if not finite(b):
            return DIVERGED
        mean2, cov2 = b.mean(0), b.mT.cov().reshape(b.shape[1], b.shape[1])
    if not finite(a):
        return DIVERGED
    mean1 = a.mean(0)
    z = a - mean1
    cov1 = z.mT @ z / (len(a) - 1)
    values, vectors = torch.linalg.eigh(cov2)
    root2 = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    inner = root2 @ cov1 @ root2
    if not finite(inner):
        return DIVERGED
    values, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    roots = values.clamp(min=0).sqrt()
    value = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * roots.sum()
    # Influence, from the derivative of the value in C₁: I − T, T = C₂^½ (C₂^½ C₁ C₂^½)^−½ C₂^½ the map of C₁ to C₂.
    inverse = torch.where(roots > 1e-7 * roots.max(), 1 / roots, 0.0)
    half = z @ (root2 @ vectors)
    influence = 2 * (z @ (mean1 - mean2)) + z.square().sum(1) - (half.square() * inverse).sum(1)
    return linear(value, influence, seed, root=False)


def log_density_gap(
    x: Float[Tensor, "N *shape"],
    density: Density,
    sigma: float = 0.0,
    label: Tensor | None = None,
    draws: int = 2048,
    seed: int = 0,
) -> Estimate:
    """(mean log p of fresh exact draws − mean log p of x) / d, in nats per dimension, under the exact p(·; σ).

    Zero for a perfect method; positive where samples are less likely than real ones (blurred, noisy, off the data);
    negative where they are too likely (collapsed on the modes). ``draws`` exact draws, resampled in the interval too.
    With ``label`` (N,) the density of each row is that of its class, and there is one fresh draw for each row.
    """
    flat = rows("x", x, 1)
    if not finite(flat):
        return DIVERGED
    if label is None:
        fresh = density.log_prob(density.sample(draws, seed=seed + 1, sigma=sigma), sigma)
    else:
        fresh = density.log_prob(density.sample(len(x), seed=seed + 1, sigma=sigma, label=label), sigma, label=label)
    mine = density.log_prob(x.detach(), sigma, label=label).to(torch.float64)
    if not (finite(mine) and finite(fresh)):
        return DIVERGED
    d = flat.shape[1]
    draws_mean = resample(fresh, seed + 1).mean(1) - resample(mine, seed).mean(1)
    return estimate((fresh.mean() - mine.mean()) / d, draws_mean / d)
