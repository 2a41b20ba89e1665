"""Laws of the linear multistep methods: order, what a start costs, identities, invariance, and what a step may cost.

The textbook side is written in each method's own coordinate, with scipy's adaptive quadrature for every weight, and
shares no code with the package.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_order
import torch
from scipy.integrate import quad
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from variants import (
    SCHEDULES,
    Mixture,
    by_kind,
    cover,
    dynamics_of,
    every,
    exact_variance,
    log_levels,
    name,
    slope,
    walk_over,
)
from variants import zigzag_levels as zigzag

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.loop import walk
from edm_unified.sampling.solvers.coordinates import FlowTime, LogSNR, Sigma, StepIndex, TimeOfVP
from edm_unified.schedules import EDM, VP, FlowMatching

D = Mixture()
NOISE = edm.unit_noise(6, (3,), seed=11)
LEVELS = tuple(Karras(n=12).levels(EDM()).tolist())
ABOVE = LEVELS[:-1]
ADAMS = (
    solvers.LMS,
    solvers.DEIS,
    solvers.ExponentialAdamsNoise,
    solvers.VelocityAdams,
    solvers.TrigonometricAdams,
)
ALL = [
    *(family(order=order) for family in ADAMS for order in (1, 2, 3, 4)),
    *(solvers.IPNDM(max_order=order) for order in (1, 2, 3, 4)),
    solvers.PNDM(),
]
STARTED = [
    *(family(order=order, start="rk2") for family in (*ADAMS, solvers.ExponentialAdams) for order in (2, 3)),
    solvers.IPNDM(start="rk2"),
]


def run(solver: Any, levels: Any = LEVELS, schedule: Any = EDM(), denoiser: Any = D) -> Tensor:  # noqa: B008
    dynamics, path = walk_over(tuple(levels), schedule, denoiser)
    return walk(dynamics, NOISE * levels[0], path, solver, None, 1.0, lambda: NOISE.flip(0))


def near(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def at(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "runs",
    by_kind(
        [
            *cover([s for s in ALL if not isinstance(s, solvers.PNDM)], [EDM(), VP(), FlowMatching()]),
            *((solvers.PNDM(), schedule) for schedule in (EDM(), VP(), FlowMatching())),
        ]
    ),
)
def test_order_from_an_exact_start(runs: list[Any], table: list[tuple[str, ...]]) -> None:
    """PNDM under each schedule, which its start sees; the others see none (below)."""
    for solver, schedule in runs:
        errors = {n: test_order.final_error(solver, schedule, n) for n in (160, 320)}
        measured = slope(errors)
        table.append((name(solver), name(schedule), f"stated {solver.order}", f"measured {measured:.2f}"))
        assert measured == pytest.approx(solver.order, abs=0.15), (name(solver, schedule), errors)


def start_error(solver: Any, n: int) -> float:
    """What remains at the end of having started from one output, other errors apart: against an exact start."""
    levels = log_levels(n, test_order.HIGH, test_order.LOW)
    dynamics, path = walk_over(tuple(levels), EDM(), D)
    exact = test_order.exact_flow(levels[: solver.most_outputs], test_order.START)
    ends = []
    for given in (solver.most_outputs - 1, 0):
        x, state = test_order.START, solver.init(dynamics, path)
        for i, (a, b) in enumerate(path.moves):
            x, state = solver.step(dynamics, x, a, b, state, torch.empty)
            x = exact[i + 1] if i < given else x
        ends.append(x)
    return float((ends[1] - ends[0]).square().mean().sqrt())


@pytest.mark.parametrize("family", [*ADAMS, solvers.ExponentialAdams])
def test_a_plain_start_leaves_order_two_and_rk2_three(family: Any, table: list[tuple[str, ...]]) -> None:
    for order in (2, 3, 4):
        plain, rk2 = (
            slope({n: start_error(family(order=order, start=start), n) for n in (160, 320)})
            for start in ("plain", "rk2")
        )
        table.append((name(family(order=order)), "left by the start", f"plain {plain:.2f}", f"rk2 {rk2:.2f}"))
        assert plain == pytest.approx(2, abs=0.15), order
        assert rk2 > 2.85, order


@pytest.mark.parametrize("settings", by_kind(STARTED))
def test_rk2_start_keeps_the_order(settings: list[Any], table: list[tuple[str, ...]]) -> None:
    """Up to three, and with no help."""
    for solver in settings:
        measured = slope({n: test_order.final_error(solver, EDM(), n, start_exactly=False) for n in (160, 320)})
        table.append((name(solver), "self-started", f"stated {solver.order}", f"measured {measured:.2f}"))
        assert measured == pytest.approx(solver.order, abs=0.15), name(solver)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_rk2_start_of_an_sde(eta: float) -> None:
    """The drift has order 3 with no help, and the variance after one step is right to h³, where plain it is to h²."""
    plain, rk2 = (solvers.ExponentialAdams(order=3, eta=eta, start=start) for start in ("plain", "rk2"))
    drift = slope({n: test_order.final_error(rk2, EDM(), n, start_exactly=False) for n in (160, 320)})
    assert drift == pytest.approx(3, abs=0.15)
    for solver, local in ((plain, 2), (rk2, 3)):
        off = {}
        for n in (16, 32):
            levels = [1.0, math.exp(-1 / n)]
            variance = exact_variance(solver, levels, (0.05, 1.0))
            off[n] = float((variance - torch.tensor((0.05, 1.0)) - levels[1] ** 2).abs().max())
        assert slope(off) == pytest.approx(local, abs=0.15)


@pytest.mark.parametrize("max_order", [2, 3, 4])
def test_even_steps_in_sigma_give_ipndm_its_full_order(max_order: int) -> None:
    solver, even = solvers.IPNDM(max_order=max_order), lambda n, a, b: np.linspace(a, b, n + 1).tolist()
    measured = slope({n: test_order.final_error(solver, EDM(), n, grid=even) for n in (1280, 2560)})
    assert measured == pytest.approx(max_order, abs=0.15)


# -- the textbook ----------------------------------------------------------------------------------------------------


class Textbook:
    """Adams–Bashforth for dy/du = K f, one step at a time; what each method is, as its paper says it."""

    def __init__(
        self,
        u: Callable[[float], float],
        kernel: Callable[[float], float],
        scale: Callable[[float], float] = lambda sigma: 1.0,
        f: Callable[[Tensor, Tensor, float], Tensor] = lambda x, d, sigma: (x - d) / sigma,
    ) -> None:
        self.u, self.kernel, self.scale, self.f = u, kernel, scale, f

    def weights(self, past: list[float], end: float) -> list[float]:
        """∫ K ℓ_j du; ``past`` newest first."""

        def basis(j: int, u: float) -> float:
            return math.prod((u - v) / (past[j] - v) for i, v in enumerate(past) if i != j)

        return [
            quad(lambda u, j=j: self.kernel(u) * basis(j, u), past[0], end, epsabs=1e-15, epsrel=1e-13, limit=400)[0]
            for j in range(len(past))
        ]

    def run(self, levels: tuple[float, ...], order: int) -> Tensor:
        x, past = NOISE * levels[0], list[tuple[float, Tensor]]()
        for a, b in itertools.pairwise(levels):
            past = [(self.u(a), self.f(x, D(x, at(a)), a)), *past][:order]
            weights = self.weights([u for u, _ in past], self.u(b))
            y = self.scale(a) * x + sum(w * f for w, (_, f) in zip(weights, past, strict=True))
            x = y / self.scale(b)
        return x


def vp_time(sigma: float) -> float:
    B = math.log1p(sigma**2)
    return (math.sqrt(0.1**2 + 2 * 19.9 * B) - 0.1) / 19.9


def vp_kernel(t: float) -> float:
    """dσ/dt of σ = √(e^B − 1)."""
    B = t * (0.5 * 19.9 * t + 0.1)
    return 0.5 * (19.9 * t + 0.1) * math.exp(B) / math.sqrt(math.expm1(B))


def raw(sigma_data: float) -> Callable[[Tensor, Tensor, float], Tensor]:
    """−F of EDM's preconditioning."""

    def f(x: Tensor, d: Tensor, sigma: float) -> Tensor:
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / math.sqrt(sigma**2 + sigma_data**2)
        return -(d - c_skip * x) / c_out

    return f


