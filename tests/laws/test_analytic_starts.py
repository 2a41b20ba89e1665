"""Laws of the analytic starts: what stands in for D at the highest levels, and what it costs and spoils."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from variants import ANALYTIC_STARTS, SCHEDULES, SOLVERS, Mixture, by_kind, cover, every, name, one_of_each, slope

import edm_unified as edm
from edm_unified import analytic_starts, solvers
from edm_unified.data import Dataset
from edm_unified.sampling.analytic_starts import AnalyticFirstStep, GaussianJump
from edm_unified.sampling.levels import Explicit, Karras
from edm_unified.sampling.loop import Progress, levels_of
from edm_unified.sampling.renoising import Ancestral, Churn, Corrected
from edm_unified.schedules import EDM

MEAN = torch.tensor([0.4, -1.0, 0.1], dtype=torch.float64)
COV = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
G = edm.exact.Gaussian(MEAN, COV)
NOISE = edm.unit_noise(6, (3,), seed=2)
STEPS = Karras(n=12)
LEVELS = levels_of(STEPS, EDM())


def flow(x: Tensor, a: float, b: float) -> Tensor:
    """The flow of N(MEAN, COV) by matrix functions of another library."""
    values, U = np.linalg.eigh(COV.numpy())
    ratio = U @ np.diag(np.sqrt((values + b**2) / (values + a**2))) @ U.T
    return MEAN + (x - MEAN) @ torch.from_numpy(ratio)


class Watched:
    """A denoiser that remembers the levels at which it was asked."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        self.denoiser, self.seen = denoiser, list[float]()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.seen.append(float(sigma))
        return self.denoiser(x, sigma)


# -- on a Gaussian, nothing is lost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [30.0, 1.0, 0.01])
def test_the_jump_is_exact_on_a_gaussian(sigma: float) -> None:
    seen: list[Progress] = []
    analytic_start = GaussianJump(sigma=sigma).of(G)
    lands = min(level for level in LEVELS if level >= sigma)
    left = levels_of(STEPS, EDM(), analytic_start=analytic_start)
    assert left == tuple(level for level in LEVELS if level <= lands)
    edm.sample(G, NOISE, steps=STEPS, analytic_start=analytic_start, callback=seen.append)
    assert [p.sigma for p in seen] == list(left[1:])
    jumped = edm.sample(G, NOISE, steps=Explicit(sigmas=(80.0, lands)), analytic_start=analytic_start)
    assert float((jumped - flow(80 * NOISE, 80.0, lands)).abs().max()) < 1e-12 * 80


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), [1, 3, 100])))
def test_on_its_own_gaussian_an_analytic_step_changes_nothing(runs: list[Any]) -> None:
    """So the order of every solver, and the law of a stochastic one, is on Gaussians what it was."""
    for solver, levels in runs:
        analytic_start = AnalyticFirstStep(levels=levels).of(G)
        plain = edm.sample(G, NOISE, steps=STEPS, solver=solver)
        begun = edm.sample(G, NOISE, steps=STEPS, solver=solver, analytic_start=analytic_start)
        assert torch.allclose(begun, plain, rtol=1e-11, atol=1e-12), name(solver, levels)


# -- off it, the loss is what theory says ----------------------------------------------------------------------------


def third_cumulant() -> tuple[float, float, float]:
    """Mean, variance and κ₃ of the mixture."""
    w, m, v = Mixture.weights, Mixture.means, Mixture.variances
    mean = float(w @ m)
    d = m - mean
    return mean, float(w @ (v + d**2)), float(w @ (d**3 + 3 * d * v))


Z = np.array([-2.0, -1.6, -0.5, 0.5, 1.6, 2.0])


def jump_error(sigma: float) -> np.ndarray:
    """Exact state less jumped one at ``sigma``, from σ_0 = 400: the even part in z, for that of κ₄ is odd."""
    high = 400.0
    solution = solve_ivp(
        lambda u, x: Mixture().numpy(x, math.exp(-u)) - x,
        (-math.log(high), -math.log(sigma)),
        high * Z,
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
    )
    mean, variance, _ = third_cumulant()
    analytic_start = GaussianJump(sigma=sigma, mean=mean, sigma_data=math.sqrt(variance))
    steps = Explicit(sigmas=(high, sigma))
    noise = torch.from_numpy(Z)[:, None]
    jumped = edm.sample(lambda x, sigma: 1 / 0, noise, steps=steps, analytic_start=analytic_start)  # D is never asked
    error = solution.y[:, -1] - jumped[:, 0].numpy()
    return 0.5 * (error + error[::-1])


