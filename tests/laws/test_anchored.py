"""Law 10: processes that decay to an observation y. On a jointly Gaussian (x_0, y) all means and covariances are known.

x_0 given y is N(m, v) there, so that D is affine and a sampler is an affine map of y and its noises. One column of the
state carries the constants, the others one basis vector each: the first is the mean of the samples, and the squared
length of the others their variance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from variants import ADAPTIVE, SOLVERS, Basis, draws, log_levels, name, one_of_each

import edm_unified as edm
from edm_unified import correctors, preconditioning, renoising, schedules, solvers
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.levels import Explicit, UniformTime
from edm_unified.sampling.loop import walk

ANCHORED: list[Any] = [
    schedules.OUVE(),
    schedules.BBED(),
    schedules.VEBridge(),
    schedules.BrownianBridge(),
    schedules.I2SB(),
    schedules.DDBM(end=3.0),
    schedules.GOUBridge(),
]
BRIDGES = ANCHORED[2:]
V = {  # v(t) and v'(t) of the process that a bridge pins, and θ, as their papers have them
    "ve_bridge": (lambda t: 0.4 * (2.6 ** (2 * t) - 1) / (2 * math.log(2.6)), lambda t: 0.4 * 2.6 ** (2 * t), 0.0),
    "brownian_bridge": (lambda t: t, lambda t: 1.0, 0.0),
    "i2sb": (None, lambda t: (math.sqrt(0.1) + (math.sqrt(0.3) - math.sqrt(0.1)) * min(t, 1 - t)) ** 2, 0.0),
    "ddbm": (lambda t: 9 * t * t, lambda t: 18 * t, 0.0),
    "gou_bridge": (lambda t: 0.09 * math.expm1(4 * t), lambda t: 0.36 * math.exp(4 * t), 2.0),
}


def sde(schedule: Any) -> tuple[Any, Any]:
    """f and g² of d(x − y) = f (x − y) dt + g dw, from the published SDE, with the drift toward the end of a bridge."""
    if isinstance(schedule, schedules.OUVE):
        return lambda t: -1.5, lambda t: (0.05 * 10**t * math.sqrt(2 * math.log(10))) ** 2
    if isinstance(schedule, schedules.BBED):
        return lambda t: -1 / (1 - t), lambda t: 0.51 * 2.6 ** (2 * t)
    v, rate, theta = V[schedule.kind]
    if v is None:
        halves = solve_ivp(lambda t, _: [rate(t)], (0, 0.5), [0.0], rtol=1e-13, atol=1e-15, dense_output=True)
        half = 2 * halves.y[0, -1]
        v = lambda t: halves.sol(t)[0] if t <= 0.5 else half - halves.sol(1 - t)[0]  # noqa: E731
    return lambda t: -theta - rate(t) / (v(1.0) - v(t)), lambda t: rate(t) * math.exp(-2 * theta * t)


@pytest.mark.parametrize("schedule", ANCHORED, ids=name)
def test_mean_and_std_solve_the_moment_equations(schedule: Any) -> None:
    """m' = f m and P' = 2 f P + g², from the SDE as its paper prints it: x − y goes with m and P to 1e-10."""
    f, g2 = sde(schedule)
    times = np.array([0.1, 0.4, 0.5, 0.7, 0.95])
    moments = solve_ivp(
        lambda t, u: [f(t) * u[0], 2 * f(t) * u[1] + g2(t)],
        (0, times[-1]),
        [1.0, 0.0],
        method="DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-15,
        max_step=0.05,
    ).y
    t = torch.from_numpy(times)
    assert np.allclose(schedule.s(t).numpy(), moments[0], rtol=1e-10, atol=1e-12)
    assert np.allclose(schedule.std(t).square().numpy(), moments[1], rtol=1e-10, atol=1e-12)
    x_0, y = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    m = torch.from_numpy(moments[0]).view(-1, 1, 1)
    assert torch.allclose(schedule.mean(t, x_0, y), y + m * (x_0 - y), rtol=1e-10)


@pytest.mark.parametrize("schedule", BRIDGES, ids=name)
def test_a_bridge_ends_at_the_observation_exactly(schedule: Any) -> None:
    x_0, y = torch.randn(2, 4, 3, dtype=torch.float64)
    for t, end in ((0.0, x_0), (1.0, y)):
        assert torch.equal(schedule.mean(t, x_0, y), end)
        assert float(schedule.std(t)) == 0
    with pytest.raises(ValueError, match=r"t_max: sigma is inf at t = 1 .* use t_max up to"):
        UniformTime(n=5, t_max=1.0).levels(schedule)
    assert schedule.sigma_end == pytest.approx(1000 * math.sqrt(schedule._V), rel=1e-6)


class Posterior:
    """x_0 = ½ y + 0.2 + √v e: D of rows of columns, of which the first has the constants."""

    def __init__(self, variances: tuple[float, ...], y: float) -> None:
        self.v = torch.tensor(variances, dtype=torch.float64)[:, None]
        self.m = 0.5 * y + 0.2

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        m = torch.zeros_like(x)
        m[:, 0] = self.m
        return m + self.v / (self.v + sigma**2) * (x - m)


VARIANCES, Y = (0.04, 0.25, 1.0), 1.3


def moments_of(
    solver: Any, levels: list[float], schedule: Any, corrector: Any = None, exact_start: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean and variance of samples by basis noise, from the true marginal at the first level or from the prior."""
    D = Posterior(VARIANCES, Y)
    size = 3 + len(levels) * (1 + max(1, draws(solver)))
    anchor = torch.zeros(len(VARIANCES), size, dtype=torch.float64)
    anchor[:, 0] = Y
    basis = Basis(len(VARIANCES), size)
    basis()  # the constants
    x = torch.sqrt(D.v * exact_start + levels[0] ** 2) * basis()
    x[:, 0] = D.m - Y if exact_start else 0.0
    dynamics = Dynamics(schedule, D, {}, torch.device("cpu"), anchor=anchor)
    x = walk(dynamics, x, dynamics.walk(levels), solver, corrector, 1.0, basis)
    x = dynamics.in_data_units(x)
    return x[:, 0], x[:, 1:].square().sum(1)


