"""Law 4: the exact law of every stochastic method, with no Monte Carlo.

For data ~ N(0, v) the denoiser is linear and a sampler is a linear map of its noises. Feed it orthonormal basis
vectors in place of random numbers, and the squared length of its output *is* the variance of its samples. Started from
the true marginal at σ_0, the variance at σ_N must converge to v + σ_N² at the weak order of the method.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from variants import (
    CORRECTORS,
    RENOISING,
    SCHEDULES,
    SOLVERS,
    Wiener,
    by_kind,
    cover,
    draws,
    dynamics_of,
    every,
    exact_variance,
    log_levels,
    moves_of,
    name,
    needs_corrector,
    one_of_each,
    slope,
)

from edm_unified import correctors, renoising, schedules, solvers
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.loop import walk

HIGH, LOW = 8.0, 0.1
VARIANCES = (0.01, 0.25, 1.0, 4.0)
STOCHASTIC = [solver for solver in every(SOLVERS) if solver.stochastic]


def relative_error(levels: list[float], solver: Any, **settings: Any) -> float:
    truth = torch.tensor(VARIANCES, dtype=torch.float64) + levels[-1] ** 2
    return float((exact_variance(solver, levels, VARIANCES, **settings) / truth - 1).abs().max())


def weak_order(solver: Any) -> int:
    """The noise of a step is not smooth, so that extrapolating D gains one order and no more (Adams, any order)."""
    return min(solver.order, 2)


@pytest.mark.parametrize(
    "runs",
    by_kind(
        (solver, schedule)
        for solver in STOCHASTIC
        for schedule in (
            one_of_each(SCHEDULES)
            if solver == solvers.EulerMaruyama() or getattr(solver, "variance", "small") == "large"
            else [schedules.EDM()]
        )
    ),
)
def test_weak_order(runs: list[Any], table: list[tuple[str, ...]]) -> None:
    for solver, schedule in runs:
        weak = weak_order(solver)
        grid = (320, 640) if weak == 1 else (160, 320)
        errors = {n: relative_error(log_levels(n, HIGH, LOW), solver, schedule=schedule) for n in grid}
        order, least = slope(errors), f"{min(errors.values()):.1e}"
        table.append((name(solver), name(schedule), f"weak {weak}", f"measured {order:.2f}", least))
        assert order == pytest.approx(weak, abs=0.15), (name(solver, schedule), errors)


@pytest.mark.parametrize("settings", by_kind(s for s in STOCHASTIC if getattr(s, "most_outputs", 1) > 1))
def test_weak_order_from_an_exact_joint_start(settings: list[Any]) -> None:
    for solver in settings:
        errors = {n: relative_error(log_levels(n, HIGH, LOW), solver, prepared=True) for n in (160, 320)}
        assert slope(errors) == pytest.approx(weak_order(solver), abs=0.15), (name(solver), errors)


def around(rule: Any, levels: list[float]) -> list[float]:
    return list(rule.walk(tuple(levels)))


EXACT_NOISE = [
    renoising.Churn(S_churn=20, S_min=0.0, S_max=float("inf"), S_noise=1.0),
    renoising.Ancestral(),
    renoising.Ancestral(eta=0.5),
    renoising.Restart(intervals=(renoising.RestartInterval(0.3, 2.0, 0x7FFF, 2),)),
]


@pytest.mark.parametrize("rule", EXACT_NOISE, ids=name)
@pytest.mark.parametrize("solver", [solvers.Euler(), solvers.Heun(), solvers.Ralston(), solvers.DDIM()], ids=name)
def test_renoising_keeps_the_order_of_the_solver(rule: Any, solver: Any, table: list[tuple[str, ...]]) -> None:
    """A rise is exact, so the variance converges to the truth as fast as the falls do."""
    errors = {}
    for n in (160, 320) if solver.order == 1 else (80, 160):
        fitted = rule
        if isinstance(rule, renoising.Restart):  # its own levels must be refined together with the rest
            fitted = renoising.Restart(intervals=(renoising.RestartInterval(0.3, 2.0, n // 2 + 1, 2),))
        errors[n] = relative_error(around(fitted, log_levels(n, HIGH, LOW)), solver)
    order = slope(errors)
    table.append(
        (name(rule), name(solver), f"weak {solver.order}", f"measured {order:.2f}", f"{min(errors.values()):.1e}")
    )
    assert order == pytest.approx(solver.order, abs=0.15), errors


def test_heun_with_churn_is_closer_than_euler_with_churn() -> None:
    levels = around(EXACT_NOISE[0], log_levels(160, HIGH, LOW))
    assert relative_error(levels, solvers.Heun()) < 0.1 * relative_error(levels, solvers.Euler())


def test_S_noise_scales_the_noise_of_every_rise_and_nothing_else() -> None:
    """Exactly: the variance is a quadratic in S_noise, with the value at 0 that of the falls alone."""
    levels = around(renoising.Churn(S_churn=10, S_min=0.3, S_max=4.0), log_levels(20, HIGH, LOW))
    quiet, unit, loud = (exact_variance(solvers.Heun(), levels, VARIANCES, S_noise=S) for S in (0.0, 1.0, 1.003))
    assert torch.allclose(loud - quiet, 1.003**2 * (unit - quiet), rtol=1e-12)
    assert bool((unit > quiet).all())


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), [None, *every(RENOISING)], times=2)))
def test_noise_is_drawn_only_where_it_is_used(runs: list[Any]) -> None:
    """One draw for each rise and repeat, one or more for each fall of an SDE solver above 0, none otherwise."""
    for solver, rule in runs:
        draws_what_it_uses(solver, rule)


def draws_what_it_uses(solver: Any, rule: Any) -> None:
    levels = (*tuple(log_levels(9, 80.0, 0.02)), 0.0)
    levels = levels if rule is None else rule.walk(levels)
    falls, rises, repeats = moves_of(levels)
    drawn = 0

    def randn() -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros(1, 1, dtype=torch.float64)

    dynamics = dynamics_of(schedules.EDM(), Wiener((1.0,)))
    walk(
        dynamics,
        torch.ones(1, 1, dtype=torch.float64),
        dynamics.walk(levels),
        solver,
        needs_corrector(rule),
        1.0,
        randn,
    )
    assert drawn == rises + repeats + falls * draws(solver), name(solver, rule)


def test_annealed_langevin_keeps_the_marginal_to_second_order_in_snr() -> None:
    """A long stay: x' = (1 − qk) x + √(2q) σ n, q = 2 snr², k = σ²/(v+σ²), settles at (v+σ²)/(1 − qk/2)."""
    sigma, errors = 0.7, {}
    for snr in (0.2, 0.1):
        repeats = int(12 / snr**2)
        levels = [sigma] * (repeats + 1)
        variance = exact_variance(solvers.DDIM(), levels, (1.0,), corrector=correctors.AnnealedLangevin(snr=snr))
        truth = 1.0 + sigma**2
        q, k = 2 * snr**2, sigma**2 / truth
        errors[round(1 / snr)] = float(variance / truth - 1)
        assert float(variance) == pytest.approx(truth / (1 - q * k / 2), rel=1e-6)
    assert slope(errors) == pytest.approx(2, abs=0.15)


