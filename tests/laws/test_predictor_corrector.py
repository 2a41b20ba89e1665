"""Predictor–corrector sampling: any predictor, corrector and schedule; what a corrector leaves as its step shrinks.

The oracles: exact variances by basis noise, recursions written here, the published steps on x_t written here, and for
the rules that look at x the stationary law stated in ``correctors.py``, against a simulation.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from variants import (
    CORRECTORS,
    SCHEDULES,
    Mixture,
    Wiener,
    dynamics_of,
    every,
    exact_variance,
    log_levels,
    name,
    one_of_each,
    slope,
)

import edm_unified as edm
from edm_unified import correctors, schedules, solvers
from edm_unified.sampling import loop
from edm_unified.sampling.levels import Explicit, Karras, LogLinear
from edm_unified.sampling.loop import count_nfe, unit_noise
from edm_unified.sampling.renoising import Churn, Corrected

PREDICTORS = [
    solvers.NoPredictor(),
    solvers.ReverseDiffusion(),
    solvers.EulerMaruyama(),
    solvers.DDPM(),
    solvers.DDIM(),
    solvers.Euler(),
    solvers.Heun(),
]
VARIANCES = (0.01, 0.25, 1.0, 4.0)
FIXED = [correctors.AnnealedLangevin(), correctors.NCSNLangevin()]
"""Those whose step follows from the level alone."""


def at(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


# -- any with any ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", every(CORRECTORS), ids=name)
@pytest.mark.parametrize("predictor", PREDICTORS, ids=name)
def test_any_predictor_with_any_corrector_under_any_schedule(predictor: Any, corrector: Any) -> None:
    """Sub-VP among them. Two corrections on each of six levels cost twelve evaluations beside the predictor's."""
    noise, steps, twice = unit_noise(4, (6,), seed=1), Karras(n=6, sigma_max=20.0, sigma_min=0.05), Corrected(2)
    alone = 0 if isinstance(predictor, solvers.NoPredictor) else count_nfe(steps, predictor)
    found = {}
    for schedule in one_of_each(SCHEDULES):
        x = edm.sample(
            Mixture(), noise, schedule=schedule, steps=steps, solver=predictor, renoising=twice, corrector=corrector
        )
        assert bool(torch.isfinite(x).all())
        assert count_nfe(steps, predictor, schedule, twice, corrector) == alone + 12
        found[schedule.kind] = x
    if isinstance(predictor, solvers.NoPredictor | solvers.DDPM | solvers.DDIM):  # blind, and no corrector sees it
        for x in found.values():
            assert torch.allclose(x, found["edm"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.SubVP(), schedules.GeometricVE()], ids=name)
@pytest.mark.parametrize("predictor", PREDICTORS[1:6], ids=name)
def test_weak_order_of_predictor_and_corrector(predictor: Any, schedule: Any, table: list[tuple[str, ...]]) -> None:
    """With snr² ∝ 1/N the correction is of the order of a step, and the variance converges at order 1."""
    truth = torch.tensor(VARIANCES, dtype=torch.float64) + 0.1**2
    errors = {}
    for n in (160, 320):
        levels = list(Corrected().walk(tuple(log_levels(n, 8.0, 0.1))))
        corrector = correctors.AnnealedLangevin(snr=0.16 * math.sqrt(100 / n))
        variance = exact_variance(predictor, levels, VARIANCES, schedule=schedule, corrector=corrector)
        errors[n] = float((variance / truth - 1).abs().max())
    order = slope(errors)
    table.append((name(predictor), name(schedule), "corrected, weak 1", f"measured {order:.2f}", f"{errors[320]:.1e}"))
    assert order == pytest.approx(1, abs=0.2), errors


@pytest.mark.parametrize("predictor", [solvers.ReverseDiffusion(), solvers.DDPM(), solvers.EulerMaruyama()], ids=name)
def test_a_corrector_mends_the_variance_of_a_coarse_predictor(predictor: Any) -> None:
    """Ten steps under VP: ten small corrections at each level leave less of the predictor's error than none do."""
    levels = tuple(log_levels(10, 8.0, 0.1))
    truth = torch.tensor((0.25, 1.0), dtype=torch.float64) + 0.1**2

    def error(walk: tuple[float, ...], corrector: Any) -> float:
        variance = exact_variance(predictor, list(walk), (0.25, 1.0), schedule=schedules.VP(), corrector=corrector)
        return float((variance / truth - 1).abs().max())

    corrected = error(Corrected(10).walk(levels), correctors.AnnealedLangevin(snr=0.16))
    assert corrected < error(levels, None)


