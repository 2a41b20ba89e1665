"""Embeddings: noise level, class and augmentation as vectors.

A scalar c is written as (sin ω_i c, cos ω_i c), i = 1 … n/2:

* :class:`Positional`: ω_i = 10000^{−i/m}, from 1 down (Vaswani et al. 2017; Ho et al. 2020), made for step counts
  0 … 999 but also used by EDM for ln(σ)/4, in which only the first few ω_i tell levels apart;
* :class:`Fourier`: ω_i = 2π · scale · N(0, 1), drawn once and kept (Tancik et al. 2020; Song et al. 2021).

Angles are computed in float32 or better whatever the dtype of the network: 999 does not exist in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Positional(nn.Module):
    """(B,) → (B, channels): sines, then cosines, of noise · scale · 10000^{−i/m}, i = 0 … channels/2 − 1.

    ``endpoint``: m = channels/2 − 1, so that the last frequency is 1/10000 itself (Ho et al. 2020); without, m =
    channels/2 (Dhariwal & Nichol 2021).
    """

    def __init__(self, channels: int, scale: float = 1.0, endpoint: bool = False) -> None:
        super().__init__()
        self.channels, self.scale, self.endpoint = channels, scale, endpoint

    def forward(self, noise: Tensor) -> Tensor:
        half = self.channels // 2
        dtype = torch.promote_types(noise.dtype, torch.float32)
        # computed at each call: a buffer would be rounded with the weights by network.bfloat16()
        powers = torch.arange(half, dtype=dtype, device=noise.device) / max(half - self.endpoint, 1)
        angles = noise[:, None] * (self.scale * torch.exp(-math.log(1e4) * powers))
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Fourier(nn.Module):
    """(B,) or (B, d) → (B, channels): sines, then cosines, of 2π scale · W x with W ~ N(0, 1), not trained.

    W is part of the state, and stays float32 when the network is cast: rounded to bfloat16, 2π scale W c would be off
    by as much as 0.2 for a scale of 16.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 16.0, inputs: int = 1) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels // 2, inputs) * (2 * math.pi * scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Fourier:
        exact = self.frequencies
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.frequencies.dtype != exact.dtype:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        columns = x[:, None] if x.ndim == 1 else x
        dtype = torch.promote_types(columns.dtype, torch.float32)
        # a sum and not a matrix product, which autocast would compute in half precision
        angles = (columns.to(dtype)[:, None] * self.frequencies.to(dtype)).sum(dim=2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def class_rows(table: Tensor, label: Tensor) -> Tensor:
    """Rows of ``table`` (classes, channels): Σ_c w_c T_c of weights ``label`` (B, classes), as a linear layer gives of
    a vector that is one-hot or has several ones; T_c of indices (B,), with zero for −1. (B, channels).
    """
    if label.ndim == 2:
        return label.to(table.dtype) @ table
    return functional.embedding(label.clamp(min=0), table) * (label != -1)[:, None].to(table.dtype)


class ClassEmbedding(nn.Module):
    """(B,) indices → (B, channels): a learnt vector, N(0, 1) at first, for each class, and zero for −1 (no class).

    Of several classes it is the sum of their vectors.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, channels)

    def forward(self, label: Tensor) -> Tensor:
        return class_rows(self.table.weight, label)


class ClassLinear(nn.Module):
    """(B,) indices → (B, channels): √k W e_c + b for class c of k = ``classes``, and b for −1 (no class).

    Several classes are several ones in the place of e_c. The linear layer on a one-hot vector of magnitude one that
    EDM's DDPM++ and NCSN++ have (NVlabs/edm, ``SongUNet``).
    W is uniform with variance 2/(k + channels) and b zero at first. Under Adam a class moves √k times as far in a step
    as a vector of :class:`ClassEmbedding` would.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, channels)
        nn.init.xavier_uniform_(self.table.weight)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, label: Tensor) -> Tensor:
        return math.sqrt(self.table.num_embeddings) * class_rows(self.table.weight, label) + self.bias
