"""docs/parity.md is true: every row of its tables is measured again, and every defect it names is shown.

Both are given the same analytic denoiser, levels, start and noises. The number is the largest difference of the results
over max(1, the largest result). A row agrees if it is at most ``CLOSE``, a hundred units of float32, in which diffusers
keeps its states, λ and coefficients; a coefficient that is wrong shows at 1e-3 and above.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
import types
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from test_diffusers import (
    CLOSE,
    NOISE,
    D,
    diffusers,
    drive,
    epsilon_ve,
    epsilon_vp,
    levels_of_timesteps,
    ours,
    velocity,
)
from torch import Tensor

from edm_unified import solvers
from edm_unified.recipe import parse_component
from edm_unified.sampling.correctors import Langevin
from edm_unified.sampling.dynamics import Dynamics
from edm_unified.sampling.renoising import Ancestral, Churn
from edm_unified.schedules import EDM, VE, VP, BetaTable, FlowMatching

PAGE = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
Pair = tuple[Tensor, Tensor]
"""What the solver of the row returns, and what diffusers does."""

measured_with_these_defects = pytest.mark.skipif(
    not diffusers.__version__.startswith("0.42."), reason="the defects in docs/parity.md are those of diffusers 0.42"
)


class Case(NamedTuple):
    pair: Callable[[Any], Pair]
    differs: bool = False
    """The difference is the point, and is no rounding."""


def draws(seed: int, count: int) -> list[Tensor]:
    """What ``count`` calls of diffusers' randn_tensor return for a generator of this seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(NOISE.shape, generator=generator).double() for _ in range(count)]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


def vp(levels: list[float]) -> Tensor:
    """The start of a state of variance 1."""
    return NOISE * levels[0] / math.hypot(1, levels[0])


def unscaled(x: Tensor, sigma: float) -> Tensor:
    """A state (x_0 + σn)/√(1+σ²) as x_0 + σn."""
    return x * math.hypot(1, sigma)


def stub_torchsde() -> None:
    """Two modules import torchsde for the noise that they are given here: an empty one lets them be imported."""
    sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))


# -- states x_0 + σn ---------------------------------------------------------------------------------------------------


def ve(name: str, n: int = 20, output: Callable[..., Tensor] = epsilon_ve, **options: Any) -> Callable[[Any], Pair]:
    """A scheduler of one evaluation per step, on its own levels."""

    def pair(solver: Any) -> Pair:
        scheduler = getattr(diffusers, name)(**options)
        scheduler.set_timesteps(n)
        levels = scheduler.sigmas.double().tolist()
        return ours(solver, levels), drive(scheduler, NOISE * levels[0], levels[:-1], output)

    return pair


def heun(solver: Any) -> Pair:
    scheduler = diffusers.HeunDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    visited = scheduler.sigmas.double().tolist()
    levels = [visited[0], *visited[1:-1:2], 0.0]
    return ours(solver, levels), drive(scheduler, NOISE * levels[0], visited[:-1], epsilon_ve)


def kdpm2(solver: Any) -> Pair:
    scheduler = diffusers.KDPM2DiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    levels = [scheduler.sigmas[0].item(), *scheduler.sigmas[1:-1:2].double().tolist()]
    visited = [levels[0]]
    for a, b in pairwise(levels[:-1]):
        visited += [math.sqrt(a * b), b]
    return ours(solver, levels), drive(scheduler, NOISE * levels[0], visited, epsilon_ve)


def kdpm2_ancestral(solver: Any) -> Pair:
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    levels = [scheduler.sigmas[0].item(), *scheduler.sigmas[1:-1:2].double().tolist()]
    path = Ancestral().walk(tuple(levels))
    visited = [levels[0]]
    for a, down, b in zip(path[0:-1:2], path[1::2], path[2::2], strict=False):
        visited += [math.sqrt(a * down), b]
    theirs = drive(scheduler, NOISE * levels[0], visited, epsilon_ve, generator=generator())
    return ours(solver, list(path), noises=draws(8, 40)), theirs


def euler_ancestral(solver: Any) -> Pair:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double().tolist()
    theirs = drive(scheduler, NOISE * levels[0], levels[:-1], epsilon_ve, generator=generator())
    return ours(solver, levels, noises=draws(8, 20)), theirs


