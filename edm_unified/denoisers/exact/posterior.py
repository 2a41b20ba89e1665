"""p(x_0 | x) of a Gaussian mixture: again a mixture, with its own weights and means for every row of x."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import generator
from .mixture_sums import Components


class Posterior:
    """Σ_k weights[b, k] N(x_0; means[b, k], covs[k]) for each row b.

    ``weights`` (B, K), ``means`` (B, K, *shape). ``covs`` = σ² C_k (C_k+σ²I)⁻¹ does not depend on x: (K, d) where
    diagonal, else (K, d, d), formed on request; with a leading B where σ differed by row. ``mean()`` is D(x; σ).
    """

    def __init__(
        self, weights: Tensor, means: Tensor, values: Tensor, axes: Tensor | None, rest: Tensor | None
    ) -> None:
        self.weights, self.means = weights, means
        self._values, self._axes, self._rest = values, axes, rest

    @property
    def covs(self) -> Tensor:
        """The covariances of the components."""
        return dense(self._values, self._axes, self._rest)

    def mean(self) -> Tensor:
        """E[x_0 | x], (B, *shape): the denoiser."""
        return torch.einsum("bk,bk...->b...", self.weights, self.means)

    def sample(self, seed: int = 0) -> Tensor:
        """One exact draw of x_0 for every row, (B, *shape), float64."""
        B, K = self.weights.shape
        means = self.means.reshape(B, K, -1)
        rng = generator(seed)
        k = torch.multinomial(self.weights.cpu(), 1, generator=rng).squeeze(1).to(means.device)
        z = torch.randn(B, means.shape[2], generator=rng, dtype=torch.float64).to(means.device)
        b = torch.arange(B, device=means.device)
        std = self._values.expand(B, K, -1)[b, k].sqrt()
        if self._axes is None:
            noise = std * z
        else:
            axes = self._axes[k]  # (B, r, d)
            y = torch.einsum("brd,bd->br", axes, z)
            noise = torch.einsum("brd,br->bd", axes, std * y)
            if self._rest is not None:
                rest = self._rest.expand(B, K)[b, k, None]
                noise = noise + rest.sqrt() * (z - torch.einsum("brd,br->bd", axes, y))
        return (means[b, k] + noise).reshape(B, *self.means.shape[2:])


def dense(values: Tensor, axes: Tensor | None, rest: Tensor | None) -> Tensor:
    """Covariance matrices (…, K, d, d) from variances (…, K, r) along orthonormal axes (K, r, d) and off them."""
    if axes is None:
        return values.clone()
    if rest is None:
        return axes.mT @ (values[..., None] * axes)
    eye = torch.eye(axes.shape[2], dtype=axes.dtype, device=axes.device)
    return axes.mT @ ((values - rest[..., None])[..., None] * axes) + rest[..., None, None] * eye


def posterior(c: Components, z: Tensor, t: Tensor, centre: Tensor, weights: Tensor, shape: torch.Size) -> Posterior:
    """The posterior at z (B, d), relative to the centre, with t = σ² of shape (1,) or (B, 1, 1)."""
    gain = c.values / (c.values + t)
    difference = z[:, None] - c.m
    rest = None
    if c.axes is None:
        means = gain * difference
    else:
        y = torch.einsum("bkd,krd->bkr", difference, c.axes)
        means = torch.einsum("bkr,krd->bkd", gain * y, c.axes)
        if c.rest is not None:
            gain_rest = c.rest / (c.rest + t[..., 0])
            rest = t[..., 0] * gain_rest
            off = difference - torch.einsum("bkr,krd->bkd", y, c.axes)
            means = means + gain_rest[..., None] * off
    means = (means + c.m + centre).reshape(len(z), len(c.m), *shape)
    return Posterior(weights, means, t * gain, c.axes, rest)
