"""Steps written as formulas by someone else: what the mechanism makes of them, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.dynamics import Axis
from edm_unified.sampling.loop import walk

NOISE = edm.unit_noise(3, (2,))


def D(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2) + 0.1 * torch.tanh(x)


class AdamsBashforth2(solvers.Printed):
    def fall(self, step: Any, x: Any, a: Any, b: Any) -> Any:
        slope, h = step.remember((x - step.denoise(x, a)) / a.sigma), b.sigma - a.sigma
        for before, previous in step.past(1):
            slope = slope + h / (a.sigma - before.sigma) / 2 * (slope - previous)
        return x + h * slope


class CorrectedFlow(solvers.Printed):
    """A predictor and corrector whose remembered value holds x: what the corrector changes is not D alone."""

    def fall(self, step: Any, x: Any, a: Any, b: Any) -> Any:
        D_a = step.denoise(x, a)
        v, h = (x - D_a) / a.sigma, b.sigma - a.sigma
        predicted = x + h * v
        if not step.followed:
            return predicted
        D_b = step.ahead(predicted)
        return x + h / 2 * (v + (predicted - D_b) / b.sigma)


@pytest.mark.parametrize("rule", [None, edm.renoising.Churn(), edm.renoising.Restart()], ids=str)
def test_two_step_adams_is_lms_of_order_2(rule: Any) -> None:
    mine, ours = (edm.sample(D, NOISE, solver=s, renoising=rule) for s in (AdamsBashforth2(), solvers.LMS(order=2)))
    assert torch.allclose(mine, ours, rtol=1e-11, atol=1e-12)


def test_a_correction_that_is_more_than_outputs_is_made_at_once() -> None:
    """By hand: the output at b is that of the predicted state, and is not evaluated again."""
    levels, asked = (4.0, 2.0, 1.0, 0.5), 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return D(x, sigma)

    found = edm.sample(
        counted, NOISE, solver=CorrectedFlow(), steps=edm.discretization.Explicit(sigmas=levels), last="stop"
    )
    assert asked == 3
    x, known = NOISE * 4.0, D(NOISE * 4.0, torch.tensor(4.0))
    for a, b in ((4.0, 2.0), (2.0, 1.0), (1.0, 0.5)):
        v = (x - known) / a
        predicted = x + (b - a) * v
        if b == 0.5:
            x = predicted
            break
        known = D(predicted, torch.tensor(b))
        x = x + (b - a) / 2 * (v + (predicted - known) / b)
    assert torch.allclose(found, x, rtol=1e-12)


@pytest.mark.parametrize("solver", [solvers.UniPC(), solvers.UniPC(p=2, variant="bh1"), solvers.SASolver(tau=0.0)])
def test_a_waiting_correction_changes_nothing_but_the_states_on_the_way(solver: Any) -> None:
    axis = Axis(edm.schedules.EDM())
    path = axis.walk(tuple(edm.discretization.Karras(n=9).levels(axis.schedule).tolist()))
    dynamics = edm.dynamics.Dynamics(axis.schedule, D, {}, axis.device)
    at_once, waiting = (
        walk(dynamics, 80 * NOISE, path, solver, None, 1.0, torch.empty, state=solver.init(axis, path, whole=whole))
        for whole in (False, True)
    )
    assert torch.allclose(at_once, waiting, rtol=1e-12, atol=1e-13)


def test_noise_is_drawn_where_it_is_used_and_shared_where_it_is_one_symbol() -> None:
    class Twice(solvers.Printed):
        def fall(self, step: Any, x: Any, a: Any, b: Any) -> Any:
            unused, n = step.noise(), step.noise()
            half = step.denoise(x + n, a)
            return half + n + 0.0 * unused

    drawn = []

    def randn() -> Tensor:
        drawn.append(torch.full_like(NOISE, 1.0 + len(drawn)))
        return drawn[-1]

    dynamics = edm.dynamics.Dynamics(edm.schedules.EDM(), lambda x, sigma: 2 * x, {}, torch.device("cpu"))
    end = walk(dynamics, NOISE, dynamics.walk((2.0, 1.0)), Twice(), None, 1.0, randn)
    assert len(drawn) == 1
    assert torch.allclose(end, 2 * (NOISE + 1) + 1)


def test_noise_that_is_remembered_is_the_noise_that_was_drawn() -> None:
    class Echo(solvers.Printed):
        def fall(self, step: Any, x: Any, a: Any, b: Any) -> Any:
            n = step.remember(step.noise())
            for _, before in step.past(1):
                x = x + before
            return x + n

    drawn = iter((torch.full_like(NOISE, 1.0), torch.full_like(NOISE, 10.0)))
    dynamics = edm.dynamics.Dynamics(edm.schedules.EDM(), D, {}, torch.device("cpu"))
    end = walk(dynamics, NOISE, dynamics.walk((4.0, 2.0, 1.0)), Echo(), None, 1.0, lambda: next(drawn))
    assert torch.allclose(end, NOISE + 1 + (10 + 1))


@pytest.mark.parametrize(
    ("fall", "error"),
    [
        (lambda step, x, a, b: x * step.denoise(x, a), r"must be linear in x, the outputs of D and the noises"),
        (lambda step, x, a, b: x.clamp(-1, 1), r"has no attribute 'clamp'"),
        (lambda step, x, a, b: x if x > 0 else -x, r"'>' not supported"),
    ],
)
def test_a_step_that_is_not_linear_is_refused_before_the_run(fall: Any, error: str) -> None:
    solver = type("Bent", (solvers.Printed,), {"fall": lambda self, *given: fall(*given)})()
    with pytest.raises((TypeError, AttributeError), match=error):
        edm.sample(D, NOISE, solver=solver)
