"""The random numbers of training: a pure function of (seed, purpose, step, row of the batch).

Nothing is drawn from a generator that lives through the run, so there is none to save: to resume at step k is to ask
for the numbers of step k. The rows of a batch come in blocks of 64, each from a generator of its own that is seeded
with a hash of where the block is; a process draws the blocks that its rows lie in. So the batch and its noise are the
same however many processes and micro-batches share it.

Numbers are drawn on the device that uses them, and differ between kinds of device.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

BLOCK = 64
"""Rows that are drawn together. A process whose share begins within a block draws at most this many for nothing."""


class TrainingPurpose(IntEnum):
    """What random numbers of training are for. The values are part of their seeds, and stay as they are."""

    NOISE = 0  # n of z = x_0 + σ n
    LEVELS = 1  # u, the quantiles of p(σ)
    LABELS = 2  # which labels are dropped; the classes that samples are drawn of
    AUGMENT = 3  # what the augmentation does to each image
    NETWORK = 4  # the initial weights, and dropout
    ORDER = 5  # in which order the data are shown
    CONDITIONS = 6  # which conditions besides classes are dropped


def seed_of(*keys: int) -> int:
    """63 bits that depend on all ``keys``."""
    packed = struct.pack(f"<{len(keys)}q", *keys)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def normals(
    keys: tuple[int, ...], first: int, rows: int, shape: Sequence[int], device: torch.device, batch: int
) -> Tensor:
    """Rows ``first`` … ``first + rows`` − 1 of a batch of unit normals, (rows, *shape) float32."""
    parts = []
    for block in range(first // BLOCK, -(-(first + rows) // BLOCK)):
        begin, size = block * BLOCK, min(BLOCK, batch - block * BLOCK)
        generator = torch.Generator(device).manual_seed(seed_of(*keys, block))
        drawn = torch.randn(size, *shape, generator=generator, device=device)
        parts.append(drawn[max(0, first - begin) : first + rows - begin])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def uniforms(keys: tuple[int, ...], count: int) -> Tensor:
    """``count`` numbers in [0, 1), float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed_of(*keys))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def stratified_uniforms(keys: tuple[int, ...], count: int) -> Tensor:
    """u_i = (π(i) + U_i)/B, one in each of B equal parts of [0, 1), in random order: (B,) float64, on the CPU."""
    generator = torch.Generator().manual_seed(seed_of(*keys))
    order = torch.randperm(count, generator=generator)
    within = torch.rand(count, generator=generator, dtype=torch.float64)
    return ((order + within) / count).clamp(max=math.nextafter(1.0, 0.0))


def classes(counts: Sequence[int], count: int, seed: int = 0, first: int = 0) -> Tensor:
    """Classes for samples ``first`` … of ``seed``, drawn with frequencies in proportion to ``counts``: (count,) long.

    Sample i has the same class whatever the batch.
    """
    shares = torch.tensor(counts, dtype=torch.float64).cumsum(0)
    u = torch.cat([uniforms((seed, TrainingPurpose.LABELS, i), 1) for i in range(first, first + count)])
    return torch.searchsorted(shares / shares[-1], u, right=True).clamp(max=len(counts) - 1)


def class_sets(sets: Sequence[Sequence[int]], classes: int, count: int, seed: int = 0, first: int = 0) -> Tensor:
    """Sets of classes for samples ``first`` … of ``seed``, each of ``sets`` as likely: (count, classes) bool."""
    u = torch.cat([uniforms((seed, TrainingPurpose.LABELS, i), 1) for i in range(first, first + count)])
    found = torch.zeros(count, classes, dtype=torch.bool)
    for row, at in enumerate((u * len(sets)).long().tolist()):
        found[row, list(sets[at])] = True
    return found