def lms(order: int) -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = diffusers.LMSDiscreteScheduler(timestep_spacing="trailing")
        scheduler.set_timesteps(20)
        levels = scheduler.sigmas.double().tolist()
        return ours(solver, levels), drive(scheduler, NOISE * levels[0], levels[:-1], epsilon_ve, order=order)

    return pair


def raw_output(sigma_data: float, sign: int = 1) -> Callable[..., Tensor]:
    def output(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
        root2 = sigma**2 + sigma_data**2
        return sign * (D(x, sigma) - sigma_data**2 / root2 * x) * math.sqrt(root2) / (sigma * sigma_data)

    return output


def dpm_solver_sde(solver: Any) -> Pair:
    """With noises of the exact joint law over [σ, σ_mid] and [σ, σ_next] in the place of the Brownian tree."""
    stub_torchsde()
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    scheduler = module.DPMSolverSDEScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    levels = [scheduler.sigmas[0].item(), *scheduler.sigmas[1:-1:2].double().tolist(), 0.0]
    noises, visited, given = draws(8, 40), [levels[0]], []
    for (a, b), first, second in zip(pairwise(levels[:-1]), noises[::2], noises[1::2], strict=False):
        visited += [math.sqrt(a * b), b]
        q = b / a  # e^{−h}
        given += [first, (math.sqrt(q) * first + second) / math.sqrt(1 + q)]
    source = iter(given)
    scheduler.noise_sampler = lambda sigma, sigma_next: next(source).float()
    theirs = drive(scheduler, NOISE * levels[0], visited, epsilon_ve)
    return ours(solver, levels, noises=noises), theirs


def cosine_dpm_solver(solver: Any) -> Pair:
    stub_torchsde()
    module = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    scheduler = module.CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(20)
    levels, noises = scheduler.sigmas.double().tolist(), draws(8, 20)
    source = iter(noises)
    scheduler.noise_sampler = lambda sigma, sigma_next: next(source).float()
    theirs = drive(scheduler, NOISE * levels[0], levels[:-1], raw_output(1.0, -1))
    return ours(solver, levels, noises=noises), theirs


def score_sde_ve(solver: Any) -> Pair:
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=50.0)
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20)
    levels = [*scheduler.discrete_sigmas.double().flip(0).tolist(), 0.0]
    x, source = (NOISE * levels[0]).float(), generator()
    for t, sigma in zip(scheduler.timesteps, levels, strict=False):
        score = ((D(x, sigma) - x.double()) / sigma**2).float()
        out = scheduler.step_pred(score, t, x, generator=source)
        x = out.prev_sample if sigma != levels[-2] else out.prev_sample_mean
    return ours(solver, levels, VE(), draws(8, 20)), x.double()


def karras_ve(solver: Any) -> Pair:
    """Around levels of our own: their ``schedule`` is σ², and is taken for σ."""
    module = importlib.import_module("diffusers.schedulers.deprecated.scheduling_karras_ve")
    churn = Churn(S_churn=8.0, S_min=0.0, S_max=math.inf, S_noise=1.0)
    scheduler = module.KarrasVeScheduler(s_churn=churn.S_churn, s_min=0.0, s_max=math.inf, s_noise=1.0)
    levels = [*torch.logspace(1, -2, 20).double().tolist(), 0.0]
    scheduler.num_inference_steps = 20
    x, source = (NOISE * levels[0]).float(), generator()
    for a, b in pairwise(levels):
        x, raised = scheduler.add_noise_to_input(x, a, generator=source)
        first = scheduler.step(((D(x, raised) - x.double()) / raised).float(), raised, b, x)
        y = first.prev_sample
        if b > 0:
            output = ((D(y, b) - y.double()) / b).float()
            y = scheduler.step_correct(output, raised, b, x, y, first.derivative).prev_sample
        x = y
    return ours(solver, list(churn.walk(tuple(levels))), noises=draws(8, 20)), x.double()


# -- states of variance 1 ----------------------------------------------------------------------------------------------


def ddim(eta: float, name: str = "DDIMScheduler") -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = getattr(diffusers, name)(clip_sample=False, timestep_spacing="trailing", prediction_type="epsilon")
        scheduler.set_timesteps(20)
        levels = levels_of_timesteps(scheduler)
        theirs = drive(scheduler, vp(levels), levels[:-1], epsilon_vp, eta=eta, generator=generator())
        if eta:  # it draws for the fall to 0 too, with a standard deviation of 0
            return ours(solver, levels, noises=draws(8, 20)), theirs
        return ours(solver, levels), theirs

    return pair


