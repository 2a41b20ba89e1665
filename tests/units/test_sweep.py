"""A comparison over the values of one number is drawn against it, with the recipe's own value marked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_report import Page

from edm_unified.compare.plan import make_plan
from edm_unified.compare.view import _sweep
from edm_unified.recipe import Comparison, Recipe
from edm_unified.report import Key, MethodView, ReportData, build, draw, figures, plots, tabulate

FIGURES = True  # drawn, not dots: see conftest.py

VALUES = (40.0, 0.0, 10.0)


def swept(**more: object) -> ReportData:
    """S_churn at three values, told out of order, at two budgets; the errors are 1 + S_churn over the budget."""
    views, rows = [], []
    for value in VALUES:
        key = Key("edm", "edm", "karras", "heun", f"churn(S_churn={value:g})")
        views.append(MethodView(key=key, label=f"churn {value:g}", series="edm", swept=value))
        for budget in (10, 20):
            error = (1 + value) / budget
            rows.append(
                {**key._asdict(), "budget": budget, "nfe": budget, "n": budget, "seed": 0, "samples": 8,
                 "cell": f"{value}", "metric": "frechet", "value": error, "low": error * 0.9, "high": error * 1.1}
            )  # fmt: skip
    words = ("S_churn = 10 and 40 visit the same noise levels",)
    return ReportData(
        title="t", records=rows, methods=views, sweep="sampler.renoising.S_churn", usual=10.0, sweep_notes=words,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_value_is_drawn_at_its_parameter_in_order() -> None:
    from matplotlib.figure import Figure

    data = swept()
    ax = Figure().subplots()
    plots.error_against_parameter(ax, draw.INK, data, tabulate(data), "frechet")
    lines = [np.asarray(line.get_xydata()) for line in ax.lines if line.get_marker() not in ("None", None)]
    assert [line[:, 0].tolist() for line in lines] == [sorted(VALUES)] * 2
    for line, budget in zip(lines, (10, 20), strict=True):
        assert line[:, 1] == pytest.approx([(1 + value) / budget for value in sorted(VALUES)])
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert left <= 0 < 40 <= right
        assert (bottom < line[:, 1]).all()
        assert (line[:, 1] < top).all()
    marks = [line for line in ax.lines if line.get_marker() in ("None", None)]
    assert [list(line.get_xdata()) for line in marks] == [[10.0, 10.0]]
    assert [text.get_text() for text in ax.texts] == ["recipe's own: 10"]


def test_the_page_and_the_files_have_the_plot() -> None:
    page = Page(build(swept()))
    assert "Error against sampler.renoising.S_churn" in page.text
    assert "S_churn = 10 and 40 visit the same noise levels" in page.text
    assert "Dashed: the recipe's own value, 10" in page.text
    assert "sweep.png" in figures(swept(), dpi=40)


def _plan(*recipes: str, **cross: tuple[object, ...]) -> object:
    comparison = Comparison(
        title="t", recipes=recipes, nfe=(5,), cross={path.replace("__", "."): v for path, v in cross.items()}
    )
    return make_plan(comparison, [(name, Recipe.load(name)) for name in recipes])


def test_one_number_that_differs_is_a_sweep() -> None:
    plan = _plan("edm_stochastic", sampler__renoising__S_churn=(0.0, 10.0))
    path, usual, series = _sweep(plan)  # type: ignore[arg-type]
    assert path == "sampler.renoising.S_churn"
    assert usual == Recipe.load("edm_stochastic").sampler.renoising.S_churn  # type: ignore[union-attr]
    assert set(series.values()) == {"edm_stochastic"}


def test_with_other_parts_crossed_every_choice_of_them_is_a_series() -> None:
    from edm_unified.sampling.solvers import Euler, Heun

    plan = _plan("edm", sampler__steps__rho=(5.0, 9.0), sampler__solver=(Euler(), Heun()))
    path, usual, series = _sweep(plan)  # type: ignore[arg-type]
    assert (path, usual) == ("sampler.steps.rho", 7.0)
    assert sorted(series.values()) == ["edm · euler", "edm · euler", "edm · heun", "edm · heun"]


@pytest.mark.parametrize(
    "cross",
    [
        {},
        {"sampler__steps__rho": (5.0, 9.0), "sampler__steps__sigma_min": (0.01, 0.02)},
        {"sampler__steps__rho": (5.0,)},
    ],
)
def test_none_or_two_or_a_single_value_are_no_sweep(cross: dict) -> None:
    path, usual, series = _sweep(_plan("edm", **cross))  # type: ignore[arg-type]
    assert (path, series) == ("", {})
    assert math.isnan(usual)
