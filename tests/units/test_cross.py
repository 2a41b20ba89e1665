"""Comparisons cross anything by its path; files of the old form load; a sweep runs the values of one number."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from edm_unified.compare import make_plan
from edm_unified.compare.loading import load, parse_sweep
from edm_unified.components import shipped
from edm_unified.recipe import Comparison, Recipe, loads
from edm_unified.recipe.old_forms import OLD, OldFormWarning
from edm_unified.sampling.levels import Karras, LogLinear
from edm_unified.sampling.solvers import Euler, Heun
from edm_unified.schedules import EDM, VP

OLD_FORM = """
title: t
recipes: [edm]
solvers: [{kind: euler}, {kind: heun}]
schedules: [{kind: edm}, {kind: vp}]
steps_rules: [{kind: karras}, {kind: log_linear}]
analytic_starts: [null, {kind: gaussian_jump, sigma: 20.0}]
nfe: [6]
rank_by: sliced_wasserstein
"""
NEW_FORM = """
title: t
recipes: [edm]
cross:
  sampler.analytic_start: [null, {kind: gaussian_jump, sigma: 20.0}]
  sampler.solver: [{kind: euler}, {kind: heun}]
  schedule: [{kind: edm}, {kind: vp}]
  sampler.steps: [{kind: karras}, {kind: log_linear}]