@pytest.mark.parametrize("solver", one_of_each(SOLVERS), ids=name)
def test_mean_and_variance_of_every_sampler(solver: Any) -> None:
    """From the true marginal, mean and variance go to the truth with the steps.

    The mean is there from the start but for methods with steps in x_t and t, in which y does not stand still.
    """
    errors: dict[int, tuple[float, float]] = {}
    for n in (40, 80):
        levels = log_levels(n, 4.0, 0.1)
        mean, variance = moments_of(solver, levels, schedules.OUVE())
        truth = torch.tensor(VARIANCES, dtype=torch.float64) + levels[-1] ** 2
        of_mean = (mean - Posterior(VARIANCES, Y).m).abs().max()
        errors[n] = float(of_mean), float((variance / truth - 1).abs().max())
    for before, after in zip(*errors.values(), strict=True):
        assert after < max(1e-10, 0.62 * before), errors
        assert after < 0.2, errors


@pytest.mark.parametrize("corrector", [correctors.AnnealedLangevin(), correctors.NCSNLangevin()], ids=name)
def test_a_corrector_keeps_the_mean(corrector: Any) -> None:
    levels = [sigma for sigma in log_levels(40, 4.0, 0.1) for _ in range(2)]
    mean, _ = moments_of(solvers.DDIM(), levels, schedules.OUVE(), corrector)
    assert torch.allclose(mean, torch.full_like(mean, Posterior(VARIANCES, Y).m), atol=1e-10)


def test_what_the_prior_of_OUVE_costs() -> None:
    """The start is off by (m − y)/√(v + σ²) standard deviations, and the flow carries as many of them to the end."""
    schedule, D = schedules.OUVE(), Posterior(VARIANCES, Y)
    start = schedule.sigma_end
    mean, variance = moments_of(solvers.RK4(), log_levels(200, start, 1e-4), schedule, exact_start=False)
    v = D.v[:, 0]
    assert torch.allclose(mean, D.m + (Y - D.m) * torch.sqrt(v / (v + start**2)), atol=1e-6)
    assert torch.allclose(variance, v * start**2 / (v + start**2), rtol=1e-4)
    levels = log_levels(200, schedules.BBED().sigma_end, 1e-4)
    nearer, _ = moments_of(solvers.RK4(), levels, schedule, exact_start=False)
    assert float((nearer - D.m).abs().max()) < 0.05 * float((mean - D.m).abs().max())


@pytest.mark.parametrize("solver", [*one_of_each(SOLVERS)[::6], *one_of_each(ADAPTIVE)[:1]], ids=name)
def test_an_anchored_run_is_the_run_of_the_deviation(solver: Any) -> None:
    """sample(D, anchor=y) = y + sample(D(· + y) − y), renoising, correctors and callbacks included."""
    D = edm.exact.GaussianMixture([0.4, 0.6], [[-1.0, 0.2], [0.7, 0.5]], [0.1, 0.2])
    noise, y = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    settings: dict[str, Any] = {"schedule": schedules.GOUBridge(), "solver": solver, "seed": 3}
    settings["steps"] = Explicit(sigmas=(4.0, 1.0, 0.4, 0.1, 0.0))
    if not isinstance(solver, solvers.Euler | solvers.DormandPrince45):
        settings |= {"renoising": renoising.Churn(S_max=9.0), "last": "denoise"}
    seen: list[Tensor] = []
    x = edm.sample(D, noise, anchor=y, callback=lambda progress: seen.append(progress.x), **settings)
    z = edm.sample(lambda x, sigma: D(x + y, sigma) - y, noise, **settings)
    assert torch.allclose(x, z + y, rtol=1e-12, atol=1e-12)
    assert torch.equal(seen[-1], x)


