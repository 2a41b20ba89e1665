"""The trace of the Jacobian ∂D/∂x, exactly or by probes.

Exactly, it takes d vector–Jacobian products of one evaluation. By probes v with E vvᵀ = I it is vᵀ(∂D/∂x)v on average
(Hutchinson 1990; Grathwohl et al. 2019, section 3.1), one product for each. Signs (Rademacher) have the variance
2 Σ_{i≠j} S_ij², normals 2 ‖S‖² with S the symmetric part of the Jacobian: signs are never worse. So a multiple of the
identity costs signs nothing: to take out c_skip I, whose trace is known, would help normals alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import choice, count
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.streams import NoiseStreams, Purpose

Trace = Literal["auto", "exact", "hutchinson"]
Probe = Literal["rademacher", "gaussian"]


class Estimator(NamedTuple):
    """How the trace is taken."""

    of: Callable[[Tensor, Tensor], Tensor]
    """Of out and x, both (B, *): the trace of ∂out/∂x by each probe, (B, P)."""
    probes: int
    """P, 1 where it is exact."""
    exact: bool


EXACT_BELOW = 128
"""Dimensions up to which ``auto`` is exact for a denoiser in closed form."""
MOST_DIMENSIONS = 1024
"""Dimensions up to which the exact trace may be asked for."""
_CHUNK = 2**22


def estimator(
    x: Tensor, trace: Trace, probe: Probe, probes: int, closed: bool, evaluations: int | None, seed: int, first: int
) -> Estimator:
    """How the trace is taken for the batch x (B, *). Probes are those of samples ``first`` … of ``seed``.

    ``closed``: the denoiser is a closed form, and its derivatives are cheap. ``evaluations``: of D, for the message
    that says what an exact trace would cost; None where it is not known.
    """
    choice("trace", trace, ("auto", "exact", "hutchinson"))
    choice("probe", probe, ("rademacher", "gaussian"))
    count("probes", probes, most=100_000)
    d = x[0].numel()
    if trace == "exact" and d > MOST_DIMENSIONS:
        times = "evaluation" if evaluations is None else f"of {evaluations:,} evaluations, {d * evaluations:,} in all"
        raise ValueError(
            f"trace: exact in {d:,} dimensions takes {d:,} backward passes for each {times}; "
            "use trace=hutchinson, which takes one for each probe and states its standard error"
        )
    if trace == "exact" or (trace == "auto" and d <= (EXACT_BELOW if closed else probes)):
        return Estimator(_exact, 1, True)
    draw = NoiseStreams(seed, first, x.shape, x.dtype, x.device, purpose=Purpose.TRACE)
    drawn = torch.stack([draw() for _ in range(probes)])  # (P, B, *), the same along the whole path
    v = torch.where(drawn < 0, -1.0, 1.0).to(x.dtype) if probe == "rademacher" else drawn

    def hutchinson(out: Tensor, x: Tensor) -> Tensor:
        parts = []
        for i, probe in enumerate(v):
            (product,) = torch.autograd.grad(out, x, probe, retain_graph=i + 1 < len(v))
            parts.append(row_sum(product * probe))
        return torch.stack(parts, 1)

    return Estimator(hutchinson, probes, False)


def _exact(out: Tensor, x: Tensor) -> Tensor:
    B, d = len(x), x[0].numel()
    chunk = max(1, _CHUNK // (B * d))
    parts = []
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    for start in range(0, d, chunk):
        rows = eye[start : start + chunk]
        vectors = rows.view(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
        last = start + chunk >= d
        (products,) = torch.autograd.grad(out, x, vectors, retain_graph=not last, is_grads_batched=True)
        parts.append(products.reshape(len(rows), B, d).diagonal(start, 0, 2))  # (B, chunk)
    return row_sum(torch.cat(parts, 1))[:, None]
