"""Renoising: a pure function from levels to levels. A fall is solved, a rise is noised, a repeat is corrected.

    Karras(6)   10   3.9   1.3   0.4   0.08   0.01   0
    Churn       10 ^13   3.9 ^5.2   1.3 ^1.8   0.4 ^0.5   0.08   0.01   0      rise to (1+γ)σ, then fall
    Ancestral   10   1.5 ^3.9   0.4 ^1.3   0.1 ^0.4   0.02 ^0.08   0.001 ^0.01   0    fall below, then rise
    Restart     10   3.9   1.3   0.4 ^2.0   1.2   0.7   0.4   0.08   0.01   0
    Corrected   10 = 10   3.9 = 3.9   1.3 = 1.3   0.4 = 0.4   0.08 = 0.08   0.01 = 0.01   0

A rise from a to b adds S_noise √(b² − a²) n to x. No network, no tensor and no schedule appears here: the law of a
stochastic sampler of this kind is in the list of its levels.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

from edm_unified.components.component import component, count, falling
from edm_unified.components.constraints import Nonnegative, Positive, whole
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.solvers.one_evaluation import ancestral_split
from edm_unified.schedules import EDM

MOST_LEVELS = 1_000_000
"""A walk longer than this is taken for a mistake."""


def _bounded(name: str, length: int) -> None:
    """Refuse a walk of ``length`` levels before it fills the memory."""
    if length > MOST_LEVELS:
        raise ValueError(f"{name}: the walk would have {length:,} levels, more than {MOST_LEVELS:,}; lower it")


class Renoising(Protocol):
    """Levels to levels. ``S_noise`` scales the noise of every rise."""

    @property
    def S_noise(self) -> float: ...

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        """The walk over the falling ``levels``."""
        ...


@component
class Churn:
    """Before the step from σ_i with S_min ≤ σ_i ≤ S_max, rise to (1+γ)σ_i, γ = min(S_churn/N, √2 − 1).

    Karras et al. 2022, Algorithm 2, around any solver. N is the number of steps. EDM's settings for ImageNet-64 are
    S_churn 40, S_min 0.05, S_max 50, S_noise 1.003 (their Table 5).
    """

    S_churn: Nonnegative = 40.0
    S_min: Nonnegative = 0.05
    S_max: float = 50.0
    S_noise: Positive = 1.003
    kind: Literal["churn"] = "churn"
    formulas: ClassVar[dict[str, str]] = {
        "walk": "σ_i ↑ (1+γ)σ_i ↓ σ_{i+1}, γ = min(S_churn/N, √2−1) on [S_min, S_max]"
    }

    def __post_init__(self) -> None:
        if not self.S_max >= self.S_min:  # S_max may be inf
            raise ValueError(f"S_max: must not be below S_min, got {self.S_max!r} against {self.S_min!r}")

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        gamma = min(self.S_churn / (len(levels) - 1), math.sqrt(2) - 1)  # Algorithm 2, beside line 3
        walk: list[float] = []
        for sigma in levels[:-1]:
            raised = sigma + gamma * sigma  # line 5; it is σ where γ is below rounding: no rise then, and no repeat
            walk += [sigma, raised] if raised > sigma and self.S_min <= sigma <= self.S_max else [sigma]
        return (*walk, levels[-1])


@component
class Ancestral:
    """Fall from σ_i below σ_{i+1}, then rise to it, with η times the noise of the exact posterior.

    Around Euler in σ this is DDIM(η), and DDPM's ancestral sampling for η = 1; around any other solver it is
    k-diffusion's "ancestral" form of it. η > 1 is cut where all of σ_{i+1} is fresh noise.
    """

    eta: Nonnegative = 1.0
    S_noise: Positive = 1.0
    kind: Literal["ancestral"] = "ancestral"
    formulas: ClassVar[dict[str, str]] = {
        "walk": "σ_i ↓ √(σ_{i+1}² − up²) ↑ σ_{i+1}, up = η σ_{i+1} √(1 − σ_{i+1}²/σ_i²)"
    }

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        walk = [levels[0]]
        for a, b in itertools.pairwise(levels):
            down, _ = ancestral_split(a, b, self.eta)
            walk += [down, b] if down < b else [b]
        return tuple(walk)


class RestartInterval(NamedTuple):
    """Rise from the level nearest ``sigma_min`` to ``sigma_max``, return in ``n`` Karras levels; ``repeats`` times."""

    sigma_min: float
    sigma_max: float
    n: int
    repeats: int


@component
class Restart:
    """Restart intervals {[n, K, σ_min, σ_max]} (Xu et al. 2023, Algorithm 1).

    On reaching the level nearest σ_min, add noise up to σ_max and come back along n levels (both ends counted) of a
    Karras rule with ``rho``, K times; with Heun each return costs 2(n − 1) evaluations. {[3, 2, 0.06, 0.30]} is the
    example of their code, Table 3 there has those for CIFAR-10. For ImageNet-64 at 203 evaluations it has five: 4, 1,
    19.35, 40.79; 4, 1, 1.09, 1.92; 4, 5, 0.59, 1.09; 4, 5, 0.30, 0.59; 6, 6, 0.06, 0.30, with S_noise 1.003.
    """

    intervals: tuple[RestartInterval, ...] = (RestartInterval(0.06, 0.30, 3, 2),)
    rho: Positive = 7.0
    S_noise: Positive = 1.0
    kind: Literal["restart"] = "restart"
    formulas: ClassVar[dict[str, str]] = {"walk": "… ↓ σ_min ↑ σ_max ↓ (n levels) σ_min, K times, ↓ …"}

    def __post_init__(self) -> None:
        for interval in self.intervals:
            falling("intervals.sigma_min", interval.sigma_min, "intervals.sigma_max", interval.sigma_max)
            count("intervals.n", interval.n, least=2)
            count("intervals.repeats", interval.repeats)

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        _bounded("intervals", len(levels) + sum(interval.n * interval.repeats for interval in self.intervals))
        walk: list[float] = []
        homes = [self._home(levels, interval) for interval in self.intervals]  # two may share one where steps are few
        for index, sigma in enumerate(levels):
            walk.append(sigma)
            for interval in [interval for interval, home in zip(self.intervals, homes, strict=True) if home == index]:
                rule = Karras(n=interval.n, sigma_min=sigma, sigma_max=interval.sigma_max, rho=self.rho)
                walk += rule.levels(EDM()).tolist()[:-1] * interval.repeats
        return tuple(walk)

    @staticmethod
    def _home(levels: tuple[float, ...], interval: RestartInterval) -> int:
        """Index of the level nearest σ_min among those above zero and below σ_max."""
        within = [i for i, sigma in enumerate(levels) if 0 < sigma < interval.sigma_max]
        if not within:
            raise ValueError(f"intervals.sigma_max: no level lies below {interval.sigma_max!r}; take more steps")
        return min(within, key=lambda i: abs(levels[i] - interval.sigma_min))


@component
class Corrected:
    """Repeat every level above zero; the corrector acts on each of the ``repeats`` (Song et al. 2021, Algorithm 1)."""

    repeats: Annotated[int, whole(most=10_000)] = 1
    S_noise: ClassVar[float] = 1.0  # there are no rises to scale
    kind: Literal["corrected"] = "corrected"
    formulas: ClassVar[dict[str, str]] = {"walk": "σ_i = σ_i ↓ σ_{i+1} …"}

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        _bounded("repeats", len(levels) * (1 + self.repeats))
        return tuple(sigma for level in levels for sigma in [level] * (1 + self.repeats if level > 0 else 1))


AnyRenoising = Churn | Ancestral | Restart | Corrected
