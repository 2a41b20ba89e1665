"""The order in which training sees the data: a pure function of a seed and a position.

The order is an endless row of permutations, one per epoch; ``indices`` reads any stretch of it. Nothing is remembered
between calls, so a run resumes at any position by knowing that position alone, and any number of ranks see the same
global batches: rank r of R reads ``indices(size, seed, start + r·B/R, B/R)`` of a batch of B that begins at ``start``.

The permutation of an epoch sorts random 64-bit words. NumPy promises that the words of a bit generator never change
between its versions, which it does not promise of ``Generator.permutation``; so a run may resume under another NumPy.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_OWN = int.from_bytes(b"order", "big")


def indices(size: int, seed: int, start: int, count: int) -> Tensor:
    """Positions ``start`` … ``start + count`` − 1 of the order over ``size`` samples: (count,) long, each below size.

    Every sample comes once in each epoch, i.e. in each stretch of ``size`` positions that begins at a multiple of
    ``size``. Costs O(count + size log size), and O(count) within an epoch that was just read.
    """
    for name, value, least in (("size", size, 1), ("seed", seed, 0), ("start", start, 0), ("count", count, 0)):
        if value < least:
            raise ValueError(f"{name}: must be a whole number from {least}, got {value!r}")
    parts, end = [np.empty(0, np.int64)], start + count
    while start < end:
        epoch, first = divmod(start, size)
        last = min(size, first + end - start)
        parts.append(permutation(size, seed, epoch)[first:last])
        start += last - first
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=2)  # a batch may lie across the border of two epochs
def permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, (size,) int64, read-only."""
    # A sequence of its own: data made up by the same seed would otherwise be sorted by the words they were drawn with.
    words = np.random.PCG64(np.random.SeedSequence([_OWN, seed], spawn_key=(epoch,))).random_raw(size)
    order = np.argsort(words, kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order
