"""Exponential Runge–Kutta methods, with and without noise: their papers' formulas, their tableaus, their noise.

Convergence, weak order, counts and the rest are laws that every solver is put through (``variants.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from test_equivalence import LEVELS, NOISE, D, at, near, run
from test_stochastic import relative_error
from torch import Tensor
from variants import SOLVERS, Mixture, by_kind, draws, every, exact_variance, log_levels, name, slope, walk_over

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling.levels import Explicit, Karras
from edm_unified.sampling.loop import walk
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers.phi import phi
from edm_unified.schedules import EDM

ON_NOISE = {solvers.DPMSolver2, solvers.DPMSolver3, solvers.DPMSolverFast}
TABLEAUS = [s for s in every(SOLVERS) if hasattr(s, "scheme")]
METHODS = [*TABLEAUS, *(s for s in every(SOLVERS) if type(s) in ON_NOISE)]
NOISY = [s for s in METHODS if s.stochastic]


@pytest.mark.parametrize("settings", by_kind([*METHODS, *SOLVERS[solvers.UniPC]]))
def test_they_do_not_see_the_schedule(settings: list[Any]) -> None:
    """Bit for bit, so that the order measured under one schedule is the order under all."""
    for solver in settings:
        for schedule in (schedules.VP(), schedules.FlowMatching()):
            assert torch.equal(run(solver, schedule), run(solver, EDM())), name(solver, schedule)


# -- the papers' formulas ----------------------------------------------------------------------------------------------


def eps(x: Tensor, sigma: float) -> Tensor:
    return (x - D(x, at(sigma))) / sigma


def by_hand(step: Callable[[Tensor, float, float, float], Tensor], levels: tuple[float, ...] = LEVELS) -> Tensor:
    """A textbook loop: ``step(x, a, b, h)``, and x = D on the fall to 0."""
    x = NOISE * levels[0]
    for a, b in pairwise(levels):
        x = D(x, at(a)) if b == 0 else step(x, a, b, math.log(a / b))
    return x


def dpm_solver_1(x: Tensor, a: float, b: float, h: float) -> Tensor:
    return x - b * (math.exp(h) - 1) * eps(x, a)


def dpm_solver_2(r: float) -> Callable[[Tensor, float, float, float], Tensor]:
    def step(x: Tensor, a: float, b: float, h: float) -> Tensor:
        m, e0 = a * math.exp(-r * h), eps(x, a)
        u = x - m * (math.exp(r * h) - 1) * e0
        return x - b * (math.exp(h) - 1) * (e0 + (eps(u, m) - e0) / (2 * r))

    return step


def dpm_solver_3(x: Tensor, a: float, b: float, h: float) -> Tensor:
    r1, r2, e0 = 1 / 3, 2 / 3, eps(x, a)
    m1, m2 = a * math.exp(-r1 * h), a * math.exp(-r2 * h)
    u1 = x - m1 * (math.exp(r1 * h) - 1) * e0
    d1 = eps(u1, m1) - e0
    u2 = x - m2 * (math.exp(r2 * h) - 1) * e0 - m2 * r2 / r1 * ((math.exp(r2 * h) - 1) / (r2 * h) - 1) * d1
    d2 = eps(u2, m2) - e0
    return x - b * (math.exp(h) - 1) * e0 - b / r2 * ((math.exp(h) - 1) / h - 1) * d2


def dpmpp_2s(r: float) -> Callable[[Tensor, float, float, float], Tensor]:
    def step(x: Tensor, a: float, b: float, h: float) -> Tensor:
        m, D0 = a * math.exp(-r * h), D(x, at(a))
        u = m / a * x + (1 - math.exp(-r * h)) * D0
        return b / a * x + (1 - math.exp(-h)) * ((1 - 1 / (2 * r)) * D0 + D(u, at(m)) / (2 * r))

    return step


def res_2s(c: float) -> Callable[[Tensor, float, float, float], Tensor]:
    def step(x: Tensor, a: float, b: float, h: float) -> Tensor:
        m, D0 = a * math.exp(-c * h), D(x, at(a))
        u = m / a * x + c * h * phi(1, -c * h) * D0
        one, two = phi(1, -h), phi(2, -h)
        return b / a * x + h * ((one - two / c) * D0 + two / c * D(u, at(m)))

    return step


def res_3s(c: float) -> Callable[[Tensor, float, float, float], Tensor]:
    def step(x: Tensor, a: float, b: float, h: float) -> Tensor:
        m2, m3, D0 = a * math.exp(-c * h), a * math.exp(-2 / 3 * h), D(x, at(a))
        D1 = D(m2 / a * x + c * h * phi(1, -c * h) * D0, at(m2))
        a32 = 4 / (9 * c) * phi(2, -2 / 3 * h)
        a31 = 2 / 3 * phi(1, -2 / 3 * h) - a32
        D2 = D(m3 / a * x + h * (a31 * D0 + a32 * D1), at(m3))
        return b / a * x + h * ((phi(1, -h) - 1.5 * phi(2, -h)) * D0 + 1.5 * phi(2, -h) * D2)

    return step


PRINTED = [
    (solvers.DDIM(), dpm_solver_1),  # DPM-Solver-1 is DDIM
    (solvers.SEEDS(order=1, prediction="noise", eta=0.0), dpm_solver_1),
    (solvers.DPMSolver2(), dpm_solver_2(0.5)),
    (solvers.DPMSolver2(r=0.3), dpm_solver_2(0.3)),
    (solvers.DPMSolver3(), dpm_solver_3),
    (solvers.DPMSolverPP2S(), dpmpp_2s(0.5)),
    (solvers.DPMSolverPP2S(r=0.7), dpmpp_2s(0.7)),
    (solvers.RES2S(), res_2s(0.5)),
    (solvers.RES2S(c2=0.8), res_2s(0.8)),
    (solvers.RES3S(), res_3s(0.5)),
    (solvers.RES3S(c2=0.3), res_3s(0.3)),
    (solvers.DPMSolverPP3S(), res_3s(1 / 3)),
    (solvers.SEEDS(order=2, eta=0.0), dpmpp_2s(0.5)),
    (solvers.SEEDS(order=2, prediction="noise", eta=0.0), dpm_solver_2(0.5)),
    (solvers.SEEDS(order=3, prediction="noise", eta=0.0), dpm_solver_3),
]


@pytest.mark.parametrize(("solver", "step"), PRINTED, ids=[name(solver) for solver, _ in PRINTED])
def test_as_printed(solver: Any, step: Any) -> None:
    assert near(run(solver), by_hand(step))


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[:-1], LEVELS[-3:], LEVELS[-2:]], ids=["0", "above 0", "2", "1"])
def test_fast_is_steps_of_order_3_and_then_2_and_1(levels: tuple[float, ...]) -> None:
    falls = len(levels) - 1
    orders = ([3] * falls + ([2, 1] if levels[-1] == 0 else [2]))[-falls:]
    orders = [{1: dpm_solver_1, 2: dpm_solver_2(0.5), 3: dpm_solver_3}[order] for order in orders]
    assert near(run(solvers.DPMSolverFast(), levels=levels), by_hand(lambda *args: orders.pop(0)(*args), levels))


def test_fast_spends_what_it_says() -> None:
    assert [edm.count_nfe(Karras(n=n), solvers.DPMSolverFast()) for n in (1, 2, 3, 6)] == [1, 3, 6, 15]
    assert edm.count_nfe(Explicit(sigmas=(80.0, 3.0, 0.5, 0.1)), solvers.DPMSolverFast()) == 8


SAME = [
    (solvers.SEEDS(order=2), solvers.DPMSolverPPSDE()),
    (solvers.SEEDS(order=1), solvers.DDPM()),
    (solvers.SEEDS(order=1, eta=0.4), solvers.ExponentialAdams(order=1, eta=0.4)),
    (solvers.DPMSolverPPSDE(eta=0.0, r=0.7), solvers.DPMSolverPP2S(r=0.7)),
    (solvers.SEEDS(order=3, eta=0.0), solvers.DPMSolverPP3S()),
]
DIFFERENT = [
    (solvers.DPMSolver2(), solvers.DPMSolverPP2S()),  # the same tableau on ε and on D
    (solvers.DPMSolver3(), solvers.DPMSolverPP3S()),
    (solvers.DPMSolverPP2S(), solvers.RES2S()),
    (solvers.RES3S(), solvers.DPMSolverPP3S()),
    (solvers.Krogstad4(), solvers.HochbruckOstermann4()),
    (solvers.SEEDS(order=2), solvers.SEEDS(order=2, prediction="noise")),
    (solvers.DPMSolverFast(), solvers.DPMSolver3()),
]


@pytest.mark.parametrize(("a", "b"), SAME, ids=lambda value: name(value))
def test_same_method(a: Any, b: Any) -> None:
    assert near(run(a), run(b))


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=lambda value: name(value))
def test_near_miss(a: Any, b: Any) -> None:
    assert not near(run(a), run(b), 1e-6)


def test_a_single_step_method_forgets() -> None:
    """After a rise it does what it would have done from there: the step from 2 is the same with any past."""
    seen: list[Tensor] = []
    for solver in METHODS:
        if solver.stochastic or isinstance(solver, solvers.DPMSolverFast):
            continue
        seen.clear()
        dynamics, path = walk_over((8.0, 1.0, 2.0, 0.5), EDM(), D)
        walk(dynamics, NOISE * 8, path, solver, None, 1.0, lambda: NOISE, lambda p: seen.append(p.x))
        dynamics, path = walk_over((2.0, 0.5), EDM(), D)
        assert torch.equal(walk(dynamics, seen[1], path, solver, None, 1.0, lambda: NOISE), seen[2])


# -- tableaus ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", by_kind(TABLEAUS))
def test_stages_and_result_are_exact_for_a_constant(settings: list[Any]) -> None:
    for solver, z in product(settings, (-40.0, -3.0, -0.7, -1e-3, 1e-3, 0.7, 3.0)):
        nodes, weights = solver.scheme
        rows, closing = weights(z)
        for c, row in zip(nodes, rows, strict=True):
            assert sum(row) == pytest.approx(c * phi(1, c * z) if c else 0, rel=1e-12), name(solver)
            assert len(row) <= len(nodes), name(solver)
        assert sum(closing) == pytest.approx(phi(1, z), rel=1e-12), name(solver)


@pytest.mark.parametrize("solver", [s for s in METHODS if isinstance(s, solvers.RES2S | solvers.RES3S)], ids=name)
def test_res_integrates_a_linear_D_exactly(solver: Any) -> None:
    """Σ b_i c_i = φ_2 at every z, where 2S has ½ φ_1: the second stiff order condition."""
    for z in (-9.0, -2.0, -0.1):
        _, closing = solver.scheme.weights(z)
        moment = sum(b * c for b, c in zip(closing, solver.scheme.nodes, strict=True))
        assert moment == pytest.approx(phi(2, z), rel=1e-12)
        _, closing = solvers.DPMSolverPP2S().scheme.weights(z)
        assert abs(0.5 * closing[1] / phi(2, z) - 1) > 0.01


@pytest.mark.parametrize("solver", [solvers.Krogstad4(), solvers.HochbruckOstermann4()], ids=name)
def test_the_fourth_order_methods_integrate_a_quadratic_D_exactly(solver: Any) -> None:
    """D = 1 + 2λ − λ², whatever x is: exact to rounding in one step of any length; a cubic is not."""
    levels = (80.0, 0.01)

    def truth(polynomial: Callable[[float], float]) -> float:
        h = math.log(levels[0] / levels[1])
        start = -math.log(levels[0])
        return quad(lambda u: math.exp(u - h) * polynomial(start + u), 0, h, epsabs=1e-13)[0] + levels[1] / levels[0]

    for polynomial, exact in ((lambda v: 1 + 2 * v - v**2, True), (lambda v: v**3, False)):
        dynamics, path = walk_over(levels, EDM(), lambda x, s, f=polynomial: 0 * x + f(-math.log(float(s))))
        x = walk(dynamics, torch.ones(1, 1, dtype=torch.float64), path, solver, None, 1.0, torch.empty)
        assert (float(x) == pytest.approx(truth(polynomial), rel=1e-9)) is exact


# -- noise -------------------------------------------------------------------------------------------------------------


def states_of_one_step(solver: Any, denoiser: Callable[[Tensor, Tensor], Tensor]) -> tuple[list[float], Tensor]:
    """σ of each state of one step from 3 to 1, and the states as coefficients of (x = 0, unit noises)."""
    seen: list[tuple[float, Tensor]] = []
    drawn = iter(torch.eye(4, dtype=torch.float64))

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((float(sigma), x))
        return denoiser(x, sigma)

    dynamics, path = walk_over((3.0, 1.0), EDM(), D)
    x = walk(dynamics, torch.zeros(1, 4, dtype=torch.float64), path, solver, None, 1.0, lambda: next(drawn)[None])
    sigmas, states = zip(*seen, (1.0, x), strict=True)
    return list(sigmas), torch.cat(states)


@pytest.mark.parametrize("solver", NOISY, ids=name)
def test_all_states_of_a_step_share_one_noise_process(solver: Any) -> None:
    """Cov(X_i, X_j) against quadrature of the linear SDE's Itô integrals, for all pairs of stages and the result.

    In data prediction D = 0, so that dx = −(1+η²) x dλ + √2 η σ dw; in noise prediction ε = 0, so that x = ∫ √2 η σ dw.
    """
    on_noise = getattr(solver, "prediction", "data") == "noise"
    rate = 0.0 if on_noise else 1 + solver.eta**2
    sigmas, states = states_of_one_step(solver, (lambda x, s: x) if on_noise else (lambda x, s: 0 * x))
    for i, m in enumerate(sigmas):
        for j, n in enumerate(sigmas[: i + 1]):
            end_i, end_j = math.log(3 / m), math.log(3 / n)

            def kernel(u: float, ends: float = end_i + end_j) -> float:
                return 2 * (solver.eta * 3 * math.exp(-u)) ** 2 * math.exp(-rate * (ends - 2 * u))

            expected = quad(kernel, 0, min(end_i, end_j), epsabs=1e-13)[0]
            assert float(states[i] @ states[j]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def dpmpp_sde_of_k_diffusion(levels: list[float], v: float, correlation: Callable[..., float]) -> float:
    """Exact std of k-diffusion's two-stage SDE sampler at r = ½, η = 1 on N(0, v), by hand.

    ``correlation`` is that of the two noises of a step a → b with its stage at m.
    """
    x = torch.zeros(2 * len(levels) + 1, dtype=torch.float64)
    unit = iter(torch.eye(len(x), dtype=torch.float64))
    x = math.sqrt(v + levels[0] ** 2) * next(unit)
    for a, b in pairwise(levels):
        denoised = v / (v + a**2) * x
        if b == 0:
            return float(denoised.norm())
        m, first, second = math.sqrt(a * b), next(unit), next(unit)
        rho = correlation(a, m, b)
        second = rho * first + math.sqrt(1 - rho**2) * second
        u = (m / a) ** 2 * x + (1 - (m / a) ** 2) * denoised + m * math.sqrt(1 - (m / a) ** 2) * first
        x = (b / a) ** 2 * x + (1 - (b / a) ** 2) * v / (v + m**2) * u + b * math.sqrt(1 - (b / a) ** 2) * second
    return float(x.norm())


def independent(a: float, m: float, b: float) -> float:
    return 0.0


def brownian_in_sigma(a: float, m: float, b: float) -> float:
    return math.sqrt((a - m) / (a - b))


def exact_law(a: float, m: float, b: float) -> float:
    """e^{−2δ} Var N(m)/(std N(m) std N(b)), δ = ln(m/b)."""
    return (b / m) ** 2 * (m * math.sqrt(1 - (m / a) ** 2)) / (b * math.sqrt(1 - (b / a) ** 2))


def test_independent_noise_in_the_stages_makes_samples_too_narrow() -> None:
    """N(0, ½²), Karras' 18 steps, truth 0.5: the figures of k-diffusion with ``randn`` and with its Brownian tree."""
    levels = Karras(n=18).levels(EDM()).tolist()
    assert dpmpp_sde_of_k_diffusion(levels, 0.25, independent) == pytest.approx(0.3982, abs=5e-5)
    assert dpmpp_sde_of_k_diffusion(levels, 0.25, brownian_in_sigma) == pytest.approx(0.4747, abs=5e-5)
    ours = math.sqrt(float(exact_variance(solvers.DPMSolverPPSDE(), levels, (0.25,))))
    assert ours == pytest.approx(dpmpp_sde_of_k_diffusion(levels, 0.25, exact_law), rel=1e-10)
    assert ours == pytest.approx(0.457, abs=5e-4)


