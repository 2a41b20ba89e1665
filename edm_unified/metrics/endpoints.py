"""The error of single samples: their distance to the exact solution from the same noise."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from edm_unified.metrics._common import (
    DIVERGED,
    Estimate,
    estimate,
    finite,
    resample,
    rows,
)


class EndpointError(NamedTuple):
    """The median and the root mean square, over samples, of the distance to the reference."""

    median: Estimate
    rms: Estimate


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
