"""Parity with ``diffusers``: UniPC, and the third-order DPM-Solver++ as it is shipped there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_diffusers import CLOSE, NOISE, agree, diffusers, drive, epsilon_vp, ours

from edm_unified import solvers


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc(p: int, variant: Any, corrector: bool) -> None:
    """To the last level above 0: on the way to 0 their bh1 is NaN."""
    scheduler = diffusers.UniPCMultistepScheduler(
        timestep_spacing="trailing",
        solver_order=p,
        solver_type=variant,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
        disable_corrector=[] if corrector else list(range(100)),
    )
    scheduler.set_timesteps(12)
    levels = scheduler.sigmas.double().tolist()
    start = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    theirs = drive(scheduler, start, levels[:-1], epsilon_vp) * (1 + levels[-1] ** 2) ** 0.5
    mine = ours(solvers.UniPC(p=p, variant=variant, corrector=corrector), levels)
    agree(mine, theirs, 3 * CLOSE)
    other = solvers.UniPC(p=p, variant=variant, corrector=not corrector)
    assert float((ours(other, levels) - theirs).abs().max()) > 100 * CLOSE


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("p", [2, 3])
def test_unipc_with_lower_orders_at_the_end(p: int, corrector: bool) -> None:
    """Their ``lower_order_final``, to the last level above 0."""
    scheduler = diffusers.UniPCMultistepScheduler(
        timestep_spacing="trailing",
        solver_order=p,
        lower_order_final=True,
        final_sigmas_type="sigma_min",
        disable_corrector=[] if corrector else list(range(100)),
    )
    scheduler.set_timesteps(12)
    levels = scheduler.sigmas.double().tolist()
    start = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    theirs = drive(scheduler, start, levels[:-1], epsilon_vp) * (1 + levels[-1] ** 2) ** 0.5
    agree(ours(solvers.UniPC(p=p, corrector=corrector, end="lower"), levels), theirs, 3 * CLOSE)
    full = ours(solvers.UniPC(p=p, corrector=corrector), levels)
    assert float((full - theirs).abs().max()) > 100 * CLOSE


@pytest.mark.parametrize("n", [15, 40])
def test_the_third_order_as_published(n: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", solver_order=3)
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()
    theirs = drive(scheduler, NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5, levels[:-1], epsilon_vp)
    agree(ours(solvers.DPMSolverPP3MPublished(), levels), theirs, 3 * CLOSE)


def test_the_third_order_sde_as_published() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing="trailing", solver_order=3, algorithm_type="sde-dpmsolver++"
    )
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double().tolist()
    noises = [torch.randn(NOISE.shape) for _ in levels]
    x = (NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5).float()
    for t, sigma, noise in zip(scheduler.timesteps, levels[:-1], noises, strict=False):
        x = scheduler.step(epsilon_vp(x, x, sigma).float(), t, x, variance_noise=noise).prev_sample
    doubles = [noise.double() for noise in noises]
    agree(ours(solvers.DPMSolverPP3MSDEDiffusers(), levels, noises=doubles), x.double(), 3 * CLOSE)
    assert float((ours(solvers.DPMSolverPP3MSDE(), levels, noises=doubles) - x).abs().max()) > 1000 * CLOSE