@pytest.mark.parametrize(("correlation", "order"), [(independent, 1), (brownian_in_sigma, 2), (exact_law, 2)])
def test_independent_noise_costs_an_order(correlation: Any, order: int) -> None:
    errors = {}
    for n in (320, 640):
        std = dpmpp_sde_of_k_diffusion(log_levels(n, 8.0, 0.1), 0.25, correlation)
        errors[n] = abs(std / math.sqrt(0.25 + 0.01) - 1)
    assert slope(errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", NOISY, ids=name)
def test_churn_keeps_the_weak_order(solver: Any) -> None:
    """Rises between the steps: each is exact, and no noise of a step is carried across it."""
    errors, rule = {}, Churn(S_churn=5, S_min=0.0, S_max=1e9, S_noise=1.0)
    for n in (160, 320):
        errors[n] = relative_error(list(rule.walk(tuple(log_levels(n, 8.0, 0.1)))), solver)
    assert slope(errors) == pytest.approx(min(solver.order, 2), abs=0.15)


def weak_errors(solver: Any, n: int, functions: tuple[Callable[[np.ndarray], np.ndarray], ...]) -> list[float]:
    """E f(x_N) − its true value for a *nonlinear* D, by Kolmogorov's backward equation and no Monte Carlo.

    u_i(x) = E[u_{i+1}(step(x, noises))] on a grid, the mean over the noises by Gauss–Hermite quadrature, between the
    grid points by cubic splines; at the start, the mean over the true marginal of the mixture.
    """
    grid, levels, mixture = np.linspace(-11, 11, 801), log_levels(n, 2.0, 0.3), Mixture()
    z, w = np.polynomial.hermite_e.hermegauss(4 if draws(solver) == 3 else 6)
    noises = torch.tensor(list(product(z, repeat=draws(solver))), dtype=torch.float64).T
    weights = np.prod(list(product(w / w.sum(), repeat=draws(solver))), axis=1)
    dynamics, path = walk_over(tuple(levels), EDM(), mixture)
    start = torch.from_numpy(grid).repeat_interleave(len(weights))[:, None]
    state, ends = solver.init(dynamics, path), []
    for a, b in path.moves:
        fresh = iter(noises)
        x, state = solver.step(dynamics, start, a, b, state, lambda z=fresh: next(z).repeat(len(grid))[:, None])
        ends.append(np.clip(x.numpy().reshape(len(grid), -1), -11, 11))

    def mean(f: Callable[[np.ndarray], np.ndarray], sigma: float) -> float:
        z, w = np.polynomial.hermite_e.hermegauss(60)
        parts = zip(mixture.weights, mixture.means, np.sqrt(mixture.variances + sigma**2), strict=True)
        return float(sum(p * (w / w.sum() * f(centre + std * z)).sum() for p, centre, std in parts))

    errors = []
    for f in functions:
        u: Any = f
        for x in reversed(ends):
            u = CubicSpline(grid, (u(x) * weights).sum(1))
        errors.append(abs(mean(u, levels[0]) - mean(f, levels[-1])))
    return errors


@pytest.mark.parametrize("solver", [s for s in NOISY if s.eta == 1], ids=name)
def test_weak_order_on_a_mixture(solver: Any, table: list[tuple[str, ...]]) -> None:
    """Where D is not linear, and for a bounded function as well as for the second moment."""
    grids = {1: (64, 128), 2: (16, 32), 3: (32, 64)}[solver.order]
    errors = [weak_errors(solver, n, (np.square, lambda x: np.cos(2 * x))) for n in grids]
    for label, pair in zip(("x²", "cos 2x"), zip(*errors, strict=True), strict=True):
        order = slope(dict(zip(grids, pair, strict=True)))
        table.append((name(solver), f"E {label}, mixture", f"measured {order:.2f}", f"{pair[1]:.1e}"))
        assert order == pytest.approx(min(solver.order, 2), abs=0.15)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.DPMSolver2(r=0.0), "r: must lie strictly between 0 and 1, got 0.0"),
        (lambda: solvers.DPMSolverPP2S(r=1.0), "r: must lie strictly between 0 and 1"),
        (lambda: solvers.RES2S(c2=float("nan")), "c2: must lie strictly between 0 and 1"),
        (lambda: solvers.RES3S(c2=0.7), "c2: must lie below 2/3"),
        (lambda: solvers.DPMSolverPPSDE(eta=-1.0), "eta: must be zero or positive"),
        (lambda: solvers.DPMSolverPPSDE(r=2.0), "r: must lie strictly between 0 and 1"),
        (lambda: solvers.SEEDS(order=4), "order: must be a whole number from 1 to 3"),
        (lambda: solvers.SEEDS(prediction="noisy"), "prediction: unknown 'noisy'; did you mean 'noise'"),  # type: ignore
        (lambda: solvers.SEEDS(eta=-0.1), "eta: must be zero or positive"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
