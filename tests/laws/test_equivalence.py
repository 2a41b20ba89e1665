"""Law 5: methods that are the same under two names agree to rounding, and near misses do not.

The formulas on the right-hand sides are written here from the papers, one step at a time and in the papers' own
coordinates, and share no code with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from variants import SCHEDULES, SOLVERS, Mixture, by_kind, cover, dynamics_of, every, name, walk_over

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling.levels import Explicit, Karras, LogLinear, TableSubset, UniformTime
from edm_unified.sampling.loop import walk
from edm_unified.sampling.renoising import Ancestral, Churn
from edm_unified.sampling.solvers.phi import phi
from edm_unified.schedules import EDM, VP, BetaTable, FlowMatching

D = Mixture()
NOISE = edm.unit_noise(6, (3,), seed=11)
LEVELS = tuple(Karras(n=12).levels(EDM()).tolist())


def run(
    solver: Any,
    schedule: Any = EDM(),  # noqa: B008
    levels: tuple[float, ...] = LEVELS,
    draws: int = 0,
    denoiser: Any = D,
) -> Tensor:
    """The walk over ``levels`` with noises n_0, n_1, … that are the same for every solver."""
    generator = torch.Generator().manual_seed(draws)
    dynamics, path = walk_over(levels, schedule, denoiser)
    noise = lambda: torch.randn(NOISE.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return walk(dynamics, NOISE * levels[0], path, solver, None, 1.0, noise)


def at(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    """Equal to a relative ``tolerance`` of the largest element."""
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


BLIND = [
    s
    for s in every(SOLVERS)
    if isinstance(s, solvers.DDIM | solvers.DPMSolverPP2M | solvers.DPMSolverPP2MSDE | solvers.ExponentialAdams)
]


@pytest.mark.parametrize(
    "runs", by_kind(cover([*BLIND, solvers.DDPM()], [s for s in every(SCHEDULES) if s.sigma_limit > 80], times=3))
)
def test_exponential_solvers_do_not_see_the_schedule(runs: list[Any]) -> None:
    """Bit for bit: nothing that depends on t enters."""
    for solver, schedule in runs:
        assert torch.equal(run(solver, schedule), run(solver, EDM())), name(solver, schedule)


@pytest.mark.parametrize("schedule", [VP(), FlowMatching(), schedules.VE()], ids=name)
@pytest.mark.parametrize(
    "solver",
    [solvers.Euler(), solvers.Heun(), solvers.RK4(), solvers.EulerMaruyama(), solvers.DDPM(variance="large")],
    ids=name,
)
def test_the_others_do(solver: Any, schedule: Any) -> None:
    """But for two: s = 1 leaves the large variance alone, and the flow's straight lines are straight in σ as well."""
    blind = (solvers.DDPM, schedules.VE), (solvers.Euler, FlowMatching)
    expected = (type(solver), type(schedule)) in blind
    assert near(run(solver, schedule), run(solver, EDM()), 1e-12 if expected else 1e-6) == expected


SAME = [
    ("Euler under EDM is DDIM(0)", solvers.Euler(), solvers.DDIM()),
    ("DDIM(0) is exponential Adams of order 1", solvers.DDIM(), solvers.ExponentialAdams(order=1)),
    ("DDIM(1) is DDPM", solvers.DDIM(eta=1.0), solvers.DDPM()),
    ("the alpha family at 1 is Heun", solvers.SecondOrder(alpha=1.0), solvers.Heun()),
    ("the alpha family at 1/2 is the midpoint rule", solvers.SecondOrder(alpha=0.5), solvers.Midpoint()),
    ("the alpha family at 2/3 is Ralston's", solvers.SecondOrder(alpha=2 / 3), solvers.Ralston()),
    ("Euler-Maruyama without noise is Euler", solvers.EulerMaruyama(eta=0.0), solvers.Euler()),
    ("2M SDE without noise is 2M", solvers.DPMSolverPP2MSDE(eta=0.0), solvers.DPMSolverPP2M()),
    (
        "2M SDE, heun, is exponential Adams of order 2",
        solvers.DPMSolverPP2MSDE(correction="heun"),
        solvers.ExponentialAdams(order=2, eta=1.0),
    ),
    (
        "and at any eta",
        solvers.DPMSolverPP2MSDE(eta=0.3, correction="heun"),
        solvers.ExponentialAdams(order=2, eta=0.3),
    ),
    (
        "DDPM is the reverse SDE's exponential step (eta = 1)",
        solvers.DDPM(),
        solvers.ExponentialAdams(order=1, eta=1.0),
    ),
]


