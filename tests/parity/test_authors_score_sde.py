"""The samplers, likelihoods and losses of yang-song/score_sde_pytorch beside ours; docs/parity.md has the figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from authors_repos import NOISE, SHAPE, D, Seen, difference, double, drawn, golden, loaded, ours, some
from torch import Tensor

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.correctors import AnnealedLangevin, BatchLangevin
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.schedules import VE, VP, BetaTable, GeometricVE, SubVP

REPOSITORY = "yang-song/score_sde_pytorch"
sde_lib, sampling, losses, likelihood = loaded(REPOSITORY, "sde_lib", "sampling", "losses", "likelihood")

ROUNDING = 1e-11
N = 40
BATCH = (len(NOISE), *SHAPE)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


class Model:
    """A network of theirs, of one denoiser: told the labels, it gives what their ``get_score_fn`` expects."""

    def __init__(self, output: Any) -> None:
        self.output = output

    def eval(self) -> None: ...

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.output(x, labels)


def vp_noise(denoiser: Any, sigmas: Any) -> Model:
    """ε of the state s x; ``sigmas`` tells σ of a label."""

    def output(x: Tensor, labels: Tensor) -> Tensor:
        sigma = sigmas(labels[0])
        z = x * torch.sqrt(1 + sigma**2)
        return (z - denoiser(z, sigma)) / sigma

    return Model(output)


def ve_score(denoiser: Any, sigmas: Any) -> Model:
    def output(x: Tensor, labels: Tensor) -> Tensor:
        sigma = sigmas(labels[0])
        return (denoiser(x, sigma) - x) / sigma**2

    return Model(output)


def table() -> BetaTable:
    """The chain of their VP SDE at N steps."""
    return BetaTable(betas=tuple(np.linspace(0.1 / N, 20 / N, N).tolist()))


def run_pc(
    sde: Any, model: Model, predictor: str, corrector: str, n: int = 1, eps: float = 1e-3, **options: Any
) -> Tensor:
    sampler = sampling.get_pc_sampler(
        sde, BATCH, sampling.get_predictor(predictor), sampling.get_corrector(corrector), lambda x: x, 0.16, n,
        eps=eps, device="cpu", **options,
    )  # fmt: skip
    torch.manual_seed(0)
    return sampler(model)[0]


def same_states(theirs: tuple[int, list[Tensor]], mine: list[Tensor]) -> float:
    """Of ``theirs``, how many there are and some of them."""
    count, states = theirs
    assert count == len(mine)
    return max(difference(a, b) for a, b in zip(some(mine), states, strict=True))


@pytest.mark.parametrize(
    ("predictor", "solver"),
    [("reverse_diffusion", solvers.ReverseDiffusion()), ("ancestral_sampling", solvers.DDPM(variance="large"))],
)
def test_vp_predictors(predictor: str, solver: Any) -> None:
    """On the chain of betas, which their discrete sampler follows: every state at which the network is asked."""
    schedule, mine = table(), Seen()
    sigmas = schedule.sigmas

    @golden(REPOSITORY)
    def sample() -> tuple[Tensor, tuple[int, list[Tensor]]]:
        theirs = Seen()
        x = run_pc(sde_lib.VPSDE(N=N), vp_noise(theirs, lambda label: sigmas[label.long()]), predictor, "none")
        return x, (len(theirs.states), some(theirs.states))

    x, states = sample()
    levels = [*reversed(sigmas.tolist()), 0.0]
    noises = drawn()
    start = next(noises) * math.hypot(1, levels[0])  # theirs begins at N(0, 1) of the scaled state
    out = ours(solver, levels, schedule, noises, mine, start=start)
    assert same_states(states, mine.states) < ROUNDING
    # its last step, without noise, is the posterior mean: D for ancestral sampling, D and β_1/2 of x for the other
    assert difference(out, x) < (ROUNDING if predictor == "ancestral_sampling" else 0.1 / N)


def ve_table() -> list[float]:
    return [0.01 * 5000 ** (i / (N - 1)) for i in range(N)]


PREDICTORS = {
    "reverse_diffusion": solvers.ReverseDiffusion(), "ancestral_sampling": solvers.DDPM(), "none": solvers.NoPredictor()
}  # fmt: skip
PAIRS = [pair for pair in itertools.product(PREDICTORS, ("none", "langevin", "ald")) if pair != ("none", "none")]


@pytest.mark.parametrize(("predictor", "corrector"), PAIRS)
def test_ve_predictor_corrector(predictor: str, corrector: str) -> None:
    """Two corrections for each prediction, and the last denoising.

    Time ends at (nearly) 0: "ald" takes the std of its times, which ε moves off the levels.
    """
    sigmas, mine = ve_table(), Seen()
    known = torch.tensor(sigmas)
    denoise = predictor != "none"

    @golden(REPOSITORY)
    def sample() -> tuple[Tensor, tuple[int, list[Tensor]]]:
        theirs = Seen()
        model = ve_score(theirs, lambda label: known.flip(0)[label])
        x = run_pc(sde_lib.VESDE(N=N), model, predictor, corrector, n=2, eps=1e-13, denoise=denoise)
        return x, (len(theirs.states), some(theirs.states))

    x, states = sample()
    noises = drawn()
    start = next(noises) * sigmas[-1]
    levels = [s for s in reversed(sigmas) for _ in range(1 if corrector == "none" else 3)]
    rule = {"none": None, "langevin": BatchLangevin(0.16), "ald": AnnealedLangevin(0.16)}[corrector]
    out = ours(PREDICTORS[predictor], [*levels, 0.0], GeometricVE(0.01, 50), noises, mine, rule, start=start)
    assert same_states(states, mine.states) < ROUNDING
    assert difference(out, x) < ROUNDING


@pytest.mark.parametrize("rule", ["langevin", "ald"])
def test_vp_correctors(rule: str) -> None:
    """With snr √α, α = 1 − β_k: their VP correctors scale ε by α."""
    schedule = table()
    sigmas = schedule.sigmas

    @golden(REPOSITORY)
    def correct(x: Tensor, k: int) -> tuple[Tensor, float]:
        """The corrected state, and the std that "ald" takes: that of the continuous marginal, not of the chain."""
        sde, t = sde_lib.VPSDE(N=N), torch.full((len(x),), k / (N - 1))
        score_fn = sampling.get_score_fn(sde, vp_noise(D, lambda label: sigmas[label.long()]), continuous=False)
        torch.manual_seed(0)
        stepped, _ = sampling.get_corrector(rule)(sde, score_fn, 0.16, 1).update_fn(x, t)
        return stepped, sde.marginal_prob(x, t)[1][0]

    dynamics = Dynamics(schedule, D, {}, torch.device("cpu"))
    for k in (1, 7, 25, N - 1):
        (level,) = dynamics.levels([float(sigmas[k])])
        snr = 0.16 * math.sqrt(1 - float(schedule.table[k]))
        x = NOISE * math.hypot(1, level.sigma) + 0.3
        stepped, std = correct(x * level.s, k)
        off = float(std / (level.s * level.sigma))
        (noise,) = itertools.islice(drawn(), 1)
        mine = BatchLangevin(snr) if rule == "langevin" else AnnealedLangevin(snr * off)
        assert difference(mine.step(dynamics, x, level, partial(Tensor.clone, noise)), stepped / level.s) < ROUNDING


CONTINUOUS = {"vp": VP(), "subvp": SubVP(), "ve": GeometricVE(0.01, 50)}


def sde_of(name: str, **options: Any) -> Any:
    return {"vp": sde_lib.VPSDE, "subvp": sde_lib.subVPSDE, "ve": sde_lib.VESDE}[name](**options)


def continuous_noise(schedule: Any, denoiser: Any = D) -> Model:
    """Told 999 t, as both VP and sub-VP networks are; ε of the state s x."""

    def output(x: Tensor, labels: Tensor) -> Tensor:
        t = labels[0] / 999
        sigma, s = schedule.sigma(t), schedule.s(t)
        return (x / s - denoiser(x / s, sigma)) / sigma

    return Model(output)


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_euler_maruyama(name: str) -> None:
    """Their step is 1/N long whatever lies between two times: on times 1/N apart it is ours."""
    schedule = CONTINUOUS[name]
    times = [1 - i / N for i in range(N)]
    levels = [float(schedule.sigma(t)) for t in times]

    @golden(REPOSITORY)
    def sample() -> Tensor:
        sde = sde_of(name, N=N)
        score_fn = sampling.get_score_fn(sde, continuous_noise(schedule), continuous=True)
        predictor = sampling.get_predictor("euler_maruyama")(sde, score_fn)
        x = NOISE * levels[0] * float(schedule.s(1.0))
        torch.manual_seed(0)
        for t in times[:-1]:
            x, _ = predictor.update_fn(x, torch.full((len(x),), t))
        return x

    x = sample()
    out = ours(solvers.EulerMaruyama(), levels, schedule, drawn())
    assert difference(out, x / float(schedule.s(times[-1]))) < ROUNDING


def test_reverse_diffusion_as_an_ode_is_euler_in_the_square_of_sigma() -> None:
    sigmas = ve_table()
    known = torch.tensor(sigmas)

    @golden(REPOSITORY)
    def sample() -> Tensor:
        return run_pc(
            sde_lib.VESDE(N=N), ve_score(D, lambda label: known.flip(0)[label]), "reverse_diffusion", "none",
            probability_flow=True, denoise=False,
        )  # fmt: skip

    x = sample()
    start = next(drawn()) * sigmas[-1]
    assert difference(ours(solvers.Euler(), [*reversed(sigmas), 0.0], VE(), start=start), x) < ROUNDING


def test_a_continuous_ve_network_is_told_a_level_beside_that_of_the_step() -> None:
    """t_i from 1 to 1e-5 and the index rounded down: off by up to ε ln(σ_max/σ_min), 9e-5 of σ."""

    @golden(REPOSITORY)
    def off() -> float:
        sde, t = sde_lib.VESDE(N=1000), torch.linspace(1, 1e-5, 1000)
        told, stepped = sde.marginal_prob(torch.zeros(1), t)[1], sde.discrete_sigmas[(t * 999).long()]
        return float((told / stepped - 1).abs().max())

    assert 8e-5 < off() < 9e-5


def test_where_their_code_stops() -> None:
    """Euler–Maruyama as an ODE, a corrector for sub-VP, and ancestral sampling for it."""
    vp, subvp = sde_lib.VPSDE(N=2), sde_lib.subVPSDE(N=2)
    with pytest.raises(TypeError, match="not subscriptable"):
        run_pc(vp, continuous_noise(VP()), "euler_maruyama", "none", continuous=True, probability_flow=True)
    with pytest.raises(AttributeError, match="alphas"):
        run_pc(subvp, continuous_noise(SubVP()), "euler_maruyama", "langevin", continuous=True)
    with pytest.raises(NotImplementedError):
        run_pc(subvp, continuous_noise(SubVP()), "ancestral_sampling", "none", continuous=True)


def test_reverse_diffusion_of_sub_vp_is_euler_maruyama() -> None:
    """They discretize VP and VE only; ours runs the exact transition of any."""

    @golden(REPOSITORY)
    def sample(predictor: str) -> Tensor:
        return run_pc(sde_lib.subVPSDE(N=N), continuous_noise(SubVP()), predictor, "none", continuous=True)

    a, b = sample("reverse_diffusion"), sample("euler_maruyama")
    assert difference(a, b) < ROUNDING


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_marginals(name: str) -> None:
    schedule, t = CONTINUOUS[name], torch.linspace(1e-3, 1, 20)

    @golden(REPOSITORY)
    def functions() -> tuple[Tensor, ...]:
        sde, one = sde_of(name), torch.ones(20, 1, 1, 1)
        return *sde.marginal_prob(one, t), *sde.sde(one, t)

    mean, std, drift, diffusion = functions()
    assert torch.allclose(schedule.s(t), mean.flatten(), rtol=1e-12)
    assert torch.allclose(schedule.s(t) * schedule.sigma(t), std, rtol=1e-10)
    rate = schedule.log_sigma_rate(t)
    assert torch.allclose(schedule.log_s_rate(t), drift.flatten(), rtol=1e-12)
    assert torch.allclose(torch.sqrt(2 * rate) * schedule.s(t) * schedule.sigma(t), diffusion, rtol=1e-9)


def alone(x: Tensor, sigma: Tensor | float) -> Tensor:
    """A mixture on the line for each pixel: ∂D/∂x is diagonal, and signs give its trace without error."""
    level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1, 1)
    x = x[..., None]
    means, total = torch.tensor([-0.6, 0.5]), 0.04 + level**2
    share = torch.softmax(-0.5 * (x - means) ** 2 / total, -1)
    return (share * (means + 0.04 / total * (x - means))).sum(-1)


@pytest.mark.parametrize("name", ["vp", "subvp"])
@pytest.mark.parametrize("centred", [True, False])
def test_likelihood(name: str, centred: bool) -> None:
    """Bits/dim with their offset. They evaluate D in float32, at a tolerance of 1e-5."""
    schedule = CONTINUOUS[name]
    x = (0.4 * NOISE).clamp(-0.9, 0.9)

    @golden(REPOSITORY)
    def bits() -> tuple[Tensor, Tensor]:
        inverse = (lambda x: (x + 1) / 2) if centred else (lambda x: x)
        found, latent, _ = likelihood.get_likelihood_fn(sde_of(name), inverse)(continuous_noise(schedule, alone), x)
        return found.detach(), latent.detach()

    theirs, latent = bits()
    s, sigma = float(schedule.s(1e-5)), float(schedule.sigma(1e-5))
    found = edm.log_likelihood(
        alone, x / s, sigma_min=sigma, sigma_max=float(schedule.sigma(1.0)), tolerance=1e-7,
        prior=edm.likelihood.isotropic(SHAPE, variance=float(schedule.s(1.0)) ** -2 - float(schedule.sigma(1.0)) ** 2),
    )  # fmt: skip
    scaled = found.nats - found.dimensions * math.log(s)  # the density of s x
    mine = -scaled / (found.dimensions * math.log(2)) + (7 if centred else 8)
    assert float((mine - theirs).abs().max()) < 2e-4
    assert difference(found.latent * float(schedule.s(1.0)), latent) < 2e-4
    # the offset is that of a bin 1/128 or 1/256 wide
    scaling = edm.data.Scaling(0.0, 128.0 if centred else 256.0)
    assert edm.likelihood.offset(scaling) == (7 if centred else 8)


def test_likelihood_of_ve() -> None:
    schedule, x = CONTINUOUS["ve"], 0.4 * NOISE

    @golden(REPOSITORY)
    def bits() -> Tensor:
        fn = likelihood.get_likelihood_fn(sde_of("ve"), lambda x: x)
        return fn(ve_score(alone, lambda sigma: sigma), x)[0].detach()

    theirs = bits()
    found = edm.log_likelihood(alone, x, sigma_min=float(schedule.sigma(1e-5)), sigma_max=50.0, tolerance=1e-7)
    assert float((found.bits_per_dim + 8 - theirs).abs().max()) < 2e-4


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_probability_flow(name: str) -> None:
    """Their RK45 in t at a tolerance of 1e-5, with D in float32, and ours in ln σ come to the same end."""
    schedule = CONTINUOUS[name]
    levels = [float(schedule.sigma(t)) for t in (1.0, 1e-3)]

    @golden(REPOSITORY)
    def sample() -> Tensor:
        sampler = sampling.get_ode_sampler(sde_of(name), BATCH, lambda x: x, device="cpu")
        return sampler(continuous_noise(schedule), NOISE * levels[0] * float(schedule.s(1.0)))[0]

    x = sample()
    out = ours(solvers.DormandPrince45(rtol=1e-5, atol=1e-5), levels, schedule)
    assert difference(out, x / float(schedule.s(1e-3))) < 5e-4


@pytest.mark.parametrize("weighting", [False, True])
@pytest.mark.parametrize("reduce_mean", [False, True])
def test_losses(weighting: bool, reduce_mean: bool) -> None:
    """λ of the D form: 1/σ² (ε), and with the likelihood's weighting 2 (d ln σ/dt)/σ²; half the sum, or the mean."""
    schedule, x0 = CONTINUOUS["vp"], 0.5 * NOISE[:1]

    @golden(REPOSITORY)
    def loss() -> float:
        fn = losses.get_sde_loss_fn(sde_of("vp"), False, reduce_mean=reduce_mean, likelihood_weighting=weighting)
        torch.manual_seed(3)
        return float(fn(continuous_noise(schedule), x0))

    theirs = loss()
    torch.manual_seed(3)
    t = torch.rand(1)[0] * (1 - 1e-5) + 1e-5
    sigma = schedule.sigma(t)
    error = (D(x0 + sigma * torch.randn_like(x0), sigma) - x0).square().sum()
    weight = edm.training.weights.LikelihoodWeight() if weighting else edm.training.weights.EpsilonWeight()
    mine = weight(sigma, schedule) * error * (1 / x0.numel() if reduce_mean else 0.5)
    assert float(theirs) == pytest.approx(float(mine), rel=1e-9)


def test_both_walks_end_at_their_levels() -> None:
    """The grids of the recipes are theirs: t from 1 to 1e-3 for VP; σ_i even in ln σ for VE."""
    levels = edm.discretization.UniformTime(n=N, t_max=1.0, t_min=1e-3).levels(VP())
    assert torch.allclose(levels[:-1], VP().sigma(torch.linspace(1, 1e-3, N)), rtol=1e-12)
    levels = edm.discretization.LogLinear(n=N, sigma_min=0.01, sigma_max=50).levels(VE())

    @golden(REPOSITORY)
    def sigmas() -> Tensor:
        return sde_lib.VESDE(N=N).discrete_sigmas

    assert torch.allclose(levels[:-1].flip(0), sigmas(), rtol=1e-6)
    assert all(a > b for a, b in itertools.pairwise(levels.tolist()))
