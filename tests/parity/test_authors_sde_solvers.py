"""SA-Solver, ER-SDE-Solver and SEEDS as their authors ship them beside ours, with the same noises, in float64."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from authors_repos import NOISE, D, Seen, clone, difference, double, drawn, golden, importable, loaded, ours, place
from torch import Tensor

from edm_unified import solvers
from edm_unified.schedules import VP

SA, ER, SEEDS = "scxue/SA-Solver", "QinpengCui/ER-SDE-Solver", "nfsrules/SEEDS"
sa = loaded(SA, "sa_solver", stubs=("tqdm",))
sa.tqdm = lambda steps: steps
er, seeds = loaded(ER, "er_sde_solver"), loaded(SEEDS, "seeds_lib.methods.etd_serk")

ROUNDING = 1e-11
SCHEDULE = VP()


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def apart(mine: list[Tensor], theirs: list[Tensor]) -> float:
    return max(difference(a, b) for a, b in zip(mine, theirs, strict=True))


# -- SA-Solver ---------------------------------------------------------------------------------------------------------


@golden(SA)
def sa_states(mode: str, p: int, c: int, tau: Any, steps: int = 12) -> tuple[list[Tensor], list[float]]:
    """The states at which D was asked, as x_0 + σn, and the levels."""
    schedule, seen = sa.NoiseScheduleVP("linear"), Seen()

    def noise_model(x: Tensor, t: Tensor) -> Tensor:
        sigma = SCHEDULE.sigma(t[0])
        z = x * torch.sqrt(1 + sigma**2)
        return (z - seen(z, sigma)) / sigma

    sampler = sa.SASolver(noise_model, schedule)
    levels = SCHEDULE.sigma(sampler.get_time_steps("logSNR", 1.0, 1e-3, steps, 1, "cpu")).tolist()
    torch.manual_seed(0)
    sampler.sample(
        mode, NOISE * levels[0] / math.hypot(1, levels[0]), tau, steps, t_start=1.0, t_end=1e-3, skip_type="logSNR",
        predictor_order=p, corrector_order=c,
    )  # fmt: skip
    return seen.states, levels


def ours_states(solver: Any, levels: list[float], noises: Any) -> list[Tensor]:
    seen = Seen()
    ours(solver, levels, SCHEDULE, noises, seen)
    return seen.states


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("p", "c"), [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2), (2, 3), (3, 0), (3, 3), (3, 4)])
def test_sa_solver(p: int, c: int, tau: float) -> None:
    """Without the term for few steps, up to where they lower the order. Their first draw is not used."""
    theirs, levels = sa_states("more_steps", p, c, lambda t: tau)
    mine = ours_states(solvers.SASolver(predictor=p, corrector=c, tau=tau), levels, itertools.islice(drawn(), 1, None))
    assert apart(mine[:10], theirs[:10]) < ROUNDING


def test_sa_solver_for_few_steps_adds_a_term_to_every_step_of_order_2() -> None:
    """P3C4 has such steps at the start, P2C2 no others; it vanishes as the step cubed."""
    for p, c in ((2, 2), (3, 4)):
        theirs, levels = sa_states("few_steps", p, c, lambda t: 1.0)
        bare, _ = sa_states("more_steps", p, c, lambda t: 1.0)
        mine = ours_states(solvers.SASolver(predictor=p, corrector=c), levels, itertools.islice(drawn(), 1, None))
        assert apart(mine[:10], bare[:10]) < ROUNDING
        assert difference(mine[2], theirs[2]) > 1e-9
        assert (difference(mine[9], theirs[9]) > 0.05) == (p == 2)  # of P3C4 it is forgotten: 5e-8


def test_sa_solver_has_its_noise_where_a_step_ends() -> None:
    """τ(t) on a window of times is asked at the end of the step, and so is ours on a window of levels."""
    theirs, levels = sa_states("more_steps", 3, 4, lambda t: 1.0 if 0.2 <= float(t) <= 0.8 else 0.0)
    low, high = (float(SCHEDULE.sigma(t)) for t in (0.2, 0.8))
    within = [low <= b <= high for b in levels[1:]]
    assert 2 < sum(within) < 10
    noises = (noise for noise, used in zip(itertools.islice(drawn(), 1, None), within, strict=False) if used)
    mine = ours_states(solvers.SASolver(S_min=low, S_max=high), levels, noises)
    assert apart(mine[:10], theirs[:10]) < ROUNDING


# -- ER-SDE ------------------------------------------------------------------------------------------------------------

LEVELS = [10 * 0.01 ** (i / 9) for i in range(10)] + [0.0]  # of variances above the 1e-6 that they leave out


@golden(ER)
def er_sample(method: str, phi: int = 7) -> Tensor:
    sampler = er.ER_SDE_Solver("ve", "x_start")
    levels = torch.tensor(LEVELS)
    torch.manual_seed(0)
    return getattr(sampler, method)(
        lambda x, sigma: D(x, sigma), NOISE * levels[0], levels, levels, fn_sigma=lambda x: er.customized_func(x, phi)
    )


@pytest.fixture
def _tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their VE form of order 2 sums a tensor with NumPy, which raises TypeError in its version 2.4."""
    if place(ER) is not None:
        monkeypatch.setattr(er.np, "sum", torch.sum)