@pytest.mark.parametrize(("a", "b"), [pair[1:] for pair in SAME], ids=[pair[0] for pair in SAME])
def test_same_method(a: Any, b: Any) -> None:
    assert near(run(a), run(b))


def test_euler_maruyama_without_noise_is_euler_under_every_schedule() -> None:
    for schedule in every(SCHEDULES):
        levels = tuple(Karras(n=12, sigma_max=10.0).levels(schedule).tolist())
        still, euler = run(solvers.EulerMaruyama(eta=0.0), schedule, levels), run(solvers.Euler(), schedule, levels)
        assert near(still, euler), name(schedule)


DIFFERENT = [
    (solvers.DDIM(eta=0.5), solvers.ExponentialAdams(order=1, eta=0.5)),  # the same SDE to first order only
    (solvers.DPMSolverPP2M(), solvers.ExponentialAdams(order=2)),  # midpoint against exact integral
    (solvers.DPMSolverPP2MSDE(), solvers.DPMSolverPP2MSDE(correction="heun")),
    (solvers.DDPM(), solvers.DDPM(variance="large")),
    (solvers.EulerMaruyama(), solvers.DDPM()),
    (solvers.Heun(), solvers.Midpoint()),
    (solvers.Midpoint(), solvers.Ralston()),
    (solvers.ExponentialAdams(order=2), solvers.ExponentialAdams(order=3)),
    (solvers.ExponentialAdams(order=3), solvers.ExponentialAdams(order=4)),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT, ids=lambda value: name(value))
def test_near_miss(a: Any, b: Any) -> None:
    """A tolerance so loose that these agreed would prove nothing about those above."""
    assert not near(run(a), run(b), 1e-4)


# -- renoising -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_around_euler_is_ddim(eta: float) -> None:
    """Down and up as moves of the walk, or inside the solver: the same noises, the same samples."""
    assert near(run(solvers.Euler(), levels=Ancestral(eta=eta).walk(LEVELS)), run(solvers.DDIM(eta=eta)))


def test_ancestral_around_heun_is_not_ddim() -> None:
    assert not near(run(solvers.Heun(), levels=Ancestral().walk(LEVELS)), run(solvers.DDIM(eta=1.0)), 1e-3)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_flow_matching_shift_is_a_scale_of_the_levels(shift: float) -> None:
    """Uniform t under shift m visits m times the levels of uniform t under no shift."""
    plain = UniformTime(n=9, t_max=0.99).levels(FlowMatching())
    shifted = UniformTime(n=9, t_max=0.99).levels(FlowMatching(shift=shift))
    assert torch.allclose(shifted, shift * plain, rtol=1e-12)


