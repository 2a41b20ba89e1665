"""Whether a walk is long enough for the order that a solver states.

A multistep method starts with what it has: N = 1 works for every solver, and while the history is short the order is
lower. Where it stays short to the end (few steps, or a rise before every one of them) the stated order is never
reached. That is no error, for what is left is a method of lower order; it is said to whoever asks for such a run.
"""

from __future__ import annotations

from typing import Any

from edm_unified.sampling.dynamics import Walk


def shortfall(solver: Any, walk: Walk) -> str | None:
    """A sentence where no step of ``walk`` has as many outputs as ``solver`` is made for; None where one has."""
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
