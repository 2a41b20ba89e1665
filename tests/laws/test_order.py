"""Law 3: every solver converges at its stated order, for every schedule, from exact starting values.

The truth is scipy's DOP853 on dx/dλ = (1 + η²)(D − x), which shares no code with the package; the data are a nonlinear
mixture. A solver with noise is run with its noise switched off: what remains must be the drift of its SDE. A multistep
method is started on the exact curve, since an Euler start alone would leave an error of order 2 whatever came after.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from variants import (
    SCHEDULES,
    SOLVERS,
    UNIONS,
    Mixture,
    by_kind,
    cover,
    dynamics_of,
    every,
    exact_flow,
    exact_start,
    log_levels,
    members,
    name,
    slope,
    stochastic_amplitude,
    zigzag_levels,
)

import edm_unified as edm
from edm_unified import schedules, solvers

HIGH, LOW = 8.0, 0.15
START = torch.linspace(-1.7, 1.9, 6, dtype=torch.float64)[:, None] * HIGH
GRIDS = {1: (160, 320), 2: (80, 160), 3: (80, 160), 4: (40, 80)}
"""Two octaves of steps per order: fine enough for the leading term to rule, coarse enough to stay above rounding."""


FITTED = {solvers.Fitted, edm.discretization.FittedLevels}
"""What belongs to one model and its own walks: test_tuning.py."""


@pytest.mark.parametrize("family", UNIONS)
def test_union_is_covered(family: str) -> None:
    union, settings = UNIONS[family]
    assert members(union) - FITTED == set(settings), "name every member of the union in tests/laws/variants.py"


BLIND = {solvers.DDIM, solvers.DDPM, solvers.DPMSolver2, solvers.DPMSolver3, solvers.DPMSolverFast}


def schedule_blind(solver: Any) -> bool:
    return hasattr(solver, "most_outputs") or hasattr(solver, "scheme") or type(solver) in BLIND


def final_error(solver: Any, schedule: Any, n: int, start_exactly: bool = True, grid: Any = log_levels) -> float:
    levels = grid(n, HIGH, LOW)
    eta = stochastic_amplitude(solver)
    given = exact_start(solver) if start_exactly else 0
    exact = exact_flow([*levels[: given + 1], LOW], START, eta)
    dynamics = dynamics_of(schedule, Mixture())
    path = dynamics.walk(levels)
    x, state = START, solver.init(dynamics, path)
    for i, (a, b) in enumerate(path.moves):
        x, state = solver.step(dynamics, x, a, b, state, lambda: torch.zeros_like(START))
        if i < given:
            x = exact[i + 1]
    return float((x - exact[-1]).square().mean().sqrt())


SMOOTH = [schedule for schedule in every(SCHEDULES) if not isinstance(schedule, schedules.I2SB)]
"""I²SB's β has a corner at t = ½, at which a Runge–Kutta method in t loses its order."""
SEEING = [solver for solver in every(SOLVERS) if not schedule_blind(solver)]
CASES = [
    *((solver, schedules.FlowMatching()) for solver in every(SOLVERS) if schedule_blind(solver)),
    *((solver, schedule) for solver in (solvers.Heun(), solvers.ReverseDiffusion()) for schedule in SMOOTH),
    *cover([s for s in SEEING if s not in (solvers.Heun(), solvers.ReverseDiffusion())], SMOOTH, times=5),
]
"""Each schedule with one ODE and one SDE, and with every other solver that sees it in turn."""


@pytest.mark.parametrize("cases", by_kind(CASES))
def test_order(cases: list[Any], table: list[tuple[str, ...]]) -> None:
    for solver, schedule in cases:
        grid = GRIDS[solver.order] if solver.order < 4 or not exact_start(solver) else (160, 320)
        errors = {n: final_error(solver, schedule, n) for n in grid}
        order, least = slope(errors), f"{min(errors.values()):.1e}"
        table.append((name(solver), name(schedule), f"stated {solver.order}", f"measured {order:.2f}", least))
        assert order == pytest.approx(solver.order, abs=0.15), (name(solver, schedule), errors)