PHI = {1: "ode", 2: "reverse_sde", 7: "er_sde"}


@pytest.mark.usefixtures("_tensors")
@pytest.mark.parametrize("phi", PHI)
def test_er_sde_of_order_1(phi: int) -> None:
    mine = ours(solvers.ERSDE(order=1, phi=PHI[phi]), LEVELS, noises=drawn())
    assert difference(mine, er_sample("ve_1_order", phi)) < ROUNDING


class SecondPublished(solvers.ERSDE3Published):
    """The formula of order 3 with two outputs is theirs of order 2."""

    most_outputs = 2


@pytest.mark.usefixtures("_tensors")
@pytest.mark.parametrize("phi", PHI)
def test_er_sde_of_orders_2_and_3(phi: int) -> None:
    """With their sums of a hundred values. Of order 2 nothing else differs from ours; of order 3 the slope does."""
    for method, solver, right in (
        ("ve_2_order_taylor", SecondPublished, solvers.ERSDE(order=2, phi=PHI[phi])),
        ("ve_3_order_taylor", solvers.ERSDE3Published, solvers.ERSDE(order=3, phi=PHI[phi])),
    ):
        theirs = er_sample(method, phi)
        assert difference(ours(solver(phi=PHI[phi], integrals="sums"), LEVELS, noises=drawn()), theirs) < ROUNDING
        exact = ours(solver(phi=PHI[phi]), LEVELS, noises=drawn())
        assert 1e-6 < difference(exact, theirs) < 2e-2
        gap = difference(ours(right, LEVELS, noises=drawn()), exact)
        assert gap < ROUNDING if "2" in method else gap > 1e-3


# -- SEEDS -------------------------------------------------------------------------------------------------------------

STEPS = [8 * 0.02 ** (i / 8) for i in range(9)]


@golden(SEEDS)
def seeds_sample(order: int, on_noise: bool, levels: list[float], noises: bool = True, **options: Any) -> Tensor:
    denoiser = options.get("denoiser", D)
    solver = seeds.ETD_SERK_SOLVER(
        lambda x, sigma, label: denoiser(x, sigma), lambda t: -torch.log(t), lambda lam: torch.exp(-lam), None,
        lambda t: t, lambda t: 1.0, order, options.get("c2"), on_noise, options.get("butcher"), None,
    )  # fmt: skip
    if not noises:
        solver.randn_like = torch.zeros_like
    torch.manual_seed(0)
    x = options.get("start", NOISE * levels[0])
    for i, (a, b) in enumerate(itertools.pairwise(torch.tensor(levels))):
        x = solver.update(x, a, b, len(levels) + 1, i)
    return x


def negative() -> Iterator[Tensor]:
    """They subtract the noise."""
    return (-noise for noise in drawn())