TEXTBOOKS: dict[Any, Textbook] = {
    solvers.LMS: Textbook(lambda sigma: sigma, lambda u: 1.0),
    solvers.DEIS: Textbook(vp_time, vp_kernel),
    solvers.ExponentialAdamsNoise: Textbook(lambda sigma: -math.log(sigma), lambda u: -math.exp(-u)),
    solvers.VelocityAdams: Textbook(
        lambda sigma: sigma / (1 + sigma),
        lambda u: 1.0,
        lambda sigma: 1 / (1 + sigma),
        lambda x, d, sigma: (x - d) / sigma - d,
    ),
    solvers.TrigonometricAdams: Textbook(
        lambda sigma: math.atan(sigma / 0.5),
        lambda u: 1.0,
        lambda sigma: 1 / math.sqrt(sigma**2 + 0.25),
        raw(0.5),
    ),
}
GRIDS = {
    "karras": ABOVE,
    "zigzag": tuple(zigzag(9, 20.0, 0.05)),
    "few and far": (80.0, 9.0, 1.5, 0.02, 0.002),
}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("family", ADAMS)
def test_textbook(family: Any, order: int) -> None:
    for grid, levels in GRIDS.items():
        assert near(run(family(order=order), levels), TEXTBOOKS[family].run(levels, order), 1e-10), grid


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("family", [solvers.LMS, solvers.DEIS, solvers.VelocityAdams, solvers.TrigonometricAdams])
def test_the_fall_to_zero_is_integrated_to_the_end(family: Any, order: int) -> None:
    levels = (*tuple(Karras(n=6, sigma_min=0.3).levels(EDM()).tolist())[:-1], 0.0)
    assert near(run(family(order=order), levels), TEXTBOOKS[family].run(levels, order), 1e-9)