@pytest.mark.parametrize("solver", [solvers.Euler(), solvers.Heun()], ids=name)
def test_flow_matching_is_euler_and_heun_on_its_velocity(solver: Any) -> None:
    """y = (1−t) x, dy/dt = v = ε − D: the flow's own straight steps, by hand."""
    t = torch.linspace(0.98, 0.0, 9, dtype=torch.float64).tolist()
    y = NOISE * (t[0] / (1 - t[0])) * (1 - t[0])

    def velocity(y: Tensor, t: float) -> Tensor:
        sigma = t / (1 - t)
        x = y / (1 - t)
        denoised = D(x, at(sigma))
        return (x - denoised) / sigma - denoised

    for a, b in pairwise(t):
        v = velocity(y, a)
        euler = y + (b - a) * v
        y = euler if b == 0 or isinstance(solver, solvers.Euler) else y + (b - a) * 0.5 * (v + velocity(euler, b))
    levels = tuple(u / (1 - u) for u in t)
    assert near(run(solver, FlowMatching(), levels), y, 1e-11)


def test_heun_under_vp_is_algorithm_1_in_the_scaled_state() -> None:
    """Karras et al. 2022, Algorithm 1 with their Eq. 4 and Table 1, VP column, derivatives by finite formulas of VP."""
    vp, levels = VP(), LEVELS
    t = [float(vp.time(level)) for level in levels]

    def scale(t: float) -> float:
        return 1 / math.sqrt(math.exp(0.5 * 19.9 * t**2 + 0.1 * t))

    def sigma(t: float) -> float:
        return math.sqrt(math.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1)

    def slope(x: Tensor, t: float) -> Tensor:
        rate = 0.5 * (19.9 * t + 0.1) * (sigma(t) + 1 / sigma(t))  # σ'
        s_rate = -rate * sigma(t) * scale(t) ** 3  # s'
        denoised = D(x / scale(t), at(sigma(t)))
        return (rate / sigma(t) + s_rate / scale(t)) * x - rate * scale(t) / sigma(t) * denoised

    x = NOISE * levels[0] * scale(t[0])
    for a, b in pairwise(t):
        d = slope(x, a)
        x_euler = x + (b - a) * d
        x = x_euler if b == 0 else x + (b - a) * 0.5 * (d + slope(x_euler, b))
    assert near(run(solvers.Heun(), vp), x, 1e-8)  # σ is recomputed from t here, which costs the digits


# -- the multistep formulas, as printed ------------------------------------------------------------------------------


def by_hand(step: Callable[..., Tensor], levels: tuple[float, ...] = LEVELS, draws: int = 0) -> Tensor:
    """A textbook loop: ``step(x, a, b, D_now, D_before, h_before, generator)``; x = D on the fall to 0."""
    generator = torch.Generator().manual_seed(draws)
    x, before, h_before = NOISE * levels[0], None, None
    for a, b in pairwise(levels):
        now = D(x, at(a))
        if b == 0:
            return now
        x = step(x, a, b, now, before, h_before, generator)
        before, h_before = now, math.log(a / b)
    return x


def fresh(generator: torch.Generator) -> Tensor:
    return torch.randn(NOISE.shape, generator=generator, dtype=torch.float64)


