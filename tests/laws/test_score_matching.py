"""Laws of score matching: with x_0, with the trace or with slices of it, the same score; and of the learned u(σ)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from edm_unified import preconditioning as pre
from edm_unified import schedules
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.training import objective as ob
from edm_unified.training import score_matching as sm

EDM = schedules.EDM()
ONE = torch.ones
MATCHINGS = [
    sm.Denoising(),
    sm.Implicit(),
    sm.Sliced(),
    sm.Sliced(projections=2, directions="gaussian"),
    sm.Sliced(projections=4, variance_reduced=False),
]


def smooth(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """A denoiser with a full Jacobian, of vectors or images."""
    torch.manual_seed(1)
    d = math.prod(shape)
    net = nn.Sequential(nn.Flatten(), nn.Linear(d, 2 * d), nn.Tanh(), nn.Linear(2 * d, d), nn.Unflatten(1, shape))
    return net.double()


def draws(shape: tuple[int, ...], batch: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0, n = torch.randn(2, batch, *shape, generator=generator, dtype=torch.float64)
    sigma = torch.linspace(0.3, 2, batch, dtype=torch.float64)
    column = sigma.reshape(-1, *[1] * len(shape))
    return x0, n, sigma, x0 + column * n


@pytest.mark.parametrize("shape", [(3,), (1, 2, 4), (2, 5)], ids=str)
def test_each_is_its_published_form(shape):
    """½ ‖s + n/σ‖²; ½ ‖s‖² + tr ∇s; vᵀ ∇s v + ½ ‖s‖² or ½ (v·s)²: each 1/(2σ⁴) of the D form, less its constant."""
    D, d = smooth(shape), math.prod(shape)
    x0, n, sigma, z = draws(shape)
    s = (sm.score(lambda z, sigma: D(z), z, sigma)).flatten(1)
    to_D = lambda loss, constant=0.0: (2 * sigma**4 * loss + constant) / d  # noqa: E731
    stacked = jacobian(lambda z: D(z).sum(0), z)  # (*shape, B, *shape)
    J = stacked.movedim(len(shape), 0).reshape(len(z), d, d)
    J_s = (J - torch.eye(d)) / (sigma**2)[:, None, None]
    weight = torch.linspace(0.5, 3, len(z), dtype=torch.float64)
    errors = lambda matching: matching.errors(D, x0, z, sigma, weight) / weight  # noqa: E731
    same = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)  # noqa: E731

    denoising = 0.5 * (s + n.flatten(1) / sigma[:, None]).square().sum(1)
    same(errors(sm.Denoising()), to_D(denoising))
    trace = J_s.diagonal(dim1=1, dim2=2).sum(1)
    same(errors(sm.Implicit()), to_D(0.5 * s.square().sum(1) + trace, d * sigma**2))
    for rule in (sm.Sliced(directions="gaussian"), sm.Sliced(), sm.Sliced(variance_reduced=False)):
        torch.manual_seed(9)
        got = errors(rule)
        torch.manual_seed(9)
        v = torch.randn_like(z).flatten(1)
        v = v if rule.directions == "gaussian" else v.sign()
        slope = torch.einsum("bi,bij,bj->b", v, J_s, v)
        square = s.square().sum(1) if rule.variance_reduced else (v * s).sum(1) ** 2
        same(got, to_D(slope + 0.5 * square, d * sigma**2))


def test_slices_average_to_the_trace():
    D = smooth((4,))
    x0, _, sigma, z = draws((4,), batch=2)
    x0, sigma, z = (a.repeat_interleave(20_000, 0) for a in (x0, sigma, z))
    exact = sm.Implicit().errors(D, x0[::20_000], z[::20_000], sigma[::20_000], ONE(2))
    torch.manual_seed(0)
    spread = {}
    for rule in (sm.Sliced(), sm.Sliced(directions="gaussian"), sm.Sliced(variance_reduced=False)):
        values = rule.errors(D, x0, z, sigma, ONE(40_000)).detach().reshape(2, -1)
        error = values.std(1) / math.sqrt(20_000)
        assert bool(((values.mean(1) - exact).abs() < 4.5 * error).all())
        spread[rule] = float(values.std(1).mean())
    plain, normal, unreduced = spread.values()
    assert plain < unreduced  # what variance reduction is for
    assert plain < normal


def plane(nodes: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """x_0, n ~ N(0, I) in the plane as a Gauss–Hermite grid: exact for polynomials of degree < 16 in each."""
    points, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    grid = torch.cartesian_prod(points, points, points, points)
    w = torch.cartesian_prod(*[weights / math.sqrt(2 * math.pi)] * 4).prod(1)
    return grid[:, :2], grid[:, 2:], w


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_denoising_exceeds_implicit_by_the_known_constant(sigma):
    """½ E‖n/σ‖² = d/(2σ²), for any D: here a cubic one, so that the quadrature is exact."""
    x0, n, w = plane()
    z, level = x0 + sigma * n, torch.full((len(x0),), sigma, dtype=torch.float64)
    a = torch.tensor([[0.3, -0.2], [0.5, 0.1]], dtype=torch.float64)
    D = lambda z: z @ a + 0.05 * z**3 - 0.02 * z.flip(1) ** 2 * z + 0.1  # noqa: E731
    s = lambda z: (D(z) - z) / sigma**2  # noqa: E731
    denoising = (w * 0.5 * (s(z) + n / sigma).square().sum(1)).sum()
    J = jacobian(lambda z: s(z).sum(0), z)
    implicit = (w * (0.5 * s(z).square().sum(1) + J[0, :, 0] + J[1, :, 1])).sum()
    assert float(denoising - implicit) == pytest.approx(2 / (2 * sigma**2), rel=1e-9)
    # the D forms have that constant in them: equal in the mean
    with_x0, without = (
        float((w * rule.errors(D, x0, z, level, torch.ones_like(level)).detach()).sum())
        for rule in (sm.Denoising(), sm.Implicit())
    )
    assert with_x0 == pytest.approx(without, rel=1e-9)
    assert with_x0 == pytest.approx(float(denoising) * sigma**4, rel=1e-9)  # 2σ⁴ over d = 2 entries


@pytest.mark.parametrize("matching", [sm.Denoising(), sm.Implicit(), sm.Sliced()], ids=lambda m: m.kind)
@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_the_exact_denoiser_of_a_mixture_is_a_stationary_point(matching, sigma):
    """Data ±1: D = tanh(z/σ²). In one dimension ±1 gives the trace itself. The integral over n is a trapezoid sum."""
    grid = torch.linspace(-11, 11, 2001, dtype=torch.float64)
    density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    x0 = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(len(grid))[:, None]
    n, w = grid.repeat(2)[:, None], density.repeat(2) / 2
    u = torch.full((len(x0),), 0.5, dtype=torch.float64)
    objective = ob.Objective(ob.OneLevel(sigma), ob.ScoreWeight(), matching)
    for h in (torch.sin, torch.tanh, lambda z: torch.exp(-(z**2))):
        for error, slope_is in ((0.0, 0.0), (0.01, 1.0)):
            theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
            D = lambda z, s, theta=theta, h=h, error=error: torch.tanh(z / sigma**2) + (theta + error) * h(z)  # noqa: E731
            (slope,) = torch.autograd.grad((w * objective.losses(D, x0, u, n, EDM)).sum(), theta)
            # a D that is off by 0.01 h has the slope 2λ · 0.01 · E h²
            z = x0 + sigma * n
            expected = slope_is * 2 / sigma**2 * 0.01 * float((w[:, None] * h(z) ** 2).sum())
            assert float(slope) == pytest.approx(expected, rel=1e-8, abs=1e-10)


def fit(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.LBFGS(parameters, max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        torch.manual_seed(5)  # the same slices at each call
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


@pytest.mark.parametrize("matching", MATCHINGS, ids=str)
def test_a_linear_denoiser_recovers_the_score_of_a_gaussian(matching):
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.8]], dtype=torch.float64)
    mean, sigma = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), 0.7
    x0 = mean + torch.randn(20_000, 3, generator=generator, dtype=torch.float64) @ root.T
    n = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    A, b = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    parameters = [A.requires_grad_(), b.requires_grad_()]
    objective = ob.Objective(ob.OneLevel(sigma), ob.ScoreWeight(), matching)
    u = torch.full((len(x0),), 0.5, dtype=torch.float64)
    fit(parameters, lambda: objective.loss(lambda z, s: z @ A.T + b, x0, u, n, EDM))
    # score = −(Σ + σ²)⁻¹ (z − μ); errors of 20,000 draws are near 1/√20000 · a few
    precision = torch.linalg.inv(root @ root.T + sigma**2 * torch.eye(3, dtype=torch.float64))
    score = (A.detach() - torch.eye(3)) / sigma**2
    torch.testing.assert_close(score, -precision, rtol=0, atol=0.1)
    torch.testing.assert_close(b.detach() / sigma**2, precision @ mean, rtol=0, atol=0.15)
    if matching.kind == "implicit":  # whose minimum on a sample is the sample's own Gaussian
        z = x0 + sigma * n
        torch.testing.assert_close(score, -torch.linalg.inv(torch.cov(z.T, correction=0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("matching", MATCHINGS, ids=str)
@pytest.mark.parametrize(
    "noise", [ob.OneLevel(0.6), ob.Ladder(4, 0.4, 1.5), ob.LogUniform(0.4, 2.0)], ids=lambda n: n.kind
)
def test_a_mixture_is_recovered_at_one_level_on_a_ladder_and_on_a_continuum(noise, matching):
    """Two Gaussians at ±m with variance c: m and c are found from samples, through the score alone."""
    generator = torch.Generator().manual_seed(1)
    sign = torch.randint(0, 2, (20_000, 1), generator=generator).double() * 2 - 1
    x0 = 1.2 * sign + 0.4 * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    n = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    u = (torch.randperm(20_000, generator=generator) + 0.5) / 20_000
    m, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.6, 0.5))

    def D(z: Tensor, sigma: Tensor) -> Tensor:
        v = sigma[:, None] ** 2
        center = m * torch.tanh(m * z / (c + v))
        return center + c / (c + v) * (z - center)

    fit([m, c], lambda: ob.Objective(noise, ob.ScoreWeight(), matching).loss(D, x0, u.double(), n, EDM))
    assert float(m.detach()) == pytest.approx(1.2, abs=0.05)
    assert float(c.detach()) == pytest.approx(0.16, abs=0.06)


def test_gradients_reach_the_weights_of_an_image_network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)).double()
    D = Preconditioned(lambda x, c_noise: layers(x), pre.EDM())
    x0, n = torch.randn(2, 6, 1, 4, 4, dtype=torch.float64)
    u = torch.rand(6, dtype=torch.float64)
    found = {}
    for matching in MATCHINGS:
        loss = ob.Objective(matching=matching).loss(D, x0, u, n, EDM)
        found[matching] = torch.autograd.grad(loss, list(layers.parameters()))
        assert all(float(g.abs().max()) > 0 for g in found[matching][:3])
    with torch.no_grad():  # as an evaluation does
        for matching in MATCHINGS:
            assert not ob.Objective(matching=matching).loss(D, x0, u, n, EDM).requires_grad


def test_the_tutorials_loss_is_its_D_form():
    """Song's score_sde tutorial: mean over the batch of Σ (score · std + noise)², x perturbed by noise · std."""
    torch.manual_seed(0)
    schedule = schedules.ExponentialVE(25.0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x0, n = torch.randn(2, 32, 5, dtype=torch.float64)
    t = torch.rand(32, dtype=torch.float64) * (1 - 1e-5) + 1e-5
    std = torch.sqrt((25.0 ** (2 * t) - 1) / (2 * math.log(25.0)))[:, None]
    score = net(torch.cat([x0 + n * std, std.log()], 1))
    tutorial = ((score * std + n) ** 2).sum(1)
    D = Preconditioned(lambda x, c_noise: net(torch.cat([x, c_noise[:, None]], 1)), pre.Score())
    u = (t - 1e-5) / (1 - 1e-5)
    ours = ob.Objective(ob.UniformTime(), ob.ScoreWeight()).losses(D, x0, u, n, schedule)
    torch.testing.assert_close(5 * ours, tutorial, rtol=1e-10, atol=0)


def test_a_trace_in_many_dimensions_is_refused_with_its_cost():
    x0 = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"^objective.matching.most: the exact trace takes 3,072 .*kind: sliced"):
        ob.Objective(matching=sm.Implicit()).loss(lambda z, s: z, x0, torch.full((1,), 0.5), x0, EDM)


