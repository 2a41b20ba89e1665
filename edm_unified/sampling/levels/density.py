"""Levels from a density: as many in a stretch of ln σ as there is of a given positive function."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from edm_unified.components.component import component, count, falling, positive
from edm_unified.components.constraints import Count
from edm_unified.sampling.levels.base import check_falling, ramp, then_zero
from edm_unified.schedules import Schedule


@component
class DensitySpaced:
    """∫ q d ln σ is the same over every step, q a positive density over ln σ, linear between nodes; then 0.

    ``sigmas`` are the nodes, falling, and ``density`` the values of q there, in any unit: measured once, they serve
    any number of steps. The first node is σ_max, the last σ_min. What q is, is the user's choice: the rate of a
    quantity of which every step shall take an equal share, for example the entropy of x_0 given x (the mean squared
    error of D over σ², or over σ "rescaled": Stancevic et al. 2025), the distance of scores (Williams et al. 2024), or
    the (p+1)-th root of a local error of order p+1. A constant q is :class:`LogLinear`; the rescaled entropy of
    Gaussian data of std c, q = c² σ/(c² + σ²), is :class:`Tan`. :meth:`of` tabulates a function.
    """

    n: Count = 18
    sigmas: tuple[float, ...] = (80.0, 0.002)
    density: tuple[float, ...] = (1.0, 1.0)
    kind: Literal["density_spaced"] = "density_spaced"
    formulas: ClassVar[dict[str, str]] = {"levels": "∫_{σ_{i+1}}^{σ_i} q d ln σ the same for all i < N−1, σ_N = 0"}

    def __post_init__(self) -> None:
        for name in ("sigmas", "density"):  # from a list, an array or a tensor as well
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.sigmas) < 2 or len(self.sigmas) != len(self.density):
            raise ValueError(
                f"density: must have a value for each of sigmas, at least two, got {len(self.density)} for "
                f"{len(self.sigmas)}"
            )
        for i, (a, b) in enumerate(pairwise(self.sigmas)):
            if not b < a:
                raise ValueError(f"sigmas: must fall, but node {i + 1} is {b!r} after {a!r}")
        for sigma, value in zip(self.sigmas, self.density, strict=True):
            positive("sigmas", sigma)
            positive("density", value)

    @classmethod
    def of(
        cls,
        density: Callable[[float], float],
        n: int = 18,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        nodes: int = 257,
    ) -> DensitySpaced:
        """The rule for the function q(σ), tabulated at ``nodes`` places evenly in ln σ."""
        count("nodes", nodes, least=2)
        falling("sigma_min", sigma_min, "sigma_max", sigma_max)
        span = math.log(sigma_min / sigma_max)
        between = [sigma_max * math.exp(r * span) for r in ramp(nodes)[1:-1]]
        sigmas = (sigma_max, *between, sigma_min)
        return cls(n=n, sigmas=sigmas, density=tuple(float(density(sigma)) for sigma in sigmas))

    def levels(self, schedule: Schedule) -> Tensor:
        top = max(self.density)  # in units of it, so that no sum overflows
        q = [value / top for value in self.density]
        width = [math.log(a / b) for a, b in pairwise(self.sigmas)]
        total = [0.0]
        for w, (left, right) in zip(width, pairwise(q), strict=True):
            total.append(total[-1] + 0.5 * w * (left + right))
        sigmas, cell = [], 0
        for share in ramp(self.n):
            while cell < len(width) - 1 and total[cell + 1] < share * total[-1]:
                cell += 1
            left, right = q[cell], q[cell + 1]
            rest = (share * total[-1] - total[cell]) / width[cell]
            # ∫_0^u (left + (right − left) v) dv = rest, the root of a quadratic in the form that does not cancel
            root = math.sqrt(max(0.0, left**2 + 2 * rest * (right - left)))
            sigmas.append(self.sigmas[cell] * math.exp(-width[cell] * min(1.0, 2 * rest / (left + root))))
        return check_falling(then_zero(sigmas, self.sigmas[0], self.sigmas[-1]), "density")
