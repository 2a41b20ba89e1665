"""The last term of the variational bound, L_0 = −E ln p(x | z_1): from the lowest noise level to the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from edm_unified.data import Scaling
from edm_unified.denoisers.denoiser import Denoiser, estimate
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.streams import NoiseStreams

Decoder = Literal["gaussian", "discretized"]


def decoded(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    std: float,
    decoder: Decoder,
    scaling: Scaling,
    values: int,
    lowest: int,
    repeats: int,
    randn: NoiseStreams,
    cond: Mapping[str, object],
) -> Tensor:
    """L_0 for each row of x by each of ``repeats`` draws of z_1, which has noise of ``sigma``: (repeats, B), in nats.

    ``std`` is that of the discretized decoder.
    """
    if decoder == "gaussian":  # E ‖x − z_1‖² = d σ²: nothing is left to be drawn
        entropy = 0.5 * x[0].numel() * math.log(2 * math.pi * math.e * sigma * sigma)
        return torch.full((repeats, len(x)), entropy, dtype=torch.float64, device=x.device)
    scale = torch.as_tensor(scaling.scale, dtype=torch.float64, device=x.device)
    given = x.double() * scale + torch.as_tensor(scaling.shift, dtype=torch.float64, device=x.device)
    raw = given.round()
    if float((given - raw).abs().max()) > 0.01:  # float32 is within 1e-5
        raise ValueError("x: lies between the grey levels; the discretized decoder takes whole numbers as they are")
    highest = lowest + values - 1
    if not (float(raw.min()) >= lowest and float(raw.max()) <= highest):
        raise ValueError(f"x: lies outside the {values} grey levels that the decoder knows, {lowest} to {highest}")
    level = torch.tensor(sigma, dtype=torch.float64, device=x.device)
    out = []
    for _ in range(repeats):
        away = x.double() - estimate(denoiser, x + sigma * randn(), level, cond).double()
        above = torch.where(raw == highest, math.inf, (away + 0.5 / scale) / std)
        below = torch.where(raw == lowest, -math.inf, (away - 0.5 / scale) / std)
        out.append(-row_sum(_log_between(below, above)))
    return torch.stack(out)


def _log_between(a: Tensor, b: Tensor) -> Tensor:
    """ln(Φ(b) − Φ(a)) for a < b, without cancellation in either tail."""
    swap = a + b > 0  # the other tail is its mirror image
    a, b = torch.where(swap, -b, a), torch.where(swap, -a, b)
    log_b, log_a = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    return log_b + torch.log1p(-torch.exp((log_a - log_b).clamp(max=-1e-300)))
