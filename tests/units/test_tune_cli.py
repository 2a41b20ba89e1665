"""``edm-unified tune``: what it writes, continues and refuses, and where its file goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run

from edm_unified.recipe import Recipe
from edm_unified.sampling.levels import FittedLevels
from edm_unified.sampling.solvers import Fitted
from edm_unified.tuning import session, stock

RECIPE = "toy/mixture_2d"
ARGS = ("--nfe", "4,6", "--samples", "48", "--held-out", "48")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stock solvers and a few iterations: what is asked here is not the gain."""
    monkeypatch.setattr(stock, "solver_set", lambda name: ())
    monkeypatch.setattr(stock, "FAST", stock.FAST[:3])
    monkeypatch.setattr(session, "_LAPS", 1)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A fitted recipe, and what was printed."""
    file = tmp_path_factory.mktemp("tuned") / "fitted.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock, "solver_set", lambda name: ())
        patch.setattr(stock, "FAST", stock.FAST[:3])
        code, out, err = run("tune", RECIPE, *ARGS, "--out", file)
    assert code == 0, err
    return file, out


def test_what_it_writes_is_a_recipe(tuned: tuple[Path, str]) -> None:
    file, out = tuned
    assert {path.name for path in file.parent.iterdir()} == {"fitted.yaml", "fitted.html", "fitted.npz"}
    assert "its own error is below" in out
    recipe = Recipe.load(file)
    solver = recipe.sampler.solver
    assert isinstance(solver, Fitted)
    assert isinstance(recipe.sampler.steps, FittedLevels)
    assert [len(levels) - 1 for levels in solver.sigmas] == [4, 6]
    assert (recipe.sampler.steps.sigmas, solver.samples, len(solver.model)) == (solver.sigmas, 48, 8)
    assert Recipe.load(file, ["sampler.steps.n=4"]).sampler.nfe(recipe.schedule) == 4
    page = file.with_suffix(".html").read_text("utf-8")
    assert "Beside stock methods" in page
    assert "<svg" in page


def test_it_goes_into_every_command(tuned: tuple[Path, str], tmp_path: Path) -> None:
    file, _ = tuned
    code, out, err = run("sample", file, "--n", 3, "--steps", 4, "--schedule", "vp", "--out", tmp_path / "s")
    assert (code, "warning" in err) == (0, False), err
    assert "4 evaluations each" in out
    code, out, _ = run("certify", file)
    assert (code, "passes" in out, "4 in 4, 6 in 6" in out) == (0, True, True)
    metrics = ("--set", "metrics=[error_median]", "--nfe", "4,5,6", "--samples", 8, "--set", "grid_samples=0")
    code, out, err = run("compare", file, RECIPE, *metrics, "--out", tmp_path / "c", "--json")
    assert (code, "warning" in err) == (0, False), err
    found = {record["nfe"] for record in map(json.loads, out.splitlines()) if record["recipe"] == "fitted"}
    assert found == {4, 6}
    assert run("show", file)[0] == 0


def test_another_model_is_told_in_one_line(tuned: tuple[Path, str], tmp_path: Path) -> None:
    file, _ = tuned
    code, _, err = run("sample", file, "--n", 2, "--set", "data.seed=5", "--out", tmp_path / "s")
    assert code == 0
    (line,) = [line for line in err.splitlines() if line.startswith("warning")]
    assert "was fitted to another model than this one" in line


def test_it_continues(tuned: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is not done again, and gives the same file; a damaged state is begun anew, not trusted."""
    file, _ = tuned
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(session, "fit", None)
        patch.setattr(session.Teacher, "of", None)
        code, out, err = run("tune", RECIPE, *ARGS, "--out", file, "--json")
    assert code == 0, err
    records = list(map(json.loads, out.splitlines()))
    assert [(record["nfe"], len(record["sigmas"]), len(record["weights"])) for record in records] == [
        (4, 5, 4),
        (6, 7, 6),
    ]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((RECIPE, "--nfe", "1"), "toy/mixture_2d: --nfe: must be from 2 to 48"),
        ((RECIPE, "--nfe", "5,200"), "toy/mixture_2d: --nfe: must be from 2 to 48"),
        ((RECIPE, "--nfe", "10", "--samples", "4"), "toy/mixture_2d: --samples: 4 noises have 8 numbers"),
        (("edm_stochastic",), "edm_stochastic: sampler.renoising: churn is stochastic"),
        (("ddpm",), "ddpm: sampler.solver: ddpm is stochastic"),
        ((RECIPE, "--solver", "dopri5"), "sampler.solver: dopri5 is adaptive"),
        ((RECIPE, "--last", "stop"), "sampler.last: stop leaves noise"),
        ((RECIPE, "--anchor", "image"), "sampler.anchor: the walk begins at image"),
        ((RECIPE, "--analytic-start", "gaussian_jump"), "sampler.analytic_start: a fitted solver begins"),
        ((RECIPE, "--out", "x.txt"), "--out x.txt: must end in .yaml"),
        ((RECIPE, "--out", "mine.yaml"), "--out mine.yaml: is there already and was not written by tune"),
    ],
)
def test_what_it_refuses(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("title: mine\n")
    code, out, err = run("tune", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("Error")]) == 1
    assert (tmp_path / "mine.yaml").read_text() == "title: mine\n"
    assert not (tmp_path / "edm-tune").exists()


def test_a_file_edited_to_the_wrong_length_is_told(tuned: tuple[Path, str], tmp_path: Path) -> None:
    lines = tuned[0].read_text("utf-8").splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("        - ["))
    file = tmp_path / "edited.yaml"
    file.write_text("\n".join([*lines[:row], *lines[row + 1 :]]))
    code, _, err = run("sample", file, "--out", tmp_path / "s")
    assert code == 2
    assert "sampler.solver.weights" in err
    assert "must have a row for each of the 4 steps, got 3" in err


def test_the_state_holds_numbers_alone(tuned: tuple[Path, str]) -> None:
    with np.load(tuned[0].with_suffix(".npz"), allow_pickle=False) as file:
        assert {"about", "ends0", "ends1"} <= set(file.files)
