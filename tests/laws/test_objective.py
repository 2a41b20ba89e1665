"""Laws of the objective: all losses are one, its minimum is the exact D, and p(σ) is the distribution it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn
from variants import cover

from edm_unified import preconditioning as pre
from edm_unified import schedules
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.training import objective as ob
from edm_unified.training import random_numbers
from edm_unified.training.random_numbers import TrainingPurpose

SCHEDULES = {
    "uniform_time": schedules.VP(),
    **dict.fromkeys(("logit_normal_time", "mode_time", "cos_map_time"), schedules.FlowMatching()),
}
NOISES = [noise() for noise in get_args(ob.AnyNoise)]
WEIGHTS = [weight() for weight in get_args(ob.AnyWeight)]
ids = lambda component: component.kind  # noqa: E731
EDM_SCHEDULE = schedules.EDM()


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.layers(torch.cat([x, torch.tanh(c_noise)[:, None]], 1))


TARGETS = {  # plain squared error of F against these; c is the factor that the paper puts in front of it
    "edm": lambda x0, n, s, d: (x0 - d**2 / (s**2 + d**2) * (x0 + s * n)) * torch.sqrt(s**2 + d**2) / (s * d),
    "epsilon": lambda x0, n, s, d: n,
    "score": lambda x0, n, s, d: -n / s,
    "v": lambda x0, n, s, d: (n - s * x0) / torch.sqrt(1 + s**2),
    "velocity": lambda x0, n, s, d: n - x0,
    "x0": lambda x0, n, s, d: x0,
}
NETWORKS = {
    "edm": pre.EDM(),
    "epsilon": pre.DDPM(),
    "score": pre.Score(),
    "v": pre.VPrediction(),
    "velocity": pre.FlowMatching(),
    "x0": pre.DataPrediction(),
}


SNR = lambda s: 1 / s**2  # noqa: E731
VP = schedules.VP()
PUBLISHED: dict[str, dict[str, Callable[[Tensor], Tensor | float]]] = {
    # weight: {which output: what the paper puts in front of the squared error of that output}
    "edm": {"edm": lambda s: 1.0},
    "epsilon": {"epsilon": lambda s: 1.0},
    "score": {"score": lambda s: s**2},
    "likelihood": {"score": lambda s: (VP.g(VP.time(s)) / VP.s(VP.time(s))) ** 2},  # x_t has the score of z over s
    "v": {"v": lambda s: 1.0},
    "velocity": {"velocity": lambda s: 1.0},
    "x0": {"x0": lambda s: 1.0},
    "min_snr": {
        "x0": lambda s: SNR(s).clamp(max=5),
        "epsilon": lambda s: SNR(s).clamp(max=5) / SNR(s),
        "v": lambda s: SNR(s).clamp(max=5) / (SNR(s) + 1),
    },
    "soft_min_snr": {
        "x0": lambda s: 4 * SNR(s) / (SNR(s) + 4),
        "v": lambda s: 4 * SNR(s) / (SNR(s) + 4) / (SNR(s) + 1),
        "edm": lambda s: (0.5 * s) ** 2 / (s**2 + 0.25) ** 2,
    },
    "sigmoid": {"epsilon": lambda s: torch.sigmoid(2 - torch.log(SNR(s)))},
    "p2": {"epsilon": lambda s: 1 / (1 + SNR(s))},
}
FORMS = [(weight, output) for weight in WEIGHTS for output in PUBLISHED[weight.kind]]


@pytest.mark.parametrize(("weight", "output"), FORMS, ids=str)
def test_the_loss_on_D_is_the_published_loss_on_the_network_output(weight, output):
    torch.manual_seed(0)
    network, row = MLP(), NETWORKS[output]
    x0, n = torch.randn(2, 64, 3, dtype=torch.float64)
    u = torch.rand(64, dtype=torch.float64)
    noise = ob.LogUniform(0.01, 100.0)
    sigma = noise.quantile(u, VP)
    s = sigma[:, None]
    error = network(row.c_in(s) * (x0 + s * n), row.c_noise(sigma)) - TARGETS[output](x0, n, s, 0.5)
    published = PUBLISHED[weight.kind][output](sigma) * error.square().mean(1)
    objective = ob.Objective(noise, weight)
    D = Preconditioned(network, row)
    torch.testing.assert_close(objective.losses(D, x0, u, n, VP), published, rtol=1e-10, atol=1e-12)
    loss = objective.loss(D, x0, u, n, VP)
    torch.testing.assert_close(loss, published.mean(), rtol=1e-10, atol=0)
    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    for got, expected in zip(gradients, torch.autograd.grad(published.mean(), list(network.parameters())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("weight", "output"), FORMS, ids=str)
def test_weights_are_the_published_ones_at_all_levels(weight, output):
    sigma = torch.logspace(-3, 5, 100, dtype=torch.float64)
    product = weight(sigma, VP) * NETWORKS[output].c_out(sigma) ** 2
    expected = PUBLISHED[weight.kind][output](sigma) * torch.ones_like(sigma)
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=0)


def test_the_sigmoid_is_the_soft_minimum():
    """Kingma & Gao's sigmoid with bias b, on ε, and Crowson's soft-min-SNR with γ = e^b, on x_0, are one loss."""
    sigma = torch.logspace(-4, 6, 60, dtype=torch.float64)
    same = ob.SoftMinSNRWeight(math.exp(-1.5))(sigma)
    torch.testing.assert_close(ob.SigmoidWeight(-1.5)(sigma), same, rtol=1e-14, atol=0)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.FlowMatching(2.0), schedules.GeometricVE()], ids=ids)
def test_likelihood_weighting_is_the_same_integral_under_every_schedule(schedule):
    """∫ λ f(σ(t)) dt = 2 ∫ f dσ/σ³."""
    t = torch.linspace(0.2, 0.8, 200_001, dtype=torch.float64)
    sigma = schedule.sigma(t)
    f = lambda s: s**2 / (0.5 + s)  # noqa: E731
    got = torch.trapezoid(ob.LikelihoodWeight()(sigma, schedule) * f(sigma), t)
    # ∫ 2 dσ/(σ (½ + σ)) = 4 ln(σ/(½ + σ))
    ends = 4 * torch.log(sigma[[0, -1]] / (0.5 + sigma[[0, -1]]))
    assert float(got) == pytest.approx(float(ends[1] - ends[0]), rel=1e-7)
    with pytest.raises(ValueError, match=r"^schedule: the likelihood weight"):
        ob.LikelihoodWeight()(sigma)


def plane(variance: float, nodes: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 ~ N(0, variance) and n ~ N(0, 1) as a Gauss–Hermite grid: exact for polynomials of degree < 24."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    x0, n = torch.meshgrid(math.sqrt(variance) * points, points, indexing="ij")
    w = weights[:, None] * weights / (2 * math.pi)
    return x0.reshape(-1, 1), n.reshape(-1, 1), w.flatten()


@pytest.mark.parametrize(("noise", "weight"), cover(NOISES, WEIGHTS, times=3), ids=ids)
def test_loss_of_the_exact_denoiser_is_its_closed_form(noise, weight):
    """Gaussian data of variance c: E λ ‖D − x_0‖² = λ c σ²/(c + σ²)."""
    c = 0.7
    x0, n, w = plane(c)
    schedule = SCHEDULES.get(noise.kind, EDM_SCHEDULE)
    for level in (0.05, 0.5, 0.95):
        u = torch.full((len(x0),), level, dtype=torch.float64)
        sigma = noise.quantile(u[:1], schedule)
        exact = lambda x, sigma: c / (c + sigma[:, None] ** 2) * x  # noqa: E731
        loss = (w * ob.Objective(noise, weight).losses(exact, x0, u, n, schedule)).sum()
        expected = weight(sigma, schedule) * c * sigma**2 / (c + sigma**2)
        torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)


def test_edm_weight_makes_an_untrained_network_cost_one_at_every_level():
    x0, n, w = plane(0.25)
    D = Preconditioned(lambda x, c_noise: torch.zeros_like(x), pre.EDM(sigma_data=0.5))
    for level in (0.01, 0.3, 0.7, 0.99):
        u = torch.full((len(x0),), level, dtype=torch.float64)
        assert float((w * ob.Objective().losses(D, x0, u, n, EDM_SCHEDULE)).sum()) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize(("noise", "weight"), cover(NOISES, WEIGHTS, times=3), ids=ids)
def test_exact_denoiser_is_a_stationary_point(noise, weight):
    """Data ±1, so that D = tanh(z/σ²): no direction D + θ h(z) lowers the loss, and a wrong D is noticed.

    The expectation over n is a trapezoid sum, which converges exponentially for such integrands.
    """
    grid = torch.linspace(-11, 11, 4001, dtype=torch.float64)
    density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    x0 = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(len(grid))[:, None]
    n, w = grid.repeat(2)[:, None], density.repeat(2) / 2
    schedule = SCHEDULES.get(noise.kind, EDM_SCHEDULE)
    for level in (0.3, 0.6, 0.8):
        u = torch.full((len(x0),), level, dtype=torch.float64)
        for h in (torch.ones_like, torch.tanh, torch.sin, lambda z: torch.exp(-(z**2))):
            theta, slack = torch.zeros(2, dtype=torch.float64, requires_grad=True)

            def perturbed(z: Tensor, sigma: Tensor, theta=theta, slack=slack, h=h) -> Tensor:
                return (1 + slack) * torch.tanh(z / sigma[:, None] ** 2) + theta * h(z)

            def wrong(z: Tensor, sigma: Tensor, perturbed=perturbed, h=h) -> Tensor:
                return perturbed(z, sigma) + 0.01 * h(z)

            objective = ob.Objective(noise, weight)
            scale = float(weight(noise.quantile(u[:1], schedule), schedule))
            (slope,) = torch.autograd.grad((w * objective.losses(perturbed, x0, u, n, schedule)).sum(), theta)
            assert abs(float(slope)) < 1e-10 * scale
            (slope,) = torch.autograd.grad((w * objective.losses(wrong, x0, u, n, schedule)).sum(), theta)
            assert float(slope) > 1e-5 * scale


# --- p(σ) ------------------------------------------------------------------------------------------------------------

U = torch.linspace(0.001, 0.999, 333, dtype=torch.float64)


def test_quantiles_invert_their_distribution_functions():
    sigma = ob.LogNormal(-0.4, 1.7).quantile(U, EDM_SCHEDULE)
    torch.testing.assert_close(
        torch.tensor(stats.lognorm(s=1.7, scale=math.exp(-0.4)).cdf(sigma)), U, rtol=1e-12, atol=0
    )
    sigma = ob.LogUniform(0.01, 50.0).quantile(U, EDM_SCHEDULE)
    torch.testing.assert_close(torch.tensor(stats.loguniform(0.01, 50.0).cdf(sigma)), U, rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [s() for s in get_args(schedules.AnySchedule)], ids=ids)
def test_times_go_through_the_schedule(schedule):
    sigma = ob.UniformTime(0.1, 0.9).quantile(U, schedule)
    torch.testing.assert_close(schedule.time(sigma), 0.1 + 0.8 * U, rtol=1e-9, atol=0)
    sigma = ob.LogitNormalTime(0.3, 0.8).quantile(U, schedule)
    logit = torch.logit(schedule.time(sigma))
    torch.testing.assert_close(torch.tensor(stats.norm(0.3, 0.8).cdf(logit)), U, rtol=1e-6, atol=1e-9)


def test_logit_normal_time_on_the_straight_path_is_edms_log_normal():
    flow = ob.LogitNormalTime(-1.2, 1.2).quantile(U, schedules.FlowMatching())
    torch.testing.assert_close(flow, ob.LogNormal(-1.2, 1.2).quantile(U, EDM_SCHEDULE), rtol=1e-11, atol=0)


@pytest.mark.parametrize("noise", [ob.UniformTime, ob.LogitNormalTime, ob.ModeTime, ob.CosMapTime])
def test_shifting_the_time_is_scaling_sigma(noise):
    """Esser et al. 2024, Eq. 23: t ↦ m t/(1 + (m−1) t) on the straight path."""
    plain, shifted = (noise(shift=m).quantile(U, schedules.FlowMatching()) for m in (1.0, 3.0))
    t = plain / (1 + plain)
    moved = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(shifted, moved / (1 - moved), rtol=1e-12, atol=0)
    torch.testing.assert_close(shifted, noise().quantile(U, schedules.FlowMatching(3.0)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [-1.0, -0.4, 0.0, 1.29, 1.75])
def test_mode_sampling_is_that_of_the_paper(scale):
    """Esser et al. 2024, Eq. 20: t = 1 − u − s (cos²(πu/2) − 1 + u), u uniform; here with u turned round, to rise."""
    sigma = ob.ModeTime(scale).quantile(U, schedules.FlowMatching())
    u = 1 - U
    t = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(sigma / (1 + sigma), t, rtol=1e-10, atol=1e-14)
    assert (sigma.diff() > 0).all()


def test_cosmap_has_the_density_of_the_paper():
    """Esser et al. 2024: π(t) = 2/(π − 2πt + 2πt²); and it is uniform time on the cosine path."""
    sigma = ob.CosMapTime().quantile(U, schedules.FlowMatching())
    cdf = lambda t: quad(lambda x: 2 / (math.pi * (1 - 2 * x + 2 * x**2)), 0, t, epsabs=1e-12)[0]  # noqa: E731
    for k in (0, 50, 166, 300, 332):
        assert cdf(float(sigma[k] / (1 + sigma[k]))) == pytest.approx(float(U[k]), abs=1e-10)
    cosine = ob.UniformTime(0.0, 1.0).quantile(U, schedules.Trigonometric())
    torch.testing.assert_close(sigma, cosine, rtol=1e-12, atol=0)


def test_a_ladder_is_geometric_and_visited_evenly():
    sigma = ob.Ladder(5, 0.01, 1.0).quantile((torch.arange(50) + 0.5) / 50, EDM_SCHEDULE)
    expected = torch.tensor([1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0], dtype=torch.float64).repeat_interleave(10)
    torch.testing.assert_close(sigma, expected, rtol=1e-12, atol=0)
    assert torch.equal(ob.OneLevel(0.3).quantile(U, EDM_SCHEDULE), torch.full_like(U, 0.3))


@pytest.mark.parametrize("batch", [1, 7, 64, 256])
def test_stratified_draws_put_one_level_in_each_stratum_whoever_draws_them(batch):
    """u_i = (π(i) + U_i)/B: one in each of B equal parts, each marginally uniform, a function of seed and step."""
    for step in range(3):
        u = random_numbers.stratified_uniforms((7, TrainingPurpose.LEVELS, step), batch)
        assert sorted((u * batch).floor().long().tolist()) == list(range(batch))
        assert torch.equal(
            u, random_numbers.stratified_uniforms((7, TrainingPurpose.LEVELS, step), batch)
        )  # any rank takes its slice of these
    if batch == 7:
        first = torch.stack(
            [random_numbers.stratified_uniforms((7, TrainingPurpose.LEVELS, step), batch)[0] for step in range(2000)]
        )
        assert stats.kstest(first, "uniform").pvalue > 1e-3


def test_stratified_levels_have_less_variance():
    """Gaussian data of variance c, the exact D: the loss at σ is λ c σ²/(c + σ²), and its batch mean is compared."""
    at = lambda u: ob.EpsilonWeight()(s := ob.LogNormal().quantile(u, EDM_SCHEDULE)) * 0.25 * s**2 / (0.25 + s**2)  # noqa: E731
    means = {
        make: torch.stack([at(make((1, 2, step), 64)).mean() for step in range(400)])
        for make in (random_numbers.stratified_uniforms, random_numbers.uniforms)
    }
    spread, random = means[random_numbers.stratified_uniforms], means[random_numbers.uniforms]
    assert abs(float(spread.mean() - random.mean())) < 4 * float(random.std()) / 20
    assert float(spread.std()) < 0.05 * float(random.std())


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "cosine"])
def test_a_table_is_visited_evenly_and_its_network_is_told_the_step(betas):
    k = torch.arange(1000, dtype=torch.float64)
    sigma = ob.TableIndex(betas).quantile((k + 0.5) / 1000, EDM_SCHEDULE)
    assert torch.equal(pre.DDPM(betas).c_noise(sigma), k)
    assert (sigma.diff() > 0).all()


@pytest.mark.parametrize("noise", NOISES, ids=ids)
def test_quantiles_rise_and_are_finite_at_the_ends(noise):
    for schedule in (SCHEDULES.get(noise.kind, EDM_SCHEDULE), schedules.FlowMatching(), schedules.Trigonometric()):
        sigma = noise.quantile(torch.tensor([0.0, 1e-12, 0.1, 0.5, 0.9, 1 - 1e-16], dtype=torch.float64), schedule)
        assert (sigma > 0).all()
        assert (sigma <= 1e6).all()  # what stands for σ = ∞, at t = 1 of the flow
        assert (sigma.diff() >= 0).all()
        assert sigma.dtype == torch.float64


# --- interface -------------------------------------------------------------------------------------------------------


def test_conditions_reach_the_denoiser_and_the_dtype_is_that_of_the_data():
    seen = []

    def D(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        seen.append((x.dtype, sigma.dtype, label))
        return x

    x0, n = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(4)
    losses = ob.Objective().losses(D, x0, torch.full((4,), 0.5), n, EDM_SCHEDULE, {"label": label})
    assert losses.dtype == torch.float32
    assert losses.shape == (4,)
    assert seen[0][:2] == (torch.float32, torch.float64)
    assert seen[0][2] is label


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ob.LogNormal(P_std=0), r"^P_std: "),
        (lambda: ob.LogNormal(P_mean=math.inf), r"^P_mean: must be finite"),
        (lambda: ob.LogUniform(2, 1), r"^sigma_min: must be below sigma_max"),
        (lambda: ob.UniformTime(0.5, 0.5), r"^t_min: must be below t_max"),
        (lambda: ob.LogitNormalTime(std=-1), r"^std: "),
        (lambda: ob.TableIndex(num_steps=0), r"^num_steps: "),
        (lambda: ob.EDMWeight(sigma_data=0), r"^sigma_data: "),
        (lambda: ob.UniformTime(shift=0.0), r"^shift: "),
        (lambda: ob.ModeTime(scale=1.8), r"^scale: must lie in \[-1, 1.7519"),
        (lambda: ob.CosMapTime(shift=-1), r"^shift: "),
        (lambda: ob.Ladder(levels=1), r"^levels: "),
        (lambda: ob.Ladder(sigma_min=2.0), r"^sigma_min: must be below sigma_max"),
        (lambda: ob.OneLevel(0), r"^sigma: "),
        (lambda: ob.MinSNRWeight(0), r"^gamma: "),
        (lambda: ob.SoftMinSNRWeight(-1), r"^gamma: "),
        (lambda: ob.SigmoidWeight(math.nan), r"^bias: "),
        (lambda: ob.P2Weight(k=0), r"^k: "),
        (lambda: ob.LearnedUncertainty(0), r"^channels: "),
        (lambda: ob.Implicit(0), r"^most: "),
        (lambda: ob.Sliced(0), r"^projections: "),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mismatched_draws_are_named():
    x0, D = torch.zeros(4, 2), lambda x, sigma: x
    with pytest.raises(ValueError, match=r"^n: must have the shape of x0 \(4, 2\), got \(4, 3\)"):
        ob.Objective().loss(D, x0, torch.full((4,), 0.5), torch.zeros(4, 3), EDM_SCHEDULE)
    with pytest.raises(ValueError, match=r"^u: must have shape \(4,\).*got \(2,\)"):
        ob.Objective().loss(D, x0, torch.full((2,), 0.5), x0, EDM_SCHEDULE)


def test_a_recipe_names_noise_and_weight_by_kind():
    tree = {"noise": {"kind": "log_uniform", "sigma_max": 50.0}, "weight": {"kind": "velocity"}}
    expected = ob.Objective(ob.LogUniform(sigma_max=50.0), ob.VelocityWeight())
    assert TypeAdapter(ob.Objective).validate_python(tree) == expected
