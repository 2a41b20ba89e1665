"""What a network may predict (x_0, ε, score, v, velocity), and its conversion to the denoiser D and back.

With z = x_0 + σ n (the state of this package: x_t divided by s), five targets are in use, each linear in x_0 and n:

===================  ==============================  ===========================================  =================
output               its target                      D =                                          best conditioned
===================  ==============================  ===========================================  =================
:class:`X0`          x_0                             F                                            σ → ∞
:class:`Epsilon`     n                               z − σ F                                      σ → 0
:class:`Score`       ∇ log p(z; σ) = −n/σ            z + σ² F                                     σ → 0
:class:`V`           (n − σ x_0)/√(1+σ²)             (z − σ √(1+σ²) F)/(1+σ²)                     everywhere
:class:`Velocity`    n − x_0                         (z − σ F)/(1+σ)                              everywhere
===================  ==============================  ===========================================  =================

All are D = c_skip(σ) z + c_out(σ) F, and back F = (D − c_skip z)/c_out, which is not defined at σ = 0: there D = z
whatever the network says. Rounding follows the terms that are added: an ε-network at σ = 10⁶ yields D to about
10⁶ ulp, while v and velocity lose nothing at either end.

Signs: at t = 0 are the data, so that the velocity dx/dt of the path (1−t) x_0 + t n is n − x_0. Libraries whose time
runs from noise to data (Meta's flow_matching, torchcfm, SiT) predict the opposite, x_0 − n: negate their output.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.schedules.base import float64


def along(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient of shape () or (B,), made to multiply ``x`` of shape (B, *) in x's dtype.

    A 0-d tensor is returned as it is: torch lets it multiply anything, on any device, without changing x's dtype.
    Raises ``ValueError`` for any other shape, so that (B,) never lines up with the last axis by accident.
    """
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.ndim != 1 or x.ndim == 0 or len(coefficient) != len(x):
        batch = f"({len(x)},)" if x.ndim else "()"
        raise ValueError(f"sigma: must have shape () or {batch}, one level per sample, got {tuple(coefficient.shape)}")
    # non_blocking: from pageable memory this is still correct, and it does not wait for the device
    coefficient = coefficient.to(device=x.device, dtype=x.dtype, non_blocking=True)
    return coefficient.view(-1, *[1] * (x.ndim - 1))


class Parametrization(Protocol):
    """c_skip and c_out of D = c_skip(σ) z + c_out(σ) F, as float64 tensors of σ's shape."""

    def c_skip(self, sigma: float | Tensor) -> Tensor: ...

    def c_out(self, sigma: float | Tensor) -> Tensor: ...


def to_denoised(form: Parametrization, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """D = c_skip(σ) z + c_out(σ) F, in x's dtype. ``output``, ``x``: (B, *); ``sigma``: () or (B,)."""
    return along(form.c_skip(sigma), x) * x + along(form.c_out(sigma), x) * output


def from_denoised(form: Parametrization, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """F = (D − c_skip(σ) z)/c_out(σ), in x's dtype. Not finite at σ = 0, where D says nothing about F."""
    return (denoised - along(form.c_skip(sigma), x) * x) / along(form.c_out(sigma), x)


@component
class X0:
    """F = x_0 itself: D = F ("x-prediction" of Salimans & Ho 2022; "sample" in diffusers; data prediction)."""

    kind: Literal["x0"] = "x0"
    formulas: ClassVar[dict[str, str]] = {"F": "x_0", "D": "F"}

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return torch.zeros_like(float64(sigma))

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def denoised(self, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return to_denoised(self, output, x, sigma)

    def output(self, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return from_denoised(self, denoised, x, sigma)


@component
class Epsilon:
    """F = n, the unit noise in z = x_0 + σ n: D = z − σ F (Ho et al. 2020, Eq. 15 in these variables)."""

    kind: Literal["epsilon"] = "epsilon"
    formulas: ClassVar[dict[str, str]] = {"F": "n", "D": "z − σ F"}

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return -float64(sigma)

    def denoised(self, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return to_denoised(self, output, x, sigma)

    def output(self, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return from_denoised(self, denoised, x, sigma)


@component
class Score:
    """F = ∇_z log p(z; σ): D = z + σ² F (Tweedie's formula; Karras et al. 2022, Eq. 3).

    This is the score in the variable z. A network that returns the score of x_t = s z must be multiplied by s first,
    as ∇_z = s ∇_x.
    """

    kind: Literal["score"] = "score"
    formulas: ClassVar[dict[str, str]] = {"F": "∇ log p(z; σ)", "D": "z + σ² F"}

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return torch.ones_like(float64(sigma))

    def c_out(self, sigma: float | Tensor) -> Tensor:
        return float64(sigma) ** 2

    def denoised(self, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return to_denoised(self, output, x, sigma)

    def output(self, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return from_denoised(self, denoised, x, sigma)


@component
class V:
    """F = cos φ n − sin φ x_0 with tan φ = σ: D = (z − σ √(1+σ²) F)/(1+σ²) (Salimans & Ho 2022, section 4).

    In their variable z_φ = cos φ x_0 + sin φ n = z/√(1+σ²) this is D = cos φ z_φ − sin φ F.
    """

    kind: Literal["v"] = "v"
    formulas: ClassVar[dict[str, str]] = {"F": "(n − σ x_0)/√(1+σ²)", "D": "z/(1+σ²) − σ/√(1+σ²) F"}

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return 1 / (1 + float64(sigma) ** 2)

    def c_out(self, sigma: float | Tensor) -> Tensor:
        sigma = float64(sigma)
        return -sigma / torch.sqrt(1 + sigma**2)

    def denoised(self, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return to_denoised(self, output, x, sigma)

    def output(self, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return from_denoised(self, denoised, x, sigma)


@component
class Velocity:
    """F = n − x_0 = dx_t/dt on x_t = (1−t) x_0 + t n: D = (z − σ F)/(1+σ), t = σ/(1+σ) (Lipman et al. 2023; Liu et
    al. 2023). In their variable x_t = z/(1+σ) this is D = x_t − t F.
    """

    kind: Literal["velocity"] = "velocity"
    formulas: ClassVar[dict[str, str]] = {"F": "n − x_0", "D": "(z − σ F)/(1+σ)"}

    def c_skip(self, sigma: float | Tensor) -> Tensor:
        return 1 / (1 + float64(sigma))

    def c_out(self, sigma: float | Tensor) -> Tensor:
        sigma = float64(sigma)
        return -sigma / (1 + sigma)

    def denoised(self, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return to_denoised(self, output, x, sigma)

    def output(self, denoised: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
        return from_denoised(self, denoised, x, sigma)


AnyParametrization = X0 | Epsilon | Score | V | Velocity
