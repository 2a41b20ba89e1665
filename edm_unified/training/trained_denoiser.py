"""The result of training as a denoiser: a preconditioned network, with the shape and classes of its data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.data import Scaling
from edm_unified.data.classes import numbers
from edm_unified.denoisers.denoiser import DenoiserWrapper, Preconditioned
from edm_unified.training import random_numbers


class TrainedDenoiser(DenoiserWrapper, nn.Module):
    """D(x; σ) of a checkpoint, in evaluation mode: a denoiser, with the ``shape`` of a sample and its ``classes``.

    ``label``: None or −1 for no class, one class for all, or (B,) of them; or bool, (classes,) for all or
    (B, classes), where a sample may have several. ``class_names``: their names, in their order. A network
    that saw a class with every image
    has no answer without one: ``labels_for`` draws classes as often as the data have them.
    """

    denoiser: Preconditioned

    def __init__(self, denoiser: Preconditioned, about: dict[str, Any]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.about = about
        self.shape: tuple[int, ...] = tuple(about["shape"])
        self.classes: int = about["classes"]
        self.class_names: tuple[str, ...] = tuple(about.get("class_names") or numbers(self.classes))
        self.requires_grad_(False).eval()

    @property
    def fingerprint(self) -> str:
        """Changes when the weights do."""
        return str(self.about["used"]["sha256"])

    @property
    def several(self) -> bool:
        """Whether a sample may have several classes."""
        return bool(self.about.get("class_sets"))

    @property
    def needs_label(self) -> bool:
        """Whether there is no answer without a class."""
        return self.classes > 0 and not self.about["label_dropout"]

    @property
    def needs(self) -> tuple[str, ...]:
        """The conditions besides a class without which there is no answer."""
        given = getattr(self.denoiser.network, "cond", {})
        optional = [name for name, said in self.conditions.items() if said["optional"]]
        needs = getattr(self.denoiser.network, "needs", ())
        return tuple(name for name in needs if name not in given and name not in optional)

    @property
    def conditions(self) -> dict[str, Any]:
        """What the checkpoint says of the conditions that the network was trained with, by their kinds."""
        return dict(self.about.get("conditions", {}))

    def in_network_scale(self, name: str, values: Tensor) -> Tensor:
        """A condition (B, …) in the units of the data as the network takes it; another's condition as it is.

        Raises ``ValueError``, begun with the name, where it has not the shape that the network was trained with.
        """
        said = self.conditions.get(name)
        if said is None:
            return values
        wanted, got = tuple(said["shape"]), tuple(values.shape[1:])
        free = name == "tokens" and len(got) == 2 and got[-1] == wanted[-1]  # any number of them
        if values.ndim == 0 or not (got == wanted or free):
            raise ValueError(f"{name}: must be of shape (B, {', '.join(map(str, wanted))}), got {tuple(values.shape)}")
        shift, scale = (
            torch.tensor(said[key]).view(-1, *[1] * (len(wanted) - 1) if len(said[key]) > 1 else [])
            for key in ("shift", "scale")
        )
        return Scaling(shift, scale).to_unit(values)

    def takes(self, name: str) -> bool:
        """Whether the network takes a condition of that name, besides x, the time and a class."""
        takes = getattr(self.denoiser.network, "takes", None)
        return takes is not None and bool(takes(name))

    def labels_for(self, count: int, seed: int = 0, first: int = 0) -> Tensor | None:
        """Classes for samples ``first`` … of ``seed``, as frequent as in the data; None where none is needed.

        Sample i has the same class whatever the batch.
        """
        if not self.needs_label:
            return None
        if sets := self.about.get("class_sets"):
            return random_numbers.class_sets(sets, self.classes, count, seed, first)
        return random_numbers.classes(self.about["class_counts"], count, seed, first)

    def check_label(self, label: int | Tensor | None) -> None:
        """Raise ``ValueError`` for a class that there is not, and for none where one is needed."""
        if label is not None and self.classes == 0 and bool((torch.as_tensor(label) != -1).any()):
            raise ValueError("label: this network was trained without classes; leave it out")
        if self.classes == 0:
            return
        values = torch.as_tensor(-1 if label is None else label)
        if values.ndim and values.dtype == torch.bool:
            if values.shape[-1] != self.classes or values.ndim > 2:
                raise ValueError(f"label: must say of each of {self.classes} classes whether it is there")
            return
        if values.dtype == torch.bool or values.is_floating_point():
            raise ValueError(f"label: must hold whole numbers, got {values.dtype}")
        low = 0 if self.needs_label else -1
        wrong = values[(values < low) | (values >= self.classes)]
        if wrong.numel():
            none = "" if self.needs_label else ", or -1 for none"
            raise ValueError(f"label: must be from 0 to {self.classes - 1}{none}, got {int(wrong.flatten()[0])}")

    def forward(self, x: Tensor, sigma: float | Tensor, label: int | Tensor | None = None, **cond: Any) -> Tensor:
        if not (isinstance(label, Tensor) and label.device.type != "cpu"):  # looking would wait for the device
            self.check_label(label)
        if self.classes == 0:
            return self.denoiser(x, sigma, **cond)  # type: ignore[no-any-return]
        values = torch.as_tensor(-1 if label is None else label, device=x.device)
        if values.ndim and values.dtype == torch.bool:
            values = values.expand(len(x), self.classes)
        else:
            values = values.long().expand(len(x))
        return self.denoiser(x, sigma, label=values, **cond)  # type: ignore[no-any-return]