def test_the_error_of_a_jump_is_that_of_the_third_cumulant() -> None:
    """x − x_jump = σ κ₃ (z² − 1)/6 (σ⁻³ − σ_0⁻³) to leading order: it falls as the jump is shorter."""
    _, _, kappa = third_cumulant()
    errors = {sigma: jump_error(sigma) for sigma in (10.0, 20.0, 40.0)}
    for sigma, error in errors.items():
        predicted = sigma * kappa * (Z**2 - 1) / 6 * (sigma**-3 - 400.0**-3)
        assert error == pytest.approx(predicted, rel=4 / sigma)
    measured = slope({int(sigma): float(np.abs(error).max()) for sigma, error in errors.items()})
    assert measured == pytest.approx(2, abs=0.1)  # of x; of what x is wide, one more


@pytest.mark.parametrize("solver", [solvers.DPMSolverPP2M(), solvers.Heun(), solvers.LMS(order=3)], ids=name)
def test_the_endpoint_is_the_better_the_less_is_jumped(solver: Any) -> None:
    """With steps enough, what remains is the jump's own error: a third power, κ₃ not being zero."""
    noise = edm.unit_noise(40, (1,), seed=4)
    mean, variance, _ = third_cumulant()
    truth = edm.reference(Mixture(), noise)
    errors = {}
    for sigma in (4.0, 8.0, 16.0):
        analytic_start = GaussianJump(sigma=sigma, mean=mean, sigma_data=math.sqrt(variance))
        steps = Explicit(sigmas=(80.0, *np.geomspace(sigma, 0.002, 2000).tolist(), 0.0))
        x = edm.sample(Mixture(), noise, steps=steps, solver=solver, analytic_start=analytic_start)
        errors[sigma] = float((x - truth).abs().median())
    assert errors[4.0] > 5 * errors[8.0] > 25 * errors[16.0]


# -- what is spared --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), [1, 2, 5])))
def test_D_is_not_asked_at_the_highest_levels(runs: list[Any]) -> None:
    """And everywhere else it is, as often as without an analytic start."""
    for solver, levels in runs:
        plain, spared = Watched(G), Watched(G)
        edm.sample(plain, NOISE, steps=STEPS, solver=solver)
        analytic_start = AnalyticFirstStep(levels=levels, sigma_data=0.5)
        edm.sample(spared, NOISE, steps=STEPS, solver=solver, analytic_start=analytic_start)
        assert spared.seen == [sigma for sigma in plain.seen if sigma < LEVELS[levels - 1]], name(solver, levels)
        counted = edm.count_nfe(STEPS, solver, analytic_start=analytic_start)
        assert counted == len(spared.seen) < len(plain.seen), name(solver, levels)


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_a_jump_is_a_shorter_walk(settings: list[Any]) -> None:
    """The run over the levels that are left, from the state to which it jumps."""
    analytic_start = GaussianJump(sigma=5.0).of(G)
    left = levels_of(STEPS, EDM(), analytic_start=analytic_start)
    landed = edm.sample(G, NOISE, steps=Explicit(sigmas=(80.0, left[0])), analytic_start=analytic_start)
    for solver in settings:
        watched = Watched(G)
        x = edm.sample(watched, NOISE, steps=STEPS, solver=solver, analytic_start=analytic_start)
        again = edm.sample(G, landed / left[0], steps=Explicit(sigmas=left), solver=solver)
        assert torch.allclose(x, again, rtol=1e-12, atol=1e-13), name(solver)
        assert len(watched.seen) == edm.count_nfe(STEPS, solver, analytic_start=analytic_start), name(solver)
        assert max(watched.seen) == left[0] < LEVELS[0], name(solver)


def test_a_count_needs_no_estimate() -> None:
    assert edm.count_nfe(Karras(n=18), solvers.Heun(), analytic_start=AnalyticFirstStep()) == 34
    assert edm.count_nfe(Karras(n=18), solvers.DDIM(), analytic_start=GaussianJump(sigma=20.0)) == 15
    assert edm.count_nfe(Karras(n=5), solvers.DDIM(), analytic_start=AnalyticFirstStep(levels=99)) == 0