# -- no predictor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", FIXED, ids=name)
def test_without_a_predictor_the_variance_follows_the_recursion_of_langevin(corrector: Any) -> None:
    """var ← (1 − q k)² var + 2 q σ², k = σ²/(v + σ²), T times on each level, and nothing in between."""
    ladder, repeats = tuple(log_levels(9, 2.0, 0.02)), 30
    q = 2 * corrector.snr**2 if hasattr(corrector, "snr") else corrector.epsilon / corrector.sigma_min**2
    v = torch.tensor(VARIANCES, dtype=torch.float64)
    variance = v + ladder[0] ** 2
    for sigma in ladder:
        for _ in range(repeats):
            variance = (1 - q * sigma**2 / (v + sigma**2)) ** 2 * variance + 2 * q * sigma**2
    walk = list(Corrected(repeats).walk(ladder))
    assert torch.allclose(exact_variance(solvers.NoPredictor(), walk, VARIANCES, corrector=corrector), variance)


def test_annealed_langevin_is_the_limit_without_a_predictor() -> None:
    """Many small steps on each level: the marginal of the last level to order snr², though nothing was predicted."""
    ladder, truth = tuple(log_levels(9, 4.0, 0.5)), torch.tensor((0.25, 1.0), dtype=torch.float64) + 0.5**2
    errors = {}
    for n, snr in ((5, 0.2), (10, 0.1)):
        corrector = correctors.AnnealedLangevin(snr=snr)
        walk = list(Corrected(round(20 / snr**2)).walk(ladder))
        variance = exact_variance(solvers.NoPredictor(), walk, (0.25, 1.0), corrector=corrector)
        errors[n] = float((variance / truth - 1).abs().max())
    assert slope(errors) == pytest.approx(2, abs=0.15), errors
    assert errors[10] < 0.01


def test_ncsn_is_algorithm_1() -> None:
    """Song & Ermon 2020, Algorithm 1, on the scores, by hand; and one more denoising at the end."""
    ladder, repeats, epsilon = (1.0, 0.3, 0.1, 0.03, 0.01), 7, 2e-5
    start = unit_noise(3, (5,), seed=2)
    source = loop.NoiseStreams(4, 0, start.shape, torch.float64, start.device, purpose=loop.Purpose.STEPS)
    x, D = start * ladder[0], Mixture()
    for sigma in ladder:
        alpha = epsilon * sigma**2 / ladder[-1] ** 2
        for _ in range(repeats):
            score = (D(x, at(sigma)) - x) / sigma**2
            x = x + alpha * score + math.sqrt(2 * alpha) * source()

    def ours(last: Any) -> Tensor:
        return edm.sample(
            D,
            start,
            steps=Explicit(sigmas=(*ladder, 0.0)),
            solver=solvers.NoPredictor(),
            renoising=Corrected(repeats),
            corrector=correctors.NCSNLangevin(epsilon=epsilon, sigma_min=ladder[-1]),
            seed=4,
            last=last,
        )

    assert torch.allclose(ours("solver"), x, rtol=0, atol=1e-12)  # as in 2019, with the noise of σ_L in it
    assert torch.allclose(ours("denoise"), D(x, at(ladder[-1])), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("epsilon", "sigma_min", "snr"), [(2e-5, 0.01, 0.316), (6.2e-6, 0.01, 0.176)], ids=["2019", "2020"]
)
def test_ncsn_steps_are_annealed_langevin_of_the_snr_in_the_score_sde_configurations(
    epsilon: float, sigma_min: float, snr: float
) -> None:
    ours = correctors.NCSNLangevin(epsilon=epsilon, sigma_min=sigma_min)
    exact = math.sqrt(epsilon / 2) / sigma_min
    assert exact == pytest.approx(snr, abs=5e-4)
    dynamics = dynamics_of(schedules.EDM(), Mixture())
    level = dynamics.walk((0.4, 0.0)).levels[0]
    x, n = unit_noise(3, (5,), seed=0), unit_noise(3, (5,), seed=1)
    a, b = (c.step(dynamics, x, level, lambda: n) for c in (ours, correctors.AnnealedLangevin(snr=exact)))
    assert torch.allclose(a, b, rtol=0, atol=1e-14)


