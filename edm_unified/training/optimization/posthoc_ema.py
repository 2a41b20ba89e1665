"""Post-hoc EMA: averages of any length as sums of stored ones (Karras et al. 2024, section 3.2 and appendix C).

Averages θ̄_i with (t_i, γ_i), stored during the training, are a basis for others. The weights x of θ̄ ≈ Σ x_i θ̄_i
minimize ‖p − Σ x_i p_i‖², a linear system of the exact inner products

    ⟨p_a, p_b⟩ = (γ_a+1)(γ_b+1)/(γ_a+γ_b+1) · min(t_a, t_b)^{γ_a+γ_b+1}/(t_a^{γ_a+1} t_b^{γ_b+1}),

and are then divided by their sum (Algorithm 3; NVlabs/edm2, ``phema.py``): an average of equal weights is these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import lstsq

from edm_unified.training.optimization.ema import gamma_of

Profiles = list[tuple[float, float]]
"""(t, γ) of each stored average."""


def inner_product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """∫ p_a p_b dτ of two profiles, each (t, γ)."""
    (t_a, gamma_a), (t_b, gamma_b) = sorted([a, b])
    shape = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return shape * (t_a / t_b) ** gamma_b / t_b


def reconstruct(snapshots: Sequence[tuple[float, float]], target: tuple[float, float]) -> list[float]:
    """The weights with which stored averages, each (t, γ), sum to one of (t, std): the nearest in L², scaled to sum 1.

    ``t`` is in images, or in anything else, for all alike. Raises ``ValueError`` where there is no snapshot, or where
    the target is later than all of them.
    """
    t, std = target
    if not snapshots:
        raise ValueError("snapshots: there are none to reconstruct from")
    last = max(time for time, _ in snapshots)
    if t > last * (1 + 1e-9):
        raise ValueError(f"target: {t:g} is later than the last snapshot, {last:g}")
    goal = (t, gamma_of(std))
    norms = np.array([math.sqrt(inner_product(s, s)) for s in snapshots])
    gram = np.array([[inner_product(a, b) for b in snapshots] for a in snapshots]) / np.outer(norms, norms)
    right = np.array([inner_product(s, goal) for s in snapshots]) / norms
    # neighbours are nearly parallel: directions that only rounding tells apart are left out
    solution = lstsq(gram, right, cond=1e-12)[0] / norms
    return [float(x) for x in solution / solution.sum()]


def mismatch(snapshots: Sequence[tuple[float, float]], target: tuple[float, float], weights: Sequence[float]) -> float:
    """‖p − Σ x_i p_i‖/‖p‖: how far the profile that ``weights`` make is from the one asked for."""
    goal = (target[0], gamma_of(target[1]))
    square = inner_product(goal, goal)
    total = square - 2 * sum(x * inner_product(s, goal) for x, s in zip(weights, snapshots, strict=True))
    total += sum(
        x * y * inner_product(a, b)
        for x, a in zip(weights, snapshots, strict=True)
        for y, b in zip(weights, snapshots, strict=True)
    )
    return math.sqrt(max(total, 0.0) / square)


def fit(profiles: Profiles, t: float, std: float) -> tuple[list[float], float]:
    """The shares of the snapshots in the average of width ``std``, and how far its profile is off."""
    goal = (t, max(std, 1e-15) if std > 0 else std)  # below, γ² would overflow; the mismatch is 1 long before
    shares = reconstruct(profiles, goal)
    return shares, mismatch(profiles, goal, shares)


def nearest(profiles: Profiles, t: float, met: float, unmet: float, limit: float) -> float:
    """The width nearest to ``unmet``, to two digits, whose mismatch is at most ``limit``, as that of ``met`` is."""
    while True:
        middle = float(f"{math.sqrt(met) * math.sqrt(unmet):.2g}")
        if not min(met, unmet) < middle < max(met, unmet):
            return met
        if fit(profiles, t, middle)[1] > limit:
            unmet = middle
        else:
            met = middle
