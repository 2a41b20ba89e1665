"""SA-Solver, ER-SDE and reverse diffusion: orders, exact variances, equalities, windows, and the slips that ship."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from test_equivalence import LEVELS, NOISE, D, at, by_hand, fresh, near, run
from test_order import final_error
from test_stochastic import HIGH, LOW, VARIANCES, relative_error
from torch import Tensor
from variants import SCHEDULES, every, exact_variance, log_levels, name, slope, walk_over, zigzag_levels

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling import loop
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.solvers import er_sde, sa_solver
from edm_unified.sampling.solvers.er_sde import SCALES
from edm_unified.sampling.solvers.phi import lagrange_weights
from edm_unified.sampling.solvers.rows import ADD, LERP, SAME

EDM = schedules.EDM()
Table = list[tuple[str, ...]]


# -- SA-Solver: orders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [log_levels, zigzag_levels], ids=["even", "uneven"])
@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize(("p", "c"), [(1, 0), (2, 0), (3, 0), (4, 0), (1, 2), (2, 3), (3, 4), (4, 3)])
def test_order_of_the_drift(p: int, c: int, tau: float, grid: Any, table: Table) -> None:
    """With its noise off: c, or p without corrector, from exact starting values."""
    solver = solvers.SASolver(predictor=p, corrector=c, tau=tau)
    errors = {n: final_error(solver, EDM, n, grid=grid) for n in (160, 320)}
    table.append(
        (name(solver), f"drift {solver.order}", f"measured {slope(errors):.2f}", f"{min(errors.values()):.1e}")
    )
    assert slope(errors) == pytest.approx(solver.order, abs=0.15), errors


def test_the_published_p2c2_is_of_order_two_with_a_small_constant() -> None:
    """Its error of order 2 is so small that at 160 steps that of order 3 is still of its size."""
    solver = solvers.SASolver(predictor=2, corrector=2, tau=0.0)
    assert slope({n: final_error(solver, EDM, n) for n in (640, 1280)}) == pytest.approx(2, abs=0.1)
    without = solvers.SASolver(predictor=2, corrector=0, tau=0.0)
    assert final_error(solver, EDM, 160) < 0.2 * final_error(without, EDM, 160)


def test_a_corrected_start_keeps_order_three() -> None:
    """P2C3 starts with a corrected step, of local order 3, where an Euler start would leave order 2 (k-step Adams)."""
    solver = solvers.SASolver(predictor=2, corrector=3, tau=0.0)
    assert slope({n: final_error(solver, EDM, n, start_exactly=False) for n in (160, 320)}) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("p", "c", "tau", "weak"), [(1, 0, 1.0, 1), (2, 0, 0.5, 2), (1, 2, 1.0, 2), (3, 4, 0.5, 2)])
def test_weak_order(p: int, c: int, tau: float, weak: int, table: Table) -> None:
    """By basis noise: the noise that predictor and corrector share is counted once, and exactly."""
    solver = solvers.SASolver(predictor=p, corrector=c, tau=tau)
    errors = {n: relative_error(log_levels(n, HIGH, LOW), solver) for n in (160, 320)}
    table.append((name(solver), f"weak {weak}", f"measured {slope(errors):.2f}", f"{min(errors.values()):.1e}"))
    assert slope(errors) == pytest.approx(weak, abs=0.15), errors


@pytest.mark.parametrize("window", [(0.3, 2.0), (0.0, 1.0), (1.0, math.inf)])
@pytest.mark.parametrize(("p", "c"), [(2, 0), (3, 4)])
def test_the_variance_is_right_whatever_the_window(window: tuple[float, float], p: int, c: int) -> None:
    """τ changes from step to step, and the marginals do not: weak order 2, though a window's end falls between."""
    solver = solvers.SASolver(predictor=p, corrector=c, tau=1.0, S_min=window[0], S_max=window[1])
    coarse, fine = (relative_error(log_levels(n, HIGH, LOW), solver) for n in (80, 320))
    assert fine < 5e-4
    assert fine < 0.12 * coarse


