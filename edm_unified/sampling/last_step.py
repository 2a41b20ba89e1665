"""What becomes of the last fall, to σ = 0.

``solver``: the solver's own rule. An exponential method returns D, a Runge–Kutta method takes an Euler step in t, which
under EDM is D too, and a multistep method in a coordinate that is finite at 0 integrates its interpolant to the end.
``denoise``: D at the last level above 0, whatever the solver; Tweedie's formula, the mean of x_0 given x.
``stop``: no such fall; the run ends at the last level above 0 with its noise left in x.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from torch import Tensor

from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.printed import Printed
from edm_unified.sampling.solvers.rows import Randn

Last = Literal["solver", "denoise", "stop"]
LAST = ("solver", "denoise", "stop")


def prepared(solver: Any, axis: Axis, walk: Walk) -> Any:
    """What ``solver.init`` returns for a walk that is taken as a whole: see :meth:`Printed.init`."""
    return solver.init(axis, walk, whole=True) if isinstance(solver, Printed) else solver.init(axis, walk)


class DenoisedLast(NamedTuple):
    """``solver`` down to the last level above 0, and D(x; σ) for the fall to 0: for ``last="denoise"``."""

    solver: Any

    def init(self, axis: Axis, walk: Walk) -> tuple[Level, Any]:
        return walk.levels[-1], prepared(self.solver, axis, Walk(walk.levels[:-1]))

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: tuple[Level, Any], randn: Randn
    ) -> tuple[Tensor, tuple[Level, Any]]:
        end, inner = state
        if b is end:  # and not b.sigma == 0: a walk may fall to 0 on its way, and rise again
            return dynamics.denoise(x, a), state
        x, inner = self.solver.step(dynamics, x, a, b, inner, randn)
        return x, (end, inner)
