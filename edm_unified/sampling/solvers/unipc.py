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

from math import expm1, log
from typing import ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.multistep import End, Multistep, UpTo3
from edm_unified.sampling.solvers.phi import lagrange_weights
from edm_unified.sampling.solvers.printed import Form, Step, weighed


@component
class UniPC(Multistep):
    """UniPC-p on D: order p + 1 with the corrector, p without; p = 1, 2, 3.

    Zhao et al. 2023, Algorithms 1 and 2, in the data prediction of its appendix. One evaluation per step either way:
    the corrector acts where another fall follows, which needs its evaluation anyway, and not before a rise, a repeat or
    the end (as published, "no corrector at the last step"). Around churn and ancestral noise, where every fall is
    followed by a rise, it never acts, and the method is DDIM. The fall to σ = 0 returns D. In a run the correction is
    made together with the next step, so that a callback sees the predicted states.

    ``end="lower"`` is the authors' "lower order final": no more past outputs than there are falls left. There is no
    ``start``: the corrector makes the first step one of order 2 at no cost.

    p = 2 keeps its order 3 from a plain start; p = 3 has 4 from exact starting values, 3 from a plain start.
    """

    p: UpTo3 = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    end: End = "full"
    kind: Literal["unipc"] = "unipc"
    added_later: ClassVar[tuple[str, ...]] = ("end",)

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

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        levels, outputs = step.history(a, D, self.p, self.end)
        if b.sigma == 0:
            return D
        h = step.h
        r = [log(a.sigma / level.sigma) / h for level in levels]
        linear = b.sigma / a.sigma * x
        predicted = linear + weighed(self.weights(h, r, half=len(r) == 2), outputs)  # UniP, Algorithm 2
        if not (self.corrector and step.followed):
            return predicted
        D_b = step.ahead(predicted)
        return linear + weighed(self.weights(h, [*r, 1.0], half=len(r) == 1), [*outputs, D_b])  # UniC, Algorithm 1

    def weights(self, h: float, r: list[float], half: bool) -> list[float]:
        """The interpolant's exact integral or, where ρ = ½, (1 − e^{−h}) D_0 + B/2 (D_1 − D_0)/r_1."""
        if not half:
            return lagrange_weights(h, r)
        B = h if self.variant == "bh1" else -expm1(-h)
        return [-expm1(-h) - 0.5 * B / r[1], 0.5 * B / r[1]]