@pytest.mark.parametrize("settings", by_kind(s for s in every(SOLVERS) if exact_start(s)))
def test_order_on_a_grid_of_uneven_steps(settings: list[Any]) -> None:
    """Short and long steps by turns: nodes placed as if the steps were even show here, and not on an even grid."""
    for solver in settings:
        errors = {n: final_error(solver, schedules.EDM(), n, grid=zigzag_levels) for n in (160, 320)}
        stated = 1 if isinstance(solver, solvers.IPNDM | solvers.PNDM) else solver.order  # theirs are so placed
        assert slope(errors) == pytest.approx(stated, abs=0.15), (name(solver), errors)


@pytest.mark.parametrize(
    "settings", by_kind(s for s in every(SOLVERS) if exact_start(s) and not hasattr(s, "coordinate"))
)  # those: test_multistep.py, which tells the error of the start from the others
def test_self_start_leaves_order_two(settings: list[Any], table: list[tuple[str, ...]]) -> None:
    """What a user sees: the first step is of order 1, one error of O(h²) that the ODE carries to the end.

    The drift of an SDE contracts it by (σ_N/σ_0)^{η²} and more, so that the higher order may show through.
    """
    for solver in settings:
        order = slope({n: final_error(solver, schedules.EDM(), n, start_exactly=False) for n in (160, 320)})
        table.append((name(solver), "self-started", "stated 2", f"measured {order:.2f}", ""))
        assert order > min(2, solver.order) - 0.15, name(solver)
        if not solver.stochastic and solver.order < 4:
            started = solver.order if getattr(solver, "start", "plain") == "rk2" else 2
            assert order == pytest.approx(started, abs=0.15), name(solver)


def test_reference_is_the_exact_flow_of_a_gaussian() -> None:
    variance = torch.tensor([1e-4, 0.04, 1.0, 9.0], dtype=torch.float64)
    mean = torch.tensor([0.3, -1.0, 0.0, 2.0], dtype=torch.float64)

    def D(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return mean + variance / (variance + sigma**2) * (x - mean)

    noise = edm.unit_noise(5, (4,), seed=3)
    for low in (0.5, 0.0):
        truth = mean + torch.sqrt((variance + low**2) / (variance + 80.0**2)) * (80 * noise - mean)
        error = (edm.reference(D, noise, sigma_max=80.0, sigma_min=low) - truth).abs().max()
        assert error < 1e-8


def test_reference_agrees_with_the_oracle_of_this_file() -> None:
    truth = exact_flow([HIGH, LOW], START)[-1]
    assert torch.allclose(
        edm.reference(Mixture(), START / HIGH, sigma_max=HIGH, sigma_min=LOW), truth, rtol=0, atol=1e-9
    )


def test_reference_of_a_sample_does_not_lean_on_its_batch() -> None:
    together = edm.reference(Mixture(), START / HIGH, sigma_max=HIGH)
    alone = torch.cat([edm.reference(Mixture(), row[None] / HIGH, sigma_max=HIGH) for row in START])
    assert torch.allclose(together, alone, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "schedule"),
    cover(
        [solvers.Euler(), solvers.Heun(), solvers.RK4(), solvers.DPMSolverPP2M()],
        [schedules.EDM(), schedules.VP(), schedules.FlowMatching()],
        times=2,
    ),
    ids=name,
)
def test_sample_converges_to_the_reference_at_zero(solver: Any, schedule: Any) -> None:
    """The whole of ``sample``, from σ_max to 0, on its own grid: within 1e-3 at 400 steps, and nearer than at 100."""
    noise = edm.unit_noise(8, (2,))
    truth = edm.reference(Mixture(), noise)
    coarse, fine = (
        (edm.sample(Mixture(), noise, solver=solver, schedule=schedule, steps=edm.discretization.Karras(n=n)) - truth)
        .square()
        .mean()
        .sqrt()
        for n in (100, 400)
    )
    assert fine < max(0.5 * coarse, 1e-5)  # 1e-5: what the one Euler step from σ_min = 0.002 to 0 leaves
    assert fine < (2e-2 if solver.order == 1 else 1e-3)
