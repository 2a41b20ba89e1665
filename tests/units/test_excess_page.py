"""Where the exact denoiser of the data is known, training ends with what was not learnt: a file, a line, a curve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import edm_unified as edm
from edm_unified.cli import main
from edm_unified.recipe import Recipe
from edm_unified.training.objective.excess import excess_of

SMALL = ("--set", "training.images=4096", "--set", "training.save_every=4096", "--set", "training.batch=256",
         "--set", "network.width=16", "--set", "training.rate={kind: constant}", "--set", "sampler.steps.n=3",
         "--quiet", "--device", "cpu")  # fmt: skip


def train(out: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["train", "toy/train_2d", "--out", str(out), *SMALL, *more])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("conditional", [False, True])
def test_the_excess_is_told_at_the_end(conditional: bool, tmp_path: Path) -> None:
    more = ("--set", f"training.conditional={str(conditional).lower()}")
    train(tmp_path, *more)
    lines = [json.loads(line) for line in (tmp_path / "excess.jsonl").read_text().splitlines()]
    assert len(lines) == 32
    assert [line["sigma"] for line in lines] == sorted(line["sigma"] for line in lines)
    assert {line["images"] for line in lines} == {4096}
    for line in lines:
        assert line["relative"] == pytest.approx(line["excess"] / line["to_explain"])
        assert 0 < line["excess"] < line["to_explain"]
    page = (tmp_path / "report.html").read_text()
    assert "Excess loss" in page
    assert f"{max(line['relative'] for line in lines):.2%} of the variance to be explained" in page
    again = excess_of(edm.load(tmp_path), Recipe.load(str(tmp_path / "recipe.yaml")).job())
    assert [level.excess for level in again] == pytest.approx([line["excess"] for line in lines], rel=1e-4)


def test_data_without_an_exact_denoiser_have_none(tmp_path: Path) -> None:
    more = ("--set", "data={kind: two_dimensional, name: moons}")
    train(tmp_path, *more)
    assert not (tmp_path / "excess.jsonl").exists()
    assert "Excess loss" not in (tmp_path / "report.html").read_text()
    job = Recipe.load(str(tmp_path / "recipe.yaml")).job()
    with pytest.raises(ValueError, match=r"^data: the exact denoiser of moons is not known"):
        excess_of(edm.load(tmp_path), job)


def test_a_class_is_told_to_both(tmp_path: Path) -> None:
    """The exact denoiser of one class differs from that of all; the excess is that over the former."""
    train(tmp_path, "--set", "training.conditional=true")
    job = Recipe.load(str(tmp_path / "recipe.yaml")).job()
    assert job.dataset.exact is not None
    mixture, trained = job.dataset.exact(), edm.load(tmp_path)
    label = trained.labels_for(4096)
    x0 = mixture.sample(4096, seed=0, label=label)
    level = excess_of(trained, job)[20]
    n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=x0.dtype)
    ideal = mixture(x0 + level.sigma * n, level.sigma, label=label)
    assert level.irreducible == pytest.approx(float((ideal - x0).square().mean()))
