"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv 2312.02696, config G and Appendix B).

Every layer keeps the expected magnitude of what flows through it, √(E x²) over all elements, at one, so that no
normalization layer has to mend it and no activation or weight drifts in a long training:

* a learned layer divides by the norm of its weights: y = W x / ‖W‖, row by row (:class:`MPConv`);
* after each step of the optimizer the weights themselves are put back on the sphere ‖w‖ = √(fan-in)
  (:func:`normalize_weights`), so that the effective learning rate is what the schedule says and nothing else;
* sums, concatenations and the nonlinearity are divided by what they would add (:func:`mp_sum`, :func:`mp_cat`,
  :func:`mp_silu`); there are no biases and no group norm, and a channel of ones at the input stands for the biases;
* attention compares directions (cosine attention); strength is left to a few learned scalar gains, zero at the start.

Written from the formulas of the paper, and compared with the authors' code (NVlabs/edm2) on the same weights.
"""

from edm_unified.networks.edm2.layers import (
    CosineAttention,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize_weights,
    pixel_norm,
)
from edm_unified.networks.edm2.unet import EDM2, EDM2Network

__all__ = [
    "EDM2",
    "CosineAttention",
    "EDM2Network",
    "MPConv",
    "MPFourier",
    "mp_cat",
    "mp_silu",
    "mp_sum",
    "normalize_weights",
    "pixel_norm",
]
