"""Processes that decay to an observation y in place of zero: x_t = y + s(t) (x_0 − y) + s(t) σ(t) n.

x_t − y is an ordinary linear process of x_0 − y. So these are schedules like any other, two functions s and σ, and y is
no part of them: it is given to a run, ``edm.sample(…, anchor=y)``. Without an anchor they decay to 0.

**Where a run starts.** The prior of the published samplers is N(y, s²σ² I) at the end of the time axis, which is where
a run starts here: at y + σ n of the state (x_t − y)/s + y = x_0 + σ n. The true marginal has the mean
y + s (x_0 − y), so that the start is off by (x_0 − y)/σ standard deviations, which are 0.57 (x_0 − y) for the OUVE of
Richter et al. and fall with σ(t_max).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from edm_unified.components.component import component, falling
from edm_unified.components.constraints import Positive, interval
from edm_unified.schedules.base import Schedule

ITERATIONS = 40
"""Of the inverse of σ(t): 29 were seen to suffice for k up to 100 and σ from 1e-8 to 1e6."""


@lru_cache(maxsize=8)
def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss and Legendre on [0, 1], there once and for all."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return tuple(torch.from_numpy(values).to(device) for values in ((nodes + 1) / 2, weights / 2))  # type: ignore[return-value]


Stiffness = Annotated[float, interval(0, 100, "(]")]
"""A rate of decay θ; at t = 1 the data are scaled by e^{−θ}."""


@component
class OUVE(Schedule):
    """dx = θ (y − x) dt + σ_min (σ_max/σ_min)^t √(2L) dw, L = ln(σ_max/σ_min), for t in [0, 1].

    The Ornstein–Uhlenbeck process whose noise explodes, of SGMSE (Welker et al. 2022; Richter et al. 2023). ``theta``
    is their γ, ``sigma_min`` and ``sigma_max`` those of the noise on each real entry. In their code x is complex and n
    has E|n|² = 1: with real and imaginary parts as channels, theirs are these times √2 (0.05 and 0.5 there are 0.0354
    and 0.354 here).
    """

    theta: Stiffness = 1.5
    sigma_min: Positive = 0.05
    sigma_max: Positive = 0.5  # type: ignore[assignment]  # a parameter of the diffusion coefficient, not σ(t_max)
    kind: Literal["ouve"] = "ouve"
    formulas: ClassVar[dict[str, str]] = {
        "s": "e^{−θt}",
        "sigma": "σ_min √(L/(θ+L) (e^{2(θ+L)t} − 1)), L = ln(σ_max/σ_min)",
        "f": "−θ",
        "g": "σ_min (σ_max/σ_min)^t √(2L)",
        "time": "ln(1 + (θ+L)/L σ²/σ_min²)/(2(θ+L))",
    }

    def __post_init__(self) -> None:
        falling("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def _rate(self) -> float:
        return self.theta + math.log(self.sigma_max / self.sigma_min)

    @property
    def _scale(self) -> float:
        """σ_min² L/(θ+L)."""
        return self.sigma_min**2 * math.log(self.sigma_max / self.sigma_min) / self._rate

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(-self.theta * t)

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self._scale * torch.expm1(2 * self._rate * t))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, -self.theta)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return self._rate / -torch.expm1(-2 * self._rate * t)

    def _time(self, sigma: Tensor) -> Tensor:
        return torch.log1p(sigma**2 / self._scale) / (2 * self._rate)


@component
class BBED(Schedule):
    """dx = (y − x)/(1 − t) dt + √c k^t dw for t in [0, 0.999] (Lay et al. 2023).

    The Brownian bridge with exponential diffusion: s = 1 − t and σ² = c ∫_0^t k^{2u}/(1−u)² du. Near t = 1 the mean is
    y whatever x_0 is, so that the start of a run is off by less than that of :class:`OUVE`: by 0.017 (x_0 − y) standard
    deviations with these values. The variance, s²σ², goes to 0 only at t = 1, where the drift is infinite and nobody
    starts.
    """

    k: Annotated[float, interval(1, 100, "(]")] = 2.6
    c: Positive = 0.51
    kind: Literal["bbed"] = "bbed"
    formulas: ClassVar[dict[str, str]] = {
        "s": "1 − t",
        "sigma": "√(c ∫_0^t k^{2u}/(1−u)² du)",
        "f": "−1/(1−t)",
        "g": "√c k^t",
        "time": "by Newton's method in ln σ",
    }

    @property
    def t_max(self) -> float:
        return 0.999

    @property
    def _a(self) -> float:
        return 2 * math.log(self.k)

    def _integral(self, t: Tensor) -> Tensor:
        """∫_0^t e^{au}/(1−u)² du = e^a (t/(1−t) + a ln(1−t) − ∫_{1−t}^1 h dw), h = (1 − e^{−aw} − aw)/w², smooth."""
        nodes, weights = _quadrature(t.device)
        a, w = self._a, 1 - t[..., None] * nodes
        h = -(torch.expm1(-a * w) + a * w) / w**2
        return math.exp(a) * (t / (1 - t) + a * torch.log1p(-t) - t * (h * weights).sum(-1))

    def _s(self, t: Tensor) -> Tensor:
        return 1 - t

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.c * self._integral(t))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 * torch.exp(self._a * t) / ((1 - t) ** 2 * self._integral(t))

    def _time(self, sigma: Tensor) -> Tensor:
        # Newton's method in ln q, q = t/(1−t), kept between bounds: 1 ≤ k^{2u} ≤ k² gives q ≤ σ²/c ≤ k² q
        target = torch.log(sigma**2 / self.c)
        low, high = target - self._a, target
        log_q = target - self._a * sigma**2 / (self.c + sigma**2)  # exact at both ends of the axis
        for _ in range(ITERATIONS):
            q = torch.exp(log_q)
            t = q / (1 + q)
            integral = self._integral(t)
            excess = torch.log(integral) - target
            low, high = torch.where(excess < 0, log_q, low), torch.where(excess > 0, log_q, high)
            newton = log_q - excess * integral / (q * torch.exp(self._a * t))
            log_q = torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
        return torch.sigmoid(log_q)