def ddpm(variance: str, name: str = "DDPMScheduler") -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = getattr(diffusers, name)(clip_sample=False, timestep_spacing="trailing", variance_type=variance)
        scheduler.set_timesteps(50)
        levels = levels_of_timesteps(scheduler)[:-1]  # "fixed_large" adds noise to the clean sample too
        theirs = drive(scheduler, vp(levels), levels[:-1], epsilon_vp, generator=generator())
        return ours(solver, levels, VP(), draws(8, 50)), unscaled(theirs, levels[-1])

    return pair


def multistep(name: str = "DPMSolverMultistepScheduler", n: int = 20, **options: Any) -> Callable[[Any], Pair]:
    """As far as its last level, be it 0 or not; noises, if any, from the generator."""

    def pair(solver: Any) -> Pair:
        scheduler = getattr(diffusers, name)(**{"timestep_spacing": "trailing", **options})
        scheduler.set_timesteps(n)
        levels = scheduler.sigmas.double().tolist()
        noise = {"generator": generator()} if "sde" in options.get("algorithm_type", "") else {}
        theirs = drive(scheduler, vp(levels), levels[:-1], epsilon_vp, **noise)
        return ours(solver, levels, noises=draws(8, n)), unscaled(theirs, levels[-1])

    return pair


def deis(order: int) -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = diffusers.DEISMultistepScheduler(
            timestep_spacing="trailing", solver_order=order, lower_order_final=False
        )
        scheduler.set_timesteps(20)
        levels = scheduler.sigmas.double().tolist()[:-1]
        scheduler.timesteps = scheduler.timesteps[:-1]
        theirs = drive(scheduler, vp(levels), levels[:-1], epsilon_vp)
        return ours(solver, levels), unscaled(theirs, levels[-1])

    return pair


def singlestep(order: int, n: int, **options: Any) -> Callable[[Any], Pair]:
    """On log-linear levels, of which it takes every second or third for a stage."""

    def pair(solver: Any) -> Pair:
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            solver_order=order, use_exponential_sigmas=True, lower_order_final=True, **options
        )
        scheduler.set_timesteps(n)
        visited = scheduler.sigmas.double().tolist()
        if visited[-1]:  # it is the level before it once more: stop a step earlier
            visited = visited[:-order]
            scheduler.timesteps = scheduler.timesteps[:-order]
        levels = visited[::order] if visited[-1] else [*visited[:-1:order], 0.0]
        theirs = drive(scheduler, vp(levels), visited[:-1], epsilon_vp)
        return ours(solver, levels), unscaled(theirs, visited[-1])

    return pair


def singlestep_sde(solver: Any) -> Pair:
    """Their stage and their step have noises n_1, n_2 of their own, each right by itself: as one process, whose second
    increment is √(1+q) n_2 − √q n_1 and not a unit normal, they are ours."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=2, use_exponential_sigmas=True, lower_order_final=True, algorithm_type="sde-dpmsolver++"
    )
    scheduler.set_timesteps(21)
    visited = scheduler.sigmas.double().tolist()
    levels = [*visited[:-1:2], 0.0]
    noises, given = draws(8, 21), list[Tensor]()
    for (a, b), first, second in zip(pairwise(levels[:-1]), noises[::2], noises[1::2], strict=False):
        q = b / a  # e^{−h}
        given += [first, math.sqrt(1 + q) * second - math.sqrt(q) * first]
    theirs = drive(scheduler, vp(levels), visited[:-1], epsilon_vp, generator=generator())
    return ours(solver, levels, noises=given), theirs


class Untouchable(list[Any]):
    """A list of tensors that cannot be changed: ``+=`` on its items does nothing."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index).clone()

    def __setitem__(self, index: Any, value: Any) -> None:
        pass


def sa_solver(p: int, c: int, as_shipped: bool) -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = diffusers.SASolverScheduler(
            timestep_spacing="trailing",
            predictor_order=p,
            corrector_order=c,
            tau_func=lambda t: solver.tau,
            lower_order_final=False,
        )
        scheduler.set_timesteps(20)
        if not as_shipped:  # what it adds to the two weights of order 2 comes to nothing
            weights = scheduler.get_coefficients_fn
            scheduler.get_coefficients_fn = lambda *args: Untouchable(weights(*args))
        levels = scheduler.sigmas.double().tolist()[:-1]  # its last step would repeat the last level
        scheduler.timesteps = scheduler.timesteps[:-1]
        theirs = drive(scheduler, vp(levels), levels[:-1], epsilon_vp, generator=generator())
        return ours(solver, levels, noises=draws(8, 20)), unscaled(theirs, levels[-1])

    return pair


