"""Read the clean samples of each micro-batch; which samples these are depends on the step alone.

Samples in memory are read when they are wanted. Those on a disk are read some micro-batches ahead by several threads
(:mod:`edm_unified.data.prefetch`), while the network is busy; how many changes nothing of what is read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType

import torch
from torch import Tensor

from edm_unified.data import order
from edm_unified.data.dataset import ConditionKind, batch, prepared
from edm_unified.data.prefetch import prefetch
from edm_unified.training import random_numbers
from edm_unified.training.job import Job
from edm_unified.training.parallel import Team
from edm_unified.training.random_numbers import TrainingPurpose

Read = tuple[Tensor, Tensor | None, dict[str, Tensor]]
"""Samples, labels, and the conditions that the network is fed."""


class Reader:
    """``reader(step, part)``: this process's samples (rows, *shape), their labels and conditions, on the CPU.

    Asked for one micro-batch after another, it has them ready. Raises ``ValueError`` naming the file that cannot be
    read, or the sample that is not finite, when its turn comes. Once closed it leaves no thread behind.
    """

    def __init__(self, job: Job, team: Team) -> None:
        self._job, self._team = job, team
        self._next: tuple[int, int] | None = None
        self._ahead: Generator[Tensor, None, None] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __call__(self, step: int, part: int) -> Read:
        dataset = self._job.dataset
        chosen = self._chosen(step, part)
        if isinstance(dataset.stored, Tensor):
            raw = dataset.stored[chosen]
        else:
            if self._next != (step, part):
                self._close()
                batches = (self._chosen(*place) for place in self._places(step, part))
                self._ahead = prefetch(dataset.stored, batches, self._job.settings.workers)
            assert self._ahead is not None
            raw, self._next = next(self._ahead), self._after(step, part)
        x0, labels = prepared(dataset, chosen, raw)
        if raw.is_floating_point() and not bool(torch.isfinite(x0).all()):
            bad = int((~torch.isfinite(x0)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"data: NaN or infinity in sample {int(chosen[bad])} of {dataset.name}")
        return x0, labels, {kind: self._condition(kind, chosen) for kind in self._job.settings.conditions}

    def _condition(self, kind: ConditionKind, chosen: Tensor) -> Tensor:
        condition = self._job.dataset.conditions[kind]
        values = batch(condition, chosen)[0]
        bad = ~torch.isfinite(values).flatten(1).all(1)
        if bool(bad.any()):
            raise ValueError(f"data: NaN or infinity in {kind} {int(chosen[bad][0])} of {condition.name}")
        return values

    def _close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _places(self, step: int, part: int) -> Iterator[tuple[int, int]]:
        """That micro-batch and all that follow it."""
        while step < self._job.settings.steps:
            yield step, part
            step, part = self._after(step, part)

    def _after(self, step: int, part: int) -> tuple[int, int]:
        return (step, part + 1) if part + 1 < self._job.settings.accumulation else (step + 1, 0)

    def _chosen(self, step: int, part: int) -> Tensor:
        """The indices of this process's rows of a micro-batch."""
        settings, team = self._job.settings, self._team
        rows = settings.share(team.size)
        first = step * settings.batch + (part * team.size + team.rank) * rows
        return order.indices(
            len(self._job.dataset), random_numbers.seed_of(settings.seed, TrainingPurpose.ORDER), first, rows
        )
