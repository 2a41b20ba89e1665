"""What is drawn: every value inside its axes, and the same figure whatever the user's matplotlib is set to."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from test_report import few, record

import edm_unified
from edm_unified.compare.view import shown_of
from edm_unified.data import Dataset
from edm_unified.report import ReportData, build, draw, figures, panels, plots, samples_png, tabulate
from edm_unified.report import images as pictures

FIGURES = True  # drawn, not dots: see conftest.py

ROOT = Path(edm_unified.__file__).parent


def lines_of(data: ReportData, name: str) -> tuple[object, list[np.ndarray]]:
    """The axes of one panel of errors, and the points (nfe, value) of each method's line."""
    from matplotlib.figure import Figure

    table = tabulate(data)
    ax = Figure().subplots()
    plots.error_against_nfe(ax, draw.INK, table, name, None)
    drawn = {line.get_gid(): line for line in ax.lines if line.get_marker() not in ("None", None, "")}
    return ax, [np.asarray(drawn[f"m{i}"].get_xydata()) for i in range(len(table.methods))]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e6])
def test_every_value_is_drawn_at_its_evaluations_and_inside_the_axes(scale: float) -> None:
    """Values above the budgets too: an axis is never clamped to the limits of the other."""
    budgets = (5, 10, 20)
    rows = [
        record(name, scale * factor * 40 / b, scale, budget=b, nfe=b, cell=f"{name}{b}")
        for name, factor in (("one", 1.0), ("two", 1.7))
        for b in budgets
    ]
    ax, lines = lines_of(ReportData(title="", records=rows), "frechet")
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()  # type: ignore[attr-defined]
    for line, factor in zip(lines, (1.0, 1.7), strict=True):
        assert line[:, 0].tolist() == list(budgets)
        assert line[:, 1] == pytest.approx([scale * factor * 40 / b for b in budgets])
        assert ((left < line[:, 0]) & (line[:, 0] < right)).all()
        assert ((bottom < line[:, 1]) & (line[:, 1] < top)).all()


# -- the user's own settings ------------------------------------------------------------------------------------------

OTHER = {
    "text.usetex": True, "font.size": 31, "font.family": "serif", "lines.linewidth": 9, "axes.grid": True,
    "savefig.bbox": "tight", "savefig.transparent": True, "savefig.dpi": 37, "figure.constrained_layout.use": True,
    "axes.facecolor": "black", "axes.xmargin": 0.4, "axes.formatter.use_locale": True, "axes.spines.left": False,
    "image.cmap": "gray", "legend.loc": "best", "path.sketch": (3, 20, 2), "svg.fonttype": "path", "xtick.top": True,
    "axes.prop_cycle": matplotlib.cycler(color=["red"]), "image.origin": "lower", "figure.dpi": 33,
}  # fmt: skip


def _weights() -> bytes:
    from edm_unified.recipe import Recipe
    from edm_unified.report.weighting import figure

    return figure({name: Recipe.load(name) for name in ("edm", "vp")})


DRAWN: dict[str, Callable[[], object]] = {
    "page": lambda: build(few()),
    "files": lambda: figures(few(), dpi=40),
    "weights": _weights,
    "signals": lambda: samples_png(np.sin(np.arange(96.0).reshape(3, 1, 32))),
    "points": lambda: samples_png(np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3),
}


@pytest.mark.parametrize("name", DRAWN)
def test_no_setting_of_the_user_changes_a_figure(name: str) -> None:
    plain = DRAWN[name]()
    with matplotlib.rc_context(OTHER):
        before = dict(matplotlib.rcParams.copy())
        assert DRAWN[name]() == plain
        assert dict(matplotlib.rcParams.copy()) == before


def test_a_setting_of_windows_is_left_alone() -> None:
    """The backend is of windows, which nothing here opens; changing it would close the user's own."""
    with matplotlib.rc_context():
        matplotlib.rcParams["backend"] = "svg"
        with draw.settings():
            assert matplotlib.rcParams["backend"] == "svg"
        assert matplotlib.rcParams["backend"] == "svg"


def _calls(name: str) -> list[tuple[str, ast.Call]]:
    found = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                found.append((f"{path.name}:{node.lineno}", node))
    return found