def pndm(plms: bool) -> Callable[[Any], Pair]:
    def pair(solver: Any) -> Pair:
        scheduler = diffusers.PNDMScheduler(skip_prk_steps=plms, timestep_spacing="leading")
        scheduler.set_timesteps(20)
        alpha_bar = scheduler.alphas_cumprod.double()
        sigmas = torch.sqrt((1 - alpha_bar) / alpha_bar)
        visited = sigmas[scheduler.timesteps].tolist()
        levels = sigmas[[50 * i for i in reversed(range(20))]].tolist()
        theirs = drive(scheduler, vp(levels), visited, epsilon_vp)
        return ours(solver, levels, BetaTable()), unscaled(theirs, levels[-1])

    return pair


def ipndm(solver: Any) -> Pair:
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(20)
    scheduler.set_begin_index(1)  # its first level is σ = ∞
    scheduler.timesteps = scheduler.timesteps[1:]
    levels = (scheduler.betas.double() / scheduler.alphas.double())[1:].tolist()

    def v(x: Tensor, scaled: Tensor, sigma: float) -> Tensor:
        z = x.double() * math.hypot(1, sigma)
        denoised = D(z, sigma)
        return ((z - denoised) / sigma - sigma * denoised) / math.hypot(1, sigma)

    return ours(solver, levels), drive(scheduler, vp(levels), levels[:-1], v)


def score_sde_vp(solver: Any) -> Pair:
    """At times of our own: their steps are 1/N long, their times (1 − ε)/(N − 1) apart."""
    module = importlib.import_module("diffusers.schedulers.deprecated.scheduling_sde_vp")
    scheduler, schedule, n = module.ScoreSdeVpScheduler(), VP(), 20
    scheduler.set_timesteps(n)
    times = torch.linspace(1, 0.25, 16, dtype=torch.float64)
    levels = schedule.sigma(times).tolist()
    x, source = vp(levels).float(), generator()
    for t, sigma in zip(times[:-1], levels, strict=False):
        x, _ = scheduler.step_pred(epsilon_vp(x, x, sigma).float(), x, t.float(), generator=source)
    return ours(solver, levels, schedule, draws(8, n)), unscaled(x.double(), levels[-1])


# -- states (x_0 + σn)/(1+σ) -------------------------------------------------------------------------------------------


def flow_match(solver: Any) -> Pair:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.05, 20))
    s = scheduler.sigmas.double()
    levels = (s / (1 - s)).tolist()
    theirs = drive(scheduler, NOISE * s[0], levels[:-1], velocity)
    return ours(solver, levels, FlowMatching()), theirs


def flow_match_heun(solver: Any) -> Pair:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.sigma_max = 0.99  # at its own 1 the level is σ = ∞
    scheduler.set_timesteps(20)
    s = scheduler.sigmas.double()
    visited = (s / (1 - s)).tolist()
    theirs = drive(scheduler, NOISE * s[0], visited[:-1], velocity)
    return ours(solver, [visited[0], *visited[1:-1:2], 0.0], FlowMatching()), theirs


def ltx_ancestral(solver: Any) -> Pair:
    """A walk of its own: down to s_b²/s_a in the time of the flow, and up to s_b."""
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=1.0)
    scheduler.set_timesteps(sigmas=[*np.linspace(0.99, 0.05, 20).tolist(), 0.0])
    s = scheduler.sigmas.double().tolist()
    walk = [s[0]]
    for a, b in pairwise(s):
        walk += [b * b / a, b] if b else [b]
    levels = [value / (1 - value) for value in s]
    scheduler.timesteps = scheduler.timesteps[:-1]
    theirs = drive(scheduler, NOISE * s[0], levels[:-1], velocity, generator=generator())
    return ours(solver, [value / (1 - value) for value in walk], FlowMatching(), draws(8, 20)), theirs


def minimax_h3(solver: Any) -> Pair:
    """Its velocity points to the data and its t is 1 − s."""
    scheduler = diffusers.MiniMaxH3Scheduler()
    scheduler.set_timesteps(sigmas=[*np.linspace(0.99, 0.05, 20).tolist(), 0.0])
    s = scheduler.sigmas.double()
    levels = (s / (1 - s)).tolist()
    theirs = drive(scheduler, NOISE * s[0], levels[:-1], lambda *args: -velocity(*args))
    return ours(solver, levels, FlowMatching()), theirs


