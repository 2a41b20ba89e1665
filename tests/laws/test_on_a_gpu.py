"""The laws of the loop where they are about a device: what the tests on the CPU can only promise.

Without a CUDA device these are skipped: ``python -m pytest tests -k on_a_gpu`` on a machine that has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from variants import ADAPTIVE, CORRECTORS, SOLVERS, by_kind, cover, every, name, one_of_each

import edm_unified as edm
from edm_unified import networks, preconditioning, schedules, solvers
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.loop import NoiseStreams, levels_of, walk
from edm_unified.sampling.renoising import Ancestral, Churn, Corrected
from edm_unified.sampling.streams import Purpose

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
GPU = torch.device("cuda")
MIXTURE = edm.exact.GaussianMixture(
    weights=[0.4, 0.6], means=[[-1.0, 0.0, 0.3], [1.0, 0.5, -0.2]], covs=[[0.05, 0.1, 0.2], [0.02, 0.3, 0.1]]
)
SCHEDULES = [schedules.EDM(), schedules.VP(), schedules.FlowMatching(), schedules.BetaTable()]


@contextmanager
def no_waiting() -> Iterator[None]:
    """An error for every operation that makes the host wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def denoiser(precondition: Any) -> Any:
    torch.manual_seed(0)
    network = networks.UNet(channels=32, multipliers=(1, 2), blocks=1, attention_resolutions=(8,))
    built = network.build((3, 16, 16)).to(GPU).eval().requires_grad_(False)
    return edm.Preconditioned(built, precondition)


def test_the_test_for_waiting_can_fail() -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), no_waiting():
        torch.ones(1, device=GPU).item()


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS), [None, Churn(), Corrected()])))
def test_the_loop_never_waits_for_the_device(runs: list[Any]) -> None:
    for solver, rule in runs:
        never_waits(solver, rule)


def never_waits(solver: Any, rule: Any) -> None:
    levels = levels_of(edm.discretization.Karras(n=5), schedules.EDM(), rule)
    D = lambda x, sigma: x / (1 + sigma**2)  # noqa: E731
    dynamics = Dynamics(schedules.EDM(), D, {}, GPU)
    path = dynamics.walk(levels)
    state = solver.init(dynamics, path)
    x = edm.unit_noise(2, (3, 16, 16)).to(GPU) * levels[0]
    for corrector in every(CORRECTORS) if isinstance(rule, Corrected) else [None]:
        for _ in range(2):  # the first draw of noise makes streams and pinned memory
            randn = NoiseStreams(0, 0, x.shape, x.dtype, GPU, purpose=Purpose.STEPS)
            with no_waiting():
                walk(dynamics, x, path, solver, corrector, 1.0, randn, state=state)


@pytest.mark.parametrize(
    "precondition",
    [
        preconditioning.EDM(),
        preconditioning.VP(),
        preconditioning.VE(),
        preconditioning.DDPM(),
        preconditioning.IDDPM(),
    ],
    ids=name,
)
def test_a_network_in_its_preconditioning_never_waits(precondition: Any) -> None:
    dynamics, heun = Dynamics(schedules.EDM(), denoiser(precondition), {}, GPU), solvers.Heun()
    path, x = dynamics.walk((10.0, 3.0, 1.0, 0.2, 0.05)), edm.unit_noise(2, (3, 16, 16)).to(GPU)
    for _ in range(2):  # cuDNN and cuBLAS allocate at the first call
        with no_waiting(), torch.no_grad():
            walk(dynamics, 10 * x, path, heun, None, 1.0, lambda: x)


@pytest.mark.parametrize("runs", by_kind(cover(every(SOLVERS) + one_of_each(ADAPTIVE), SCHEDULES)))
def test_a_sample_is_that_of_the_cpu(runs: list[Any]) -> None:
    noise, steps = edm.unit_noise(16, (3,), seed=3), edm.discretization.Karras(n=8, sigma_max=70.0, sigma_min=0.02)
    for solver, schedule in runs:
        here = edm.sample(MIXTURE, noise, schedule=schedule, steps=steps, solver=solver)
        there = edm.sample(MIXTURE.to(GPU), noise.to(GPU), schedule=schedule, steps=steps, solver=solver)
        assert there.device.type == "cuda"
        # an adaptive method's next step follows from its last error, down to the roundings of that small difference
        bound = 1e-7 if type(solver) in ADAPTIVE else 1e-9
        assert float((there.cpu() - here).abs().max()) < bound, name(solver, schedule)


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_a_sample_does_not_depend_on_its_batch(settings: list[Any]) -> None:
    D = lambda x, sigma: x / (1 + sigma**2) + 0.1 * torch.exp(-x * x / (1 + sigma**2))  # noqa: E731
    noise = edm.unit_noise(64, (3, 5, 7)).to(GPU)
    for solver in settings:
        options = {"solver": solver, "renoising": Ancestral(eta=0.5)}
        whole = edm.sample(D, noise, **options)
        for i in (0, 17, 63):
            assert torch.equal(edm.sample(D, noise[i : i + 1], first=i, **options)[0], whole[i]), name(solver)


def test_the_likelihood_is_that_of_the_cpu() -> None:
    x = MIXTURE.sample(8, seed=0)
    here, there = (edm.log_likelihood(D, y) for D, y in ((MIXTURE, x), (MIXTURE.to(GPU), x.to(GPU))))
    assert float((there.nats.cpu() - here.nats).abs().max()) < 1e-8


def test_noise_on_the_cpu_and_a_network_on_the_device() -> None:
    D = denoiser(preconditioning.EDM())
    noise, steps = edm.unit_noise(2, (3, 16, 16)), edm.discretization.Karras(n=3)
    mixed, there = edm.sample(D, noise, steps=steps), edm.sample(D, noise.to(GPU), steps=steps)
    assert mixed.device.type == "cpu"
    assert float((mixed - there.cpu()).abs().max()) < 1e-3 * float(there.abs().max())


@pytest.mark.parametrize("settings", by_kind(every(SOLVERS)))
def test_a_replayed_run_is_the_run(settings: list[Any]) -> None:
    D, steps = denoiser(preconditioning.EDM()), edm.discretization.Karras(n=4)
    noise = [edm.unit_noise(3, (3, 16, 16), first=first).to(GPU) for first in (0, 3, 6)]
    for solver in settings:
        graphs = edm.Graphs()
        for turn, start in enumerate(noise):
            options = {"steps": steps, "solver": solver, "first": 3 * turn, "renoising": Ancestral(eta=0.5)}
            plain = edm.sample(D, start, **options)
            assert torch.equal(edm.sample(D, start, graphs=graphs, **options), plain), name(solver)
        assert len(graphs) == 1


def test_a_run_that_waits_for_the_device_cannot_be_recorded() -> None:
    D = lambda x, sigma: x / (1 + float(sigma) ** 2)  # noqa: E731
    graphs, noise = edm.Graphs(), edm.unit_noise(2, (3,)).to(GPU)
    edm.sample(D, noise, graphs=graphs)
    with pytest.raises(ValueError, match="graphs: the run cannot be recorded as a CUDA graph"):
        edm.sample(D, noise, graphs=graphs)
