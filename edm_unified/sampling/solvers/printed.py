"""A solver, written as its paper prints one step of it.

A final subclass of :class:`Printed` writes one fall, ``fall(step, x, a, b)``: x at level b from x at level a, out of x,
outputs ``step.denoise(x, level)`` of D and noises ``step.noise()``. All of these enter linearly. So before the loop the
fall is run once between each two levels of the walk with symbols in their places (:class:`Form`); what comes out are
weights (:mod:`~edm_unified.sampling.solvers.rows`), and the loop combines tensors with numbers. In ``fall`` the levels
are plain numbers: ``a.sigma``, ``a.t``, ``a.s``, the log-rates ``a.f`` = s'/s and ``a.l`` = σ'/σ, and the same of b.

What reaches from one fall into the next is asked of ``step``: ``remember(value)`` hands a value on and ``past(most)``
gives those of the falls before, as far back as no rise or repeat of the level has moved x; ``ahead(x)`` evaluates D at
the *end* of the fall, for a corrector, and the next fall finds it as its own output at a.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import count
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Program, Randn, State, X, instruction, take


class Form(dict[int, float]):
    """A linear combination of symbols, by their weights: what x, D(x) and a noise are while a step is read."""

    __slots__ = ()

    def __add__(self, other: Form) -> Form:
        total = Form(self)
        for symbol, weight in other.items():
            total[symbol] = total.get(symbol, 0.0) + weight
        return total

    def __sub__(self, other: Form) -> Form:
        total = Form(self)
        for symbol, weight in other.items():
            total[symbol] = total.get(symbol, 0.0) - weight
        return total

    def __neg__(self) -> Form:
        return self * -1.0

    def __mul__(self, factor: float) -> Form:
        if isinstance(factor, Form):
            raise TypeError("a step must be linear in x, the outputs of D and the noises; this one multiplies two")
        product = Form()
        for symbol, weight in self.items():
            product[symbol] = weight * factor
        return product

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Form:
        quotient = Form()
        for symbol, weight in self.items():
            quotient[symbol] = weight / divisor
        return quotient


def weighed(weights: Iterable[float], values: Iterable[Form]) -> Form:
    """Σ_j w_j v_j."""
    total = Form()
    for factor, value in zip(weights, values, strict=True):
        for symbol, weight in value.items():
            total[symbol] = total.get(symbol, 0.0) + factor * weight
    return total


def _equal(one: Form, other: Form) -> bool:
    """Whether they are the same but for rounding, as s x/s and x are."""
    if one is other:
        return True
    return len(one) == len(other) and all(s in other and abs(w - other[s]) < 1e-14 for s, w in one.items())


Made = tuple[Form, "Level | None", int]
"""What a fall makes: a combination, the level where D is evaluated at it, if it is, and the symbol of the result."""
Past = tuple[Level, Form]
"""Where a fall began, and what it remembered."""


class Step:
    """What a solver writes a fall with: it goes along the walk, fall after fall. See the module docstring."""

    def __init__(self, axis: Axis, walk: Walk) -> None:
        self.axis = axis
        self.levels_repeat = any(a.sigma == b.sigma for a, b in walk.moves)
        """Whether the walk repeats a level, for a corrector to act on it."""
        self._falls, self._streaks = walk.falls, walk.streaks
        self._values, self._noises = count(1), count(X + 1)  # new symbols
        self._inner: dict[tuple[str, float], dict[int, Level]] = {}
        self._past: list[Past] = []
        # of the fall that is being read: its number, x, D(x; a) where it is known, and what it makes
        self._turn, self._start, self._made = 0, Form({X: 1.0}), list[Made]()
        self._known: Form | None = None
        self._kept: Form | None = None
        self._ahead: tuple[Form, Form] | None = None  # a state at b, and D there

    @property
    def h(self) -> float:
        """The length of the fall in λ = −ln σ."""
        a, b = self._falls[self._turn]
        return math.log(a.sigma / b.sigma) if b.sigma > 0 else math.inf

    @property
    def left(self) -> int:
        """How many falls of the walk are left, this one included."""
        return len(self._falls) - self._turn

    @property
    def followed(self) -> bool:
        """Whether another fall begins where this one ends, without a rise or a repeat between them."""
        return self.left > 1 and self._streaks[self._turn + 1] > 0

    @property
    def last_above_zero(self) -> bool:
        """Whether no fall but the one to 0, if there is one, comes after this one."""
        return self.left == (2 if self._falls[-1][1].sigma == 0 else 1)

    def denoise(self, x: Form, level: Level) -> Form:
        """D(x; σ)."""
        if _equal(x, self._start):
            if self._known is not None:
                return self._known
            x = self._start
        return self._make(x, level)

    def slope(self, x_t: Form, level: Level) -> Form:
        """dx_t/dt = (f + l) x_t − l s D(x_t/s; σ), x_t = s x (Karras et al. 2022, Eq. 4)."""
        return (level.f + level.l) * x_t - level.l * level.s * self.denoise(x_t / level.s, level)

    def noise(self) -> Form:
        """Fresh unit noise."""
        return Form({next(self._noises): 1.0})

    def remember(self, value: Form) -> Form:
        """Hand ``value``, one a fall, on to later falls."""
        self._kept = value
        return value

    def past(self, most: int) -> list[Past]:
        """Where the last falls began and what they remembered, the newest first; at most ``most`` of them."""
        return self._past[max(0, len(self._past) - most) :][::-1]

    def history(self, a: Level, value: Form, most: int, end: str = "full") -> tuple[list[Level], list[Form]]:
        """Remember ``value``, and put the past behind it: the levels of both, from a on, and the values.

        They are ``most`` at most; where ``end`` is "lower", no more than there are falls left.
        """
        self.remember(value)
        past = self.past((min(most, self.left) if end == "lower" else most) - 1)
        return [a, *(level for level, _ in past)], [value, *(value for _, value in past)]

    def ahead(self, x: Form) -> Form:
        """D(x; σ) at the end of the fall, where another one follows: it is the next one's output at its start."""
        self._ahead = x, Form({next(self._values): 1.0})
        return self._ahead[1]

    def in_time(self, c: float) -> Level:
        """The level at time a.t + c (b.t − a.t)."""
        return self._inside("time", c)

    def in_log_sigma(self, c: float) -> Level:
        """The level a^{1 − c} b^c, the part c of the way in ln σ."""
        return self._inside("log_sigma", c)

    def _inside(self, scale: Literal["time", "log_sigma"], c: float) -> Level:
        """The level at the part ``c`` of a fall above 0; those of all falls are made at once."""
        if c in (0, 1):
            return self._falls[self._turn][int(c)]  # the walk's own, never computed again
        if (scale, c) not in self._inner:
            above = {i: fall for i, fall in enumerate(self._falls) if fall[1].sigma > 0}
            if scale == "time":
                times = [a.t + c * (b.t - a.t) for a, b in above.values()]
                sigmas = self.axis.schedule.sigma(torch.tensor(times, dtype=torch.float64)).tolist()
                levels = self.axis.levels(sigmas, times)
            else:
                sigmas = [a.sigma * math.exp(-c * math.log(a.sigma / b.sigma)) for a, b in above.values()]
                levels = self.axis.levels(sigmas)
            self._inner[scale, c] = dict(zip(above, levels, strict=True))
        return self._inner[scale, c][self._turn]

    def _make(self, form: Form, level: Level | None) -> Form:
        symbol = next(self._values)
        self._made.append((form, level, symbol))
        return Form({symbol: 1.0})

    def read(self, solver: Printed, waits: bool) -> list[list[Made]]:
        """What each fall makes, its end last. ``waits``: a correction of x at b is made by the next fall."""
        falls, x, begun = list[list[Made]](), self._start, list[Made]()
        for turn, (a, b) in enumerate(self._falls):
            self._turn, self._made, self._kept, self._ahead = turn, begun, None, None
            self._past = self._past if self._streaks[turn] else []
            end = solver.fall(self, self._start, a, b)
            self._start, self._known, begun = x, None, []
            if self._ahead is not None:
                predicted, self._known = self._ahead
                (symbol,) = self._known
                change = Form({s: w for s, w in (end - predicted).items() if abs(w) > 1e-13})
                if waits and all(s < X for s in change):
                    begun = [(x, b, symbol)]
                    self._start, end = x + change, predicted
                else:
                    self._made.append((predicted, b, symbol))
            if self._kept is not None:
                self._past.append((a, self._in_one_pass(self._kept)))
            falls.append([*self._made, (end, None, X)])
        return falls

    def _in_one_pass(self, kept: Form) -> Form:
        """``kept`` as a number times a value that takes one pass to make: a lerp, or else a difference."""
        weights = [weight for weight in kept.values() if weight]
        if len(weights) == 1:
            return kept
        total, largest = sum(weights), max(weights, key=abs)
        scale = total if abs(total) > 1e-2 * abs(largest) else largest
        return self._make(kept / scale, None) * scale


