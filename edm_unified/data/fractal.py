"""A tree-like fractal in the plane, as a Gaussian mixture: thin structure at every scale, and an exact D.

After Karras et al. 2024, *Guiding a Diffusion Model with a Bad Version of Itself* (arXiv 2406.02507), appendix on the
toy example: two classes, each a tree that forks six times, so that it has 1 + 2 + … + 64 = 127 branches; a branch is
a row of 8 elongated Gaussians, which makes 1016 components per class; weights fall geometrically with the generation;
lengths and angles vary at random; both axes are scaled to mean 0 and standard deviation 0.5 over both classes.

The paper does not print its random numbers, and the growth rule here is our own: a child has ``RATIO`` of its parent's
length and turns away from it by ``TURN`` to either side. The sets look alike; their numbers are not comparable.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from edm_unified import exact
from edm_unified._component import component, count, positive

from .dataset import Dataset

PIECES = 8  # Gaussians along a branch
RATIO = 0.68  # the length of a child against that of its parent
TURN = math.radians(38)
THICKNESS = 0.035  # standard deviation across a branch, as a share of its length
WANDER = 0.15  # standard deviation of the random share of length, and of the random turn against TURN


@component
class Fractal:
    """Points of two trees of thin branches, (N, 2), class 0 and 1; the exact D is that of a Gaussian mixture.

    After Karras et al. 2024 (arXiv 2406.02507), with a growth rule of our own. ``forks``: how often a branch forks; 6,
    as published, gives 1016 Gaussians per class. ``sigma_data``: the standard deviation of each axis, of both classes.
    ``tree_seed`` grows the trees, ``seed`` draws the samples.
    """

    samples: int = 16384
    forks: int = 6
    sigma_data: float = 0.5
    seed: int = 0
    tree_seed: int = 0
    kind: Literal["fractal"] = "fractal"

    def __post_init__(self) -> None:
        count("samples", self.samples, least=2, most=100_000_000)
        count("forks", self.forks, least=0, most=9)
        positive("sigma_data", self.sigma_data)
        count("seed", self.seed, least=0, most=2**63 - 1)
        count("tree_seed", self.tree_seed, least=0, most=2**63 - 1)

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
        rng = np.random.default_rng(self.tree_seed)
        trees = [np.array(_grow(rng, np.zeros(2), angle, 1.0, 0, self.forks)) for angle in (0.5 * np.pi, -0.5 * np.pi)]
        rows = torch.from_numpy(np.concatenate(trees))  # weight, mean, along, across
        labels = torch.arange(2).repeat_interleave(torch.tensor([len(tree) for tree in trees]))
        weights, means = rows[:, 0] / rows[:, 0].sum(), rows[:, 1:3]
        factors = torch.stack([rows[:, 3:5], rows[:, 5:7]], 2)
        centre = weights @ means
        second = weights @ (means.square() + factors.square().sum(2))
        scale = self.sigma_data / (second - centre.square()).sqrt()
        return weights, (means - centre) * scale, factors * scale[:, None], labels


def _grow(
    rng: np.random.Generator, root: np.ndarray, angle: float, length: float, generation: int, forks: int
) -> list[tuple[float, ...]]:
    """The Gaussians of a branch and of all that grows from it: weight, mean, axis along, axis across."""
    angle += WANDER * TURN * rng.standard_normal() if generation else 0.0
    length *= math.exp(WANDER * rng.standard_normal())
    along = length * np.array([math.cos(angle), math.sin(angle)])
    across = THICKNESS * np.array([-along[1], along[0]])
    weight = length / 2.0 ** (0.5 * generation)  # the branches of a generation together fall as (√2 · RATIO)^generation
    own = [(weight, *(root + (i + 0.5) / PIECES * along), *(along / (2 * PIECES)), *across) for i in range(PIECES)]
    if generation < forks:
        for side in (-1, 1):
            own += _grow(rng, root + along, angle + side * TURN, RATIO * length, generation + 1, forks)
    return own