def test_no_legend_is_placed_by_the_clock() -> None:
    """matplotlib's loc="best" gives up, and warns, after a second: on a busy machine that is another figure."""
    legends = _calls("legend")
    assert legends
    for where, call in legends:
        places = [word.value for word in call.keywords if word.arg == "loc"]
        assert places, f"{where}: a legend needs a loc"
        assert isinstance(places[0], ast.Constant), where
        assert places[0].value not in ("best", 0), where


def test_all_that_is_drawn_is_drawn_inside_our_settings() -> None:
    """No pyplot, and every file that makes a figure enters ``settings`` itself."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text("utf-8")
        assert "pyplot" not in text.replace("touches pyplot", ""), path
        if "= Figure(" in text:
            assert "with settings():" in text, path


# -- samples ----------------------------------------------------------------------------------------------------------


def drawn(samples: np.ndarray) -> list[np.ndarray]:
    """The curves or points of one small picture, which must be within its limits but for outliers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2.8))
    pictures.draw(figure, draw.INK, samples, pictures.frame(samples), 0)
    for ax in figure.axes:
        assert 0 <= ax.get_position().x0 < ax.get_position().x1 <= 1
        assert 0 <= ax.get_position().y0 < ax.get_position().y1 <= 1
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        for line in ax.lines:
            x, y = np.asarray(line.get_xydata()).T
            assert ((left <= x) & (x <= right) & (bottom <= y) & (y <= top)).mean() > 0.95
    return [np.asarray(line.get_xydata()) for ax in figure.axes for line in ax.lines]


@pytest.mark.parametrize("channels", [1, 2])
def test_signals_are_curves_over_their_whole_length(channels: int) -> None:
    signals = np.random.default_rng(0).uniform(-3, 1, (6, channels, 40))
    curves = drawn(signals)
    assert len(curves) == 4 * channels
    for i, curve in enumerate(curves):
        assert curve[:, 0].tolist() == list(range(40))
        np.testing.assert_array_equal(curve[:, 1], signals[i // channels, i % channels])


def test_every_point_is_drawn() -> None:
    points = np.random.default_rng(0).normal(size=(512, 2))
    (cloud,) = drawn(points)
    np.testing.assert_array_equal(cloud, points)
    (line,) = drawn(points[:, :1])
    assert sorted(line[:, 0]) == sorted(points[:, 0])
    assert (np.diff(line[line[:, 0].argsort(), 1]) > 0).all()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (1, 32), (2, 32), (2,), (1,), (5,)])
def test_samples_of_every_kind_have_a_picture(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).normal(size=(9, *shape))
    samples[3].flat[0] = np.nan
    assert pictures.pictured(shape)
    image = Image.open(io.BytesIO(samples_png(samples, np.arange(9) % 2)))
    assert min(image.size) > 100
    assert len(set(image.convert("L").getdata())) > 8


def test_latents_have_none() -> None:
    assert not pictures.pictured((4, 8, 8))
    with pytest.raises(ValueError, match=r"no picture of samples of shape \(4, 8, 8\)"):
        samples_png(np.zeros((2, 4, 8, 8)))


def test_the_data_are_shown_by_all_their_classes() -> None:
    """Stored class by class, as folders are: the first would be one class alone."""
    labels = torch.arange(10).repeat_interleave(30)
    images = torch.arange(300.0)[:, None, None, None].expand(300, 1, 2, 2)
    data = Dataset(images, labels, "sorted")
    chosen = shown_of(data, 25)
    assert torch.bincount(labels[chosen]).tolist() == [3] * 5 + [2] * 5
    assert len(set(chosen.tolist())) == 25
    assert chosen.tolist() == shown_of(data, 25).tolist()
    assert set(chosen.tolist()) != set(range(25))
    assert sorted(shown_of(data, 400).tolist()) == list(range(300))
    few_of_many = shown_of(Dataset(images, torch.arange(300), "all different"), 7)
    assert few_of_many.max() > 50
    cloud = shown_of(Dataset(torch.zeros(300, 2), labels, "points"), 300)
    assert sorted(cloud.tolist()) == list(range(300))


def test_one_level_is_drawn_without_complaint() -> None:
    """A walk from the only level to zero has no range of levels; a warning of matplotlib is an error here."""
    data = few()
    views = tuple(replace(method, levels=[80.0, 0.0]) for method in data.methods)
    panel = panels.levels_panel(tabulate(replace(data, methods=views)))
    assert panel is not None
    assert "80" in panel
