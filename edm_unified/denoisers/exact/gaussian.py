"""One Gaussian: D is linear, and the probability-flow ODE has a closed solution.

If x_0 ~ N(μ, C) then x = x_0 + σn ~ N(μ, C + σ²I), and with C = U diag(λ) Uᵀ

    D(x; σ)      = μ + U diag( λ/(λ+σ²) ) Uᵀ (x−μ)                     the posterior mean (Wiener filter)
    ∇ log p(x;σ) = −U diag( 1/(λ+σ²) ) Uᵀ (x−μ)                        the score
    x(σ₁)        = μ + U diag( √((λ+σ₁²)/(λ+σ₀²)) ) Uᵀ (x(σ₀)−μ)       the flow of dx/dσ = (x−D)/σ

All three are one operation: a gain h(λ) on each axis of C. D is linear in x, so a sampler is an affine map of its
noises, which is what the exact-variance law tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import TINY, Label, Sigmas, classes, count, flat, float64, generator, levels, moved, spectrum
from .principal import leading


class Gaussian:
    """x_0 ~ N(μ, C) with C = v·I, diag(v), full, or low-rank + floor (``Gaussian.low_rank``).

    ``mean`` has the event shape (*shape), d its number of elements; ``cov`` is a variance (), d variances (d,), or a
    covariance matrix (d, d) in the row-major order of the flattened event. Everything is float64 inside; D and the
    score come back in the dtype of x, log-densities in float64 nats.

    Raises ValueError for a covariance that is not symmetric or has a negative eigenvalue.
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        mean = float64("mean", mean)
        mean = mean[None] if mean.ndim == 0 else mean
        cov = float64("cov", cov, ndim=(0, 1, 2)).to(mean.device)
        d = mean.numel()
        if cov.ndim and cov.shape != (d,) * cov.ndim:
            raise ValueError(f"cov: must have shape (), ({d},) or ({d}, {d}) for this mean, got {tuple(cov.shape)}")
        self.shape = mean.shape
        self._mean = mean.reshape(-1)
        self._axes: Tensor | None = None  # (r, d), orthonormal rows; None: the coordinate axes
        self._rest: Tensor | None = None  # variance of all directions off the axes; None: there are none
        if cov.ndim == 2:
            self._values, self._axes = spectrum("cov", cov)
        elif bool((cov < 0).any()):
            raise ValueError(f"cov: variances must not be negative, got {float(cov.min()):.3g}")
        else:
            self._values = cov.expand(d)

    @classmethod
    def low_rank(cls, mean: Any, factor: Any, floor: Any) -> Gaussian:
        """C = F Fᵀ + floor·I with F of shape (d, r). No d×d matrix is ever formed: cost and memory are O(d r)."""
        self = cls(mean, floor)
        factor = float64("factor", factor, ndim=(2,)).to(self._mean.device)
        d, r = factor.shape
        if d != len(self._mean) or r > d or float64("floor", floor).ndim:
            raise ValueError(
                f"factor: must have shape ({len(self._mean)}, r) with r <= d, floor (), got {tuple(factor.shape)}"
            )
        vectors, singular, _ = torch.linalg.svd(factor, full_matrices=False)
        self._axes, self._rest = vectors.mT.contiguous(), self._values[0]
        self._values = singular.square() + self._rest
        return self

    @classmethod
    def fit(cls, samples: Tensor, rank: int | None = None, floor: float = 1e-3) -> Gaussian:
        """With the mean and covariance of ``samples`` (N, *shape), ``floor`` added to every variance.

        ``rank`` r keeps the r largest directions and replaces the other variances by their mean. All directions (None)
        of N ≤ d samples are N − 1 and the floor, and no d×d matrix is formed.
        """
        rows = samples.to(torch.float64).flatten(1)
        n, d = rows.shape
        if n < 2:
            raise ValueError(f"data: a Gaussian needs at least 2 samples, got {n}")
        mean = rows.mean(0)
        centred = rows - mean
        shape = samples.shape[1:]
        if (rank is None or rank >= d) and n > d:
            cov = centred.mT @ centred / n + floor * torch.eye(d, dtype=torch.float64)
            return cls(mean.reshape(shape), cov)
        r = min(n if rank is None else rank, n - 1, d)
        values, axes = leading(centred, r)
        rest = values.new_zeros(())  # n samples have no variance off n − 1 directions
        if r < min(n - 1, d):
            rest = ((centred.square().sum() / n - values.sum()) / (d - r)).clamp(min=0)
        return cls.low_rank(mean.reshape(shape), axes.mT * (values - rest).clamp(min=0).sqrt(), rest + floor)

    @property
    def mean(self) -> Tensor:
        """μ, of shape (*shape)."""
        return self._mean.reshape(self.shape)

    @property
    def variances(self) -> Tensor:
        """The d eigenvalues of C, those of the floor included, in no particular order."""
        if self._rest is None:
            return self._values.clone()
        return torch.cat([self._values, self._rest.expand(len(self._mean) - len(self._values))])

    @property
    def diagonal(self) -> bool:
        """Whether C is diagonal as it was given, so that every element of x is on its own."""
        return self._axes is None

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (*shape) and covariance (d, d)."""
        eye = torch.eye(len(self._mean), dtype=torch.float64, device=self._mean.device)
        return self.mean, self._apply(eye, lambda v: v)

    def low_rank_moments(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """μ (*shape), F (r, d) and floor () with C = FᵀF + floor·I; None where the form is not low-rank, r = d."""
        if self._axes is None or self._rest is None:
            return None
        return self.mean, self._axes * (self._values - self._rest).clamp(min=0).sqrt()[:, None], self._rest

    def to(self, device: torch.device | str) -> Gaussian:
        """A copy on ``device``."""
        return moved(self, device)

    def _apply(self, z: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """U diag(gain(λ)) Uᵀ z for z (B, d), the directions off the axes included."""
        if self._axes is None:
            return gain(self._values) * z
        y = z @ self._axes.mT
        out = (gain(self._values) * y) @ self._axes
        # The remainder is a difference of vectors, not of squares, so it stays accurate for any floor.
        return out if self._rest is None else out + gain(self._rest) * (z - y @ self._axes)

    def __call__(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """The posterior mean E[x_0 | x]. ``label`` may only be None or −1: a Gaussian has no classes."""
        classes(label, len(x), ())
        rows = flat(x, self.shape)
        z = rows - self._mean
        s, _ = levels(sigma, z)
        out = self._apply(z, lambda v: v / (v + s.square()).clamp(min=TINY)) + self._mean
        return torch.where(s == 0, rows, out).reshape(x.shape).to(x.dtype)

    def denoise(self, x: Float[Tensor, "B *shape"], sigma: float) -> Float[Tensor, "B *shape"]:
        """D for a level above 0 that is a Python number: nothing is copied to the device or read back from it."""
        z = flat(x, self.shape) - self._mean
        out = self._apply(z, lambda v: v / (v + sigma**2)) + self._mean
        return out.reshape(x.shape).to(x.dtype)

    def score(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """∇_x log p(x; σ), computed without the cancellation of (D−x)/σ² at small σ."""
        classes(label, len(x), ())
        z = flat(x, self.shape) - self._mean
        s, low = levels(sigma, z)
        self._need_density(low)
        return self._apply(z, lambda v: -1 / (v + s.square())).reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Float[Tensor, "B *shape"], sigma: Sigmas = 0.0, label: Label = None) -> Float[Tensor, " B"]:
        """log p(x; σ) in nats, shape (B,). At σ = 0 the covariance must be positive definite."""
        classes(label, len(x), ())
        z = flat(x, self.shape) - self._mean
        s, low = levels(sigma, z)
        self._need_density(low)
        variance = self._values + s.square()
        y = z if self._axes is None else z @ self._axes.mT
        out = (y.square() / variance + variance.log()).sum(-1)
        if self._rest is not None:
            rest = (self._rest + s.square()).expand(*s.shape[:-1], 1)[..., 0]
            residual = (z - y @ self._axes).square().sum(-1)
            out = out + residual / rest + (len(self._mean) - len(self._values)) * rest.log()
        return -0.5 * (out + len(self._mean) * math.log(2 * math.pi))

    def flow(self, x: Tensor, sigma_from: Sigmas, sigma_to: Sigmas) -> Tensor:
        """Where the probability-flow ODE dx/dσ = (x−D)/σ carries x from σ = ``sigma_from`` to ``sigma_to``."""
        z = flat(x, self.shape) - self._mean
        s0, low = levels(sigma_from, z)
        s1, _ = levels(sigma_to, z)
        self._need_density(low)
        out = self._apply(z, lambda v: ((v + s1.square()) / (v + s0.square())).sqrt()) + self._mean
        return out.reshape(x.shape).to(x.dtype)

    def sample(self, n: int, seed: int = 0, sigma: float = 0.0, label: Label = None) -> Tensor:
        """``n`` exact draws of x_0 + σn, float64. The same seed gives the same draws on every device."""
        classes(label, count(n), ())
        z = torch.randn(n, len(self._mean), generator=generator(seed), dtype=torch.float64).to(self._mean.device)
        s, _ = levels(sigma, z)
        return (self._apply(z, lambda v: (v + s.square()).sqrt()) + self._mean).reshape(n, *self.shape)

    def _need_density(self, sigma: float) -> None:
        if sigma == 0 and float(self.variances.min()) <= 0:
            raise ValueError("sigma: this Gaussian has directions of zero variance, so its density needs sigma > 0")