def test_reference_and_likelihood_of_an_anchored_process() -> None:
    """The reference starts from y + σ n; the density is that of the flow from N(y, σ²), here in closed form."""
    D = edm.exact.Gaussian([0.3, -0.2], 0.25)
    noise, y = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    high, low = 5.0, 0.01
    end = edm.reference(D, noise, sigma_max=high, sigma_min=low, anchor=y)
    stretch = math.sqrt((0.25 + low**2) / (0.25 + high**2))
    mean = D.mean + stretch * (y - D.mean)
    assert torch.allclose(end, mean + stretch * high * noise, rtol=1e-9)
    with pytest.warns(edm.likelihood.PriorWarning):
        found = edm.log_likelihood(D, end, sigma_min=low, sigma_max=high, anchor=y)
    expected = torch.distributions.Normal(mean, stretch * high).log_prob(end).sum(1)
    assert torch.allclose(found.nats, expected, atol=1e-5)
    tight = edm.likelihood.variational_bound(D, end, sigma_max=300.0, anchor=y, points=32)
    loose = edm.likelihood.variational_bound(D, end, sigma_max=300.0, points=32)
    assert torch.allclose(tight.prior - loose.prior, ((end - y).square() - end.square()).sum(1) / (2 * 300.0**2))


@pytest.mark.parametrize("schedule", [schedules.OUVE(), schedules.VEBridge()], ids=name)
@pytest.mark.parametrize("predicts", ["score", "epsilon", "velocity", "x0"])
def test_networks_of_the_anchored_state(schedule: Any, predicts: str) -> None:
    """Each form of one posterior, as a network of x_t, y and t, gives the one D."""
    D, t = Posterior(VARIANCES, Y), 0.6
    sigma, s = float(schedule.sigma(t)), float(schedule.s(t))
    x, y = torch.randn(3, 2, dtype=torch.float64), torch.full((3, 2), Y, dtype=torch.float64)
    level = schedule
    asked: list[Tensor] = []

    def network(x_t: Tensor, time: Tensor, image: Tensor) -> Tensor:
        asked.append(x_t)
        z = (x_t - image) / s
        x_0 = D.m + D.v / (D.v + sigma**2) * (z + image - D.m)
        n = (z + image - x_0) / sigma
        f, l = float(level.log_s_rate(t)), float(level.log_sigma_rate(t))
        forms = {
            "score": -n / (s * sigma),
            "epsilon": n,
            "x0": x_0,
            "velocity": f * (x_t - image) + l * s * sigma * n,
        }
        return forms[predicts]

    made = edm.Anchored(network, preconditioning.OnSchedule(schedule, predicts), whole=predicts == "x0")
    expected = D.m + D.v / (D.v + sigma**2) * (x - D.m)
    assert torch.allclose(made(x, torch.tensor(sigma, dtype=torch.float64), image=y), expected, rtol=1e-9)
    assert torch.allclose(asked[0], schedule.mean(t, x, y))
    with pytest.raises(ValueError, match=r"^image: the network is anchored at it, .* got nothing"):
        made(x, torch.tensor(sigma))


def test_the_loss_of_the_sources_is_the_loss_of_D() -> None:
    """‖score · sσ + n‖² of x_t = ‖D − x_0‖²/σ² (Richter et al. 2023, Eq. 19)."""
    schedule, t = schedules.OUVE(), 0.4
    sigma, std = schedule.sigma(t), schedule.std(t)
    x_0, y, n = torch.randn(3, 4, 5, dtype=torch.float64)
    weights = torch.randn(5, 5, dtype=torch.float64)

    def score(x_t: Tensor, time: Tensor, image: Tensor) -> Tensor:
        return torch.tanh(x_t @ weights) + image

    D = edm.Anchored(score, preconditioning.OnSchedule(schedule, "score"))(x_0 + sigma * n, sigma, image=y)
    x_t = schedule.mean(t, x_0, y) + std * n
    theirs = (std * score(x_t, torch.tensor(t), y) + n).square()
    assert torch.allclose((D - x_0).square() / sigma**2, theirs, rtol=1e-9)


def test_an_anchor_that_does_not_fit_is_refused() -> None:
    D, noise = edm.exact.Gaussian([0.0, 0.0], 1.0), torch.randn(3, 2, dtype=torch.float64)
    for bad, words in (
        (torch.zeros(2), r"of the samples' shape \(3, 2\), one row for each, got torch.float32 of \(2,\)"),
        (torch.zeros(3, 2, dtype=torch.long), "floating-point"),
        ([0.0], "got list"),
        (torch.full((3, 2), math.nan), "holds NaN"),
    ):
        with pytest.raises(ValueError, match=f"^anchor: .*{words}"):
            edm.sample(D, noise, anchor=bad)
