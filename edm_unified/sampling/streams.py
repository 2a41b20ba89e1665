"""Random numbers by sample: what sample i of a seed draws does not depend on who shares its batch.

Every sample has a generator of its own, NumPy's SFC64 seeded with (seed, purpose, i). :class:`Purpose` keeps apart the
streams that one sample needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Purpose(IntEnum):
    """What the random numbers of a sample are for. The values are part of their seeds, and stay as they are."""

    START = 0  # the unit noise that sampling starts from
    STEPS = 1  # noise added by solvers, rises and correctors
    TRACE = 2  # the probes that estimate a trace, for likelihoods
    DEQUANTIZATION = 3  # the noise that makes bytes continuous
    BOUND_NOISE = 4  # the noise of a variational bound
    BOUND_LEVELS = 5  # its noise levels
    RISES = 6  # rises and corrections between the falls of an adaptive solver, which takes what it needs of STEPS


class NoiseStreams:
    """Unit noise for a batch: sample i of seed S has its own stream (SFC64), seeded with (S, purpose, i).

    So a sample is the same bit for bit in a batch of 1 or 64, alone or on any rank, on a CPU or a GPU, and in float32
    it is the rounding of what it is in float64. Calling the source draws the next (B, *shape) normals.
    """

    def __init__(
        self, seed: int, first: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device, purpose: Purpose
    ) -> None:
        if not all(isinstance(value, Integral) and value >= 0 for value in (seed, first)):
            raise ValueError(f"seed, first: must be whole numbers from 0, got {seed!r} and {first!r}")
        self.keys = [(purpose, index) for index in range(first, first + shape[0])]
        self.seed, self.streams = seed, list[np.random.Generator]()
        self.shape, self.dtype, self.device = tuple(shape[1:]), dtype, device

    def __call__(self) -> Tensor:
        if not self.streams:  # at the first draw: a run that draws nothing does not pay for it
            sequences = (np.random.SeedSequence(self.seed, spawn_key=key) for key in self.keys)
            self.streams = [np.random.Generator(np.random.SFC64(sequence)) for sequence in sequences]
        pinned = self.device.type == "cuda"
        noise = torch.empty((len(self.keys), *self.shape), dtype=torch.float64, pin_memory=pinned)
        for stream, row in zip(self.streams, noise.numpy().reshape(len(self.keys), -1), strict=True):
            stream.standard_normal(out=row)
        return noise.to(self.device, non_blocking=True).to(self.dtype)  # rounded there: no wait for the device


def unit_noise(n: int, shape: Sequence[int], seed: int = 0, first: int = 0) -> Float[Tensor, "n *shape"]:
    """Unit normal noise of shape (n, *shape), float64, for samples first … first + n − 1 of ``seed``.

    Sample i is the same whatever the batch it is drawn in: ``unit_noise(64, s)[7] == unit_noise(1, s, first=7)[0]``.
    """
    return NoiseStreams(seed, first, (n, *shape), torch.float64, torch.device("cpu"), Purpose.START)()