def test_annealed_langevin_forgets_a_wrong_start() -> None:
    """From no variance at all (x = 0) it climbs to the marginal: a corrector corrects."""
    denoiser = Wiener(VARIANCES)
    dynamics = dynamics_of(schedules.EDM(), denoiser)
    level = dynamics.walk((1.0, 0.0)).levels[0]
    corrector, x, steps = (
        correctors.AnnealedLangevin(snr=0.15),
        torch.zeros(4, 400, dtype=torch.float64),
        iter(range(400)),
    )

    def basis() -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([next(steps)] * 4), 400).double()

    for _ in range(400):
        x = corrector.step(dynamics, x, level, basis)
    truth = torch.tensor(VARIANCES, dtype=torch.float64) + 1
    assert torch.allclose(x.square().sum(1), truth, rtol=0.03)


def test_langevin_step_is_algorithm_4_for_each_sample_by_itself() -> None:
    D, sigma, snr = Wiener((0.5,)), torch.tensor(0.8, dtype=torch.float64), 0.16
    x, n = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    dynamics = Dynamics(schedules.EDM(), lambda x, s: 0.5 / (0.5 + s**2) * x, {}, torch.device("cpu"))
    level = dynamics.walk((0.8, 0.0)).levels[0]
    got = correctors.Langevin(snr=snr).step(dynamics, x, level, lambda: n)
    for i in range(5):
        score = (D(x[i].reshape(1, -1), sigma).reshape(3, 4) - x[i]) / sigma**2
        epsilon = 2 * (snr * n[i].norm() / score.norm()) ** 2
        assert torch.allclose(got[i], x[i] + epsilon * score + torch.sqrt(2 * epsilon) * n[i], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("corrector", every(CORRECTORS), ids=name)
def test_corrector_keeps_the_marginal_in_high_dimension(corrector: Any) -> None:
    """In 20 000 dimensions one draw shows the variance to 1 %; ten steps of either rule leave it there to O(snr²)."""
    dynamics = Dynamics(schedules.EDM(), lambda x, s: x / (1 + s**2), {}, torch.device("cpu"))
    level = dynamics.walk((1.0, 0.0)).levels[0]
    # 2 snr² = epsilon/σ_min²
    small = replace(corrector, snr=0.05) if hasattr(corrector, "snr") else replace(corrector, epsilon=0.005 * 0.01**2)
    x = torch.randn(1, 20_000, dtype=torch.float64) * 2**0.5
    for _ in range(10):
        x = small.step(dynamics, x, level, lambda: torch.randn(1, 20_000, dtype=torch.float64))
    assert float(x.square().mean()) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("settings", by_kind(STOCHASTIC))
def test_stochastic_solvers_reach_the_data_variance_at_zero(settings: list[Any]) -> None:
    """From σ_max to 0 on ``Karras``' grid of 400 steps: the variance of the samples is that of the data to 5 %."""
    levels = Karras(n=400).levels(schedules.EDM()).tolist()
    for solver in settings:
        variance = exact_variance(solver, levels, (0.05, 0.25, 1.0))
        data = torch.tensor([0.05, 0.25, 1.0], dtype=torch.float64)
        assert torch.allclose(variance, data, rtol=0.05), name(solver)
