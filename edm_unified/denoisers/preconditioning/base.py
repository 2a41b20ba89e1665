"""The interface of every preconditioning, and what several of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from edm_unified.denoisers.parametrization import Parametrization
from edm_unified.schedules.base import float64

EPSILON_FORMULAS = {"c_skip": "1", "c_out": "−σ", "c_in": "1/√(1+σ²)"}


class Preconditioning(Protocol):
    """What :class:`~edm_unified.denoisers.denoiser.Preconditioned` needs; a class of your own need not be in the
    union."""

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def c_skip(self, sigma: float | Tensor) -> Tensor: ...
    def c_out(self, sigma: float | Tensor) -> Tensor: ...
    def c_in(self, sigma: float | Tensor) -> Tensor: ...
    def c_noise(self, sigma: float | Tensor) -> Tensor: ...


class Predicts(ABC):
    """c_skip and c_out of the rows whose network predicts one of the targets in
    :mod:`edm_unified.denoisers.parametrization`."""

    form: ClassVar[Parametrization]

    @property
    def sigma_min(self) -> float:
        return 0.0

    @property
    def sigma_max(self) -> float:
        return math.inf

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return self.form.c_skip(sigma)

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return self.form.c_out(sigma)

    @abstractmethod
    def c_in(self, sigma: float | Tensor) -> Tensor: ...

    @abstractmethod
    def c_noise(self, sigma: float | Tensor) -> Tensor: ...


def unit_variance(sigma: float | Tensor, sigma_data: float = 1.0) -> Tensor:
    """1/√(σ² + σ_data²): z has unit variance after it, if the data have std σ_data."""
    return torch.rsqrt(float64(sigma) ** 2 + sigma_data**2)
