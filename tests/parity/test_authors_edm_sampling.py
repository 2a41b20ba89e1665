"""EDM's samplers and ours: ``edm_sampler`` and every combination of ``ablation_sampler`` of NVlabs/edm's generate.py.

The same denoiser (a mixture in closed form), start and noises, all in float64. ``edm_sampler`` of NVlabs/edm2, which
adds guidance, is here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from authors_repos import NOISE, SHAPE, D, difference, double, golden, loaded, ours, place
from edm_walks import CHURN, COMBINATIONS, ENDS, N, Net, Noises, ablation, levels_of, schedule_of, theirs
from torch import Tensor

import edm_unified as edm
from edm_unified import schedules
from edm_unified.denoisers.guidance import Autoguidance
from edm_unified.recipe import Recipe
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers import Heun, SecondOrder

FIRST, SECOND = "NVlabs/edm", "NVlabs/edm2"
generate = loaded(FIRST, "generate", stubs=("tqdm", "PIL", "PIL.Image", "requests"))
generate_images = loaded(SECOND, "generate_images", stubs=("tqdm", "PIL", "PIL.Image", "requests", "psutil"))

CLOSE = 1e-11


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Or the table of iDDPM is float32 in theirs."""
    with double():
        yield


@pytest.mark.skipif(place(FIRST) is None, reason="test_golden_edm.py holds ours to their numbers")
@pytest.mark.parametrize("churn", [None, CHURN], ids=["ode", "churn"])
def test_ablation_sampler(churn: Churn | None) -> None:
    for combination in COMBINATIONS:
        found, wanted = ablation(*combination, churn), theirs(generate, *combination, churn)
        assert difference(found, wanted) < CLOSE, combination


@pytest.mark.parametrize("alpha", [0.5, 2 / 3, 0.9])
@pytest.mark.parametrize("schedule", ["vp", "linear"])
def test_the_family_of_second_order(alpha: float, schedule: str) -> None:

    @golden(FIRST)
    def sample() -> Tensor:
        return generate.ablation_sampler(Net(), NOISE, num_steps=N, schedule=schedule, alpha=alpha)

    wanted = sample()
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

    @golden(FIRST)
    def sample() -> Tensor:
        return generate.edm_sampler(Net(), NOISE, randn_like=lambda x: next(noises.theirs), **options)

    wanted = sample()
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

    @golden(SECOND)
    def sample() -> Tensor:
        return generate_images.edm_sampler(
            lambda x, t, labels: D(x, t), NOISE, gnet=lambda x, t, labels: other(x, t), guidance=guidance,
            S_churn=10, S_min=0.1, S_max=20, dtype=torch.float64, randn_like=lambda x: next(again.ours),
        )  # fmt: skip

    wanted = sample()
    walk = list(churn.walk(tuple(levels)))
    found = ours(Heun(), walk, noises=noises.ours, denoiser=Autoguidance(D, other, guidance))
    assert difference(found, wanted) < CLOSE