def test_2m_as_printed() -> None:
    """Lu et al. 2022b, Algorithm 2: x ← (σ_b/σ_a) x − (e^{−h} − 1) [(1 + 1/2r) D_0 − (1/2r) D_{−1}], r = h_prev/h."""

    def step(x: Tensor, a: float, b: float, now: Tensor, before: Any, h_before: Any, generator: Any) -> Tensor:
        h = math.log(a) - math.log(b)
        if before is None:
            return b / a * x - math.expm1(-h) * now
        r = h_before / h
        return b / a * x - math.expm1(-h) * ((1 + 1 / (2 * r)) * now - before / (2 * r))

    assert near(run(solvers.DPMSolverPP2M()), by_hand(step))


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
def test_2m_sde_as_printed(eta: float, correction: Any) -> None:
    """With the noise amplitude η here, where k-diffusion's ``eta`` is η²: H = h (1 + η²)."""

    def step(x: Tensor, a: float, b: float, now: Tensor, before: Any, h_before: Any, generator: Any) -> Tensor:
        h = math.log(a) - math.log(b)
        eta_h = eta**2 * h
        x = b / a * math.exp(-eta_h) * x + (1 - math.exp(-h - eta_h)) * now
        if before is not None:
            r = h_before / h
            if correction == "heun":
                x = x + ((1 - math.exp(-h - eta_h)) / (-h - eta_h) + 1) * (1 / r) * (now - before)
            else:
                x = x + 0.5 * (1 - math.exp(-h - eta_h)) * (1 / r) * (now - before)
        return x + fresh(generator) * b * math.sqrt(1 - math.exp(-2 * eta_h))

    assert near(run(solvers.DPMSolverPP2MSDE(eta=eta, correction=correction)), by_hand(step), 1e-11)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_exponential_adams_1_is_sde_dpm_solver_1(eta: float) -> None:
    def step(x: Tensor, a: float, b: float, now: Tensor, before: Any, h_before: Any, generator: Any) -> Tensor:
        h, A = math.log(a / b), 1 + eta**2
        noise = b * math.sqrt(1 - math.exp(-2 * eta**2 * h)) * fresh(generator)
        return math.exp(-A * h) * x + (1 - math.exp(-A * h)) * now + noise

    assert near(run(solvers.ExponentialAdams(order=1, eta=eta)), by_hand(step), 1e-11)


@pytest.mark.parametrize("B", [lambda hh: hh, lambda hh: math.exp(hh) - 1], ids=["B1", "B2"])
def test_exponential_adams_2_is_unip_2_with_its_rho_solved_for(B: Callable[[float], float]) -> None:
    """Zhao et al. 2023, Eq. 5 in data prediction: x' = (b/a) x − (e^{hh} − 1) D_0 − B(hh) ρ D1, hh = −h.

    The single condition R ρ = b of p = 2 is solved as it stands (not set to 1/2, as the published code does).
    """

    def step(x: Tensor, a: float, b: float, now: Tensor, before: Any, h_before: Any, generator: Any) -> Tensor:
        hh = -math.log(a / b)
        x_next = b / a * x - math.expm1(hh) * now
        if before is None:
            return x_next
        r = h_before / hh  # (λ_{i−1} − λ_i)/h, negative
        condition = ((math.expm1(hh)) / hh - 1) / B(hh)
        return x_next - B(hh) * condition * (before - now) / r

    assert near(run(solvers.ExponentialAdams(order=2)), by_hand(step))


def test_exponential_adams_integrates_the_interpolant_of_its_outputs() -> None:
    """∫ H e^{−H(1−v)} q(v) dv by 40 Gauss points, q the interpolant, by a Vandermonde solve."""
    import numpy as np

    from edm_unified.sampling.solvers.phi import lagrange_weights

    v, w = np.polynomial.legendre.leggauss(40)
    v, w = (v + 1) / 2, w / 2
    for H in (1e-6, 0.03, 0.7, 4.0, 12.0):
        nodes = [0.0, -0.8, -2.1, -3.0]
        basis = np.linalg.solve(np.vander(nodes, increasing=True).T, np.vander(v, 4, increasing=True).T)
        expected = (w * H * np.exp(-H * (1 - v)) * basis).sum(1)
        assert lagrange_weights(H, nodes) == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-12 * H)


@pytest.mark.parametrize("z", [-30.0, -3.0, -1.0, -0.999, -0.3, -1e-3, -1e-9, 0.0, 0.5])
def test_phi_functions(z: float) -> None:
    """φ_k(z) = ∫_0^1 e^{(1−v) z} v^{k−1}/(k−1)! dv, by 60 Gauss points."""
    import numpy as np

    v, w = np.polynomial.legendre.leggauss(60)
    v, w = (v + 1) / 2, w / 2
    assert phi(0, z) == pytest.approx(math.exp(z), rel=1e-14)
    for k in range(1, 6):
        integral = float((w * np.exp((1 - v) * z) * v ** (k - 1)).sum()) / math.factorial(k - 1)
        assert phi(k, z) == pytest.approx(integral, rel=1e-12)


