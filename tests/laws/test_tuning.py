"""Fitted solvers: what a student is, the weights of stock methods, and that a fit gains on noises it never saw."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import edm_unified as edm
from edm_unified.compare.sets import solver_set
from edm_unified.sampling.levels import FittedLevels
from edm_unified.sampling.solvers import Fitted
from edm_unified.schedules import VP, FlowMatching
from edm_unified.tuning import stock
from edm_unified.tuning.fit import Noises, errors
from edm_unified.tuning.many import Asked, Layout, ends
from edm_unified.tuning.session import Session, judged
from edm_unified.tuning.stock import rows_of

D = edm.exact.GaussianMixture(
    [0.5, 0.3, 0.2],
    0.6 * torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    0.01 + 0.04 * torch.rand(3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    labels=[0, 1, 1],
)
NFE = 5
SIX = edm.discretization.VPTime(n=6, power=3.0)


def one_evaluation() -> list[Any]:
    return [solver for solver in solver_set("deterministic") if edm.count_nfe(SIX, solver) == 6]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(D, edm.unit_noise(32, (8,), seed=3))


@pytest.fixture(scope="module")
def fit(session: Session) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock, "solver_set", lambda name: ())  # the ten of FAST are left
        return session.fit(NFE)


def test_a_fit_gains_on_noises_it_never_saw(fit: Any) -> None:
    """Against scipy's DOP853, which neither the teacher nor the judge is."""
    noise = edm.unit_noise(64, (8,), seed=11)
    exact = edm.reference(D, noise)
    counted = edm.Counted(D)
    ours = edm.sample(counted, noise, **fit.settings)
    theirs = edm.sample(D, noise, steps=fit.stock.steps, solver=fit.stock.solver)
    gain, _, _ = judged((ours - exact).square().mean(1), (theirs - exact).square().mean(1))
    assert counted.nfe == NFE
    assert fit.better
    assert gain.low is not None
    assert gain.low > 3
    assert fit.held_out.value == pytest.approx(gain.value, rel=0.7)


def test_shuffled_teachers_gain_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noises' ends in another order: what is learnt from them is no use, and the stock method is returned."""
    monkeypatch.setattr(stock, "solver_set", lambda name: ())
    own, judge = session.teachers
    shuffled = own._replace(ends=own.ends.roll(1, 0))
    found = Session(D, session.noise, teachers=(shuffled, judge), iterations=4).fit(NFE)
    assert not found.better
    assert found.settings == {"steps": found.stock.steps, "solver": found.stock.solver}


def test_the_weights_of_every_stock_method_are_its_own() -> None:
    """A method as rows of weights, read off by basis vectors, is that method on a nonlinear D."""
    sigmas = tuple(SIX.levels(edm.schedules.EDM()).tolist())
    noise = edm.unit_noise(4, (8,), seed=5)
    assert len(one_evaluation()) > 10
    for solver in one_evaluation():
        rows = Fitted(sigmas=(sigmas,), weights=(rows_of(solver, sigmas),))
        found = edm.sample(D, noise, steps=FittedLevels(sigmas=(sigmas,), n=6), solver=rows)
        torch.testing.assert_close(
            found, edm.sample(D, noise, steps=SIX, solver=solver), rtol=0, atol=2e-7, msg=solver.kind
        )


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("depth", [0, 3])
def test_a_student_is_the_solver_that_it_becomes(depth: int, told: bool) -> None:
    """Many students at once, sharing what they have in common, end where the loop takes each of them alone."""
    layout = Layout(6, depth, told)
    theta = layout.start(SIX.levels(edm.schedules.EDM()).tolist())
    theta = theta + 0.05 * np.random.default_rng(0).standard_normal(layout.size)
    noise = edm.unit_noise(3, (8,), seed=6)
    near = np.concatenate([theta[None], theta[None] + 0.01 * np.eye(layout.size)])
    together = ends(Asked(D, None), layout, near, 80.0 * noise, 80.0, slice(0, 3), share=True)
    torch.testing.assert_close(together, ends(Asked(D, None), layout, near, 80.0 * noise, 80.0, slice(0, 3)))
    for one in (0, 3, layout.size):
        sigmas, rows = layout.rows(80.0, near[one], digits=14)
        levels = (tuple(layout.asked(80.0, near[one][None])[0].tolist()),) if told else ()
        solver = Fitted(sigmas=(sigmas,), weights=(rows,), told=levels)
        alone = edm.sample(D, noise, steps=FittedLevels(sigmas=(sigmas,), n=6), solver=solver)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-9)


def test_no_correction_is_exponential_adams() -> None:
    layout, noise = Layout(6), edm.unit_noise(3, (8,), seed=7)
    theta = layout.start(SIX.levels(edm.schedules.EDM()).tolist())
    exact = edm.sample(D, noise, steps=SIX, solver=edm.solvers.ExponentialAdams(order=2))
    noises = Noises(Asked(D, None), 80.0 * noise, exact, 80.0, 0.002)
    assert float(errors(noises, layout, theta[None]).max()) < 1e-24


def test_the_schedule_and_the_dtype_do_not_matter(fit: Any) -> None:
    noise = edm.unit_noise(4, (8,), seed=8)
    plain = edm.sample(D, noise, **fit.settings)
    for schedule in (VP(), FlowMatching()):
        torch.testing.assert_close(
            edm.sample(D, noise, schedule=schedule, **fit.settings), plain, rtol=1e-12, atol=1e-12
        )
    narrow = edm.sample(D, noise, dtype=torch.float32, **fit.settings)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), plain, rtol=0, atol=1e-4)


