"""Parity with ``diffusers``, an independent implementation: the same analytic denoiser, the same start, its own levels.

Its schedulers keep tables and states in float32, so that agreement is to float32 accuracy: each step rounds a state of
size |x| ~ σ (VE) or 1 (VP, flow), and the contraction of the flow keeps those roundings from growing. ``CLOSE`` is a
hundred units of float32 in the largest output; a wrong coefficient shows at 1e-2.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.levels import Explicit, TableSubset
from edm_unified.sampling.loop import walk
from edm_unified.schedules import EDM, VP, BetaTable, FlowMatching

diffusers = pytest.importorskip("diffusers")

CLOSE = 100 * 2**-23
NOISE = edm.unit_noise(4, (1, 4, 4), seed=2)
WEIGHTS, MEANS, STDS = (0.3, 0.5, 0.2), (-0.9, 0.2, 0.8), (0.2, 0.3, 0.25)


def D(x: Tensor, sigma: Tensor | float) -> Tensor:
    """The posterior mean of a mixture on the line, for each pixel by itself; float64."""
    x, level = x.double()[..., None], torch.as_tensor(sigma, dtype=torch.float64)
    means, stds = torch.tensor(MEANS, dtype=torch.float64), torch.tensor(STDS, dtype=torch.float64)
    total = stds**2 + level**2
    logits = torch.tensor(WEIGHTS, dtype=torch.float64).log() - 0.5 * total.log() - 0.5 * (x - means) ** 2 / total
    return (torch.softmax(logits, -1) * (means + stds**2 / total * (x - means))).sum(-1)


def drive(scheduler: Any, start: Tensor, levels: list[float], output: Callable[..., Tensor], **step: Any) -> Tensor:
    """diffusers' driver loop. ``output`` is what a network of the scheduler's prediction type would return."""
    x = start.float()
    for t, sigma in zip(scheduler.timesteps, levels, strict=False):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(output(x, scaled, sigma).float(), t, x, **step).prev_sample
    return x.double()


def ours(solver: Any, levels: list[float], schedule: Any = EDM(), noises: list[Tensor] | None = None) -> Tensor:  # noqa: B008
    dynamics = Dynamics(schedule, D, {}, torch.device("cpu"))
    given = iter(noises or [])
    return walk(dynamics, NOISE * levels[0], dynamics.walk(levels), solver, None, 1.0, lambda: next(given))


def epsilon_ve(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
    """State x_0 + σn."""
    return (x.double() - D(x, sigma)) / sigma


def epsilon_vp(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
    """State (x_0 + σn)/√(1+σ²)."""
    z = x.double() * (1 + sigma**2) ** 0.5
    return (z - D(z, sigma)) / sigma


def velocity(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
    """State (x_0 + σn)/(1+σ): v = ε − D."""
    z = x.double() * (1 + sigma)
    denoised = D(z, sigma)
    return (z - denoised) / sigma - denoised


def agree(a: Tensor, b: Tensor, tolerance: float = CLOSE) -> None:
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("n", [1, 7, 20])
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize("karras", [False, True])
def test_euler(n: int, spacing: str, karras: bool) -> None:
    karras = karras and n > 1  # its Karras grid of one step is 0/0
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing, use_karras_sigmas=karras)
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()
    theirs = drive(scheduler, NOISE * levels[0], levels[:-1], epsilon_ve)
    rounding = max(CLOSE, 4 * levels[0] * 2**-23)  # of a state as large as 4 σ_0, which a single step does not contract
    agree(ours(solvers.Euler(), levels), theirs, rounding)
    agree(ours(solvers.DDIM(), levels), theirs, rounding)


@pytest.mark.parametrize("n", [2, 7, 20])
def test_heun(n: int) -> None:
    scheduler = diffusers.HeunDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    visited = scheduler.sigmas.double().tolist()  # σ_0, then each later one twice, then 0
    levels = [visited[0], *visited[1:-1:2], 0.0]
    theirs = drive(scheduler, NOISE * levels[0], visited[:-1], epsilon_ve)
    agree(ours(solvers.Heun(), levels), theirs)


def levels_of_timesteps(scheduler: Any) -> list[float]:
    alpha_bar = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return [*torch.sqrt((1 - alpha_bar) / alpha_bar).tolist(), 0.0]


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("n", [1, 10, 50])
def test_ddim(n: int, eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    levels = levels_of_timesteps(scheduler)
    noises = [torch.randn(NOISE.shape) for _ in levels]
    source, x = iter(noises), NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    for t, sigma in zip(scheduler.timesteps, levels[:-1], strict=True):
        noise = next(source) if eta and sigma != levels[-2] else torch.zeros(NOISE.shape)
        x = scheduler.step(epsilon_vp(x, x, sigma), t, x, eta=eta, variance_noise=noise).prev_sample
    agree(ours(solvers.DDIM(eta=eta), levels, noises=[noise.double() for noise in noises]), x.double(), 3 * CLOSE)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("n", [2, 10, 50, 1000])
def test_ddpm(n: int, variance: Any) -> None:
    kind = f"fixed_{variance}"
    scheduler = diffusers.DDPMScheduler(clip_sample=False, timestep_spacing="trailing", variance_type=kind)
    scheduler.set_timesteps(n)
    levels = levels_of_timesteps(scheduler)
    if variance == "large" and n < 1000:  # diffusers adds noise even to the clean sample there: stop before that step
        levels = levels[:-1]
    start = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    theirs = drive(scheduler, start, levels[:-1], epsilon_vp, generator=torch.Generator().manual_seed(8))
    generator = torch.Generator().manual_seed(8)
    noises = [torch.randn(NOISE.shape, generator=generator).double() for _ in levels]
    schedule = VP()  # s = 1/√(1+σ²), which is all that the large variance asks of a schedule
    mine = ours(solvers.DDPM(variance=variance), levels, schedule, noises) / (1 + levels[-1] ** 2) ** 0.5
    # a thousand roundings of float32, and a table whose 1 − ᾱ loses digits at the small end (posterior variances)
    agree(mine, theirs, 30 * CLOSE)


@pytest.mark.parametrize(
    ("form", "solver"), [("midpoint", solvers.DPMSolverPP2M()), ("heun", solvers.ExponentialAdams(order=2))]
)
@pytest.mark.parametrize("n", [1, 2, 8, 20])
def test_dpm_solver_pp_2m(n: int, form: str, solver: Any) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_type=form)
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()
    start = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    theirs = drive(scheduler, start, levels[:-1], epsilon_vp)
    agree(ours(solver, levels), theirs, 3 * CLOSE)


@pytest.mark.parametrize("form", ["midpoint", "heun"])
def test_sde_dpm_solver_pp_2m(form: Any) -> None:
    """η = 1; the noises are drawn by diffusers' step in the order of ours."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing="trailing", solver_type=form, algorithm_type="sde-dpmsolver++"
    )
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double().tolist()
    noises = [torch.randn(NOISE.shape) for _ in levels]
    x = (NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5).float()
    for t, sigma, noise in zip(scheduler.timesteps, levels[:-1], noises, strict=False):
        x = scheduler.step(epsilon_vp(x, x, sigma).float(), t, x, variance_noise=noise).prev_sample
    solver = solvers.DPMSolverPP2MSDE(correction=form)
    agree(ours(solver, levels, noises=[noise.double() for noise in noises]), x.double(), 3 * CLOSE)


