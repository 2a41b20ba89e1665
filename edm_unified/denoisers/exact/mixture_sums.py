"""Sums over the components of a Gaussian mixture: log-densities and posterior means, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import TINY

Gain = Callable[[Tensor, Tensor], Tensor]
"""h(λ, σ²): what to multiply a direction of variance λ by. Denoiser: λ/(λ+σ²). Score: −1/(λ+σ²)."""

ROUNDING = 1e-11
"""Quadratic forms are expanded into products only where the rounding of their logits stays below this."""


class Components(NamedTuple):
    """K components about a common centre: C_k = Σ_j λ_kj a_kj a_kjᵀ + f_k (what is off the axes)."""

    log_weights: Tensor  # (K,)
    m: Tensor  # (K, d): means − centre
    values: Tensor  # (K, r): λ
    axes: Tensor | None  # (K, r, d): orthonormal rows a_kj; None: the coordinate axes, r = d
    rest: Tensor | None  # (K,): f; None: nothing is off the axes

    def to(self, device: torch.device | str) -> Components:
        """A copy on ``device``."""
        axes = None if self.axes is None else self.axes.to(device)
        rest = None if self.rest is None else self.rest.to(device)
        return Components(self.log_weights.to(device), self.m.to(device), self.values.to(device), axes, rest)

    def part(self, k: slice | Tensor) -> Components:
        """Some of the components."""
        axes = None if self.axes is None else self.axes[k]
        rest = None if self.rest is None else self.rest[k]
        return Components(self.log_weights[k], self.m[k], self.values[k], axes, rest)


def reduce(
    c: Components, z: Tensor, t: Tensor, gain: Gain | None, base: float, expand: bool, chunk_bytes: int
) -> tuple[Tensor, Tensor | None]:
    """log Σ_k p_k(z) (B,), and Σ_k r_k [base·m_k + H_k (z−m_k)] (B, d) where H_k has the eigenvalues gain(λ_k).

    ``z`` (B, d) about the centre, ``t`` = σ² of shape () or (B, 1). Chunks of components are joined by an online
    softmax: running maximum, sum and weighted sum, the latter two relative to the maximum.
    """
    out_log, out_sum = [], []
    for rows, parts in chunks(c, z, t, chunk_bytes):
        zb, tb = z[rows], t if t.ndim == 0 else t[rows]
        top = zb.new_full((len(zb),), -1e300)  # finite, so that exp(−inf − top) is 0 and never NaN
        total = zb.new_zeros(len(zb))
        mean = torch.zeros_like(zb)
        for k in parts:
            logits, weigh = _chunk(c.part(k), zb, tb, gain, base, expand)
            higher = torch.maximum(top, logits.detach().amax(1))
            fade, r = (top - higher).exp(), (logits - higher[:, None]).exp()
            total = total * fade + r.sum(1)
            if gain is not None:
                mean = mean * fade[:, None] + weigh(r)
            top = higher
        out_log.append(top + total.log())
        out_sum.append(mean / total[:, None])
    if not out_log:
        return z.new_zeros(0), z
    return torch.cat(out_log), torch.cat(out_sum) if gain is not None else None


def chunks(c: Components, z: Tensor, t: Tensor, chunk_bytes: int) -> Iterator[tuple[slice, list[slice]]]:
    """Rows and, for each, slices of components, so that (rows, components, r) and (components, r, d) fit."""
    (B, d), (K, r) = z.shape, c.values.shape
    room = max(1, chunk_bytes // (8 * max(r, 1)))  # how many (row, component) pairs
    if c.axes is not None:
        K = min(K, max(1, room // d))
    K = max(1, min(K, room // max(1, min(B, 512))))
    b = max(1, room // K)
    parts = [slice(i, i + K) for i in range(0, len(c.m), K)]
    for i in range(0, B, b):
        yield slice(i, i + b), parts


def logits(c: Components, z: Tensor, t: Tensor, expand: bool, chunk_bytes: int) -> Tensor:
    """log w_k + log N(z; m_k, C_k + t I), (B, K): all of it in memory."""
    out = [
        torch.cat([_chunk(c.part(k), z[rows], t if t.ndim == 0 else t[rows], None, 0.0, expand)[0] for k in parts], 1)
        for rows, parts in chunks(c, z, t, chunk_bytes)
    ]
    return torch.cat(out) if out else z.new_zeros(0, len(c.m))


def _chunk(
    c: Components, z: Tensor, t: Tensor, gain: Gain | None, base: float, expand: bool
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The logits (B, K) and a function r (B, K) ↦ Σ_k r_k [base·m_k + H_k (z−m_k)]."""
    if c.axes is None:
        return (_diagonal_products if expand and t.ndim == 0 else _diagonal)(c, z, t, gain, base)
    return _axes(c, c.axes, z, t, gain, base)


