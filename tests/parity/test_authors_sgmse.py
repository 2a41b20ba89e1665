"""sp-uhh/sgmse (PyPI 0.1.2; run at ae690e8) beside ours: perturbation, score, predictor, corrector and final sample.

Theirs is complex, with noise of E|n|² = 1; ours has the real and the imaginary part as two channels. So each σ of ours
is theirs divided by √2, in the schedule, and n of ours theirs times √2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from authors_repos import difference, double, golden, loaded
from torch import Tensor

import edm_unified as edm
from edm_unified import correctors, discretization, preconditioning, renoising, schedules, solvers
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.loop import walk

REPOSITORY = "sp-uhh/sgmse"
sdes, samplers = loaded(REPOSITORY, "sgmse.sdes", "sgmse.sampling")

ROUNDING = 1e-12
SHAPE = (2, 1, 4, 3)
OUVE = schedules.OUVE(1.5, 0.05 / math.sqrt(2), 0.5 / math.sqrt(2))
BRIDGE = schedules.VEBridge(2.6, 0.4 / 2)
OURS, THEIRS = {"ouve": OUVE, "sbve": BRIDGE}, {"ouve": (1.5, 0.05, 0.5), "sbve": (2.6, 0.4)}


def random(seed: int) -> Iterator[Tensor]:
    """What ``torch.randn_like`` of a complex tensor gives after ``torch.manual_seed(seed)``."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(SHAPE, dtype=torch.complex128, generator=generator)


X_0, Y, N = (next(random(seed)) for seed in (11, 12, 13))
WEIGHTS = next(random(14))[0, 0, :, :3].real
WEIGHTS = WEIGHTS @ WEIGHTS.T  # (4, 4)