def test_a_constant_is_kept(fit: Any) -> None:
    """x = D = c at the highest level: no step moves it, whatever was fitted."""
    start = torch.full((2, 8), 1.7, dtype=torch.float64)
    out = edm.sample(lambda x, sigma: start.clone(), start / 80.0, **fit.settings)
    torch.testing.assert_close(out, start, rtol=1e-9, atol=0)


def test_classes_go_with_their_noises() -> None:
    """D is told the class of each noise, however many students ask at once."""
    label = torch.tensor([0, 1, 1, 0])
    layout, noise = Layout(3), edm.unit_noise(4, (8,), seed=9)
    theta = layout.start([80.0, 2.0, 0.3, 0.0])
    near = np.stack([theta, theta + 0.01])
    both = ends(Asked(D, {"label": label}, most=5), layout, near, 80.0 * noise, 80.0, slice(0, 4))
    parts = [
        ends(Asked(D, {"label": label}), layout, near, 80.0 * noise[i : i + 1], 80.0, slice(i, i + 1)) for i in range(4)
    ]
    torch.testing.assert_close(both, torch.cat(parts, dim=1))


def ddim_kl(rule: Any, variances: list[float]) -> float:
    """Σ (ln std ratio)² of DDIM on independent Gaussians from their true marginal: a product of numbers."""
    levels, total = rule.levels(edm.schedules.EDM()).tolist()[:-1], 0.0
    for v in variances:
        kept = sum(math.log(b / a + (1 - b / a) * v / (v + a * a)) for a, b in pairwise(levels))
        total += (kept - 0.5 * math.log((v + levels[-1] ** 2) / (v + levels[0] ** 2))) ** 2
    return total


def test_the_tangent_law_of_a_spectrum_is_the_best_of_tangents() -> None:
    """By DDIM's own errors on Gaussians of these variances, at c and beside it."""
    assert edm.discretization.Tan.of([0.09]).sigma_data == pytest.approx(0.3)
    variances = [1.0, 0.2, 0.01]
    best = edm.discretization.Tan.of(variances, n=400, sigma_min=1e-4, sigma_max=500.0)
    beside = [dataclasses.replace(best, sigma_data=f * best.sigma_data) for f in (0.8, 1.25)]
    assert all(ddim_kl(best, variances) < 0.97 * ddim_kl(rule, variances) for rule in beside)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nfe": 1}, "nfe: must be from 2"),
        ({"nfe": 60}, "nfe: must be from 2 to 48, half of the teacher"),
        ({"nfe": (4, 1)}, "nfe: must be from 2"),
        ({"nfe": 20, "noise": edm.unit_noise(4, (8,))}, "samples: 4 noises have 32 numbers, and .* parameters"),
        ({"nfe": 4, "sigma_min": 90.0}, "sigma_min: must be below sigma_max"),
        ({"nfe": 4, "noise": edm.unit_noise(1, (8,))}, "noise: must be unit normal noise of two samples"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], message: str) -> None:
    noise = settings.pop("noise", edm.unit_noise(32, (8,)))
    with pytest.raises(ValueError, match=message):
        edm.tune(D, noise, **settings)


def test_a_level_at_which_D_is_no_number_is_named() -> None:
    def broken(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return D(x, sigma) if sigma > 0.5 else torch.full_like(x, math.nan)

    with pytest.raises(FloatingPointError, match=r"returned NaN or infinity .*sigma = 0\.4"):
        edm.tune(broken, edm.unit_noise(8, (8,)), nfe=4)
    layout, start = Layout(2), torch.ones(2, 8, dtype=torch.float64)
    theta = layout.start([80.0, 0.3])[None]
    with pytest.raises(FloatingPointError, match=r"returned NaN or infinity at sigma = 0\.3"):
        ends(Asked(broken, None), layout, theta, start, 80.0, slice(0, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": ()}, "weights: must have rows for each of the 1 lists of sigmas, got 0"),
        ({"weights": (((0.1, 0.9),),)}, "weights: item 0: must have a row for each of the 2 steps, got 1"),
        (
            {"weights": (((0.1, 0.9), (0.1, 0.2, 0.3, 0.4)),)},
            "row 1 must have the weight of x and those of 1 to 2 outputs",
        ),
        ({"weights": (((0.1, 0.9), (0.0, math.nan)),)}, "weights: item 0: must be finite"),
        ({"sigmas": ((80.0, 1.0),)}, "sigmas: item 0: must be two levels or more, the last of them 0"),
        ({"sigmas": ((80.0, 90.0, 0.0),)}, "sigmas: item 0: must fall"),
        ({"told": ((80.0,),)}, "told: must have a level for each evaluation"),
    ],
)
def test_a_fitted_solver_that_was_edited_wrongly_is_told(fields: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"sigmas": ((80.0, 1.0, 0.0),), "weights": (((0.1, 0.9), (0.0, 1.2, -0.2)),)}
    Fitted(**right)
    with pytest.raises(ValueError, match=message):
        Fitted(**{**right, **fields})


def test_another_walk_is_refused(fit: Any) -> None:
    with pytest.raises(ValueError, match="was fitted to levels of its own, of 5 evaluations"):
        edm.sample(D, edm.unit_noise(1, (8,)), steps=SIX, solver=fit.settings["solver"])
    with pytest.raises(ValueError, match="n: the levels were fitted for 5 steps, got 4"):
        edm.count_nfe(dataclasses.replace(fit.settings["steps"], n=4), fit.settings["solver"])
