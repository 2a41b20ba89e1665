"""The ODE solver and the paths of facebookresearch/flow_matching beside ours, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from authors_repos import NOISE, D, clone, difference, double, golden, importable, ours
from torch import Tensor

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.levels import UniformTime
from edm_unified.schedules import VP, FlowMatching

REPOSITORY = "facebookresearch/flow_matching"
ROUNDING = 1e-10


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


@golden(REPOSITORY)
def flow(method: str, n: int) -> Tensor:
    """Their ODE solver from t = 0, noise, to 1, data: x_t = t x_1 + (1 − t) x_0."""
    pytest.importorskip(
        "torchdiffeq", reason="needs torchdiffeq, on which flow_matching rests: pip install torchdiffeq"
    )
    with importable(clone(REPOSITORY)) as load:
        ode_solver = load("flow_matching.solver.ode_solver")
    schedule = FlowMatching()
    start = 1e-3  # as a level, σ = 999

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        sigma = schedule.sigma(1 - t)
        z = x * (1 + sigma)
        if t == 1:
            return D(x, 0.0)  # never asked by a method without a stage at the end
        denoised = D(z, sigma)
        return denoised - (z - denoised) / sigma

    grid = torch.linspace(start, 1.0, n + 1)
    return ode_solver.ODESolver(velocity).sample(NOISE * (1 - start), step_size=None, method=method, time_grid=grid)


@pytest.mark.parametrize("n", [8, 30])
def test_flow_matching_euler(n: int) -> None:
    levels = UniformTime(n=n, t_max=1 - 1e-3).levels(FlowMatching()).tolist()
    assert difference(ours(solvers.Euler(), levels, FlowMatching()), flow("euler", n)) < ROUNDING


def test_flow_matching_midpoint_but_for_the_last_step() -> None:
    """Midpoint has no stage at the end, and so goes on to t = 1; ours ends with an Euler step there."""
    n = 20
    levels = UniformTime(n=n, t_max=1 - 1e-3).levels(FlowMatching()).tolist()
    x = flow("midpoint", n)
    assert 1e-6 < difference(ours(solvers.Midpoint(), levels, FlowMatching()), x) < 1e-2
    before = ours(solvers.Midpoint(), levels[:-1], FlowMatching())
    sigma, half = levels[-2], float(FlowMatching().sigma(0.5 * (1 - 1e-3) / n))
    t = sigma / (1 + sigma)
    y = before / (1 + sigma)
    middle = y - 0.5 * t * ((before - D(before, sigma)) / sigma - D(before, sigma))
    z = middle * (1 + half)
    assert difference(y - t * ((z - D(z, half)) / half - D(z, half)), x) < ROUNDING


def test_flow_matching_schedule() -> None:
    t = torch.linspace(0.01, 0.99, 20)

    @golden(REPOSITORY)
    def marginal(name: str) -> tuple[Tensor, Tensor]:
        with importable(clone(REPOSITORY)) as load:
            out = getattr(load("flow_matching.path.scheduler.scheduler"), name)()(t)
        return out.alpha_t, out.sigma_t

    pairs = (
        ("CondOTScheduler", FlowMatching()),
        ("VPScheduler", VP()),
        ("CosineScheduler", edm.schedules.Cosine(offset=0.0)),
    )
    for name, schedule in pairs:
        alpha, sigma = marginal(name)
        assert torch.allclose(schedule.s(1 - t), alpha, rtol=1e-9)
        assert torch.allclose(schedule.s(1 - t) * schedule.sigma(1 - t), sigma, rtol=1e-9)
