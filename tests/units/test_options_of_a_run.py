# ruff: noqa: E501  (messages are compared whole, and read best in one piece)
"""Analytic starts, last steps and unreachable orders in recipes, comparisons and on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run

import edm_unified as edm
from edm_unified import analytic_starts, solvers
from edm_unified.compare import make_plan
from edm_unified.compare.loading import load
from edm_unified.recipe import Comparison, Recipe, loads, replace

pytestmark = pytest.mark.usefixtures("empty_folder")

GAUSS = ("--set", "denoiser=gaussian")


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_a_head_is_read_written_and_hashed() -> None:
    plain = Recipe.load("edm")
    recipe = Recipe.load(
        "edm",
        ["sampler.analytic_start.kind=gaussian_jump", "sampler.analytic_start.sigma=20.0", "sampler.last=denoise"],
    )
    assert recipe.sampler.analytic_start == analytic_starts.GaussianJump(sigma=20.0)
    assert recipe.sampler.last == "denoise"
    assert loads(recipe.dump()) == recipe
    assert recipe.hash != plain.hash
    assert (
        Recipe.load("edm", ["sampler.analytic_start=analytic_first_step"]).sampler.analytic_start
        == analytic_starts.AnalyticFirstStep()
    )
    assert recipe.levels == tuple(level for level in plain.levels if level < 30)


def test_what_a_recipe_does_not_use_does_not_change_its_hash() -> None:
    """The hash of ``edm`` as it was before there were analytic starts, last steps and lower orders."""
    recipe = Recipe.load("edm")
    assert recipe.hash == "c7fbcaeb4b45"
    for solver, other in ((solvers.LMS(), solvers.LMS(end="lower")), (solvers.UniPC(), solvers.UniPC(end="lower"))):
        tree = json.loads(json.dumps(edm.recipe.codec.encode(solver, brief=True)))
        assert "end" not in tree
        assert replace(recipe, solver=solver).hash != replace(recipe, solver=other).hash


def test_the_head_of_a_recipe_is_fitted_to_its_data() -> None:
    recipe = Recipe.load("edm", ["sampler.analytic_start=gaussian_jump", "denoiser={kind: gaussian, floor: 0.001}"])
    denoiser, dataset = recipe.build()
    analytic_start = recipe.sampler.analytic_start_for(dataset)
    assert analytic_start is not None
    noise = edm.unit_noise(4, denoiser.shape)
    x = edm.sample(
        denoiser, noise, steps=recipe.sampler.steps, analytic_start=analytic_start
    )  # of the same data: exact
    truth = edm.sample(denoiser, noise, steps=edm.discretization.Explicit(sigmas=recipe.levels),
                       analytic_start=analytic_starts.GaussianJump(sigma=1.0).of(denoiser))  # fmt: skip
    assert x.shape == truth.shape
    start = denoiser.flow(80 * noise, 80.0, recipe.levels[0]) / recipe.levels[0]
    again = edm.sample(denoiser, start, steps=edm.discretization.Explicit(sigmas=recipe.levels))
    assert torch.allclose(x, again, atol=1e-9)


# -- comparisons -------------------------------------------------------------------------------------------------------


def plan_of(*overrides: str, **changes: Any) -> Any:
    comparison = Comparison.load("quickstart")
    comparison = type(comparison)(title="t", recipes=("edm",), **{"grid_samples": 0, "samples": 4} | changes)
    return make_plan(comparison, [("edm", Recipe.load("edm", overrides))])


def test_a_head_buys_steps() -> None:
    """At a budget of evaluations a method takes the more steps, the more of them cost nothing."""
    chosen = (None, analytic_starts.AnalyticFirstStep(levels=2), analytic_starts.GaussianJump(sigma=20.0))
    plan = plan_of(cross={"sampler.analytic_start": chosen, "sampler.solver": (solvers.DDIM(),)}, nfe=(10,))
    steps = {cell.method.recipe.sampler.analytic_start: (cell.n, cell.nfe) for cell in plan.cells}
    assert steps == {chosen[0]: (10, 10), chosen[1]: (12, 10), chosen[2]: (12, 10)}
    named = [method.labels["solver"] for method in plan.methods]
    assert named == ["ddim", "ddim + analytic_first_step(levels=2)", "ddim + gaussian_jump"]


def test_a_budget_has_no_end_where_nothing_is_left_to_D() -> None:
    plan = plan_of(cross={"sampler.analytic_start": (analytic_starts.GaussianJump(sigma=1e-9),)}, nfe=(3,))
    assert [cell.nfe for cell in plan.cells] == [1]
    assert plan.cells[0].n < 1000


def test_last_steps_are_told_apart() -> None:
    plan = plan_of("sampler.last=stop", cross={"sampler.solver": (solvers.DDIM(),)}, nfe=(5,))
    assert plan.methods[0].labels["solver"] == "ddim + last=stop"
    assert [(cell.n, cell.nfe) for cell in plan.cells] == [(5, 4)]


def test_compare_crosses_analytic_starts(tmp_path: Path) -> None:
    code, out, err = run(
        "compare", "edm", *GAUSS, "--analytic-start", "none", "--analytic-start", "analytic_first_step", "--analytic-start", "gaussian_jump:sigma=10",
        "--solver", "ipndm", "--nfe", 6, "--samples", 8, "--set", "metrics=[error_median]", "--set",
        "rank_by=error_median", "--out", tmp_path / "o", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    found = {record["solver"]: record for record in records}
    assert {name: (r["n"], r["nfe"]) for name, r in found.items()} == {
        "ipndm": (6, 6),
        "ipndm + analytic_first_step": (7, 6),
        "ipndm + gaussian_jump(sigma=10)": (8, 6),
    }
    assert found["ipndm + gaussian_jump(sigma=10)"]["value"] < 0.9 * found["ipndm"]["value"]  # D is that very Gaussian


def test_a_comparison_file_names_analytic_starts(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "title: t\nrecipes: [edm]\ncross: {sampler.analytic_start: [null, {kind: gaussian_jump, sigma: 20.0}]}\n"
    )
    comparison, _ = load((str(file),), ())
    assert comparison.cross["sampler.analytic_start"] == (None, analytic_starts.GaussianJump(sigma=20.0))
    assert loads(comparison.dump()) == comparison
    code, out, _ = run("show", file)
    assert code == 0
    assert re.search(r"sampler\.analytic_start +none, gaussian_jump", out)


# -- the command line --------------------------------------------------------------------------------------------------


def test_show_tells_of_the_jump_the_count_and_the_last_step() -> None:
    code, out, _ = run("show", "edm", "--analytic-start", "gaussian_jump:sigma=20", "--set", "sampler.last=stop")
    assert code == 0
    assert re.search(r"analytic_start +gaussian_jump  sigma 20, rank 64", out)
    assert re.search(r"NFE +28 evaluations of D in 14 steps", out)
    assert re.search(r"walk +80 → 28\.4  19\.4", out)
    assert re.search(r"last +stop", out)


def test_an_order_out_of_reach_is_noted() -> None:
    code, out, _ = run("show", "edm", "--solver", "lms:order=4", "--steps", 2)
    assert code == 0
    assert re.search(r"note +lms goes by the last 4 evaluations", out)
    assert "note" not in run("show", "edm", "--solver", "lms:order=4", "--steps", 4)[1]
    arguments = ("sample", "edm", "--solver", "lms:order=4", "--steps", 2, "--n", 2, *GAUSS, "--out", "o")
    code, out, _ = run(*arguments)
    assert code == 0
    assert "note: lms goes by the last 4 evaluations" in out
    assert run(*arguments, "--quiet") == (0, "", "")


def test_sample_takes_an_analytic_start_and_counts_what_is_left() -> None:
    code, out, _ = run("sample", "edm", "--analytic-start", "analytic_first_step", "--n", 3, *GAUSS, "--out", "o")
    assert code == 0
    assert ", 34 evaluations each" in out
    assert Recipe.load("o/recipe.yaml").sampler.analytic_start == analytic_starts.AnalyticFirstStep()
    assert run("sample", "o/recipe.yaml", "--analytic-start", "none", "--n", 3, "--out", "p")[0] == 0
    assert Recipe.load("p/recipe.yaml").sampler.analytic_start is None


def test_analytic_starts_are_listed_and_completed() -> None:
    code, out, _ = run("list", "analytic_starts")
    assert code == 0
    assert "gaussian_jump" in out
    assert "analytic_first_step" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--analytic-start gaussian_jmup", "--analytic-start gaussian_jmup: unknown 'gaussian_jmup'; did you mean 'gaussian_jump'?"),
        ("--analytic-start gaussian_jump:sigma=-3", "--analytic-start gaussian_jump:sigma=-3: sigma: must be positive and finite, got -3.0"),
        ("--analytic-start gaussian_jump:mean=0.5", "--analytic-start gaussian_jump:mean=0.5: mean: is estimated from the data, as sigma_data is null; set sigma_data too, got 0.5"),
        ("--analytic-start analytic_first_step --solver dopri5", "edm: sampler.analytic_start: it answers at levels of the walk; an adaptive solver has its own: use gaussian_jump"),
        ("--set sampler.last=stopp", "edm: sampler.last: unknown 'stopp'; did you mean 'stop'? (with --set sampler.last=stopp)"),
        ("--set sampler.last=stop --steps 1", "edm: sampler.last: stop leaves no step of a walk that has only the one to 0; take more steps"),
        ("--solver lms:end=loewr", "--solver lms:end=loewr: end: unknown 'loewr'; did you mean 'lower'?"),
        ("--solver unipc:start=rk2", "--solver unipc:start=rk2: start: unknown key; unipc takes p, variant, corrector, end"),
        ("--solver lms:order=5", "--solver lms:order=5: order: must be a whole number from 1 to 4, got 5"),
        ("--solver dopri5:rtol=0,atol=0", "--solver dopri5:rtol=0,atol=0: rtol: rtol and atol are both 0, which no step can meet; set rtol=1e-5, or either of them"),
        ("--solver sa_solver:predictor=3,corrector=5", "--solver sa_solver:predictor=3,corrector=5: corrector: must be a whole number from 0 to 4, got 5"),
        ("--solver sa_solver:tau=-1", "--solver sa_solver:tau=-1: tau: must be zero or positive and finite, got -1.0"),
        ("--solver ddim:eta=-0.5", "--solver ddim:eta=-0.5: eta: must be zero or positive and finite, got -0.5"),
        ("--solver heun:corrector=true", "--solver heun:corrector=true: corrector: unknown key; heun takes nothing"),
        ("--set sampler.corrector.kind=langevin", "edm: sampler.corrector: no level is repeated for it to act on: add renoising: {kind: corrected} (with --set sampler.corrector.kind=langevin)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments: str, message: str) -> None:
    code, out, err = run("sample", "edm", *GAUSS, "-q", *arguments.split())
    assert (code, out, err) == (2, "", f"Error: {message}\n")


def test_a_budget_or_a_solver_that_fits_none() -> None:
    code, _, err = run("compare", "edm", "--solver", "dopri5", "--nfe", 10, "--out", "o")
    assert code == 2
    assert err.startswith("Error: edm: sampler.solver: dopri5 is adaptive")
    corrected = ("--set", "sampler.renoising.kind=corrected", "--set", "sampler.corrector.kind=langevin")
    code, _, err = run("compare", "edm", *corrected, "--nfe", 1, "--samples", 4, "--out", "o")
    assert (code, err) == (2, "Error: nfe: no budget buys a single step of any method; raise it\n")


def test_an_adaptive_solver_that_gives_up_names_its_samples() -> None:
    code, _, err = run("sample", "edm", *GAUSS, "-q", "--n", 3, "--solver", "dopri5:most_evaluations=20,rtol=1e-9")
    assert code == 2
    assert err.startswith("Error: edm: most_evaluations: 20 were not enough for 3 of 3 samples (of the batch: 0, 1, 2)")
    assert err.count("\n") == 1