def network(x_t: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """An untrained network of two complex inputs, as they stack them."""
    both = torch.einsum("fg,bcgt->bcft", WEIGHTS.to(x_t.dtype), x_t) + 0.3 * y * (1 + t.view(-1, 1, 1, 1))
    return torch.complex(torch.tanh(both.real), torch.tanh(both.imag - both.real))


def parts(z: Tensor) -> Tensor:
    """(B, 1, F, T) complex as (B, 2, F, T)."""
    return torch.cat([z.real, z.imag], 1)


def whole(x: Tensor) -> Tensor:
    return torch.complex(x[:, :1].contiguous(), x[:, 1:].contiguous())


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def of(kind: str, **settings: Any) -> Any:
    cls = {"ouve": "OUVESDE", "sbve": "SBVESDE"}[kind]
    return getattr(sdes, cls)(*THEIRS[kind], **settings)


@golden(REPOSITORY)
def perturbed(kind: str, t: float) -> list[Tensor]:
    mean, std = of(kind, **({"eps": 0.0} if kind == "sbve" else {})).marginal_prob(X_0, Y, torch.full((2,), t))
    x_t = mean + std[:, None, None, None] * N
    return [parts(mean), std, parts(x_t)]


@pytest.mark.parametrize("kind", ["ouve", "sbve"])
@pytest.mark.parametrize("t", [0.03, 0.5, 1.0])
def test_perturbation(kind: str, t: float) -> None:
    mean, std, x_t = perturbed(kind, t)
    schedule = OURS[kind]
    own = schedule.mean(t, parts(X_0), parts(Y))
    assert difference(own, mean) < ROUNDING
    assert difference(math.sqrt(2) * schedule.std(t).expand(2), std) < ROUNDING
    assert difference(own + schedule.std(t) * math.sqrt(2) * parts(N), x_t) < ROUNDING


def score_network(x: Tensor, t: Tensor, image: Tensor) -> Tensor:
    """Their ``-dnn([x_t, y], t)``, the score where σ is that of complex noise: half of ours, whose parts are real."""
    return parts(-network(whole(x), whole(image), t)) * 2


def denoiser() -> edm.Anchored:
    return edm.Anchored(score_network, preconditioning.OnSchedule(OUVE, "score"))


@golden(REPOSITORY)
def sampled(corrector: str, snr: float, steps: int) -> list[Tensor]:
    """Their predictor–corrector sampler, the reverse diffusion with a corrector."""
    sde = of("ouve", N=steps)
    torch.manual_seed(3)
    score = lambda x, y, t: -network(x, y, t)  # noqa: E731
    run = samplers.get_pc_sampler("reverse_diffusion", corrector, sde, score, Y, eps=0.03, snr=snr)
    x, evaluations = run()
    return [parts(x), float(evaluations)]


@pytest.mark.parametrize(
    ("corrector", "ours", "steps"),
    [
        ("ald", correctors.AnnealedLangevin(snr=0.5), 30),
        ("langevin", correctors.BatchLangevin(snr=0.5), 6),
        ("none", None, 6),
    ],
)
def test_the_predictor_corrector_sampler(corrector: str, ours: Any, steps: int) -> None:
    """Reverse diffusion there is Euler–Maruyama here; the corrector is first on every level; the last step has no
    noise."""
    x, evaluations = sampled(corrector, 0.5, steps)
    noises = random(3)
    start = math.sqrt(2) * parts(next(noises))
    anchor = parts(Y)
    counted = edm.Counted(denoiser())
    levels = discretization.UniformTime(n=steps, t_min=0.03).levels(OUVE).tolist()
    if ours is not None:
        levels = list(renoising.Corrected().walk(tuple(levels)))
    dynamics = Dynamics(OUVE, counted, {"image": anchor}, torch.device("cpu"), anchor=anchor)
    z = walk(
        dynamics,
        start * levels[0],
        dynamics.walk(levels),
        solvers.EulerMaruyama(),
        ours,
        1.0,
        lambda: math.sqrt(2) * parts(next(noises)),
    )
    assert counted.nfe == evaluations
    assert difference(z + anchor, x) < 1e-11


@golden(REPOSITORY)
def bridged(kind: str, steps: int) -> Tensor:
    sde = of("sbve", N=steps, eps=1e-14)
    torch.manual_seed(4)
    x, _ = samplers.get_sb_sampler(sde, network, Y, eps=1e-4, sampler_type=kind)()
    return parts(x)


@pytest.mark.parametrize(("kind", "eta"), [("sde", 1.0), ("ode", 0.0)])
def test_the_samplers_of_the_bridge(kind: str, eta: float) -> None:
    """DDIM from a start without noise, of a network that is told the time of the *next* level, as theirs is.

    They begin at σ = ∞ with an ε in two denominators of the ODE, √ε σ_T + ε and √ε + ε, that do not cancel: what is
    left as ε → 0 is (σ_T − 1)/σ_T y in the place of the noise. We begin at a large σ.
    """
    theirs = bridged(kind, 12)
    times = torch.linspace(1, 1e-4, 13)
    start = 1e6
    levels = [start, *BRIDGE.sigma(times[1:]).tolist()]
    told = iter(times[1:])
    D = edm.Anchored(
        lambda x, t, image: parts(network(whole(x), whole(image), next(told).expand(2))),
        preconditioning.OnSchedule(BRIDGE, "x0"),
        whole=True,
    )
    noises = random(4)
    anchor = parts(Y)
    dynamics = Dynamics(BRIDGE, D, {"image": anchor}, torch.device("cpu"), anchor=anchor)
    last = len(levels) - 2
    count = iter(range(99))
    draw = lambda: math.sqrt(2) * parts(next(noises)) * (next(count) < last)  # noqa: E731  # their last step has none
    sigma_T = math.sqrt(2 * BRIDGE._V)
    start_noise = (1 - eta) * math.sqrt(2) * (sigma_T - 1) / sigma_T * anchor
    z = walk(dynamics, start * start_noise, dynamics.walk(levels), solvers.DDIM(eta=eta), None, 1.0, draw)
    x_t = anchor + float(BRIDGE.s(times[-1])) * z
    assert difference(x_t, theirs) < 1e-6