def test_a_jump_that_has_no_level_to_go_to_is_none() -> None:
    analytic_start = GaussianJump(sigma=70.0, sigma_data=0.5)
    assert levels_of(STEPS, EDM(), analytic_start=analytic_start) == LEVELS
    plain = edm.sample(G, NOISE, steps=STEPS)
    assert torch.equal(edm.sample(G, NOISE, steps=STEPS, analytic_start=analytic_start), plain)


def test_the_lowest_level_that_can_be_jumped_to_is_the_last_above_zero() -> None:
    assert levels_of(STEPS, EDM(), analytic_start=GaussianJump(sigma=1e-9)) == LEVELS[-2:]


@pytest.mark.parametrize("analytic_start", every(ANALYTIC_STARTS), ids=name)
@pytest.mark.parametrize("rule", [Churn(S_min=0, S_max=1e9), Ancestral(), Corrected(repeats=2)], ids=name)
def test_renoising_is_of_the_levels_that_are_left(rule: Any, analytic_start: Any) -> None:
    corrector = edm.correctors.AnnealedLangevin() if isinstance(rule, Corrected) else None
    watched = Watched(G)
    x = edm.sample(
        watched,
        NOISE,
        steps=STEPS,
        solver=solvers.DDIM(),
        renoising=rule,
        analytic_start=analytic_start,
        corrector=corrector,
    )
    assert bool(torch.isfinite(x).all())
    assert levels_of(STEPS, EDM(), rule, analytic_start) == rule.walk(analytic_start.walk(LEVELS))
    assert max(watched.seen) < analytic_start.answers_from(LEVELS)


@pytest.mark.parametrize("analytic_start", every(ANALYTIC_STARTS), ids=name)
def test_under_every_schedule(analytic_start: Any) -> None:
    for schedule in one_of_each(SCHEDULES):
        for steps in (Karras(n=1, sigma_max=10.0), Karras(n=7, sigma_max=10.0)):
            x = edm.sample(G, NOISE, schedule=schedule, steps=steps, analytic_start=analytic_start)
            assert bool(torch.isfinite(x).all()), name(schedule)


def test_a_network_is_not_asked_beyond_its_range() -> None:
    class Ranged:
        sigma_min, sigma_max = 0.0, 25.0

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            assert float(sigma) <= 25
            return G(x, sigma)

    with pytest.raises(ValueError, match=r"^sigma_max: the network supports σ up to 25"):
        edm.sample(Ranged(), NOISE, steps=STEPS)
    edm.sample(Ranged(), NOISE, steps=STEPS, analytic_start=GaussianJump(sigma=10.0).of(G))


