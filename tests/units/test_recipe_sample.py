"""A recipe is sampled from in one way: in Python, by ``edm-unified sample``, in a comparison and during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run

import edm_unified as edm
from edm_unified.components import shipped
from edm_unified.recipe import Recipe, codec, load_any
from edm_unified.recipe.tree import Sampler
from edm_unified.sampling import loop

EXACT = [
    name
    for name in shipped.recipe_names()
    if isinstance(found := load_any(name), Recipe) and found.denoiser is not None
]


def _small(name: str) -> list[str]:
    """The recipe on a Gaussian, and at few steps where its levels have a number of them."""
    steps = Recipe.load(name).sampler.steps
    known = Recipe.load(name).denoiser.kind == "known"  # type: ignore[union-attr]
    few = ["sampler.steps.n=6"] if hasattr(steps, "n") else []
    return few + ([] if known else ["denoiser={kind: gaussian}"])


@pytest.mark.parametrize("name", EXACT)
def test_recipe_sample_is_what_the_command_writes(name: str, tmp_path: Path) -> None:
    overrides = _small(name)
    x = Recipe.load(name, overrides).sample(3, seed=5, batch=2)
    sets = [word for text in overrides for word in ("--set", text)]
    code, _, err = run("sample", name, *sets, "--n", 3, "--seed", 5, "--out", tmp_path / "o", "-q")
    assert (code, err) == (0, "")
    assert np.array_equal(np.load(tmp_path / "o" / "samples.npy"), x.float().numpy())


def test_there_are_exact_recipes() -> None:
    assert {"edm", "edm_stochastic", "ddpm", "score_sde_vp_pc", "ncsn"} <= set(EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_no_part_of_a_sampler_is_dropped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field is handed to ``sample`` as it is; threshold and guidance are around the denoiser."""
    given: dict[str, Any] = {}

    def spy(denoiser: Any, noise: torch.Tensor, **settings: Any) -> torch.Tensor:
        given.update(settings, denoiser=denoiser)
        return noise

    recipe = Recipe.load(name, _small(name))
    monkeypatch.setattr(loop, "sample", spy)
    recipe.sample(1)
    sampler = recipe.sampler
    for field in set(codec.parameters(Sampler)) - {"threshold", "guidance", "analytic_start", "label"}:
        assert given[field] == getattr(sampler, field), field
    assert given["schedule"] == recipe.schedule
    assert (given["analytic_start"] is None) == (sampler.analytic_start is None)
    assert getattr(given["denoiser"], "threshold", None) == sampler.threshold


def test_a_class_is_asked_for_and_a_wrong_one_is_refused() -> None:
    recipe = Recipe.load("edm", ["sampler.steps.n=2"])
    assert not torch.equal(recipe.sample(2, label=3), recipe.sample(2, label=4))
    with pytest.raises(ValueError, match="label"):
        recipe.sample(2, label=10)
    with pytest.raises(ValueError, match=r"^n: must be a whole number"):
        recipe.sample(0)


def test_sample_i_is_the_same_alone() -> None:
    recipe = Recipe.load("edm_stochastic", ["sampler.steps.n=4", "denoiser={kind: gaussian}"])
    alone, among_others = recipe.sample(1, seed=1, first=2), recipe.sample(4, seed=1)[2:3]
    assert (alone - among_others).abs().max() < 1e-10  # a product of matrices has other last bits in another batch


def test_a_guided_sampler_is_not_run_without_its_guide() -> None:
    recipe = Recipe.load("edm", ["sampler.guidance={kind: classifier_free, w: 2.0}", "sampler.steps.n=2"])
    denoiser, dataset = recipe.build()
    noise = edm.unit_noise(1, dataset.shape)
    with pytest.raises(ValueError, match=r"^guidance: classifier_free needs its guide"):
        recipe.sampler.sample(denoiser, noise, recipe.schedule)
    guide = recipe.sampler.guide_for(denoiser, dataset, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^guide: this sampler has no guidance"):
        Recipe.load("edm").sampler.sample(denoiser, noise, recipe.schedule, guide=guide)
    assert recipe.sample(1).shape == noise.shape
