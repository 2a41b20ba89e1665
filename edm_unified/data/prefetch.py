"""Reading ahead: batches of samples in the order they were asked for, decoded by several threads.

Every batch is cut into one piece for each worker, and a few batches are under way at a time, so that no worker waits
for another, or for the training. The caller decides which samples a batch has, and in which order: the number of
workers changes the speed and nothing else.

Threads and not processes: Pillow's decoders and resampling and NumPy's copies release the interpreter's lock, and a
thread has nothing to start, to copy or to leave behind. ``docs/data.md`` has the figures.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .dataset import Rows

AHEAD = 4
"""Batches that are under way while the caller is busy with the one before."""
MOST = 8
"""Workers that are started unless more are asked for: with more, threads wait for the interpreter's lock."""


def default_workers() -> int:
    """The CPUs that this process may use: its share of them where ``torchrun`` started several on one machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(MOST, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def prefetch(
    stored: Rows, batches: Iterable[Tensor], workers: int | None = None, ahead: int = AHEAD
) -> Generator[Tensor, None, None]:
    """``stored[indices]`` for each of ``batches`` (B,) long, in their order, read by ``workers`` threads.

    ``workers``: null for :func:`default_workers`. ``ahead``: batches that are read before they are asked for; at
    least as many as give each worker two pieces. What a worker raises is raised here, when that batch is asked for.
    When the iterator is closed or ends, no thread is left and no further batch is read.
    """
    workers = default_workers() if workers is None else workers
    with _threads(workers) as pool:
        queue: deque[list[Future[Tensor]]] = deque()
        for indices in batches:
            pieces = indices.split(max(1, -(-len(indices) // workers)))
            queue.append([pool.submit(stored.__getitem__, piece) for piece in pieces])
            if len(queue) > max(ahead, -(-2 * workers // len(pieces))):
                yield _whole(queue.popleft())
        while queue:
            yield _whole(queue.popleft())


def read(stored: Rows, indices: Tensor) -> Tensor:
    """``stored[indices]``, by several threads unless it is in memory."""
    if isinstance(stored, Tensor) or len(indices) < 2:
        return stored[indices]
    (found,) = prefetch(stored, [indices])
    return found


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edm-unified-reader")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _whole(pieces: list[Future[Tensor]]) -> Tensor:
    parts = [piece.result() for piece in pieces]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