def test_what_solves_nothing_has_no_certificate_and_is_in_no_set() -> None:
    from click.testing import CliRunner

    from edm_unified.certify import every as rows
    from edm_unified.cli import main
    from edm_unified.compare.sets import solver_set

    assert solvers.NoPredictor() not in rows()
    assert solvers.NoPredictor() not in solver_set("all")
    result = CliRunner().invoke(main, ["certify", "none"])
    assert (result.exit_code, result.stderr.strip()) == (
        2,
        "Error: certify: none solves nothing, so that there is nothing to measure; leave it out",
    )


def test_nothing_that_moves_x_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"^solver: none leaves x as it is.*add renoising=Corrected\(repeats=100\)"):
        edm.sample(Mixture(), unit_noise(2, (3,)), solver=solvers.NoPredictor())


# -- what is left as the step goes to 0 --------------------------------------------------------------------------------


def stay(corrector: Any, d: int, batch: int, moves: int, sigma: float = 1.0) -> float:
    """Mean square over V of N(0, 1) data at σ after a long stay, averaged over the last third of it."""
    generator = torch.Generator().manual_seed(d)
    draw = lambda: torch.randn(batch, d, generator=generator, dtype=torch.float64)  # noqa: E731
    V = 1 + sigma**2
    dynamics = dynamics_of(schedules.EDM(), lambda x, s: x / V)
    level = dynamics.walk((sigma, 0.0)).levels[0]
    x, seen = draw() * math.sqrt(V), []
    for move in range(moves):
        x = corrector.step(dynamics, x, level, draw)
        if move > 2 * moves // 3:
            seen.append(float(x.square().mean()) / V)
    return sum(seen) / len(seen)


def test_ncsn_langevin_keeps_the_marginal_to_first_order_in_epsilon() -> None:
    """It settles at V/(1 − q k/2), q = ε/σ_min²: to the last digit, and hence at order 1 in ε, order 2 in snr."""
    sigma, errors = 0.7, {}
    for n, epsilon in ((1, 2e-6), (2, 1e-6)):
        corrector = correctors.NCSNLangevin(epsilon=epsilon, sigma_min=0.01)
        q, V = epsilon / 0.01**2, 1 + sigma**2
        variance = exact_variance(solvers.DDIM(), [sigma] * round(40 / q), (1.0,), corrector=corrector)
        assert float(variance) == pytest.approx(V / (1 - q * sigma**2 / V / 2), rel=1e-6)
        errors[n] = float(variance / V - 1)
    assert slope(errors) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("d", [4, 8])
def test_the_rule_by_norms_widens_the_marginal_by_the_number_of_dimensions(d: int) -> None:
    """As snr → 0 at (1 + 2/d)²: neither the norm of the score nor that of the noise is independent of what it scales.

    16 000 numbers at each of the last moves leave an error of 1 to 2 %; snr = 0.1 itself adds up to 3 %.
    """
    settled = stay(correctors.Langevin(snr=0.1), d, batch=16_000 // d, moves=400)
    assert settled == pytest.approx((1 + 2 / d) ** 2, rel=0.06)
    assert settled > 1.2


def test_means_over_a_large_batch_do_not() -> None:
    """The norms of a large batch hardly depend on one sample: what is left is the order snr² of every Langevin step."""
    loud, quiet = (stay(correctors.BatchLangevin(snr=snr), 8, 2000, round(4 / snr**2)) for snr in (0.2, 0.1))
    assert quiet == pytest.approx(1, abs=0.03)
    assert abs(loud - 1) > abs(quiet - 1)


# -- batches, and the published code -----------------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", every(CORRECTORS), ids=name)
def test_a_sample_depends_on_its_batch_under_the_batch_rule_alone(corrector: Any) -> None:
    def drawn(first: int, n: int) -> Tensor:
        return edm.sample(
            Mixture(),
            unit_noise(n, (6,), seed=3, first=first),
            steps=LogLinear(n=8, sigma_max=10.0, sigma_min=0.05),
            solver=solvers.ReverseDiffusion(),
            renoising=Corrected(),
            corrector=corrector,
            seed=3,
            first=first,
        )

    whole, part = drawn(0, 8), drawn(5, 3)
    if isinstance(corrector, correctors.BatchLangevin):
        assert float((whole[5:] - part).abs().max()) > 1e-3
        assert "batch" in corrector.formulas["corrector"]  # which `show` prints
        assert "depends on its batch" in (corrector.__doc__ or "")
    else:
        assert torch.equal(whole[5:], part)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.SubVP(), schedules.GeometricVE()], ids=name)
