"""What ``sample`` promises whatever the method: the same sample in any batch, no waiting, no growth, honest counts."""

from __future__ import annotations

import math
import weakref
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from variants import (
    CORRECTORS,
    RENOISING,
    SCHEDULES,
    SOLVERS,
    STEPS,
    by_kind,
    cover,
    evaluations,
    every,
    log_levels,
    moves_of,
    name,
    needs_corrector,
    one_of_each,
    pairs,
    walk_over,
)

import edm_unified as edm
from edm_unified import correctors, schedules, solvers
from edm_unified.sampling.by_sample import row_sum
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.loop import NoiseStreams, Progress, levels_of, walk
from edm_unified.sampling.renoising import Ancestral, Churn, Corrected, Restart
from edm_unified.sampling.streams import Purpose
from edm_unified.schedules import EDM


def elementwise(x: Tensor, sigma: Tensor) -> Tensor:
    """Nonlinear, and the same bits for an element wherever it stands (torch.sigmoid, say, is not)."""
    return x / (1 + sigma**2) + 0.1 * torch.exp(-x * x / (1 + sigma**2))


IN_T = (
    solvers.Euler,
    solvers.Heun,
    solvers.Midpoint,
    solvers.Ralston,
    solvers.SecondOrder,
    solvers.RK4,
    solvers.EulerMaruyama,
)
"""The solvers whose fall to 0 is a step in t."""
SHAPE = (3, 5, 7)  # odd: rows of a batch start anywhere in a vector register


# -- the same sample in any batch -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise_of_64() -> Tensor:
    return edm.unit_noise(64, SHAPE, seed=7)


@pytest.mark.parametrize(
    "runs",
    by_kind([*((s, torch.float64) for s in every(SOLVERS)), *((s, torch.float32) for s in one_of_each(SOLVERS))]),
)
def test_sample_i_of_seed_S_in_any_batch(runs: list[tuple[Any, torch.dtype]], noise_of_64: Tensor) -> None:
    for solver, dtype in runs:
        settings: dict[str, Any] = {"solver": solver, "steps": Karras(n=6), "dtype": dtype, "seed": 7}
        in_64 = edm.sample(elementwise, noise_of_64, **settings)
        for first, size in ((21, 7), (57, 7), (0, 1), (63, 1)):
            alone = edm.sample(elementwise, noise_of_64[first : first + size], first=first, **settings)
            assert torch.equal(alone, in_64[first : first + size]), name(solver, dtype)


@pytest.mark.parametrize("rule", every(RENOISING), ids=name)
def test_sample_i_of_seed_S_in_any_batch_with_renoising(rule: Any, noise_of_64: Tensor) -> None:
    for solver in (solvers.Heun(), solvers.DPMSolverPP2MSDE()):
        settings: dict[str, Any] = {"solver": solver, "renoising": rule, "corrector": needs_corrector(rule), "seed": 7}
        in_64 = edm.sample(elementwise, noise_of_64, steps=Karras(n=6), **settings)
        for first, size in ((21, 7), (33, 1)):
            noise = edm.unit_noise(size, SHAPE, seed=7, first=first)
            alone = edm.sample(elementwise, noise, first=first, steps=Karras(n=6), **settings)
            assert torch.equal(alone, in_64[first : first + size]), name(solver)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_per_sample_langevin_corrector_does_not_see_the_batch(dtype: torch.dtype) -> None:
    """Bit for bit: its norms are sums over a sample in an order of their own, over few entries and many."""
    settings: dict[str, Any] = {
        "renoising": Corrected(),
        "corrector": correctors.Langevin(),
        "steps": Karras(n=3),
        "dtype": dtype,
    }
    for shape in (SHAPE, (3, 40, 41)):
        together = edm.sample(elementwise, edm.unit_noise(7, shape), **settings)
        for first, size in ((4, 1), (2, 3)):
            alone = edm.sample(elementwise, edm.unit_noise(size, shape, first=first), first=first, **settings)
            assert torch.equal(alone, together[first : first + size])