@pytest.mark.parametrize(("order", "on_noise"), [(1, False), (1, True), (2, False), (2, True)])
def test_seeds(order: int, on_noise: bool) -> None:
    """With the stage in the middle their two noises have the exact joint law, and it is ours to the last digit."""
    prediction = "noise" if on_noise else "data"
    mine = ours(solvers.SEEDS(order=order, prediction=prediction), STEPS, noises=negative())
    assert difference(mine, seeds_sample(order, on_noise, STEPS)) < ROUNDING


def test_seeds_with_a_stage_elsewhere_has_another_joint_law() -> None:
    """The variances are right; the covariance of the two noises is that of c and 1 − c in each other's place."""
    mine = ours(solvers.DPMSolverPPSDE(r=0.7), STEPS, noises=negative())
    quiet = ours(solvers.DPMSolverPPSDE(r=0.7), STEPS, noises=itertools.repeat(0 * NOISE))
    assert difference(quiet, seeds_sample(2, False, STEPS, noises=False, c2=0.7)) < ROUNDING
    assert difference(mine, seeds_sample(2, False, STEPS, c2=0.7)) > 0.05


@functools.cache
def drift(prediction: str) -> Tensor:
    """Where ours of order 3 comes to without noise, from 8 to 0.16 in 400 steps."""
    levels = [8 * 0.02 ** (i / 400) for i in range(401)]
    return ours(solvers.SEEDS(order=3, prediction=prediction), levels, noises=itertools.repeat(0 * NOISE))


def drift_errors(on_noise: bool, mine: bool) -> list[float]:
    """Against the exact path of the drift without noise, at 20, 40, 80 steps from 8 to 0.16."""
    prediction = "noise" if on_noise else "data"
    found = []
    for n in (20, 40, 80):
        levels = [8 * 0.02 ** (i / n) for i in range(n + 1)]
        if mine:
            x = ours(solvers.SEEDS(order=3, prediction=prediction), levels, noises=itertools.repeat(0 * NOISE))
        else:
            x = seeds_sample(3, on_noise, levels, noises=False)
        found.append(difference(x, drift(prediction)))
    return found


def test_seeds_3_on_data_has_a_stage_that_is_off() -> None:
    """φ_2 of its third stage is taken at c_2 and of half the argument, and tends to −1 where it should vanish.

    That leaves order 1 to the drift, where ours has 3. The noises have the joint law of ours.
    """
    theirs, mine = drift_errors(False, False), drift_errors(False, True)
    assert all(1.9 < a / b < 2.3 for a, b in itertools.pairwise(theirs))
    assert all(6 < a / b < 9 for a, b in itertools.pairwise(mine))
    assert theirs[0] > 100 * mine[0]
    nothing = {"denoiser": lambda x, sigma: 0 * x, "start": 0 * NOISE}
    assert difference(
        ours(solvers.SEEDS(order=3), STEPS, noises=negative(), **nothing),
        seeds_sample(3, False, STEPS, **nothing),
    ) < ROUNDING  # fmt: skip


def test_seeds_3_on_noise_has_the_drift_of_ours_and_other_noises() -> None:
    """The noise of its third stage has the level of the end, and those of the end change places."""
    assert drift_errors(True, False) == pytest.approx(drift_errors(True, True), rel=1e-6)
    mine = ours(solvers.SEEDS(order=3, prediction="noise"), STEPS, noises=negative())
    assert difference(mine, seeds_sample(3, True, STEPS)) > 0.05


def test_seeds_does_nothing_in_the_last_step_and_nothing_at_all_in_one_form() -> None:
    """x stays at the lowest level; and order 1 of the form for EDM's raw output throws every step away."""

    @golden(SEEDS)
    def step() -> Tensor:
        with importable(clone(SEEDS)) as load:
            edm_form = load("seeds_lib.methods.etd_serk_edm")
        solver = edm_form.ETD_SERK_EDM_SOLVER(
            lambda x, sigma, label: D(x, sigma), None, None, None, lambda t: t, lambda t: 1.0, 1, None, True, None,
            None, 0.5,
        )  # fmt: skip
        solver.lamb = lambda t: torch.arcsinh(0.5 / t)
        return solver.update(NOISE, *torch.tensor([4.0, 3.0]), 10, 0)

    assert torch.equal(step(), NOISE)