# -- stochastic methods in the coordinates of their papers ------------------------------------------------------------


def test_heun_with_churn_is_algorithm_2() -> None:
    """Karras et al. 2022, Algorithm 2, line by line, with noise drawn on the churned steps alone."""
    rule = Churn(S_churn=5, S_min=0.05, S_max=50, S_noise=1.007)
    generator = torch.Generator().manual_seed(0)
    gamma = min(5 / 12, math.sqrt(2) - 1)
    x = NOISE * LEVELS[0]
    for t, t_next in pairwise(LEVELS):
        t_hat = t + (gamma if 0.05 <= t <= 50 else 0) * t
        if t_hat > t:
            x = x + math.sqrt(t_hat**2 - t**2) * 1.007 * fresh(generator)
        d = (x - D(x, at(t_hat))) / t_hat
        x_next = x + (t_next - t_hat) * d
        if t_next != 0:
            d_prime = (x_next - D(x_next, at(t_next))) / t_next
            x_next = x + (t_next - t_hat) * (0.5 * d + 0.5 * d_prime)
        x = x_next
    generator = torch.Generator().manual_seed(0)
    dynamics, path = walk_over(rule.walk(LEVELS), EDM(), D)
    ours = walk(dynamics, NOISE * LEVELS[0], path, solvers.Heun(), None, rule.S_noise, lambda: fresh(generator))
    assert near(ours, x)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [VP(), schedules.SubVP()], ids=name)
def test_euler_maruyama_is_songs_on_x_t(schedule: Any, eta: float) -> None:
    """x ← x − [f x − ½(1+η²) g² ∇ln p] Δt + η g √Δt n, with β, g² and the score as Song et al. 2021 print them."""
    sub = isinstance(schedule, schedules.SubVP)
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(0.9, 0.05, 15, dtype=torch.float64).tolist()

    def mean_and_std(t: float) -> tuple[float, float]:
        alpha = math.exp(-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)
        return alpha, 1 - alpha**2 if sub else math.sqrt(1 - alpha**2)

    alpha, std = mean_and_std(t[0])
    x = NOISE * std
    for a, b in pairwise(t):
        alpha, std = mean_and_std(a)
        beta = 0.1 + a * 19.9
        g2 = beta * (1 - math.exp(-2 * 0.1 * a - 19.9 * a**2)) if sub else beta
        score = (alpha * D(x / alpha, at(std / alpha)) - x) / std**2
        drift = -0.5 * beta * x - 0.5 * (1 + eta**2) * g2 * score
        x = x + drift * (b - a) + eta * math.sqrt(g2 * (a - b)) * fresh(generator)
    levels = schedule.sigma(torch.tensor(t, dtype=torch.float64)).tolist()
    ours = run(solvers.EulerMaruyama(eta=eta), schedule, tuple(levels))
    assert near(ours * mean_and_std(t[-1])[0], x, 1e-9)  # t is recovered from σ here


# -- DDPM and DDIM in the coordinates of their papers, on all thousand steps ------------------------------------------


TABLE = BetaTable()


def textbook() -> tuple[list[float], list[float]]:
    """β_k and ᾱ_k, k = 1 … 1000, ᾱ_0 = 1 first."""
    betas = [1e-4 + k / 999 * (0.02 - 1e-4) for k in range(1000)]
    alpha_bar = [1.0]
    for beta in betas:
        alpha_bar.append(alpha_bar[-1] * (1 - beta))
    return betas, alpha_bar


