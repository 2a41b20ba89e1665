"""Likelihoods of data under a denoiser: the density of the ODE, a variational bound, and bits/dim of bytes.

Two estimates of −log p(x) that share nothing but D:

* :func:`log_likelihood` follows the probability-flow ODE up to σ_max and adds up its divergence (:mod:`.flow`);
* :func:`variational_bound` adds up the denoising error over the noise levels (:mod:`.bound`), without a gradient.

With the exact D the first is ln p(x; σ_min), the density of the data *with noise of σ_min*, at x; the second is an
upper bound on −ln p that tends to the same number as σ_min → 0. With a trained D they are different models of the data:
the ODE's and the SDE's.

Densities of real numbers become probabilities of bytes by :func:`dequantize`.
"""

from __future__ import annotations

from edm_unified.likelihood.bound import Bound, variational_bound
from edm_unified.likelihood.dequantize import Dequantized, dequantize, offset
from edm_unified.likelihood.flow import LogLikelihood, decode, encode, log_likelihood
from edm_unified.likelihood.prior import LogDensity, PriorWarning, isotropic, prior_error, prior_of, prior_spread

__all__ = [
    "Bound",
    "Dequantized",
    "LogDensity",
    "LogLikelihood",
    "PriorWarning",
    "decode",
    "dequantize",
    "encode",
    "isotropic",
    "log_likelihood",
    "offset",
    "prior_error",
    "prior_of",
    "prior_spread",
    "variational_bound",
]