def test_where_lambda_ends_the_fall_to_zero_is_the_denoiser() -> None:
    x = run(solvers.ExponentialAdamsNoise(order=3), ABOVE)
    assert torch.equal(run(solvers.ExponentialAdamsNoise(order=3)), D(x, at(ABOVE[-1])))


@pytest.mark.parametrize("beta", [(19.9, 0.1), (0.0, 9.0), (5.0, 2.0)])
def test_the_time_of_deis_is_that_of_the_schedule(beta: tuple[float, float]) -> None:
    sigmas = np.array([0.0, 1e-6, 0.002, 0.3, 1.0, 80.0])
    expected = VP(*beta).time(torch.from_numpy(sigmas)).numpy()
    assert TimeOfVP(*beta).u(sigmas) == pytest.approx(expected, rel=1e-14)


def test_ipndm_has_the_printed_weights() -> None:
    """Their Eq. 9 and its shorter forms, whatever the levels."""
    printed = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    for most in (1, 2, 3, 4):
        x, past = NOISE * LEVELS[0], list[Tensor]()
        for a, b in itertools.pairwise(LEVELS):
            past = [(x - D(x, at(a))) / a, *past][:most]
            x = x + (b - a) * sum(w * e for w, e in zip(printed[len(past) - 1], past, strict=True))
        assert near(run(solvers.IPNDM(max_order=most)), x)


# -- identities ------------------------------------------------------------------------------------------------------