def test_the_published_third_order_is_not_ours() -> None:
    """A near miss: diffusers' 3M lacks a factor of 2 (law 8), and at 20 steps the samples differ in the third digit."""
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_order=3)
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double().tolist()
    theirs = drive(scheduler, NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5, levels[:-1], epsilon_vp)
    assert float((ours(solvers.ExponentialAdams(order=3), levels) - theirs).abs().max()) > 100 * CLOSE


@pytest.mark.parametrize("n", [1, 8, 28])
def test_flow_match_euler(n: int) -> None:
    """From t = 0.99, since at diffusers' t = 1 the level is σ = ∞; with its shift of 3 applied by itself."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 1 / n if n > 1 else 0.99, n))
    t = scheduler.sigmas.double()
    levels = (t / (1 - t)).tolist()
    theirs = drive(scheduler, NOISE * levels[0] / (1 + levels[0]), levels[:-1], velocity)
    agree(ours(solvers.Euler(), levels, FlowMatching()), theirs)


def test_our_table_is_theirs() -> None:
    """σ of diffusers' float32 product against our float64 table: 2⁻²⁴ in ᾱ is 3e-4 of σ_1² = 1e-4, less above."""
    scheduler = diffusers.DDIMScheduler()
    theirs = torch.sqrt((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double())
    assert torch.allclose(BetaTable().sigmas, theirs, rtol=3e-4)
    for spacing, n in itertools.product(["leading", "trailing", "linspace"], [1, 4, 10, 50]):
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(n)
        if spacing == "linspace" and n == 1:
            continue  # numpy's linspace(0, 999, 1) is the clean end, not the noisy one
        levels = TableSubset(n=n, spacing=spacing).levels(BetaTable())[:-1]
        assert torch.allclose(levels, theirs[scheduler.timesteps], rtol=3e-4)


# -- an oracle that is no implementation at all -------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [EDM(), VP(), FlowMatching(), BetaTable()], ids=lambda s: s.kind)
@pytest.mark.parametrize(
    "solver", [solvers.RK4(), solvers.Heun(), solvers.ExponentialAdams(order=3)], ids=lambda s: s.kind
)
def test_endpoint_of_a_gaussian_is_the_closed_flow_map(solver: Any, schedule: Any) -> None:
    """x(σ) − μ scales by √((v+σ²)/(v+σ_0²)), in each direction by itself."""
    mean, v = torch.tensor([0.5, -0.2, 0.0]).double(), torch.tensor([0.04, 0.5, 2.0]).double()
    noise = edm.unit_noise(5, (3,))
    levels = np.geomspace(20, 0.1, 401).tolist()
    x = edm.sample(
        lambda x, sigma: mean + v / (v + sigma**2) * (x - mean),
        noise,
        schedule=schedule,
        solver=solver,
        steps=Explicit(sigmas=(20.0, *levels[1:-1], 0.1)),
    )
    truth = mean + torch.sqrt((v + 0.01) / (v + 400)) * (20 * noise - mean)
    assert float((x - truth).abs().max()) < {1: 1e-2, 2: 1e-3, 3: 1e-4, 4: 1e-7}[solver.order]
