"""The samplers of crowsonkb/k-diffusion and the Restart sampler of its authors beside ours, in float64."""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from authors_repos import NOISE, Absent, D, difference, double, drawn, golden, importable, ours, place
from torch import Tensor

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.levels import Karras, LogLinear, PolynomialExponential, UniformTime
from edm_unified.sampling.loop import levels_of
from edm_unified.sampling.renoising import Ancestral, Churn, Restart, RestartInterval
from edm_unified.schedules import EDM, VP

KD, RESTART = "crowsonkb/k-diffusion", "Newbeeer/diffusion_restart_sampling"
kd: Any = Absent(KD)
if (folder := place(KD)) is not None:
    with importable(folder, stubs=("torchdiffeq", "torchsde", "tqdm")) as load:
        package = types.ModuleType("k_diffusion")  # its own imports networks and metrics
        package.__path__ = [str(folder / "k_diffusion")]
        sys.modules["k_diffusion"] = package
        kd = load("k_diffusion.sampling")
restart: Any = Absent(RESTART)
if (folder := place(RESTART)) is not None:
    with importable(folder / "benchmarks", stubs=("tqdm", "torchvision", "dnnlib", "torch_utils")) as load:
        restart = load("generate_restart")

ROUNDING = 1e-11
N = 18


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def karras(n: int = N) -> list[float]:
    return Karras(n=n).levels(EDM()).tolist()


def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
    return D(x, sigma[0])


@golden(KD)
def theirs(name: str, levels: list[float], **options: Any) -> Tensor:
    torch.manual_seed(0)
    return getattr(kd, name)(model, NOISE * levels[0], torch.tensor(levels), disable=True, **options)


def given(noises: Iterator[Tensor] | None = None) -> Callable[..., Tensor]:
    source = drawn() if noises is None else noises
    return lambda *_: next(source)


@golden(KD)
def their_levels(name: str, *args: float) -> Tensor:
    return getattr(kd, f"get_sigmas_{name}")(*args)


def test_levels() -> None:
    for n in (1, 2, 18):
        assert torch.allclose(Karras(n=n).levels(EDM()), their_levels("karras", n, 0.002, 80.0), rtol=1e-12)
        assert torch.allclose(LogLinear(n=n).levels(EDM()), their_levels("exponential", n, 0.002, 80.0), rtol=1e-12)
        mine = PolynomialExponential(n=n, rho=2.0).levels(EDM())
        assert torch.allclose(mine, their_levels("polyexponential", n, 0.002, 80.0, 2.0), rtol=1e-12)
    mine = UniformTime(n=18, t_max=1.0, t_min=1e-3).levels(VP())
    assert torch.allclose(mine, their_levels("vp", 18), rtol=1e-10)


ODE = {
    "sample_euler": solvers.Euler(),
    "sample_heun": solvers.Heun(),
    "sample_dpm_2": solvers.DPMSolver2(),
    "sample_dpmpp_2m": solvers.DPMSolverPP2M(),
}


@pytest.mark.parametrize("name", ODE)
def test_ode(name: str) -> None:
    assert difference(ours(ODE[name], karras()), theirs(name, karras())) < ROUNDING


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order: int) -> None:
    """Their weights come from an adaptive quadrature, which has the integral of a polynomial at once."""
    assert difference(ours(solvers.LMS(order=order), karras()), theirs("sample_lms", karras(), order=order)) < 1e-9


@pytest.mark.parametrize("name", ["sample_euler", "sample_heun", "sample_dpm_2"])
def test_churn(name: str) -> None:
    """They draw noise where γ = 0 as well, and do not use it."""
    levels, rule = karras(), Churn(S_churn=40, S_min=0.05, S_max=50, S_noise=1.003)
    walk = rule.walk(tuple(levels))
    used = (noise for noise, a in zip(drawn(), levels, strict=False) if 0.05 <= a <= 50)
    x = theirs(name, levels, s_churn=40.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    assert difference(ours(ODE[name], list(walk), noises=used, S_noise=1.003), x) < ROUNDING


ANCESTRAL = {
    "sample_euler_ancestral": solvers.Euler(),
    "sample_dpm_2_ancestral": solvers.DPMSolver2(),
    "sample_dpmpp_2s_ancestral": solvers.DPMSolverPP2S(),
}


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("name", ANCESTRAL)
def test_ancestral(name: str, eta: float) -> None:
    levels = karras()
    walk = list(Ancestral(eta=eta).walk(tuple(levels)))
    x = theirs(name, levels, eta=eta, noise_sampler=given())
    assert difference(ours(ANCESTRAL[name], walk, noises=drawn()), x) < ROUNDING


@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("sample_dpmpp_2m_sde", lambda eta: solvers.DPMSolverPP2MSDE(eta=eta), {}),
        (
            "sample_dpmpp_2m_sde",
            lambda eta: solvers.DPMSolverPP2MSDE(eta=eta, correction="heun"),
            {"solver_type": "heun"},
        ),
        ("sample_dpmpp_3m_sde", lambda eta: solvers.DPMSolverPP3MSDEPublished(eta=eta), {}),
    ],
)
def test_multistep_sde(name: str, solver: Any, options: dict[str, Any], eta: float) -> None:
    """Their eta is our η²."""
    x = theirs(name, karras(), eta=eta, noise_sampler=given(), **options)
    assert difference(ours(solver(math.sqrt(eta)), karras(), noises=drawn()), x) < ROUNDING


def test_the_3m_sde_lacks_a_factor() -> None:
    x = theirs("sample_dpmpp_3m_sde", karras(), noise_sampler=given())
    assert difference(ours(solvers.DPMSolverPP3MSDE(), karras(), noises=drawn()), x) > 1e-3


