"""Comparisons of many solvers: the sets that name them, the made-up mixtures, and the heat map that shows them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edm_unified import cli
from edm_unified.compare.loading import load
from edm_unified.compare.sets import FAST, solver_set
from edm_unified.data import RandomMixture
from edm_unified.recipe import Comparison, Recipe
from edm_unified.recipe.denoisers import GaussianMixture
from edm_unified.report import Key, MethodView, ReportData, build, figures, heat, tabulate
from edm_unified.report.ranking import problems
from edm_unified.sampling.solvers import AnySolver, Fitted, NoPredictor

RECIPE = """
title: made for a test
source: nowhere
schedule: {kind: edm}
sampler:
  steps: {kind: karras}
  solver: {kind: euler}
data: {kind: random_mixture, dimension: 2, components: 2, samples: 50}
denoiser: {kind: gaussian_mixture, components_per_class: 1, rank: null}
"""
ENDPOINT = ("--set", "metrics=[error_median, error_rms]", "--set", "rank_by=error_median")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "one.yaml").write_text(RECIPE)
    return tmp_path / "one.yaml"


def _cli(*args: object) -> Result:
    return CliRunner().invoke(cli.main, ["compare", *map(str, args)])


# -- sets of solvers --------------------------------------------------------------------------------------------------


def test_all_is_every_solver_that_takes_any_fixed_walk() -> None:
    registry = get_args(AnySolver)
    adaptive = {cls for cls in registry if getattr(cls, "adaptive", False)}
    assert len(adaptive) >= 3
    assert {type(solver) for solver in solver_set("all")} == set(registry) - adaptive - {NoPredictor, Fitted}


def test_deterministic_are_those_of_all_that_draw_no_noise() -> None:
    every, quiet = solver_set("all"), solver_set("deterministic")
    assert set(quiet) == {solver for solver in every if not solver.stochastic}
    assert 0 < len(quiet) < len(every)


def test_fast_are_ten_deterministic_solvers() -> None:
    assert solver_set("fast") == FAST
    assert len(set(FAST)) == 10
    assert not any(solver.stochastic or getattr(solver, "adaptive", False) for solver in FAST)


def test_a_set_can_be_named_beside_a_solver(recipe: Path, tmp_path: Path) -> None:
    """heun is not fast, euler is deterministic: named twice, it is compared once."""
    out = tmp_path / "out"
    args = ("--nfe", "6", "--samples", "4", *ENDPOINT, "--json", "--out", out)
    result = _cli(recipe, "--solver", "fast", "--solver", "heun", "--solver", "heun", *args)
    assert result.exit_code == 0, result.stderr
    named = {json.loads(line)["solver"] for line in result.stdout.splitlines()}
    assert len(named) == 11
    assert "heun" in named


def test_a_comparison_file_can_name_a_set(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("title: t\nrecipes: [one.yaml]\nsolver_set: deterministic\nsamples: 4\nnfe: [6]\ngrid_nfe: 6\n")
    result = _cli(file, *ENDPOINT, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    expected = len(solver_set("deterministic"))
    most = (tmp_path / "out" / "records.jsonl").read_text().count('"error_median"')
    assert expected - 3 <= most <= expected  # six evaluations do not buy a step of every one
    assert f"6 evaluations, the best 10 of {most}" in result.stdout


@pytest.mark.parametrize("kind", sorted(cls.kind for cls in get_args(AnySolver) if getattr(cls, "adaptive", False)))
def test_an_adaptive_solver_has_no_budget(kind: str, recipe: Path, tmp_path: Path) -> None:
    result = _cli(recipe, "--solver", kind, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"one: sampler.solver: {kind} is adaptive" in result.stderr


def test_the_names_of_the_sets_are_completed() -> None:
    def complete(word: str) -> list[str]:
        environment = {
            "_EDM_UNIFIED_COMPLETE": "bash_complete",
            "COMP_WORDS": f"edm-unified compare edm --solver {word}",
        }
        environment["COMP_CWORD"] = "4"
        found = CliRunner(env=environment).invoke(cli.main, [], prog_name="edm-unified")
        return [line.partition(",")[2] for line in found.stdout.splitlines()]

    assert complete("fa") == ["fast"]
    assert complete("al") == ["all"]
    assert "deterministic" in complete("de")
    assert "deis" in complete("de")


def test_the_atlas_finds_its_recipes_wherever_it_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comparison, recipes = load(("solver_atlas",), ())
    assert [name for name, _ in recipes] == ["mixture_2d", "mixture_16d", "mixture_64d", "edm"]
    assert comparison.solver_set == "deterministic"
    assert Recipe.load("toy/mixture_2d") == recipes[0][1]
    assert set(comparison.metrics) == {"error_median", "error_rms"}


def test_two_budgets_that_buy_the_same_steps_are_both_told(recipe: Path, tmp_path: Path) -> None:
    """Heun takes three steps at five evaluations, and no fourth at six: one run, in both tables."""
    out = tmp_path / "out"
    args = (recipe, "--solver", "heun", "--samples", "4", *ENDPOINT, "--json", "--out", out)
    for budgets in ("5,6", "5,6", "5,6,7"):
        result = _cli(*args, "--nfe", budgets)
        assert result.exit_code == 0, result.stderr
        records = [json.loads(line) for line in result.stdout.splitlines()]
        assert [r["budget"] for r in records if r["metric"] == "error_rms"] == [int(b) for b in budgets.split(",")]
        assert len({r["cell"] for r in records if r["budget"] < 7}) == 1
    lines = (out / "records.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 6


# -- made-up mixtures -------------------------------------------------------------------------------------------------


def test_a_mixture_is_what_its_fields_say() -> None:
    data = RandomMixture(dimension=3, components=4, samples=40_000, spread=2.0, scale=0.1, seed=3).load()
    assert data.images.shape == (40_000, 3)
    assert data.labels is not None
    assert data.labels.bincount().min() > 0.5 * 40_000 / 4 * 0.9
    for component in range(4):
        values = torch.linalg.eigvalsh(data.images[data.labels == component].double().T.cov())
        assert 0.1 / 4 * 0.95 < float(values[0]) ** 0.5 <= float(values[-1]) ** 0.5 < 0.1 * 1.05
    many = RandomMixture(dimension=50, components=200, samples=400, spread=2.0, scale=1e-6).load().images
    assert float(many.std()) == pytest.approx(2.0, rel=0.05)


def test_a_mixture_follows_from_its_seed() -> None:
    one, same, other = (RandomMixture(seed=seed).load() for seed in (5, 5, 6))
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)


def test_one_component_per_class_gives_the_mixture_back() -> None:
    mixture = RandomMixture(dimension=2, components=3, samples=3000)
    data = mixture.load()
    denoiser = GaussianMixture(components_per_class=1, rank=None, floor=1e-9).build(data)
    x, sigma = torch.tensor([[0.3, -0.2]], dtype=torch.float64), 0.4
    labels, points = data.labels, data.images.double()
    assert labels is not None
    weights, means = [], []
    for k in range(3):
        own = points[labels == k]
        mean, cov = own.mean(0), own.T.cov(correction=0)
        noisy = cov + sigma**2 * torch.eye(2, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(mean, noisy)
        weights.append(len(own) * normal.log_prob(x).exp())
        means.append(mean + (x - mean) @ torch.linalg.solve(noisy, cov))
    expected = sum(w[:, None] * m for w, m in zip(weights, means, strict=True)) / sum(weights)
    assert torch.allclose(denoiser(x, torch.tensor(sigma, dtype=torch.float64)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimension": 0}, "dimension: must be a whole number from 1"),
        ({"components": 0}, "components: must be a whole number from 1"),
        ({"components": 10, "samples": 19}, "samples: must be a whole number from 20"),
        ({"spread": 0.0}, "spread: must be positive"),
        ({"scale": math.nan}, "scale: must be positive"),
        ({"seed": -1}, "seed: must be a whole number from 0"),
    ],
)
def test_bad_mixtures(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        RandomMixture(**fields)


# -- the heat map -----------------------------------------------------------------------------------------------------

ERRORS = {  # problem -> solver -> rule -> errors at 5 and 10 evaluations
    "near": {"euler": {"karras": (0.4, 0.2), "tan": (0.8, 0.1)}, "heun": {"karras": (None, 0.1), "tan": (0.8, 0.4)}},
    "far": {"euler": {"karras": (4.0, 9.0), "tan": (8.0, 4.0)}, "heun": {"karras": (1.0, 1.0), "tan": (4.0, 4.0)}},
}


def _data(errors: dict[str, Any]) -> ReportData:
    records, views = [], []
    for problem, solvers in errors.items():
        for solver, rules in solvers.items():
            for rule, values in rules.items():
                key = Key(problem, "edm", rule, solver, "none")
                views.append(MethodView(key=key, label=f"{problem} · {solver} · {rule}", problem=problem))
                for budget, value in zip((5, 10), values, strict=True):
                    low, high = (None, None) if value is None else (0.9 * value, 1.1 * value)
                    own = {"budget": budget, "nfe": budget, "n": budget, "seed": 0, "samples": 9, "seconds": 0.1}
                    own |= {"metric": "error_median", "value": value, "low": low, "high": high}
                    records.append(key._asdict() | own | {"cell": f"{key}{budget}", "hash": "0" * 12})
    return ReportData(title="t", records=records, methods=views)


def test_a_cell_is_the_error_over_the_least_in_its_column() -> None:
    together, near, far = heat.grids(tabulate(_data(ERRORS)))
    assert near.columns == (("karras", 5), ("karras", 10), ("tan", 5), ("tan", 10))
    assert [near.cells["euler", c] for c in near.columns] == [1.0, 2.0, 1.0, 1.0]
    assert [near.cells["heun", c] for c in near.columns] == [math.inf, 1.0, 1.0, 4.0]
    assert [near.best[c] for c in near.columns] == [0.4, 0.1, 0.8, 0.1]
    assert [far.cells["euler", c] for c in far.columns] == [4.0, 9.0, 2.0, 1.0]
    assert [together.cells["euler", c] for c in together.columns] == pytest.approx([2.0, 18**0.5, 2**0.5, 1.0])
    assert together.cells["heun", ("karras", 5)] == math.inf
    assert together.rows == ("euler", "heun")
    assert together.means["euler"] == pytest.approx((2 * 18**0.5 * 2**0.5) ** 0.25)
    assert near.means["heun"] == pytest.approx((1e4 * 4) ** 0.25)


def test_recipes_on_levels_of_their_own_are_columns_and_solvers_are_rows() -> None:
    """Two recipes × two solvers: what a recipe's name says, its levels say; no cell is one that was never asked for."""
    data = _data({"": {"euler": {"karras": (0.4, 0.2), "tan": (0.8, 0.1)}, "heun": {"karras": (0.8, 0.1)}}})
    records = [record | {"recipe": f"r-{record['steps']}"} for record in data.records]
    views = [replace(v, key=v.key._replace(recipe=f"r-{v.key.steps}")) for v in data.methods]
    (grid,) = heat.grids(tabulate(ReportData(title="t", records=records, methods=views)))
    assert set(grid.rows) == {"euler", "heun"}
    assert {heading for heading, _ in grid.columns} == {"karras", "tan"}
    assert grid.means["heun"] == pytest.approx((2 * 1) ** 0.5)  # of the levels that it was run on
    assert grid.means["euler"] == pytest.approx((1 * 2 * 1 * 1) ** 0.25)


