"""Integrals over the noise level by Gauss–Legendre in ln σ, 16 places to a panel of at most a half."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def _places(panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights on [0, 1]."""
    v, w = np.polynomial.legendre.leggauss(16)
    left = np.arange(panels)[:, None]
    return ((left + 0.5 * (1 + v)) / panels).ravel(), np.tile(0.5 * w / panels, panels)


def panelled(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Levels σ in [b, a] and their weights dσ; b > 0.

    Every function of σ here is regular within π/2 of the real ln σ: on such a panel the error is below 1e−16.
    """
    span = math.log(a / b)
    v, w = _places(math.ceil(span / 0.5))
    sigma = a * np.exp(-span * v)
    return sigma, span * w * sigma


def moments(density: np.ndarray, v: np.ndarray, most: int) -> list[float]:
    """Σ_i density_i v_i^k for k < ``most``."""
    found: list[float] = (density @ np.vander(v, most, increasing=True)).tolist()
    return found
