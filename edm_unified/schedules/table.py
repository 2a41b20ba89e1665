"""Tables of betas: DDPM's discrete chain, made continuous.

A chain of M steps x_k = √(1−β_k) x_{k−1} + √β_k n has ᾱ_k = Π (1−β_j), s_k = √ᾱ_k and σ_k = √((1−ᾱ_k)/ᾱ_k)
(Ho et al. 2020, Eq. 4). With B_k = −ln ᾱ_k = −Σ ln(1−β_j) it is the VP family at t = k/M:

    s = e^{−B/2},   σ² = e^B − 1,

and B between the nodes is the cubic spline through them (two continuous derivatives, so that methods up to order 3 keep
their order under a table) or, where that would not be monotone, PCHIP's monotone cubic (one). So σ(t) is defined
and invertible everywhere and is the table's own value at the table's own times. B(0) = 0: clean data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy.interpolate import CubicSpline, PchipInterpolator
from torch import Tensor

from edm_unified.components.component import SMALLEST, choice, component
from edm_unified.components.constraints import Nonnegative, interval, whole
from edm_unified.schedules.base import Schedule

BetaKind = Literal["linear", "scaled_linear", "cosine"]


def beta_table(
    betas: BetaKind | tuple[float, ...] = "linear",
    num_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    offset: float = 0.008,
    max_beta: float = 0.999,
) -> Tensor:
    """β_1 … β_M in float64.

    ``linear``: equally spaced from ``beta_start`` to ``beta_end`` (Ho et al. 2020, section 4).
    ``scaled_linear``: the squares of equally spaced roots (latent diffusion).
    ``cosine``: β_k = min(1 − ᾱ(k/M)/ᾱ((k−1)/M), max_beta), ᾱ(t) ∝ cos²((π/2)(t + offset)/(1 + offset)) (Nichol &
    Dhariwal 2021, Eq. 17). A tuple is taken as it is.
    """
    if not isinstance(betas, str):
        return torch.tensor(betas, dtype=torch.float64)
    return _BETAS[betas](num_steps, beta_start, beta_end, offset, max_beta)


def _linear(num_steps: int, start: float, end: float, offset: float, max_beta: float) -> Tensor:
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def _scaled_linear(num_steps: int, start: float, end: float, offset: float, max_beta: float) -> Tensor:
    return torch.linspace(math.sqrt(start), math.sqrt(end), num_steps, dtype=torch.float64) ** 2


def _cosine(num_steps: int, start: float, end: float, offset: float, max_beta: float) -> Tensor:
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    alpha_bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


Beta = Annotated[float, interval(SMALLEST, 1, "[)")]
NumSteps = Annotated[int, whole(most=100_000)]

_BETAS = {"linear": _linear, "scaled_linear": _scaled_linear, "cosine": _cosine}


def table_sigmas(betas: Tensor) -> Tensor:
    """σ_1 < … < σ_M of a table of betas: σ_k = √((1−ᾱ_k)/ᾱ_k), by ``log1p`` and ``expm1``."""
    return torch.sqrt(torch.expm1(_exponents(betas)))


def _exponents(betas: Tensor) -> Tensor:
    """−ln ᾱ_k. Raises ``ValueError`` where the last σ² is beyond float64, ᾱ_M being less than 1e-300."""
    B = torch.cumsum(-torch.log1p(-betas), 0)
    if float(B[-1]) > 690:
        raise ValueError("betas: they leave nothing of the data, ᾱ_M is below 1e-300; take smaller or fewer ones")
    return B


class _Cubic(NamedTuple):
    """B(t) as cubics on the cells of t = k/M: B = Σ c_j u^{3−j}, u = t − k/M."""

    nodes: Tensor  # (M+1,) B_0 = 0 … B_M
    coefficients: Tensor  # (4, M)


@lru_cache(maxsize=32)
def _cubic(schedule: BetaTable) -> _Cubic:
    B = torch.cat([torch.zeros(1, dtype=torch.float64), _exponents(schedule.table)])
    t = np.linspace(0, 1, len(B))
    curve = CubicSpline(t, B.numpy()) if len(B) > 3 else PchipInterpolator(t, B.numpy())
    between = np.linspace(t[:-1], t[1:], 9)
    if not (curve(between, 1) > 0).all():
        curve = PchipInterpolator(t, B.numpy())
    return _Cubic(B, torch.from_numpy(np.ascontiguousarray(curve.c)))


def _columns(matrix: Tensor, index: Tensor) -> Tensor:
    """``matrix[:, index]``, which would wait for a 0-d index on a device."""
    return matrix.index_select(1, index.flatten()).reshape(len(matrix), *index.shape)


@component
class BetaTable(Schedule):
    """The schedule of a table of betas (DDPM, DDIM, iDDPM, Stable Diffusion), s = √ᾱ, σ = √((1−ᾱ)/ᾱ) at t = k/M.

    ``betas`` is a rule (see :func:`beta_table`) or the numbers β_1 … β_M themselves, each in (0, 1). The table ends at
    σ_M (157.4 for DDPM's, 14.6 for Stable Diffusion's, 20 291 for iDDPM's); a level beyond it is an error.
    """

    betas: BetaKind | tuple[float, ...] = "linear"
    num_steps: NumSteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    offset: Nonnegative = 0.008
    max_beta: Beta = 0.999
    kind: Literal["beta_table"] = "beta_table"
    formulas: ClassVar[dict[str, str]] = {
        "s": "√ᾱ",
        "sigma": "√((1−ᾱ)/ᾱ), ᾱ_k = Π_{j≤k} (1−β_j) at t = k/M",
        "f": "−½ B', B = −ln ᾱ (a cubic between the nodes)",
        "g": "√B'",
        "time": "B⁻¹(ln(1 + σ²))",
    }

    def __post_init__(self) -> None:
        if isinstance(self.betas, str):
            choice("betas", self.betas, _BETAS)
            return
        object.__setattr__(self, "betas", tuple(map(float, self.betas)))  # from a list, an array or a tensor as well
        if not self.betas or not all(SMALLEST <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: must be a non-empty list of numbers in (0, 1), none below {SMALLEST:g}")

    @property
    def table(self) -> Tensor:
        """β_1 … β_M."""
        return beta_table(self.betas, self.num_steps, self.beta_start, self.beta_end, self.offset, self.max_beta)

    @property
    def sigmas(self) -> Tensor:
        """σ_1 < … < σ_M."""
        return torch.sqrt(torch.expm1(_cubic(self).nodes[1:]))

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def sigma_limit(self) -> float:  # type: ignore[override]
        return float(torch.sqrt(torch.expm1(_cubic(self).nodes[-1])))

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of the cell that holds t, and the offset of t in it."""
        c = _cubic(self).coefficients.to(t.device, non_blocking=True)
        cells = c.shape[1]
        index = (t.detach() * cells).floor().long().clamp(0, cells - 1)
        return _columns(c, index), t - index.double() / cells

    def _B(self, t: Tensor) -> Tensor:
        (c3, c2, c1, c0), u = self._cell(t)
        return ((c3 * u + c2) * u + c1) * u + c0

    def _B_rate(self, t: Tensor) -> Tensor:
        (c3, c2, c1, _), u = self._cell(t)
        return (3 * c3 * u + 2 * c2) * u + c1

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._B(t))

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(self._B(t)))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self._B_rate(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 * self._B_rate(t) / -torch.expm1(-self._B(t))

    def _time(self, sigma: Tensor) -> Tensor:
        nodes = _cubic(self).nodes.to(sigma.device, non_blocking=True)
        cells = len(nodes) - 1
        B = torch.log1p(sigma**2)
        index = (torch.searchsorted(nodes, B) - 1).clamp(0, cells - 1)
        low, high = torch.zeros_like(B), torch.full_like(B, 1 / cells)
        c3, c2, c1, c0 = _columns(_cubic(self).coefficients.to(sigma.device, non_blocking=True), index)
        u = (B - c0) / (nodes.take(index + 1) - c0) / cells
        for _ in range(200):  # Newton's method; a step that leaves the bracket is replaced by a halving of it
            excess = ((c3 * u + c2) * u + c1) * u + c0 - B
            low, high = torch.where(excess < 0, u, low), torch.where(excess < 0, high, u)
            newton = u - excess / ((3 * c3 * u + 2 * c2) * u + c1)
            last, u = u, torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
            if bool(((u - last).abs() <= 1e-15 * u).all()):
                break
        return index.double() / cells + u
