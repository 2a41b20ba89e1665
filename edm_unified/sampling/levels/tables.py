"""Levels that come as tables: subsets of a table of betas, and schedules that were optimized and published."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.components.component import choice, component
from edm_unified.components.constraints import Count, whole
from edm_unified.schedules import BetaTable, Schedule


def _leading(n: int, length: int, offset: int) -> list[int]:
    return [i * (length // n) + offset for i in reversed(range(n))]


def _trailing(n: int, length: int, offset: int) -> list[int]:
    return [round(Fraction(length * (n - i), n)) - 1 + offset for i in range(n)]


def _linspace(n: int, length: int, offset: int) -> list[int]:
    if n == 1:
        return [length - 1]
    return [round(Fraction((length - 1) * (n - 1 - i), n - 1)) + offset for i in range(n)]


def _simple(n: int, length: int, offset: int) -> list[int]:
    return [length - 1 - i * length // n + offset for i in range(n)]


def _sgm_uniform(n: int, length: int, offset: int) -> list[int]:
    return [(length - 1) * (n - i) // n + offset for i in range(n)]


def _edm(n: int, length: int, offset: int) -> list[int]:
    if n == 1:
        return [length - 1]
    return [length - 1 - (2 * (length - 1) * i + n - 1) // (2 * (n - 1)) + offset for i in range(n)]


_SPACINGS = {
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "edm": _edm,
}


@component
class TableSubset:
    """n of the M levels of a table of betas, then 0: what DDPM, DDIM and Stable Diffusion visit.

    ``spacing`` picks the indices k (0 … M−1). As Lin et al. 2023, Table 2 names them: ``leading`` i·⌊M/n⌋ (with
    ``offset`` 1 for Stable Diffusion), ``trailing`` round(M − i M/n) − 1, ``linspace`` round(i (M−1)/(n−1)). Of the
    image programs: ``simple`` M − 1 − ⌊i M/n⌋, and ``sgm_uniform`` ⌊(M−1)(n−i)/n⌋ (Stability's generative-models;
    ComfyUI has the same places before they are rounded down, with ln σ interpolated). ``edm`` is ``linspace`` counted
    from the top, M − 1 − ⌊i (M−1)/(n−1) + ½⌋ (Karras et al. 2022, Table 1, column iDDPM): a half goes the other way.
    The arithmetic is in whole numbers and exact fractions. ``table`` is the table; by default the schedule's own.
    ``skip`` leaves out so many of its highest levels, and M is then what is left: EDM's j_0 = 8 for iDDPM's table, of
    which the first is then 80.2.

    Raises ``ValueError`` for n above M, for an index beyond the table, and where there is no table.
    """

    n: Count = 50
    spacing: Literal["leading", "trailing", "linspace", "simple", "sgm_uniform", "edm"] = "trailing"
    offset: Annotated[int, whole(least=0)] = 0
    table: BetaTable | None = None
    skip: Annotated[int, whole(least=0)] = 0
    kind: Literal["table"] = "table"
    added_later: ClassVar[tuple[str, ...]] = ("skip",)
    formulas: ClassVar[dict[str, str]] = {"levels": "σ_{k_i} of the table, k as ``spacing`` says, then 0"}

    def __post_init__(self) -> None:
        choice("spacing", self.spacing, _SPACINGS)

    def levels(self, schedule: Schedule) -> Tensor:
        table = self.table if self.table is not None else schedule
        if not isinstance(table, BetaTable):
            raise ValueError(
                f"table: {type(schedule).__name__} is not a table of betas; set table, or choose another rule"
            )
        sigmas = table.sigmas
        if self.skip >= len(sigmas):
            raise ValueError(f"skip: {self.skip} leaves nothing of a table of {len(sigmas)}; lower skip")
        sigmas = sigmas[: len(sigmas) - self.skip]
        if self.n > len(sigmas):
            raise ValueError(f"n: {self.n} steps out of a table of {len(sigmas)}; lower n")
        index = _SPACINGS[self.spacing](self.n, len(sigmas), self.offset)
        if index[0] >= len(sigmas):
            raise ValueError(f"offset: index {index[0]} is beyond the table of {len(sigmas)}; lower offset")
        return torch.cat([sigmas[index], torch.zeros(1, dtype=torch.float64)])


ALIGNED = {
    "stable_diffusion_1_5": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "stable_diffusion_xl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deep_floyd_if": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "stable_video_diffusion": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Sabour et al. 2024, the table of optimized schedules of ten steps, each ending at the model's σ_min."""


@component
class AlignYourSteps:
    """The optimized schedules of Align Your Steps (Sabour et al. 2024, arXiv:2404.14507, appendix), then 0.

    ``model`` names one of the four that were published. Ten steps are the table itself, the last of its eleven numbers
    giving way to 0. For any other n, ln σ is interpolated linearly over n + 1 equal parts of the table, as the authors
    recommend, and again the last gives way to 0. They were optimized for those networks and their stochastic sampler;
    for Gaussian data the same bound is minimized by :class:`Tan`.
    """

    n: Count = 10
    model: Literal["stable_diffusion_1_5", "stable_diffusion_xl", "deep_floyd_if", "stable_video_diffusion"] = (
        "stable_diffusion_1_5"
    )
    kind: Literal["align_your_steps"] = "align_your_steps"
    formulas: ClassVar[dict[str, str]] = {"levels": "ln σ_i linear in i between the eleven published levels, σ_N = 0"}

    def __post_init__(self) -> None:
        choice("model", self.model, ALIGNED)

    def levels(self, schedule: Schedule) -> Tensor:
        table = ALIGNED[self.model]
        cells = len(table) - 1
        sigmas = []
        for i in range(self.n):
            k, part = divmod(i * cells, self.n)  # whole numbers: a place that is a node gives the node to the bit
            low = math.log(table[k + 1] / table[k]) if part else 0.0
            sigmas.append(table[k] * math.exp(part / self.n * low))
        return torch.tensor([*sigmas, 0.0], dtype=torch.float64)