EVEN = tuple(np.linspace(10.0, 0.0, 13).tolist())
SAME = [
    *((f"LMS-{p} is iPNDM-{p} on even σ", solvers.LMS(order=p), solvers.IPNDM(max_order=p), EVEN) for p in (2, 3, 4)),
    *(
        (f"{family.__name__} of order 1 is DDIM", family(order=1), solvers.DDIM(), LEVELS)
        for family in (solvers.LMS, solvers.DEIS, solvers.ExponentialAdamsNoise, solvers.VelocityAdams)
    ),
    ("iPNDM of one output is DDIM", solvers.IPNDM(max_order=1), solvers.DDIM(), LEVELS),
    ("exponential in D and in ε, order 1", solvers.ExponentialAdamsNoise(order=1), solvers.ExponentialAdams(order=1)),
    ("PNDM starts as RK4 under EDM", solvers.PNDM(), solvers.RK4(), LEVELS[:4]),
    ("LMS's rk2 start is Heun", solvers.LMS(start="rk2"), solvers.Heun(), LEVELS[:2]),
    ("and iPNDM's", solvers.IPNDM(start="rk2"), solvers.Heun(), LEVELS[:2]),
]


@pytest.mark.parametrize(("a", "b", "levels"), [(*s[1:], LEVELS)[:3] for s in SAME], ids=[s[0] for s in SAME])
def test_same_method(a: Any, b: Any, levels: tuple[float, ...]) -> None:
    assert near(run(a, levels), run(b, levels))


def test_one_output_is_euler_under_the_schedule_of_the_coordinate() -> None:
    for ours, schedule in (
        (solvers.VelocityAdams(order=1), FlowMatching()),
        (solvers.TrigonometricAdams(order=1, sigma_data=1.0), schedules.Trigonometric()),
        (solvers.LMS(order=1), EDM()),
    ):
        assert near(run(ours, ABOVE), run(solvers.Euler(), ABOVE, schedule))


def test_the_rk2_start_is_heun_under_the_schedule_of_the_coordinate() -> None:
    for ours, schedule in (
        (solvers.VelocityAdams(start="rk2"), FlowMatching()),
        (solvers.TrigonometricAdams(start="rk2", sigma_data=1.0), schedules.Trigonometric()),
    ):
        assert near(run(ours, LEVELS[:2]), run(solvers.Heun(), LEVELS[:2], schedule))


def test_the_rk2_start_of_exponential_adams_is_the_integral_of_the_line() -> None:
    a, b = LEVELS[:2]
    h, x = math.log(a / b), NOISE * a
    first = D(x, at(a))
    second = D(b / a * x + (1 - b / a) * first, at(b))
    slope_weight = quad(lambda u: math.exp(u - h) * u / h, 0, h, epsabs=1e-15)[0]
    expected = b / a * x + (1 - b / a - slope_weight) * first + slope_weight * second
    assert near(run(solvers.ExponentialAdams(order=3, start="rk2"), (a, b)), expected)


@pytest.mark.parametrize("schedule", [s for s in every(SCHEDULES) if s.sigma_limit > 80], ids=name)
def test_the_schedule_is_not_seen(schedule: Any) -> None:
    """Bit for bit."""
    for solver in [s for s in ALL if not isinstance(s, solvers.PNDM)] + STARTED:
        assert torch.equal(run(solver, schedule=schedule), run(solver)), solver


def test_the_start_of_pndm_sees_it() -> None:
    """Its stages are in the middle of the step in t."""
    for schedule in (VP(), FlowMatching()):
        assert not near(run(solvers.PNDM(), LEVELS[4:], schedule), run(solvers.PNDM(), LEVELS[4:]), 1e-4)


DIFFERENT = [
    (solvers.LMS(), solvers.IPNDM()),
    (solvers.IPNDM(), solvers.PNDM()),
    (solvers.LMS(order=2), solvers.DEIS(order=2)),
    (solvers.DEIS(), solvers.DEIS(beta_min=5.0)),
    (solvers.ExponentialAdamsNoise(order=2), solvers.ExponentialAdams(order=2)),
    (solvers.LMS(order=3), solvers.VelocityAdams(order=3)),
    (solvers.TrigonometricAdams(order=1), solvers.DDIM()),  # straight, where DDIM turns
    (solvers.TrigonometricAdams(), solvers.TrigonometricAdams(sigma_data=1.0)),
    *((family(order=p), family(order=p + 1)) for family in ADAMS for p in (1, 2, 3)),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=lambda value: name(value))
def test_near_miss(a: Any, b: Any) -> None:
    assert not near(run(a), run(b), 1e-4)


