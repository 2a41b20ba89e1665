"""Adaptive methods: inside one fall they choose their own steps, for each sample by itself, to a tolerance.

A step of length h in λ = −ln σ is tried with two methods of neighbouring order that share their evaluations. Their
difference, in units of the tolerance, is the error of the step (Hairer, Nørsett & Wanner 1993, Eqs. II.4.10 and 4.11):

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
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.sampling.by_sample import each
from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.step_control import (
    FIRST_STEP,
    LEAST,
    MOST,
    SAFETY,
    Lost,
    along,
    check_resolution,
    check_tolerances,
    decay,
    log_size,
    saturation,
    size,
)

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""D of x (B, *) at u = ln(a/σ), (B,): how far below the start of the fall."""


class State(NamedTuple):
    """What is carried from fall to fall; the tensors are of shape (B,) but for ``denoised``."""

    streaks: tuple[int, ...]  # of the falls that are still to come
    step: Tensor | None = None
    errors: tuple[Tensor, ...] = ()  # of the last two accepted steps
    denoised: Tensor | None = None  # D at the current x, if it is known
    evaluations: Tensor | None = None
    rejected: Tensor | None = None


class Trial(NamedTuple):
    """The outcome of trying a step."""

    x: Tensor
    error: Tensor  # x_high − x_low
    denoised: Tensor | None  # D at x, where the method knows it
    evaluations: int  # beyond the one at the start of the step


class Adaptive(ABC):
    """The loop over the steps of one fall; final subclasses try a step."""

    adaptive: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    error_order: ClassVar[int]
    """k: the error of one step is O(h^k)."""

    rtol: float
    atol: float
    pid: tuple[float, float, float]
    most_evaluations: int

    def __post_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.most_evaluations)
        object.__setattr__(self, "pid", tuple(map(float, self.pid)))
        if len(self.pid) != 3 or not all(math.isfinite(c) for c in self.pid) or not sum(self.pid) > 0:
            raise ValueError(f"pid: must be three numbers with a positive sum, such as 0.4, 0.3, 0, got {self.pid!r}")

    @abstractmethod
    def attempt(self, evaluate: Evaluate, x: Tensor, D: Tensor, u: Tensor, h: Tensor, sigma: Tensor) -> Trial:
        """A step from u to u + h of every sample, D = D(x) and sigma = σ at u being known."""

    def init(self, axis: Axis, walk: Walk) -> State:
        """Nothing is known before the batch is."""
        return State(tuple(walk.streaks))

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: State, randn: Randn
    ) -> tuple[Tensor, State]:
        """One fall from level a to level b."""
        check_resolution(self.rtol, x)
        B = (len(x),)
        evaluations = torch.zeros(B, dtype=torch.long) if state.evaluations is None else state.evaluations
        rejected = torch.zeros(B, dtype=torch.long) if state.rejected is None else state.rejected
        D = state.denoised if state.streaks[0] else None
        if D is None:
            D, evaluations = dynamics.denoise(x, a), evaluations + 1
        if b.sigma == 0:
            return D, State(state.streaks[1:], state.step, state.errors, None, evaluations, rejected)

        H = math.log(a.sigma / b.sigma)

        def evaluate(x: Tensor, u: Tensor) -> Tensor:
            sigma = torch.where(u < H, a.sigma * decay(u), b.sigma)  # the end is the walk's own number
            return dynamics.denoise(x, a._replace(sigma_tensor=sigma.to(x.device)))

        u = torch.zeros(B, dtype=torch.float64)
        h = torch.full(B, FIRST_STEP, dtype=torch.float64) if state.step is None else state.step
        errors = state.errors or (torch.ones(B, dtype=torch.float64),) * 2
        stale = torch.zeros(B, dtype=torch.bool)  # samples that have moved on from their D
        lost = Lost(stale, stale)
        while bool((active := (u < H) & ~lost.any).any()):
            if bool(stale.any()):
                fresh = evaluate(x, u)
                D = torch.where(along(stale, x), fresh, D)
                evaluations = evaluations + stale
            reach = torch.where(h < H - u, u + h, H)  # the last step ends on the level, to the bit
            trial = self.attempt(evaluate, x, D, u, reach - u, a.sigma * decay(u))
            error = size(trial.error, x, trial.x, self.rtol, self.atol)
            accepted = active & (error <= 1)
            evaluations = evaluations + trial.evaluations * active
            rejected = rejected + (active & ~accepted)
            lost.find(self, active & ~(accepted & (reach == H)), accepted, evaluations, reach - u)

            # the step that was cut short at the end says nothing against a longer one
            wanted = (reach - u) * each(self._factor, error, *errors, accepted)
            h = torch.where(active, torch.where(accepted & (reach == H), torch.maximum(wanted, h), wanted), h)
            kept = error.clamp(1e-8)
            errors = (torch.where(accepted, kept, errors[0]), torch.where(accepted, errors[0], errors[1]))
            u = torch.where(accepted, reach, u)
            x = torch.where(along(accepted, x), trial.x, x)
            if trial.denoised is not None:
                D = torch.where(along(accepted, x), trial.denoised, D)
            else:
                stale = accepted & (u < H)
        lost.report(self, a.sigma * decay(u))
        known = D if trial.denoised is not None else None
        return x, State(state.streaks[1:], h, errors, known, evaluations, rejected)

    def _factor(self, error: float, last: float, before: float, accepted: bool) -> float:
        """What the next step of a sample is of this one, given its error and those of the last two accepted steps."""
        p, i, d = (c / self.error_order for c in self.pid)
        if not accepted:
            return min(max(SAFETY * math.exp(-log_size(error) / self.error_order), LEAST), 1.0)
        growth = -(p + i + d) * log_size(error) + (p + 2 * d) * log_size(last) - d * log_size(before)
        return min(max(SAFETY * math.exp(min(growth, math.log(MOST / SAFETY))), LEAST), MOST)


