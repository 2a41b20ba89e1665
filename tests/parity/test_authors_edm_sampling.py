"""EDM's samplers and ours: ``edm_sampler`` and every combination of ``ablation_sampler`` of NVlabs/edm's generate.py.

The same denoiser (a mixture in closed form), start and noises, all in float64. ``edm_sampler`` of NVlabs/edm2, which
adds guidance, is here too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from authors_repos import NOISE, SHAPE, D, clone, difference, double, drawn, importable, ours
from torch import Tensor

import edm_unified as edm
from edm_unified import schedules
from edm_unified.denoisers.guidance import Autoguidance
from edm_unified.recipe import Recipe
from edm_unified.sampling.levels import Karras, LogLinear, TableSubset, VPTime
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers import Euler, Heun, SecondOrder
from edm_unified.schedules.base import Schedule

with importable(clone("NVlabs/edm"), stubs=("tqdm", "PIL", "PIL.Image", "requests")) as load:
    generate = load("generate")
with importable(clone("NVlabs/edm2"), stubs=("tqdm", "PIL", "PIL.Image", "requests", "psutil")) as load:
    generate_images = load("generate_images")

CLOSE = 1e-11
N = 18
VP_ENDS = tuple(schedules.VP().sigma([1e-3, 1.0]).tolist())
ENDS = {"vp": VP_ENDS, "ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}
"""Their σ_min and σ_max where none is given."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Or the table of iDDPM is float32 in theirs."""
    with double():
        yield


class Net:
    """What their samplers want of a network: D, and the levels that it supports."""

    sigma_min, sigma_max = 0.0, math.inf

    def __call__(self, x: Tensor, sigma: Tensor, labels: Any = None) -> Tensor:
        return D(x, sigma)

    def round_sigma(self, sigma: Any) -> Tensor:
        return torch.as_tensor(sigma)


class Noises:
    """One noise for each of their steps, and for us those of the steps before which the level rises.

    For the other steps they draw one too, and multiply it by √(σ(t̂)² − σ(t)²) of one level computed twice, which may be
    the root of a rounding: 10⁻⁶ at σ = 100. Their noise is zero there.
    """

    def __init__(self, levels: list[float], churn: Any) -> None:
        random, zero, levels = drawn(5), torch.zeros_like(NOISE), levels[:-1]
        raised = [churn is not None and churn.S_min <= sigma <= churn.S_max for sigma in levels]
        given = [next(random) if up else zero for up in raised]
        self.theirs = iter(given)
        self.ours: Iterator[Tensor] = iter([n for n, up in zip(given, raised, strict=True) if up])


@dataclass(frozen=True)
class Scaled(Schedule):
    """σ(t) of another schedule, with s = 1/√(1+σ²) (``scaled``) or s = 1, whichever the other had."""

    base: Schedule
    scaled: bool
    formulas: ClassVar[dict[str, str]] = {}

    @property
    def t_max(self) -> float:
        return self.base.t_max

    def _s(self, t: Tensor) -> Tensor:
        return torch.rsqrt(1 + self._sigma(t) ** 2) if self.scaled else torch.ones_like(t)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.base._sigma(t)

    def _log_s_rate(self, t: Tensor) -> Tensor:
        square = self._sigma(t) ** 2
        return -self._log_sigma_rate(t) * square / (1 + square) if self.scaled else torch.zeros_like(t)

    def _log_sigma_rate(self, t: Tensor) -> Tensor:
        return self.base._log_sigma_rate(t)

    def _time(self, sigma: Tensor) -> Tensor:
        return self.base._time(sigma)


def levels_of(discretization: str) -> list[float]:
    low, high = ENDS[discretization]
    rule = {
        "vp": VPTime(N, low, high, power=1.0), "ve": LogLinear(N, low, high), "edm": Karras(N, low, high),
        "iddpm": TableSubset(N, spacing="edm", table=schedules.BetaTable(betas="cosine"), skip=8),
    }[discretization]  # fmt: skip
    found: list[float] = rule.levels(schedules.EDM()).tolist()
    return found


def schedule_of(schedule: str, scaling: str, ends: tuple[float, float]) -> Schedule:
    """Their VP schedule is that whose σ(1) and σ(10⁻³) are the ends of the walk."""
    low, high = (math.log1p(end**2) for end in ends)
    vp = schedules.VP(2 * (low / 1e-3 - high) / (1e-3 - 1))
    object.__setattr__(vp, "beta_min", high - 0.5 * vp.beta_d)  # below zero for EDM's ends, which VP itself refuses
    return Scaled({"vp": vp, "ve": schedules.VE(), "linear": schedules.EDM()}[schedule], scaling == "vp")


