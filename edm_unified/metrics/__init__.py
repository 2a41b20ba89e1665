"""Metrics: distances between samples and data, as pure functions of tensors (N, *shape) that give an ``Estimate``.

An ``Estimate`` is a value with a 95 % percentile bootstrap interval over the *samples* x; the reference set is held
fixed, because methods are compared against the same one. Rows are resampled 1000 times (400 for the energy distance)
with a seed. A plain bootstrap of a Wasserstein or Fréchet distance is biased upwards, since repeated rows are
themselves a departure from the data; those two therefore resample the rows' *influence*, the derivative of the value
with respect to the weight of each row, which is also much cheaper. The interval covers the noise of finitely many
samples, not the bias of finitely many samples that is stated with each metric: compare equal N only.

``Features`` maps samples to what a small classifier sees in them, for ``frechet``, ``precision`` and ``recall``.

Samples with NaN or inf anywhere, or so large that the value overflows, give ``Estimate(None, None, None)``: diverged.
"""

from edm_unified.metrics._common import DIVERGED, Estimate
from edm_unified.metrics.density_gap import Density, fresh_log_density, log_density_gap
from edm_unified.metrics.endpoints import EndpointError, endpoint_error
from edm_unified.metrics.energy import energy_distance, mean_distance
from edm_unified.metrics.features import Features
from edm_unified.metrics.frechet_distance import LowRank, frechet
from edm_unified.metrics.manifolds import K, precision, recall
from edm_unified.metrics.sliced import sliced_wasserstein
from edm_unified.metrics.speech import si_sdr

MEASURES = {
    "error_median": endpoint_error,
    "error_rms": endpoint_error,
    "sliced_wasserstein": sliced_wasserstein,
    "energy_distance": energy_distance,
    "frechet": frechet,
    "frechet_features": Features,
    "precision": precision,
    "recall": recall,
    "log_density_gap": log_density_gap,
}
"""The metrics that a comparison can name, and where each is explained."""

__all__ = [
    "DIVERGED",
    "MEASURES",
    "Density",
    "EndpointError",
    "Estimate",
    "Features",
    "K",
    "LowRank",
    "endpoint_error",
    "energy_distance",
    "frechet",
    "fresh_log_density",
    "log_density_gap",
    "mean_distance",
    "precision",
    "recall",
    "si_sdr",
    "sliced_wasserstein",
]