def _log_norm(c: Components, v: Tensor, rest: Tensor | None) -> Tensor:
    """log w_k − ½ log det 2π(C_k+t) from the shifted variances v (…, K, r) and rest (…, K)."""
    d = c.m.shape[1]
    log_det = v.log().sum(-1)
    if rest is not None:
        log_det = log_det + (d - v.shape[-1]) * rest.log()
    return c.log_weights - 0.5 * (log_det + d * math.log(2 * math.pi))


def _axes(
    c: Components, axes: Tensor, z: Tensor, t: Tensor, gain: Gain | None, base: float
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Full (rest None) and low-rank covariances: one product projects on all axes, another sums all components.

    The scale of each projection is folded into the K·r axes where all rows share σ, which is cheaper than B·K·r.
    """
    K, r, d = axes.shape
    shared = t.ndim == 0
    tk = t if shared else t[:, :, None]
    v = (c.values + tk).clamp(min=TINY)
    if c.rest is None:
        rest, scale = None, v.rsqrt()
    else:
        rest = c.rest + t
        # (C+t)⁻¹ = 1/(f+t) − Σ_j scale² a aᵀ, because 1/(f+t) − 1/(λ+t) = (λ−f)/((λ+t)(f+t))
        scale = ((c.values - c.rest[:, None]) / (v * rest[..., None])).clamp(min=0).sqrt()
    centres = (axes @ c.m[..., None]).squeeze(-1)  # a·m, so that y = a·z − a·m
    if shared:
        into = (axes * scale[..., None]).reshape(K * r, d)
        y = torch.addmm(-(scale * centres).reshape(-1), z, into.mT).reshape(-1, K, r)
    else:
        y = torch.addmm(-centres.reshape(-1), z, axes.reshape(K * r, d).mT).reshape(-1, K, r) * scale
    quadratic = y.square().sum(-1) if y.requires_grad else torch.linalg.vector_norm(y, dim=-1).square()
    if rest is not None:
        distance = z.square().sum(1, keepdim=True) - 2 * (z @ c.m.mT) + c.m.square().sum(1)
        quadratic = distance / rest - quadratic

    def weigh(p: Tensor) -> Tensor:
        assert gain is not None
        h = gain(c.values, tk)
        h_rest = torch.zeros_like(h[..., :1]) if c.rest is None else gain(c.rest[:, None], tk)
        g = (h - h_rest) / scale.clamp(min=TINY)
        if shared:
            coefficient, out_of = p[..., None], (axes * g[..., None]).reshape(K * r, d)
        else:
            coefficient, out_of = p[..., None] * g, axes.reshape(K * r, d)
        # In place only where nothing will be differentiated: it spares a (B, K, r) array.
        weighted = y * coefficient if y.requires_grad or p.requires_grad else y.mul_(coefficient)
        out = weighted.reshape(len(z), K * r) @ out_of
        h_rest = h_rest[..., 0]
        return out + (p * (base - h_rest)) @ c.m + (p * h_rest).sum(1, keepdim=True) * z

    return _log_norm(c, v, rest) - 0.5 * quadratic, weigh


def _diagonal(
    c: Components, z: Tensor, t: Tensor, gain: Gain | None, base: float
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Diagonal covariances by differences: (B, K, d) arrays, accurate at any σ."""
    tk = t if t.ndim == 0 else t[:, :, None]
    v = (c.values + tk).clamp(min=TINY)
    difference = z[:, None] - c.m

    def weigh(p: Tensor) -> Tensor:
        assert gain is not None
        return torch.einsum("bk,bkd->bd", p, gain(c.values, tk) * difference) + base * (p @ c.m)

    return _log_norm(c, v, None) - 0.5 * (difference.square() / v).sum(-1), weigh


def _diagonal_products(
    c: Components, z: Tensor, t: Tensor, gain: Gain | None, base: float
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Diagonal covariances by matrix products of (B, d) with (d, K): no (B, K, d) array."""
    v = c.values + t
    scaled = c.m / v
    quadratic = z.square() @ (1 / v).mT - 2 * (z @ scaled.mT) + (scaled * c.m).sum(1)

    def weigh(p: Tensor) -> Tensor:
        assert gain is not None
        h = gain(c.values, t)
        return p @ ((base - h) * c.m) + (p @ h) * z

    return _log_norm(c, v, None) - 0.5 * quadratic, weigh