def test_the_sum_of_a_row_is_right_and_the_same_in_any_batch() -> None:
    """Beside math.fsum, for sizes about the powers of two, and of rows of a larger tensor."""
    for d in (0, 1, 2, 3, 7, 8, 9, 127, 130, 3072):
        x = torch.randn(5, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
        total = row_sum(x)
        assert total.tolist() == pytest.approx([math.fsum(row) for row in x.tolist()], abs=1e-15 * (1 + d))
        assert torch.equal(row_sum(x[2:4]), total[2:4])
        assert torch.equal(row_sum(x.T.contiguous().T[3:]), total[3:])
    assert torch.equal(row_sum(torch.arange(6.0).view(2, 3, 1)), torch.tensor([3.0, 12.0]))
    assert torch.equal(row_sum(torch.arange(3.0)), torch.arange(3.0))


def test_unit_noise_of_any_slice() -> None:
    whole = edm.unit_noise(64, SHAPE, seed=5)
    assert torch.equal(whole[13:20], edm.unit_noise(7, SHAPE, seed=5, first=13))
    assert whole.dtype == torch.float64
    assert abs(float(whole.mean())) < 5 / whole.numel() ** 0.5
    assert float(whole.std()) == pytest.approx(1, abs=0.05)
    assert edm.unit_noise(3, ()).shape == (3,)


def test_streams_do_not_meet() -> None:
    """Different seeds, samples and purposes are different noise, also where a seed needs two words (2³² + s)."""
    keys = [(0, 0), (0, 1), (1, 0), (2**32, 0), (0, 2**32), (2**32 + 5, 0), (5, 1), (2**64 + 3, 1), (3, 2)]
    draws = [edm.unit_noise(1, (4,), seed=seed, first=first) for seed, first in keys]
    draws += [
        NoiseStreams(seed, first, (1, 4), torch.float64, torch.device("cpu"), purpose=Purpose.STEPS)()
        for seed, first in keys
    ]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_the_start_and_the_noise_on_the_way_are_independent() -> None:
    start = edm.unit_noise(4, (100,), seed=3)
    way = NoiseStreams(3, 0, (4, 100), torch.float64, torch.device("cpu"), purpose=Purpose.STEPS)()
    assert abs(float((start * way).mean())) < 5 / 20


def test_float32_noise_is_the_rounding_of_float64_noise() -> None:
    exact, rounded = (
        NoiseStreams(3, 0, (2, 9), dtype, torch.device("cpu"), Purpose.STEPS)()
        for dtype in (torch.float64, torch.float32)
    )
    assert torch.equal(exact.float(), rounded)


def test_a_seed_is_a_seed() -> None:
    noise = edm.unit_noise(2, SHAPE)
    runs = [edm.sample(elementwise, noise, solver=solvers.DDPM(), seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(runs[0], edm.sample(elementwise, noise, solver=solvers.DDPM(), seed=1))


# -- every combination runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", every(SCHEDULES), ids=name)
def test_few_steps_under_every_schedule_and_solver(schedule: Any) -> None:
    """N = 1 too: finite, and D(x; σ_0) for the methods that are exponential in λ."""
    noise = edm.unit_noise(3, (2,))
    under = [solver for solver, other in cover(every(SOLVERS), every(SCHEDULES), times=3) if other is schedule]
    for solver, n in product(under, (1, 2, 5)):
        x = edm.sample(elementwise, noise, schedule=schedule, steps=Karras(n=n, sigma_max=10.0), solver=solver)
        assert bool(torch.isfinite(x).all()), name(solver)
        if n == 1 and not isinstance(solver, IN_T):
            assert torch.equal(x, elementwise(10 * noise, torch.tensor(10.0, dtype=torch.float64))), name(solver)


@pytest.mark.parametrize(
    "runs",
    by_kind(pairs(every(STEPS), [None, *every(RENOISING)], [EDM(), schedules.VP(), schedules.FlowMatching()])),
)
def test_every_rule_for_steps_and_noise_runs(runs: list[Any]) -> None:
    for steps, rule, schedule in runs:
        lowest = float(steps.levels(schedule)[-2])
        if isinstance(rule, Restart) and lowest > min(interval.sigma_max for interval in rule.intervals):
            with pytest.raises(ValueError, match="no level lies below"):
                levels_of(steps, schedule, rule)
            continue
        for corrector in every(CORRECTORS) if isinstance(rule, Corrected) else [None]:
            x = edm.sample(
                elementwise,
                edm.unit_noise(2, (2,)),
                schedule=schedule,
                steps=steps,
                renoising=rule,
                corrector=corrector,
            )
            assert bool(torch.isfinite(x).all()), name(steps, rule, schedule, corrector)


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), [EDM(), schedules.VP(), schedules.GeometricVE()])))
def test_ancestral_beyond_one_falls_to_zero_on_the_way(runs: list[Any]) -> None:
    """η > 1: all of the next level is fresh noise, so the walk falls to 0 in the middle and rises again."""
    rule, noise = Ancestral(eta=1.5), edm.unit_noise(2, (2,))
    assert 0.0 in rule.walk(levels_of(Karras(n=6), EDM()))[1:-1]
    for solver, schedule in runs:
        x = edm.sample(elementwise, noise, solver=solver, steps=Karras(n=6), renoising=rule, schedule=schedule)
        assert bool(torch.isfinite(x).all()), name(solver, schedule)


