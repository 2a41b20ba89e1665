"""Whether the noise levels of a recipe suit the data: what is said before training and before sampling.

Four things are compared with the moments of the data, each by a computation and not by the name of a method.

* **sigma_data** of the preconditioning, where it has one, and the standard deviation of the data: more than a factor
  ``SIGMA_DATA_FACTOR`` apart, and the network's input and target have not the unit variance that it is there for.
* **The levels of training**: the share of p(σ) between σ_data/30 and 3 σ_data, which has all that can be learnt between
  D = x below and D = the mean above. Less than ``LEAST_SHARE``, and training looks elsewhere.
* **Where the walk begins**: at N(0, σ_0² I) in the place of N(m, σ_0² + σ_data²). The flow of that Gaussian ends with a
  standard deviation of σ_data σ_0/√(σ_0² + σ_data²), and with its mean |m|/√(σ_0² + σ_data²) of it off. Where either is
  more than ``SPREAD_OFF`` off, it is with the best of networks.
* **The spread of what comes out**: a walk of up to ``MOST_LEVELS`` levels is run on N(m, σ_data²), whose D is a formula
  and linear. Where the standard deviation of its ends is more than ``SPREAD_OFF`` off, the steps are too few.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from edm_unified.data import Dataset
from edm_unified.data.kept import Moments, measure
from edm_unified.data.survey import zeros_and_ones
from edm_unified.denoisers import exact
from edm_unified.recipe.tree import Recipe
from edm_unified.training.objective import Objective

SIGMA_DATA_FACTOR = 2.0
LEAST_SHARE = 0.2
SPREAD_OFF = 0.2
MOST_LEVELS = 250
"""Longer walks are not run: their steps are many, and only where they begin is looked at."""
_DRAWS = 512


def notes_on_training(recipe: Recipe, dataset: Dataset) -> list[str]:
    """A sentence for each part of the training, and of the sampler, that does not suit the data."""
    moments = _moments(dataset)
    if moments is None:
        return []
    found = [
        zeros_and_ones(dataset, float(dataset.scaling.to_unit(measure(dataset).some).max())),
        _sigma_data(recipe.preconditioning, moments),
        _share(recipe.objective, recipe.schedule, moments),
    ]
    return [note for note in found if note is not None] + notes_on_sampling(recipe, dataset)


def notes_on_sampling(recipe: Recipe, dataset: Dataset) -> list[str]:
    """A sentence where the best of denoisers would not give samples of the spread of the data."""
    moments = _moments(dataset)
    if moments is None:
        return []
    note = _spread(recipe, moments)
    return [] if note is None else [note]


def _moments(dataset: Dataset) -> Moments | None:
    """None of no samples, or of one number alone, to which nothing could be unsuitable."""
    found = measure(dataset).moments if len(dataset) else None
    return None if found is None or not found.sigma_data > 0 else found


def _sigma_data(preconditioning: Any, moments: Moments) -> str | None:
    stated, measured = getattr(preconditioning, "sigma_data", None), moments.sigma_data
    if stated is None or 1 / SIGMA_DATA_FACTOR <= stated / measured <= SIGMA_DATA_FACTOR:
        return None
    return (
        f"preconditioning.sigma_data is {stated:g}, and the standard deviation of the data is {measured:.3g}; set it "
        "to that, or standardise the data; `edm-unified data` suggests levels"
    )


def _share(objective: Objective | None, schedule: Any, moments: Moments) -> str | None:
    if objective is None or objective.noise.kind == "one_level":
        return None
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    sigma, std = objective.noise.quantile(u, schedule), moments.sigma_data
    share = float(((sigma > std / 30) & (sigma < 3 * std)).double().mean())
    if share >= LEAST_SHARE:
        return None
    low, high = float(sigma[50]), float(sigma[949])
    return (
        f"objective.noise: {share:.0%} of training falls between sigma = {std / 30:.3g} and {3 * std:.3g}, where data "
        f"of standard deviation {std:.3g} can be learnt (nine tenths fall between {low:.3g} and {high:.3g}); "
        "`edm-unified data` suggests P_mean and P_std"
    )


def _spread(recipe: Recipe, moments: Moments) -> str | None:
    std, mean = moments.sigma_data, float(moments.mean.mean())
    start = recipe.levels[0]
    if recipe.sampler.analytic_start is not None:  # it is told the mean and the variance
        return None
    kept = start / math.hypot(start, std)
    if kept < 1 - SPREAD_OFF or abs(mean) * std / math.hypot(start, std) > SPREAD_OFF * std:
        what = f"the mean of samples will be {abs(mean) / math.hypot(start, std):.2g} standard deviations off"
        if kept < 1 - SPREAD_OFF:
            what = f"samples will have a standard deviation of {std * kept:.3g}, and the data have {std:.3g}"
        return f"sampler.steps: the walk begins at sigma = {start:.3g}, so {what}; begin at a higher sigma_max"
    end = _end(recipe, mean, std) if len(recipe.levels) <= MOST_LEVELS else std
    if end is None or abs(end / std - 1) <= SPREAD_OFF:
        return None
    return (
        f"sampler: samples will have a standard deviation of {end:.3g}, and the data have {std:.3g}: the steps of this "
        f"walk are too few for {recipe.sampler.solver.kind}; take more, or another solver"
    )


def _end(recipe: Recipe, mean: float, std: float) -> float | None:
    """The standard deviation of what the sampler makes of N(mean, std²); None where it fails, which is told then."""
    sampler = dataclasses.replace(recipe.sampler, guidance=None, threshold=None)
    # many entries of one sample, not many samples: each of these would have random numbers of its own to be made
    noise = torch.special.ndtri((torch.arange(_DRAWS, dtype=torch.float64) + 0.5) / _DRAWS)[None]
    denoiser: Any = exact.Gaussian(torch.full((_DRAWS,), mean, dtype=torch.float64), std**2)
    try:
        return float(sampler.sample(denoiser, noise, recipe.schedule).std())
    except (ValueError, FloatingPointError):
        return None
