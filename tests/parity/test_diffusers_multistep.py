"""Parity of the linear multistep methods with ``diffusers``; see ``test_diffusers.py`` for the tolerance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_diffusers import CLOSE, NOISE, D, agree, diffusers, drive, epsilon_ve, epsilon_vp, ours
from torch import Tensor

from edm_unified import solvers
from edm_unified.schedules import BetaTable


@pytest.mark.parametrize("n", [1, 2, 8, 20])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_lms(n: int, order: int) -> None:
    """Its weights come from an adaptive quadrature, to a relative 1e-4."""
    scheduler = diffusers.LMSDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()
    theirs = drive(scheduler, NOISE * levels[0], levels[:-1], epsilon_ve, order=order)
    agree(ours(solvers.LMS(order=order), levels), theirs, max(CLOSE, 4 * levels[0] * 2**-23))


@pytest.mark.parametrize("n", [2, 8, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_there_is_exponential_adams_on_epsilon(n: int, order: int) -> None:
    """Its one form is "logrho": ε as a polynomial in ln σ, integrated over σ. To the last level above 0."""
    scheduler = diffusers.DEISMultistepScheduler(
        timestep_spacing="trailing", solver_order=order, lower_order_final=False
    )
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()[:-1]
    start = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    scheduler.timesteps = scheduler.timesteps[:-1]
    theirs = drive(scheduler, start, levels[:-1], epsilon_vp) * (1 + levels[-1] ** 2) ** 0.5
    agree(ours(solvers.ExponentialAdamsNoise(order=order), levels), theirs, CLOSE)


def table_levels(scheduler: Any, timesteps: list[int]) -> list[float]:
    alpha_bar = scheduler.alphas_cumprod.double()[timesteps]
    levels: list[float] = torch.sqrt((1 - alpha_bar) / alpha_bar).tolist()
    return levels


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("plms", [True, False])
def test_pndm(n: int, plms: bool) -> None:
    """As PLMS ("skip_prk_steps") it is iPNDM with an rk2 start. The last step there leads nowhere."""
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=plms, timestep_spacing="leading")
    scheduler.set_timesteps(n)
    visited = table_levels(scheduler, scheduler.timesteps.tolist())
    levels = table_levels(scheduler, [1000 // n * i for i in reversed(range(n))])
    theirs = drive(scheduler, NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5, visited, epsilon_vp)
    mine, other = (
        ours(solver, levels, BetaTable()) / (1 + levels[-1] ** 2) ** 0.5
        for solver in (solvers.IPNDM(start="rk2"), solvers.PNDM())[:: 1 if plms else -1]
    )
    agree(mine, theirs, CLOSE)
    assert n > 5 or float((other - theirs).abs().max()) > 100 * CLOSE  # the start is forgotten as steps get short


@pytest.mark.parametrize("n", [3, 8, 20])
def test_ipndm(n: int) -> None:
    """For v-prediction on the arc; begun one step late, for its first level is σ = ∞."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(n)
    scheduler.set_begin_index(1)
    scheduler.timesteps = scheduler.timesteps[1:]
    levels = (scheduler.betas.double() / scheduler.alphas.double())[1:].tolist()

    def v(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
        z = x.double() * (1 + sigma**2) ** 0.5
        denoised = D(z, sigma)
        return ((z - denoised) / sigma - sigma * denoised) / (1 + sigma**2) ** 0.5

    theirs = drive(scheduler, NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5, levels[:-1], v)
    agree(ours(solvers.IPNDM(), levels), theirs, CLOSE)
