"""Rows of weights: what is left of a printed step once the levels are known, and the one place that takes steps.

A fall is a short program. Each of its instructions makes one linear combination of tensors,

    Σ_j w_j values_j,        values = (x, what earlier falls left, what this fall has made and the noises it has drawn),

and either evaluates D there or keeps the combination itself; the last one is the state at the end of the fall. The
numbers are Python floats, computed in float64 before the loop, so that the loop never waits for the device.

Where weights sum to one (those of every step do that maps x = D = c to c) the sum is a chain of ``torch.lerp``, each of
which reads two tensors and writes one: a two-term step is one pass at the memory floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.sampling.dynamics import Dynamics, Level

Randn = Callable[[], Tensor]
"""Draws unit normal noise in the shape of the state."""

X = 1 << 30
"""The symbol of the state at the start of a fall. Those of outputs of D and of other values are 1, 2, … in the order in
which they are made, those of noises come after X: in this order they are combined."""

SAME, LERP, ADD, SCALE = range(4)
"""How a combination begins: values[first], lerp(values[first], values[second], weight), values[first] +
weight values[second], or weight values[first]."""

Term = tuple[int, float]
Terms = tuple[Term, ...]


class More(NamedTuple):
    """What follows the beginning of a combination: values by lerp, and values added."""

    lerps: Terms
    adds: Terms


class Instruction(NamedTuple):
    """A combination of values, or D at it, which becomes the value ``symbol``. The noises ``draws`` are drawn before.

    It is flat, and ``more`` is None where there is nothing more: the loop reads it once for each evaluation of D.
    """

    symbol: int
    draws: tuple[int, ...]
    begins: int
    first: int
    second: int
    weight: float
    more: More | None
    level: Level | None


class Program(NamedTuple):
    """One fall, and the symbols of the values that no later fall uses."""

    instructions: tuple[Instruction, ...]
    dropped: tuple[int, ...]


State = tuple[tuple[Program, ...], int, dict[int, Tensor]]
"""The programs of a walk, which one is next, and the values that earlier falls have left for later ones."""


def instruction(form: Mapping[int, float], there: set[int], symbol: int, level: Level | None) -> Instruction:
    """Σ_j w_j values_j of ``form`` in the fewest passes: those come from x being last of what is not noise.

    All terms as a chain of lerps, or the longest end of them that is one and the others added, or a plain sum. Noises
    that are not ``there`` yet are drawn, and are then.
    """
    terms = [term for term in sorted(form.items()) if term[1]]
    noises = tuple([term for term in terms if term[0] > X])
    terms = terms[: len(terms) - len(noises)]
    draws = tuple([noise for noise, _ in noises if noise not in there])
    there.update(draws)
    begins, first, (second, weight), chain, adds = _parts(terms or [(X, 0.0)])
    if begins == SAME and noises:
        begins, (second, weight), noises = ADD, noises[0], noises[1:]
    adds = (*adds, *noises)
    more = More(tuple(chain), adds) if chain or adds else None
    return Instruction(symbol, draws, begins, first, second, weight, more, level)


def _parts(terms: Sequence[Term]) -> tuple[int, int, Term, Sequence[Term], Terms]:
    """How Σ_j w_j values_j begins, its first value, the second with its weight, and what follows by lerp and added."""
    for begin in range(len(terms) - 1):
        if chain := lerps(terms[begin:]):
            return LERP, terms[begin][0], chain[0], chain[1:], tuple(terms[:begin])
    unit = next((j for j, (_, weight) in enumerate(terms) if weight == 1), None)
    if unit is None:
        return SCALE, terms[0][0], (0, terms[0][1]), (), tuple(terms[1:])
    others = (*terms[:unit], *terms[unit + 1 :])
    if not others:
        return SAME, terms[unit][0], (0, 1.0), (), ()
    return ADD, terms[unit][0], others[0], (), others[1:]


def lerps(terms: Sequence[Term]) -> list[Term]:
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
    instructions, dropped = programs[turn]
    values = {**history, X: x}
    for symbol, draws, begins, first, second, weight, more, level in instructions:
        for noise in draws:
            values[noise] = randn()
        if begins == LERP:
            out = torch.lerp(values[first], values[second], weight)
        elif begins == SAME:
            out = values[first]
        elif begins == ADD:
            out = torch.add(values[first], values[second], alpha=weight)
        else:
            out = values[first] * weight
        if more is not None:
            lerps, adds = more
            for k, ratio in lerps:
                out.lerp_(values[k], ratio)
            for k, factor in adds:
                out.add_(values[k], alpha=factor)
        values[symbol] = out if level is None else dynamics.denoise(out, level)
    for k in dropped:
        del values[k]
    return out, (programs, turn + 1, values)
