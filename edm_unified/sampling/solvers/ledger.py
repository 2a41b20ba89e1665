"""What a run of an adaptive method has cost, sample by sample."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn


class Ledger:
    """``solver``, keeping what its last run cost: hand it to ``sample`` in the solver's place and read it afterwards.

    ``evaluations`` and ``rejected`` are lists with a number for each sample of the batch: evaluations of D that the
    sample needed (the batch as a whole is evaluated at least as often as the most demanding of them), and steps that
    were tried in vain.
    """

    def __init__(self, solver: Any) -> None:
        if not getattr(solver, "adaptive", False):
            raise ValueError(f"solver: {type(solver).__name__} is not adaptive; every sample costs the same with it")
        self.solver = solver
        self.state: Any = None

    adaptive: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return bool(self.solver.stochastic)

    @property
    def evaluations(self) -> list[int]:
        return list(self.state.evaluations.tolist())

    @property
    def rejected(self) -> list[int]:
        return list(self.state.rejected.tolist())

    def init(self, axis: Axis, walk: Walk) -> Any:
        self.state = self.solver.init(axis, walk)
        return self.state

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Any, randn: Randn) -> tuple[Tensor, Any]:
        x, self.state = self.solver.step(dynamics, x, a, b, state, randn)
        return x, self.state
