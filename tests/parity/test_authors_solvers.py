"""The ODE solvers of LuChengTHU/dpm-solver and wl-zhao/UniPC beside ours, on one denoiser, in float64.

Their state is that of the VP SDE; the denoiser is told σ at their times. A walk ends above 0, as theirs do.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from authors_repos import NOISE, D, difference, double, golden, loaded, ours
from torch import Tensor

from edm_unified import solvers
from edm_unified.schedules import VP

DPM, UNI = "LuChengTHU/dpm-solver", "wl-zhao/UniPC"
dpm, uni = loaded(DPM, "dpm_solver_pytorch"), loaded(UNI, "uni_pc")

ROUNDING = 1e-11
SCHEDULE = VP()
END = 1e-3


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def noise_model(x: Tensor, t: Tensor) -> Tensor:
    sigma = SCHEDULE.sigma(t[0])
    z = x * torch.sqrt(1 + sigma**2)
    return (z - D(z, sigma)) / sigma


def start(sigma: float) -> Tensor:
    return NOISE * sigma / math.hypot(1, sigma)


def theirs(module: Any, name: str, algorithm: dict[str, Any], **options: Any) -> tuple[Tensor, list[float]]:
    """Their sample at ``END``, and the levels that they went through."""
    schedule = module.NoiseScheduleVP("linear")
    sampler = getattr(module, name)(noise_model, schedule, **algorithm)
    settings = {"t_start": 1.0, "t_end": END, "skip_type": "time_uniform", **options}
    steps = settings["steps"]
    if settings.get("method") == "singlestep":
        times, _ = sampler.get_orders_and_timesteps_for_singlestep_solver(
            steps, settings["order"], settings["skip_type"], 1.0, END, "cpu"
        )
    else:
        times = sampler.get_time_steps(settings["skip_type"], 1.0, END, steps, "cpu")
    levels = SCHEDULE.sigma(times).tolist()
    with contextlib.redirect_stdout(io.StringIO()):  # they print as they go
        x = sampler.sample(start(levels[0]), **settings)
    return x * math.hypot(1, levels[-1]), levels


def compare(solver: Any, pair: tuple[Tensor, list[float]]) -> float:
    x, levels = pair
    return difference(ours(solver, levels, SCHEDULE), x)


@golden(DPM)
def even_levels(n: int) -> list[float]:
    """Theirs, even in λ."""
    sampler = dpm.DPM_Solver(noise_model, dpm.NoiseScheduleVP("linear"))
    found: list[float] = SCHEDULE.sigma(sampler.get_time_steps("logSNR", 1.0, END, n, "cpu")).tolist()
    return found


@golden(DPM)
def dpm_sample(plus: bool, **options: Any) -> tuple[Tensor, list[float]]:
    return theirs(dpm, "DPM_Solver", {"algorithm_type": "dpmsolver++" if plus else "dpmsolver"}, **options)


@pytest.mark.parametrize("skip", ["time_uniform", "time_quadratic", "logSNR"])
@pytest.mark.parametrize(
    ("plus", "order", "kind", "solver"),
    [
        (True, 1, "dpmsolver", solvers.DDIM()),
        (False, 1, "dpmsolver", solvers.DDIM()),
        (True, 2, "dpmsolver", solvers.DPMSolverPP2M()),
        (True, 2, "taylor", solvers.ExponentialAdams(order=2)),
        (False, 2, "taylor", solvers.ExponentialAdamsNoise(order=2)),
        (True, 3, "dpmsolver", solvers.DPMSolverPP3MPublished()),
    ],
)
def test_multistep(plus: bool, order: int, kind: str, solver: Any, skip: str) -> None:
    pair = dpm_sample(plus, order=order, solver_type=kind, method="multistep", steps=20, skip_type=skip)
    assert compare(solver, pair) < ROUNDING


@pytest.mark.parametrize("plus", [True, False])
def test_multistep_of_order_3_lacks_a_factor(plus: bool) -> None:
    """2 in D2, on D as on ε: the difference from the exact integral, and the order that it costs."""
    solver = solvers.DPMSolverPP3M() if plus else solvers.ExponentialAdamsNoise(order=3)
    gaps = [
        compare(
            solver, dpm_sample(plus, order=3, method="multistep", steps=n, skip_type="logSNR", lower_order_final=False)
        )
        for n in (40, 160, 640)
    ]
    assert gaps[0] > 1e-5
    assert all(10 < a / b < 22 for a, b in itertools.pairwise(gaps))  # h²: 16


@pytest.mark.parametrize("steps", [6, 9, 10, 14])
def test_lower_order_at_the_end_is_for_fewer_than_ten_steps(steps: int) -> None:
    pair = dpm_sample(True, order=2, solver_type="taylor", method="multistep", steps=steps, skip_type="logSNR")
    lower, full = (compare(solvers.ExponentialAdams(order=2, end=end), pair) for end in ("lower", "full"))
    assert (lower < ROUNDING) == (steps < 10)
    assert (full < ROUNDING) == (steps >= 10)


@pytest.mark.parametrize(
    ("plus", "order", "solver"),
    [
        (True, 2, solvers.DPMSolverPP2S()),
        (False, 2, solvers.DPMSolver2()),
        (True, 3, solvers.DPMSolverPP3S()),
        (False, 3, solvers.DPMSolver3()),
    ],
)
def test_singlestep(plus: bool, order: int, solver: Any) -> None:
    """On levels even in λ their places inside a step are ½, or ⅓ and ⅔."""
    pair = dpm_sample(plus, order=order, method="singlestep_fixed", steps=8 * order, skip_type="logSNR")
    x, _ = pair
    assert compare(solver, (x, even_levels(8))) < 1e-9  # its inner levels are those of rounded times


def test_singlestep_taylor_of_order_2_is_res() -> None:
    x, _ = dpm_sample(True, order=2, method="singlestep_fixed", steps=16, skip_type="logSNR", solver_type="taylor")
    assert compare(solvers.RES2S(), (x, even_levels(8))) < 1e-9


@pytest.mark.parametrize("steps", [8, 20])
def test_fast(steps: int) -> None:
    """3, …, 3, 2 where three divides the steps and one more. To 0, ours has 3, …, 3, 2, 1 and theirs has no 0."""
    pair = dpm_sample(False, order=3, method="singlestep", steps=steps, skip_type="logSNR")
    assert compare(solvers.DPMSolverFast(), pair) < 1e-9


def test_denoise_to_zero_is_the_fall_to_0() -> None:
    x, levels = dpm_sample(True, order=2, method="multistep", steps=12, denoise_to_zero=True)
    x = x / math.hypot(1, levels[-1])  # it is D by then, and has no scale
    assert difference(ours(solvers.DPMSolverPP2M(), [*levels, 0.0], SCHEDULE), x) < ROUNDING


def test_adaptive_takes_one_step_for_the_whole_batch() -> None:
    """The largest error of the batch decides, so that a sample's end depends on its neighbours; ours does not."""

    @golden(DPM)
    def run(rows: slice) -> Tensor:
        sampler = dpm.DPM_Solver(noise_model, dpm.NoiseScheduleVP("linear"), algorithm_type="dpmsolver")
        with contextlib.redirect_stdout(io.StringIO()):
            return sampler.sample(
                start(float(SCHEDULE.sigma(1.0)))[rows],
                method="adaptive",
                order=3,
                t_start=1.0,
                t_end=END,
                rtol=0.01,
                atol=1e-4,
            )

    everyone, one = run(slice(None)), run(slice(1))
    assert 1e-8 < difference(everyone[:1], one) < 1e-2
    levels = [float(SCHEDULE.sigma(1.0)), float(SCHEDULE.sigma(END))]
    exact = ours(solvers.DormandPrince45(rtol=1e-10, atol=1e-10), levels, SCHEDULE)
    mine = ours(solvers.DPMSolver23(rtol=0.01, atol=1e-4), levels, SCHEDULE)
    for x in (everyone * math.hypot(1, levels[-1]), mine):
        assert difference(x, exact) < 5e-3


