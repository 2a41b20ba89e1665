"""A solver whose weights were fitted to one model, on levels of its own: what :mod:`edm_unified.tuning` finds.

With N evaluations at σ_0 > … > σ_{N−1} > 0 and σ_N = 0, step i is the most that a linear multistep step can be,

    x_{i+1} = a_i x_i + Σ_j b_ij D_{i−j}.

In what is fitted a_i + Σ_j b_ij = 1, so that a constant D = x = c is kept exactly. The state is x_0 + σ n whatever the
schedule, and so are the weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

from edm_unified.components.component import component, finite, positive
from edm_unified.components.constraints import Count
from edm_unified.sampling.dynamics import Axis, Level, Walk
from edm_unified.sampling.solvers.exponential_multistep import ExponentialAdams
from edm_unified.sampling.solvers.printed import Form, Printed, Step, weighed
from edm_unified.sampling.solvers.rows import State

Levels = tuple[float, ...]
Rows = tuple[tuple[float, ...], ...]
"""A row for each step: the weight of x, then those of the outputs of D, the newest first."""

_SAME_LEVEL = 1e-9
"""Relative difference up to which two levels are one: text that was copied may have lost digits."""


@component
class Fitted(Printed):
    """x_{i+1} = a_i x_i + Σ_j b_ij D_{i−j}, with a_i and b_ij found for one model: ``edm-unified tune``.

    ``sigmas``: for each budget its levels, falling to 0. ``weights``: for each of them a row (a_i, b_i0, b_i1, …) for
    every step. ``told``: the levels that D is told, where they are not those of x. A walk that is none of ``sigmas`` is
    refused; where there are none at all every step is that of exponential Adams of order 2, from which fits start.

    ``model``: answers of the model it was fitted to (:func:`edm_unified.tuning.answers`), by which another one is
    told; ``teacher``, ``seed``, ``samples`` and ``gain`` (for each budget the error of the best stock method over that
    of this one on held-out noises, and the ends of its 95 % interval) say how. They change no sample.
    """

    sigmas: tuple[Levels, ...] = ()
    weights: tuple[Rows, ...] = ()
    told: tuple[Levels, ...] = ()
    model: tuple[float, ...] = ()
    teacher: str = ""
    seed: int = 0
    samples: Count = 32
    gain: tuple[tuple[float, ...], ...] = ()
    kind: Literal["fitted"] = "fitted"
    untold: ClassVar[tuple[str, ...]] = ("sigmas", "weights", "told", "model", "teacher", "seed", "samples", "gain")
    formulas: ClassVar[dict[str, str]] = {"x_{i+1}": "a_i x_i + Σ_j b_{ij} D_{i−j}, a_i and b_{ij} as fitted"}

    def __post_init__(self) -> None:
        for name in ("sigmas", "told"):  # from lists, arrays or tensors as well
            object.__setattr__(self, name, tuple(tuple(map(float, one)) for one in getattr(self, name)))
        object.__setattr__(
            self, "weights", tuple(tuple(tuple(map(float, row)) for row in rows) for rows in self.weights)
        )
        if len(self.weights) != len(self.sigmas):
            raise ValueError(
                f"weights: must have rows for each of the {len(self.sigmas)} lists of sigmas, got {len(self.weights)}"
            )
        if self.told and [len(one) + 1 for one in self.told] != [len(one) for one in self.sigmas]:
            raise ValueError("told: must have a level for each evaluation of each of the lists of sigmas")
        for place, (levels, rows) in enumerate(zip(self.sigmas, self.weights, strict=True)):
            check_levels(f"sigmas: item {place}", levels)
            _check_rows(f"weights: item {place}", rows, len(levels) - 1)
        for levels in self.told:
            for sigma in levels:
                positive("told", sigma)

    @property
    def order(self) -> int | None:
        """2 of the base; a fit has none, as it is not refined."""
        return None if self.sigmas else 2

    @property
    def walks(self) -> tuple[Levels, ...]:
        """The walks that it can take; none where it can take any."""
        return self.sigmas

    def place(self, levels: Levels) -> int:
        """Which of ``sigmas`` these levels are. Raises ``ValueError`` where they are none of them."""
        for place, own in enumerate(self.sigmas):
            if len(own) == len(levels) and all(abs(a - b) <= _SAME_LEVEL * b for a, b in zip(levels, own, strict=True)):
                return place
        budgets = ", ".join(str(len(own) - 1) for own in self.sigmas)
        raise ValueError(
            f"solver: was fitted to levels of its own, of {budgets} evaluations, and these {len(levels)} from "
            f"{levels[0]:.6g} to {levels[-1]:.6g} are not among them; take the steps that stand beside it, without "
            "renoising, corrector or analytic start, and with last: solver"
        )

    def init(self, axis: Axis, walk: Walk, whole: bool = False) -> State:
        """The weights of all falls. Raises ``ValueError`` for a walk that is none of ``sigmas``."""
        if not self.sigmas:
            return Printed.init(_BASE, axis, walk, whole)
        place = self.place(tuple(level.sigma for level in walk.levels))
        told = axis.levels(self.told[place]) if self.told else tuple(level for level, _ in walk.falls)
        return Printed.init(_Rows(self.weights[place], told), axis, walk, whole)

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        """That of the base; the fall of a fit is taken by its place in the walk, in :meth:`init`."""
        return _BASE.fall(step, x, a, b)


_BASE = ExponentialAdams(order=2)


class _Rows(Printed):
    """The rows of one walk, taken one after the other."""

    def __init__(self, rows: Rows, told: tuple[Level, ...]) -> None:
        self.rows, self.told = rows, told

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        place = len(self.rows) - step.left
        of_x, *of_outputs = self.rows[place]
        D = step.remember(step.denoise(x, self.told[place]))
        past: list[Any] = [value for _, value in step.past(len(of_outputs) - 1)]
        return of_x * x + weighed(of_outputs, [D, *past])


def check_levels(name: str, levels: Levels) -> None:
    """Raise ``ValueError`` unless they fall from a finite level to 0."""
    if len(levels) < 2 or levels[-1] != 0:
        raise ValueError(f"{name}: must be two levels or more, the last of them 0")
    for i, (a, b) in enumerate(pairwise(levels)):
        positive(name, a)
        if not b < a:
            raise ValueError(f"{name}: must fall, but level {i + 1} is {b!r} after {a!r}")


def _check_rows(name: str, rows: Rows, steps: int) -> None:
    if len(rows) != steps:
        raise ValueError(f"{name}: must have a row for each of the {steps} steps, got {len(rows)}")
    for i, row in enumerate(rows):
        if not 2 <= len(row) <= i + 2:
            raise ValueError(
                f"{name}: row {i} must have the weight of x and those of 1 to {i + 1} outputs, got {len(row)} numbers"
            )
        for weight in row:
            finite(name, weight)