def test_the_best_of_all_is_over_solvers_and_levels() -> None:
    ranked = heat.choices(tabulate(_data(ERRORS)))
    assert [(c.solver, c.levels) for c in ranked[10]][:2] == [("heun", "karras"), ("euler", "tan")]
    assert [c.factor for c in ranked[10]][:2] == pytest.approx([1.0, 2.0])
    assert [c.factor for c in ranked[5]] == pytest.approx([2.0, 8**0.5, 4.0, math.inf])


def test_problems_are_ranked_apart() -> None:
    table = tabulate(_data(ERRORS))
    assert {name: len(part.methods) for name, part in problems(table).items()} == {"near": 4, "far": 4}
    page = build(_data(ERRORS))
    assert page.count('<table class="ranked">') == 4
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))


@pytest.mark.parametrize(("factor", "word"), [(1.0, "1.0"), (9.949, "9.9"), (9.96, "10"), (640.2, "640"), (2e3, "10³")])
def test_factors_are_short(factor: float, word: str) -> None:
    assert heat.written(factor) == word


def test_stronger_is_better_and_a_hundred_times_is_weakest() -> None:
    shades = [heat.shade(10**e) for e in np.linspace(0, 2, 200)]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1], heat.shade(math.inf), heat.shade(1e9)) == (0, 9, 9, 9)
    assert set(shades) == set(range(10))