nfe: [6]
rank_by: sliced_wasserstein
"""


def _plan(cross: dict[str, Any], name: str = "edm", **changes: Any) -> Any:
    settings: dict[str, Any] = {"nfe": (9,), "samples": 4, "grid_samples": 0} | changes
    comparison = Comparison(title="t", recipes=(name,), cross=cross, **settings)
    return make_plan(comparison, [(name, Recipe.load(name))])


def test_an_old_file_is_read_with_the_new_form_in_a_warning() -> None:
    with pytest.warns(OldFormWarning) as caught:
        old = loads(OLD_FORM, "old.yaml")
    new = "schedule: […], sampler.steps: […], sampler.solver: […], sampler.analytic_start: […]"
    named = "schedules, steps_rules, solvers, analytic_starts"
    assert str(caught[0].message) == f"old.yaml: write cross: {{{new}}} in place of {named}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new_form = loads(NEW_FORM)
    assert old == new_form
    assert isinstance(old, Comparison)
    assert old.hash == new_form.hash == "46de038c8945"
    assert loads(old.dump()) == old
    plans = [make_plan(one, [("edm", Recipe.load("edm"))]) for one in (old, new_form)]  # type: ignore[arg-type]
    assert plans[0].cells == plans[1].cells


def test_the_order_of_methods_is_that_of_the_fields() -> None:
    """Records, colours and the cells of a directory that was begun with the old form come in the same order."""
    cross = {"sampler.solver": (Euler(), Heun()), "schedule": (EDM(), VP()), "sampler.steps": (Karras(), LogLinear())}
    found = [(m.labels["schedule"], m.labels["steps"], m.labels["solver"]) for m in _plan(cross).methods]
    assert found == [
        (schedule, steps, solver)
        for schedule in ("edm", "vp")
        for steps in ("karras", "log_linear")
        for solver in ("euler", "heun")
    ]


def test_a_file_in_both_forms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"solvers: is the old name of cross\.sampler\.solver, which is there too"):
        loads(NEW_FORM + "solvers: [{kind: heun}]\n")


def test_shipped_comparisons_are_in_the_new_form() -> None:
    for name in shipped.recipe_names():
        text = shipped.find(name).read_text("utf-8")
        assert not any(f"\n{old}:" in text for old in OLD), name


def test_any_path_is_crossed_and_told_apart() -> None:
    plan = _plan(
        {"sampler.steps.rho": (5.0, 7.0), "denoiser.floor": (0.01, 0.1), "sampler.last": ("solver", "denoise")}
    )
    assert len({tuple(method.labels.values()) for method in plan.methods}) == 8
    assert {method.name for method in plan.methods} == {"edm, denoiser.floor=0.01", "edm, denoiser.floor=0.1"}
    assert plan.methods[0].swept == (("sampler.steps.rho", 5.0), ("denoiser.floor", 0.01))


def test_a_part_comes_before_what_is_in_it() -> None:
    plan = _plan(
        {"sampler.renoising.S_churn": (10.0,), "sampler.renoising": (Recipe.load("edm_stochastic").sampler.renoising,)}
    )
    assert plan.methods[0].recipe.sampler.renoising.S_churn == 10.0


@pytest.mark.parametrize(
    ("cross", "message"),
    [
        ({"sampler.solvr": (Heun(),)}, r"^cross: sampler\.solvr: unknown key; did you mean 'solver'\?"),
        ({"sampler.steps.n": (5,)}, r"^cross: sampler\.steps\.n: follows from the budget; give --nfe"),
        ({"title": ("x",)}, r"^cross: title: changes no sample"),
        ({"sampler.solver": ()}, r"^cross: sampler\.solver: at least one value is needed"),
        ({"sampler.renoising.S_churn": (1.0, 2.0)}, r"^edm: sampler\.renoising: is not there, and has no S_churn"),
        ({"sampler.steps.rho": (-1.0,)}, r"^edm: sampler\.steps\.rho: must be positive and finite, got -1\.0"),
    ],
)
def test_what_cannot_be_crossed_is_one_line(cross: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan(cross)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampler.solver: [heun]", r"cross\.sampler\.solver\.0: must be a mapping such as {kind: heun}, got 'heun'"),
        ("sampler.solver: [{kind: hein}]", r"cross\.sampler\.solver\.0\.kind: unknown 'hein'; did you mean 'heun'\?"),
        ("sampler.solver: {kind: heun}", r"cross\.sampler\.solver: must be a list of values"),
        ("sampler.slver: [1]", r"cross: sampler\.slver: unknown key; did you mean 'solver'\?"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loads(f"title: t\nrecipes: [edm]\ncross: {{{text}}}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampler.renoising.S_churn", "must be path=value,value,..., such as sampler.renoising.S_churn=0,10,40"),
        ("sampler.renoising.S_churn=", "must be path=value,value,..., such as sampler.renoising.S_churn=0,10,40"),
        ("sampler.renoising.S_chrn=0,1", "sampler.renoising.S_chrn: unknown key; did you mean 'S_churn'?"),
        ("sampler.renoising.S_churn=0,x", "sampler.renoising.S_churn: must be a number, got 'x'"),
    ],
)
def test_a_wrong_sweep_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="--sweep") as caught:
        parse_sweep(text)
    assert str(caught.value) == f"--sweep {text}: {message}"


@pytest.mark.usefixtures("empty_folder")
def test_a_sweep_runs_every_value_and_says_where_a_limit_acts() -> None:
    arguments = ["compare", "edm_stochastic", "--set", "denoiser=gaussian", "--nfe", 35, "--samples", 8, "--out", "o"]
    arguments += ["--set", "grid_samples=0", "--set", "metrics=[frechet]", "--set", "rank_by=frechet"]
    code, out, err = run(*arguments, "--sweep", "sampler.renoising.S_churn=0,10,80")
    assert code == 0, err
    assert "note: sampler.renoising.S_churn = 10 and 80 visit the same noise levels at 35 evaluations" in out
    records = [json.loads(line) for line in Path("o/records.jsonl").read_text("utf-8").splitlines()]
    assert {record["renoising"].partition(", ")[0].rstrip(")") for record in records} == {
        "churn(S_churn=0", "churn(S_churn=10", "churn(S_churn=80"
    }  # fmt: skip


@pytest.mark.usefixtures("empty_folder")
def test_the_command_line_notes_an_old_form_on_stderr() -> None:
    Path("old.yaml").write_text(OLD_FORM, "utf-8")
    code, out, err = run("show", "old.yaml")
    assert code == 0
    assert err.startswith("note: old.yaml: write cross: {schedule: […], ")
    assert "sampler.solver    euler, heun" in out
    with pytest.warns(OldFormWarning):
        assert len(load(("old.yaml",))[0].cross) == 4
