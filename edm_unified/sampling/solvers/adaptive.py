"""Adaptive methods: inside one fall they choose their own steps, for each sample by itself, to a tolerance.

A step of length h in λ = −ln σ is tried with two methods that share their evaluations. They are printed as those of
fixed steps are, and taken on tensors (:class:`~edm_unified.sampling.solvers.trial.Trial`). Their difference, in
units of the tolerance, is the error of the step (Hairer, Nørsett & Wanner 1993, Eqs. II.4.10 and 4.11):

    E = RMS over a sample's elements of (x_high − x_low)/(atol + rtol max(|x|, |x_high|)).

A step with E ≤ 1 is accepted. The next one is longer or shorter by a PID controller on E^{1/k}, k the order of the
error (Söderlind 2003; p, i, d = 0, 1, 0 is the textbook rule, 0.4, 0.3, 0 its smoother form PI.4.2):

    h ← h · clip(0.9 E_n^{−(p+i+d)/k} E_{n−1}^{(p+2d)/k} E_{n−2}^{−d/k}, 0.2, 5).

**Each sample by itself**: its steps, its noise levels and its count do not depend on the batch it is in. D is called
with a level for each sample, σ of shape (B,), on the whole batch; a sample that has arrived waits, and nothing is
counted for it. From fall to fall the length of the step is carried on, and D at the state where the method knows it.
Give a walk of few levels, such as ``LogLinear(n=2)``: σ_max, σ_min, 0. The fall to σ = 0 returns D.

They wait for the device once per step tried. The number of evaluations is an outcome, not a choice: they have no place
in a comparison at a fixed budget. :class:`~edm_unified.sampling.solvers.Ledger` tells it, sample by sample. Samples
that do not converge within ``most_evaluations`` are named in a ``FloatingPointError``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import reduce
from operator import add
from typing import Any, ClassVar, Literal

from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Nonnegative
from edm_unified.sampling.solvers.exponential_single_step import dpm_solver_2, dpm_solver_3
from edm_unified.sampling.solvers.step_control import (
    LEAST,
    MOST,
    SAFETY,
    Adaptive,
    log_size,
)
from edm_unified.sampling.solvers.trial import SampleLevels, States, Trial


class AdaptiveODE(Adaptive):
    """A pair without noise, under the PID controller."""

    pid: tuple[float, float, float]
    error_order: ClassVar[int]
    """k: the error of one step is O(h^k)."""

    def __post_init__(self) -> None:
        Adaptive.__post_init__(self)
        object.__setattr__(self, "pid", tuple(map(float, self.pid)))
        if len(self.pid) != 3 or not all(math.isfinite(c) for c in self.pid) or not sum(self.pid) > 0:
            raise ValueError(f"pid: must be three numbers with a positive sum, such as 0.4, 0.3, 0, got {self.pid!r}")

    def factor(self, error: float, last: float, before: float, accepted: bool) -> float:
        p, i, d = (c / self.error_order for c in self.pid)
        if not accepted:
            return min(max(SAFETY * math.exp(-log_size(error) / self.error_order), LEAST), 1.0)
        growth = -(p + i + d) * log_size(error) + (p + 2 * d) * log_size(last) - d * log_size(before)
        return min(max(SAFETY * math.exp(min(growth, math.log(MOST / SAFETY))), LEAST), MOST)

    def cut_short(self, length: Tensor, h: Tensor, arrived: Tensor) -> Tensor:
        return arrived

    @abstractmethod
    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]: ...


# Dormand & Prince 1980, Table 2: RK5(4)7M
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_B_LOW = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)


def _combined(weights: tuple[float, ...], slopes: list[Any]) -> Any:
    return reduce(add, (w * k for w, k in zip(weights, slopes, strict=True) if w))


@component
class DormandPrince45(AdaptiveODE):
    """Dormand–Prince 5(4) on dx/dλ = D − x: the "RK45" of the score SDEs (Song et al. 2021, section 4.3), per sample.

    In λ = −ln σ the ODE is the same for every schedule, smooth, and not stiff. Order 5; six evaluations per step tried,
    and one at the start. For tight tolerances: references, likelihoods, encodings.
    """

    rtol: Nonnegative = 1e-5
    atol: Nonnegative = 1e-5
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: Count = 10_000
    kind: Literal["dopri5"] = "dopri5"
    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5

    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]:
        k = [step.denoise(x, a) - x]
        for c_i, A_i in zip(_C[1:], _A[1:], strict=True):
            X = x + step.h * _combined(A_i, k)
            k.append((step.denoise(X, step.in_log_sigma(c_i)) if len(k) < 6 else step.ahead(X)) - X)
        return X, x + step.h * _combined(_B_LOW, k)


@component
class DPMSolver12(AdaptiveODE):
    """DPM-Solver-12: orders 1 and 2 on ε, adaptive (Lu et al. 2022a, appendix C.1 and C.4). Two evaluations per step.

    Lu et al. run it on images at atol = 0.0078, rtol = 0.05, where a step need not be exact to look it. Order 2.
    """

    rtol: Nonnegative = 0.05
    atol: Nonnegative = 0.0078
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: Count = 10_000
    kind: Literal["dpm_solver_12"] = "dpm_solver_12"
    order: ClassVar[int] = 2
    error_order: ClassVar[int] = 2

    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]:
        return dpm_solver_2(step, x, a, b)


@component
class DPMSolver23(AdaptiveODE):
    """DPM-Solver-23: orders 2 (r = ⅓) and 3 on ε, adaptive (Lu et al. 2022a, appendix C.4). Three evaluations per step.

    The "DPM adaptive" of the image programs. Order 3.
    """

    rtol: Nonnegative = 0.05
    atol: Nonnegative = 0.0078
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: Count = 10_000
    kind: Literal["dpm_solver_23"] = "dpm_solver_23"
    order: ClassVar[int] = 3
    error_order: ClassVar[int] = 3

    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]:
        return dpm_solver_3(step, x, a, b)
