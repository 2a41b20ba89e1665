"""Denoisers of networks that were trained on the state of an anchored process, x_t = y + s (x_0 − y) + s σ n."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import Preconditioning


class Anchored(nn.Module):
    """D(x; σ, y) = y + P(x − y; σ), P the ``preconditioning`` of the network F(y + c_in (x − y); c_noise, y).

    With c_in = s, as :class:`~edm_unified.preconditioning.OnSchedule` has it, F sees x_t itself, and what it predicts
    may be the score of x_t, its noise or its velocity: all are those of x_t − y too. One that predicts x_0, and not x_0
    − y, is ``whole``. ``name`` is the condition that is the anchor, ``image`` by default: D(x, sigma, image=y), y of
    the shape of x. The network is given it as well.

    Raises ``ValueError`` where the condition is missing or has another shape than x.
    """

    def __init__(
        self, network: Any, preconditioning: Preconditioning, name: str = "image", whole: bool = False
    ) -> None:
        super().__init__()
        self.inner = Preconditioned(_Shifted(network, name, whole), preconditioning)
        self.name = name

    @property
    def sigma_min(self) -> float:
        """The lowest σ that the network was made for."""
        return self.inner.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest σ that the network was made for."""
        return self.inner.sigma_max

    def forward(self, x: Float[Tensor, "B *shape"], sigma: float | Tensor, **cond: Any) -> Float[Tensor, "B *shape"]:
        y = cond.get(self.name)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else "nothing" if y is None else type(y).__name__
            raise ValueError(
                f"{self.name}: the network is anchored at it, and needs a tensor of the shape of x, {tuple(x.shape)}; "
                f"got {got}"
            )
        y = y.to(device=x.device, dtype=x.dtype)
        return y + self.inner(x - y, sigma, **cond)


class _Shifted(nn.Module):
    """The network, given the anchor on top of its input, and without it in its output where that is ``whole``."""

    def __init__(self, network: Any, name: str, whole: bool) -> None:
        super().__init__()
        self.network, self.name, self.whole = network, name, whole

    def forward(self, x: Tensor, noise: Tensor, **cond: Any) -> Tensor:
        y = cond[self.name].to(device=x.device, dtype=x.dtype)
        out: Tensor = self.network(x + y, noise, **{**cond, self.name: y})
        return out - y if self.whole else out
