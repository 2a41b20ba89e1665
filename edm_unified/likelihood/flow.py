"""The likelihood of the probability-flow ODE, by the instantaneous change of variables.

Along dx/du = x − D(x; σ), u = ln σ, which is the ODE of every schedule, the density of the flow changes by the
divergence (Chen et al. 2018, Theorem 1; Song et al. 2021, Eq. 39):

    d ln p(x(u); σ)/du = −div (x − D) = tr ∂D/∂x − d,

    ln p(x; σ_min) = ln π(x(u_max)) + ∫ (d − tr ∂D/∂x) du        from ln σ_min to ln σ_max.

**What it is a density of.** With the exact D and prior π this is ln p(x; σ_min): the data with noise of σ_min, at x.
That differs from the density of clean data by ½σ_min² Δp/p to leading order. With a network it is the density of what
an exact ODE solver would draw from π, stopped at σ_min.

**The integral** is smooth in ln σ: d − tr ∂D/∂x rises from 0, where the noise is far below the finest scale of the
data, to d, where it drowns them, so that equal Runge–Kutta steps do it. The trace is exact or of probes, fixed along
the path: then what is integrated is smooth as well, and the estimate is unbiased.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.denoisers.denoiser import Counted, Denoiser, InOwnType, check_range, estimate
from edm_unified.likelihood.path import ProgressCallback, integrate
from edm_unified.likelihood.prior import LogDensity, PriorWarning, check_levels, isotropic, prior_error, prior_warning
from edm_unified.likelihood.trace import Probe, Trace, estimator
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.dynamics import checked_anchor


class LogLikelihood(NamedTuple):
    """What :func:`log_likelihood` found, row by row."""

    nats: Float[Tensor, " B"]
    """ln p(x; σ_min), float64."""
    standard_error: Float[Tensor, " B"]
    """Of ``nats`` by the probes of the trace, in nats: 0 where the trace is exact, NaN with one probe."""
    latent: Float[Tensor, "B *shape"]
    """Where the flow carries x, at σ_max."""
    nfe: int
    """Evaluations of D, each of the whole batch."""
    prior_error: float | None
    """The mean error of the prior in nats per sample (:func:`~edm_unified.likelihood.prior_error`); that of a single
    sample has the standard deviation :func:`~edm_unified.likelihood.prior_spread` of it."""

    @property
    def dimensions(self) -> int:
        return self.latent[0].numel()

    @property
    def bits_per_dim(self) -> Float[Tensor, " B"]:
        """−log₂ p per dimension, of the density in the units of x. For bytes see :func:`dequantize`."""
        return -self.nats / (self.dimensions * math.log(2))


def log_likelihood(
    denoiser: Denoiser,
    x: Float[Tensor, "B *shape"],
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    steps: int = 64,
    tolerance: float | None = None,
    trace: Trace = "auto",
    probe: Probe = "rademacher",
    probes: int = 8,
    prior: LogDensity | None = None,
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float64,
    cond: Mapping[str, object] | None = None,
    anchor: Float[Tensor, "B *shape"] | None = None,
    callback: ProgressCallback | None = None,
) -> LogLikelihood:
    """ln p(x; σ_min) of the probability-flow ODE for each row of x (B, *shape), clean data in the units of D.

    ``steps`` Runge–Kutta steps, equal in ln σ, of four evaluations; or adaptive steps, each sample's own, to a
    ``tolerance``. ``trace``: ``exact`` (d backward passes for each evaluation), ``hutchinson`` (one for each of
    ``probes``), ``auto``: exact for a closed form, one that has ``log_prob``, up to 128 dimensions, and for any other
    D, such as a network, up to as many dimensions as there are probes, where it costs no more. ``prior``: its
    ``log_prob(x, sigma_max)`` ends the flow; None is N(0, σ_max² I). With an ``anchor`` y (B, *shape) it is that of
    x − y: a process anchored at y starts from N(y, σ_max² I). Row i has the probes of sample ``first + i`` of
    ``seed``, so that its value is the same in any batch, bit for bit where the rows of D are. There is no gradient in
    x.

    Raises ``ValueError`` for an x that asks for a gradient, for integers (see :func:`dequantize`), levels outside the
    range of D, and an exact trace in more than 1024 dimensions; ``FloatingPointError`` for NaN. Warns where the prior's
    error exceeds 0.01 bits/dim, on average or for single samples (three standard deviations).
    """
    _check(x, sigma_min, sigma_max)
    refuse_gradient("log_likelihood", x)
    check_range(denoiser, torch.tensor([sigma_min, sigma_max], dtype=torch.float64))
    counted, kwargs = Counted(InOwnType(denoiser)), dict(cond or {})
    shape, d = x.shape, x[0].numel()
    start = x.detach().to(dtype)
    closed, evaluations = hasattr(denoiser, "log_prob"), None if tolerance is not None else 4 * steps
    how = estimator(start, trace, probe, probes, closed, evaluations, seed, first)
    given, prior = prior is not None, isotropic(shape[1:]).to(x.device) if prior is None else prior
    y = None if anchor is None else checked_anchor(anchor, x).to(dtype)
    error = prior_error(x if y is None else x - y, prior, sigma_max)
    if (words := prior_warning(error, d, sigma_max)) is not None:
        remedy = "" if given else ", or give prior=likelihood.prior_of(images), with the mean and variance of the data"
        warnings.warn(words + remedy, PriorWarning, stacklevel=2)

    def rate(now: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            state = now[:, :d].reshape(shape).detach().requires_grad_(True)
            out = estimate(counted, state.clone(), sigma, kwargs)  # a leaf that is written into is torch's error
            if not out.requires_grad:
                raise ValueError("denoiser: its output carries no gradient, which the trace needs; drop torch.no_grad")
            traces = how.of(out, state)
        return torch.cat([(state - out).detach().flatten(1), d - traces.detach()], 1)

    path = torch.cat([start.flatten(1), start.new_zeros(len(x), how.probes)], 1)
    with torch.no_grad():
        path = integrate(rate, path, sigma_min, sigma_max, steps, tolerance, callback)
        latent, gained = path[:, :d].reshape(shape), path[:, d:].double()
        deviation = latent if y is None else latent - y
        # row by row, and sums in order: the last bit must not depend on the batch either
        at_top = torch.cat([prior.log_prob(row, sigma_max).double() for row in deviation.split(1)])
        gain = row_sum(gained) / how.probes
        nats = at_top + gain
    if not bool(torch.isfinite(nats).all()):
        bad = (~torch.isfinite(nats)).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"log_likelihood: not finite for {len(bad)} of {len(x)} samples, first for sample {bad[0]} of the batch;"
            " x or the output of the denoiser holds NaN, or the steps are too long: take more"
        )
    P = how.probes
    spread = row_sum((gained - gain[:, None]).square()) / (P * (P - 1)) if P > 1 else torch.full_like(nats, math.nan)
    return LogLikelihood(nats, torch.zeros_like(nats) if how.exact else spread.sqrt(), latent, counted.nfe, error)


def encode(
    denoiser: Denoiser,
    x: Float[Tensor, "B *shape"],
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    steps: int = 64,
    tolerance: float | None = None,
    dtype: torch.dtype = torch.float64,
    cond: Mapping[str, object] | None = None,
) -> Float[Tensor, "B *shape"]:
    """Where the flow carries x (at σ_min) at σ_max; divided by σ_max, it is the noise that gives x. No gradient."""
    _check(x, sigma_min, sigma_max)
    refuse_gradient("encode", x)
    return _carry(denoiser, x, sigma_min, sigma_max, steps, tolerance, dtype, cond)


def decode(
    denoiser: Denoiser,
    latent: Float[Tensor, "B *shape"],
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    steps: int = 64,
    tolerance: float | None = None,
    dtype: torch.dtype = torch.float64,
    cond: Mapping[str, object] | None = None,
) -> Float[Tensor, "B *shape"]:
    """The inverse of :func:`encode`, to the error of the steps: from σ_max down to σ_min, without a last fall to 0."""
    _check(latent, sigma_min, sigma_max)
    refuse_gradient("decode", latent)
    return _carry(denoiser, latent, sigma_max, sigma_min, steps, tolerance, dtype, cond)


def _carry(
    denoiser: Denoiser,
    x: Tensor,
    start: float,
    end: float,
    steps: int,
    tolerance: float | None,
    dtype: torch.dtype,
    cond: Mapping[str, object] | None,
) -> Tensor:
    check_range(denoiser, torch.tensor([start, end], dtype=torch.float64))
    kwargs, own = dict(cond or {}), InOwnType(denoiser)

    def rate(y: Tensor, sigma: Tensor) -> Tensor:
        return y - estimate(own, y.reshape(x.shape), sigma, kwargs).flatten(1)

    with torch.no_grad():
        return integrate(rate, x.to(dtype).flatten(1), start, end, steps, tolerance).reshape(x.shape)


def refuse_gradient(name: str, x: Tensor) -> None:
    """Raise ``ValueError`` where x asks for a gradient, which would otherwise come back without one and without a word.

    Along the path only the trace is differentiated. The score at a noise level, (D(x; σ) − x)/σ², is the gradient of
    ln p(x; σ) for an exact D, and costs one evaluation.
    """
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: gives no gradient in x; pass x.detach(), and for the gradient of ln p(x; sigma) take the score, "
            "(D(x, sigma) - x)/sigma**2"
        )


def _check(x: Tensor, sigma_min: float, sigma_max: float) -> None:
    check_levels(sigma_min, sigma_max)
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) < 1:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: must be a tensor (B, *shape) with B ≥ 1, got {got}")
    if not x.is_floating_point():
        raise ValueError(
            f"x: {x.dtype} holds whole numbers, which have no density; spread them with likelihood.dequantize"
        )
