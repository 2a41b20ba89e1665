"""A checkpoint of another library in the place of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import edm_unified as edm
from edm_unified import cli
from edm_unified.compare.problem import ENDPOINT, Problem, Settings
from edm_unified.recipe.comparison import MetricName

diffusers = pytest.importorskip("diffusers", reason="folders of diffusers are read with diffusers")


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, words)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net that predicts v on a table of betas, as its pipeline is saved."""
    place = tmp_path_factory.mktemp("sources") / "unet"
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        in_channels=1, out_channels=1, sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    network.save_pretrained(place / "unet")
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(place / "scheduler")
    (place / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"]}))
    return place


def test_samples_are_those_of_the_denoiser_that_is_loaded(folder: Path, tmp_path: Path) -> None:
    result = run("sample", folder, "--steps", 3, "--solver", "dpmpp_2m", "--n", 2, "--out", tmp_path / "a", "-q")
    assert result.exit_code == 0, result.stderr
    recipe = edm.Recipe.load(tmp_path / "a/recipe.yaml")
    assert recipe.denoiser.source == str(folder)
    assert recipe.preconditioning.predicts == "v"
    drawn = edm.sample(
        edm.load(folder), edm.unit_noise(2, (1, 8, 8)), schedule=recipe.schedule,
        steps=edm.discretization.TableSubset(n=3, spacing="leading"), solver=edm.solvers.DPMSolverPP2M(),
    )  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "a/samples.npy"), drawn.numpy(), atol=1e-5)


def test_a_comparison_without_data_is_of_endpoints_alone(folder: Path) -> None:
    problem = Problem(edm.Recipe.load(folder), Settings(), {})
    assert [name for name in get_args(MetricName) if problem.applies(name, 100)] == list(ENDPOINT)
    assert problem.target.shape == (0, 1, 8, 8)
    assert problem.learnt


def test_show_and_what_needs_data(folder: Path) -> None:
    shown = run("show", folder)
    assert shown.exit_code == 0, shown.stderr
    assert "on_schedule" in shown.stdout
    wanting = run("likelihood", folder)
    assert wanting.exit_code == 2
    assert "data: missing; name some, as in --set 'data={kind: digits}'" in wanting.stderr


def test_inspect_says_what_it_is_and_checks_it(folder: Path, tmp_path: Path) -> None:
    found = json.loads(run("inspect", folder, "--json").stdout)
    assert (found["network"], found["scheduler"], found["loads"]) == ("UNet2DModel", "DDIMScheduler", True)
    assert found["parameters"] == sum(weight.numel() for weight in edm.load(folder).parameters())
    assert found["convention"]["predicts"] == "v"
    np.save(tmp_path / "images.npy", np.random.default_rng(0).uniform(-1, 1, size=(8, 1, 8, 8)).astype(np.float32))
    result = run("inspect", folder, "--check", "--data", tmp_path / "images.npy")
    assert result.exit_code == 0, result.stderr
    assert "as it was read" in result.stdout
    assert "fraction against nearest step, rms/sigma" in result.stdout
    nothing = run("inspect", tmp_path)
    assert nothing.exit_code == 2
    assert "known are runs of edm-unified, folders of diffusers, and files .onnx, .pkl, " in nothing.stderr


@pytest.mark.parametrize(
    ("denoiser", "words"),
    [
        ("{kind: checkpoint}", "denoiser.path: name a run here, or a checkpoint of another library under source"),
        ("{kind: checkpoint, source: a, ema: 0.1}", "denoiser.ema: is of runs of edm-unified"),
        ("{kind: checkpoint, path: a, convention: {kind: edm}}", "denoiser.convention: a run knows its own"),
        ("{kind: checkpoint, source: nowhere}", "denoiser: nowhere: no such"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_in_a_recipe(denoiser: str, words: str, tmp_path: Path) -> None:
    result = run("sample", "edm", "--set", f"denoiser={denoiser}", "--n", 1, "--out", tmp_path / "s")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.strip().count("\n") == 0 or "making the denoiser" in result.stderr


def test_a_convention_in_the_recipe_takes_the_place_of_the_files_own(folder: Path) -> None:
    recipe = edm.Recipe.load(folder, ("denoiser.convention={kind: flow_matching}",))
    assert recipe.build()[0].denoiser.preconditioning == edm.preconditioning.FlowMatching()
