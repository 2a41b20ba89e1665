"""A training job: the parts of a recipe that training needs, the loaded data, and the module that is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edm_unified.data import Dataset
from edm_unified.data.kept import measure
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.networks import AnyNetwork
from edm_unified.training import own_parts, random_numbers
from edm_unified.training.objective import Implicit, Objective
from edm_unified.training.objective.noise import SigmaOfTime
from edm_unified.training.random_numbers import TrainingPurpose
from edm_unified.training.settings import Training


@dataclass(frozen=True)
class Job:
    """The choices of a recipe, and the data. ``tree``: the recipe as plain data, ``text``: as YAML; for the record.

    Raises ``ValueError`` naming the field where the parts do not fit each other.
    """

    network: AnyNetwork
    preconditioning: AnyPreconditioning
    objective: Objective
    schedule: SigmaOfTime
    settings: Training
    dataset: Dataset
    tree: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    FREE: ClassVar[tuple[str, ...]] = ("title", "source", "sampler", "denoiser", "plugins")
    """Keys of a recipe that training does not depend on: they may change while it goes on, as may ``Training.FREE``."""

    STATED: ClassVar[tuple[str, ...]] = ("shape", "classes")
    """What a recipe says of its data to be compared with them; what they are is compared by itself."""

    def __post_init__(self) -> None:
        if isinstance(self.objective, Objective):
            object.__setattr__(self, "objective", self.objective.with_sigma_data_of(self.preconditioning))
        own = {name: said for name, said in self.described.items() if own_parts.OWN in said}
        object.__setattr__(self, "tree", {**self.tree, **own})
        settings, size = self.settings, len(self.dataset)
        if settings.batch > size:
            raise ValueError(
                f"training.batch: must not be more than the {size:,} samples of the data, got {settings.batch:,}"
            )
        if settings.conditional and self.dataset.labels is None:
            raise ValueError(
                f"training.conditional: the data ({self.dataset.name}) have no labels; set conditional: false"
            )
        for kind in settings.conditions:
            if kind not in self.dataset.conditions:
                has = ", ".join(self.dataset.conditions) or "none"
                raise ValueError(
                    f"training.conditions: the data ({self.dataset.name}) have no {kind} (they have {has}); data of "
                    "kind pairs have conditions"
                )
        if settings.augment is not None:
            settings.augment.check(self.shape)
        if isinstance(self.objective.matching, Implicit):
            self.objective.matching.check(self.shape)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of what the weights depend on, but for the length of the training."""
        return hashlib.sha256(json.dumps(self.bound(self.tree), sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def bound(cls, tree: dict[str, Any]) -> dict[str, Any]:
        """What may not change in a recipe, as plain data, while a run of it goes on."""
        kept = {key: value for key, value in tree.items() if key not in cls.FREE}
        settings = kept.get("training")
        if isinstance(settings, dict):
            kept["training"] = {key: value for key, value in settings.items() if key not in Training.FREE}
        data = kept.get("data")
        if isinstance(data, dict):
            kept["data"] = {key: value for key, value in data.items() if key not in cls.STATED}
        return kept

    @cached_property
    def described(self) -> dict[str, dict[str, Any]]:
        """The network, the preconditioning and the objective as plain data; of one's own, the name of the class."""
        parts = {"network": AnyNetwork, "preconditioning": AnyPreconditioning, "objective": Objective}
        return {name: own_parts.described(getattr(self, name), union) for name, union in parts.items()}

    @cached_property
    def measured_dataset(self) -> Dataset:
        """The data with what a run keeps of them, measured once."""
        return replace(self.dataset, measured=measure(self.dataset))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.dataset.shape

    @property
    def classes(self) -> int:
        """The number of classes that the network is conditioned on; 0 where it is not conditional."""
        return self.dataset.classes if self.settings.conditional else 0

    @property
    def conditions(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the conditions that the network is fed besides the class."""
        return {kind: self.dataset.conditions[kind].shape for kind in self.settings.conditions}

    @property
    def augment(self) -> int:
        """How many labels of the augmentation the network is given."""
        return 0 if self.settings.augment is None else self.settings.augment.labels

    def build(self) -> Trainee:
        """The untrained network in its wrapping; the weights follow from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_numbers.seed_of(self.settings.seed, TrainingPurpose.NETWORK))
            try:
                network = own_parts.module_of(self.network, self.shape, self.classes, self.augment, self.conditions)
            except ValueError as error:
                raise ValueError(f"network.{error}") from None
            return Trainee(Preconditioned(network, self.preconditioning), self.objective, self.schedule)


class Trainee(nn.Module):
    """The denoiser and its losses as one module: all that is trained, in one forward pass for DDP and FSDP."""

    def __init__(self, denoiser: Preconditioned, objective: Objective, schedule: SigmaOfTime) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.objective, self.schedule = objective, schedule
        self.uncertainty = None if objective.uncertainty is None else objective.uncertainty.build()

    @property
    def network(self) -> nn.Module:
        """F, which is averaged and saved."""
        return self.denoiser.network  # type: ignore[return-value]

    def forward(self, x0: Tensor, u: Tensor, n: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The losses (B,), and for the log the same without the learned uncertainty."""
        losses = self.objective.losses(self.denoiser, x0, u, n, self.schedule, cond, self.uncertainty)
        logged = losses.detach()
        if self.uncertainty is not None:
            log_variance = self.uncertainty(self.objective.noise.quantile(u, self.schedule)).detach().to(logged)
            logged = (logged - log_variance) * log_variance.exp()
        return losses, logged