COMBINATIONS = list(
    itertools.product(["euler", "heun"], ["vp", "ve", "iddpm", "edm"], ["vp", "ve", "linear"], ["vp", "none"])
)


@pytest.mark.parametrize("churned", [False, True], ids=["ode", "churn"])
@pytest.mark.parametrize(("solver", "discretization", "schedule", "scaling"), COMBINATIONS)
def test_ablation_sampler(solver: str, discretization: str, schedule: str, scaling: str, churned: bool) -> None:
    churn = Churn(S_churn=8.0, S_min=0.05, S_max=30.0, S_noise=1.007) if churned else None
    levels = levels_of(discretization)
    noises = Noises(levels, churn)
    options = {} if churn is None else {name: getattr(churn, name) for name in ("S_churn", "S_min", "S_max", "S_noise")}
    wanted = generate.ablation_sampler(
        Net(), NOISE, randn_like=lambda x: next(noises.theirs), num_steps=N, solver=solver,
        discretization=discretization, schedule=schedule, scaling=scaling, **options,
    )  # fmt: skip
    own = schedule_of(schedule, scaling, ENDS[discretization])
    walk = levels if churn is None else list(churn.walk(tuple(levels)))
    S_noise = 1.0 if churn is None else churn.S_noise
    found = ours(Euler() if solver == "euler" else Heun(), walk, own, noises.ours, S_noise=S_noise)
    assert difference(found, wanted) < CLOSE
    assert next(noises.ours, None) is None


@pytest.mark.parametrize("alpha", [0.5, 2 / 3, 0.9])
@pytest.mark.parametrize("schedule", ["vp", "linear"])
def test_the_family_of_second_order(alpha: float, schedule: str) -> None:
    wanted = generate.ablation_sampler(Net(), NOISE, num_steps=N, schedule=schedule, alpha=alpha)
    found = ours(SecondOrder(alpha), levels_of("edm"), schedule_of(schedule, "none", ENDS["edm"]))
    assert difference(found, wanted) < CLOSE


IMAGENET = {"num_steps": 256, "S_churn": 40, "S_min": 0.05, "S_max": 50, "S_noise": 1.003}
README = {
    "edm": {"num_steps": 18}, "edm_stochastic": IMAGENET, "train/cifar10_f_vp": {"num_steps": 18},
    "train/ffhq64_ve": {"num_steps": 40}, "train/afhqv2_64_vp": {"num_steps": 40}, "train/imagenet64_adm": IMAGENET,
}  # fmt: skip
"""The settings that they recommend for each data set."""


@pytest.mark.parametrize("name", README)
def test_the_recipes_sample_as_their_readme_says(name: str) -> None:
    options: dict[str, Any] = README[name]
    recipe = Recipe.load(name)
    sampler = recipe.sampler
    assert sampler is not None
    levels = sampler.steps.levels(recipe.schedule).tolist()
    noises = Noises(levels, sampler.renoising)  # type: ignore[arg-type]
    wanted = generate.edm_sampler(Net(), NOISE, randn_like=lambda x: next(noises.theirs), **options)
    walk = levels if sampler.renoising is None else list(sampler.renoising.walk(tuple(levels)))
    S_noise = 1.0 if sampler.renoising is None else sampler.renoising.S_noise
    found = ours(sampler.solver, walk, recipe.schedule, noises.ours, S_noise=S_noise)
    assert difference(found, wanted) < CLOSE


@pytest.mark.parametrize("guidance", [1.0, 1.7, 0.4])
def test_edm2s_sampler_with_guidance(guidance: float) -> None:
    other = edm.exact.Gaussian(torch.full(SHAPE, 0.2), 0.3)
    churn = Churn(S_churn=10.0, S_min=0.1, S_max=20.0, S_noise=1.0)
    levels = Karras(32).levels(schedules.EDM()).tolist()
    noises, again = Noises(levels, churn), Noises(levels, churn)
    wanted = generate_images.edm_sampler(
        lambda x, t, labels: D(x, t), NOISE, gnet=lambda x, t, labels: other(x, t), guidance=guidance,
        S_churn=10, S_min=0.1, S_max=20, dtype=torch.float64, randn_like=lambda x: next(again.ours),
    )  # fmt: skip
    walk = list(churn.walk(tuple(levels)))
    found = ours(Heun(), walk, noises=noises.ours, denoiser=Autoguidance(D, other, guidance))
    assert difference(found, wanted) < CLOSE