# -- the same sample in any batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("analytic_start", [AnalyticFirstStep(levels=3), GaussianJump(sigma=2.0)], ids=name)
@pytest.mark.parametrize("shape", [(3, 5, 7), ()], ids=str)
def test_sample_i_of_seed_S_in_any_batch(analytic_start: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Bit for bit, with a Gaussian whose axes are not those of the pixels."""

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2) + 0.1 * torch.exp(-x * x / (1 + sigma**2))

    d = math.prod(shape)
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = analytic_start.of(edm.exact.Gaussian(torch.linspace(-1, 1, d).reshape(shape or (1,)), root @ root.mT / d))
    settings: dict[str, Any] = {
        "steps": Karras(n=6),
        "dtype": dtype,
        "analytic_start": known,
        "solver": solvers.DPMSolverPP2M(),
    }
    together = edm.sample(D, edm.unit_noise(64, shape, seed=7), **settings)
    for first, size in ((0, 7), (57, 7), (33, 1)):
        alone = edm.sample(D, edm.unit_noise(size, shape, seed=7, first=first), **settings)
        assert torch.equal(alone, together[first : first + size])
    assert together.dtype == dtype


# -- where the Gaussian comes from -----------------------------------------------------------------------------------


def test_the_gaussian_of_the_data() -> None:
    """Mean and covariance as numpy has them; with a low rank the largest directions and the mean of the rest."""
    generator = torch.Generator().manual_seed(0)
    images = (torch.randn(500, 6, generator=generator) * torch.arange(1.0, 7.0) + 0.5).float()
    dataset = Dataset(images, None, "made up")
    full = AnalyticFirstStep(rank=None).build(dataset).gaussian((6,))
    low = GaussianJump(rank=2).build(dataset).gaussian((6,))
    mean, cov = full.moments()
    assert torch.allclose(mean, images.double().mean(0))
    expected = torch.from_numpy(np.cov(images.double().numpy().T, bias=True))
    assert torch.allclose(cov, expected, atol=2e-3)  # the floor, 1e-3
    kept = torch.linalg.eigvalsh(expected)
    assert torch.allclose(torch.linalg.eigvalsh(low.moments()[1])[-2:], kept[-2:], atol=2e-3)
    assert torch.allclose(low.moments()[1].trace(), expected.trace(), atol=0.02)


def test_numbers_are_used_as_they_are() -> None:
    analytic_start = AnalyticFirstStep(sigma_data=2.0, mean=0.5)
    assert analytic_start.build(Dataset(torch.zeros(1, 2), None, "unread")) is analytic_start
    mean, cov = analytic_start.gaussian((2,)).moments()
    assert torch.equal(mean, torch.full((2,), 0.5, dtype=torch.float64))
    assert torch.equal(cov, 4 * torch.eye(2, dtype=torch.float64))


def test_the_first_step_of_genie() -> None:
    """ε = x/√(1+σ²) in the place of the exact σx/(1+σ²) for unit variance: the same to 8e-5 at σ = 80."""
    D = AnalyticFirstStep(sigma_data=1.0).gaussian((3,))
    x = 80 * NOISE
    epsilon = (x - D.denoise(x, 80.0)) / 80
    assert float((epsilon / (x / math.sqrt(1 + 80.0**2)) - 1).abs().max()) == pytest.approx(1 / (2 * 80.0**2), rel=1e-3)


def test_denoise_is_D() -> None:
    low = edm.exact.Gaussian.low_rank(MEAN, torch.tensor([[1.0], [2.0], [0.5]]), 0.1)
    for gaussian in (G, low, edm.exact.Gaussian(MEAN, 0.3)):
        for sigma in (0.01, 3.0, 80.0):
            assert torch.equal(gaussian.denoise(NOISE, sigma), gaussian(NOISE, sigma))
    assert (G.diagonal, low.diagonal, edm.exact.Gaussian(MEAN, 0.3).diagonal) == (False, False, True)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AnalyticFirstStep(levels=0), "^levels: must be a whole number from 1"),
        (lambda: AnalyticFirstStep(sigma_data=0.0), "^sigma_data: must be positive"),
        (lambda: AnalyticFirstStep(mean=0.5), "^mean: is estimated from the data, as sigma_data is null"),
        (lambda: AnalyticFirstStep(mean=math.nan, sigma_data=1.0), "^mean: must be finite"),
        (lambda: GaussianJump(sigma=-1.0), "^sigma: must be positive"),
        (lambda: GaussianJump(sigma=math.inf), "^sigma: must be positive and finite"),
        (lambda: GaussianJump(rank=0), "^rank: must be a whole number from 1"),
        (
            lambda: edm.sample(G, NOISE, analytic_start=GaussianJump()),
            "^analytic_start: sigma_data of gaussian_jump is null, .* give",
        ),
        (
            lambda: edm.sample(G, NOISE, analytic_start=GaussianJump().of(edm.exact.Gaussian([0.0], 1.0))),
            r"^analytic_start: its Gaussian has shape \(1,\), and a sample has \(3,\)",
        ),
        (
            lambda: edm.sample(
                G, NOISE, solver=solvers.DPMSolver12(), analytic_start=AnalyticFirstStep(sigma_data=1.0)
            ),
            "^analytic_start: it answers at levels of the walk; an adaptive solver has its own",
        ),
        (
            lambda: edm.sample(
                G, NOISE, solver=solvers.Ledger(solvers.DPMSolver12()), analytic_start=AnalyticFirstStep(sigma_data=1.0)
            ),
            "^analytic_start: it answers at levels of the walk",
        ),
    ],
)  # fmt: skip
def test_mistakes(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_an_adaptive_solver_may_begin_with_a_jump() -> None:
    ledger = solvers.Ledger(solvers.DormandPrince45(rtol=1e-9, atol=1e-9))
    x = edm.sample(G, NOISE, steps=STEPS, solver=ledger, analytic_start=GaussianJump(sigma=1.0).of(G), last="stop")
    assert float((x - flow(80 * NOISE, 80.0, LEVELS[-2])).abs().max()) < 1e-7


def test_a_head_is_a_head() -> None:
    assert {cls.__name__ for cls in ANALYTIC_STARTS} == {"AnalyticFirstStep", "GaussianJump"}
    for rule in every(ANALYTIC_STARTS):
        assert analytic_starts.Fitted(rule, G).walk(LEVELS) == rule.walk(LEVELS)
