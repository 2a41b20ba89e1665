"""How the error of D is estimated: from x_0, or from z alone.

With s = (D − z)/σ² for the score of p(z; σ), three losses have the same gradient in the mean:

*Denoising score matching* (Vincent 2011): ½ ‖s + n/σ‖² = ‖D − x_0‖²/(2σ⁴). All of diffusion is this.

*Implicit score matching* (Hyvärinen 2005, Eq. 4): ½ ‖s‖² + tr ∇s, from samples of z without what they were before.

*Sliced score matching* (Song et al. 2019, section 3): the trace as vᵀ ∇s v for random v with E v vᵀ = I, which costs
one derivative instead of one for each dimension; with ½ ‖s‖² as it stands (variance reduction, "SSM-VR") or as
½ (v·s)².

By Stein's lemma the first exceeds the others by ½ E ‖n/σ‖² = d/(2σ²), in the mean. Times 2σ⁴, in D:

    E ‖D − x_0‖² = E [ ‖D − z‖² + 2σ² (tr ∂D/∂z − d) + σ² d ],

which is Stein's unbiased estimate of the risk of a denoiser (1981). So any of them can stand below any p(σ) and λ(σ);
each below is a number for each sample with the expectation of the mean of (D − x_0)² over entries. The implicit ones
have more variance, and cost a second derivative in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Count
from edm_unified.denoisers.parametrization import along

OneArgument = Callable[[Tensor], Tensor]


class Matching(Protocol):
    """An estimate (B,) of the mean over entries of (D − x_0)², times ``weight`` (B,).

    ``D``: the denoiser at σ, of z alone; ``z`` = x_0 + σn.
    """

    def errors(self, D: OneArgument, x0: Tensor, z: Tensor, sigma: Tensor, weight: Tensor) -> Tensor: ...


@component
class Denoising:
    """‖D − x_0‖²: denoising score matching (Vincent 2011), as all diffusion models are trained."""

    kind: Literal["denoising"] = "denoising"
    formulas: ClassVar[dict[str, str]] = {"error": "‖D − x_0‖²"}

    def errors(self, D: OneArgument, x0: Tensor, z: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
        # √λ times the difference is of order one; λ times its square may be 10¹² × 10⁻¹², which half precision lacks
        return _mean(along(weight.sqrt(), x0) * (D(z) - x0))


@component
class Implicit:
    """‖D − z‖² + 2σ² tr ∂D/∂z − σ² d: implicit score matching with the exact trace (Hyvärinen 2005, Eq. 4).

    The trace takes one derivative for each of the d dimensions; ``most`` is how many are put up with. A row of a batch
    must not depend on the others.
    """

    most: Count = 256
    kind: Literal["implicit"] = "implicit"
    formulas: ClassVar[dict[str, str]] = {"error": "‖D − z‖² + 2σ² tr ∂D/∂z − σ² d"}

    def check(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` where samples of that shape have more numbers than derivatives are put up with."""
        d = math.prod(shape)
        if d > self.most:
            raise ValueError(
                f"objective.matching.most: the exact trace takes {d:,} derivatives a step for samples of {d:,} "
                f"numbers, more than {self.most:,}; raise most, or use objective.matching: {{kind: sliced}}"
            )

    def errors(self, D: OneArgument, x0: Tensor, z: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
        self.check(z.shape[1:])
        d = z[0].numel()
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            z = _variable(z)
            denoised = D(z)
            flat = denoised.flatten(1)
            trace = torch.zeros_like(flat[:, 0])
            for i in range(d):
                trace = trace + _gradient(flat[:, i].sum(), z, training).flatten(1)[:, i]
        square = _mean(along(weight.sqrt(), z) * (denoised - z))
        errors = _combined(square, trace - d, d, sigma, weight)
        return errors if training else errors.detach()


@component
class Sliced:
    """‖D − z‖² + 2σ² (vᵀ ∂D/∂z v − ‖v‖²) + σ² d, v random: sliced score matching (Song et al. 2019, section 3).

    ``projections``: how many v for each sample. ``variance_reduced``: ‖D − z‖² as it stands, for which E v vᵀ = I is
    used; without it, (v·(D − z))². ``directions``: ``rademacher`` (±1, for which the trace of a diagonal matrix is
    exact) or ``gaussian``. v is drawn from torch's generator of the device.
    """

    projections: Count = 1
    variance_reduced: bool = True
    directions: Literal["rademacher", "gaussian"] = "rademacher"
    kind: Literal["sliced"] = "sliced"
    formulas: ClassVar[dict[str, str]] = {"error": "‖D − z‖² + 2σ² (vᵀ ∂D/∂z v − ‖v‖²) + σ² d"}

    def errors(self, D: OneArgument, x0: Tensor, z: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
        d = z[0].numel()
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            z = _variable(z)
            denoised = D(z)
            difference = along(weight.sqrt(), z) * (denoised - z)
            trace, square = torch.zeros_like(difference.flatten(1)[:, 0]), _mean(difference)
            if not self.variance_reduced:
                square = torch.zeros_like(square)
            for _ in range(self.projections):
                v = self._direction(z)
                product = (_gradient((denoised * v).sum(), z, training) * v - v * v).flatten(1).sum(1)
                trace = trace + product / self.projections
                if not self.variance_reduced:
                    square = square + (v * difference).flatten(1).sum(1) ** 2 / (d * self.projections)
        errors = _combined(square, trace, d, sigma, weight)
        return errors if training else errors.detach()

    def _direction(self, z: Tensor) -> Tensor:
        v = torch.randn_like(z)
        return v.sign() if self.directions == "rademacher" else v


AnyMatching = Denoising | Implicit | Sliced


def score(denoiser: Callable[..., Tensor], z: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
    """∇ log p(z; σ) = (D − z)/σ²."""
    return (denoiser(z, sigma, **cond) - z) / along(sigma, z) ** 2


def _mean(x: Tensor) -> Tensor:
    return x.square().flatten(1).mean(1)


def _combined(square: Tensor, trace: Tensor, d: int, sigma: Tensor, weight: Tensor) -> Tensor:
    """λ (‖D − z‖² + 2σ² (tr ∂D/∂z − d) + σ² d)/d, in float64 as its parts nearly cancel at small σ."""
    variance = (sigma**2 * weight).to(square.device, non_blocking=True)
    return (square.double() + variance * (2 * trace.double() / d + 1)).to(square.dtype)


def _variable(z: Tensor) -> Tensor:
    return z.detach().requires_grad_()


def _gradient(value: Tensor, z: Tensor, training: bool) -> Tensor:
    (result,) = torch.autograd.grad(value, z, retain_graph=True, create_graph=training, materialize_grads=True)
    return result