# -- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_nfe_is_stages_times_steps_less_the_last(settings: list[Any]) -> None:
    for solver, n in product(settings, (1, 2, 18)):
        assert edm.count_nfe(Karras(n=n), solver) == evaluations(solver, n), name(solver)


def test_nfe_counts_correctors_and_detours() -> None:
    assert (
        edm.count_nfe(Karras(n=5), solvers.DDIM(), renoising=Corrected(repeats=2), corrector=correctors.Langevin())
        == 15
    )
    rule = Churn(S_min=0.0, S_max=1e9)
    assert edm.count_nfe(Karras(n=5), solvers.Heun(), renoising=rule) == 9
    assert edm.count_nfe(Karras(n=5), solvers.Heun(), renoising=Ancestral()) == 9


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), one_of_each(SCHEDULES), times=2)))
def test_counting_needs_no_luck(runs: list[Any]) -> None:
    """``count_nfe`` runs a walk of its own: it must not overflow where the method is unstable on few steps."""
    for solver, schedule in runs:
        assert edm.count_nfe(Karras(n=40), solver, schedule=schedule) >= 40, name(solver, schedule)


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_callback_is_told_of_every_move_and_what_it_saw_is_not_written_to(settings: list[Any]) -> None:
    """Nor is the noise that was given: nothing in the loop works in place on what others may hold."""
    noise, rule = edm.unit_noise(2, (3,)), Churn(S_churn=5, S_min=0.1, S_max=20)
    given, levels = noise.clone(), rule.walk(levels_of(Karras(n=9), EDM()))
    assert moves_of(levels)[1] > 0
    for solver in settings:
        seen, copies = list[Progress](), list[Tensor]()

        def callback(progress: Progress, seen: list[Progress] = seen, copies: list[Tensor] = copies) -> None:
            seen.append(progress)
            copies.append(progress.x.clone())

        out = edm.sample(elementwise, noise, solver=solver, steps=Karras(n=9), renoising=rule, callback=callback)
        assert [p.move for p in seen] == list(range(1, len(levels))), name(solver)
        assert {p.moves for p in seen} == {len(levels) - 1}, name(solver)
        assert [p.sigma for p in seen] == list(levels[1:]), name(solver)
        assert torch.equal(seen[-1].x, out), name(solver)
        assert all(torch.equal(p.x, copy) for p, copy in zip(seen, copies, strict=True)), name(solver)
        assert torch.equal(noise, given), name(solver)


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_a_denoiser_may_return_its_input(settings: list[Any]) -> None:
    """D = x: nothing to remove. Every method must leave x where it is, but for the noise that it adds, here zero.

    But for one: on the arc a constant x is a curve, which its polynomials follow, with an error of order two or more.
    """

    def left(solver: Any, n: int) -> Tensor:
        dynamics, path = walk_over((*log_levels(n, 10.0, 0.02), 0.0), EDM(), lambda x, sigma: x)
        return walk(dynamics, 10 * noise, path, solver, None, 1.0, lambda: torch.zeros_like(noise))

    noise = edm.unit_noise(2, (3,))
    for solver in settings:
        if isinstance(solver, solvers.TrigonometricAdams):
            coarse, fine = (float((left(solver, n) - 10 * noise).abs().max()) for n in (40, 80))
            assert fine < coarse / 3 < 1, name(solver)
        else:
            assert torch.allclose(left(solver, 6), 10 * noise, rtol=1e-12), name(solver)
            if not solver.stochastic:
                x = edm.sample(lambda x, sigma: x, noise, solver=solver, steps=Karras(n=6))
                assert torch.allclose(x, 80 * noise, rtol=1e-12), name(solver)


