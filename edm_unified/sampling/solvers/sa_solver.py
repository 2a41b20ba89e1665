"""SA-Solver: exponential Adams on D with noise of any strength along the way, predicted and then corrected.

For every τ(σ) ≥ 0 the process dx = (1+τ²)(D − x) dλ + √2 τ σ dw has the marginals of the forward one (Xue et al. 2023,
Proposition 4.1). τ is this package's η, here allowed to depend on the level. Over a step on which it is constant,

    x_b = (b/a) e^{−τ²h} x_a + ∫_0^h A e^{−A(h−u)} D(λ_a + u) du + b √(1 − e^{−2τ²h}) n,   A = 1 + τ²,  h = ln(a/b).

The predictor puts the interpolant through the last outputs in place of D. The corrector repeats the step, with the same
noise n, once D at b is known, with the interpolant through that output as well; it costs no evaluation, for D is not
evaluated again at the corrected x (Xue et al. 2023, Algorithm 1).

The correction of one step and the prediction of the next are taken as *one* linear combination
(:attr:`~edm_unified.sampling.solvers.printed.Printed.waits`): the state that is passed on is the predicted one.
"""

from __future__ import annotations

from math import exp, expm1, log, sqrt
from typing import Annotated, ClassVar, Literal

from edm_unified.components.component import component, count
from edm_unified.components.constraints import Nonnegative, whole
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.multistep import Multistep, UpTo4
from edm_unified.sampling.solvers.phi import lagrange_weights
from edm_unified.sampling.solvers.printed import Form, Step, weighed
from edm_unified.schedules import PRACTICAL_INFINITY


@component
class SASolver(Multistep):
    """SA-Solver (Xue et al. 2023, Eqs. 14 and 17): predictor and corrector of any order, noise τ on a window of levels.

    ``predictor`` p is the number of past outputs that the prediction uses, ``corrector`` c ≤ p + 1 that of the
    correction, the newest included (as "P2C2", "P3C4" are written), 0 for none. The order of the drift is c, or p
    without corrector; weak order at most 2 where τ > 0; one evaluation per step. P3C4 is the authors' choice without
    guidance, P2C2 with strong guidance; below some 30 steps with τ = 1 throughout, P3C4 extrapolates too far.

    A step that ends at S_min ≤ σ ≤ S_max has noise τ, any other none, as in the authors' code, which asks τ at the end
    of the step. They take the middle levels: 0.05 to 1 on CIFAR-10, 0.2 ≤ t ≤ 0.8 in the code for latents. Their
    ``few_steps`` mode adds a term of h³ to every step of order 2; this has none, as their ``more_steps``. Without a
    corrector it is :class:`~edm_unified.sampling.solvers.ExponentialAdams` with η = τ; at τ = 0 with
    c = p + 1 a UniPC whose weights are the exact ones.
    """

    predictor: UpTo4 = 3
    corrector: Annotated[int, whole(least=0, most=5)] = 4
    tau: Nonnegative = 1.0
    S_min: Nonnegative = 0.0
    S_max: float = PRACTICAL_INFINITY
    kind: Literal["sa_solver"] = "sa_solver"
    waits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        count("corrector", self.corrector, least=0, most=self.predictor + 1)
        if not self.S_max >= self.S_min:  # S_max may be inf
            raise ValueError(f"S_max: must not be below S_min, got {self.S_max!r} against {self.S_min!r}")

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @property
    def order(self) -> int:
        return self.corrector or self.predictor

    @property
    def most_outputs(self) -> int:
        return self.predictor + 1 if self.corrector else self.predictor

    def fall(self, step: Step, x: Form, a: Level, b: Level) -> Form:
        D = step.denoise(x, a)
        levels, outputs = step.history(a, D, self.predictor)
        if b.sigma == 0:
            return D
        h = step.h
        nodes = [log(a.sigma / level.sigma) / h for level in levels]
        tau2 = self.tau**2 if self.S_min <= b.sigma <= self.S_max else 0.0
        x_b = b.sigma / a.sigma * exp(-tau2 * h) * x + b.sigma * sqrt(-expm1(-2 * tau2 * h)) * step.noise()
        predicted = x_b + weighed(lagrange_weights((1 + tau2) * h, nodes), outputs)  # Eq. 14
        if not (self.corrector and step.followed):
            return predicted
        outputs = [step.ahead(predicted), *outputs][: self.corrector]
        nodes = [1.0, *nodes][: self.corrector]
        return x_b + weighed(lagrange_weights((1 + tau2) * h, nodes), outputs)  # Eq. 17
