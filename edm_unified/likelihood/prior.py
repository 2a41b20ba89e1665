"""The prior: a Gaussian in the place of p(x; σ_max), the density at the end of the flow, which is not known.

``isotropic(shape)`` is N(0, σ_max² I), the usual choice. ``prior_of(images)`` is N(μ, (σ_max² + v) I) with the mean
image and the mean variance of the data: the same two moments as p(x; σ_max) has on average. What either choice costs
is the relative entropy between two nearly equal Gaussians. For data of mean m and covariance C, to leading order in
1/σ_max,

    KL( p(·; σ_max) ‖ N(μ, (σ_max²+v) I) ) = ‖m − μ‖²/(2σ_max²) + ‖C − vI‖²/(4σ_max⁴)        nats per sample,

which is :func:`prior_error`, with m and C those of the samples that it is given. That is the mean over the data. For a
single sample the error is (m − μ)·n/σ_max + nᵀ(C − vI)n/(2σ_max²) to leading order, n unit normal, less its mean, and
has the standard deviation :func:`prior_spread`,

    √( ‖m − μ‖²/σ_max² + ‖C − vI‖²/(2σ_max⁴) ) = √(2 KL),

which is much more than KL where KL is small: 0.18 nats where the mean is 0.016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import falling
from edm_unified.data.kept import Moments, moments
from edm_unified.denoisers import exact


class LogDensity(Protocol):
    """Anything with the log-density of noisy samples: every denoiser in :mod:`edm_unified.denoisers.exact`."""

    def log_prob(self, x: Tensor, sigma: float) -> Tensor: ...


LEAST_SIGMA, MOST_SIGMA = 1e-8, 1e8
"""Noise levels beyond which float64 has no digits left for what is computed here."""


def check_levels(sigma_min: float, sigma_max: float) -> None:
    """Raise ``ValueError`` unless 1e-8 ≤ sigma_min < sigma_max ≤ 1e8."""
    falling("sigma_min", sigma_min, "sigma_max", sigma_max)
    if sigma_min < LEAST_SIGMA:
        raise ValueError(f"sigma_min: must be at least {LEAST_SIGMA:g}, got {sigma_min:g}; 0.002 is usual for images")
    if sigma_max > MOST_SIGMA:
        raise ValueError(f"sigma_max: must be at most {MOST_SIGMA:g}, got {sigma_max:g}; 80 is usual for images")


def isotropic(shape: Sequence[int], mean: Tensor | float = 0.0, variance: float = 0.0) -> exact.Gaussian:
    """N(mean, variance · I) for samples of ``shape``; at σ its density is N(mean, (σ² + variance) I)."""
    centre = torch.as_tensor(mean, dtype=torch.float64).expand(tuple(shape)).contiguous()
    return exact.Gaussian(centre, variance)


def prior_of(images: Tensor | Moments) -> exact.Gaussian:
    """N(μ, v I) with the mean of ``images`` (N, *shape) and the mean of the variances of their entries."""
    if isinstance(images, Moments):
        return isotropic(tuple(images.mean.shape), images.mean, images.variance)
    rows = images.to(torch.float64)
    mean = rows.mean(0)
    return isotropic(tuple(images.shape[1:]), mean, float((rows - mean).square().mean()))


def gaussian_of(found: Moments, floor: float = 1e-3) -> exact.Gaussian:
    """N(μ, C + ``floor`` I) of the moments of data; :func:`prior_of` them where there are too many dimensions for C."""
    if found.covariance is None:
        return prior_of(found)
    C = found.covariance * ((found.samples - 1) / found.samples)
    return exact.Gaussian(found.mean, C + floor * torch.eye(len(C), dtype=torch.float64))


NOTABLE_BITS = 0.01
"""Bits/dim of the prior's error from which it is worth a warning."""
FAR = 3.0
"""Standard deviations at which a single sample is told to be: of a hundred samples none or one is farther off."""


class PriorWarning(UserWarning):
    """A warning that the prior differs from the density at σ_max by more than is negligible."""


def prior_spread(error: float) -> float:
    """√(2 KL): the standard deviation over single samples, in nats, of an error whose mean is ``error``."""
    return math.sqrt(2 * error)


def prior_sizes(error: float, dimensions: int) -> tuple[float, float]:
    """Bits/dim of an ``error``: on average, and of a single sample three standard deviations off."""
    mean, single = (nats / (dimensions * math.log(2)) for nats in (error, FAR * prior_spread(error)))
    return mean, single


def prior_warning(error: float | None, dimensions: int, sigma_max: float) -> str | None:
    """A sentence with the size of an ``error`` (:func:`prior_error`), on average and for a single sample far off.

    None where both are at most 0.01 bits/dim, or not known.
    """
    if error is None or not error >= 0:  # NaN is told of elsewhere
        return None
    mean, single = prior_sizes(error, dimensions)
    if not max(mean, single) > NOTABLE_BITS:
        return None
    return (
        f"sigma_max: {sigma_max:g} is low for this prior, whose error is about {mean:.2g} bits/dim on average and up "
        f"to {single:.2g} for single samples; raise it"
    )


def prior_error(x: Tensor | Moments, prior: Any, sigma_max: float) -> float | None:
    """The mean error that ``prior`` makes at ``sigma_max``, in nats per sample; None where it is not known.

    Of single samples it is :func:`prior_spread` of this.

    By the formula of the module docstring, with the moments of the distribution that ``x`` (B, *shape) are a sample of,
    or with the moments themselves: what few samples add to ‖m − μ‖² and ‖C‖² by chance is taken off, as it is for
    Gaussian data. Fewer than three have no answer, and only isotropic Gaussians have one.
    """
    if not isinstance(prior, exact.Gaussian) or not prior.diagonal:
        return None
    variances = prior.variances
    v = float(variances[0])
    if bool((variances != v).any()):
        return None
    if not isinstance(x, Moments):
        if not bool(torch.isfinite(x).all()):
            return math.nan
        x = moments(x)
    n, d = x.samples, x.mean.numel()
    if n < 3:
        return None
    trace = x.variance * d * n / (n - 1)  # without the bias of the mean of few samples
    frobenius = x.squared - 2 * v * trace + d * v * v
    shift = float((x.mean - prior.mean.to("cpu")).square().sum()) - trace / n
    return max(shift, 0.0) / (2 * sigma_max**2) + max(frobenius, 0.0) / (4 * sigma_max**4)
