"""No predictor: a fall that nothing solves, so that the corrector alone makes the samples.

A predictor–corrector sampler without its predictor is annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1): at
each level some Langevin steps, then the next level is given to the same x. That works as long as x is still a plausible
sample there, so that the levels must be close to each other or the steps many.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from edm_unified.components.component import component
from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn


@component
class NoPredictor:
    """x_b = x_a: the level changes and x does not (Song & Ermon 2019, Algorithm 1; Song et al. 2021's "none").

    Without evaluations, noise, or an order: it does not solve the ODE, and the certificates leave it out. It needs
    ``renoising: {kind: corrected}`` and a corrector, of which it is the limit without a predictor. After the fall to 0
    the noise of the last level is still in x, as published in 2019; ``last: denoise`` returns D there, the final
    denoising of 2020.

    Raises ``ValueError`` on a walk that repeats no level: nothing would move x.
    """

    kind: Literal["none"] = "none"
    order: ClassVar[int] = 0
    stochastic: ClassVar[bool] = False

    def init(self, axis: Axis, walk: Walk) -> None:
        """Nothing to prepare."""
        if all(a.sigma != b.sigma for a, b in pairwise(walk.levels)):
            raise ValueError(
                "solver: none leaves x as it is, and the walk repeats no level for a corrector to act on; "
                "add renoising=Corrected(repeats=100) and a corrector"
            )

    def step(self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: None, randn: Randn) -> tuple[Tensor, None]:
        """x, at another level."""
        return x, None
