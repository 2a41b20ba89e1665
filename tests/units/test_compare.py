"""``compare``: budgets, what is crossed with what, the files, and what interruptions leave behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edm_unified import cli
from edm_unified.compare import Plan, Settings, Store, label, make_plan, prepare, report_data, run
from edm_unified.compare.problem import Problems
from edm_unified.data import Arrays
from edm_unified.recipe import Comparison, Recipe, Sampler
from edm_unified.recipe.denoisers import AnyDenoiser, Checkpoint, Empirical, Gaussian, GaussianMixture
from edm_unified.recipe.guidances import Autoguidance
from edm_unified.sampling.levels import Explicit, Karras, LogLinear, TableSubset, UniformTime
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers import DDIM, RK4, Euler, EulerMaruyama, Heun
from edm_unified.schedules import EDM, VP, BetaTable, FlowMatching

RECIPE = """
title: "{title}"
source: "made for a test"
schedule: {{kind: {schedule}}}
sampler:
  steps: {{kind: karras, n: 5}}
  solver: {{kind: {solver}}}
data: {{kind: arrays, path: {path}}}
denoiser: {{kind: gaussian}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data and three recipes; none of them needs scikit-learn."""
    data = np.random.default_rng(0).normal(size=(60, 3)) * [0.5, 0.2, 0.1] + [0.3, 0.0, -0.2]
    np.save(tmp_path / "points.npy", data.astype(np.float32))
    for name, schedule, solver in (("one", "edm", "euler"), ("two", "vp", "heun"), ("noisy", "edm", "ddpm")):
        text = RECIPE.format(title=name, schedule=schedule, solver=solver, path=tmp_path / "points.npy")
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def _cli(*args: object) -> Result:
    return CliRunner().invoke(cli.main, ["compare", *map(str, args)])


def _records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def _values(out: Path) -> dict[tuple, float | None]:
    """What must not depend on when a cell was run."""
    records = _records(out)
    values = {(r["recipe"], r["solver"], r["budget"], r["seed"], r["metric"]): r["value"] for r in records}
    assert len(values) == len(records), "a cell was run twice"
    return values


def _recipe(schedule: object, steps: object, solver: object, renoising: object = None) -> Recipe:
    sampler = Sampler(steps, solver, renoising)  # type: ignore[arg-type]
    data = Arrays(path="points.npy")
    return Recipe(title="t", source="s", schedule=schedule, sampler=sampler, denoiser=Gaussian(), data=data)  # type: ignore[arg-type]


def _plan(recipe: Recipe, **settings: object) -> Plan:
    return make_plan(Comparison(title="t", recipes=("r",), **settings), [("r", recipe)])  # type: ignore[arg-type]


# -- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "budget", "n", "nfe"),
    [
        (Euler(), 10, 10, 10),
        (Heun(), 10, 5, 9),
        (Heun(), 9, 5, 9),
        (Heun(), 1, 1, 1),
        (RK4(), 12, 3, 9),
        (RK4(), 13, 4, 13),
    ],
)
def test_a_budget_buys_the_most_steps_it_can(solver: object, budget: int, n: int, nfe: int) -> None:
    (cell,) = _plan(_recipe(EDM(), Karras(), solver), nfe=(budget,)).cells
    assert (cell.n, cell.nfe) == (n, nfe)


def test_a_table_has_no_more_steps_than_levels() -> None:
    (cell,) = _plan(_recipe(BetaTable(num_steps=20), TableSubset(n=5), DDIM()), nfe=(50,)).cells
    assert (cell.n, cell.nfe) == (20, 20)


def test_a_replaced_schedule_keeps_the_range_of_noise_levels() -> None:
    recipe = _recipe(VP(), UniformTime(t_max=1.0, t_min=1e-3), Euler())
    plan = _plan(recipe, cross={"schedule": (EDM(), FlowMatching())}, nfe=(6,))
    own = recipe.sampler.steps.levels(VP()).tolist()
    for method in plan.methods:
        levels = method.with_steps(6).levels
        assert levels[0] == pytest.approx(own[0], rel=1e-12)
        assert levels[-2] == pytest.approx(own[-2], rel=1e-12)


def test_a_table_goes_along_with_its_levels() -> None:
    table = BetaTable(num_steps=100)
    plan = _plan(_recipe(table, TableSubset(n=5), DDIM()), cross={"schedule": (EDM(),)}, nfe=(5,))
    levels = plan.methods[0].with_steps(5).levels
    assert set(levels[:-1]) <= set(table.sigmas.tolist())


def test_everything_is_crossed_with_everything() -> None:
    plan = _plan(
        _recipe(EDM(), Karras(), Euler()),
        cross={
            "sampler.solver": (Euler(), Heun()),
            "schedule": (EDM(), VP()),
            "sampler.steps": (Karras(), LogLinear()),
        },
        nfe=(4, 6),
        seeds=(0, 1, 2),
    )
    assert len(plan.methods) == 8
    assert len(plan.cells) == 8 * 2 * 3
    assert len({tuple(method.labels.items()) for method in plan.methods}) == 8


def test_labels_name_what_differs_from_the_defaults() -> None:
    assert label(Karras(n=7)) == "karras"
    assert label(Karras(n=7, rho=5.0, sigma_max=10.0)) == "karras(sigma_max=10, rho=5)"
    assert label(Churn(S_churn=10.0)) == "churn(S_churn=10)"


def test_stochastic_methods_have_no_endpoint() -> None:
    for solver, renoising, stochastic in (
        (Euler(), None, False),
        (Euler(), Churn(), True),
        (EulerMaruyama(), None, True),
        (EulerMaruyama(eta=0.0), None, False),
        (DDIM(eta=0.5), None, True),
    ):
        (method,) = _plan(_recipe(EDM(), Karras(), solver, renoising)).methods
        assert method.stochastic is stochastic


def test_a_list_of_levels_has_no_budgets() -> None:
    with pytest.raises(ValueError, match="a list of levels has one length and no budgets"):
        _plan(_recipe(EDM(), Explicit((80.0, 1.0, 0.0)), Euler()))


# -- the directory ----------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_report_and_one_record_per_cell_and_metric(folder: Path, real_figures: None) -> None:
    out = folder / "out"
    result = _cli(
        folder / "one.yaml", folder / "noisy.yaml", "--nfe", "3,6", "--samples", 24, "--seeds", "0,1", "--out", out
    )
    assert result.exit_code == 0, result.output
    records = _records(out)
    keys = "recipe schedule steps solver renoising budget nfe n seed samples metric value low high seconds hash cell"
    assert all({*keys.split(), "digest"} == set(record) for record in records)
    deterministic = [r for r in records if r["recipe"] == "one"]
    assert {r["metric"] for r in deterministic} == {
        "error_median", "error_rms", "sliced_wasserstein", "energy_distance", "frechet", "log_density_gap"
    }  # fmt: skip
    assert not any(r["metric"].startswith("error") for r in records if r["recipe"] == "noisy")
    assert len(deterministic) == 6 * 2 * 2
    assert all(r["low"] <= r["value"] <= r["high"] for r in records if r["metric"] != "error_median")
    page = (out / "report.html").read_text()
    assert "edm-unified" in page
    assert {p.name for p in (out / "recipes").iterdir()} == {"one.yaml", "noisy.yaml"}
    assert Recipe.load(out / "recipes" / "one.yaml") == Recipe.load(folder / "one.yaml")
    assert (out / "figures" / "error_vs_nfe.png").stat().st_size > 1000
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__.split("+")[0]
    assert "report: " in result.output
    assert "6 evaluations" in result.output


class _Shapes(TorchDispatchMode):
    """Keeps the shapes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {tuple(t.shape) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        return out


@pytest.mark.parametrize("denoiser", [GaussianMixture(), GaussianMixture(rank=None), Gaussian(), Empirical()])
def test_few_images_of_many_pixels_need_no_matrix_of_pixels_by_pixels(tmp_path: Path, denoiser: AnyDenoiser) -> None:
    """30 images of 3×10×12 = 360 numbers: fitted, sampled, measured by every metric and put on a page."""
    images = np.random.default_rng(0).uniform(-1, 1, (30, 3, 10, 12)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    recipe = dataclasses.replace(Recipe.load("edm"), data=Arrays(path=str(tmp_path / "images.npy")), denoiser=denoiser)
    comparison = Comparison(
        "", ("own",), nfe=(3,), samples=8, reference_samples=8, reference_tolerance=1e-4, grid_samples=4, grid_nfe=3
    )
    plan, settings, said = make_plan(comparison, [("own", recipe)]), Settings(), list[str]()
    problems = Problems(settings)
    with _Shapes() as shapes, Store(tmp_path / "out") as store:
        prepare(plan, problems, said.append)
        run(plan, store, settings, problems, lambda event: said.append(event.what))
        data = report_data(plan, store, settings, problems, (), said.append)
    assert {record["metric"] for record in data.records} >= {"error_median", "energy_distance", "frechet"}
    assert (8, 3, 10, 12) in shapes.seen
    assert not [shape for shape in shapes.seen if shape.count(360) > 1]
    told = ("making the denoiser", "drawing", "exact solution", "3 evaluations", "frechet", "measuring the exact")
    assert [word for word in told if not any(word in text for text in said)] == []


def test_the_same_command_again_runs_nothing(folder: Path) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--nfe", "3,5", "--samples", 16, "--out", out)
    assert _cli(*args).exit_code == 0
    before = (out / "records.jsonl").read_bytes()
    again = _cli(*args)
    assert again.exit_code == 0
    assert (out / "records.jsonl").read_bytes() == before
    assert "every cell is finished already" in again.stderr


def test_a_new_budget_adds_to_what_is_there(folder: Path) -> None:
    out = folder / "out"
    assert _cli(folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", out).exit_code == 0
    before = (out / "records.jsonl").read_bytes()
    assert _cli(folder / "one.yaml", "--nfe", "3,4", "--samples", 16, "--out", out).exit_code == 0
    after = (out / "records.jsonl").read_bytes()
    assert after.startswith(before)
    assert {r["budget"] for r in _records(out)} == {3, 4}


def test_a_larger_grid_is_drawn_and_a_smaller_one_is_cut(folder: Path) -> None:
    out = folder / "out"
    np.save(
        folder / "points.npy", np.tanh(np.load(folder / "points.npy"))[:, None, None, :]
    )  # images, of which a grid is shown
    args = (folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", out)
    kept = []
    for pictures in (4, 9, 2):
        assert _cli(*args, "--set", f"grid_samples={pictures}").exit_code == 0
        kept.append(len(np.load(next((out / "samples").glob("*.npy")))))
    assert kept == [4, 9, 9]
    assert len(_records(out)) == len({(r["cell"], r["budget"], r["metric"]) for r in _records(out)})


def test_of_points_all_are_shown(folder: Path) -> None:
    args = (folder / "one.yaml", "--nfe", "3", "--samples", 40, "--out", folder / "out")
    assert _cli(*args, "--set", "grid_samples=4").exit_code == 0
    assert len(np.load(next((folder / "out" / "samples").glob("*.npy")))) == 40


def test_changed_data_are_not_taken_for_the_old_ones(folder: Path) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", out)
    assert _cli(*args).exit_code == 0
    old = {r["cell"] for r in _records(out)}
    np.save(folder / "points.npy", np.load(folder / "points.npy") * 0.5)
    assert _cli(*args).exit_code == 0
    assert len({r["cell"] for r in _records(out)} - old) == 1


def _rows(result: Result) -> list[str]:
    """The lines of the ranked tables."""
    return [line for line in result.output.splitlines() if line.strip()[:1].isdigit() and "evaluations" not in line]


def test_recipes_of_equal_settings_are_run_once_and_both_are_shown(folder: Path) -> None:
    (folder / "same.yaml").write_text((folder / "one.yaml").read_text())
    out = folder / "out"
    result = _cli(folder / "one.yaml", folder / "same.yaml", "--nfe", "3,5", "--samples", 16, "--out", out)
    assert result.exit_code == 0, result.output
    assert len(_rows(result)) == 4
    assert sum(" same " in row for row in _rows(result)) == sum(" one " in row for row in _rows(result)) == 2
    values = _values(out)
    assert {value for (name, *_), value in values.items() if name == "same"} == {
        value for (name, *_), value in values.items() if name == "one"
    }
    assert len({r["cell"] for r in _records(out)}) == 2  # one run for both


def test_a_renamed_recipe_goes_by_its_new_name_and_is_not_run_again(folder: Path) -> None:
    out, options = folder / "out", ("--nfe", "3", "--samples", 16)
    assert _cli(folder / "one.yaml", *options, "--out", out).exit_code == 0
    seconds = _records(out)[0]["seconds"]
    (folder / "one.yaml").rename(folder / "other.yaml")
    result = _cli(folder / "other.yaml", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert [" other " in row for row in _rows(result)] == [True]
    page = (out / "report.html").read_text()
    assert "</svg> other<" in page
    assert "</svg> one<" not in page
    assert {r["seconds"] for r in _records(out)} == {seconds}


def test_the_place_of_a_network_is_no_part_of_what_it_draws() -> None:
    """A run that was moved has the cells it had: its weights are told by their own digest."""
    denoiser, guide = Checkpoint(path="runs/a"), Autoguidance(guide="runs/b", w=2.0)

    def cell(network: Checkpoint, guidance: Autoguidance | None, solver: object = Euler()) -> str:
        recipe = _recipe(EDM(), Karras(), solver)
        sampler = dataclasses.replace(recipe.sampler, guidance=guidance)
        recipe = dataclasses.replace(recipe, denoiser=network, sampler=sampler)
        (made,) = _plan(recipe, nfe=(4,)).cells
        return made.key("the same weights")

    moved, guide_moved = Checkpoint(path="/elsewhere/a"), Autoguidance(guide="/elsewhere/b", w=2.0)
    assert cell(denoiser, guide) == cell(moved, guide_moved)
    assert cell(denoiser, None) == cell(moved, None)
    others = [
        cell(denoiser, None), cell(denoiser, guide), cell(Checkpoint(path="runs/a", ema=0.05), None),
        cell(denoiser, Autoguidance(guide="runs/b", w=3.0)), cell(denoiser, None, DDIM()),
    ]  # fmt: skip
    assert len(set(others)) == 5


def test_fresh_starts_over(folder: Path) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", out)
    assert _cli(*args).exit_code == 0
    (out / "mine.txt").write_text("not ours to delete")
    first = _records(out)
    assert _cli(*args, "--fresh").exit_code == 0
    assert [r["value"] for r in _records(out)] == [r["value"] for r in first]
    assert (out / "mine.txt").exists()


def test_a_line_cut_off_by_a_kill_is_run_again(folder: Path) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", folder / "two.yaml", "--nfe", "3,5", "--samples", 16, "--out", out)
    assert _cli(*args).exit_code == 0
    whole = _values(out)
    path = out / "records.jsonl"
    content = path.read_bytes()
    for cut in (len(content) - 1, len(content) - 40, len(content) // 2):
        path.write_bytes(content[:cut])
        assert _cli(*args).exit_code == 0
        assert {(r["cell"], r["metric"]) for r in _records(out)} == {
            (r["cell"], r["metric"]) for r in map(json.loads, content.decode().splitlines())
        }
        assert _last(out) == whole


def _last(out: Path) -> dict[tuple, float | None]:
    """Of a cell whose lines were cut in two, the whole is run again: the last line of each metric counts."""
    return {(r["recipe"], r["solver"], r["budget"], r["seed"], r["metric"]): r["value"] for r in _records(out)}


def test_killed_at_any_moment_and_continued_equals_uninterrupted(folder: Path) -> None:
    command = ["compare", folder / "one.yaml", folder / "two.yaml", "--nfe", "3", "--samples", "16", "--quiet"]
    program = [sys.executable, Path(__file__).with_name("killing.py"), folder, *command]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 10, done.stdout
    calm, killed = folder / "whole", folder / "killed"
    assert _last(killed) == _values(calm)
    files = [sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file()) for out in (calm, killed)]
    assert files[0] == files[1]


def test_ctrl_c_exits_with_130_and_keeps_what_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes in the third of three cells."""
    out, began = folder / "out", [0]
    sample = sys.modules["edm_unified.compare.run"]._sample

    def interrupted(*given: object) -> object:
        began[0] += 1
        if began[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return sample(*given)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    monkeypatch.setattr(sys.modules["edm_unified.compare.run"], "_sample", interrupted)
    try:
        result = _cli(folder / "one.yaml", "--nfe", "3,5,7", "--samples", 16, "--out", out)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert result.stderr.rstrip().endswith("Interrupted.")
    assert not (out / "report.html").exists()
    assert {r["budget"] for r in _records(out)} == {3, 5}


def test_a_comparison_that_was_stopped_leaves_no_page_of_fewer_cells(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--samples", 16, "--out", out, "--quiet", "--nfe")
    assert _cli(*args, "3").exit_code == 0
    assert (out / "report.html").exists()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["edm_unified.compare.run"], "_sample", stopped)
        assert _cli(*args, "3,5").exit_code == 130
    assert not (out / "report.html").exists()
    assert not list(out.glob("figures/*.png"))
    assert _cli(*args, "3,5").exit_code == 0
    assert (out / "report.html").exists()


def test_a_full_disk_leaves_the_records_whole(
    folder: Path, small_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--nfe", "3,4,5,6", "--samples", 16, "--out", out)
    with small_disk(5000):
        broken = _cli(*args)
    assert broken.exit_code == 2
    assert f"Error: {out / 'records.jsonl'}: " in broken.stderr.splitlines()[-1]
    assert 0 < len(_records(out)) < 4 * 6  # every line that is there is whole
    assert _cli(*args).exit_code == 0
    assert len(_values(out)) == 4 * 6


def test_two_runs_cannot_write_to_one_directory(folder: Path) -> None:
    out = folder / "out"
    with Store(out):
        result = _cli(folder / "one.yaml", "--nfe", "3", "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {out}: another run is writing here")


def test_results_do_not_depend_on_the_batch(folder: Path) -> None:
    common = (folder / "one.yaml", folder / "noisy.yaml", "--nfe", "5", "--samples", 30)
    assert _cli(*common, "--out", folder / "a").exit_code == 0
    assert _cli(*common, "--out", folder / "b", "--batch", 7).exit_code == 0
    a, b = _values(folder / "a"), _values(folder / "b")
    assert a.keys() == b.keys()
    # the denoiser's matrix products round differently in other batches: equal to that and no more
    assert all(a[key] == pytest.approx(b[key], rel=1e-9, abs=1e-11) for key in a)


def test_a_method_that_diverges_is_a_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wild:
        shape = (3,)

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return -1e200 * x

    monkeypatch.setattr(Gaussian, "build", lambda self, dataset: Wild())
    out = folder / "out"
    result = _cli(folder / "noisy.yaml", "--nfe", "5", "--samples", 16, "--out", out)
    assert result.exit_code == 0, result.output
    assert {r["value"] for r in _records(out)} == {None}
    assert "diverged" in result.output
    assert "diverged" in (out / "report.html").read_text()


def test_json_prints_the_records_and_nothing_else(folder: Path) -> None:
    out = folder / "out"
    result = _cli(folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", out, "--json")
    assert result.exit_code == 0
    without = [{name: value for name, value in record.items() if name != "digest"} for record in _records(out)]
    assert [json.loads(line) for line in result.stdout.splitlines()] == without
    assert result.stderr == ""


def test_quiet_prints_nothing(folder: Path) -> None:
    result = _cli(folder / "one.yaml", "--nfe", "3", "--samples", 16, "--out", folder / "out", "--quiet")
    assert (result.exit_code, result.output, result.stderr) == (0, "", "")


def test_a_comparison_file_names_recipes_beside_it(folder: Path) -> None:
    (folder / "all.yaml").write_text(
        'title: "both"\nrecipes: [one.yaml, two.yaml]\nnfe: [3]\nsamples: 16\ngrid_nfe: 3\n'
    )
    result = _cli(folder / "all.yaml", "--out", folder / "out")
    assert result.exit_code == 0, result.output
    assert {r["recipe"] for r in _records(folder / "out")} == {"one", "two"}


def test_set_reaches_the_recipes_or_the_comparison(folder: Path) -> None:
    out = folder / "out"
    args = (folder / "one.yaml", "--nfe", "4", "--out", out, "--set", "sampler.solver=heun", "--set", "samples=12")
    assert _cli(*args).exit_code == 0
    assert {(r["solver"], r["n"], r["nfe"], r["samples"]) for r in _records(out)} == {("heun", 2, 3, 12)}


def test_endpoint_errors_shrink_at_the_order_of_the_method(folder: Path) -> None:
    """The whole path at once: budgets, reference and metric. Euler's error halves where Heun's falls fourfold."""
    out = folder / "out"
    args = (
        folder / "one.yaml",
        "--solver",
        "euler",
        "--solver",
        "heun",
        "--nfe",
        "101,201",
        "--samples",
        16,
        "--out",
        out,
    )
    assert _cli(*args, "--set", "reference_tolerance=1e-10").exit_code == 0
    values = {(k[1], k[2]): v for k, v in _values(out).items() if k[4] == "error_median"}
    assert values["euler", 101] / values["euler", 201] == pytest.approx(2, rel=0.1)
    assert values["heun", 101] / values["heun", 201] == pytest.approx(4, rel=0.15)


def test_the_reference_of_each_start_is_solved_once(folder: Path) -> None:
    out = folder / "out"
    comparison = Comparison(title="t", recipes=("a", "b"), nfe=(3, 5), samples=8, grid_samples=4)
    recipes = [("a", Recipe.load(folder / "one.yaml")), ("b", Recipe.load(folder / "two.yaml"))]
    recipes.append(("c", dataclasses.replace(recipes[0][1], sampler=Sampler(Karras(sigma_max=40.0), Euler()))))
    plan = make_plan(comparison, recipes)
    settings = Settings()
    with Store(out) as store:
        run(plan, store, settings, Problems(settings))
    assert len(os.listdir(out / "reference")) == 2  # from 80, shared by a and b, and from 40


def test_fewer_samples_in_the_same_directory(folder: Path) -> None:
    words = (folder / "one.yaml", "--nfe", "3", "--out", folder / "out")
    assert _cli(*words, "--samples", 40).exit_code == 0
    again = _cli(*words, "--samples", 8)
    assert (again.exit_code, again.stderr.count("Error")) == (0, 0), again.stderr
    assert _cli(folder / "one.yaml", "--nfe", "3", "--samples", 8, "--out", folder / "other").exit_code == 0
    few = {r["metric"]: r["value"] for r in _records(folder / "out") if r["samples"] == 8}
    assert few == {r["metric"]: r["value"] for r in _records(folder / "other")}


def test_an_order_out_of_reach_is_told_once_for_a_budget(folder: Path) -> None:
    words = (folder / "one.yaml", folder / "two.yaml", "--solver", "lms", "--solver", "heun", "--solver", "pndm")
    out = _cli(*words, "--nfe", "3,30", "--samples", 16, "--out", folder / "out").stdout
    (note,) = [line for line in out.splitlines() if line.startswith("note")]
    assert note == "note: 3 evaluations are too few for the order of lms, pndm, which is lower throughout"


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["hein"], "Error: hein: no such recipe"),
        (["edm", "--solver", "hein"], "Error: --solver hein: unknown 'hein'; did you mean 'heun'?"),
        (["edm", "--schedule", "edn"], "Error: --schedule edn: unknown 'edn'; did you mean 'edm'?"),
        (["edm", "--nfe", "5,x"], "Error: invalid value for '--nfe': must be whole numbers with commas between"),
        (["edm", "--nfe", "0"], "Error: invalid value for '--nfe': must be from 1 to 1,000,000, got 0"),
        (["edm", "--nfe", "-3"], "Error: invalid value for '--nfe': must be from 1 to 1,000,000, got -3"),
        (["edm", "--samples", "1"], "Error: invalid value for '--samples': 1 is not in the range"),
        (
            ["edm", "edm", "--solver", "rk4", "--set", "sampler.steps.n=0"],
            "Error: edm: sampler.steps.n: must be a whole",
        ),
        (["edm", "--set", "metrics=[]"], "Error: comparison: metrics: at least one is needed"),
        (["edm", "--solver", "lms:order=3,order=2"], "Error: --solver lms:order=3,order=2: order: is given twice"),
        (["edm", "--solver", "ddim:eta=nan"], "Error: --solver ddim:eta=nan: eta: must be a number, got 'nan'\n"),
        (["quickstart", "quickstart.yaml"], "Error: quickstart.yaml: no such file"),
        (["edm", "--device", "cuda:99"], "Error: --device cuda:99: "),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str, tmp_path: Path) -> None:
    result = _cli(*args, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(line), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_a_comparison_names_and_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("title: t\nrecipes: [edm, nope]\n")
    result = _cli(tmp_path / "c.yaml", "--out", tmp_path / "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"Error: {tmp_path / 'c.yaml'}: recipes: nope: no such recipe")


def test_an_output_that_is_a_file(folder: Path) -> None:
    (folder / "out").write_text("here first")
    result = _cli(folder / "one.yaml", "--nfe", "3", "--out", folder / "out")
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {folder / 'out'}: is a file; name a directory with --out\n",
    )


def test_an_output_that_cannot_be_made() -> None:
    result = _cli("edm", "--set", "denoiser.kind=gaussian", "--nfe", "3", "--out", "/proc/nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: /proc/nowhere: ")
    assert len(result.stderr.splitlines()) == 1


def test_records_that_are_not_ours(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "records.jsonl").write_text("hello\n")
    result = _cli(folder / "one.yaml", "--nfe", "3", "--out", folder / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {folder / 'out'}: is not empty, and not from `edm-unified compare`; ")
    assert (folder / "out" / "records.jsonl").read_text() == "hello\n"


def test_missing_data_name_the_file(folder: Path) -> None:
    (folder / "points.npy").unlink()
    result = _cli(folder / "one.yaml", "--nfe", "3", "--out", folder / "out")
    assert result.exit_code == 2
    assert str(folder / "points.npy") in result.stderr
    assert not (folder / "out").exists()


def test_steps_too_few_for_the_walk_of_a_method_leave_out_the_cell_and_not_the_comparison(tmp_path: Path) -> None:
    """Restart wants a level below its interval, 0.05 to 0.3: one step of EDM has none."""
    options = ["edm", "--set", "denoiser.kind=gaussian", "--renoising", "churn", "--renoising", "restart"]
    result = _cli(*options, "--nfe", "3,20", "--samples", "4", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    assert "left out: edm with edm, karras, restart at 3 evaluations: intervals.sigma_max: no level" in result.stdout
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text("utf-8").splitlines()]
    assert {(r["budget"], r["renoising"]) for r in records} == {(3, "churn"), (20, "churn"), (20, "restart")}
    result = _cli(*options, "--nfe", "1", "--samples", "4", "--out", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("Error: edm with edm, karras, restart at 1 steps, all that the budgets may buy: ")


def test_units_of_the_data(tmp_path: Path) -> None:
    """Distances times the scale, arrays as the data are stored, and a gap of densities that is the same."""
    kelvin = np.random.default_rng(0).normal(size=(60, 3)) @ np.array([[9, 0, 0], [4, 5, 0], [0, 1, 3]]) + 280
    np.save(tmp_path / "k.npy", kelvin.astype(np.float32))
    metrics = ("error_rms", "sliced_wasserstein", "energy_distance", "frechet", "log_density_gap")
    recipe = dataclasses.replace(
        _recipe(EDM(), Karras(), Euler()), data=Arrays(str(tmp_path / "k.npy"), standardise=0.5, unit="K")
    )
    found: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    for units in ("network", "data"):
        plan = _plan(recipe, nfe=(4,), grid_nfe=4, samples=40, reference_samples=20, metrics=metrics, units=units)
        problems = Problems(Settings())
        with Store(tmp_path / "out") as store:
            run(plan, store, Settings(), problems)
            data = report_data(plan, store, Settings(), problems, [])
        found[units] = {record["metric"]: float(record["value"] or 0) for record in data.records}
        (arrays[units],) = (np.asarray(x) for x in data.samples.values())
        assert ("Units" in data.facts) == (units == "data")
    scale = kelvin.std() / 0.5  # of all columns together
    for name, power in zip(metrics, (1, 1, 1, 2, 0), strict=True):
        assert found["data"][name] == pytest.approx(found["network"][name] * scale**power, rel=1e-3), name
    np.testing.assert_allclose(arrays["data"], arrays["network"] * scale + kelvin.mean(), rtol=1e-5)
