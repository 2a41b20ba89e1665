"""Law 7: every shipped recipe loads, survives dump and load, walks, and costs the evaluations that it states."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from itertools import pairwise

import pytest
import torch
from pydantic import TypeAdapter

from edm_unified import exact
from edm_unified.components import shipped
from edm_unified.recipe import Comparison, Recipe, codec, load_any, loads
from edm_unified.sampling import loop as sampling

NAMES = shipped.recipe_names()
METHODS = [name for name in NAMES if "/" not in name and isinstance(load_any(name), Recipe)]
TOYS = [name for name in NAMES if name.startswith("toy/mixture")]


adapter = functools.cache(TypeAdapter)


def text_of(name: str) -> str:
    return shipped.find(name).read_text("utf-8")


def test_the_methods_of_the_design_are_shipped() -> None:
    methods = "ddpm ddim iddpm vp subvp ve score_tutorial v_prediction flow_matching edm edm_stochastic"
    scores = "score_sde_ve_pc score_sde_vp_pc score_sde_subvp_ode score_tutorial_pc score_tutorial_ode ncsn"
    assert set(METHODS) == set(f"{methods} {scores}".split())
    assert set(Comparison.load("quickstart").recipes) == set(methods.split())
    three = Comparison.load("score_tutorial_samplers").recipes
    assert three == ("score_tutorial", "score_tutorial_pc", "score_tutorial_ode")
    assert len({Recipe.load(name).schedule for name in three}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_load_after_dump_is_the_identity(name: str) -> None:
    recipe = load_any(name)
    again = loads(recipe.dump())
    assert again == recipe
    assert again.hash == recipe.hash
    assert again.dump() == recipe.dump()


@pytest.mark.parametrize("name", NAMES)
def test_pydantic_alone_reads_the_same_tree(name: str) -> None:
    """An independent reader of the same annotations: the codec adds words to the errors and changes no value."""
    recipe = load_any(name)
    text = json.dumps(codec.encode(recipe))
    found = adapter(type(recipe)).validate_json(text, strict=True)
    assert json.loads(json.dumps(codec.encode(found))) == json.loads(text)
    if isinstance(recipe, Comparison):  # what is crossed may be anything: the path says what it is, not an annotation
        found = dataclasses.replace(found, cross=recipe.cross)
    assert found == recipe


@pytest.mark.parametrize("name", [*METHODS, *TOYS])
def test_the_counted_evaluations_are_those_that_the_file_states(name: str) -> None:
    recipe = Recipe.load(name)
    stated = re.search(r"^# NFE: (\d+|adaptive)", text_of(name), re.MULTILINE)
    assert stated, f"{name}.yaml states no NFE"
    adaptive = getattr(recipe.sampler.solver, "adaptive", False)
    assert stated[1] == ("adaptive" if adaptive else str(recipe.sampler.nfe(recipe.schedule)))


@pytest.mark.parametrize("name", METHODS)
def test_it_walks_to_zero_and_samples_its_data(name: str) -> None:
    """On one Gaussian the mean of the data is a fixed point of every method, and the spread has to come out right."""
    recipe = Recipe.load(name)
    levels = recipe.levels
    assert levels[-1] == 0
    assert all(b < a for a, b in pairwise(levels)) == (recipe.sampler.renoising is None)
    sampler = recipe.sampler
    # a corrector that goes by the norm of the score widens a Gaussian of few dimensions (correctors.py): give it 40
    n, d = (2000, 2) if sampler.corrector is None else (300, 40)
    mean = torch.linspace(0.3, -0.4, d, dtype=torch.float64)
    gaussian = exact.Gaussian(mean, 0.25)
    x = sampling.sample(
        gaussian,  # type: ignore[arg-type]
        sampling.unit_noise(n, (d,), seed=1),
        schedule=recipe.schedule,
        steps=sampler.steps,
        solver=sampler.solver,
        renoising=sampler.renoising,
        corrector=sampler.corrector,
        last=sampler.last,
        seed=1,
    )
    # the first method that starts low (score_tutorial at 9.8) has lost 0.5²/9.8² of the mean's offset: nothing at 4σ/√n
    assert float((x.mean(0) - mean).abs().max()) < 4 * 0.5 / n**0.5 + 0.01
    assert float((x.std(0) / 0.5 - 1).abs().max()) < 4 / (2 * n) ** 0.5 + 0.05
    assert float(x.std(0).square().mean().sqrt() / 0.5) == pytest.approx(1, abs=0.05 + 4 / (2 * n * d) ** 0.5)


@pytest.mark.parametrize("name", [*METHODS, *TOYS])
def test_it_is_complete_and_cites_its_source(name: str) -> None:
    """Nothing is left to a default that might change under the reader: a file spells its method out."""
    recipe = Recipe.load(name)
    assert re.search(r"arXiv:\d{4}\.\d{5}", recipe.source)
    assert re.search(r"Eq|Algorithm|Table", recipe.source)
    assert recipe.preconditioning is not None
    assert recipe.objective is not None
    assert recipe.title == shipped.titles().get(name, recipe.title)
    # what depends on a default: the parts of the sampler, spelled out
    for part in (recipe.sampler.solver, recipe.sampler.renoising, recipe.schedule):
        for field in codec.parameters(type(part)) if part is not None and part.kind != "beta_table" else ():
            assert f"{field}:" in text_of(name), f"{name}.yaml leaves {field} to its default"


def test_all_methods_denoise_alike() -> None:
    first = Recipe.load("edm")
    comparison = Comparison.load("quickstart")
    assert (comparison.data, comparison.denoiser) == (first.data, first.denoiser)
    for name in METHODS:
        recipe = Recipe.load(name)
        assert (recipe.data, recipe.denoiser) == (first.data, first.denoiser)


def test_ordinary_and_stochastic_methods_are_both_there() -> None:
    stochastic = {
        name
        for name in METHODS
        if (r := Recipe.load(name)).sampler.solver.stochastic or r.sampler.renoising is not None
    }
    corrected = {"score_sde_ve_pc", "score_sde_vp_pc", "score_tutorial_pc", "ncsn"}
    assert stochastic == {"ddpm", "iddpm", "vp", "score_tutorial", "edm_stochastic"} | corrected