def flow_sigmas(solver: Any) -> Pair:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
    )
    scheduler.set_timesteps(20)
    s = scheduler.sigmas.double()
    levels = (s / (1 - s)).tolist()
    return ours(solver, levels), drive(scheduler, NOISE * s[0], levels[:-1], velocity)


DPM, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
UNIPC: dict[str, Any] = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
SDE: dict[str, Any] = {"algorithm_type": "sde-dpmsolver++"}
EPSILON: dict[str, Any] = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
EDM_OUTPUT = raw_output(0.5)

CASES: dict[tuple[str, str, str], Case] = {
    ("EulerDiscreteScheduler", "", "euler"): Case(ve("EulerDiscreteScheduler", timestep_spacing="trailing")),
    ("EulerAncestralDiscreteScheduler", "", "ddim:eta=1"): Case(euler_ancestral),
    ("HeunDiscreteScheduler", "", "heun"): Case(heun),
    ("KDPM2DiscreteScheduler", "", "dpm_solver_2"): Case(kdpm2),
    ("KDPM2AncestralDiscreteScheduler", "", "dpm_solver_2 in ancestral"): Case(kdpm2_ancestral),
    ("LMSDiscreteScheduler", "order 4", "lms:order=4"): Case(lms(4)),
    ("EDMEulerScheduler", "", "euler"): Case(ve("EDMEulerScheduler", output=EDM_OUTPUT)),
    ("EDMDPMSolverMultistepScheduler", "", "dpmpp_2m"): Case(ve("EDMDPMSolverMultistepScheduler", output=EDM_OUTPUT)),
    ("EDMDPMSolverMultistepScheduler", "order 3", "dpmpp_3m_published"): Case(
        ve("EDMDPMSolverMultistepScheduler", output=EDM_OUTPUT, solver_order=3)
    ),
    ("DPMSolverSDEScheduler", "", "dpmpp_sde"): Case(dpm_solver_sde),
    ("CosineDPMSolverMultistepScheduler", "", "dpmpp_2m_sde"): Case(cosine_dpm_solver),
    ("ScoreSdeVeScheduler", "`step_pred`", "reverse_diffusion"): Case(score_sde_ve),
    ("KarrasVeScheduler (deprecated)", "churn", "heun in churn"): Case(karras_ve),
    ("DDIMScheduler", "", "ddim"): Case(ddim(0.0)),
    ("DDIMScheduler", "eta 1", "ddim:eta=1"): Case(ddim(1.0)),
    ("DDIMParallelScheduler", "", "ddim"): Case(ddim(0.0, "DDIMParallelScheduler")),
    ("CogVideoXDDIMScheduler", "", "ddim"): Case(ddim(0.0, "CogVideoXDDIMScheduler")),
    ("DDPMScheduler", "fixed_small", "ddpm"): Case(ddpm("fixed_small")),
    ("DDPMScheduler", "fixed_large", "ddpm:variance=large"): Case(ddpm("fixed_large")),
    ("DDPMParallelScheduler", "fixed_small", "ddpm"): Case(ddpm("fixed_small", "DDPMParallelScheduler")),
    ("PNDMScheduler", "", "pndm"): Case(pndm(False)),
    ("PNDMScheduler", "PLMS", "ipndm:start=rk2"): Case(pndm(True)),
    ("IPNDMScheduler", "", "ipndm"): Case(ipndm),
    (DPM, "", "dpmpp_2m"): Case(multistep()),
    (DPM, "heun", "exponential_adams"): Case(multistep(solver_type="heun")),
    (DPM, "flow sigmas", "dpmpp_2m"): Case(flow_sigmas),
    (DPM, "dpmsolver, heun", "exponential_adams_epsilon"): Case(multistep(solver_type="heun", **EPSILON)),
    (DPM, "order 3", "dpmpp_3m_published"): Case(multistep(solver_order=3)),
    (DPM, "order 3", "dpmpp_3m"): Case(multistep(solver_order=3), differs=True),
    (DPM, "sde", "dpmpp_2m_sde"): Case(multistep(**SDE)),
    (DPM, "sde, heun", "dpmpp_2m_sde:correction=heun"): Case(multistep(solver_type="heun", **SDE)),
    (DPM, "sde, order 3", "dpmpp_3m_sde_diffusers"): Case(multistep(solver_order=3, **SDE)),
    (DPM, "sde, order 3", "dpmpp_3m_sde"): Case(multistep(solver_order=3, **SDE), differs=True),
    (SINGLE, "", "dpmpp_2s"): Case(singlestep(2, 21)),
    (SINGLE, "heun", "res_2s"): Case(singlestep(2, 21, solver_type="heun")),
    (SINGLE, "dpmsolver", "dpm_solver_2"): Case(singlestep(2, 20, **EPSILON)),
    (SINGLE, "order 3", "dpmpp_3s"): Case(singlestep(3, 22), differs=True),
    (SINGLE, "sde", "dpmpp_sde"): Case(singlestep_sde),
    ("DEISMultistepScheduler", "order 2", "exponential_adams_epsilon"): Case(deis(2)),
    ("DEISMultistepScheduler", "order 3", "exponential_adams_epsilon:order=3"): Case(deis(3)),
    ("UniPCMultistepScheduler", "order 3", "unipc"): Case(
        multistep("UniPCMultistepScheduler", 12, solver_order=3, **UNIPC)
    ),
    ("UniPCMultistepScheduler", "order 2, bh1", "unipc:p=2,variant=bh1"): Case(
        multistep("UniPCMultistepScheduler", 12, solver_type="bh1", **UNIPC)
    ),
    ("SASolverScheduler", "P1C1", "sa_solver:predictor=1,corrector=1"): Case(sa_solver(1, 1, as_shipped=True)),
    ("SASolverScheduler", "P2C2", "sa_solver:predictor=2,corrector=2"): Case(
        sa_solver(2, 2, as_shipped=True), differs=True
    ),
    ("SASolverScheduler", "P2C2, bare", "sa_solver:predictor=2,corrector=2"): Case(sa_solver(2, 2, as_shipped=False)),
    ("SASolverScheduler", "P3C4", "sa_solver"): Case(sa_solver(3, 4, as_shipped=True)),
    ("ScoreSdeVpScheduler (deprecated)", "", "euler_maruyama"): Case(score_sde_vp),
    ("FlowMatchEulerDiscreteScheduler", "", "euler"): Case(flow_match),
    ("FlowMatchHeunDiscreteScheduler", "", "heun"): Case(flow_match_heun),
    ("LTXEulerAncestralRFScheduler", "", "euler in its own walk"): Case(ltx_ancestral),
    ("MiniMaxH3Scheduler", "", "euler"): Case(minimax_h3),
}


