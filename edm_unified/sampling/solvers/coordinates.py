"""Coordinates of the probability-flow ODE, in which a linear multistep method interpolates its history.

Written as D = c_skip x + c_out f, a denoiser has a raw output f, and x, rescaled to y = m x, obeys dy = f K du exactly:

    coordinate           u               f                  m                K du    who uses it
    :class:`Sigma`       σ               ε                  1                dσ      LMS, iPNDM, PNDM
    :class:`LogSNR`      λ = −ln σ       ε                  1                dσ      DPM-Solver in ε
    :class:`FlowTime`    σ/(1+σ)         v = ε − D          1/(1+σ)          du      flow matching
    :class:`VPTime`      t(σ)            ε                  1                dσ      DEIS
    :class:`Arc`         arctan(σ/σ_d)   (c_skip x−D)/c_out 1/√(σ²+σ_d²)     du      EDM's raw network output

with c_skip = 1, 1, 1/(1+σ), 1, σ_d²/(σ²+σ_d²). Adams–Bashforth puts in the place of f the polynomial in u through its
last values, and integrates that exactly (Hairer, Nørsett & Wanner 1993, section III.5; Zhang & Chen 2022, Eq. 15):

    m_b x_b = m_a x_a + Σ_j c_j f_j,   c_j = ∫_a^b ℓ_j(u) K du.

With v = (u − u_a)/(u_b − u_a), the c_j/∫K du are the w that have Σ_j w_j v_j^k = M_k, the moments of K dv on [0, 1]: in
a shifted and scaled variable nothing overflows and no digits cancel. M_k = 1/(k+1) where K = 1; else they come from
16-point Gauss–Legendre in ln σ. (D in λ with its exponential kernel has moments in closed form: ``exponential.py``.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np

Start = Literal["plain", "rk2"]
"""How a multistep method makes the first step of a history: with its one output, or with a second evaluation."""
STARTS = ("plain", "rk2")
End = Literal["full", "lower"]
"""Whether a multistep method keeps its order to the end, or uses no more outputs than there are falls left."""
ENDS = ("full", "lower")


class Frame(NamedTuple):
    """A coordinate at one level: y = m x and f = n g, g = on_denoised D + on_x x."""

    m: float
    n: float
    on_denoised: float = 1.0
    on_x: float = -1.0


def weights_of_moments(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The w with Σ_j w_j v_j^k = M_k for k < len(nodes): ∫ ℓ_j of the Lagrange basis on ``nodes``.

    Björck & Pereyra 1970 (Golub & Van Loan 2013, Algorithm 4.6.2).
    """
    last = len(nodes) - 1
    w = list(moments[: last + 1])
    for k in range(last):
        for i in range(last, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            w[i] -= w[i + 1]
    return w


class Coordinate(ABC):
    """See the module docstring. Arrays are float64 and one-dimensional, one entry for each fall."""

    reaches_zero: ClassVar[bool] = True
    """Whether u is finite at σ = 0, so that a fall to 0 can be integrated; otherwise it returns D."""

    @abstractmethod
    def u(self, sigma: np.ndarray) -> np.ndarray:
        """The coordinate, an increasing or decreasing function of σ."""

    @abstractmethod
    def frame(self, sigma: float) -> Frame:
        """m, n, on_denoised and on_x at ``sigma``; only m at 0."""

    def span(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """∫_a^b K du."""
        return self.u(b) - self.u(a)

    def moments(self, a: np.ndarray, b: np.ndarray, most: int) -> list[list[float]]:
        """M_0 = 1, M_1 … M_{most−1} for each fall from a to b."""
        return [[1 / (k + 1) for k in range(most)]] * len(a)

    def nodes(self, before: Sequence[float], span: float) -> list[float]:
        """v of the past outputs, whose u less the newest's are ``before``; ``span`` is the step's."""
        return [du / span for du in before]


@dataclass(frozen=True)
class Sigma(Coordinate):
    """ε as a polynomial in σ."""

    def u(self, sigma: np.ndarray) -> np.ndarray:
        return sigma

    def frame(self, sigma: float) -> Frame:
        return _epsilon(sigma)


@dataclass(frozen=True)
class StepIndex(Sigma):
    """ε as a polynomial in the number of the step, with K constant over it, as if steps in σ were even."""

    def nodes(self, before: Sequence[float], span: float) -> list[float]:
        return [-float(j) for j in range(len(before))]


@dataclass(frozen=True)
class FlowTime(Coordinate):
    """The velocity v = ε − D as a polynomial in σ/(1+σ), the time of rectified flow."""

    def u(self, sigma: np.ndarray) -> np.ndarray:
        return sigma / (1 + sigma)

    def frame(self, sigma: float) -> Frame:
        m = 1 / (1 + sigma)
        return Frame(m, -1.0, 1 + 1 / sigma, -1 / sigma) if sigma > 0 else Frame(m, 0.0)


@dataclass(frozen=True)
class Arc(Coordinate):
    """The raw output of a network under EDM's or v-prediction's preconditioning, in θ = arctan(σ/σ_d)."""

    sigma_data: float

    def u(self, sigma: np.ndarray) -> np.ndarray:
        return np.arctan2(sigma, self.sigma_data)

    def frame(self, sigma: float) -> Frame:
        root, lean = math.hypot(sigma, self.sigma_data), -((self.sigma_data / sigma) ** 2) if sigma > 0 else 0.0
        return Frame(1 / root, -sigma / (self.sigma_data * root), 1 - lean, lean)


class EpsilonKernel(Coordinate):
    """ε in a coordinate other than σ: K du = dσ, integrated by quadrature in ln σ."""

    def frame(self, sigma: float) -> Frame:
        return _epsilon(sigma)

    def span(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return b - a

    def moments(self, a: np.ndarray, b: np.ndarray, most: int) -> list[list[float]]:
        return _quadrature(self, tuple(a.tolist()), tuple(b.tolist()), most)


@lru_cache(maxsize=64)
def _quadrature(
    coordinate: EpsilonKernel, starts: tuple[float, ...], ends: tuple[float, ...], most: int
) -> list[list[float]]:
    """The moments of each fall, remembered between runs over the same levels."""
    table = np.ones((len(starts), most))
    a, b = np.array(starts), np.array(ends)
    last = np.maximum(b, a * _NOTHING)
    h = np.log(a / last)
    panels = np.ceil(h / 2)
    for count in set(panels.tolist()):
        rows = panels == count
        s, w = _gauss_legendre(int(count))
        sigma = a[rows, None] * np.exp(-h[rows, None] * s)
        u_a, u_b = coordinate.u(a[rows, None]), coordinate.u(last[rows, None])
        v = (coordinate.u(sigma) - u_a) / (u_b - u_a)
        density = sigma * w * (h / (a - b))[rows, None]
        for k in range(1, most):
            density *= v
            table[rows, k] = density.sum(1)
    return table.tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LogSNR(EpsilonKernel):
    """ε as a polynomial in λ = −ln σ."""

    reaches_zero: ClassVar[bool] = False

    def u(self, sigma: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(sigma, 1e-300))  # the fall to 0 has a row of its own, and no use for this one


@dataclass(frozen=True)
class VPTime(EpsilonKernel):
    """ε as a polynomial in the t of :class:`~edm_unified.schedules.VP`, ½β_d t² + β_min t = ln(1 + σ²)."""

    beta_d: float
    beta_min: float

    def u(self, sigma: np.ndarray) -> np.ndarray:
        B = np.log1p(sigma**2)
        t: np.ndarray = 2 * B / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * self.beta_d * B))
        return t


def _epsilon(sigma: float) -> Frame:
    return Frame(1.0, -1 / sigma if sigma > 0 else 0.0)


_NOTHING = math.exp(-40)
"""σ/a below which the integral over ln σ has nothing left in float64."""


@lru_cache(maxsize=64)
def _gauss_legendre(panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], 16 to a panel.

    Every function of σ here is regular within π/2 of the real ln σ: on a panel of length 2 the error is below 1e−16.
    """
    x, w = np.polynomial.legendre.leggauss(16)
    left = np.arange(panels)[:, None]
    return ((left + 0.5 * (1 + x)) / panels).ravel(), np.tile(0.5 * w / panels, panels)
