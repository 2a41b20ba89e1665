"""Averages of the weights over the training: the network that is sampled from, not the one that is trained.

The average at time t is θ̄_t = ∫_0^t p(τ; t) θ_τ dτ. Two profiles p are in use.

*Half-life* (Karras et al. 2022, appendix F.1): θ̄ ← β θ̄ + (1−β) θ with β = 2^{−batch/half-life}, an exponential.
Early on an exponential remembers the random initial weights, so the half-life is at most a share of what was shown
before the step (NVlabs/edm, ``training_loop.py``).

*Power function* (Karras et al. 2024, section 3.1): p_γ(τ; t) = (γ+1) τ^γ/t^{γ+1} forgets the initial weights and keeps
its shape as the training goes on; the recursion is β_γ(t) = (1 − Δt/t)^{γ+1} (Eq. 127), which gives the weights of a
step exactly the integral of p_γ over it. γ is named by the relative width of the profile (Eq. 123):

    σ_rel = std(τ)/t = √(γ+1)/((γ+2) √(γ+3)).

*Precision.* In float32 the step θ̄ ← θ̄ + (1−β)(θ − θ̄) does nothing where θ − θ̄ is below 2⁻²⁵/(1−β) of θ̄: at
β = 0.9999 a change of less than 3·10⁻⁴ of a weight would never arrive. Averages are therefore kept in float64, and
rounded to the type of the weights when they are given away.

Averages of other lengths are put together from these: :mod:`edm_unified.training.optimization.posthoc_ema`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from edm_unified.components.component import SMALLEST, component, positive
from edm_unified.components.constraints import Constraint, Positive, whole

WIDEST = 1 / math.sqrt(12)
"""σ_rel of γ = 0, the plain mean of the whole run."""


def _check_std(name: str, std: float) -> None:
    positive(name, std)
    if std > WIDEST:
        raise ValueError(f"{name}: must be at most {WIDEST:.4f}, the plain mean of the whole run, got {std!r}")


Width = Annotated[float, Constraint(_check_std, (("minimum", SMALLEST), ("maximum", WIDEST)))]
"""The relative width of a power-function average."""


@component
class HalfLife:
    """β = 2^{−batch/h}, h = min(``images``, ``ramp_up`` · images before the step) (Karras et al. 2022, appendix F.1).

    ``ramp_up`` null: h = ``images`` from the start. A fixed decay β per step, as of DDPM, is a half-life of
    batch · ln 2/−ln β: 0.9999 at batch 128 is 887 000 images.
    """

    images: Annotated[int, whole(most=10**13)] = 500_000
    ramp_up: Positive | None = 0.05
    kind: Literal["half_life"] = "half_life"
    formulas: ClassVar[dict[str, str]] = {"beta": "2^(−batch/h), h = min(images, ramp_up · shown)"}

    @property
    def labels(self) -> tuple[float | None, ...]:
        """The name of each average: the std of a power function, None here."""
        return (None,)

    def betas(self, images: float, batch: float) -> tuple[float, ...]:
        """What each average keeps of itself in the step of ``batch`` images that ends after ``images``."""
        half_life = self.images if self.ramp_up is None else min(self.images, self.ramp_up * (images - batch))
        return (0.5 ** (batch / half_life) if half_life > 0 else 0.0,)

    def build(self, module: nn.Module) -> Averages:
        """The averages of the weights of ``module``, starting from what they are now."""
        return Averages(self, module)


@component
class Power:
    """Power-function averages of relative widths ``stds`` (Karras et al. 2024, section 3.1), one for each.

    Two of them, 0.05 and 0.10, stored now and then, suffice to put together others afterwards. A width of 0.10 is a
    standard deviation of a tenth of the training, however long that becomes: 57 % of the weight is on its last tenth.
    """

    stds: tuple[Width, ...] = (0.05, 0.10)
    kind: Literal["power"] = "power"
    formulas: ClassVar[dict[str, str]] = {"beta": "(1 − batch/shown)^(γ+1), √(γ+1)/((γ+2) √(γ+3)) = std"}

    def __post_init__(self) -> None:
        if not self.stds:
            raise ValueError("stds: at least one is needed, such as [0.05, 0.10]")
        if len({round(std, 6) for std in self.stds}) < len(self.stds):
            raise ValueError(f"stds: must differ from each other, got {list(self.stds)}")

    @property
    def labels(self) -> tuple[float | None, ...]:
        """The name of each average: its relative width."""
        return self.stds

    def betas(self, images: float, batch: float) -> tuple[float, ...]:
        """What each average keeps of itself in the step of ``batch`` images that ends after ``images``."""
        kept = max(0.0, 1 - batch / images)
        return tuple(kept ** (gamma_of(std) + 1) for std in self.stds)

    def build(self, module: nn.Module) -> Averages:
        """The averages of the weights of ``module``, starting from what they are now."""
        return Averages(self, module)


AnyEMA = HalfLife | Power


_AT_ONCE = 32
"""Tensors that are updated together: few calls, and no second copy of all weights in float64."""


class Averages:
    """Running averages of the parameters of ``module``, one for each of ``profile.labels``, beside the module.

    They are float64 whatever the parameters are, eight bytes for each number. Buffers are not averaged: they are the
    module's own. Sharded parameters (FSDP2) have sharded averages.
    """

    def __init__(self, profile: AnyEMA, module: nn.Module) -> None:
        self.profile, self.module = profile, module
        self._names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
        now = [p.detach() for _, p in module.named_parameters(remove_duplicate=False)]
        self._shadows = [[p.to(torch.float64, copy=True) for p in now] for _ in profile.labels]

    @property
    def snapshots(self) -> bool:
        """Whether other lengths can be put together from copies of these."""
        return None not in self.profile.labels

    @torch.no_grad()
    def update(self, images: float, batch: float) -> None:
        """Take in the weights as they are after ``images`` images, of which this step was ``batch``."""
        now = [_local(p) for _, p in self.module.named_parameters(remove_duplicate=False)]
        betas = self.profile.betas(images, batch)
        for first in range(0, len(now), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            wide = [p.double() for p in now[some]]
            for shadow, beta in zip(self._shadows, betas, strict=True):
                update_([_local(p) for p in shadow[some]], wide, beta)

    def weights(self) -> list[tuple[float | None, dict[str, Tensor]]]:
        """Each average by its label, complete as a ``state_dict`` of the module and in its types."""
        state = self.module.state_dict()
        return [
            (label, state | {name: p.to(state[name].dtype) for name, p in zip(self._names, shadow, strict=True)})
            for label, shadow in zip(self.profile.labels, self._shadows, strict=True)
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor of the averages, by number and name; the tensors themselves, to be filled in place.

        Those of earlier versions were float32: they are copied in as they are.
        """
        return {
            f"{i}.{n}": p for i, shadow in enumerate(self._shadows) for n, p in zip(self._names, shadow, strict=True)
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Become what :meth:`state_dict` gave."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def update_(averages: Sequence[Tensor], weights: Sequence[Tensor], beta: float) -> None:
    """θ̄ ← β θ̄ + (1−β) θ for all tensors at once, in place."""
    torch._foreach_lerp_(list(averages), list(weights), 1 - beta)


@lru_cache(maxsize=256)
def gamma_of(std: float) -> float:
    """The exponent γ ≥ 0 of the profile whose relative width is ``std``, at most 1/√12."""
    _check_std("std", std)
    # a little below 0, so that rounding at the widest does not hide the root; σ_rel(γ) < 1/γ bounds it above
    root = brentq(lambda gamma: math.log(std_of(gamma) / std), -1e-6, 1 / std, xtol=1e-14, rtol=1e-14)
    return max(0.0, float(root))


def std_of(gamma: float) -> float:
    """σ_rel of the profile with exponent ``gamma`` (Karras et al. 2024, Eq. 123)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that is here; its memory, not a copy."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]
    return part.detach()