# -- types, gradients, conditions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_float32_is_float64_to_six_digits(settings: list[Any]) -> None:
    noise = edm.unit_noise(4, (5,))
    seen: set[torch.dtype] = set()

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        seen.add(x.dtype)
        assert sigma.dtype == torch.float64
        assert sigma.ndim == 0
        return elementwise(x, sigma)

    for solver in settings:
        seen.clear()
        exact = edm.sample(D, noise, solver=solver)
        single = edm.sample(D, noise, solver=solver, dtype=torch.float32)
        assert exact.dtype == torch.float64, name(solver)
        assert single.dtype == torch.float32, name(solver)
        assert seen == {torch.float32, torch.float64}, name(solver)
        near = torch.allclose(single.double(), exact, rtol=0, atol=2e-5 * max(1.0, float(exact.abs().max())))
        assert near, name(solver)


def test_a_denoiser_of_another_dtype_is_cast_back() -> None:
    noise = edm.unit_noise(4, (5,))
    x = edm.sample(lambda x, sigma: elementwise(x.float(), sigma.float()), noise)
    assert x.dtype == torch.float64
    assert torch.allclose(x, edm.sample(elementwise, noise), atol=1e-5)


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_gradient_of_a_gaussian_is_its_flow(settings: list[Any]) -> None:
    """Only where the noise asks for one; then it is exact: D is linear, and so is x in the noise at the start."""
    linear = lambda x, sigma: x / (1 + sigma**2)  # noqa: E731
    noise, still = edm.unit_noise(1, (1,)).requires_grad_(), edm.unit_noise(1, (1,))
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    for solver in settings:
        run = {"solver": solver, "steps": Karras(n=6)}
        x, of_zero = (edm.sample(linear, start, **run) for start in (noise, 0 * still))
        (gradient,) = torch.autograd.grad(x.sum(), noise)
        flow = (x.detach() - of_zero) / still  # the noise on the way is the same
        assert torch.allclose(gradient, flow, rtol=1e-10), name(solver)
        assert not edm.sample(lambda x, sigma: weight * linear(x, sigma), still, **run).requires_grad, name(solver)
        with torch.no_grad():
            assert not edm.sample(linear, noise, **run).requires_grad, name(solver)


SETTINGS: list[dict[str, Any]] = [
    *({"solver": solver} for solver in one_of_each(SOLVERS)),
    *({"renoising": Corrected(), "corrector": corrector} for corrector in every(CORRECTORS)),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: [*settings.values()][-1].kind)
def test_the_gradient_is_that_of_what_is_returned(settings: Any) -> None:
    """Beside central differences, with the same noise on the way; nonlinear, under a schedule that is not straight."""
    noise, h = edm.unit_noise(3, (2,), seed=1).requires_grad_(), 1e-5
    run = lambda noise: edm.sample(  # noqa: E731
        elementwise, noise, steps=Karras(n=4, sigma_max=3.0), schedule=schedules.FlowMatching(), **settings
    )
    direction = torch.tensor([[1.0, -0.5]], dtype=torch.float64).expand(3, 2)
    (gradient,) = torch.autograd.grad(run(noise).sum(), noise)
    with torch.no_grad():
        difference = (run(noise + h * direction) - run(noise - h * direction)).sum() / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-7, abs=1e-8)


