"""Bridges between x_0 and an observation y, which end at y exactly: one family, told apart by a variance v(t).

A linear process whose own marginals are N(y + b(t) (x_0 − y), b(t)² v(t) I), held to end at y at t = 1, is the Gaussian

    x_t = y + s (x_0 − y) + s σ n,     s = b (1 − v/V),     σ² = v V/(V − v),     V = v(1),

with variance s²σ² = b² v (V − v)/V, 0 at both ends. So a bridge is a schedule, and y the anchor of a run. Written in
σ all of them with one V are the same process; what differs is their time.

==========================  =============  ============================  ===========================================
schedule                    b              v                             published as
==========================  =============  ============================  ===========================================
:class:`VEBridge`           1              c (k^{2t} − 1)/(2 ln k)       Schrödinger bridge, VE (Jukić et al. 2024)
:class:`BrownianBridge`     1              V t                           Brownian bridge, I²SB with constant β
:class:`I2SB`               1              ∫ β, β symmetric about ½      I²SB (Liu et al. 2023)
:class:`DDBM`               1              V t²                          DDBM, VE (Zhou et al. 2024)
:class:`GOUBridge`          e^{−θt}        λ² (e^{2θt} − 1)              GOUB (Yue et al. 2024), UniDB as γ → ∞
==========================  =============  ============================  ===========================================

A path x_t = a x_0 + b y + c n whose weights do not sum to one, such as DDBM under VP, is the same process in σ = c/a:
every method but those that take straight steps in x_t and t sees no difference.

**Start.** At t = 1 stands σ = ∞. ``t_max`` is where s/b = 1e-6, σ = 1000 √V: the start is then off by a thousandth of
(x_0 − y)/√V standard deviations. Higher σ can be asked for, but 1 − t has few digits there, and the steps of a
Runge–Kutta method in t are useless from so near the end, where dx_t/dt is infinite: start them at t = 0.99. The
published samplers of the Schrödinger bridge are DDIM here, η = 1 their SDE; η = 0, from zero noise, their ODE.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Positive, interval
from edm_unified.schedules.base import Schedule, float64

LEAST_REST = 1e-6
"""1 − v/V at ``t_max``."""


class Bridge(Schedule):
    """A process pinned at y at t = 1; final subclasses say its variance v, in both directions of time."""

    decay: ClassVar[float] = 0.0
    """θ of b = e^{−θt}."""

    @abstractmethod
    def _v(self, t: Tensor) -> Tensor:
        """v(t)."""

    @abstractmethod
    def _rest(self, t: Tensor) -> Tensor:
        """V − v(t), with its digits near t = 1."""

    @abstractmethod
    def _v_rate(self, t: Tensor) -> Tensor:
        """v'(t)."""

    @abstractmethod
    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        """t of v, with V − v beside it, each with all its digits."""

    @property
    def _V(self) -> float:
        return float(self._rest(float64(0.0)))

    @property
    def t_max(self) -> float:
        return float(self._time(float64(math.sqrt(self._V * (1 / LEAST_REST - 1)))))

    def _s(self, t: Tensor) -> Tensor:
        return torch.exp(-self.decay * t) * self._rest(t) / self._V

    def _sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(self._v(t) * self._V / self._rest(t))

    def _std(self, t: Tensor) -> Tensor:  # not s σ, which is 0 · ∞ at t = 1
        return torch.exp(-self.decay * t) * torch.sqrt(self._v(t) * self._rest(t) / self._V)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -self.decay - self._v_rate(t) / self._rest(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 * self._v_rate(t) * (1 / self._v(t) + 1 / self._rest(t))

    def _time(self, sigma: Tensor) -> Tensor:
        total = sigma**2 + self._V
        return self._time_of(self._V * (sigma**2 / total), self._V * (self._V / total))


_BRIDGE = {"s": "b (1 − v/V), V = v(1)", "sigma": "√(v V/(V − v))", "f": "b'/b − v'/(V − v)", "g": "b √v'"}


@component
class VEBridge(Bridge):
    """v = c (k^{2t} − 1)/(2 ln k): the Schrödinger bridge of dx = √c k^t dw (Jukić et al. 2024, Table 1, "VE").

    ``c`` is that of the noise on each real entry: half of theirs, where x is complex and n has E|n|² = 1.
    """

    k: Annotated[float, interval(1, 1e3, "(]")] = 2.6
    c: Positive = 0.4
    kind: Literal["ve_bridge"] = "ve_bridge"
    formulas: ClassVar[dict[str, str]] = {**_BRIDGE, "v": "c (k^{2t} − 1)/(2 ln k)", "b": "1"}

    @property
    def _a(self) -> float:
        return 2 * math.log(self.k)

    def _v(self, t: Tensor) -> Tensor:
        return self.c * torch.expm1(self._a * t) / self._a

    def _rest(self, t: Tensor) -> Tensor:
        return self.c * torch.exp(self._a * t) * torch.expm1(self._a * (1 - t)) / self._a

    def _v_rate(self, t: Tensor) -> Tensor:
        return self.c * torch.exp(self._a * t)

    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        return torch.log1p(self._a * v / self.c) / self._a


@component
class BrownianBridge(Bridge):
    """v = V t: x_t = (1−t) x_0 + t y + √(V t (1−t)) n, of variance V/4 half-way. ``variance`` is V."""

    variance: Positive = 1.0
    kind: Literal["brownian_bridge"] = "brownian_bridge"
    formulas: ClassVar[dict[str, str]] = {**_BRIDGE, "v": "V t", "b": "1"}

    def _v(self, t: Tensor) -> Tensor:
        return self.variance * t

    def _rest(self, t: Tensor) -> Tensor:
        return self.variance * (1 - t)

    def _v_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.variance)

    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        return v / self.variance


