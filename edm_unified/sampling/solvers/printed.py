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
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import SAME, Instruction, Program, Randn, State, Term, instruction, take

X = 0
"""The symbol of the state at the start of a fall. Those of outputs and other values are positive, in the order in which
they are made; those of noises are negative."""


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
        return Form({symbol: weight * factor for symbol, weight in self.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Form:
        return Form({symbol: weight / divisor for symbol, weight in self.items()})


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


Made = tuple[Form, Level | None, int]
"""What a fall makes: the combination, the level where D is evaluated at it, if it is, and the symbol it gets."""
Past = tuple[Level, Form]
"""Where a fall began, and what it remembered."""


class Step:
    """What a solver writes a fall with. See the module docstring."""

    def __init__(self, reading: Reading, turn: int, start: Form, known: Form | None, past: list[Past]) -> None:
        self._reading, self._turn, self._start, self._known, self._past = reading, turn, start, known, past
        self.axis = reading.axis
        a, b = reading.falls[turn]
        self.h = math.log(a.sigma / b.sigma) if b.sigma > 0 else math.inf
        """The length of the fall in λ = −ln σ."""
        self.made: list[Made] = []
        self.kept: Form | None = None
        self.predicted: tuple[Form, Form] | None = None
        """A state at b and D there."""

    @property
    def left(self) -> int:
        """How many falls of the walk are left, this one included."""
        return len(self._reading.falls) - self._turn

    @property
    def followed(self) -> bool:
        """Whether another fall begins where this one ends, without a rise or a repeat between them."""
        return self.left > 1 and self._reading.streaks[self._turn + 1] > 0

    @property
    def last_above_zero(self) -> bool:
        """Whether no fall but the one to 0, if there is one, comes after this one."""
        return self.left == (2 if self._reading.falls[-1][1].sigma == 0 else 1)

    @property
    def levels_repeat(self) -> bool:
        """Whether the walk repeats a level, for a corrector to act on it."""
        return self._reading.levels_repeat

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
        self._reading.noises += 1
        return Form({-self._reading.noises: 1.0})

    def remember(self, value: Form) -> Form:
        """Hand ``value``, one a fall, on to later falls."""
        self.kept = value
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
        symbol = self._reading.symbol()
        self.predicted = x, Form({symbol: 1.0})
        return self.predicted[1]

    def in_time(self, c: float) -> Level:
        """The level at time a.t + c (b.t − a.t)."""
        return self._reading.between("time", c, self._turn)

    def in_log_sigma(self, c: float) -> Level:
        """The level a^{1 − c} b^c, the part c of the way in ln σ."""
        return self._reading.between("log_sigma", c, self._turn)

    def _make(self, form: Form, level: Level | None) -> Form:
        symbol = self._reading.symbol()
        self.made.append((form, level, symbol))
        return Form({symbol: 1.0})


class Reading:
    """A walk being read, fall by fall, into programs."""

    def __init__(self, axis: Axis, walk: Walk) -> None:
        self.axis, self.falls, self.streaks = axis, walk.falls, walk.streaks
        self.levels_repeat = any(a.sigma == b.sigma for a, b in walk.moves)
        self.symbols = self.noises = 0
        self._between: dict[tuple[str, float], dict[int, Level]] = {}

    def symbol(self) -> int:
        """A new one."""
        self.symbols += 1
        return self.symbols

    def between(self, axis: Literal["time", "log_sigma"], c: float, turn: int) -> Level:
        """The level at the part ``c`` of a fall above 0; those of all falls are made at once."""
        if c in (0, 1):
            return self.falls[turn][int(c)]  # the walk's own, never computed again
        if (axis, c) not in self._between:
            above = [i for i, (_, b) in enumerate(self.falls) if b.sigma > 0]
            falls = [self.falls[i] for i in above]
            if axis == "time":
                times = [a.t + c * (b.t - a.t) for a, b in falls]
                sigmas = self.axis.schedule.sigma(torch.tensor(times, dtype=torch.float64)).tolist()
                levels = self.axis.levels(sigmas, times)
            else:
                levels = self.axis.levels([a.sigma * math.exp(-c * math.log(a.sigma / b.sigma)) for a, b in falls])
            self._between[axis, c] = dict(zip(above, levels, strict=True))
        return self._between[axis, c][turn]

    def read(self, solver: Printed, waits: bool) -> list[list[Made]]:
        """What each fall makes, its end last. ``waits``: a correction of x at b is made by the next fall."""
        falls: list[list[Made]] = []
        past: list[Past] = []
        begin: list[Made] = []
        start, known = Form({X: 1.0}), None
        for i, (a, b) in enumerate(self.falls):
            past = past if self.streaks[i] else []
            step = Step(self, i, start, known, past)
            step.made += begin
            end = solver.fall(step, start, a, b)
            start, known, begin = Form({X: 1.0}), None, []
            if step.predicted is not None:
                predicted, known = step.predicted
                (symbol,) = known
                change = Form({s: w for s, w in (end - predicted).items() if abs(w) > 1e-13})
                if waits and all(s > X for s in change):
                    begin = [(Form({X: 1.0}), b, symbol)]
                    start, end = start + change, predicted
                else:
                    step.made.append((predicted, b, symbol))
            if step.kept is not None:
                past.append((a, self._remembered(step)))
            step.made.append((end, None, X))
            falls.append(step.made)
        return falls

    def _remembered(self, step: Step) -> Form:
        """What is remembered, as a number times a value that takes one pass to make: a lerp, or else a difference."""
        assert step.kept is not None
        weights = {symbol: weight for symbol, weight in step.kept.items() if weight}
        if len(weights) == 1:
            return step.kept
        total, largest = sum(weights.values()), max(weights.values(), key=abs)
        scale = total if abs(total) > 1e-2 * abs(largest) else largest
        return step._make(step.kept / scale, None) * scale


def compiled(falls: list[list[Made]]) -> tuple[Program, ...]:
    """The programs: which register each symbol is in, and until which fall it is kept."""
    last: dict[int, int] = {}
    for i, fall in enumerate(falls):
        for form, _, _ in fall:
            for symbol, weight in form.items():
                if weight:
                    last[symbol] = i
    programs, history = [], list[int]()
    for i, fall in enumerate(falls):
        register = {X: 0}
        for symbol in history:
            register[symbol] = len(register)
        instructions = []
        for form, level, symbol in fall:
            if level is not None or symbol == X or symbol in last:
                instructions.append(_instruction(form, level, register))
                if symbol != X:
                    register[symbol] = len(register)
        first = instructions[0]
        start = first.level if first.begins == SAME and first.first == X and first.more is None else None
        if start is not None:
            del instructions[0]
        history = sorted([symbol for symbol in register if symbol != X and last.get(symbol, 0) > i])
        programs.append(Program(start, tuple(instructions), tuple([register[symbol] for symbol in history])))
    return tuple(programs)


def _instruction(form: Form, level: Level | None, register: dict[int, int]) -> Instruction:
    """``form`` in registers: values oldest first and x last, then noises; new ones are drawn into registers."""
    terms, noises, draws, of_x = list[Term](), list[Term](), 0, 0.0
    for symbol in sorted(form):
        weight = form[symbol]
        if symbol == X:
            of_x = weight
        elif weight and symbol > X:
            terms.append((register[symbol], weight))
    if of_x or not terms:
        terms.append((0, of_x))
    for symbol in sorted([symbol for symbol in form if symbol < X and form[symbol]], reverse=True):
        if symbol not in register:
            register[symbol] = len(register)
            draws += 1
        noises.append((register[symbol], form[symbol]))
    return instruction(terms, tuple(noises), draws, level)


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
        return compiled(Reading(axis, walk).read(self, whole or self.waits)), 0, ()

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: State, randn: Randn
    ) -> tuple[Tensor, State]:
        """One fall from level a to level b."""
        return take(dynamics, x, state, randn)