# -- UniPC -------------------------------------------------------------------------------------------------------------


@golden(UNI)
def uni_sample(variant: str, order: int, **options: Any) -> tuple[Tensor, list[float]]:
    algorithm = {"variant": variant, "algorithm_type": "data_prediction"}
    return theirs(uni, "UniPC", algorithm, order=order, method="multistep", **options)


@pytest.mark.parametrize("skip", ["time_uniform", "logSNR"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("end", ["lower", "full"])
def test_unipc(order: int, variant: str, skip: str, end: str) -> None:
    pair = uni_sample(variant, order, steps=12, skip_type=skip, lower_order_final=end == "lower")
    assert compare(solvers.UniPC(p=order, variant=variant, end=end), pair) < ROUNDING


def test_the_varying_coefficients_predict_exactly_and_correct_with_one_term_astray() -> None:
    """Their third variant solves for every ρ. Its predictor is the exact integral of the interpolant; in its corrector
    the newest output enters one φ only, with the weight of another, which leaves order 1."""
    schedule = uni.NoiseScheduleVP("linear")
    sampler = uni.UniPC(noise_model, schedule, algorithm_type="data_prediction", variant="vary_coeff")
    times = sampler.get_time_steps("logSNR", 1.0, END, 6, "cpu")
    levels = SCHEDULE.sigma(times).tolist()
    outputs = [NOISE * w for w in (0.3, -0.2, 0.5)]
    with contextlib.redirect_stdout(io.StringIO()):
        x, _ = sampler.multistep_uni_pc_vary_update(
            start(levels[2]), outputs, list(times[:3].split(1)), times[3:4], 3, use_corrector=False
        )
    given = iter(outputs)
    mine = ours(
        solvers.ExponentialAdams(order=3), levels[:4], SCHEDULE, denoiser=lambda *_: next(given), start=0 * NOISE
    )
    # linear in the start: ours from 0 took three steps, theirs one from its own
    before = iter(outputs)
    at = ours(
        solvers.ExponentialAdams(order=3), levels[:3], SCHEDULE, denoiser=lambda *_: next(before), start=0 * NOISE
    )
    moved = mine + levels[3] / levels[2] * (start(levels[2]) * math.hypot(1, levels[2]) - at)
    assert difference(x * math.hypot(1, levels[3]), moved) < ROUNDING
    reference = [float(SCHEDULE.sigma(t)) for t in (1.0, END)]
    exact = ours(solvers.DormandPrince45(rtol=1e-11, atol=1e-11), reference, SCHEDULE)
    errors = {
        variant: [difference(exact, uni_sample(variant, 3, steps=n, skip_type="logSNR")[0]) for n in (40, 80, 160)]
        for variant in ("bh2", "vary_coeff")
    }
    assert all(1.7 < a / b < 2.1 for a, b in itertools.pairwise(errors["vary_coeff"]))  # order 1
    assert all(a / b > 6 for a, b in itertools.pairwise(errors["bh2"]))