@component
class I2SB(Bridge):
    """v = ∫_0^t β, √β a straight line from √β_0 toward √β_1 at t = 1, but mirrored at t = ½ (Liu et al. 2023).

    Image-to-image Schrödinger bridge, in continuous time. Its code has a table of 1000 β/1000 with β_0 = 0.1 and
    β_1 = 0.3 (``beta_max``) and sums it; v here is that sum to a thousandth.
    """

    beta_0: Positive = 0.1
    beta_1: Positive = 0.3
    kind: Literal["i2sb"] = "i2sb"
    formulas: ClassVar[dict[str, str]] = {**_BRIDGE, "v": "∫ β, √β = √β_0 + (√β_1 − √β_0) min(t, 1−t)", "b": "1"}

    @property
    def _slope(self) -> float:
        return math.sqrt(self.beta_1) - math.sqrt(self.beta_0)

    def _half(self, t: Tensor) -> Tensor:
        """v for t ≤ ½."""
        return t * (self.beta_0 + t * (math.sqrt(self.beta_0) * self._slope + t * self._slope**2 / 3))

    def _time_of_half(self, v: Tensor) -> Tensor:
        if self._slope == 0:
            return v / self.beta_0
        root = torch.expm1(torch.log1p(3 * self._slope * v / self.beta_0**1.5) / 3)
        return root * math.sqrt(self.beta_0) / self._slope

    @property
    def _V(self) -> float:
        return 2 * float(self._half(float64(0.5)))

    def _v(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0.5, self._half(t), self._V - self._half(1 - t))

    def _rest(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0.5, self._V - self._half(t), self._half(1 - t))

    def _v_rate(self, t: Tensor) -> Tensor:
        return (math.sqrt(self.beta_0) + self._slope * torch.minimum(t, 1 - t)) ** 2

    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        least = torch.minimum(v, rest)
        t = self._time_of_half(least)
        return torch.where(v <= rest, t, 1 - t)


@component
class DDBM(Bridge):
    """v = V t²: the denoising diffusion bridge over the VE process σ_t = t (Zhou et al. 2024, Table 1).

    Its time is divided by its end here; ``end`` is that, √V.
    """

    end: Positive = 80.0
    kind: Literal["ddbm"] = "ddbm"
    formulas: ClassVar[dict[str, str]] = {**_BRIDGE, "v": "V t², V = end²", "b": "1"}

    def _v(self, t: Tensor) -> Tensor:
        return (self.end * t) ** 2

    def _rest(self, t: Tensor) -> Tensor:
        return self.end**2 * (1 - t) * (1 + t)

    def _v_rate(self, t: Tensor) -> Tensor:
        return 2 * self.end**2 * t

    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        return torch.sqrt(v) / self.end


@component
class GOUBridge(Bridge):
    """b = e^{−θt}, v = λ² (e^{2θt} − 1): dx = θ (y − x) dt + λ √(2θ) dw, held to end at y (Yue et al. 2024, GOUB).

    Of constant θ and g; λ² is the variance at which the process without the end would settle. UniDB puts a finite
    penalty γ in the place of the end, and is this for γ → ∞ (Zhu et al. 2025).
    """

    theta: Annotated[float, interval(1e-3, 100)] = 2.0
    lam: Positive = 0.3
    kind: Literal["gou_bridge"] = "gou_bridge"
    formulas: ClassVar[dict[str, str]] = {**_BRIDGE, "v": "λ² (e^{2θt} − 1)", "b": "e^{−θt}"}

    @property
    def decay(self) -> float:  # type: ignore[override]
        return self.theta

    def _v(self, t: Tensor) -> Tensor:
        return self.lam**2 * torch.expm1(2 * self.theta * t)

    def _rest(self, t: Tensor) -> Tensor:
        return self.lam**2 * torch.exp(2 * self.theta * t) * torch.expm1(2 * self.theta * (1 - t))

    def _v_rate(self, t: Tensor) -> Tensor:
        return 2 * self.theta * self.lam**2 * torch.exp(2 * self.theta * t)

    def _time_of(self, v: Tensor, rest: Tensor) -> Tensor:
        return torch.log1p(v / self.lam**2) / (2 * self.theta)
