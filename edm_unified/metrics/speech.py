"""How close an estimate of a sound is to it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def si_sdr(
    estimate: Float[Tensor, "*batch N"], target: Float[Tensor, "*batch N"], zero_mean: bool = False
) -> Float[Tensor, "*batch"]:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, Eq. 5): 10 log₁₀ ‖αs‖²/‖αs − ŝ‖².

    α = ⟨ŝ, s⟩/‖s‖², so that the loudness of the estimate does not count. ``zero_mean`` takes the mean off both before,
    which is called SI-SNR elsewhere: a constant is inaudible, but part of the distortion without it. float64, (*batch).
    Infinite for an estimate that is the target but for its scale. Raises ``ValueError`` where the target is silent, for
    which there is no scale, and for shapes that differ.
    """
    if estimate.shape != target.shape or target.ndim < 1:
        raise ValueError(
            f"estimate: must have the shape of the target, {tuple(target.shape)}, got {tuple(estimate.shape)}"
        )
    s, e = target.double(), estimate.double()
    if zero_mean:
        s, e = s - s.mean(-1, keepdim=True), e - e.mean(-1, keepdim=True)
    energy = s.square().sum(-1, keepdim=True)
    if not bool((energy > 0).all()):
        raise ValueError("target: is silent, so that nothing can be compared with it; leave it out")
    scaled = (e * s).sum(-1, keepdim=True) / energy * s
    return 10 * torch.log10(scaled.square().sum(-1) / (scaled - e).square().sum(-1))
