"""Coordinates of the probability-flow ODE, in which a linear multistep method interpolates its history.

Written as D = c_skip x + c_out f, a denoiser has a raw output f, and x, rescaled to y = m x, obeys dy = f K du exactly:

    coordinate           u               f                  m                K du    who uses it
    :class:`Sigma`       σ               ε                  1                dσ      LMS, iPNDM, PNDM
    :class:`LogSNR`      λ = −ln σ       ε                  1                dσ      DPM-Solver in ε
    :class:`FlowTime`    σ/(1+σ)         v = ε − D          1/(1+σ)          du      flow matching
    :class:`TimeOfVP`      t(σ)            ε                  1                dσ      DEIS
    :class:`Arc`         arctan(σ/σ_d)   (c_skip x−D)/c_out 1/√(σ²+σ_d²)     du      EDM's raw network output

with c_skip = 1, 1, 1/(1+σ), 1, σ_d²/(σ²+σ_d²). Adams–Bashforth puts in the place of f the polynomial in u through its
last values, and integrates that exactly (Hairer, Nørsett & Wanner 1993, section III.5; Zhang & Chen 2022, Eq. 15):

    m_b x_b = m_a x_a + Σ_j c_j f_j,   c_j = ∫_a^b ℓ_j(u) K du.

With v = (u − u_a)/(u_b − u_a), the c_j/∫K du are the w that have Σ_j w_j v_j^k = M_k, the moments of K dv on [0, 1]: in
a shifted and scaled variable nothing overflows and no digits cancel. M_k = 1/(k+1) where K = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edm_unified.sampling.solvers.phi import phis
from edm_unified.sampling.solvers.printed import Form
from edm_unified.sampling.solvers.quadrature import moments, panelled


class Coordinate(ABC):
    """See the module docstring."""

    reaches_zero: ClassVar[bool] = True
    """Whether u is finite at σ = 0, so that a fall to 0 can be integrated; otherwise it returns D."""

    @abstractmethod
    def u(self, sigma: Any) -> Any:
        """The coordinate, an increasing or decreasing function of σ; of a number or of an array."""

    def m(self, sigma: float) -> float:
        """y/x."""
        return 1.0

    def f(self, x: Form, D: Form, sigma: float) -> Form:
        """The raw output: ε unless a coordinate says otherwise."""
        return (x - D) / sigma

    def span(self, a: float, b: float) -> float:
        """∫_a^b K du."""
        return float(self.u(b) - self.u(a))

    def moments(self, a: float, b: float, most: int) -> Sequence[float]:
        """M_0 = 1, M_1 … M_{most−1} of the fall from a to b."""
        return [1 / (k + 1) for k in range(most)]

    def nodes(self, a: float, b: float, before: Sequence[float]) -> list[float]:
        """v of the outputs at a and, newest first, at the levels ``before`` it."""
        start = self.u(a)
        step = self.u(b) - start
        return [0.0, *(float((self.u(sigma) - start) / step) for sigma in before)]


@dataclass(frozen=True)
class Sigma(Coordinate):
    """ε as a polynomial in σ."""

    def u(self, sigma: Any) -> Any:
        return sigma


@dataclass(frozen=True)
class StepIndex(Sigma):
    """ε as a polynomial in the number of the step, with K constant over it, as if steps in σ were even."""

    def nodes(self, a: float, b: float, before: Sequence[float]) -> list[float]:
        return [-float(j) for j in range(len(before) + 1)]


@dataclass(frozen=True)
class FlowTime(Coordinate):
    """The velocity v = ε − D as a polynomial in σ/(1+σ), the time of rectified flow."""

    def u(self, sigma: Any) -> Any:
        return sigma / (1 + sigma)

    def m(self, sigma: float) -> float:
        return 1 / (1 + sigma)

    def f(self, x: Form, D: Form, sigma: float) -> Form:
        return (x - D) / sigma - D


@dataclass(frozen=True)
class Arc(Coordinate):
    """The raw output of a network under EDM's or v-prediction's preconditioning, in θ = arctan(σ/σ_d)."""

    sigma_data: float

    def u(self, sigma: Any) -> Any:
        return np.arctan2(sigma, self.sigma_data)

    def m(self, sigma: float) -> float:
        return 1 / math.hypot(sigma, self.sigma_data)

    def f(self, x: Form, D: Form, sigma: float) -> Form:
        root = math.hypot(sigma, self.sigma_data)
        c_skip, c_out = (self.sigma_data / root) ** 2, sigma * self.sigma_data / root
        return (c_skip * x - D) / c_out


@dataclass(frozen=True)
class LogSNR(Coordinate):
    """ε as a polynomial in λ = −ln σ: K du = dσ has moments k! φ_{k+1}(h)/φ_1(h), h = ln(a/b)."""

    reaches_zero: ClassVar[bool] = False

    def u(self, sigma: Any) -> Any:
        return -np.log(sigma)

    def span(self, a: float, b: float) -> float:
        return b - a

    def moments(self, a: float, b: float, most: int) -> Sequence[float]:
        _, *values = phis(most, math.log(a / b))
        return [math.factorial(k) * value / values[0] for k, value in enumerate(values)]


@dataclass(frozen=True)
class TimeOfVP(Coordinate):
    """ε as a polynomial in the t of :class:`~edm_unified.schedules.VP`, ½β_d t² + β_min t = ln(1 + σ²).

    K du = dσ, integrated by quadrature in ln σ.
    """

    beta_d: float
    beta_min: float

    def u(self, sigma: Any) -> Any:
        xp = np if isinstance(sigma, np.ndarray) else math  # NumPy is slow on a number
        B = xp.log1p(sigma**2)
        return 2 * B / (self.beta_min + xp.sqrt(self.beta_min**2 + 2 * self.beta_d * B))

    def span(self, a: float, b: float) -> float:
        return b - a

    def moments(self, a: float, b: float, most: int) -> Sequence[float]:
        last = max(b, a * math.exp(-40))  # below it nothing is left of the integral in float64
        sigma, weights = panelled(a, last)
        u_a = self.u(a)
        return moments(weights / (a - b), (self.u(sigma) - u_a) / (self.u(last) - u_a), most)
