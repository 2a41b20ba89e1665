"""The one interface of every schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

PRACTICAL_INFINITY = 1e6
"""σ that stands for σ = ∞ (flow matching at t = 1, zero terminal SNR): a relative error of 1e-6 in the start."""


def float64(value: float | Sequence[float] | Tensor) -> Tensor:
    """``value`` as a float64 tensor, on the device it is on."""
    return torch.as_tensor(value, dtype=torch.float64)


class Schedule(ABC):
    """s(t) and σ(t) with their logarithmic rates; subclasses are final and fill in the five underscored functions.

    ``t_max`` is the nominal end of the time axis (``inf`` where there is none) and ``sigma_limit`` the largest σ at
    which the schedule is defined at all. σ = 0 is always t = 0, by definition and not by rounding.
    """

    formulas: ClassVar[dict[str, str]]
    sigma_limit: ClassVar[float] = math.inf

    @property
    @abstractmethod
    def t_max(self) -> float: ...

    @abstractmethod
    def _s(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_s_rate(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _log_sigma_rate(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, sigma: Tensor) -> Tensor: ...

    def _std(self, t: Tensor) -> Tensor:
        return self._s(t) * self._sigma(t)

    @property
    def sigma_end(self) -> float:
        """σ(t_max): the level from which the published method starts; ``inf`` where the time axis has no end."""
        return float(self._sigma(float64(self.t_max))) if math.isfinite(self.t_max) else math.inf

    @property
    def sigma_max(self) -> float:
        """``sigma_end``, but for :class:`OUVE`, whose paper calls a parameter so."""
        return self.sigma_end

    @property
    def reaches_zero(self) -> bool:
        """Whether σ(0) = 0. It is not so for :class:`GeometricVE`, whose σ is σ_min at t = 0."""
        return float(self._sigma(float64(0.0))) == 0.0

    def s(self, t: float | Tensor) -> Tensor:
        """The scale s(t) of the data in x_t."""
        return self._s(float64(t))

    def sigma(self, t: float | Tensor) -> Tensor:
        """The noise level σ(t), relative to the data: x_t = s (x_0 + σ n)."""
        return self._sigma(float64(t))

    def std(self, t: float | Tensor) -> Tensor:
        """s(t) σ(t): the standard deviation of x_t given x_0."""
        return self._std(float64(t))

    def mean(self, t: float | Tensor, x_0: Tensor, anchor: Tensor | None = None) -> Tensor:
        """The mean of x_t given x_0 (B, *), t () or (B,): s x_0; y + s (x_0 − y) where the process is anchored at y."""
        s = self.s(t).to(x_0.device, x_0.dtype)
        s = s.view(-1, *[1] * (x_0.ndim - 1)) if s.ndim else s
        return s * x_0 if anchor is None else torch.lerp(anchor, x_0, s)

    def log_s_rate(self, t: float | Tensor) -> Tensor:
        """s'(t)/s(t)."""
        return self._log_s_rate(float64(t))

    def log_sigma_rate(self, t: float | Tensor) -> Tensor:
        """σ'(t)/σ(t)."""
        return self._log_sigma_rate(float64(t))

    def time(self, sigma: float | Tensor) -> Tensor:
        """σ⁻¹: the time at which the noise level is ``sigma``; 0 for σ = 0.

        Raises ``ValueError`` for a σ that is negative, NaN, infinite or beyond ``sigma_limit``. Checked on the
        CPU only: on a device the check would wait for it, at each evaluation of a network whose input is the time.
        """
        sigma = float64(sigma)
        if sigma.numel() == 0:
            return sigma
        if sigma.device.type != "cpu" or self._least(sigma) == 0:
            above = sigma > 0
            return torch.where(above, self._time(torch.where(above, sigma, 1e-3)), 0.0)
        return self._time(sigma)

    def _least(self, sigma: Tensor) -> float:
        """The lowest of the levels. Raises ``ValueError`` where one of them has no time."""
        values = sigma.detach().numpy()
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high < math.inf):  # so that NaN is caught as well
            bad = high if low >= 0 else low
            remedy = f"; use a large finite one such as {PRACTICAL_INFINITY:g}" if bad == math.inf else ""
            raise ValueError(f"sigma: must be finite and not negative, got {bad}{remedy}")
        if high > self.sigma_limit * (1 + 1e-12):
            raise ValueError(
                f"sigma: {high:.6g} is beyond this schedule ({type(self).__name__}), "
                f"which ends at {self.sigma_limit:.6g}; lower sigma_max"
            )
        return low

    def f(self, t: float | Tensor) -> Tensor:
        """Drift coefficient of dx = f x dt + g dw: f = s'/s (EDM appendix B)."""
        return self._log_s_rate(float64(t))

    def g(self, t: float | Tensor) -> Tensor:
        """Diffusion coefficient of dx = f x dt + g dw: g = s √(2 σ σ') (EDM appendix B)."""
        t = float64(t)
        return self._s(t) * self._sigma(t) * torch.sqrt(2 * self._log_sigma_rate(t))

    def log_snr(self, t: float | Tensor) -> Tensor:
        """log(s²/(sσ)²) = −2 log σ(t), in nats."""
        return -2 * torch.log(self._sigma(float64(t)))
