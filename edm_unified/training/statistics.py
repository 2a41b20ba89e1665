"""Means for a line of the log: the loss in bins of σ, and the norm of the gradient.

σ falls in bins of a quarter of a decade, from 10⁻⁴ to 10⁷. Sums are kept on the device; reading them waits for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.training.parallel import Team

PER_DECADE, LOWEST, HIGHEST = 4, -4, 7
BINS = PER_DECADE * (HIGHEST - LOWEST)


class Record(NamedTuple):
    """Means since the last line of the log. ``bins``: (σ at the middle of the bin, mean loss, samples)."""

    loss: float
    grad_norm: float
    bins: list[tuple[float, float, int]]


class LossStatistics:
    """Sums over steps. ``sums``: (BINS + 1, 2): for each bin the losses and their number; last, norms and steps."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(BINS + 1, 2, dtype=torch.float64, device=device)

    def add(self, sigma: Tensor, losses: Tensor) -> None:
        """Count the losses (B,) at ``sigma`` (B,)."""
        place = ((sigma.log10() - LOWEST) * PER_DECADE).floor().clamp(0, BINS - 1).long().to(losses.device)
        both = torch.stack([losses.detach().double(), torch.ones_like(losses, dtype=torch.float64)], dim=1)
        self.sums.index_add_(0, place, both)

    def step(self, grad_norm: Tensor, leads: bool) -> None:
        """Count a step; the norm is that of all processes, and one of them counts it."""
        if leads:
            self.sums[BINS, 0] += grad_norm.double()
            self.sums[BINS, 1] += 1

    def gather(self, team: Team) -> None:
        """Bring the sums of all processes to the first; the others start again from zero."""
        team.add(self.sums)
        if not team.leads:
            self.sums.zero_()

    def read(self, team: Team, start_again: bool = True) -> Record:
        """The means of all processes, and a fresh start unless that is not wanted."""
        self.gather(team)
        sums = self.sums.tolist()
        if start_again:
            self.sums.zero_()
        counted = [(i, total, int(number)) for i, (total, number) in enumerate(sums[:BINS]) if number]
        bins = [(10 ** (LOWEST + (i + 0.5) / PER_DECADE), total / number, number) for i, total, number in counted]
        number = sum(entry[2] for entry in bins)
        loss = math.fsum(total for _, total, _ in counted) / number if number else math.nan
        norm, steps = sums[BINS]
        return Record(loss, norm / steps if steps else math.nan, bins)
