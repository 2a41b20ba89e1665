"""What the multistep methods share: how a history starts, how a walk ends, and whether it is long enough.

A multistep method starts with what it has: N = 1 works for every solver, and while the history is short the order is
lower. It does not reach across a rise or a repeat of the level, for x has then left the curve on which D was evaluated;
it starts again there.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from edm_unified.components.constraints import whole
from edm_unified.sampling.dynamics import Walk
from edm_unified.sampling.solvers.printed import Printed

Start = Literal["plain", "rk2"]
"""How a multistep method makes the first step of a history: with its one output, or with a second evaluation."""
End = Literal["full", "lower"]
"""Whether a multistep method keeps its order to the end, or uses no more outputs than there are falls left."""
UpTo3 = Annotated[int, whole(most=3)]
UpTo4 = Annotated[int, whole(most=4)]


class Multistep(Printed):
    """A method that uses the outputs of earlier falls; of as many as its order, unless it says otherwise."""

    @property
    @abstractmethod
    def order(self) -> int: ...

    @property
    def most_outputs(self) -> int:
        """How many outputs of D, the newest included, a step uses once the history is long enough."""
        return self.order


def shortfall(solver: Any, walk: Walk) -> str | None:
    """A sentence where no step of ``walk`` has as many outputs as ``solver`` is made for; None where one has.

    The stated order is then never reached. That is no error, for what is left is a method of lower order.
    """
    most = getattr(solver, "most_outputs", 1)
    to_zero = getattr(getattr(solver, "coordinate", None), "reaches_zero", False)
    outputs = walk.outputs(most, getattr(solver, "end", "full"))
    used = [n for n, (_, b) in zip(outputs, walk.falls, strict=True) if b.sigma > 0 or to_zero]
    longest = max(used, default=1)
    if longest >= most:
        return None
    remedy = "take more steps" if len(walk.falls) == len(walk.moves) else "a rise or a repeat ends its history"
    return (
        f"{solver.kind} goes by the last {most} evaluations and no step of this walk has more than {longest} in a row: "
        f"its order is lower throughout; {remedy}"
    )
