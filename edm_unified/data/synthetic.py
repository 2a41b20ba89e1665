"""Data made up by a seed: planar sets, Gaussian mixtures, and signals.

Those whose distribution is a Gaussian mixture carry it along as ``Dataset.exact``, so that a trained denoiser can be
held against the true D (denoiser kind ``known``).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch

from edm_unified.components.component import component, count, positive
from edm_unified.components.constraints import Count, Nonnegative, Positive, Seed, whole
from edm_unified.denoisers import exact

from .dataset import Dataset

Planar = Literal["moons", "swiss_roll", "checkerboard", "spirals", "eight_gaussians"]


@component
class TwoDimensional:
    """Points in the plane: moons, swiss_roll, checkerboard, spirals or eight_gaussians.

    moons: two half circles. swiss_roll: one and a half turns of a spiral band, seen along its axis, without classes.
    checkerboard: the eight black squares of a 4 × 4 board, without classes. spirals: two arms, half a turn apart.
    eight_gaussians: eight spots on a circle; its exact D is known. The set is brought to an overall standard deviation
    of 1, N(0, ``noise``² I) is added (0 keeps the board sharp), and the whole is moved to mean zero and scaled to the
    standard deviation ``sigma_data``.
    """

    name: Planar = "moons"
    samples: Annotated[int, whole(least=8, most=100_000_000)] = 4096
    noise: Nonnegative = 0.05
    sigma_data: Positive = 0.5
    seed: Seed = 0
    kind: Literal["two_dimensional"] = "two_dimensional"

    def __post_init__(self) -> None:
        if self.name == "eight_gaussians":
            positive("noise", self.noise)  # a spot without an extent has no density

    def load(self) -> Dataset:
        """Draw them. The scale and the centre are those of the distribution, not of the draw."""
        rng = np.random.default_rng(self.seed)
        points, labels, centre, deviation = _PLANAR[self.name](rng, self.samples)
        points = (points - centre) / deviation + self.noise * rng.standard_normal(points.shape)
        factor = self.sigma_data / np.hypot(1, self.noise)
        stored = torch.from_numpy((factor * points).astype(np.float32))
        classes = None if labels is None else torch.from_numpy(labels.astype(np.int64))
        return Dataset(stored, classes, self.name, exact=self.mixture if self.name == "eight_gaussians" else None)

    def mixture(self) -> exact.GaussianMixture:
        """The distribution of eight_gaussians. Raises ValueError for the others, which are no Gaussian mixtures."""
        if self.name != "eight_gaussians":
            raise ValueError(f"name: the exact D is known for eight_gaussians alone, not for {self.name}")
        factor = self.sigma_data / np.hypot(1, self.noise)
        variances = np.full(8, (factor * self.noise) ** 2)
        return exact.GaussianMixture(np.ones(8), factor * _spots() / np.sqrt(0.5), variances, torch.arange(8))


# Each gives points (n, 2), classes or None, and the mean (2,) and the standard deviation of the distribution: the root
# of half the trace of its covariance, in closed form.
_Drawn = tuple[np.ndarray, "np.ndarray | None", np.ndarray, float]


def _moons(rng: np.random.Generator, n: int) -> _Drawn:
    """Upper half circle about (0, 0), lower one about (1, 1/2); radius 1."""
    label = rng.integers(2, size=n)
    angle = np.pi * rng.uniform(size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    # E x² = 1/2 and (1 + 1/2), E y² = 1/2 and (1/4 − 2/π + 1/2)
    second = 0.5 * (0.5 + 0.5) + 0.5 * (1.5 + 0.75 - 2 / np.pi)
    centre = np.array([0.5, 0.25])
    return np.where(label[:, None] == 0, upper, lower), label, centre, float(np.sqrt((second - centre @ centre) / 2))


def _swiss_roll(rng: np.random.Generator, n: int) -> _Drawn:
    """r = t, t uniform on [3π/2, 9π/2]: scikit-learn's roll without its axis."""
    t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, size=n)
    low, high = 1.5 * np.pi, 4.5 * np.pi

    def primitive(t: float) -> np.ndarray:  # of t (cos t, sin t)
        return np.array([np.cos(t) + t * np.sin(t), np.sin(t) - t * np.cos(t)])

    centre = (primitive(high) - primitive(low)) / (high - low)
    second = (high**3 - low**3) / (3 * (high - low))
    return (
        t[:, None] * np.stack([np.cos(t), np.sin(t)], 1),
        None,
        centre,
        float(np.sqrt((second - centre @ centre) / 2)),
    )


def _checkerboard(rng: np.random.Generator, n: int) -> _Drawn:
    """Squares of side 1 in [−2, 2]²: column i, and a row whose parity is that of i."""
    column, pair = rng.integers(4, size=n), rng.integers(2, size=n)
    corner = np.stack([column, 2 * pair + column % 2], 1) - 2.0
    # each coordinate alone is uniform on [−2, 2]
    return corner + rng.uniform(size=(n, 2)), None, np.zeros(2), float(np.sqrt(4 / 3))


def _spirals(rng: np.random.Generator, n: int) -> _Drawn:
    """r = θ/(3π) with θ/(3π) = √u: two arms of one and a half turns, evenly filled."""
    label, root = rng.integers(2, size=n), np.sqrt(rng.uniform(size=n))
    angle = 3 * np.pi * root + np.pi * label
    # E r² = 1/2; the arms are each other's reflection in the origin
    return root[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), label, np.zeros(2), 0.5


def _spots() -> np.ndarray:
    angle = np.arange(8) * np.pi / 4
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _eight_gaussians(rng: np.random.Generator, n: int) -> _Drawn:
    label = rng.integers(8, size=n)
    return _spots()[label], label, np.zeros(2), float(np.sqrt(0.5))


