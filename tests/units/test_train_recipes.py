"""The recipes of recipes/train and recipes/digits: as published, and whole enough to be trained."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from edm_unified.cli import main
from edm_unified.components import shipped
from edm_unified.networks import cost as network_cost
from edm_unified.recipe import Comparison, Recipe, load_any, training_cost

TRAIN = [name for name in shipped.recipe_names() if name.startswith("train/")]
DIGITS = [n for n in shipped.recipe_names() if n.startswith("digits/") and isinstance(load_any(n), Recipe)]

PARAMETERS = {
    "train/cifar10_a_vp": None,
    "train/cifar10_a_ve": None,
    "train/cifar10_f_vp": "55.73 M",
    "train/cifar10_f_ve": "56.40 M",
    "train/ffhq64_vp": "61.81 M",
    "train/imagenet64_adm": "295.90 M",
    "train/ddpm_cifar10": None,
    "train/iddpm_cifar10": None,
    "train/sit_xl_latents": "674.82 M",
    "train/edm2_xs_latents": "124.71 M",
}
"""Recipes whose networks differ in more than dropout, with the published number of parameters where there is one."""

MEASURED = "train/ddpm_cifar10"
"""The recipe whose dry run takes a step to know its memory."""

SHAPES = {
    "digits/": ((1, 8, 8), 10),
    "train/afhqv2": ((3, 64, 64), None),
    "train/cifar10": ((3, 32, 32), 10),
    "train/ddpm_cifar10": ((3, 32, 32), 10),
    "train/iddpm_cifar10": ((3, 32, 32), 10),
    "train/edm2": ((4, 64, 64), 1000),
    "train/ffhq64": ((3, 64, 64), None),
    "train/imagenet64": ((3, 64, 64), 1000),
    "train/sit": ((4, 32, 32), 1000),
    "toy/": ((2,), 0),
}
"""A sample of the data of each paper, and their classes (None: nobody asks for them)."""

SHIPPED = [n for n in shipped.recipe_names() if isinstance(r := load_any(n), Recipe) and r.training is not None]


def test_what_the_data_are_is_known_without_them(empty_folder: Path) -> None:
    """So that --dry-run needs no further option."""
    for name in SHIPPED:
        recipe = Recipe.load(name)
        shape, classes = next(known for key, known in SHAPES.items() if name.startswith(key))
        found = training_cost._data(recipe, None, None)
        assert found[0] == shape, name
        assert recipe.training is not None
        assert not recipe.training.conditional or found[1] == classes, name


def dry_run(name: str, *overrides: str) -> str:
    # one image at a time: the memory of a step is found by taking it, and that of the whole batch takes as long again
    words = ["train", name, "--dry-run"]
    overrides = (*overrides, "training.batch=1", "training.accumulation=1")
    result = CliRunner().invoke(main, [*words, *(w for text in overrides for w in ("--set", text))])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in the place of the memory of a step, which is found by taking one: seconds for a large network."""
    monkeypatch.setattr(network_cost, "memory", lambda *_, **options: network_cost.Memory(*range(1, 6)))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_dry_run_says_what_it_costs(name: str, request: pytest.FixtureRequest) -> None:
    """The memory is measured where the network is small; test_networks_cost.py has it of every kind of network."""
    if name != MEASURED:
        request.getfixturevalue("unmeasured")
    output = dry_run(name)
    expected = PARAMETERS[name]
    assert re.search(r"parameters +[\d,]+ \(" + (re.escape(expected) if expected else r"[\d.]+ M") + r"\)", output)
    assert re.search(r"FLOPs +[\d.]+ G forward", output)
    assert "memory" in output


@pytest.mark.usefixtures("unmeasured")
def test_conditional_is_one_override() -> None:
    """EDM's conditional network is the unconditional one with a linear layer from 10 classes to 128 features."""
    free, told = (dry_run("train/cifar10_f_vp", f"training.conditional={c}") for c in ("false", "true"))
    numbers = [int(re.search(r"parameters +([\d,]+)", text)[1].replace(",", "")) for text in (free, told)]  # type: ignore[index]
    assert numbers[1] - numbers[0] == (10 + 1) * 128