def compiled(falls: list[list[Made]]) -> tuple[Program, ...]:
    """The programs: what is made, and what is kept of it for later falls. What nothing uses is not made."""
    last = {s: i for i, fall in enumerate(falls) for form, _, _ in fall for s, weight in form.items() if weight}
    programs, there = [], set[int]()
    for i, fall in enumerate(falls):
        instructions = []
        for form, level, symbol in fall:
            if level is not None or symbol == X or symbol in last:
                instructions.append(instruction(form, there, symbol, level))
                there.add(symbol)
        dropped = {X, *(symbol for symbol in there if last.get(symbol, 0) <= i)}
        there -= dropped
        programs.append(Program(tuple(instructions), tuple(dropped)))
    return tuple(programs)


class Printed(ABC):
    """A solver of fixed steps: final subclasses write one ``fall``."""

    waits: ClassVar[bool] = False
    """Whether a correction of x at b is made by the next fall even where the falls are made one by one."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise: where it has an amplitude ``eta`` of it, and that is not 0, unless it says so."""
        return bool(getattr(self, "eta", 0.0) > 0)

    @abstractmethod
    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        """x at b, made of x at a."""

    def init(self, axis: Axis, walk: Walk, whole: bool = False) -> State:
        """The weights of all falls of the walk.

        ``whole``: the falls are made one after the other, as in the loop, and nothing but the end counts. A corrector's
        change of x is then made by the next fall, together with its own step: one combination in place of two.
        """
        return compiled(Step(axis, walk).read(self, whole or self.waits)), 0, {}

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: State, randn: Randn
    ) -> tuple[Tensor, State]:
        """One fall from level a to level b."""
        return take(dynamics, x, state, randn)