@pytest.mark.skipif(place(KD) is None, reason=f"what raises is their code: clone github.com/{KD}, set AUTHORS_REPOS")
@pytest.mark.parametrize("name", ["sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"])
def test_one_step_fails_in_their_multistep_sdes(name: str) -> None:
    with pytest.raises(UnboundLocalError, match="'h'"):
        theirs(name, [80.0, 0.0], noise_sampler=given())


@pytest.mark.parametrize("r", [0.5, 0.7])
def test_dpmpp_sde(r: float) -> None:
    """Given noises of the exact joint law: the second is that of the first and of the rest of the step."""
    levels, source, noises, joint = karras(), drawn(), [], []
    for a, b in pairwise(levels[:-1]):
        first, second = next(source), next(source)
        noises += [first, second]
        h = math.log(a / b)
        before, after = -math.expm1(-2 * r * h), -math.expm1(-2 * (1 - r) * h)
        kept = math.exp(-2 * (1 - r) * h)
        joint += [
            first,
            (math.sqrt(kept * before) * first + math.sqrt(after) * second) / math.sqrt(kept * before + after),
        ]
    x = theirs("sample_dpmpp_sde", levels, noise_sampler=given(iter(joint)), r=r)
    assert difference(ours(solvers.DPMSolverPPSDE(r=r), levels, noises=iter(noises)), x) < ROUNDING


@pytest.mark.parametrize("nfe", [8, 20])
def test_dpm_fast(nfe: int) -> None:
    """Where three divides the evaluations and one more; elsewhere their split of a budget has no counterpart."""

    @golden(KD)
    def fast() -> Tensor:
        torch.manual_seed(0)
        return kd.sample_dpm_fast(model, NOISE * 80, 0.02, 80.0, nfe, disable=True)

    x = fast()
    levels = LogLinear(n=nfe // 3 + 2, sigma_min=0.02).levels(EDM()).tolist()[:-1]
    assert difference(ours(solvers.DPMSolverFast(), levels), x) < ROUNDING


@pytest.mark.parametrize(("order", "solver"), [(2, solvers.DPMSolver12), (3, solvers.DPMSolver23)])
def test_dpm_adaptive(order: int, solver: Any) -> None:
    """Both end within the tolerance. Theirs has one step for the whole batch and limits its change by an arctangent."""

    @golden(KD)
    def adaptive(count: int) -> tuple[Tensor, float]:
        x, info = kd.sample_dpm_adaptive(
            model, NOISE[:count] * 80, 0.02, 80.0, disable=True, order=order, rtol=0.005, atol=1e-4, return_info=True
        )
        return x, info["n_accept"]

    exact = ours(solvers.DormandPrince45(rtol=1e-10, atol=1e-10), [80.0, 0.02])
    x, accepted = adaptive(len(NOISE))
    mine = ours(solver(rtol=0.005, atol=1e-4), [80.0, 0.02])
    assert accepted > 5
    assert difference(x, exact) < 0.02
    assert difference(mine, exact) < 0.02
    one, _ = adaptive(1)
    assert difference(x[:1], one) > 1e-7


def test_log_likelihood() -> None:
    """Nats at σ_min with N(0, σ_max²) at the top, by one sign probe: exact where ∂D/∂x is diagonal."""

    def alone(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        level = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        return x * 0.25 / (0.25 + level**2) + 0.1 * torch.tanh(x) * level**2 / (1 + level**4)

    x = 0.5 * NOISE

    @golden(KD)
    def nats() -> Tensor:
        pytest.importorskip(
            "torchdiffeq", reason="needs torchdiffeq, with which k-diffusion integrates: pip install torchdiffeq"
        )
        return kd.log_likelihood(alone, x, 0.02, 80.0, atol=1e-9, rtol=1e-9)[0].detach()

    mine = edm.log_likelihood(alone, x, sigma_min=0.02, sigma_max=80.0, tolerance=1e-9)
    assert difference(mine.nats, nats()) < 1e-6


# -- Restart -----------------------------------------------------------------------------------------------------------


class Network:
    """What their sampler asks of a network of EDM's."""

    img_channels, img_resolution, sigma_min, sigma_max = 1, 2, 0.0, math.inf

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def __call__(self, x: Tensor, sigma: Tensor, label: Any) -> Tensor:
        return D(x, sigma)


@pytest.mark.parametrize("text", ['{"0": [3, 2, 0.06, 0.30]}', '{"0": [4, 1, 1.09, 1.92], "1": [6, 3, 0.06, 0.30]}'])
def test_restart(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The levels of an interval are float32 there, and float64 ours."""

    @golden(RESTART)
    def sample() -> Tensor:
        monkeypatch.setattr(restart.dist, "print0", lambda *_: None, raising=False)
        monkeypatch.setattr(torch, "float", torch.float64)
        noises = drawn()
        return restart.restart_sampler(
            Network(), NOISE, randn_like=lambda x: next(noises), num_steps=N, S_noise=1.003, restart_info=text
        )

    x = sample()
    intervals = tuple(RestartInterval(low, high, n, K) for n, K, low, high in json.loads(text).values())
    walk = levels_of(Karras(n=N), EDM(), Restart(intervals=intervals, S_noise=1.003))
    # theirs draws at every move: before a fall for a churn of γ = 0, which does not use it
    used = (noise for noise, (a, b) in zip(drawn(), pairwise(walk), strict=False) if b > a)
    mine = ours(solvers.Heun(), list(walk), noises=used, S_noise=1.003)
    assert difference(mine, x) < ROUNDING