def _css(dark: bool) -> dict[str, str]:
    text = (Path(heat.__file__).parents[1] / "style.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", text, re.S)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[1] if dark else blocks[0]))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_numbers_can_be_read_on_every_colour(dark: bool) -> None:
    known = _css(dark)
    light = [_luminance(known[f"h{i}"]) for i in range(10)]
    assert light == sorted(light, reverse=dark)
    for i in range(10):
        pair = sorted((light[i], _luminance(known["on-best" if i < heat.WHITE_TEXT else "on-rest"])))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, f"h{i}"


def test_files_and_page_have_the_same_heat() -> None:
    assert tuple(_css(False)[f"h{i}"] for i in range(10)) == heat.COLOURS


@pytest.fixture(scope="module")
def atlas() -> ReportData:
    """As large as the shipped atlas: 608 methods on four problems, at two budgets, with the labels it has."""
    rng = np.random.default_rng(0)
    rules = ("karras", "log_linear", "vp_time", "density_spaced(sigmas=<25 values>, density=<25 values>)")
    errors = {
        f"random mixture {p}": {
            f"solver_{s}(order={s})": {rule: tuple(float(e) for e in rng.lognormal(size=2)) for rule in rules}
            for s in range(38)
        }
        for p in range(4)
    }
    return _data(errors)


def test_a_large_page_is_small_enough_to_send(atlas: ReportData) -> None:
    page = build(atlas)
    assert len(page) * 7 / 2 < 5_000_000  # the atlas has seven budgets, and most of the page is in proportion to them
    assert page.count('<table class="heat">') == 5
    assert page.count("<details>") == page.count('<table class="ranked">') == 8
    assert "<img" not in page
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_the_files_of_many_methods_are_heat_maps(real_figures: None) -> None:
    errors = {
        problem: {f"solver_{i}": {"karras": (1.0 + i, 1.0), "tan": (None, 2.0)} for i in range(8)}
        for problem in ("near", "far")
    }
    files = figures(_data(errors), dpi=40)
    assert set(files) == {"heatmap.png", "heatmap-1.png", "heatmap-2.png"}
    for png in files.values():
        assert png.startswith(b"\x89PNG")
        assert len(png) > 1000


def test_the_comparison_takes_no_other_set() -> None:
    with pytest.raises(ValueError, match="solver_set"):
        Comparison.load("solver_atlas", ["solver_set=best"])
