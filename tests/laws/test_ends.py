"""Laws of how a run ends: the order of the last steps, what becomes of the fall to 0, and orders out of reach."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import test_order
import test_unipc
import torch
from test_unipc import by_hand
from torch import Tensor
from variants import SOLVERS, Mixture, by_kind, cover, every, name, slope, walk_over

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling import loop
from edm_unified.sampling.last_step import LAST
from edm_unified.sampling.levels import Explicit, Karras
from edm_unified.sampling.loop import levels_of
from edm_unified.sampling.renoising import Ancestral, Churn
from edm_unified.sampling.solvers.multistep import shortfall
from edm_unified.schedules import EDM

D = Mixture()
NOISE = edm.unit_noise(5, (3,), seed=8)
NOISE_U = test_unipc.NOISE
LEVELS = levels_of(Karras(n=9), EDM())
FAMILIES = (
    solvers.LMS,
    solvers.DEIS,
    solvers.ExponentialAdamsNoise,
    solvers.VelocityAdams,
    solvers.TrigonometricAdams,
    solvers.ExponentialAdams,
)
LOWER = [
    *(family(order=order, end="lower") for family in FAMILIES for order in (2, 3, 4)),
    *(solvers.IPNDM(max_order=order, end="lower") for order in (2, 3, 4)),
    solvers.DPMSolverPP3M(end="lower"),
    solvers.DPMSolverPP3MSDE(end="lower"),
    solvers.ExponentialAdams(order=3, eta=0.5, end="lower"),
    *(solvers.UniPC(p=p, corrector=corrector, end="lower") for p in (1, 2, 3) for corrector in (True, False)),
]


def of_outputs(solver: Any, most: int) -> Any:
    """The same method with ``most`` outputs and its order kept to the end."""
    if isinstance(solver, solvers.IPNDM):
        return solvers.IPNDM(max_order=most)
    if isinstance(solver, solvers.DPMSolverPP3M | solvers.DPMSolverPP3MSDE | solvers.ExponentialAdams):
        return solvers.ExponentialAdams(order=most, eta=getattr(solver, "eta", 0.0))
    return type(solver)(order=most)


# -- the order of the last steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", by_kind(s for s in LOWER if not isinstance(s, solvers.UniPC)))
def test_each_step_is_that_of_the_order_that_the_falls_left_allow(settings: list[Any]) -> None:
    """From the same states and past, step by step: N falls of order p have 1, 2, …, p, …, p, …, 2, 1 outputs."""
    for solver, levels in product(settings, (LEVELS, LEVELS[:-1], LEVELS[:3])):  # to 0, above 0, two steps
        follows_its_orders(solver, levels)


def follows_its_orders(solver: Any, levels: tuple[float, ...]) -> None:
    dynamics, path = walk_over(levels, EDM(), D)
    falls, most = path.falls, solver.most_outputs
    others = {k: of_outputs(solver, k) for k in range(1, most + 1)}
    states = {k: other.init(dynamics, path) for k, other in others.items()}
    x, state = NOISE * levels[0], solver.init(dynamics, path)
    for i, (a, b) in enumerate(falls):
        after = {}
        for k, other in others.items():
            after[k], states[k] = other.step(dynamics, x, a, b, states[k], lambda: NOISE)
        x, state = solver.step(dynamics, x, a, b, state, lambda: NOISE)
        expected = after[min(most, i + 1, len(falls) - i)]
        assert torch.allclose(x, expected, rtol=1e-12, atol=1e-13), f"{name(solver)}, fall {i + 1} of {len(falls)}"


@pytest.mark.parametrize("solver", [s for s in LOWER if isinstance(s, solvers.UniPC)], ids=name)
def test_unipc_as_printed(solver: Any) -> None:
    for levels in (LEVELS, LEVELS[:-1]):
        expected = by_hand(solver.p, solver.variant, solver.corrector, levels, lower=True)
        dynamics, path = walk_over(levels, EDM(), D)
        mine = loop.walk(dynamics, NOISE_U * levels[0], path, solver, None, 1.0, torch.empty)
        assert float((mine - expected).abs().max()) < 1e-10 * float(expected.abs().max()), levels[-1]


def test_to_zero_a_method_of_two_outputs_is_lower_already() -> None:
    plain, lower = (
        edm.sample(D, NOISE, solver=solvers.ExponentialAdams(order=2, end=end)) for end in ("full", "lower")
    )
    assert torch.equal(plain, lower)


@pytest.mark.parametrize("settings", by_kind(s for s in LOWER if not s.stochastic))
def test_above_zero_it_costs_the_order_what_a_plain_start_costs(settings: list[Any]) -> None:
    """One last step of order 1 leaves an error of h², whatever came before: so it is off unless it is asked for."""
    for solver in settings:
        measured = slope({n: test_order.final_error(solver, EDM(), n) for n in (640, 1280)})
        assert measured == pytest.approx(min(2, solver.order), abs=0.15), name(solver)


@pytest.mark.parametrize("settings", by_kind(LOWER))
def test_few_steps_and_their_count(settings: list[Any]) -> None:
    for solver in settings:
        x = {n: edm.sample(D, NOISE, solver=solver, steps=Karras(n=n)) for n in (1, 2, 3, 5)}
        for n, samples in x.items():
            assert bool(torch.isfinite(samples).all()), name(solver)
            assert edm.count_nfe(Karras(n=n), solver) == n, name(solver)
        if not getattr(solver, "corrector", False) and not isinstance(solver, solvers.TrigonometricAdams):
            first = solvers.ExponentialAdams(order=1, eta=getattr(solver, "eta", 0.0))
            assert torch.allclose(x[2], edm.sample(D, NOISE, solver=first, steps=Karras(n=2))), name(solver)


@pytest.mark.parametrize("settings", by_kind(LOWER))
def test_sample_i_of_seed_S_in_any_batch(settings: list[Any]) -> None:
    def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2) + 0.1 * torch.exp(-x * x / (1 + sigma**2))

    noise = edm.unit_noise(33, (5, 7))
    for solver in settings:
        together = edm.sample(elementwise, noise, solver=solver, steps=Karras(n=6))
        for first, size in ((21, 7), (32, 1)):
            part = slice(first, first + size)
            alone = edm.sample(elementwise, noise[part], first=first, solver=solver, steps=Karras(n=6))
            assert torch.equal(alone, together[part]), name(solver)


@pytest.mark.parametrize("settings", by_kind(LOWER))
def test_the_history_is_let_go_where_it_is_not_used(settings: list[Any]) -> None:
    dynamics, path = walk_over(LEVELS, EDM(), D)
    for solver in settings:
        x, state = NOISE * LEVELS[0], solver.init(dynamics, path)
        most = max(0, solver.most_outputs - 1) + getattr(solver, "corrector", False)  # D ahead
        for i, (a, b) in enumerate(path.falls):
            x, state = solver.step(dynamics, x, a, b, state, lambda: NOISE)
            assert len(state[2]) <= most, name(solver)
            if isinstance(solver, solvers.LMS | solvers.IPNDM) and i == len(path.falls) - 2:
                assert not state[2], name(solver)


# -- the start of the multistep methods of the DPM-Solver family -----------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_start_of_3m_is_that_of_exponential_adams(eta: float) -> None:
    ours: Any = solvers.DPMSolverPP3MSDE(eta=eta, start="rk2") if eta else solvers.DPMSolverPP3M(start="rk2")
    theirs = solvers.ExponentialAdams(order=3, eta=eta, start="rk2")
    a, b = (edm.sample(D, NOISE, solver=solver) for solver in (ours, theirs))
    assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)


def test_the_start_of_2m_is_the_corrector_of_unipc() -> None:
    """One step: (1 − e^{−h}) times the mean of the two outputs, which is UniC-1 with B = 1 − e^{−h}."""
    a, b, c = 2.0, 1.0, 0.5
    unic = by_hand(1, "bh2", True, (a, b, c), keep=1)
    dynamics, path = walk_over((a, b), EDM(), D)
    mine = loop.walk(dynamics, NOISE_U * a, path, solvers.DPMSolverPP2M(start="rk2"), None, 1.0, torch.empty)
    assert torch.allclose(mine, unic, rtol=1e-12)


# -- the fall to 0 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "runs",
    by_kind(
        [*((s, None) for s in every(SOLVERS)), *cover(every(SOLVERS), [Ancestral(eta=0.7), Ancestral(eta=1.5)])],
    ),
)
def test_the_last_fall(runs: list[Any]) -> None:
    """``stop`` is where the walk over the levels above 0 ends, ``denoise`` is D of it, and each spends what it must."""
    for solver, rule in runs:
        ends_as_it_is_told(solver, rule)


def ends_as_it_is_told(solver: Any, rule: Any) -> None:
    settings: dict[str, Any] = {"solver": solver, "renoising": rule, "steps": Karras(n=9)}
    own, denoised, stopped = (edm.sample(D, NOISE, last=last, **settings) for last in ("solver", "denoise", "stop"))
    assert torch.equal(denoised, D(stopped, torch.tensor(LEVELS[-2], dtype=torch.float64))), name(solver, rule)
    if rule is None:
        above = edm.sample(D, NOISE, solver=solver, steps=Explicit(sigmas=LEVELS[:-1]))
        assert torch.equal(stopped, above), name(solver)
    counts = [edm.count_nfe(Karras(n=9), solver, renoising=rule, last=last) for last in ("solver", "denoise", "stop")]
    assert counts[0] == counts[1] == counts[2] + 1, name(solver, rule)
    off = float((own - denoised).abs().max())
    assert off < 0.02, name(solver, rule)  # they differ by what is left of σ = 0.002


def test_the_rule_of_lms_is_not_D_and_that_of_an_exponential_method_is() -> None:
    for solver, same in ((solvers.LMS(), False), (solvers.VelocityAdams(), False), (solvers.DPMSolverPP3M(), True)):
        x, y = (edm.sample(D, NOISE, solver=solver, last=last) for last in ("solver", "denoise"))
        assert torch.equal(x, y) == same
    a, b = (edm.sample(D, NOISE, solver=s, last="denoise") for s in (solvers.LMS(), solvers.LMS(end="lower")))
    assert not torch.equal(a, b)


def test_a_walk_that_ends_above_zero_has_no_last_fall() -> None:
    runs = [edm.sample(D, NOISE, steps=Explicit(sigmas=LEVELS[:-1]), last=last) for last in LAST]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_where_d_is_the_last_fall_one_fall_is_d(settings: list[Any]) -> None:
    """Of N falls the solver has N − 1, which may be none."""
    one_step, two_steps = (Karras(n=n, sigma_min=0.5) for n in (1, 2))
    for solver in settings:
        one, two = (edm.sample(D, NOISE, last="denoise", solver=solver, steps=s) for s in (one_step, two_steps))
        assert torch.equal(one, D(80 * NOISE, torch.tensor(80.0).double())), name(solver)
        stopped = edm.sample(D, NOISE, last="stop", solver=solver, steps=two_steps)
        assert torch.equal(two, D(stopped, torch.tensor(levels_of(two_steps, EDM())[1]).double())), name(solver)


def test_one_step() -> None:
    assert torch.equal(
        edm.sample(D, NOISE, steps=Karras(n=1), last="denoise"), D(80 * NOISE, torch.tensor(80.0).double())
    )
    with pytest.raises(ValueError, match=r"^last: stop leaves no step of a walk that has only the one to 0"):
        edm.sample(D, NOISE, steps=Karras(n=1), last="stop")
    with pytest.raises(ValueError, match=r"^last: unknown 'stopp'; did you mean 'stop'\?"):
        edm.sample(D, NOISE, last="stopp")  # type: ignore[arg-type]


def test_the_callback_is_told_of_the_last_level() -> None:
    seen: list[float] = []
    edm.sample(D, NOISE, steps=Karras(n=9), last="stop", callback=lambda progress: seen.append(progress.sigma))
    assert seen == list(LEVELS[1:-1])
    edm.sample(D, NOISE, steps=Karras(n=9), last="denoise", callback=lambda progress: seen.append(progress.sigma))
    assert seen[8:] == list(LEVELS[1:])


# -- orders that a walk cannot reach -----------------------------------------------------------------------------------


def reach(solver: Any, levels: tuple[float, ...]) -> str | None:
    return shortfall(solver, walk_over(levels, EDM(), D)[1])


@pytest.mark.parametrize(
    ("solver", "least"),
    [
        (solvers.LMS(), 4),
        (solvers.LMS(order=2), 2),
        (solvers.IPNDM(max_order=3), 3),
        (solvers.ExponentialAdamsNoise(order=3), 4),  # its fall to 0 is D, and does not count
        (solvers.DPMSolverPP2M(), 3),
        (solvers.DPMSolverPP3M(), 4),
        (solvers.DPMSolverPP3M(end="lower"), 5),
        (solvers.LMS(order=3, end="lower"), 5),
        (solvers.UniPC(), 4),
        (solvers.UniPC(p=1), 1),
        (solvers.ERSDE(order=3), 4),
        (solvers.Heun(), 1),
        (solvers.ExponentialAdams(order=1), 1),
    ],
    ids=lambda value: name(value),
)
def test_a_walk_too_short_for_the_order_is_told_of(solver: Any, least: int) -> None:
    for n in range(1, 7):
        told = reach(solver, levels_of(Karras(n=n), EDM()))
        assert (told is None) == (n >= least)
        if told is not None:
            assert told.startswith(f"{solver.kind} goes by the last ")
            if n == least - 1:
                assert f"no step of this walk has more than {solver.most_outputs - 1} in a row" in told


def test_rises_keep_it_out_of_reach() -> None:
    levels = Churn(S_min=0, S_max=math.inf).walk(levels_of(Karras(n=30), EDM()))
    told = reach(solvers.LMS(), levels)
    assert told is not None
    assert "no step of this walk has more than 1 in a row" in told
    assert told.endswith("a rise or a repeat ends its history")
    assert reach(solvers.Heun(), levels) is None