@pytest.mark.parametrize("family", [*ADAMS, solvers.IPNDM, solvers.ExponentialAdams])
def test_a_start_is_not_the_other(family: Any) -> None:
    """At high levels there is little to tell them apart: there the curve is nearly straight."""
    assert not near(run(family(), LEVELS[4:]), run(family(start="rk2"), LEVELS[4:]), 1e-4)


# -- walks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", by_kind([*ALL, *STARTED]))
def test_history_ends_at_a_rise(settings: list[Any]) -> None:
    """A walk that rises is two walks; the same where a level is repeated, and where it has been at 0."""
    for solver in settings:
        forgets_at_a_rise(solver)


def forgets_at_a_rise(solver: Any) -> None:
    for first, second in ((ABOVE[:6], ABOVE[4:]), (ABOVE[:6], ABOVE[5:]), (LEVELS, ABOVE[8:]), (ABOVE[:2], LEVELS[1:])):
        dynamics, path = walk_over((*first, *second), EDM(), D)
        x, state = NOISE * first[0], solver.init(dynamics, path)
        expected = x
        for part in (first, second):
            inner = dynamics.walk(part)
            expected = walk(dynamics, expected, inner, solver, None, 0.0, lambda: NOISE)
        for a, b in path.falls:
            x, state = solver.step(dynamics, x, a, b, state, lambda: NOISE)
        assert torch.equal(x, expected), name(solver)


@pytest.mark.parametrize("settings", by_kind([*ALL, *STARTED]))
def test_one_step(settings: list[Any]) -> None:
    """N = 1 is D at the start, and one evaluation; a walk without a fall is nothing."""
    dynamics = dynamics_of(EDM(), D)
    for solver in settings:
        assert torch.equal(run(solver, (80.0, 0.0)), D(80 * NOISE, at(80.0))), name(solver)
        assert edm.count_nfe(Karras(n=1), solver) == 1, name(solver)
        still = walk(dynamics, NOISE, dynamics.walk([1.0, 1.0]), solver, None, 1.0, torch.empty)
        assert still is NOISE, name(solver)


@pytest.mark.parametrize("n", [2, 3, 6, 18])
def test_evaluations(n: int) -> None:
    for solver in ALL[:-1]:
        assert edm.count_nfe(Karras(n=n), solver) == n
    for solver in STARTED:
        assert edm.count_nfe(Karras(n=n), solver) == n + 1
        churned = edm.renoising.Churn(S_min=0.0, S_max=math.inf)  # every step starts anew
        assert edm.count_nfe(Karras(n=n), solver, renoising=churned) == 2 * n - 1
    assert edm.count_nfe(Karras(n=n), solvers.PNDM()) == n + 3 * min(n - 1, 3)


@pytest.mark.parametrize("sigma_data", [1e-3, 0.5, 1e3])
def test_extreme_levels(sigma_data: float) -> None:
    """From 1e8 to 1e-8, on any arc, in steps of e: a point of data is found, and nothing overflows or cancels."""
    levels = (*np.geomspace(1e8, 1e-8, 37).tolist(), 0.0)
    point = torch.tensor(0.7, dtype=torch.float64)
    for solver in (solvers.TrigonometricAdams(sigma_data=sigma_data), *ALL):
        x = run(solver, levels, denoiser=lambda x, sigma: point + 0 * x)
        assert near(x, point.expand(x.shape), 1e-6), solver


def test_on_the_arc_a_constant_is_followed_to_the_order() -> None:
    """D = x: the one method that does not keep it exactly converges to it."""
    errors = {}
    for n in (160, 320):
        x = run(solvers.TrigonometricAdams(order=2), log_levels(n, 8.0, 0.1), denoiser=lambda x, sigma: x)
        errors[n] = float((x - 8 * NOISE).abs().max())
    assert slope(errors) == pytest.approx(2, abs=0.15)


# -- cost ------------------------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts the operations on tensors of the size of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.count += isinstance(out, Tensor) and out.numel() == NOISE.numel()
        return out