def measured(key: tuple[str, str, str]) -> float:
    solver = parse_component(solvers.AnySolver, key[2].split(" in ")[0], "test")
    mine, theirs = CASES[key].pair(solver)
    return float((mine - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


# -- the page ----------------------------------------------------------------------------------------------------------


def table(heading: str) -> Iterator[list[str]]:
    """The rows of the table under ``heading``, without its head."""
    section = PAGE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    yield from rows[2:]


def number(text: str) -> float:
    """4·10⁻⁷ as 4e-7; 0.02 as it is."""
    digits, _, power = text.partition("·10")
    return float(digits) * 10 ** float(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


def test_every_row_of_the_page_is_measured_here_and_every_case_is_on_the_page() -> None:
    rows = [(row[0], row[1], row[2].replace("`", "")) for row in table("Agreement")]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(CASES)


@pytest.mark.parametrize("key", CASES, ids=" ".join)
def test_agreement(key: tuple[str, str, str]) -> None:
    (printed,) = (number(row[3]) for row in table("Agreement") if (row[0], row[1], row[2].replace("`", "")) == key)
    value = measured(key)
    if CASES[key].differs:
        assert value > 100 * CLOSE
        assert printed / 1.5 < value < 1.5 * printed
    else:  # roundings, which are other ones on another processor
        assert max(printed, value) <= CLOSE


def test_singlestep_of_order_3_is_dpmpp_3s_to_its_order() -> None:
    """A near miss: its middle stage has the weights of its order 2 for φ_2. The difference falls as h³."""
    coarse, fine = (
        float((mine - theirs).abs().max())
        for n in (85, 169)
        for mine, theirs in [singlestep(3, n)(solvers.DPMSolverPP3S())]
    )
    assert 6 < coarse / fine < 10


# -- the defects -------------------------------------------------------------------------------------------------------


def test_every_defect_on_the_page_is_shown_here() -> None:
    named = [re.fullmatch(r"`(\w+)`", row[3]).group(1) for row in table("Defects")]  # type: ignore[union-attr]
    shown = [name for name in globals() if name.startswith("test_defect_")]
    assert sorted(named) == sorted(name.removeprefix("test_defect_") for name in shown)


@measured_with_these_defects
def test_defect_churn() -> None:
    """One step of Euler with γ = √2 − 1: ε is that of (x, σ), from before the noise, not of (x̂, σ̂)."""
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    a, b = scheduler.sigmas[10:12].double().tolist()
    scheduler.set_begin_index(10)
    x, t, (noise,) = a * NOISE, scheduler.timesteps[10], draws(8, 1)
    scheduler.scale_model_input(x.float(), t)
    epsilon = epsilon_ve(x.float(), x, a)
    theirs = scheduler.step(epsilon.float(), t, x.float(), s_churn=1e9, generator=generator()).prev_sample.double()
    raised = math.sqrt(2) * a
    y = x + a * noise
    assert float((y + (b - raised) * epsilon - theirs).abs().max()) < CLOSE
    assert float((y + (b - raised) * (y - D(y, raised)) / raised - theirs).abs().max()) > 1e-2


@measured_with_these_defects
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_defect_flow_shifted_twice(name: str) -> None:
    """The last of the levels at shift 3 should be 3s/(1+2s) of s = 0.001, which is 0.0030."""
    scheduler = getattr(diffusers, name)(shift=3.0)
    scheduler.set_timesteps(20)
    last, once = scheduler.sigmas[-2].item(), FlowMatching(shift=3.0).sigma(torch.tensor(0.001).double())
    assert float(once / (1 + once)) == pytest.approx(0.0030, rel=0.01)
    assert last == pytest.approx(0.0089, rel=0.01)


@measured_with_these_defects
def test_defect_ddim_linspace() -> None:
    """From timesteps[0] it steps to t − T//N, whatever timesteps[1] is; here t = 999 − 18 for 981.3."""
    n = 53
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(n)
    t, following = scheduler.timesteps[0].item(), scheduler.timesteps[1].item()
    a, b, wrong = (
        math.sqrt((1 - value) / value) for value in scheduler.alphas_cumprod[[t, following, t - 1000 // n]].tolist()
    )
    x = vp([a])
    theirs = unscaled(scheduler.step(epsilon_vp(x, x, a).float(), t, x.float()).prev_sample.double(), wrong)
    assert float((ours(solvers.DDIM(), [a, wrong]) - theirs).abs().max()) < 1e-3
    assert wrong - b > 1


STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


@measured_with_these_defects
@pytest.mark.parametrize("name", [DPM, "UniPCMultistepScheduler", "DEISMultistepScheduler", SINGLE])
@pytest.mark.parametrize(
    "options",
    [{"use_beta_sigmas": True, **STABLE_DIFFUSION}, {"use_karras_sigmas": True, **COSINE}],
    ids=["beta", "karras"],
)
def test_defect_duplicate_timesteps(name: str, options: dict[str, Any]) -> None:
    """The second of two equal timesteps is begun with, and the walk runs past its end."""
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(40)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    levels = scheduler.sigmas.double().tolist()
    with pytest.raises((IndexError, AssertionError)):
        drive(scheduler, vp(levels), levels[:-1], epsilon_vp)


@measured_with_these_defects
def test_defect_unipc_bh1() -> None:
    """∞ · 0 on the way to σ = 0, which is where it goes unless told otherwise."""
    _, theirs = multistep("UniPCMultistepScheduler", 12, solver_type="bh1")(solvers.UniPC())
    assert torch.isnan(theirs).all()
    assert torch.isfinite(ours(solvers.UniPC(variant="bh1"), [10.0, 1.0, 0.1, 0.0])).all()


@measured_with_these_defects
def test_defect_repeated_last_level() -> None:
    """Karras levels end at σ_min and σ_min is appended: a step of length 0, which order 3 divides by."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_karras_sigmas=True, final_sigmas_type="sigma_min", solver_order=3
    )
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double().tolist()
    assert levels[-1] == pytest.approx(levels[-2], rel=1e-6)
    assert torch.isnan(drive(scheduler, vp(levels), levels[:-1], epsilon_vp)).all()
    for name in ("DEISMultistepScheduler", "SASolverScheduler"):
        scheduler = getattr(diffusers, name)(use_karras_sigmas=True)
        scheduler.set_timesteps(20)
        assert scheduler.sigmas[-1] == scheduler.sigmas[-2]


@measured_with_these_defects
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", DPM])
def test_defect_trailing(name: str) -> None:
    """np.arange(1000, 0, −1000/61) has 62 elements, the last of which is rounding; t = −1."""
    scheduler = getattr(diffusers, name)(timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert len(scheduler.timesteps) == 62
    assert scheduler.timesteps[-1] == -1


@measured_with_these_defects
def test_defect_edm_sigmas() -> None:
    """Levels that are given are taken for a ramp from 0 to 1."""
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(sigmas=torch.tensor([80.0, 10.0, 1.0, 0.002]))
    assert scheduler.sigmas[0] < -1e14


@measured_with_these_defects
def test_defect_deis_cancels() -> None:
    """Its weights are differences of antiderivatives, in float32: the error rises as the steps get short."""

    def error(n: int) -> float:
        scheduler = diffusers.DEISMultistepScheduler(solver_order=3, lower_order_final=False)
        scheduler.set_timesteps(n)
        levels = scheduler.sigmas.double().tolist()[:-1]
        scheduler.timesteps = scheduler.timesteps[:-1]
        theirs = unscaled(drive(scheduler, vp(levels), levels[:-1], epsilon_vp), levels[-1])
        return float((ours(solvers.ExponentialAdamsNoise(order=3), levels) - theirs).abs().max())

    assert error(160) > 10 * error(40)


@measured_with_these_defects
def test_defect_sde_dpmsolver_order_3() -> None:
    """A branch that is not there."""
    with pytest.raises(UnboundLocalError):
        multistep(solver_order=3, algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min")(solvers.DDIM())


@measured_with_these_defects
def test_defect_flow_churn_is_ignored() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    results = []
    for churn in (0.0, 40.0):
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[0]
        results.append(scheduler.step(NOISE.float(), t, NOISE.float(), s_churn=churn).prev_sample)
    assert torch.equal(*results)


@measured_with_these_defects
def test_defect_thousand_steps_with_an_offset() -> None:
    scheduler = diffusers.DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(1000)
    with pytest.raises(IndexError):
        scheduler.step(NOISE.float(), scheduler.timesteps[0], NOISE.float())


@measured_with_these_defects
def test_defect_velocity_of_the_wrong_end() -> None:
    """The velocity at t = 999, where ᾱ = 4e-5, is −x_0; it returns that of t = 0, which is the noise."""
    scheduler = diffusers.EulerDiscreteScheduler()
    x_0 = torch.ones_like(NOISE).float()
    theirs = scheduler.get_velocity(x_0, NOISE.float(), torch.full((len(NOISE),), 999.0))
    assert float((theirs - NOISE).abs().max()) < 0.1


@measured_with_these_defects
def test_defect_corrector_of_a_batch() -> None:
    """A sample alone is corrected as by ours; beside others it is not, for norms are averaged over the batch."""
    scheduler = diffusers.ScoreSdeVeScheduler()
    scheduler.set_timesteps(10)
    x, sigma = 3 * NOISE, 2.0
    score = ((D(x, sigma) - x) / sigma**2).float()
    alone = scheduler.step_correct(score[:1], x[:1].float(), generator=generator()).prev_sample
    beside = scheduler.step_correct(score, x.float(), generator=generator()).prev_sample
    (noise,) = draws(8, 1)
    dynamics = Dynamics(EDM(), D, {}, torch.device("cpu"))
    (level,) = dynamics.levels([sigma])
    generator_of_one = torch.Generator().manual_seed(8)
    unit = torch.randn((1, *NOISE.shape[1:]), generator=generator_of_one).double()
    langevin = Langevin(snr=scheduler.config.snr)
    assert float((langevin.step(dynamics, x[:1], level, lambda: unit) - alone).abs().max()) < CLOSE
    assert float((langevin.step(dynamics, x, level, lambda: noise) - beside).abs().max()) > 100 * CLOSE


@measured_with_these_defects
def test_defect_karras_ve_levels() -> None:
    """σ_max² (σ_min²/σ_max²)^i is the square of a level; it is taken for the level."""
    scheduler = importlib.import_module("diffusers.schedulers.deprecated.scheduling_karras_ve").KarrasVeScheduler()
    scheduler.set_timesteps(10)
    assert scheduler.schedule.max().item() == pytest.approx(scheduler.config.sigma_max**2)
    assert scheduler.init_noise_sigma == scheduler.config.sigma_max
