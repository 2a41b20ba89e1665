"""Laws of the objective: all losses are one, its minimum is the exact D, and p(σ) is the distribution it says."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy import stats
from torch import Tensor, nn

from edm_unified import preconditioning as pre
from edm_unified import schedules
from edm_unified.denoiser import Preconditioned
from edm_unified.training import objective as ob

SCHEDULES = {"uniform_time": schedules.VP(), "logit_normal_time": schedules.FlowMatching()}
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


@pytest.mark.parametrize("weight", WEIGHTS, ids=ids)
def test_the_loss_on_D_is_the_published_loss_on_the_network_output(weight):
    torch.manual_seed(0)
    network, row = MLP(), NETWORKS[weight.kind]
    x0, n = torch.randn(2, 64, 3, dtype=torch.float64)
    u = torch.rand(64, dtype=torch.float64)
    noise = ob.LogUniform(0.01, 100.0)
    sigma = noise.quantile(u, EDM_SCHEDULE)
    s = sigma[:, None]
    output = network(row.c_in(s) * (x0 + s * n), row.c_noise(sigma))
    error = (output - TARGETS[weight.kind](x0, n, s, 0.5)).square().mean(1)
    published = sigma**2 * error if weight.kind == "score" else error
    objective = ob.Objective(noise, weight)
    D = Preconditioned(network, row)
    torch.testing.assert_close(objective.losses(D, x0, u, n, EDM_SCHEDULE), published, rtol=1e-10, atol=1e-12)
    loss = objective.loss(D, x0, u, n, EDM_SCHEDULE)
    torch.testing.assert_close(loss, published.mean(), rtol=1e-10, atol=0)
    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    for got, expected in zip(gradients, torch.autograd.grad(published.mean(), list(network.parameters())), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weight", WEIGHTS, ids=ids)
def test_weight_is_one_over_c_out_squared(weight):
    sigma = torch.logspace(-3, 5, 100, dtype=torch.float64)
    product = weight(sigma) * NETWORKS[weight.kind].c_out(sigma) ** 2
    expected = sigma**2 if weight.kind == "score" else torch.ones_like(sigma)
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=0)


def plane(variance: float, nodes: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 ~ N(0, variance) and n ~ N(0, 1) as a Gauss–Hermite grid: exact for polynomials of degree < 24."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    x0, n = torch.meshgrid(math.sqrt(variance) * points, points, indexing="ij")
    w = weights[:, None] * weights / (2 * math.pi)
    return x0.reshape(-1, 1), n.reshape(-1, 1), w.flatten()


@pytest.mark.parametrize("weight", WEIGHTS, ids=ids)
@pytest.mark.parametrize("noise", NOISES, ids=ids)
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
        expected = weight(sigma) * c * sigma**2 / (c + sigma**2)
        torch.testing.assert_close(loss, expected[0], rtol=1e-10, atol=0)


def test_edm_weight_makes_an_untrained_network_cost_one_at_every_level():
    x0, n, w = plane(0.25)
    D = Preconditioned(lambda x, c_noise: torch.zeros_like(x), pre.EDM(sigma_data=0.5))
    for level in (0.01, 0.3, 0.7, 0.99):
        u = torch.full((len(x0),), level, dtype=torch.float64)
        assert float((w * ob.Objective().losses(D, x0, u, n, EDM_SCHEDULE)).sum()) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("weight", WEIGHTS, ids=ids)
@pytest.mark.parametrize("noise", NOISES, ids=ids)
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
            scale = float(weight(noise.quantile(u[:1], schedule)))
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
