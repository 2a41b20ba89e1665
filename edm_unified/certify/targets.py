"""The targets, all with an exact answer, and the exact flow of the mixtures.

**Mixtures** in 1, 2 and 64 dimensions, side by side in one state of shape (3·B, 64) in which the coordinates that a
target does not have are 0. A run thus measures all three at once. **Spectrum**: a Gaussian of power-law variances with
a near-null floor, for which every sampler is linear in its noises. **Random**: a smooth nonlinear denoiser that belongs
to no data at all, on which two methods agree only if they are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

HIGH, LOW = 8.0, 0.15
"""The smooth range: from well above the data to half of their finest scale."""
DIMENSIONS = (1, 2, 64)
SAMPLES = 6

Flow = Callable[[float], Tensor]
"""σ ↦ the exact states at σ."""


def graded(n: int, high: float = HIGH, low: float = LOW) -> list[float]:
    """n + 1 levels of Karras' rule, ρ = 7: even in no coordinate that a solver works in."""
    root = np.linspace(high ** (1 / 7), low ** (1 / 7), n + 1)
    return [high, *(root[1:-1] ** 7).tolist(), low]


def uneven(n: int) -> list[float]:
    """n + 1 levels whose steps in ln σ are by turns short and twice as long."""
    ends = np.cumsum([0.0, *(1.0 + i % 2 for i in range(n))])
    return [HIGH, *(HIGH * (LOW / HIGH) ** (ends[1:-1] / ends[-1])).tolist(), LOW]


class Mixtures:
    """D of the three mixtures of three isotropic Gaussians each, in closed form."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        means = np.zeros((3, 3, 64))
        means[0, :, 0] = (-1.1, 0.3, 1.4)
        means[1, :, :2] = ((-1.0, -0.4), (0.9, -0.3), (0.2, 1.1))
        means[2] = 0.16 * rng.standard_normal((3, 64))
        self.means = torch.from_numpy(means)
        self.squares = self.means.square().sum(-1)[:, None]
        self.variances = torch.tensor([[0.19, 0.14, 0.26]], dtype=torch.float64).expand(3, 3)[:, None]
        self.log_weights = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64).log()
        self.half_d = 0.5 * torch.tensor(DIMENSIONS, dtype=torch.float64)[:, None, None]
        noise = rng.standard_normal((3, SAMPLES, 64))
        for target, d in enumerate(DIMENSIONS):
            noise[target, :, d:] = 0
        self.start = HIGH * torch.from_numpy(noise).reshape(3 * SAMPLES, 64)

    def __call__(self, x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        y = x.reshape(3, -1, 64)
        if sigma.ndim:
            sigma = sigma.reshape(3, -1, 1)
        total = self.variances + sigma.square()
        gain = self.variances / total
        q = y.square().sum(-1, keepdim=True) - 2 * (y @ self.means.mT) + self.squares
        r = torch.softmax(self.log_weights - self.half_d * total.log() - 0.5 * q / total, -1)
        return ((r * (1 - gain)) @ self.means + (r * gain).sum(-1, keepdim=True) * y).reshape(x.shape)

    def errors(self, x: Tensor, exact: Tensor) -> tuple[float, ...]:
        """RMS distance per coordinate, one number for each target."""
        square = (x - exact).square().reshape(3, -1).sum(-1)
        return tuple(math.sqrt(float(s) / (SAMPLES * d)) for s, d in zip(square, DIMENSIONS, strict=True))


@cache
def mixtures() -> Mixtures:
    return Mixtures()


@cache
def exact_flow(eta2: tuple[float, ...] = (0.0,)) -> Flow:
    """The solution of dx/dλ = (1 + η²(λ)) (D − x), λ = −ln σ, from the common start: scipy's DOP853 to 3e-14.

    ``eta2`` are Chebyshev coefficients of η² on [−ln HIGH, −ln LOW].
    """
    target, lam = mixtures(), (-math.log(HIGH), -math.log(LOW))
    amplitude = np.polynomial.Chebyshev(eta2, domain=lam)

    def slope(u: float, x: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(x).reshape(target.start.shape)
        out = target(state, torch.tensor(math.exp(-u), dtype=torch.float64)) - state
        return (1 + float(amplitude(u))) * out.reshape(-1).numpy()

    start = target.start.reshape(-1).numpy()
    solution = solve_ivp(slope, lam, start, method="DOP853", dense_output=True, rtol=3e-14, atol=1e-14)

    def at(sigma: float) -> Tensor:
        if sigma == HIGH:
            return target.start.clone()  # a plugin may write into it
        u = lam[1] if sigma == LOW else -math.log(sigma)
        return torch.from_numpy(solution.sol(u)).reshape(target.start.shape)

    return at


VARIANCES = (*(k**-1.5 for k in (1, 2, 4, 8, 16, 32, 64)), 1e-6)
"""The spectrum: a power law, and a near-null floor of standard deviation 0.001."""


class Spectrum:
    """D for data ~ N(0, v), one row of coefficients for each v: linear, so that noises stay separate."""

    def __init__(self) -> None:
        self.v = torch.tensor(VARIANCES, dtype=torch.float64)[:, None]

    def __call__(self, x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        return self.v / (self.v + (sigma[:, None] if sigma.ndim else sigma).square()) * x


class Random:
    """A network with random weights: x ↦ W₂ tanh(W₁ x/√(1+σ²) + b ln σ)."""

    shape = (5,)

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.first, self.second = (torch.from_numpy(rng.standard_normal(s) / 2) for s in ((5, 16), (16, 5)))
        self.bias = torch.from_numpy(rng.standard_normal(16) / 4)

    def __call__(self, x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        sigma = sigma[:, None] if sigma.ndim else sigma
        return torch.tanh(x / torch.sqrt(1 + sigma.square()) @ self.first + self.bias * sigma.log()) @ self.second


def nothing(x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
    """D = 0."""
    return torch.zeros_like(x)
