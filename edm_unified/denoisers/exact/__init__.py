"""Data whose denoiser is known exactly: a Gaussian, a mixture of Gaussians, and a finite set of points.

Each is a plain class with the same face: ``D(x, sigma, label=None)`` is the posterior mean E[x_0 | x_0 + σn = x],
``log_prob``, ``score`` and ``sample`` are exact at any noise level, ``shape`` is the shape of one event, and
``to(device)`` returns a copy. They stand in for a network wherever the question is about schedules and solvers.
"""

from __future__ import annotations

from .empirical import Empirical
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .posterior import Posterior

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "Posterior"]