def each_step_of_the_table(solver: Any) -> Any:
    """(k, x, x after our step, the noise it was given, D) for the thousand steps k → k − 1, each from a fresh x."""
    dynamics = dynamics_of(TABLE, D)
    path = dynamics.walk(TableSubset(n=1000).levels(TABLE).tolist())
    state = solver.init(dynamics, path)
    generator = torch.Generator().manual_seed(5)
    n = fresh(generator)
    for k, (a, b) in zip(range(1000, 0, -1), path.moves, strict=True):
        x = fresh(generator) * math.sqrt(1 + a.sigma**2)
        after, state = solver.step(dynamics, x, a, b, state, lambda: n)
        yield k, a, x, after, n


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_is_ho_equation_7_on_every_step(variance: Any) -> None:
    """μ̃ = √ᾱ_{t−1} β/(1−ᾱ) x̂_0 + √α (1−ᾱ_{t−1})/(1−ᾱ) x_t, and β̃ or β as its variance, to 1e-12 of the state."""
    betas, alpha_bar = textbook()
    for k, a, x, after, n in each_step_of_the_table(solvers.DDPM(variance=variance)):
        beta, bar, bar_before = betas[k - 1], alpha_bar[k], alpha_bar[k - 1]
        x_t, x_0 = math.sqrt(bar) * x, D(x, a.sigma_tensor)
        mean = math.sqrt(bar_before) * beta / (1 - bar) * x_0
        mean = mean + math.sqrt(1 - beta) * (1 - bar_before) / (1 - bar) * x_t
        posterior = (1 - bar_before) / (1 - bar) * beta
        std = 0.0 if k == 1 else math.sqrt({"small": posterior, "large": beta}[variance])
        assert near(math.sqrt(bar_before) * after, mean + std * n), k


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_song_equation_12_on_every_step(eta: float) -> None:
    """x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1−ᾱ_{t−1}−σ²) ε + σ n, σ = η √((1−ᾱ_{t−1})/(1−ᾱ)) √(1−ᾱ/ᾱ_{t−1}) (their Eq. 16)."""
    _, alpha_bar = textbook()
    for k, a, x, after, n in each_step_of_the_table(solvers.DDIM(eta=eta)):
        bar, bar_before = alpha_bar[k], alpha_bar[k - 1]
        x_t, x_0 = math.sqrt(bar) * x, D(x, a.sigma_tensor)
        epsilon = (x_t - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
        sigma = eta * math.sqrt((1 - bar_before) / (1 - bar)) * math.sqrt(1 - bar / bar_before)
        expected = math.sqrt(bar_before) * x_0 + math.sqrt(max(0.0, 1 - bar_before - sigma**2)) * epsilon + sigma * n
        assert near(math.sqrt(bar_before) * after, expected), k


def test_ddim_over_a_whole_subset_of_the_table() -> None:
    """50 steps, trailing, in the VP state throughout: errors do not add up to more than 1e-12."""
    _, alpha_bar = textbook()
    kept = [alpha_bar[1000 - 20 * i] for i in range(50)] + [1.0]
    x_t = NOISE * math.sqrt(1 - kept[0])
    for bar, bar_before in pairwise(kept):
        x_0 = D(x_t / math.sqrt(bar), at(math.sqrt((1 - bar) / bar)))
        epsilon = (x_t - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
        x_t = math.sqrt(bar_before) * x_0 + math.sqrt(1 - bar_before) * epsilon
    ours = edm.sample(D, NOISE, schedule=TABLE, steps=TableSubset(n=50), solver=solvers.DDIM())
    assert near(ours, x_t, 1e-11)


def test_levels_may_stop_above_zero() -> None:
    """Half a walk and then the other half is the whole walk, for a method without a past."""
    steps = LogLinear(n=10).levels(EDM()).tolist()
    half = edm.sample(D, NOISE, steps=Explicit(sigmas=tuple(steps[:6])), solver=solvers.Heun())
    rest = edm.sample(D, half / steps[5], steps=Explicit(sigmas=tuple(steps[5:])), solver=solvers.Heun())
    assert near(rest, edm.sample(D, NOISE, steps=Explicit(sigmas=tuple(steps)), solver=solvers.Heun()), 1e-13)
