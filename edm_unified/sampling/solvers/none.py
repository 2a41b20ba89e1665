"""No predictor: a fall that nothing solves, so that the corrector alone makes the samples.

A predictor–corrector sampler without its predictor is annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1): at
each level some Langevin steps, then the next level is given to the same x. That works as long as x is still a plausible
sample there, so that the levels must be close to each other or the steps many.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.printed import Form, Printed, Step


@component
class NoPredictor(Printed):
    """x_b = x_a: the level changes and x does not (Song & Ermon 2019, Algorithm 1; Song et al. 2021's "none").

    Without evaluations, noise, or an order: it does not solve the ODE, and the certificates leave it out. It needs
    ``renoising: {kind: corrected}`` and a corrector, of which it is the limit without a predictor. After the fall to 0
    the noise of the last level is still in x, as published in 2019; ``last: denoise`` returns D there, the final
    denoising of 2020.

    Raises ``ValueError`` on a walk that repeats no level: nothing would move x.
    """

    kind: Literal["none"] = "none"
    order: ClassVar[int] = 0

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        if not step.levels_repeat:
            raise ValueError(
                "solver: none leaves x as it is, and the walk repeats no level for a corrector to act on; "
                "add renoising=Corrected(repeats=100) and a corrector"
            )
        return x
