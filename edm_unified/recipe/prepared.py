"""A recipe that is ready to be sampled from: its denoiser, its guidance and its analytic start, made once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified.data import Dataset
from edm_unified.denoisers.denoiser import Counted, Preconditioned
from edm_unified.recipe import condition_files, conditions
from edm_unified.recipe.guidances import Guide
from edm_unified.recipe.tree import Recipe
from edm_unified.sampling.analytic_starts import AnalyticStart
from edm_unified.sampling.graphs import Graphs
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
        self._graphs: Graphs | None = None
        self._compiled = False
        self.label: int | Tensor | None = None
        self.label = self.resolved(recipe.sampler.label, "sampler.label")
        self.conditions = condition_files.given(recipe.sampler.cond, denoiser, dataset=dataset)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device | str = "cpu") -> Prepared:
        """With the denoiser that the recipe itself names."""
        where = torch.device(device)
        denoiser, dataset = recipe.build()
        return cls(recipe, denoiser.to(where), dataset, where)

    def compile(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the networks for the batch that comes first, and on a GPU replay whole runs as CUDA graphs.

        Runs of an adaptive solver, whose steps are not fixed, are not recorded. Compiling happens in the first run, and
        in the first of any other size of batch.

        Raises ``ValueError`` where the denoiser has no network.
        """
        modules = [m for m in (self.denoiser, self.guide and self.guide.second) if isinstance(m, nn.Module)]
        inner = itertools.chain.from_iterable(module.modules() for module in modules)
        networks = [m.network for m in inner if isinstance(m, Preconditioned) and isinstance(m.network, nn.Module)]
        if not networks:
            raise ValueError("compile: this denoiser is a formula and has no network to compile; leave it out")
        for network in networks:
            network.compile(dynamic=False, backend=backend)
        self._compiled = True
        if self.device.type == "cuda" and not getattr(self.recipe.sampler.solver, "adaptive", False):
            self._graphs = Graphs()

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
        rows: int | None = None,
    ) -> LabelledSamples:
        """Samples ``first`` … of ``seed`` in one batch, on the device; the same ones in any batch.

        ``rows``: compute that many, and drop those after ``n``: a compiled network is compiled for one size.
        ``callback`` is told nothing of a run that is replayed as a CUDA graph.
        """
        rows, before = n if rows is None else rows, self.nfe
        labels = self.labels(n, seed, first, label)
        cond: dict[str, Any] = {} if self.conditions is None else self.conditions.rows(n, first, self.device)
        cond |= {} if labels is None else {"label": labels}
        try:
            x = self.recipe.sampler.sample(
                self._counted,
                unit_noise(rows, self.dataset.shape, seed=seed, first=first).to(self.device),
                self.recipe.schedule,
                guide=self.guide,
                analytic_start=self.analytic_start,
                seed=seed,
                first=first,
                dtype=dtype,
                cond={name: _padded(value, n, rows) for name, value in cond.items()} or None,
                callback=callback if self._graphs is None else None,
                graphs=self._graphs,
            )
        except RuntimeError as error:
            if self._compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith(" raised:")]
                said = lines[0] if lines else type(error).__name__
                raise ValueError(f"compile: torch cannot compile the network here ({said}); leave it out") from None
            raise
        if self._graphs is not None:  # a replay evaluates without calling
            self._counted.nfe = before + self.recipe.sampler.nfe(self.recipe.schedule)
        return LabelledSamples(x[:n], labels)


def _padded(value: Any, n: int, rows: int) -> Any:
    """A condition of ``n`` samples for ``rows``, the last of them repeated."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n or n == rows:
        return value
    return torch.cat([value, value[-1:].expand(rows - n, *value.shape[1:])])
