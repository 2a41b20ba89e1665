"""Which noise levels suit these data: σ_min, σ_max, and where training should look (P_mean, P_std).

**σ_max** must be so large that x_0 + σn forgets x_0. Song & Ermon 2020 (arXiv 2006.09011, technique 1) take the largest
distance between two samples: then a step of one σ leads from any sample to any other. What is still wrong at the start,
because the sampler begins at N(0, σ_max² I) and not at p(x; σ_max), is stated as a Kullback–Leibler divergence, of the
Gaussian with the mean and the variances λ_i of the data:

    KL = ½ Σ_i [ λ_i/σ² − ln(1 + λ_i/σ²) ] + ‖mean‖² / (2σ²)   nats

Where that exceeds 0.01 nats (the mean of the data is far from 0), σ_max is raised until it does not. Distances grow as
the square root of the number of pixels, so larger images need a larger σ_max.

**σ_min** must be so small that the noise left in a sample does not show: a quarter of the step between grey levels,
where the data are quantised (EDM's 0.002 is a quarter of 2/255) and that is at most σ_data/10; else EDM's ratio
σ_data/250, or a quarter of the median distance to the nearest neighbour, per axis, where that is smaller.

**P_mean, P_std**: training should look where it can gain something, and where that matters. With mmse(σ) =
E‖D − x_0‖²/d the error of the best D, EDM's loss at σ relative to that of a fresh network (Karras et al. 2022, Fig. 5a)
is

    L(σ) = mmse(σ) (σ² + σ_d²) / (σ² σ_d²)  ≤ 1

It dips between two trivial ends: at low noise D = x, at high noise D = the mean; 1 − L is the share that a network can
gain. What an error of D does to samples can be counted in two ways. As a displacement, along dx = (x − D) d ln σ, it
counts by its square, of which mmse(σ) is the scale; as information, in nats, by that over σ² (Guo et al. 2005). The one
looks at coarse features, the other at fine ones, and ln σ is given the density between them,

    p(ln σ) ∝ (1 − L) mmse/σ

whose mean is P_mean. P_std is EDM's 1.2 for all data: the width of that density, 0.8 to 1.7, did worse where it is less
and where it is more (``docs/data.md`` has the comparison). mmse is bounded from above by the better of two denoisers
that need no training: the linear one (the Wiener filter of the spectrum), and, up to 256 dimensions, the mean of other
samples weighted by their likelihood. Both are tried on these data, so the numbers are an estimate, not a law.

If the data are multiplied by c, every σ is, and P_mean moves by ln c.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, batch
from .survey import Survey, part, spectrum

LEVELS = 48
"""Noise levels at which the error is estimated."""
_MOST_NUMBERS = 2**24  # in the samples that are compared with each other
WIDTH = 1.2
"""P_std, of EDM (Karras et al. 2022, Table 1)."""


class Suggestion(NamedTuple):
    """Levels for the data, each with its reason in ``reasons`` under the same name; ``kl`` in nats, at σ_max."""

    sigma_data: float
    sigma_min: float
    sigma_max: float
    P_mean: float
    P_std: float
    kl: float
    reasons: dict[str, str]


def suggest(dataset: Dataset, about: Survey) -> Suggestion:
    """Levels for these data. Raises ValueError where fewer than 4 samples differ."""
    most = max(64, min(4096, _MOST_NUMBERS // math.prod(dataset.shape)))
    rows = batch(dataset, part(dataset, most))[0].to(torch.float64)
    rows = rows[torch.isfinite(rows).flatten(1).all(1)]
    sigma_data = about.sigma_data
    flat, d = rows.flatten(1), math.prod(dataset.shape)
    first: dict[bytes, int] = {}
    for i, row in enumerate(flat.numpy()):
        first.setdefault(row.tobytes(), i)
    distinct = flat[list(first.values())]
    if len(distinct) < 4 or not sigma_data > 0:
        raise ValueError(f"{dataset.name}: needs at least 4 samples that differ, to suggest noise levels")
    variances = spectrum(rows)
    far, near = _distances(distinct)
    step = _step(flat)
    fine = step if step and step / 4 <= sigma_data / 10 else None  # with few values the step says nothing of noise
    short = _enough(variances, flat.mean(0), far)
    sigma_max = max(far, short)
    sigma_min = fine / 4 if fine else min(sigma_data / 250, near / (4 * math.sqrt(d)))
    sigma, error = errors(flat, variances, sigma_min, sigma_max)
    mean, std = _looking(sigma, error, float(variances.mean())), WIDTH
    kl = _kl(variances, flat.mean(0), sigma_max)
    if fine:
        lowest = f"a quarter of {fine:.3g}, the step between the values of these data"
    elif sigma_min == sigma_data / 250:
        why = f"a quarter of {step:.3g}, the step of the values, is too much" if step else "the data are not quantised"
        lowest = f"σ_data/250, EDM's ratio; {why}"
    else:
        lowest = f"a quarter of {near:.3g}, the median distance to the nearest neighbour, per axis (√{d})"
    off = float(flat.mean(0).norm())
    if far >= short:
        highest = f"the largest distance of two samples (0.01 nats would need {short:.3g})"
    else:
        highest = f"where the prior is 0.01 nats off: the mean lies {off:.3g} from 0, samples at most {far:.3g} apart"
    reasons = {
        "sigma_data": f"standard deviation of all numbers (mean {np.mean(about.mean):+.3g})",
        "sigma_min": lowest,
        "sigma_max": f"{highest}; the prior is then {kl:.2g} nats = {kl / math.log(2):.2g} bits off",
        "P_mean": f"centre, at σ = {math.exp(mean):.3g}, of the levels at which training gains most",
        "P_std": f"EDM's: two thirds of training between σ = {math.exp(mean - std):.2g} and {math.exp(mean + std):.2g}",
    }
    return Suggestion(sigma_data, sigma_min, sigma_max, mean, std, kl, reasons)


def errors(flat: Tensor, variances: Tensor, sigma_min: float, sigma_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels from σ_min/2 to σ_max, and an upper bound of mmse(σ) per dimension at each."""
    sigma = np.geomspace(sigma_min / 2, sigma_max, LEVELS)
    total = float(variances.mean())
    error = np.array([float((variances * s**2 / (variances + s**2)).mean()) for s in sigma])
    if flat.shape[1] <= 256:
        half = min(len(flat) // 2, 512)
        rng = np.random.default_rng(0)
        order = torch.from_numpy(rng.permutation(len(flat)))
        held, known = flat[order[:half]], flat[order[half : half + 2048]]
        noise = torch.from_numpy(rng.standard_normal(tuple(held.shape)))
        for i, s in enumerate(sigma):
            weights = torch.softmax(-torch.cdist(held + s * noise, known).square() / (2 * s**2), 1)
            error[i] = min(error[i], float((weights @ known - held).square().mean()))
    return sigma, np.maximum.accumulate(np.minimum(error, np.minimum(sigma**2, total)))


def _looking(sigma: np.ndarray, error: np.ndarray, variance: float) -> float:
    """The mean of ln σ under (1 − L) mmse/σ."""
    gain = error / sigma**2
    top = int(gain.argmax())  # below it the samples are told apart without error, as of few values or with copies
    gain[top:] = np.minimum.accumulate(gain[top:])
    reducible = np.clip(1 - gain * (sigma**2 + variance) / variance, 0, None)
    if reducible.max() < 0.02:  # white Gaussian noise: D is linear, and nothing but σ_data is to be learnt
        return 0.5 * math.log(variance)
    density, u = reducible * gain * sigma, np.log(sigma)
    return float(density @ u / density.sum())


def _distances(flat: Tensor) -> tuple[float, float]:
    """The largest distance of two samples, and the median distance to the nearest other one; all of them differ."""
    flat = flat[:2048]
    apart = torch.cdist(flat, flat)
    far = float(apart.max())
    apart[apart <= 1e-6 * far] = math.inf  # itself, and copies
    near = apart.min(1).values
    return far, float(near[torch.isfinite(near)].median())


def _step(flat: Tensor) -> float | None:
    """The step between values, where all are multiples of one; None for continuous data."""
    some = flat.flatten()[:: max(1, flat.numel() // 2**20)].numpy()
    extent = float(some.max() - some.min())
    values = np.unique(np.round((some - some.min()) / extent, 7))
    if not 2 <= len(values) <= min(4096, len(some) // 8):
        return None
    gaps = np.diff(values)
    multiples = gaps / gaps.min()
    even = np.abs(multiples - np.round(multiples)).max() < 0.02
    return float(gaps.min()) * extent if even else None


def _kl(variances: Tensor, mean: Tensor, sigma: float) -> float:
    ratio = variances / sigma**2
    return float(0.5 * (ratio - torch.log1p(ratio)).sum() + mean.square().sum() / (2 * sigma**2))


def _enough(variances: Tensor, mean: Tensor, start: float, kl: float = 0.01) -> float:
    """The σ at which the prior is ``kl`` nats off, by bisection in ln σ about ``start``."""
    low, high = math.log(start) - 20, math.log(start) + 20
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _kl(variances, mean, math.exp(middle)) > kl else (low, middle)
    return math.exp(high)