@pytest.mark.parametrize("settings", by_kind(ALL[:-1]))
def test_operations_of_a_step(settings: list[Any]) -> None:
    """One to keep the output for later, one for x and the newest output, and one for each output before it.

    Where no weights sum to one (the arc), one more: a scale cannot be folded into a lerp.
    """
    for solver in settings:
        takes_few_operations(solver)


def takes_few_operations(solver: Any) -> None:
    dynamics, path = walk_over(LEVELS, EDM(), lambda x, sigma: NOISE)
    x, state = NOISE * LEVELS[0], solver.init(dynamics, path)
    outputs, counts = solver.most_outputs, []
    for a, b in path.falls:
        with Operations() as operations:
            x, state = solver.step(dynamics, x, a, b, state, torch.empty)
        counts.append(operations.count)
    extra = isinstance(solver, solvers.TrigonometricAdams)
    assert max(counts[:-1]) <= outputs + (outputs > 1) + extra, name(solver)
    assert counts[-1] <= outputs + extra, name(solver)  # nothing comes after: nothing is kept


@pytest.mark.parametrize("settings", by_kind([*ALL, *STARTED]))
def test_the_history_holds_no_more_than_it_must(settings: list[Any]) -> None:
    dynamics, path = walk_over(LEVELS, EDM(), D)
    for solver in settings:
        x, state = NOISE * LEVELS[0], solver.init(dynamics, path)
        seen: list[Any] = []
        for a, b in path.falls:
            x, state = solver.step(dynamics, x, a, b, state, torch.empty)
            assert len(state[2]) <= max(0, solver.most_outputs - 1), name(solver)
            seen.append(weakref.ref(x))
        del x
        assert sum(ref() is not None for ref in seen) == 0, name(solver)  # no state of the walk is kept


# -- slips -----------------------------------------------------------------------------------------------------------


SLIPS: dict[str, tuple[Any, str, Any, Any]] = {
    "even steps on uneven levels": (solvers.LMS, "coordinate", StepIndex(), solvers.LMS(order=3)),
    "dσ for du": (
        FlowTime,
        "span",
        lambda self, a, b: Sigma().span(a, b),
        solvers.VelocityAdams(order=2),
    ),
    "y for x": (FlowTime, "m", lambda self, sigma: 1.0, solvers.VelocityAdams(order=2)),
    "moments of another kernel": (
        LogSNR,
        "moments",
        lambda self, a, b, most: Sigma().moments(a, b, most),
        solvers.ExponentialAdamsNoise(order=3),
    ),
    "history in the wrong order": (
        Sigma,
        "nodes",
        lambda self, a, b, before: [0.0, *((sigma - a) / (b - a) for sigma in before[::-1])],
        solvers.LMS(order=3),
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_is_caught(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, attribute, mutant, solver = SLIPS[slip]
    law = lambda: slope({n: test_order.final_error(solver, EDM(), n) for n in (80, 160)})  # noqa: E731
    assert law() == pytest.approx(solver.order, abs=0.15)
    monkeypatch.setattr(target, attribute, mutant)
    assert law() != pytest.approx(solver.order, abs=0.15)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda of=of: of(order=5), "order: must be a whole number from 1 to 4, got 5") for of in ADAMS),
        (lambda: solvers.IPNDM(max_order=0), "max_order: must be a whole number from 1 to 4, got 0"),
        (lambda: solvers.LMS(start="rk4"), "start: unknown 'rk4'; did you mean 'rk2'?"),
        (lambda: solvers.ExponentialAdams(start="heun"), "start: unknown 'heun'"),
        (lambda: solvers.DEIS(beta_min=0.0), "beta_min: must be positive and finite, got 0.0"),
        (lambda: solvers.DEIS(beta_d=-1.0), "beta_d: must be zero or positive and finite, got -1.0"),
        (lambda: solvers.TrigonometricAdams(sigma_data=0.0), "sigma_data: must be positive and finite, got 0.0"),
    ],
)  # fmt: skip
def test_bad_values(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?").replace(".", r"\.")):
        make()
