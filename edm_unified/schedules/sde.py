"""A schedule from any linear SDE dx = f x dt + g dw, by quadrature.

dx = f(t) x dt + g(t) dw from x(0) = x_0 has (Karras et al. 2022, Eqs. 10-12; Särkkä & Solin 2019, Eq. 6.7)

    s(t) = exp ∫_0^t f,     σ(t)² = ∫_0^t (g/s)².

Both integrals run over panels of 16 Gauss–Legendre nodes. A panel is halved until halving no longer changes its two
integrals, so that a g that blows up at the end of the time axis (flow matching: g² = 2t/(1−t)) costs more panels and no
accuracy. A point inside a panel is integrated from that panel's left edge with the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified.components.component import positive
from edm_unified.schedules.base import Schedule

_X, _W = np.polynomial.legendre.leggauss(16)
_NODES = torch.from_numpy((_X + 1) / 2)
_WEIGHTS = torch.from_numpy(_W / 2)

Coefficient = Callable[[Tensor], Tensor]


class _Panels(NamedTuple):
    edges: Tensor  # (P+1,) panel edges in t
    log_s: Tensor  # (P+1,) ln s at the edges
    variance: Tensor  # (P+1,) σ² at the edges


@dataclass(frozen=True, eq=False)  # one function may be another by the next run: an SDE equals itself alone
class SDE(Schedule):
    """The schedule of dx = f(t) x dt + g(t) dw for t in [0, t_end]; from Python only.

    ``f`` and ``g`` map a float64 tensor of times to one of the same shape, or to one number for all of them. σ must
    grow without bound on the range that is asked of it; g must be positive on (0, t_end) and integrable at both ends,
    f finite on [0, t_end].
    """

    f_of_t: Coefficient
    g_of_t: Coefficient
    t_end: float = 1.0
    formulas: ClassVar[dict[str, str]] = {"s": "exp ∫ f", "sigma": "√∫ (g/s)²", "f": "given", "g": "given"}

    def __post_init__(self) -> None:
        positive("t_end", self.t_end)
        for name, of_t in (("f", self.f_of_t), ("g", self.g_of_t)):
            _try(name, of_t, self.t_end)
        panels = _panels(self)
        if not (torch.isfinite(panels.log_s).all() and torch.isfinite(panels.variance).all()):
            raise ValueError("f, g: the integrals of f and (g/s)² are not finite on [0, t_end]; lower t_end")
        if not bool((panels.variance.diff() > 0).all()):
            raise ValueError("g: must be positive inside (0, t_end), so that the noise level grows with time")

    @property
    def t_max(self) -> float:
        return self.t_end

    @property
    def sigma_limit(self) -> float:  # type: ignore[override]
        return math.sqrt(float(_panels(self).variance[-1]))

    def _locate(self, t: Tensor) -> Tensor:
        edges = _panels(self).edges
        return (torch.searchsorted(edges, t.detach().cpu(), right=True) - 1).clamp(0, len(edges) - 2)

    def _log_s(self, t: Tensor) -> Tensor:
        panels, index = _panels(self), self._locate(t)
        return panels.log_s[index] + _integral_of_f(self.f_of_t, panels.edges[index], t)

    def _variance(self, t: Tensor) -> Tensor:
        panels, index = _panels(self), self._locate(t)
        left = panels.edges[index]
        return panels.variance[index] + _integral_of_variance(self.f_of_t, self.g_of_t, left, t, panels.log_s[index])

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(self._log_s(t))

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self._variance(t))

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return _numbers(self.f_of_t, t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 * _numbers(self.g_of_t, t) ** 2 / (torch.exp(2 * self._log_s(t)) * self._variance(t))

    def _time(self, sigma: Tensor) -> Tensor:
        panels = _panels(self)
        target = sigma**2
        index = (torch.searchsorted(panels.variance, target) - 1).clamp(0, len(panels.edges) - 2)
        low, high = panels.edges[index], panels.edges[index + 1]
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self._variance(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)


def from_sde(f: Coefficient, g: Coefficient, t_max: float = 1.0) -> SDE:
    """The schedule of the forward SDE dx = f(t) x dt + g(t) dw on [0, t_max].

    Example: ``from_sde(lambda t: 0 * t, lambda t: 25.0**t)`` is :class:`ExponentialVE` with base 25.
    """
    return SDE(f, g, t_max)


def _numbers(of_t: Coefficient, t: Tensor) -> Tensor:
    """A coefficient at the times t, in float64 and in their shape; one number stands for all."""
    return torch.as_tensor(of_t(t), dtype=torch.float64, device=t.device).expand_as(t)


def _try(name: str, of_t: object, t_end: float) -> None:
    """Raise ``ValueError`` where the coefficient ``name`` is no function of a tensor of times."""
    remedy = f"{name} must take a tensor of times and return a number for each, as in lambda t: torch.exp(t)"
    if not callable(of_t):
        raise ValueError(f"{name}: {of_t!r} is no function; {remedy}")
    t = torch.linspace(0.25 * t_end, 0.75 * t_end, 6, dtype=torch.float64).view(2, 3)
    try:
        value = of_t(t)
        found = torch.as_tensor(value)
    except Exception as error:  # a function of the user's may raise anything
        raise ValueError(
            f"{name}: raised {type(error).__name__} for times of shape (2, 3), {error}; {remedy}"
        ) from None
    if found.is_complex() or found.shape not in (torch.Size(), t.shape):
        got = f"{found.dtype}" if found.is_complex() else f"shape {tuple(found.shape)}"
        raise ValueError(f"{name}: returned {got} for times of shape (2, 3); {remedy}")


def _integral_of_f(f: Coefficient, left: Tensor, right: Tensor) -> Tensor:
    width = right - left
    return (_numbers(f, left[..., None] + width[..., None] * _NODES) * _WEIGHTS).sum(-1) * width


def _integral_of_variance(f: Coefficient, g: Coefficient, left: Tensor, right: Tensor, log_s: Tensor) -> Tensor:
    """∫ g² e^{−2 ln s}, with ln s at each node from an inner integral of f that starts at ``left``."""
    width = right - left
    t = left[..., None] + width[..., None] * _NODES
    inner = log_s[..., None] + _integral_of_f(f, left[..., None].expand_as(t), t)
    return (_numbers(g, t) ** 2 * torch.exp(-2 * inner) * _WEIGHTS).sum(-1) * width


@lru_cache(maxsize=16)
def _panels(schedule: SDE, most: int = 4096) -> _Panels:
    f, g = schedule.f_of_t, schedule.g_of_t
    edges = [0.0]
    log_s, variance = [0.0], [0.0]
    pending = [float(e) for e in torch.linspace(0, schedule.t_end, 9, dtype=torch.float64)[1:].flip(0)]
    while pending:
        left, right = torch.tensor(edges[-1], dtype=torch.float64), torch.tensor(pending[-1], dtype=torch.float64)
        start = torch.tensor(log_s[-1], dtype=torch.float64)
        middle = 0.5 * (left + right)
        whole_f, whole_v = _integral_of_f(f, left, right), _integral_of_variance(f, g, left, right, start)
        half_f, half_v = _integral_of_f(f, left, middle), _integral_of_variance(f, g, left, middle, start)
        halves_f = half_f + _integral_of_f(f, middle, right)
        halves_v = half_v + _integral_of_variance(f, g, middle, right, start + half_f)
        settled = abs(whole_f - halves_f) <= 1e-13 * (1 + abs(halves_f)) and abs(whole_v - halves_v) <= 1e-12 * halves_v
        finite = math.isfinite(halves_f) and math.isfinite(halves_v)  # if not, __post_init__ says so
        if settled or not finite or float(right - left) < 1e-15 * schedule.t_end or len(edges) + len(pending) > most:
            edges.append(pending.pop())
            log_s.append(log_s[-1] + float(halves_f))
            variance.append(variance[-1] + float(halves_v))
        else:
            pending.append(float(middle))
    return _Panels(*(torch.tensor(column, dtype=torch.float64) for column in (edges, log_s, variance)))