@pytest.mark.parametrize("n", [1, 2, 30])
def test_noise_is_drawn_within_the_window_alone(n: int) -> None:
    drawn = 0

    def randn() -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros_like(NOISE)

    levels = Karras(n=n).levels(EDM).tolist()
    dynamics = edm.dynamics.Dynamics(EDM, D, {}, torch.device("cpu"))
    path = dynamics.walk(levels)
    solver = solvers.SASolver(S_min=0.05, S_max=1.0)
    loop.walk(dynamics, NOISE * levels[0], path, solver, None, 1.0, randn)
    assert drawn == sum(0.05 <= b <= 1.0 for _, b in pairwise(levels))


# -- SA-Solver: equalities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_without_corrector_it_is_exponential_adams(p: int, tau: float) -> None:
    """P1 at τ = 0 is DDIM; P1 at τ = 1 is DDPM; an empty window is τ = 0."""
    ours = run(solvers.SASolver(predictor=p, corrector=0, tau=tau))
    assert near(ours, run(solvers.ExponentialAdams(order=p, eta=tau)))
    if p == 1 and tau in (0.0, 1.0):
        assert near(ours, run(solvers.DDPM() if tau else solvers.DDIM()))
    empty = solvers.SASolver(predictor=p, corrector=0, tau=1.0, S_min=1e3)
    assert near(run(empty), run(solvers.ExponentialAdams(order=p)))


@pytest.mark.parametrize(("p", "c"), [(1, 2), (2, 2), (2, 3), (3, 4)])
@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_predict_evaluate_correct_as_printed(p: int, c: int, tau: float) -> None:
    """Xue et al. 2023, Algorithm 1, in two passes that share the noise, the weights ∫ A e^{−A(h−u)} ℓ_j du by scipy."""
    A = 1 + tau**2

    def weights(a: float, b: float, nodes: list[float]) -> list[float]:
        h = math.log(a / b)

        def basis(u: float, j: int) -> float:
            return math.prod((u - other) / (nodes[j] - other) for other in nodes if other != nodes[j])

        return [
            quad(lambda u, j=j: A * math.exp(-A * (h - u)) * basis(u, j), 0, h, epsabs=1e-14)[0]
            for j in range(len(nodes))
        ]

    generator, x, outputs, visited = torch.Generator().manual_seed(0), NOISE * LEVELS[0], list[Tensor](), list[float]()
    outputs.append(D(x, at(LEVELS[0])))
    visited.append(LEVELS[0])
    for a, b in pairwise(LEVELS[:-1]):
        h = math.log(a / b)
        base = b / a * math.exp(-(tau**2) * h) * x
        if tau:
            base = base + b * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * fresh(generator)

        def applied(count: int, base: Tensor = base, a: float = a, b: float = b) -> Tensor:
            w = weights(a, b, [math.log(a / sigma) for sigma in visited[:count]])
            return base + sum(w_j * D_j for w_j, D_j in zip(w, outputs, strict=False))

        predicted = applied(p)
        outputs.insert(0, D(predicted, at(b)))
        visited.insert(0, b)
        x = applied(c)
    assert near(run(solvers.SASolver(predictor=p, corrector=c, tau=tau)), outputs[0], 1e-10)


def test_near_misses() -> None:
    printed = run(solvers.SASolver(tau=0.5))
    for other in (solvers.SASolver(tau=0.6), solvers.SASolver(corrector=3, tau=0.5), solvers.SASolver(S_max=2.0)):
        assert not near(run(other), printed, 1e-4)


