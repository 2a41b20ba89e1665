"""What the multistep methods have in common to choose: how a history starts, and how a walk ends."""

from __future__ import annotations

from typing import Literal

Start = Literal["plain", "rk2"]
"""How a multistep method makes the first step of a history: with its one output, or with a second evaluation."""
STARTS = ("plain", "rk2")
End = Literal["full", "lower"]
"""Whether a multistep method keeps its order to the end, or uses no more outputs than there are falls left."""
ENDS = ("full", "lower")
