"""Learned uncertainty: the loss at each noise level is divided by its own learned size (Karras et al. 2024, section 2).

    E [ λ(σ) ‖D − x_0‖²/e^{u(σ)} + u(σ) ]

is least, over u, where e^u is the expected λ ‖D − x_0‖² at σ: every level then contributes a gradient of the same
size, whatever λ was. u is a function of σ alone, learnt along with the network, thrown away after the training, and no
part of D. This is the Gaussian negative log-likelihood of a network that predicts its own variance (Kendall et al.
2018), up to a constant, with one level as one task.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edm_unified.components.component import component
from edm_unified.components.constraints import Count


@component
class LearnedUncertainty:
    """u(σ) = w · √2 cos(2π (f ln(σ)/4 + φ))/√channels, with random f ~ N(0, 1), φ ~ U(0, 1), and w learnt from 0.

    One linear layer on ``channels`` Fourier features of c_noise, as in Karras et al. 2024. It starts as u = 0, the loss
    without it; in the authors' code (NVlabs/edm2, ``Precond``) w is random at first and divided by its own magnitude.
    """

    channels: Count = 128
    kind: Literal["learned"] = "learned"
    formulas: ClassVar[dict[str, str]] = {"loss": "λ ‖D − x_0‖²/e^u + u"}

    def build(self) -> Uncertainty:
        """The module that learns u, its features drawn from torch's generator."""
        return Uncertainty(self.channels)


AnyUncertainty = LearnedUncertainty


class Uncertainty(nn.Module):
    """σ (B,) ↦ u (B,)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, sigma: Tensor) -> Tensor:
        c_noise = (sigma.log() / 4).to(self.weight, non_blocking=True)
        features = math.sqrt(2) * torch.cos(c_noise[:, None] * self.frequencies + self.phases)
        # no matrix product, which autocast would take to half precision
        return (features * self.weight).sum(1) / math.sqrt(len(self.weight))
