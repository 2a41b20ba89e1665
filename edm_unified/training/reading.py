"""The clean samples of each micro-batch: which they are is a function of the step.

Samples in memory are read when they are wanted. Those on a disk are read one micro-batch ahead, by a thread of their
own, while the network is busy with the one before.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from edm_unified.data import batch as read
from edm_unified.data import order
from edm_unified.training import draws
from edm_unified.training.job import Job
from edm_unified.training.parallel import Team

Read = tuple[Tensor, Tensor | None]


class Reader:
    """``reader(step, part)``: this process's samples (rows, *shape) and their labels, on the CPU.

    Raises ``ValueError`` naming the sample that is not finite.
    """

    def __init__(self, job: Job, team: Team) -> None:
        self._job, self._team = job, team
        in_memory = isinstance(job.dataset.stored, Tensor)
        self._pool = None if in_memory else ThreadPoolExecutor(1, thread_name_prefix="edm-unified-reader")
        self._next: tuple[tuple[int, int], Future[Read]] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, step: int, part: int) -> Read:
        if self._pool is None:
            return self._read(step, part)
        ahead, self._next = self._next, None
        found = ahead[1].result() if ahead is not None and ahead[0] == (step, part) else self._read(step, part)
        parts = self._job.settings.accumulation
        following = (step, part + 1) if part + 1 < parts else (step + 1, 0)
        if following[0] < self._job.settings.steps:
            self._next = following, self._pool.submit(self._read, *following)
        return found

    def _read(self, step: int, part: int) -> Read:
        settings, dataset, team = self._job.settings, self._job.dataset, self._team
        rows = settings.share(team.size)
        first = step * settings.batch + (part * team.size + team.rank) * rows
        chosen = order.indices(len(dataset), draws.seed_of(settings.seed, draws.ORDER), first, rows)
        x0, labels = read(dataset, chosen)
        if not bool(torch.isfinite(x0).all()):
            bad = int((~torch.isfinite(x0)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"data: NaN or infinity in sample {int(chosen[bad])} of {dataset.name}")
        return x0, labels