def test_conditions_reach_the_denoiser() -> None:
    label = torch.tensor([1.0, 2.0])[:, None].double()
    out = edm.sample(lambda x, sigma, label: 0 * x + label, edm.unit_noise(2, (3,)), cond={"label": label})
    assert torch.allclose(out, label.expand(2, 3))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_under_inference_mode(mode: Any) -> None:
    noise = edm.unit_noise(2, (3,))
    plain = edm.sample(elementwise, noise)
    with mode():
        assert torch.equal(edm.sample(elementwise, noise), plain)


@pytest.mark.parametrize("form", ["channels_last", "expanded", "strided", "float32", "requires_grad"])
def test_noise_in_any_layout(form: str) -> None:
    base = edm.unit_noise(4, (3, 4, 4))
    noise = {
        "channels_last": base.to(memory_format=torch.channels_last),
        "expanded": base[:1].expand(4, 3, 4, 4),
        "strided": torch.stack([base, base], dim=-1)[..., 0],
        "float32": base.float(),
        "requires_grad": base.clone().requires_grad_(),
    }[form]
    expected = edm.sample(elementwise, noise.detach().contiguous(), solver=solvers.DDPM())
    assert torch.allclose(edm.sample(elementwise, noise, solver=solvers.DDPM()), expected, rtol=1e-12)


# -- no waiting, no growth ---------------------------------------------------------------------------------------------


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that would make the host wait for the device, and every copy to another device."""

    FORBIDDEN = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "_to_cpu", "allclose")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = func.overloadpacket.__name__
        assert operation not in self.FORBIDDEN, f"the loop waits for the device: {operation}"
        return func(*args, **(kwargs or {}))


class Prepared:
    """A solver whose tables were computed before the loop, as they are in ``sample``."""

    def __init__(self, solver: Any, dynamics: Dynamics, path: Any) -> None:
        self.solver, self.state = solver, solver.init(dynamics, path)

    def init(self, dynamics: Any, path: Any) -> Any:
        return self.state

    def step(self, *arguments: Any) -> Any:
        return self.solver.step(*arguments)


@pytest.mark.parametrize(
    "runs", by_kind(cover(every(SOLVERS), [None, Churn(), Corrected()], [EDM(), schedules.BetaTable()]))
)
def test_the_loop_never_waits_for_the_device(runs: list[Any]) -> None:
    """A repeat of a level is the corrector's; where there is none, it has nothing to say."""
    noise = edm.unit_noise(2, (3,))
    for solver, rule, schedule in runs:
        levels = levels_of(Karras(n=6), schedule, rule)
        dynamics, path = walk_over(levels, schedule, elementwise)
        prepared, x = Prepared(solver, dynamics, path), noise * levels[0]
        for corrector in every(CORRECTORS) if isinstance(rule, Corrected) else [None]:
            with NoWaiting():
                walk(dynamics, x, path, prepared, corrector, 1.0, lambda x=x: torch.zeros_like(x))


def test_the_test_for_waiting_can_fail() -> None:
    dynamics, path = walk_over((2.0, 1.0, 0.0), EDM(), lambda x, sigma: x * float(sigma))
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        walk(
            dynamics, torch.ones(1, 1).double(), path, Prepared(solvers.DDIM(), dynamics, path), None, 1.0, torch.empty
        )


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_memory_does_not_grow_with_steps(settings: list[Any]) -> None:
    """The most outputs of D that are alive at once: the stages or the history, for 10 steps and for 30 alike."""

    def most_alive(solver: Any, n: int) -> int:
        refs: list[Any] = []
        alive: list[int] = []

        def D(x: Tensor, sigma: Tensor) -> Tensor:
            alive.append(sum(ref() is not None for ref in refs))
            out = x * 0.5
            refs.append(weakref.ref(out))
            return out

        edm.sample(D, edm.unit_noise(1, (2,)), solver=solver, steps=Karras(n=n))
        return max(alive)

    for solver in settings:
        assert most_alive(solver, 30) == most_alive(solver, 10) <= 4, name(solver)


