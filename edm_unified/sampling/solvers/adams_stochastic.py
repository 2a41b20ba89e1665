"""SA-Solver: exponential Adams on D with noise of any strength along the way, predicted and then corrected.

For every τ(σ) ≥ 0 the process dx = (1+τ²)(D − x) dλ + √2 τ σ dw has the marginals of the forward one (Xue et al. 2023,
Proposition 4.1). τ is this package's η, here allowed to depend on the level. Over a step on which it is constant,

    x_b = (b/a) e^{−τ²h} x_a + ∫_0^h A e^{−A(h−u)} D(λ_a + u) du + b √(1 − e^{−2τ²h}) n,   A = 1 + τ²,  h = ln(a/b).

The predictor puts the interpolant through the last outputs in place of D. The corrector repeats the step, with the same
noise n, once D at b is known, with the interpolant through that output as well; it costs no evaluation, for D is not
evaluated again at the corrected x (Xue et al. 2023, Algorithm 1).

D at b is evaluated when the next step begins. So the correction of one step and the prediction of the next are *one*
linear combination: with w the weights of the prediction that led to x, w* those of its correction, both over the same
outputs, x + Σ (w* − w)_j D_j is the corrected state, whatever the noise was.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Literal

from edm_unified.components.component import component, count, nonnegative
from edm_unified.sampling.dynamics import Level
from edm_unified.sampling.solvers.exponential import ExponentialMultistep, lagrange_weights
from edm_unified.sampling.solvers.linear import Row, row
from edm_unified.schedules import PRACTICAL_INFINITY


@component
class SASolver(ExponentialMultistep):
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

    predictor: int = 3
    corrector: int = 4
    tau: float = 1.0
    S_min: float = 0.0
    S_max: float = PRACTICAL_INFINITY
    kind: Literal["sa_solver"] = "sa_solver"

    def __post_init__(self) -> None:
        count("predictor", self.predictor, most=4)
        count("corrector", self.corrector, least=0, most=self.predictor + 1)
        nonnegative("tau", self.tau)
        nonnegative("S_min", self.S_min)
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

    @property
    def noise(self) -> float:
        return self.tau

    def output_weights(self, H: float, nodes: list[float]) -> list[float]:
        return lagrange_weights(H, nodes)

    def _row(self, falls: list[tuple[Level, Level]], i: int, past: int) -> tuple[int, Row, float]:
        a, b = falls[i][0].sigma, falls[i][1].sigma
        if b == 0:
            return 0, row((1.0, 0.0)), 0.0
        tau2_h = self._tau2(b) * math.log(a / b)
        keep = b / a * math.exp(-tau2_h)
        outputs = self._weights(falls, i, range(min(self.predictor, past + 1)))
        if self.corrector and past:
            predicted = self._weights(falls, i - 1, range(min(self.predictor, past)))
            corrected = self._weights(falls, i - 1, range(-1, min(self.corrector, past + 1) - 1))
            change = [new - old for new, old in zip_longest(corrected, [0.0, *predicted], fillvalue=0.0)]
            outputs = [w + keep * d for w, d in zip_longest(outputs, change, fillvalue=0.0)]
        std = b * math.sqrt(-math.expm1(-2 * tau2_h))
        return len(outputs) - 1, row((*reversed(outputs), keep)), std

    def _tau2(self, sigma: float) -> float:
        """τ² of the step that ends at ``sigma``."""
        return self.tau**2 if self.S_min <= sigma <= self.S_max else 0.0

    def _weights(self, falls: list[tuple[Level, Level]], i: int, back: range) -> list[float]:
        """Weights in fall i of the outputs at the starts of the falls i − j, j in ``back`` (−1 is its own end)."""
        a, b = falls[i][0].sigma, falls[i][1].sigma
        h = math.log(a / b)
        nodes = [math.log(a / falls[i - j][0].sigma) / h for j in back]
        return self.output_weights((1 + self._tau2(b)) * h, nodes)
