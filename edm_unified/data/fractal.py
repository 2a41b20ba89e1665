"""A tree-like fractal in the plane, as a Gaussian mixture: thin structure at every scale, and an exact D.

The toy example of Karras et al. 2024, *Guiding a Diffusion Model with a Bad Version of Itself* (arXiv 2406.02507), with
the numbers of its code (NVlabs/edm2, ``toy_example.py``): two classes, each a tree that forks six times, so that it has
1 + 2 + … + 64 = 127 branches; a branch is a row of 8 elongated Gaussians, which makes 1016 components per class. With
n, n' unit normal, a branch of generation k

    has length ℓ = 0.292 · 0.8^k (1 + 0.2 n), and a child on either side that turns by ± 0.7^k (1 + 0.2 n');
    is 8 Gaussians from 0.07 ℓ to 0.93 ℓ, of std 0.06 ℓ along it and 0.06 · 0.2 · 0.8^k across, each of weight ℓ/2^k.

Both axes are then scaled to mean 0 and standard deviation 0.5 over both classes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch

from edm_unified.components.component import component
from edm_unified.components.constraints import Positive, Seed, whole
from edm_unified.denoisers import exact

from .dataset import Dataset

PIECES = 8  # Gaussians along a branch
LENGTH, SHORTER, WANDER = 0.292, 0.8, 0.2
TURN = 0.7
WIDTH, THICKNESS = 0.06, 0.2
PUBLISHED = (6, 2)  # forks and seed of the trees in the paper, which were scaled by rounded numbers:
ORIGIN, SCALE = (0.0030, 0.0325), (1.3136, 1.3844)


@component
class Fractal:
    """Points of two trees of thin branches, (N, 2), class 0 and 1; the exact D is that of a Gaussian mixture.

    Karras et al. 2024 (arXiv 2406.02507), appendix on the toy example. ``forks``: how often a branch forks; 6, as
    published, gives 1016 Gaussians per class. ``sigma_data``: the standard deviation of each axis, of both classes.
    ``tree_seed`` grows the trees, ``seed`` draws the samples. With the defaults the distribution is the published one.
    """

    samples: Annotated[int, whole(least=2, most=100_000_000)] = 16384
    forks: Annotated[int, whole(least=0, most=9)] = 6
    sigma_data: Positive = 0.5
    seed: Seed = 0
    tree_seed: Annotated[int, whole(least=0, most=2**32 - 1)] = 2
    kind: Literal["fractal"] = "fractal"

    def mixture(self) -> exact.GaussianMixture:
        """The distribution: its D, score and density are exact, and ``label`` selects a tree."""
        weights, means, factors, labels = self._components()
        return exact.GaussianMixture(weights, means, factors @ factors.mT, labels)

    def load(self) -> Dataset:
        """Draw from it."""
        weights, means, factors, labels = self._components()
        rng = np.random.default_rng(self.seed)
        own = torch.from_numpy(rng.choice(len(weights), self.samples, p=weights.numpy()))
        noise = torch.from_numpy(rng.standard_normal((self.samples, 2, 1)))
        points = means[own] + (factors[own] @ noise)[..., 0]
        return Dataset(points.to(torch.float32), labels[own], "fractal", exact=self.mixture)

    def _components(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights (K,), means (K, 2), factors (K, 2, 2) with C = F Fᵀ, and classes (K,), after the scaling."""
        rng = np.random.RandomState(self.tree_seed)  # the generator of the published trees
        trees = [np.array(_grow(rng, np.zeros(2), angle, 0, self.forks)) for angle in (0.25 * np.pi, 1.25 * np.pi)]
        rows = torch.from_numpy(np.concatenate(trees))  # weight, mean, along, across
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(tree) for tree in trees]))
        weights, means = rows[:, 0] / rows[:, 0].sum(), rows[:, 1:3]
        factors = torch.stack([rows[:, 3:5], rows[:, 5:7]], 2)
        if (self.forks, self.tree_seed) == PUBLISHED:
            origin, scale = (torch.tensor(numbers, dtype=torch.float64) for numbers in (ORIGIN, SCALE))
        else:
            origin = -(weights @ means)
            second = weights @ (means.square() + factors.square().sum(2))
            scale = 0.5 / (second - origin.square()).sqrt()
        scale = scale * (self.sigma_data / 0.5)
        return weights, (means + origin) * scale, factors * scale[:, None], labels


def _grow(rng: np.random.RandomState, root: np.ndarray, angle: float, k: int, forks: int) -> list[tuple[float, ...]]:
    """The Gaussians of a branch of generation k and all that grows from it: weight, mean, axis along, axis across."""
    direction = np.array([math.cos(angle), math.sin(angle)])
    length = LENGTH * SHORTER**k * (1 + WANDER * rng.randn())
    along = WIDTH * length * direction
    across = WIDTH * THICKNESS * SHORTER**k * np.array([-direction[1], direction[0]])
    places = np.linspace(0.07, 0.93, PIECES) * length
    own = [(length / 2**k, *(root + place * direction), *along, *across) for place in places]
    for side in (1, -1):
        turn = side * TURN**k * (1 + WANDER * rng.randn())  # drawn for the twigs too, which have no children
        if k < forks:
            own += _grow(rng, root + length * direction, angle + turn, k + 1, forks)
    return own
