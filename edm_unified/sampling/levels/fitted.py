"""Levels that were fitted to one model, a list for each budget."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import component, positive
from edm_unified.components.constraints import Count
from edm_unified.schedules import Schedule


@component
class FittedLevels:
    """The levels that ``edm-unified tune`` found: of ``sigmas``, the longest list of at most ``n`` steps.

    Each list falls to 0. So a recipe has one line in a comparison of budgets: at a budget that was not fitted it takes
    the next lower one that was. Raises ``ValueError`` for fewer steps than any list has.
    """

    sigmas: tuple[tuple[float, ...], ...]
    n: Count = 18
    kind: Literal["fitted"] = "fitted"
    untold: ClassVar[tuple[str, ...]] = ("sigmas",)
    formulas: ClassVar[dict[str, str]] = {"levels": "as fitted, for each number of steps"}

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(tuple(map(float, one)) for one in self.sigmas))
        if not self.sigmas:
            raise ValueError("sigmas: needs a list of levels at least")
        for place, levels in enumerate(self.sigmas):
            if len(levels) < 2 or levels[-1] != 0:
                raise ValueError(f"sigmas: item {place}: must be two levels or more, the last of them 0")
            for i, (a, b) in enumerate(pairwise(levels)):
                positive(f"sigmas: item {place}", a)
                if not b < a:
                    raise ValueError(f"sigmas: item {place}: must fall, but level {i + 1} is {b!r} after {a!r}")

    def levels(self, schedule: Schedule) -> Tensor:
        found = [one for one in self.sigmas if len(one) - 1 <= self.n]
        if not found:
            budgets = ", ".join(str(len(one) - 1) for one in self.sigmas)
            raise ValueError(f"n: the levels were fitted for {budgets} steps, got {self.n}")
        return torch.tensor(max(found, key=len), dtype=torch.float64)
