"""Dequantization and the bits/dim offset: from densities of real numbers to probabilities of whole ones.

A model of images with bytes b ∈ {0 … 255} is a density of real numbers. With any noise q(v | b) that stays within the
bin of b, half a grey level to either side, Jensen's inequality gives (Theis et al. 2016; Ho et al. 2019, section 3.1)

    ln P(b) = ln ∫_bin p(v) dv ≥ E_q ln p(v) + h(q),        h the entropy of q.

* ``uniform``: h = ln(bin) in each dimension. In the units of the network, x = (b − 127.5)/127.5, a bin is 1/127.5 wide,
  so that h is −log₂ 127.5 bits: −log₂ P ≤ −log₂ p + 6.9944 bits/dim. (With x = b/128 − 1 it would be 7.)
* ``truncated_normal``: σ_min times a normal that is cut at ±τ, τ = half a bin/σ_min (Zheng et al. 2023). It
  resembles the noise that the denoiser at σ_min expects of its input. With Z = erf(τ/√2), in each dimension

      h = ln σ_min + ½ ln(2πe) + ln Z − τ e^{−τ²/2}/(√(2π) Z).

Both centre the bin on the value that the network was trained on. :class:`Dequantized` carries x and h.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import choice, count, positive
from edm_unified.data import BYTES, Scaling
from edm_unified.sampling.streams import NoiseStreams, Purpose

DequantizationNoise = Literal["uniform", "truncated_normal"]


class Dequantized(NamedTuple):
    """Whole numbers spread over their bins."""

    x: Tensor
    """(B, *shape), float64, in the units of the network."""
    entropy: float
    """h(q) of one sample in nats, in those units."""

    def bits_per_dim(self, nats: Tensor) -> Tensor:
        """The bound on −log₂ P per dimension, from ln p(x) in nats: −(ln p + h)/(d ln 2)."""
        return -(nats + self.entropy) / (self.x[0].numel() * math.log(2))


def offset(scaling: Scaling = BYTES) -> float:
    """The bits/dim offset, log₂ scale (its mean, where each channel has its own): what uniform dequantization adds.

    With x = (b − shift)/scale, −log₂ P(b) ≤ −log₂ p(x) + ``offset(scaling)`` per dimension: 6.9944 for bytes in
    [−1, 1], where scale = 127.5.
    """
    return float(torch.as_tensor(scaling.scale, dtype=torch.float64).log2().mean())


def dequantize(
    raw: Tensor,
    noise: DequantizationNoise = "uniform",
    *,
    scaling: Scaling = BYTES,
    levels: int | None = 256,
    lowest: int = 0,
    sigma_min: float | None = None,
    seed: int = 0,
    first: int = 0,
) -> Dequantized:
    """``raw`` (B, *shape), whole numbers, as points of their bins in the units of the network.

    They are ``levels`` numbers from ``lowest`` on, or, with ``levels`` None, any. Row i is sample ``first + i`` of
    ``seed``, whatever the batch. ``sigma_min`` is that of the likelihood and belongs to ``truncated_normal``. Raises
    ``ValueError`` for numbers that are not whole or lie outside.
    """
    choice("noise", noise, ("uniform", "truncated_normal"))
    if levels is not None:
        count("levels", levels, least=2)
    whole = raw if not raw.is_floating_point() else raw.round()
    if raw.ndim < 2 or (raw.is_floating_point() and not bool((whole == raw).all())):
        raise ValueError(f"raw: must be whole numbers of shape (B, *shape), got {raw.dtype} of {tuple(raw.shape)}")
    low, high = (int(v) for v in torch.aminmax(whole))
    if levels is not None and not (lowest <= low and high < lowest + levels):
        wrong, most = low if low < lowest else high, lowest + levels - 1
        raise ValueError(f"raw: holds {wrong}, outside the declared range {lowest} to {most}")
    draw = NoiseStreams(seed, first, tuple(raw.shape), torch.float64, raw.device, purpose=Purpose.DEQUANTIZATION)
    u = torch.special.ndtr(draw())
    scale = torch.as_tensor(scaling.scale, dtype=torch.float64, device=raw.device).expand(raw.shape[1:])
    shift = torch.as_tensor(scaling.shift, dtype=torch.float64, device=raw.device)
    clean = (whole.double() - shift) / scale
    if noise == "uniform":
        return Dequantized(clean + (u - 0.5) / scale, -float(scale.log().sum()))
    if sigma_min is None:
        raise ValueError("sigma_min: truncated_normal needs that of the likelihood, e.g. sigma_min=0.002")
    positive("sigma_min", sigma_min)
    tau = 0.5 / (scale * sigma_min)
    Z = torch.special.erf(tau / math.sqrt(2))
    v = torch.special.ndtri(0.5 + (u - 0.5) * Z).clamp(-tau, tau)
    tail = tau * torch.exp(-0.5 * tau.square()) / (math.sqrt(2 * math.pi) * Z)
    h = math.log(sigma_min) + 0.5 * math.log(2 * math.pi * math.e) + Z.log() - tail
    return Dequantized(clean + sigma_min * v, float(h.sum()))
