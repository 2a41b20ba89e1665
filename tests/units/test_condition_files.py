"""What a network needs besides a class, from files: --cond and sampler.cond."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import edm_unified as edm
from edm_unified import cli
from edm_unified.compare.problem import Problem, Settings
from edm_unified.recipe.condition_files import Conditions, given, parse


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, words)))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("all.npz", [("", "all.npz")]),
        ("a=x.npy,b.c=y,z.npy", [("a", "x.npy"), ("b.c", "y,z.npy")]),
        ("a=x=y.npy", [("a", "x=y.npy")]),
    ],
)
def test_names_and_files(words: str, found: list[tuple[str, str]]) -> None:
    assert parse(words) == found


def test_row_i_is_that_of_sample_i_and_one_row_that_of_all(tmp_path: Path) -> None:
    text, size = torch.arange(12.0).view(6, 2), torch.tensor([[7, 8]])
    save_file({"text": text, "added.size": size}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **{"text": text.numpy(), "added.size": size.numpy()})
    for name in ("a.safetensors", "b.npz"):
        found = Conditions.read(str(tmp_path / name))
        rows = found.rows(2, 3)
        assert torch.equal(rows["text"], text[3:5])
        assert torch.equal(rows["added"]["size"], size)
        assert found.fingerprint == Conditions.read(str(tmp_path / "a.safetensors")).fingerprint
    with pytest.raises(ValueError, match=r"^cond: has 6 rows, and sample 6 is asked for"):
        found.rows(4, 3)


@pytest.mark.parametrize(
    ("content", "words", "fault"),
    [
        (None, "{}", "no such file"),
        (b"\x93NUMPY damaged", "{}", "is not a readable file of NumPy"),
        (np.array([{"a": 1}], dtype=object), "{}", "is not a readable file of NumPy (Object arrays cannot"),
        (np.array(["a"]), "a={}", "holds <U1, not numbers"),
        (np.zeros((2, 3)), "{}", "is an array without a name; write NAME="),
        (np.zeros((2, 3)), "a={},b=", "must be FILE or NAME=FILE"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(content: Any, words: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"^sampler\.cond: ") as caught:
        given(words.format(file), edm.exact.Gaussian(mean=[0.0], cov=1.0))
    assert fault in str(caught.value)


def test_a_closed_form_takes_none(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3)))
    result = run("sample", "edm", "--cond", f"text={tmp_path / 'x.npy'}", "--n", 1, "--out", tmp_path / "s", "-q")
    assert result.exit_code == 2
    assert result.stderr == "Error: edm: sampler.cond: this denoiser takes no condition 'text'; leave it out\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net that attends to a text, as its pipeline is saved."""
    diffusers = pytest.importorskip("diffusers", reason="folders of diffusers are read with diffusers")
    place = tmp_path_factory.mktemp("texts") / "unet"
    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        in_channels=1, out_channels=1, sample_size=8, cross_attention_dim=8, attention_head_dim=2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    network.save_pretrained(place / "unet")
    diffusers.DDIMScheduler().save_pretrained(place / "scheduler")
    (place / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    return place


def test_a_source_is_told_its_text_in_every_command(folder: Path, tmp_path: Path) -> None:
    text = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "text.npy", text.numpy())
    np.save(tmp_path / "images.npy", np.random.default_rng(0).uniform(-1, 1, size=(5, 1, 8, 8)).astype(np.float32))
    cond, data = ("--cond", tmp_path / "text.npy"), tmp_path / "images.npy"
    # samples in batches of two are those of the denoiser with the rows of the file
    result = run("sample", folder, *cond, "--steps", 2, "--n", 5, "--batch", 2, "--out", tmp_path / "s", "-q")
    assert result.exit_code == 0, result.stderr
    recipe = edm.Recipe.load(tmp_path / "s/recipe.yaml")
    drawn = edm.sample(
        edm.load(folder), edm.unit_noise(5, (1, 8, 8)), schedule=recipe.schedule, steps=recipe.sampler.steps,
        solver=recipe.sampler.solver, cond={"encoder_hidden_states": text},
    )  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "s/samples.npy"), drawn.numpy(), atol=1e-4)
    assert recipe.sample(1, first=4).shape == (1, 1, 8, 8)
    few = run("sample", folder, *cond, "--steps", 2, "--n", 6, "--out", tmp_path / "t", "-q")
    assert (few.exit_code, "has 5 rows, and sample 5 is asked for" in few.stderr) == (2, True)
    problem = Problem(recipe, Settings(), {})
    assert torch.equal(problem.cond(recipe.sampler, 2, 0, 3)["encoder_hidden_states"], text[3:])
    assert Problem(dataclasses.replace(recipe, title="x"), Settings(), {}).fingerprint == problem.fingerprint
    np.save(tmp_path / "text.npy", 2 * text.numpy())
    assert Problem(recipe, Settings(), {}).fingerprint != problem.fingerprint
    for words in (
        ("likelihood", folder, data, *cond, "--n", 2, "--bound", "--points", 2, "-q"),
        ("inspect", folder, "--check", "--data", data, "--cond", f"encoder_hidden_states={tmp_path / 'text.npy'}"),
        ("show", folder, *cond),
    ):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 0, (words, result.stderr)
    assert str(tmp_path / "text.npy") in "".join(result.stdout.split())


def test_without_its_text_every_command_says_which_it_needs(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 5 * 64, dtype=np.float32).reshape(5, 1, 8, 8))
    needs = "this network needs encoder_hidden_states: give --cond encoder_hidden_states=FILE"
    for words in (
        ("sample", folder, "--n", 1, "--out", tmp_path / "s", "-q"),
        ("compare", folder, "--nfe", "2", "--out", tmp_path / "c", "-q"),
        ("likelihood", folder, tmp_path / "x.npy", "-q"),
        ("inspect", folder, "--check", "--data", tmp_path / "x.npy"),
    ):
        result = run(*words)
        assert result.exit_code == 2, words
        assert needs in result.stderr
        assert result.stderr.count("\n") == 1
    other = run("sample", folder, "--cond", f"words={tmp_path / 'x.npy'}", "--n", 1, "--out", tmp_path / "s", "-q")
    assert "sampler.cond: encoder_hidden_states: missing" in other.stderr or "takes no condition" in other.stderr