def _ramp(z: Tensor) -> Tensor:
    """(1 − e^{−z})/z − e^{−z} of each sample."""
    return each(lambda z: -math.expm1(-z) / z - math.exp(-z) if z > 0 else 0.0, z)


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


@component
class DormandPrince45(Adaptive):
    """Dormand–Prince 5(4) on dx/dλ = D − x: the "RK45" of the score SDEs (Song et al. 2021, section 4.3), per sample.

    In λ = −ln σ the ODE is the same for every schedule, smooth, and not stiff. Order 5; six evaluations per step tried,
    and one at the start. For tight tolerances: references, likelihoods, encodings.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: int = 10_000
    kind: Literal["dopri5"] = "dopri5"
    order: ClassVar[int] = 5
    error_order: ClassVar[int] = 5

    def attempt(self, evaluate: Evaluate, x: Tensor, D: Tensor, u: Tensor, h: Tensor, sigma: Tensor) -> Trial:
        slopes, length = [D - x], along(h, x)
        for A_i, c_i in zip(_A[1:], _C[1:], strict=True):
            X = x + length * sum(A_ij * k for A_ij, k in zip(A_i, slopes, strict=True) if A_ij)
            D = evaluate(X, u + c_i * h)
            slopes.append(D - X)
        low = x + length * sum(b_i * k for b_i, k in zip(_B_LOW, slopes, strict=True) if b_i)
        return Trial(X, X - low, D, 6)


@component
class DPMSolver12(Adaptive):
    """DPM-Solver-12: orders 1 and 2 on ε, adaptive (Lu et al. 2022a, appendix C.1 and C.4). Two evaluations per step.

    Lu et al. run it on images at atol = 0.0078, rtol = 0.05, where a step need not be exact to look it. Order 2.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: int = 10_000
    kind: Literal["dpm_solver_12"] = "dpm_solver_12"
    order: ClassVar[int] = 2
    error_order: ClassVar[int] = 2

    def attempt(self, evaluate: Evaluate, x: Tensor, D: Tensor, u: Tensor, h: Tensor, sigma: Tensor) -> Trial:
        epsilon, whole = (x - D) / along(sigma, x), along(sigma * saturation(h), x)
        half = 0.5 * h
        U = x - along(sigma * saturation(half), x) * epsilon
        change = (U - evaluate(U, u + half)) / along(sigma * decay(half), x) - epsilon
        low = x - whole * epsilon
        return Trial(low - whole * change, -whole * change, None, 1)


@component
class DPMSolver23(Adaptive):
    """DPM-Solver-23: orders 2 (r = ⅓) and 3 on ε, adaptive (Lu et al. 2022a, appendix C.4). Three evaluations per step.

    The "DPM adaptive" of the image programs. Order 3.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    pid: tuple[float, float, float] = (0.4, 0.3, 0.0)
    most_evaluations: int = 10_000
    kind: Literal["dpm_solver_23"] = "dpm_solver_23"
    order: ClassVar[int] = 3
    error_order: ClassVar[int] = 3

    def attempt(self, evaluate: Evaluate, x: Tensor, D: Tensor, u: Tensor, h: Tensor, sigma: Tensor) -> Trial:
        first, second = h / 3, 2 * h / 3

        def gain(z: Tensor) -> Tensor:
            """∫ σ e^{−z} e^s ds over [0, z]: the weight of a constant ε."""
            return along(sigma * saturation(z), x)

        def ramp(z: Tensor) -> Tensor:
            """The same of an ε that rises from 0 to 1: σ ((1 − e^{−z})/z − e^{−z})."""
            return along(sigma * _ramp(z), x)

        epsilon = (x - D) / along(sigma, x)
        U1 = x - gain(first) * epsilon
        change1 = (U1 - evaluate(U1, u + first)) / along(sigma * decay(first), x) - epsilon
        U2 = x - gain(second) * epsilon - 2 * ramp(second) * change1
        change2 = (U2 - evaluate(U2, u + second)) / along(sigma * decay(second), x) - epsilon
        start = x - gain(h) * epsilon
        low, high = start - 1.5 * gain(h) * change1, start - 1.5 * ramp(h) * change2
        return Trial(high, high - low, None, 2)