class _Changing(schedules.Schedule):
    """A user's schedule with an attribute that changes between runs: s = (1+t)^{−power}, σ = t."""

    formulas = {}  # noqa: RUF012
    t_max = 100.0

    def __init__(self, power: float) -> None:
        self.power = power

    def _s(self, t: Tensor) -> Tensor:
        return (1 + t) ** -self.power

    def _sigma(self, t: Tensor) -> Tensor:
        return t

    def _log_s_rate(self, t: Tensor) -> Tensor:
        return -self.power / (1 + t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return 1 / t

    def _time(self, sigma: Tensor) -> Tensor:
        return sigma


@pytest.mark.parametrize("solver", [solvers.Euler(), solvers.Heun(), solvers.Midpoint()], ids=name)
def test_nothing_is_remembered_of_a_schedule_that_may_have_changed(solver: Any) -> None:
    noise, steps = edm.unit_noise(3, (2,)), Karras(n=6)
    denoiser = edm.exact.Gaussian(mean=[0.5, -0.5], cov=0.1)
    schedule = _Changing(0.0)
    before = edm.sample(denoiser, noise, schedule=schedule, steps=steps, solver=solver)
    schedule.power = 1.0
    after = edm.sample(denoiser, noise, schedule=schedule, steps=steps, solver=solver)
    assert torch.equal(after, edm.sample(denoiser, noise, schedule=_Changing(1.0), steps=steps, solver=solver))
    assert not torch.equal(after, before)


def test_nothing_is_remembered_of_functions_that_may_have_changed() -> None:
    scale = {"g": 1.0}

    def zero(t: Tensor) -> Tensor:
        return 0 * t

    def g(t: Tensor) -> Tensor:
        return scale["g"] + 0 * t

    first = schedules.from_sde(zero, g)
    assert float(first.sigma(1.0)) == pytest.approx(1.0, rel=1e-12)
    scale["g"] = 2.0
    assert float(schedules.from_sde(zero, g).sigma(1.0)) == pytest.approx(2.0, rel=1e-12)


def test_what_a_solver_prepares_is_remembered_for_equal_settings_and_not_for_a_users_own_solver() -> None:
    """A shipped solver is a value: the second run is the first, and another solver, schedule or grid has its own."""
    noise, steps = edm.unit_noise(3, (2,)), Karras(n=6)
    D = edm.exact.Gaussian(torch.tensor([0.5, -0.5], dtype=torch.float64), 0.25)

    def run(solver: Any, **settings: Any) -> Tensor:
        return edm.sample(D, noise, **{"steps": steps, "solver": solver, **settings})  # type: ignore[arg-type]

    first = {order: run(solvers.LMS(order=order)) for order in (1, 3)}
    assert torch.equal(run(solvers.LMS(order=3)), first[3])
    assert not torch.equal(first[1], first[3])
    assert not torch.equal(run(solvers.Heun()), run(solvers.Heun(), schedule=schedules.VP()))
    assert not torch.equal(run(solvers.LMS(), steps=Karras(n=7)), run(solvers.LMS()))

    class Mine:
        stochastic, keep = False, 1.0

        def init(self, dynamics: Any, walk: Any) -> float:
            return self.keep

        def step(self, dynamics: Any, x: Tensor, a: Any, b: Any, state: float, randn: Any) -> tuple[Tensor, float]:
            return state * x, state

    mine = Mine()
    assert torch.equal(run(mine), noise * 80.0)
    mine.keep = 0.0  # changed between two runs
    assert torch.equal(run(mine), torch.zeros_like(noise))
