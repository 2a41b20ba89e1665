"""What is known of a denoiser of another library before its weights are read, and the denoiser itself after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import Preconditioning
from edm_unified.interop import files
from edm_unified.interop.calls import Call
from edm_unified.interop.wrapping import as_trained
from edm_unified.sampling.levels import AnySteps
from edm_unified.schedules import AnySchedule
from edm_unified.training.trained_denoiser import TrainedDenoiser


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint, recognised: ``what`` it is, its ``network``, and its ``convention``, a row of the design table.

    ``schedule`` and ``steps`` are those it was made for. ``shape`` of a sample; ``classes``, and ``null``, the class
    that stands for none. ``needs``: conditions without which there is no answer. ``requires``: packages. ``weights``:
    the files that hold them. ``build`` reads these and makes the network.
    """

    place: str
    what: str
    network: str
    convention: Preconditioning
    schedule: AnySchedule
    steps: AnySteps
    shape: tuple[int, ...]
    weights: tuple[Path, ...]
    build: Callable[[], nn.Module]
    arguments: tuple[str, ...] | Mapping[str, str] | None = ("x", "time")
    classes: int = 0
    label: str | None = None
    null: int | None = None
    negate: bool = False
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)
    """More that the files say of it, for ``inspect``."""
    own: bool = False
    """Whether the network is one of this package, and is called as these are."""
    clip: bool = False
    """Whether D itself is kept within [−1, 1]."""

    def denoiser(
        self,
        convention: Preconditioning | None = None,
        cond: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> TrainedDenoiser:
        """D, with the weights read. ``convention`` in place of the one that was recognised."""
        row = self.convention if convention is None else convention
        network = self.build()
        if any(weight.is_floating_point() and weight.dtype != dtype for weight in network.parameters()):
            network = network.to(dtype)
        if not self.own:
            told = getattr(row, "told", getattr(row, "index", None))
            network = Call(
                network, self.arguments, label=self.label, null=self.null, cond=cond, needs=self.needs,
                integer=told == "nearest_index", negate=self.negate,
            )  # fmt: skip
        elif cond:
            raise ValueError(f"cond: {self.network} takes no conditions besides a class; leave out {', '.join(cond)}")
        made = as_trained(
            network,
            row,
            self.shape,
            self.classes,
            optional=self.null is not None or self.own,
            used={"sha256": files.digest(self.weights)},
            source=self.place,
            notes=list(self.notes),
        )
        if self.clip:
            made.denoiser = Clipped(made.denoiser)  # type: ignore[assignment]
        return made


class Clipped(nn.Module):
    """D clipped to [−1, 1], of a network whose own definition of D does so."""

    def __init__(self, inner: Preconditioned) -> None:
        super().__init__()
        self.inner = inner

    @property
    def network(self) -> Callable[..., Tensor]:
        return self.inner.network

    @property
    def preconditioning(self) -> Preconditioning:
        return self.inner.preconditioning

    @property
    def dtype(self) -> torch.dtype | None:
        return self.inner.dtype

    @property
    def sigma_min(self) -> float:
        return self.inner.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.inner.sigma_max

    def forward(self, x: Tensor, sigma: float | Tensor, **cond: Any) -> Tensor:
        return self.inner(x, sigma, **cond).clamp(-1, 1)  # type: ignore[no-any-return]
