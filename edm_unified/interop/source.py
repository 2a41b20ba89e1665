"""What is known of a denoiser of another library before its weights are read, and the denoiser itself after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified import schedules
from edm_unified.components.shipped import suggest
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import DDPM, FlowMatching, OnSchedule, Preconditioning
from edm_unified.interop import files
from edm_unified.interop.calls import Call
from edm_unified.interop.wrapping import as_trained
from edm_unified.sampling.levels import AnySteps, Karras, TableSubset, UniformTime
from edm_unified.schedules import AnySchedule, BetaTable
from edm_unified.schedules import FlowMatching as FlowSchedule
from edm_unified.training.trained_denoiser import TrainedDenoiser


class Asked(NamedTuple):
    """What the caller says of a source that its files do not: the ``shape`` of a sample, a ``convention`` in place of
    the one that is recognised, and ``fields`` of our network by their names."""

    shape: tuple[int, ...] = ()
    convention: Preconditioning | None = None
    fields: Mapping[str, Any] = MappingProxyType({})


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
    optional: bool = False
    """Whether there is an answer without a class though no class ``null`` stands for none."""
    component: Any = None
    """The network as a component, where it is one; what ``edm-unified convert`` writes."""
    augment: int = 0
    """How many augmentation labels the component is built with."""

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
            noise = getattr(row, "noise", getattr(row, "index", None))
            network = Call(
                network, self.arguments, label=self.label, null=self.null, cond=cond, needs=self.needs,
                integer=noise == "nearest_index", negate=self.negate,
            )  # fmt: skip
        elif cond:
            raise ValueError(f"cond: {self.network} takes no conditions besides a class; leave out {', '.join(cond)}")
        made = as_trained(
            network,
            row,
            self.shape,
            self.classes,
            optional=self.null is not None or self.optional,
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


def shape_of(asked: Asked, channels: int, label: str) -> tuple[int, ...]:
    """The shape that the caller gave. Raises ``ValueError`` where there is none, or of other channels."""
    if not asked.shape:
        raise ValueError(
            f"{label}: does not say the size of its samples; give shape={channels},H,W, or once: edm-unified convert "
            f"{label} OUT --shape {channels},H,W"
        )
    if len(asked.shape) != 3 or asked.shape[0] != channels:
        raise ValueError(f"{label}: takes images of {channels} channels, not samples of shape {asked.shape}")
    return asked.shape


def changed(component: Any, fields: Mapping[str, Any], label: str = "") -> Any:
    """``component`` with ``fields``. Raises ``ValueError`` naming one that there is not, or that cannot be."""
    head = f"{label}: " if label else ""
    known = [field.name for field in dataclasses.fields(component) if field.name != "kind"]
    if unknown := next((name for name in fields if name not in known), None):
        raise ValueError(f"{head}fields: {component.kind} has no {unknown!r}{suggest(unknown, known)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        return dataclasses.replace(component, **values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{head}fields: {error}") from None


def schedule_of(row: Preconditioning) -> tuple[AnySchedule, AnySteps]:
    """The schedule and levels that a row is usually sampled with: those of its table or flow, else Karras et al.'s."""
    if isinstance(row, DDPM):
        row = OnSchedule(BetaTable(row.betas, row.num_steps, row.beta_start, row.beta_end), "epsilon", "index")
    if isinstance(row, FlowMatching):
        row = OnSchedule(FlowSchedule(), "velocity")
    if isinstance(row, OnSchedule) and isinstance(row.schedule, BetaTable):
        return row.schedule, TableSubset(n=min(20, len(row.schedule.sigmas)))
    if isinstance(row, OnSchedule) and isinstance(row.schedule, FlowSchedule):
        return row.schedule, UniformTime(n=28)
    low, high = max(0.002, row.sigma_min), min(80.0, row.sigma_max)
    return schedules.EDM(), Karras(n=18, sigma_min=low, sigma_max=high)