def test_it_is_complete_and_cites_its_source() -> None:
    for name in (*TRAIN, *DIGITS):
        recipe = Recipe.load(name)
        assert re.search(r"arXiv:\d{4}\.\d{5}", recipe.source), name
        for part in ("data", "network", "preconditioning", "objective", "training"):
            assert getattr(recipe, part) is not None, (name, part)
        assert recipe.training is not None
        named = f"--out runs/{name.rpartition('/')[2]}" in text_of(name)
        assert named or name in ("train/ddpm_cifar10", *UNHURRIED), name
        assert recipe.training.steps * recipe.training.batch >= recipe.training.images, name


UNHURRIED = ("train/iddpm_cifar10", "train/sit_xl_latents", "train/edm2_xs_latents")


def text_of(name: str) -> str:
    return shipped.find(name).read_text("utf-8")


def test_configurations_a_to_f_change_one_thing_at_a_time() -> None:
    """Table 2 of Karras et al. 2022: each row is the one above with what its name says, in both columns."""
    parts = ("network", "preconditioning", "objective", "training")
    changed = {
        "ab": {"network", "training"},
        "bc": {"network"},
        "cd": {"preconditioning"},
        "de": {"objective"},
        "ef": {"training"},
    }
    for column in ("vp", "ve"):
        for (before, after), wanted in changed.items():
            a, b = (Recipe.load(f"train/cifar10_{row}_{column}") for row in (before, after))
            assert {part for part in parts if getattr(a, part) != getattr(b, part)} == wanted, (before, after, column)


def test_edm_hyper_parameters() -> None:
    """Karras et al. 2022: batch 512, rate 1e-3 reached over 10 million images, EMA of half a million, 200 million."""
    training = Recipe.load("train/cifar10_f_vp").training
    assert training is not None
    assert (training.batch, training.images) == (512, 200_000_000)
    assert training.optimizer.lr == 1e-3
    assert [training.rate.factor(t) for t in (0, 5_000_000, 10_000_000, 10**9)] == [0, 0.5, 1, 1]
    assert training.ema is not None
    assert training.ema.images == 500_000  # type: ignore[union-attr]
    imagenet = Recipe.load("train/imagenet64_adm").training
    assert imagenet is not None
    assert imagenet.images == 2_500_000_000
    assert (imagenet.ema.images, imagenet.ema.ramp_up) == (50_000_000, 0.05)  # type: ignore[union-attr]
    # Adam's eps of 1e-8 is beside the gradient of a sum over the entries there, and of a mean here
    for name, entries in {
        "cifar10_f_ve": 3072,
        "ffhq64_vp": 12288,
        "imagenet64_adm": 12288,
        "edm2_xs_latents": 16384,
    }.items():
        training = Recipe.load(f"train/{name}").training
        assert training is not None
        assert training.optimizer.eps == pytest.approx(1e-8 / entries, rel=1e-3)


def test_decays_per_step_are_the_half_lives_of_the_recipes() -> None:
    for name, decay in (
        ("ddpm_cifar10", 0.9999),
        ("iddpm_cifar10", 0.9999),
        ("sit_xl_latents", 0.9999),
        ("cifar10_a_ve", 0.999),
    ):
        training = Recipe.load(f"train/{name}").training
        assert training is not None
        assert 0.5 ** (training.batch / training.ema.images) == pytest.approx(decay, abs=1e-8)  # type: ignore[union-attr]


def test_the_digits_differ_in_the_method_alone() -> None:
    recipes = [Recipe.load(name) for name in DIGITS]
    assert len(recipes) == 7
    assert len({recipe.training for recipe in recipes}) == 1
    assert len({recipe.data for recipe in recipes}) == 1
    assert len({dataclasses.replace(recipe.network, noise_scale=1.0) for recipe in recipes}) == 1  # type: ignore[type-var]
    compared = Comparison.load("digits/compare").recipes
    assert sorted(compared) == sorted(f"runs/{name.rpartition('/')[2]}" for name in DIGITS)


@pytest.mark.parametrize("name", DIGITS)
def test_one_step_of_training_on_the_digits(name: str) -> None:
    """Each of the seven takes a step, with a loss that an untrained F = 0 has in that method's units."""
    from edm_unified.training.loop import train
    from edm_unified.training.parallel import Team
    from edm_unified.training.runs.state import TrainState

    recipe = Recipe.load(name, ["training.images=128"])
    job = recipe.job()
    team = Team(torch.device("cpu"))
    progress = list(train(job, TrainState.start(job, team), team))
    assert [p.step for p in progress] == [1]
    # the target has about unit variance in every method's own units; the digits have 0.75² + 0.39² in x_0's
    assert 0.5 < progress[0].loss < 2.5