SLIPS: dict[str, Callable[[float, list[float]], list[float]]] = {
    "nodes one place too far back": lambda H, nodes: lagrange_weights(H, [v - nodes[0] for v in nodes]),
    "the drift of the ODE with the noise of the SDE": lambda H, nodes: lagrange_weights(H / (1 + 0.5**2), nodes),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_of_sa_solver_are_caught(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = solvers.SASolver(predictor=1, corrector=2, tau=0.5)

    def weak() -> float:
        return slope({n: relative_error(log_levels(n, HIGH, LOW), solver) for n in (160, 320)})

    assert weak() == pytest.approx(2, abs=0.15)
    monkeypatch.setattr(sa_solver, "lagrange_weights", SLIPS[slip])
    assert weak() != pytest.approx(2, abs=0.15)


# -- ER-SDE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", SCALES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_order_of_the_drift(order: int, phi: Any, table: Table) -> None:
    """dx/d ln σ = (d ln φ/d ln σ)(x − D), by DOP853 with the rate of each φ."""
    solver = solvers.ERSDE(order=order, phi=phi)
    errors = {n: final_error(solver, EDM, n, grid=zigzag_levels) for n in (160, 320)}
    table.append((name(solver), f"drift {order}", f"measured {slope(errors):.2f}", f"{min(errors.values()):.1e}"))
    assert slope(errors) == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_weak_order(order: int, table: Table) -> None:
    solver = solvers.ERSDE(order=order)
    errors = {n: relative_error(log_levels(n, HIGH, LOW), solver) for n in (320, 640)}
    weak = min(order, 2)
    table.append((name(solver), f"weak {weak}", f"measured {slope(errors):.2f}", f"{min(errors.values()):.1e}"))
    assert slope(errors) == pytest.approx(weak, abs=0.15), errors


def test_er_sde_of_order_one_is_what_phi_says() -> None:
    """φ = σ is DDIM; φ = σ² is DDPM, which is the exponential step of η = 1."""
    assert near(run(solvers.ERSDE(order=1, phi="ode")), run(solvers.DDIM()))
    assert near(run(solvers.ERSDE(order=1, phi="reverse_sde")), run(solvers.DDPM()))
    assert near(run(solvers.ERSDE(order=1, phi="reverse_sde")), run(solvers.ExponentialAdams(order=1, eta=1.0)))
    assert not near(run(solvers.ERSDE(order=1)), run(solvers.DDPM()), 1e-3)


@pytest.mark.parametrize("order", [2, 3])
def test_er_sde_interpolates_in_sigma_where_exponential_adams_does_in_lambda(order: int) -> None:
    """The same process, so the same limit, and another method."""
    for phi, eta in (("ode", 0.0), ("reverse_sde", 1.0)):
        a, b = solvers.ERSDE(order=order, phi=phi), solvers.ExponentialAdams(order=order, eta=eta)  # type: ignore[arg-type]
        assert not near(run(a), run(b), 1e-4)
        fine = tuple(Karras(n=1500, sigma_max=8.0, sigma_min=0.15).levels(EDM).tolist()[:-1])
        assert near(run(a, levels=fine), run(b, levels=fine), 1e-4)


def test_er_sde_2_as_printed() -> None:
    """Cui et al. 2023, Algorithm 2, with φ = σ(e^{σ^0.3} + 10) and ∫ du/φ by scipy."""

    def phi(sigma: float) -> float:
        return sigma * (math.exp(sigma**0.3) + 10)

    before: list[tuple[float, Tensor]] = []

    def step(x: Tensor, a: float, b: float, now: Tensor, _: Any, __: Any, generator: Any) -> Tensor:
        r = phi(b) / phi(a)
        x = r * x + (1 - r) * now
        if before:
            slope = (now - before[-1][1]) / (a - before[-1][0])
            integral = quad(lambda u: 1 / phi(u), b, a, epsabs=0, epsrel=1e-13)[0]
            x = x + (b - a + phi(b) * integral) * slope
        before.append((a, now))
        return x + math.sqrt(b**2 - a**2 * r**2) * fresh(generator)

    assert near(run(solvers.ERSDE(order=2)), by_hand(step), 1e-10)


def test_er_sde_takes_fewer_outputs_towards_the_end_where_asked() -> None:
    """Two in the step before the fall to 0, as its order 2 there, and all it has until then."""
    dynamics, path = walk_over(LEVELS, EDM, D)
    ends = [program.instructions[-1] for program in solvers.ERSDE(end="lower").init(dynamics.axis, path)[0]]
    outputs = [len(end.more.lerps) + len(end.more.adds) - len(end.draws) if end.more else 0 for end in ends]
    used = [more + (end.begins in (LERP, ADD)) for more, end in zip(outputs, ends, strict=True)]
    used[-1] += ends[-1].begins == SAME  # D and no x
    assert used == [1, 2, *[3] * (len(LEVELS) - 5), 2, 1]
    whole, lower = (run(solvers.ERSDE(end=end), levels=LEVELS[:-2]) for end in ("full", "lower"))  # type: ignore[arg-type]
    assert not near(whole, lower, 1e-6)
    assert near(run(solvers.ERSDE(order=1, end="lower")), run(solvers.ERSDE(order=1)))


def test_the_published_order_three_is_two() -> None:
    """The slip: a slope from two outputs beside a curvature from three. The interpolant's own slope mends it."""

    def weights(mended: bool) -> Callable[[str, float, float, list[float]], list[float]]:
        def of(phi: str, a: float, b: float, nodes: list[float]) -> list[float]:
            if len(nodes) < 3:
                return kept(phi, a, b, nodes)
            r = b / a  # φ = σ: φ(b) ∫ du/φ = b ln(a/b), φ(b) ∫ (u − a) du/φ = b (a − b) − a b ln(a/b)
            first, second = b - a + b * math.log(a / b), 0.5 * (b - a) ** 2 + b * (a - b) - a * b * math.log(a / b)
            d0 = [1 / (nodes[0] - nodes[1]), -1 / (nodes[0] - nodes[1]), 0.0]
            d1 = [0.0, 1 / (nodes[1] - nodes[2]), -1 / (nodes[1] - nodes[2])]
            curvature = [2 * (u - v) / (nodes[0] - nodes[2]) for u, v in zip(d0, d1, strict=True)]
            half = 0.5 * (nodes[0] - nodes[1]) if mended else 0.0
            tilt = [d + half * c for d, c in zip(d0, curvature, strict=True)]
            rows = zip([1 - r, 0.0, 0.0], tilt, curvature, strict=True)
            return [w + first * t + second * c for w, t, c in rows]

        return of

    solver = solvers.ERSDE(order=3, phi="ode")
    kept = er_sde.interpolant_weights

    def order() -> float:
        return slope({n: final_error(solver, EDM, n) for n in (160, 320)})

    with pytest.MonkeyPatch.context() as patch:
        ours = run(solver)
        patch.setattr(er_sde, "interpolant_weights", weights(mended=True))
        assert near(run(solver), ours, 1e-9)
        patch.setattr(er_sde, "interpolant_weights", weights(mended=False))
        assert order() == pytest.approx(2, abs=0.15)
    assert order() == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("phi", SCALES)
def test_the_rate_is_the_derivative_of_phi_and_noise_is_never_negative(phi: Any) -> None:
    scale = SCALES[phi]
    for sigma in (1e-3, 0.05, 0.7, 4.0, 80.0, 1e4):
        h = 1e-5
        numeric = 1 + (scale.excess(sigma * math.exp(h)) - scale.excess(sigma * math.exp(-h))) / (2 * h)
        assert scale.rate(sigma) == pytest.approx(numeric, rel=1e-8)
        assert scale.rate(sigma) >= 1


# -- reverse diffusion ---------------------------------------------------------------------------------------------


def test_reverse_diffusion_without_scale_is_ddpm_with_the_large_variance() -> None:
    assert near(run(solvers.ReverseDiffusion()), run(solvers.DDPM(variance="large")))
    assert not near(run(solvers.ReverseDiffusion()), run(solvers.DDPM()), 1e-3)


@pytest.mark.parametrize("schedule", every(SCHEDULES), ids=name)
def test_reverse_diffusion_has_weak_order_one_under_every_schedule(schedule: Any) -> None:
    def error(n: int) -> float:
        levels = log_levels(n, HIGH, LOW)
        truth = torch.tensor(VARIANCES, dtype=torch.float64) + levels[-1] ** 2
        variance = exact_variance(solvers.ReverseDiffusion(), levels, VARIANCES, schedule=schedule)
        return float((variance / truth - 1).abs().max())

    assert slope({n: error(n) for n in (320, 640)}) == pytest.approx(1, abs=0.15)


def test_reverse_diffusion_is_songs_on_a_table_of_betas() -> None:
    """Song et al. 2021, Eq. 47: x_i = (2 − √(1−β)) x + β ∇ln p + √β n, on consecutive levels of DDPM's table."""
    table = schedules.BetaTable()
    betas = table.table.tolist()
    levels = table.sigmas.tolist()[::-1][:60]
    generator, x = torch.Generator().manual_seed(0), NOISE * levels[0] / math.sqrt(1 + levels[0] ** 2)
    for k, (a, _) in enumerate(pairwise(levels)):
        beta, bar = betas[999 - k], 1 / (1 + a**2)
        score = (math.sqrt(bar) * D(x / math.sqrt(bar), at(a)) - x) / (1 - bar)
        x = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * fresh(generator)
    ours = run(solvers.ReverseDiffusion(), table, tuple(levels)) / math.sqrt(1 + levels[-1] ** 2)
    assert near(ours, x, 1e-9)


def test_reverse_diffusion_of_the_ve_sde() -> None:
    """Song et al. 2021, Eq. 48: x_i = x + (σ²_{i+1} − σ²_i) ∇ln p + √(σ²_{i+1} − σ²_i) n."""

    def step(x: Tensor, a: float, b: float, now: Tensor, _: Any, __: Any, generator: Any) -> Tensor:
        return x + (a**2 - b**2) * (now - x) / a**2 + math.sqrt(a**2 - b**2) * fresh(generator)

    assert near(run(solvers.ReverseDiffusion(), schedules.VE()), by_hand(step), 1e-11)


# -- history -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [solvers.SASolver(tau=0.0), solvers.ERSDE(phi="ode")], ids=name)
def test_neither_history_nor_correction_reaches_across_a_rise(solver: Any) -> None:
    """A walk with a rise, which adds nothing here, is its two halves one after the other."""
    first, second = (10.0, 7.0, 4.0, 3.0, 2.0), (6.0, 4.0, 2.5, 1.5, 0.7, 0.0)
    dynamics = edm.dynamics.Dynamics(EDM, D, {}, torch.device("cpu"))

    def over(levels: tuple[float, ...], x: Tensor) -> Tensor:
        nothing = lambda: torch.zeros_like(NOISE)  # noqa: E731
        return loop.walk(dynamics, x, dynamics.walk(levels), solver, None, 1.0, nothing)

    assert torch.equal(over((*first, *second), 10 * NOISE), over(second, over(first, 10 * NOISE)))


# -- bad values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: solvers.SASolver(predictor=0), "^predictor: must be a whole number from 1 to 4"),
        (lambda: solvers.SASolver(predictor=2, corrector=4), "^corrector: must be a whole number from 0 to 3"),
        (lambda: solvers.SASolver(tau=-0.1), "^tau: must be zero or positive"),
        (lambda: solvers.SASolver(S_min=-1.0), "^S_min: "),
        (lambda: solvers.SASolver(S_min=2.0, S_max=1.0), "^S_max: must not be below S_min"),
        (lambda: solvers.SASolver(S_max=math.nan), "^S_max: "),
        (lambda: solvers.ERSDE(order=4), "^order: must be a whole number from 1 to 3"),
        (lambda: solvers.ERSDE(phi="sde"), "^phi: unknown 'sde'"),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
