"""Rows of weights: what is left of a printed step once the levels are known, and the one place that takes steps.

A fall is a short program. Each of its instructions makes one linear combination of tensors,

    Σ_j w_j values_j + Σ_k std_k n_k,        values = (x, what earlier falls left, what this fall has made so far),

and either evaluates D there or keeps the combination itself; the last one is the state at the end of the fall. The
numbers are Python floats, computed in float64 before the loop, so that the loop never waits for the device.

Where weights sum to one (those of every step do that maps x = D = c to c) the sum is a chain of ``torch.lerp``, each of
which reads two tensors and writes one: a two-term step is one pass at the memory floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Dynamics, Level

Randn = Callable[[], Tensor]
"""Draws unit normal noise in the shape of the state."""

SAME, LERP, ADD, SCALE = range(4)
"""How a combination begins: values[first], lerp(values[first], values[second], weight), values[first] +
weight values[second], or weight values[first]."""

Terms = tuple[tuple[int, float], ...]


class Row(NamedTuple):
    """A linear combination of values, as operations on tensors; each term is (which value, number)."""

    begins: int
    first: int
    second: int
    weight: float
    lerps: Terms
    adds: Terms


class Instruction(NamedTuple):
    """A combination, the noises added to it (which of the fall's, std), and where D is evaluated at it, if it is."""

    row: Row
    noises: Terms
    level: Level | None


class Program(NamedTuple):
    """One fall. ``kept`` are the values that later falls use, oldest first."""

    instructions: tuple[Instruction, ...]
    kept: tuple[int, ...]


class State(NamedTuple):
    """The programs of a walk, which one is next, and the tensors that earlier falls have left for later ones."""

    programs: tuple[Program, ...]
    turn: int
    history: tuple[Tensor, ...]


def row(terms: Sequence[tuple[int, float]]) -> Row:
    """Σ_j w_j values_j of ``terms`` (j, w_j), in the fewest passes; those come from the state being *last*.

    All terms as a chain of lerps, or the longest end of them that is one and the others added, or a plain sum.
    """
    for begin in range(len(terms) - 1):
        chain = lerps(terms[begin:])
        if chain:
            (second, weight), *rest = chain
            return Row(LERP, terms[begin][0], second, weight, tuple(rest), tuple(terms[:begin]))
    unit = next((j for j, (_, weight) in enumerate(terms) if weight == 1), None)
    if unit is None:
        (first, weight), *rest = terms
        return Row(SCALE, first, 0, weight, (), tuple(rest))
    others = [*terms[:unit], *terms[unit + 1 :]]
    if not others:
        return Row(SAME, terms[unit][0], 0, 1.0, (), ())
    (second, weight), *rest = others
    return Row(ADD, terms[unit][0], second, weight, (), tuple(rest))


def lerps(terms: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The ratios that make Σ_j w_j values_j from its first value by lerps; none where the weights do not sum to one."""
    weights = [weight for _, weight in terms]
    if abs(sum(weights) - 1) > 1e-13 * max(map(abs, weights)):
        return []
    total, ratios = weights[0], []
    for value, weight in terms[1:]:
        previous, total = total, total + weight
        if abs(total) < 1e-3 * (abs(previous) + abs(weight)):  # a partial sum cancels: lerp would lose digits
            return []
        ratios.append((value, weight / total))
    return ratios


def take(dynamics: Dynamics, x: Tensor, state: State, randn: Randn) -> tuple[Tensor, State]:
    """One fall from x. The tensors that it is given are read and not written into."""
    programs, turn, history = state
    instructions, kept = programs[turn]
    values = [x, *history]
    noises: list[Tensor] = []
    for (begins, first, second, weight, lerps, adds), drawn, level in instructions:
        if begins == SAME:
            out = values[first]
        elif begins == LERP:
            out = torch.lerp(values[first], values[second], weight)
        elif begins == ADD:
            out = torch.add(values[first], values[second], alpha=weight)
        else:
            out = values[first] * weight
        for k, ratio in lerps:
            out.lerp_(values[k], ratio)
        for k, factor in adds:
            out.add_(values[k], alpha=factor)
        for k, std in drawn:
            if k == len(noises):
                noises.append(randn())
            out = torch.add(out, noises[k], alpha=std) if begins == SAME else out.add_(noises[k], alpha=std)
        values.append(out if level is None else dynamics.denoise(out, level))
    return values[-1], State(programs, turn + 1, tuple([values[k] for k in kept]) if kept else ())
