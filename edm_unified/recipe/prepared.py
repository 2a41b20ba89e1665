"""A recipe that is ready to be sampled from: its denoiser, its guidance and its analytic start, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified.data import Dataset
from edm_unified.denoisers.denoiser import Counted
from edm_unified.recipe import condition_files, conditions
from edm_unified.recipe.guidances import Guide
from edm_unified.recipe.tree import Recipe
from edm_unified.sampling.analytic_starts import AnalyticStart
from edm_unified.sampling.loop import Progress, unit_noise


class LabelledSamples(NamedTuple):
    """Samples (n, *shape), and the class of each, (n,), or (n, classes) bool, where they were conditioned on one."""

    samples: Tensor
    labels: Tensor | None


class Prepared:
    """``recipe`` with ``denoiser``, a model of ``dataset``, on ``device``; ``nfe`` counts the evaluations of it.

    ``label``: the class that the recipe names, as the denoiser is told it; None where it names none. ``conditions``:
    what it is told besides.

    Raises ``ValueError`` where the denoiser cannot be guided as the recipe says, or has no such class.
    """

    def __init__(self, recipe: Recipe, denoiser: Any, dataset: Dataset, device: torch.device) -> None:
        self.recipe, self.denoiser, self.dataset, self.device = recipe, denoiser, dataset, device
        self.guide: Guide | None = recipe.sampler.guide_for(denoiser, dataset, device)
        self.analytic_start: AnalyticStart | None = recipe.sampler.analytic_start_for(dataset)
        self._counted = Counted(denoiser)
        self.label: int | Tensor | None = None
        self.label = self.resolved(recipe.sampler.label, "sampler.label")
        self.conditions = condition_files.given(recipe.sampler.cond, denoiser)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device | str = "cpu") -> Prepared:
        """With the denoiser that the recipe itself names."""
        where = torch.device(device)
        denoiser, dataset = recipe.build()
        return cls(recipe, denoiser.to(where), dataset, where)

    @property
    def nfe(self) -> int:
        """Evaluations so far, of a batch each."""
        return self._counted.nfe

    def resolved(self, label: conditions.Words, where: str = "label") -> int | Tensor | None:
        """The class of that name or number as the denoiser is told it; without one, that of the recipe.

        Raises ``ValueError``, begun with ``where``, unless samples can be conditioned on it.
        """
        if label is None:
            return self.label
        found = conditions.label_of(label, self.denoiser, self.dataset, where)
        if isinstance(found, int) and found == -1 and self.guide is not None and self.guide.class_counts is not None:
            raise ValueError(
                f"{where}: guidance leans on a class; name one from 0 to {len(self.guide.class_counts) - 1}, or leave "
                "it out to have them drawn"
            )
        try:
            if hasattr(self.denoiser, "sample"):  # one exact draw: the denoiser itself knows its classes
                self.denoiser.sample(1, label=found)
            else:
                self.denoiser.check_label(found)
        except ValueError as error:
            raise ValueError(f"{where}: {str(error).removeprefix('label: ')}") from None
        return found

    def labels(self, n: int, seed: int = 0, first: int = 0, label: conditions.Words = None) -> Tensor | None:
        """The classes of samples ``first`` …: all ``label``, or drawn where the network or the guidance needs one."""
        found = self.resolved(label)
        if found is not None:
            return conditions.rows(found, n).to(self.device)
        drawn = None if self.guide is None else self.guide.labels_for(n, seed, first)
        if drawn is None and hasattr(self.denoiser, "labels_for"):
            drawn = self.denoiser.labels_for(n, seed, first)
        return None if drawn is None else drawn.to(self.device)

    def sample(
        self,
        n: int,
        seed: int = 0,
        first: int = 0,
        label: conditions.Words = None,
        dtype: torch.dtype = torch.float64,
        callback: Callable[[Progress], object] | None = None,
    ) -> LabelledSamples:
        """Samples ``first`` … of ``seed`` in one batch, on the device; the same ones in any batch."""
        labels = self.labels(n, seed, first, label)
        cond: dict[str, Any] = {} if self.conditions is None else self.conditions.rows(n, first, self.device)
        cond |= {} if labels is None else {"label": labels}
        x = self.recipe.sampler.sample(
            self._counted,
            unit_noise(n, self.dataset.shape, seed=seed, first=first).to(self.device),
            self.recipe.schedule,
            guide=self.guide,
            analytic_start=self.analytic_start,
            seed=seed,
            first=first,
            dtype=dtype,
            cond=cond or None,
            callback=callback,
        )
        return LabelledSamples(x, labels)