_PLANAR = {
    "moons": _moons,
    "swiss_roll": _swiss_roll,
    "checkerboard": _checkerboard,
    "spirals": _spirals,
    "eight_gaussians": _eight_gaussians,
}


@component
class RandomMixture:
    """Vectors (N, d) drawn from a Gaussian mixture that ``seed`` makes up: a problem of any dimension without a file.

    Component k has the weight w_k, w uniform on the simplex and then half evened out; the mean is N(0, ``spread``² I);
    the covariance has random axes, along which the standard deviation is ``scale`` times a number that is log-uniform
    on [1/4, 1]. The class of a sample is its component, so that a ``gaussian_mixture`` with one component per class
    gets the mixture back. Components far apart (spread ≫ scale) make the flow curved, close ones nearly straight.
    """

    dimension: Annotated[int, whole(most=4096)] = 2
    components: Annotated[int, whole(most=4096)] = 6
    samples: Count = 4096
    spread: Positive = 0.5
    scale: Positive = 0.2
    seed: Seed = 0
    kind: Literal["random_mixture"] = "random_mixture"

    def __post_init__(self) -> None:
        count("samples", self.samples, least=2 * self.components)

    def load(self) -> Dataset:
        """Draw them; every component has at least two samples."""
        rng, d, k = np.random.default_rng(self.seed), self.dimension, self.components
        weights, means, axes, deviations = self._made_up(rng)
        certain = np.repeat(np.arange(k), 2)
        drawn = rng.choice(k, size=self.samples - len(certain), p=weights)
        labels = rng.permutation(np.concatenate([certain, drawn]))
        along = deviations[labels] * rng.standard_normal((self.samples, d))
        points = means[labels]
        for own in range(k):
            points[labels == own] += along[labels == own] @ axes[own].T
        name = f"random mixture of {k} in {d} dimensions"
        return Dataset(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels), name, exact=self.mixture)

    def mixture(self) -> exact.GaussianMixture:
        """The distribution of each sample; the weights count the two samples that every component is sure to have."""
        weights, means, axes, deviations = self._made_up(np.random.default_rng(self.seed))
        share = 2 * self.components / self.samples
        covariances = np.einsum("kij,kj,klj->kil", axes, np.square(deviations), axes)
        weights = share / self.components + (1 - share) * weights
        return exact.GaussianMixture(weights, means, covariances, torch.arange(self.components))

    def _made_up(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Weights (k,), means (k, d), axes (k, d, d) in columns, deviations along them (k, d)."""
        d, k = self.dimension, self.components
        weights = 0.5 * rng.dirichlet(np.ones(k)) + 0.5 / k
        means = self.spread * rng.standard_normal((k, d))
        axes = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
        return weights, means, axes, self.scale * 4.0 ** -rng.uniform(size=(k, d))


@component
class Signals:
    """Signals (N, ``channels``, ``length``) in [−1, 1]: damped sinusoids (class 0), chirps (class 1), or half of each.

    On the time t ∈ [0, 1), each channel of a damped one is Σ_k a_k e^{−t/τ_k} sin(2π f_k t + φ_k) of three terms, with
    f_k log-uniform from 2 to ``length``/8 periods and τ_k log-uniform on [0.1, 1]; of a chirp, a sin(2π (f t + ½ r t²)
    + φ), whose frequency goes from f to f + r, both uniform from 2 to ``length``/8. Amplitudes add up to at most 1.
    """

    family: Literal["damped", "chirps", "both"] = "both"
    channels: Annotated[int, whole(most=1024)] = 1
    length: Annotated[int, whole(least=32)] = 64
    samples: Annotated[int, whole(least=2, most=100_000_000)] = 4096
    seed: Seed = 0
    kind: Literal["signals"] = "signals"

    def load(self) -> Dataset:
        """Draw them."""
        rng = np.random.default_rng(self.seed)
        n, c, top = self.samples, self.channels, self.length / 8
        labels = {"damped": np.zeros(n, int), "chirps": np.ones(n, int), "both": rng.integers(2, size=n)}[self.family]
        time = np.arange(self.length) / self.length
        signals = np.empty((n, c, self.length), np.float32)
        for i in range(0, n, 1024):
            part = min(1024, n - i)
            damped = self._damped(rng, (part, c), time, top)
            start, end = rng.uniform(2, top, (2, part, c, 1))
            phase, loud = rng.uniform(0, 2 * np.pi, (part, c, 1)), rng.uniform(0.3, 1, (part, c, 1))
            chirps = loud * np.sin(2 * np.pi * (start * time + 0.5 * (end - start) * time**2) + phase)
            signals[i : i + part] = np.where(labels[i : i + part, None, None] == 0, damped, chirps)
        classes = torch.from_numpy(labels.astype(np.int64)) if self.family == "both" else None
        names = ("damped", "chirps") if self.family == "both" else ()
        return Dataset(torch.from_numpy(signals), classes, f"signals ({self.family})", class_names=names)

    def _damped(self, rng: np.random.Generator, shape: tuple[int, int], time: np.ndarray, top: float) -> np.ndarray:
        total = np.zeros((*shape, len(time)))
        shares = rng.dirichlet(np.ones(3), shape) * rng.uniform(0.3, 1, (*shape, 1))
        for k in range(3):
            frequency = 2 * (top / 2) ** rng.uniform(size=(*shape, 1))
            decay = 10.0 ** -rng.uniform(size=(*shape, 1))
            phase = rng.uniform(0, 2 * np.pi, (*shape, 1))
            total += shares[..., k : k + 1] * np.exp(-time / decay) * np.sin(2 * np.pi * frequency * time + phase)
        return total