# --- learned uncertainty ---------------------------------------------------------------------------------------------


def test_learned_uncertainty_starts_as_nothing_and_learns_the_log_of_the_loss():
    """Gaussian data of variance ¼ and the exact D: the loss at σ is λ ¼ σ²/(¼ + σ²), and u its logarithm."""
    torch.manual_seed(0)
    objective = ob.Objective(ob.LogUniform(0.02, 20.0), ob.EpsilonWeight(), uncertainty=ob.LearnedUncertainty(64))
    module = objective.uncertainty.build().double()
    x0, n = torch.randn(2, 4000, 8, dtype=torch.float64)
    x0 = x0 / 2
    u = (torch.arange(4000) + 0.5).double() / 4000
    exact = lambda z, sigma: 0.25 / (0.25 + sigma[:, None] ** 2) * z  # noqa: E731
    plain = ob.Objective(objective.noise, objective.weight).losses(exact, x0, u, n, EDM)
    assert torch.equal(objective.losses(exact, x0, u, n, EDM, uncertainty=module), plain)
    fit([module.weight], lambda: objective.loss(exact, x0, u, n, EDM, uncertainty=module))
    sigma = torch.logspace(-1, 1, 30, dtype=torch.float64)
    torch.testing.assert_close(module(sigma), torch.log(0.25 / (0.25 + sigma**2)), rtol=0, atol=0.15)
    weighted = plain / module(objective.noise.quantile(u, EDM)).exp()
    thirds = weighted.detach().reshape(4, -1).mean(1)
    torch.testing.assert_close(thirds, torch.ones(4, dtype=torch.float64), rtol=0, atol=0.05)  # every level the same


def test_learned_uncertainty_cannot_be_forgotten():
    x0 = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^uncertainty: missing"):
        ob.Objective(uncertainty=ob.LearnedUncertainty()).loss(lambda z, s: z, x0, torch.full((2,), 0.5), x0, EDM)


@pytest.mark.parametrize("matching", MATCHINGS, ids=lambda m: repr(m)[:40])
def test_noise_levels_may_stay_on_the_cpu(matching):
    """Images on a device, σ and λ on the CPU, as where the levels are drawn there: no operation may mix the two."""
    z = torch.empty(4, 3, device="meta")
    sigma = torch.linspace(0.1, 1, 4, dtype=torch.float64)
    assert matching.errors(torch.tanh, z, z, sigma, 1 / sigma**2).device.type == "meta"


def test_directions_are_one_of_two():
    with pytest.raises(ValueError, match="directions: unknown 'normal'"):
        sm.Sliced(directions="normal")
