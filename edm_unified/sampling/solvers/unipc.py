"""UniPC: an exponential Adams predictor, and a corrector that spends no evaluation of its own.

The predictor UniP-p goes from a to b with the last p outputs. The corrector UniC-p evaluates D at the *predicted* state
x' at b, and repeats the step with that output as well, one order higher:

    x'  = (b/a) x + Σ_j w_j D_{−j}                       w: exact integral of the interpolant through p outputs
    x_b = (b/a) x + Σ_j v_j D_{−j} + v_+ D(x'; b)        v: the same through p + 1, the newest at b

D(x'; b) is then the first output of the next step. So p = 1, 2, 3 have order 2, 3, 4 at one evaluation per step.

The paper writes the weights as B(h) ρ, with ρ from a linear system R ρ = q/B (its Eq. 5), in which B cancels. B matters
only where its code sets ρ = ½ instead of solving: in the predictor of p = 2 and in the corrector of p = 1, and so in
the warm-up of p = 3. ``bh1`` is B = h, ``bh2`` is B = 1 − e^{−h}; with it UniP-2 is DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from edm_unified.components.component import choice, component, count
from edm_unified.sampling.dynamics import Dynamics, Level, Walk
from edm_unified.sampling.solvers.coordinates import ENDS, End
from edm_unified.sampling.solvers.exponential import lagrange_weights
from edm_unified.sampling.solvers.linear import Randn, Row, combine, row


class Step(NamedTuple):
    """How many past outputs are used; weights of (outputs oldest first, x); those with D(x'; b) before x, or None."""

    past: int
    predictor: Row
    corrector: Row | None


class Plan(NamedTuple):
    """State: the steps, which is next, past outputs (oldest first), and the output at this level if there is one."""

    steps: tuple[Step, ...]
    turn: int
    history: tuple[Tensor, ...]
    now: Tensor | None


@component
class UniPC:
    """UniPC-p on D: order p + 1 with the corrector, p without; p = 1, 2, 3.

    Zhao et al. 2023, Algorithms 1 and 2, in the data prediction of its appendix. One evaluation per step either way:
    the corrector acts where another fall follows, which needs its evaluation anyway, and not before a rise, a repeat or
    the end (as published, "no corrector at the last step"). Around churn and ancestral noise, where every fall is
    followed by a rise, it never acts, and the method is DDIM. The fall to σ = 0 returns D.

    ``end="lower"`` is the authors' "lower order final": no more past outputs than there are falls left. There is no
    ``start``: the corrector makes the first step one of order 2 at no cost.

    p = 2 keeps its order 3 from a plain start; p = 3 has 4 from exact starting values, 3 from a plain start.
    """

    p: int = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    end: End = "full"
    kind: Literal["unipc"] = "unipc"
    stochastic: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = ("end",)

    def __post_init__(self) -> None:
        count("p", self.p, most=3)
        choice("variant", self.variant, ("bh1", "bh2"))
        choice("end", self.end, ENDS)

    @property
    def most_outputs(self) -> int:
        """Of the predictor; the corrector uses one more."""
        return self.p

    @property
    def order(self) -> int:
        return self.p + self.corrector

    @property
    def warm_up(self) -> int:
        """Steps from a plain start until no output of a predictor below its order is in use that would cost order."""
        if not self.corrector:
            return self.p - 1
        return 4 if self.p == 3 else 0

    def init(self, dynamics: Dynamics, walk: Walk) -> Plan:
        """All weights of the walk."""
        falls, streaks = walk.falls, walk.streaks
        follows = [*(streak > 0 for streak in streaks[1:]), False]
        outputs = walk.outputs(self.p, self.end)
        steps = (self._step(falls, i, outputs[i] - 1, self.corrector and follows[i]) for i in range(len(falls)))
        return Plan(tuple(steps), 0, (), None)

    def _step(self, falls: list[tuple[Level, Level]], i: int, past: int, corrects: bool) -> Step:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return Step(0, row((1.0, 0.0)), None)
        h = math.log(a / b)
        nodes = [math.log(a / falls[i - j][0].sigma) / h for j in range(past + 1)]
        predicted = self._weights(h, nodes, half=len(nodes) == 2)
        corrected = self._weights(h, [*nodes, 1.0], half=len(nodes) == 1)
        corrector = row((*reversed(corrected[:-1]), corrected[-1], b / a)) if corrects else None
        return Step(past, row((*reversed(predicted), b / a)), corrector)

    def _weights(self, h: float, nodes: list[float], half: bool) -> list[float]:
        """The interpolant's exact integral or, for two nodes with ρ = ½, (1 − e^{−h}) D_0 + B/2 (D_1 − D_0)/node_1."""
        if not half:
            return lagrange_weights(h, nodes)
        whole = -math.expm1(-h)
        slope = 0.5 * (h if self.variant == "bh1" else whole) / nodes[1]
        return [whole - slope, slope]

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Plan, randn: Randn) -> tuple[Tensor, Plan]:
        """One fall from level a to level b."""
        past, predictor, corrector = state.steps[state.turn]
        now = dynamics.denoise(x, a) if state.now is None else state.now
        used = (*state.history[len(state.history) - past :], now)
        history = used[-(self.p - 1) :] if self.p > 1 else ()
        predicted = combine(predictor, (*used, x))
        if corrector is None:
            return predicted, Plan(state.steps, state.turn + 1, history, None)
        ahead = dynamics.denoise(predicted, b)
        return combine(corrector, (*used, ahead, x)), Plan(state.steps, state.turn + 1, history, ahead)