@pytest.mark.parametrize("kind", ["langevin", "ald"])
def test_the_published_correctors_on_x_t_are_ours_with_snr_root_alpha(kind: str, schedule: Any) -> None:
    """The released code: on x_t and its score, means over the batch, α = 1 − β_k (of which its sub-VP has none).

    s(t) drops out, and α is a factor of snr².
    """
    sigma, snr = 0.6, 0.16
    dynamics = dynamics_of(schedule, Mixture())
    level = dynamics.walk((sigma, 0.0)).levels[0]
    x, n = unit_noise(5, (4, 3), seed=0), unit_noise(5, (4, 3), seed=1)
    alpha = 1.0 if level.s == 1 else 1 - (0.1 + 19.9 * level.t) / 1000
    x_t = level.s * x
    score = (level.s * dynamics.denoise(x_t / level.s, level) - x_t) / (level.s * sigma) ** 2
    norms = [value.reshape(len(x), -1).norm(dim=-1).mean() for value in (n, score)]
    step = (
        (snr * norms[0] / norms[1]) ** 2 * 2 * alpha if kind == "langevin" else (snr * level.s * sigma) ** 2 * 2 * alpha
    )
    theirs = (x_t + step * score + (2 * step) ** 0.5 * n) / level.s
    rule = correctors.BatchLangevin if kind == "langevin" else correctors.AnnealedLangevin
    ours = rule(snr=snr * math.sqrt(alpha)).step(dynamics, x, level, lambda: n)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    assert 0.99 < math.sqrt(alpha) <= 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: correctors.BatchLangevin(snr=0.0), "^snr: must be positive"),
        (lambda: correctors.NCSNLangevin(epsilon=-1.0), "^epsilon: must be positive"),
        (lambda: correctors.NCSNLangevin(sigma_min=0.0), "^sigma_min: must be positive"),
        (
            lambda: correctors.NCSNLangevin(epsilon=2e-4, sigma_min=0.01),
            "^epsilon: must be below 2 sigma_min² = 0.0002",
        ),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_steps_beyond_the_bound_would_grow() -> None:
    """Why it is refused: on noise alone (v = 0) x' = (1 − q) x + …, which grows for q > 2."""
    ladder = [0.01] * 40
    near = correctors.NCSNLangevin(epsilon=1.9e-4, sigma_min=0.01)
    assert float(exact_variance(solvers.DDIM(), ladder, (1e-12,), corrector=near)) < 0.01
    x, D = torch.ones(1, 1, dtype=torch.float64), Wiener((0.0,))
    for _ in pairwise(ladder):
        x = x + 2.1 * (D(x, torch.tensor(0.01, dtype=torch.float64)) - x)
    assert float(x.abs()) > 10


def test_ncsn_is_trained_on_the_levels_it_walks() -> None:
    recipe = edm.Recipe.load("ncsn")
    assert recipe.objective is not None
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    trained = recipe.objective.noise.quantile(u, recipe.schedule)
    levels = torch.tensor(sorted({sigma for sigma in recipe.levels if sigma > 0}), dtype=torch.float64)
    torch.testing.assert_close(trained[50::100], levels, rtol=1e-12, atol=0)


def test_a_step_that_overshoots_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^snr: must be below 1, or the steps overshoot and grow, got 1.0"):
        correctors.AnnealedLangevin(snr=1.0)


@pytest.mark.parametrize("last", ["solver", "denoise", "stop"])
@pytest.mark.parametrize("rule", [Corrected(repeats=2), Churn(S_churn=4.0)], ids=lambda rule: rule.kind)
def test_an_adaptive_sde_leaves_the_noise_of_others_alone(rule: Any, last: Any) -> None:
    """How often it draws depends on the slowest of the batch; what rises and correctors draw does not."""
    scale = torch.tensor([[0.02, 1.0]], dtype=torch.float64)

    def D(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * 3) * scale / (1 + sigma.reshape(-1, 1))

    settings: dict[str, Any] = {"solver": solvers.AdaptiveSDE(), "steps": Karras(n=4), "renoising": rule, "last": last}
    if isinstance(rule, Corrected):
        settings["corrector"] = correctors.AnnealedLangevin(snr=0.3)
    together = edm.sample(D, edm.unit_noise(6, (2,)), **settings)
    alone = [edm.sample(D, edm.unit_noise(1, (2,), first=i), first=i, **settings) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
