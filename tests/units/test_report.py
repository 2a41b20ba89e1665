"""The report as a function of its data: ranks, figures, markup. What a browser makes of it is tested beside this."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import sys
import typing
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from report_example import example, images, methods, records
from scipy.integrate import solve_ivp

from edm_unified import schedules
from edm_unified.report import (
    Key,
    MethodView,
    ReportData,
    build,
    draw,
    figures,
    places,
    samples_grid_png,
    short_labels,
    training,
)
from edm_unified.report import curves as curve_figures
from edm_unified.report.data import MetricValue, combine
from edm_unified.report.images import mosaic, thumbnails
from edm_unified.report.ranking import number, summary, tabulate

FIGURES = True  # drawn, not dots: see conftest.py

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Every element with its attributes; checks on the way that tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return build(example())


def few() -> ReportData:
    """Two methods, two budgets, two metrics: quick to draw."""
    data = example(n=4)
    own = methods()[5:7]
    wanted = {(m.key, budget, metric) for m in own for budget in (5, 10) for metric in ("error_rms", "frechet")}
    return dataclasses.replace(
        data,
        records=[r for r in data.records if (Key.of(r), r["budget"], r["metric"]) in wanted],
        methods=own,
        samples={m.label: data.samples[m.label] for m in own},
    )


def record(recipe: str, value: float | None, half: float = 0.1, metric: str = "frechet", **more: object) -> dict:
    bounds = {} if value is None else {"low": value - half, "high": value + half}
    base = {"schedule": "edm", "steps": "karras", "solver": "heun", "renoising": None, "budget": 10, "nfe": 9, "n": 5}
    return {"recipe": recipe, **base, "seed": 0, "metric": metric, "value": value, **bounds, "cell": recipe, **more}


# --- the document ---------------------------------------------------------------------------------------------------


def test_is_a_pure_function_of_its_data() -> None:
    assert build(few()) == build(few())


def test_fetches_nothing(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster", "action"):
            value = attributes.get(name, "data:")
            link_out = tag == "a" and value.startswith("https://arxiv.org/")  # followed only when clicked
            assert value.startswith(("data:", "#")) or link_out, (tag, name, value[:80])
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_every_anchor_leads_somewhere(html: str) -> None:
    page = Page(html)
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [i for i, times in ids.items() if times > 1] == []
    targets = [a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")]
    targets += re.findall(r"url\(#([^)]*)\)", html)
    assert set(targets) <= set(ids)


def test_is_small_enough_to_send(html: str) -> None:
    assert len(html.encode()) < 1.5e6


def test_has_one_heading_per_section_and_words_for_every_picture(html: str) -> None:
    page = Page(html)
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) == len(page.all("section")) == 10
    assert all(a["alt"] for a in page.all("img"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in page.all("svg"))
    assert all("scope" in a for a in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_tables_are_sorted_and_ranked_without_javascript(html: str) -> None:
    table = tabulate(example())
    for budget in table.budgets:
        part = html[html.index(f'id="nfe-{budget}"') :]
        part = part[part.index("<tbody>") : part.index("</tbody>")]
        rows = re.findall(r'<tr data-method="(\d+)">', part)
        expected = places(table, budget, table.rank_by or "")
        assert [table.methods[int(i)].label for i in rows] == list(expected)


def test_shows_hashes_commands_environment_and_every_metric(html: str) -> None:
    words = Page(html).text
    data = example()
    for wanted in (*(m.hash for m in methods()), *data.commands, *data.environment.values(), *data.facts.values()):
        assert wanted in words
    for name in tabulate(data).metrics:
        assert f'id="metric-{name}"' in html


HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;$\\frac{1}{0}$ x_1\u202e\x00 {0} %s </svg></style>"
)


def test_user_text_is_never_markup() -> None:
    key = Key(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    curve = methods()[0].curve
    view = MethodView(
        key=key, label=HOSTILE, title=HOSTILE, source=HOSTILE, hash=HOSTILE, levels=(1, 2, 0), curve=curve
    )
    rows = [dict(record("", 0.1, metric=HOSTILE), **key._asdict()), dict(record("", 0.2, seed=1), **key._asdict())]
    data = ReportData(
        title=HOSTILE,
        description=HOSTILE,
        records=[dict(row, samples=2, seed=HOSTILE, cell=HOSTILE) for row in rows],
        methods=(view,),
        facts={HOSTILE: HOSTILE},
        samples={HOSTILE: images(2)},
        environment={HOSTILE: HOSTILE},
        commands=(HOSTILE,),
    )
    plain = dataclasses.replace(data, **dict.fromkeys(("title", "description"), "t"), facts={"a": "b"}, environment={})
    written = build(data)
    hostile, mild = Page(written), Page(build(plain))
    assert len(hostile.all("script")) == len(hostile.all("style")) == 1
    assert len(hostile.all("img")) == len(mild.all("img")) == 1
    assert not any(name.startswith("on") for _, a in hostile.elements for name in a)
    assert "$\\frac{1}{0}$ x_1" in hostile.text
    assert "\u202e" not in written
    assert "\x00" not in written
    figures(data, dpi=40)


def test_user_text_is_no_markup_on_the_page_of_a_run_either() -> None:
    """A title, a source and a recipe with class names; the pictures are ours."""

    def page(words: str, wanted: int = 0) -> Page:
        line = {"images": 64, "step": 2, "seconds": 1.0, "images_per_second": 64.0, "loss": 1.0, "grad_norm": None}
        return Page(
            training.build(words, words, f"class_names: [{words}]", [line | {"rate": 0.1, "bins": []}], [], (), wanted)
        )

    hostile, mild = page(HOSTILE), page("t")
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in mild.elements]
    assert not any(name.startswith("on") for _, a in hostile.elements for name in a)
    assert hostile.text.count("$\\frac{1}{0}$ x_1") == 4
    assert "\u202e" not in hostile.text
    assert "Not finished" not in page("t", 64).text
    assert "Not finished when this page was made: 64 of 65 images" in page("t", 65).text


@pytest.mark.parametrize(
    "change",
    [
        {"records": []},
        {"records": [], "methods": (), "samples": {}, "reference_samples": None, "data_samples": None},
        {"methods": (), "samples": {}, "commands": (), "environment": {}, "facts": {}, "description": ""},
        {"records": records()[:1], "samples": {}, "reference_samples": None},
        {"methods": tuple(dataclasses.replace(m, levels=(), curve=None) for m in methods()[5:7]), "floors": {}},
        {"records": [record("edm", None), record("ddim", None)], "samples": {}},
        {"records": [record("edm", -0.01), record("ddim", 0.0, 0.0), record("ve", 1e30)], "samples": {}},
        {"records": [record("edm", 0.5, nfe=None, n=None, low=None, high=math.nan)], "samples": {}},
    ],
)
def test_draws_what_there_is(change: dict) -> None:
    data = dataclasses.replace(few(), **change)
    Page(build(data))
    figures(data, dpi=40)


def test_holds_many_methods_with_long_names() -> None:
    rows = [
        record("edm", 1.0 / (i + b), budget=b, nfe=b, solver=f"second_order(alpha={i})", cell=f"{i}-{b}")
        for i in range(45)
        for b in (5, 10)
    ]
    table = tabulate(ReportData(title="many", records=rows))
    assert len({m.label for m in table.methods}) == 45
    assert len({(draw.INK.line(i), str(draw.dash(i)), draw.marker(i)) for i in range(45)}) == 45
    page = Page(build(ReportData(title="many", records=rows)))
    assert "45" in page.text


def test_two_methods_of_one_label_are_refused() -> None:
    twice = (methods()[0], dataclasses.replace(methods()[1], label="ddpm"))
    with pytest.raises(ValueError, match=r"^methods: two methods are labelled 'ddpm'"):
        build(dataclasses.replace(example(), methods=twice))


def test_samples_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^samples: no method is labelled 'nobody'"):
        build(dataclasses.replace(example(), samples={"nobody": images(2)}))


def _pictures(data: ReportData) -> dict:
    return {"reference_samples": data.reference_samples, "data_samples": data.data_samples}


@pytest.mark.parametrize("shape", [(2,), (1,), (5,), (3, 6, 10)])
def test_shows_vectors_and_rectangular_colour_images(shape: tuple[int, ...]) -> None:
    whole = example(shape, n=12)
    page = Page(build(dataclasses.replace(few(), records=[], methods=(), samples={}, **_pictures(whole))))
    assert len(page.all("img")) == (2 if len(shape) == 3 else 0)


# --- ranks ----------------------------------------------------------------------------------------------------------


def test_rank_counts_the_methods_that_are_better_beyond_both_intervals() -> None:
    rows = [record("a", 1.0), record("b", 1.15), record("c", 1.3), record("d", 5.0), record("e", None)]
    table = tabulate(ReportData(title="", records=rows))
    found = {label: (p.rank, p.shared) for label, p in places(table, 10, "frechet").items()}
    # a and b overlap, b and c overlap, a and c do not.
    assert found == {"a": (1, True), "b": (1, True), "c": (2, False), "d": (4, False), "e": (5, False)}
    words = " ".join(summary(table))
    assert "At 10 evaluations a leads with 1.00, within the interval of b." in words
    assert "Diverged at one budget or more: e." in words


def test_signed_metrics_rank_by_magnitude() -> None:
    rows = [record(r, v, metric="log_density_gap") for r, v in (("a", -3.0), ("b", 0.05), ("c", 1.0))]
    assert list(places(tabulate(ReportData(title="", records=rows)), 10, "log_density_gap")) == ["b", "c", "a"]
    assert MetricValue(0.05, -0.05, 0.15, 1, 0).magnitude(0.0) == (0.05, 0.0, 0.15)
    assert MetricValue(-3.0, -3.1, -2.9, 1, 0).magnitude(0.0) == (3.0, 2.9, 3.1)
    assert MetricValue(0.75, 0.5, 1.0, 1, 0).magnitude(1.0) == (0.25, 0.0, 0.5)  # of precision and recall


def test_seeds_combine_as_independent_estimates() -> None:
    rng = np.random.default_rng(0)
    width = np.array([0.3, 0.4, 1.2])
    means = (rng.normal(size=(200_000, 3)) * width).mean(1)  # what the spread of a mean of three is, by drawing it
    score = combine([1.0, 2.0, 6.0], [1 - 0.3, 2 - 0.4, 6 - 1.2], [1 + 0.3, 2 + 0.4, 6 + 1.2])
    assert score.value == pytest.approx(3.0)
    assert 3.0 - score.low == pytest.approx(means.std(), rel=0.01)
    assert score.high - 3.0 == pytest.approx(means.std(), rel=0.01)


def test_one_diverged_seed_is_not_averaged_away() -> None:
    for bad in (None, math.nan, math.inf):
        score = combine([1.0, bad], [0.9, None], [1.1, None])
        assert (score.value, score.seeds, score.diverged) == (None, 2, 1)


def test_labels_are_short_but_tell_methods_apart() -> None:
    keys = [
        Key("edm", "edm", "karras", "heun", "none"),
        Key("edm", "edm", "karras", "euler", "none"),
        Key("edm", "vp", "karras", "heun", "none"),
        Key("ddim", "vp", "uniform", "ddim", "none"),
    ]
    assert short_labels(keys) == ["edm · heun · edm", "edm · euler · edm", "edm · heun · vp", "ddim"]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.0123, 99.96, 12345.6, 99999.9, 1e-3, 9.994e-4, 3.3e-9, -7.7e12])
def test_numbers_read_back_to_three_digits(value: float) -> None:
    shown = number(value).translate(str.maketrans("−⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "--0123456789")).replace("·10", "e")
    assert float(shown) == pytest.approx(value, rel=5.1e-3)
    assert number(math.nan) == number(None) == "–"


# --- figures --------------------------------------------------------------------------------------------------------


def test_trajectories_solve_the_flow() -> None:
    """Quantile curves against the ODE dz/dσ = (z − D)/σ, integrated with D from the score of the mixture."""
    means, var = curve_figures.MEANS, curve_figures.SPREAD**2

    def velocity(log_sigma: float, z: np.ndarray) -> np.ndarray:
        total = var + math.exp(2 * log_sigma)
        weight = np.exp(-((z[:, None] - means) ** 2 - (z[:, None] - means).min(1, keepdims=True) ** 2) / (2 * total))
        weight /= weight.sum(1, keepdims=True)
        mean = (weight * (means + var / total * (z[:, None] - means))).sum(1)
        return z - mean

    sigma = np.array([6.0, 2.0, 0.7, 0.2, 0.01])
    exact = curve_figures.quantile_paths(sigma)
    solved = solve_ivp(
        velocity, (math.log(6.0), math.log(0.01)), exact[0], "DOP853", np.log(sigma), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(exact, solved.y.T, atol=1e-7)


def test_every_schedule_can_be_drawn() -> None:
    kinds = typing.get_args(schedules.AnySchedule)
    views = tuple(
        MethodView(key=Key(kind.kind, kind.kind, "k", "e", "none"), label=kind.kind, curve=kind()) for kind in kinds
    )
    for view in views:
        (drawn,) = curve_figures.drawn_schedules((view,))
        sigma = curve_figures.evaluate(drawn.curve.sigma, np.linspace(0, drawn.end, 50))
        assert math.isfinite(drawn.end), view.label
        assert (np.diff(sigma[np.isfinite(sigma)]) > 0).all(), view.label
    page = build(ReportData(title="", records=[], methods=views))
    assert page.count('<svg class="plot"') == 2 + len(kinds)  # σ and s of all, and the trajectories of each
    text = Page(page).text
    assert all(kind.formulas["s"][:1] in text for kind in kinds)


def test_spread_keeps_order_and_distance_and_moves_little() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = list(rng.random(9))
        placed = draw.spread_apart(wanted, 0.1, -0.05, 1.05)
        order = np.argsort(wanted)
        assert all(b - a > 0.1 - 1e-9 for a, b in pairwise(np.array(placed)[order]))
        assert min(placed) >= -0.05 - 1e-9
        assert max(placed) <= 1.05 + 1e-9
    assert draw.spread_apart([0.2, 0.5, 0.9], 0.1, 0, 1) == [0.2, 0.5, 0.9]
    assert draw.spread_apart([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])


def _css_colours() -> tuple[dict[str, str], dict[str, str]]:
    style = files("edm_unified.report").joinpath("style.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    light, dark = (dict(re.findall(r"--([\w]+): (#[0-9a-f]{6})", block)) for block in blocks)
    return light, dark


def _contrast(a: str, b: str) -> float:
    """WCAG 2.1 contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_read_on_their_background(dark: bool) -> None:
    colours = _css_colours()[dark]
    for name in ("fg", "muted", "link", "best", "bad", *(f"m{i}" for i in range(draw.COLOURS))):
        for background in ("bg", "raised"):
            assert _contrast(colours[name], colours[background]) >= 4.5, (name, background)


def test_files_and_page_have_the_same_colours() -> None:
    light, dark = _css_colours()
    assert set(light) == set(dark)
    assert (light["fg"], light["muted"], light["grid"], tuple(light[f"m{i}"] for i in range(draw.COLOURS))) == draw.INK


def test_figures_on_the_page_have_no_colours_of_their_own(html: str) -> None:
    svgs = re.findall(r'<svg class="plot".*?</svg>', html, re.S)
    assert len(svgs) == 6 + 1 + 2 + 9  # metrics, levels, σ and s, schedules
    for svg in svgs:
        tags = "".join(re.sub(r'"data:[^"]*"', "", tag) for tag in re.findall(r"<[^>]*>", svg))
        assert not re.search(r"#[0-9a-f]{6}\b", tags, re.I)
        assert "font-family" not in tags
        assert "DejaVu" not in tags
        assert "<text" in tags
        assert "var(--m" in tags


def test_a_template_that_misses_a_value_is_an_error_and_no_blank() -> None:
    from jinja2 import UndefinedError

    from edm_unified.report.templates import part

    with pytest.raises(UndefinedError):
        part("report.html", "method", 0, object())


def test_matplotlib_is_left_as_it_was(html: str) -> None:
    before = dict(matplotlib.rcParams.copy())
    draw.png(lambda figure, palette: draw.dress(draw.margins(figure), palette), (2, 2), 40)
    assert dict(matplotlib.rcParams.copy()) == before
    assert "matplotlib.pyplot" not in sys.modules


def test_figures_are_png_files_on_white() -> None:
    drawn = figures(few())
    assert set(drawn) == {f"{n}.png" for n in ("error_vs_nfe", "schedules", "trajectories", "levels", "samples")}
    for content in drawn.values():
        image = Image.open(io.BytesIO(content)).convert("RGB")
        assert image.size[0] >= 900
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert len(set(image.resize((60, 60)).getdata())) > 20


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9), (1, 60, 40)])
def test_grid_holds_every_pixel_in_its_place(shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, (7, *shape))
    picture = Image.open(io.BytesIO(samples_grid_png(torch.as_tensor(samples), columns=3, scale=1)))
    pixels = np.asarray(picture.convert("RGBA")).astype(int)
    assert pixels.shape == (3 * height + 2, 3 * width + 2, 4)
    for i, sample in enumerate(samples):
        top, left = (i // 3) * (height + 1), (i % 3) * (width + 1)
        tile = pixels[top : top + height, left : left + width]
        wanted = ((sample.clip(-1, 1) + 1) / 2 * 255).transpose(1, 2, 0) * np.ones(3)
        assert np.abs(tile[..., :3] - wanted).max() <= 0.51
        assert (tile[..., 3] == 255).all()
    assert pixels[:, width, 3].max() == 0  # a gap
    assert pixels[-1, -1, 3] == 0  # no eighth and ninth image


def test_grid_enlarges_small_images_by_whole_numbers() -> None:
    picture = Image.open(io.BytesIO(samples_grid_png(images(4), columns=2)))
    assert picture.size == (17 * 6, 17 * 6)
    with pytest.raises(ValueError, match=r"^samples: must be \(n, C, H, W\)"):
        samples_grid_png(np.zeros((3, 2, 8, 8)))


def test_large_images_are_shown_small() -> None:
    large = np.zeros((64, 3, 256, 384))
    large[:, 0, :128] = 1
    small = thumbnails(large)
    assert small.shape[1:] == (3, 85, 128)
    assert len(small) >= 16
    assert small[0, :, 0, 0] == pytest.approx([1, 0, 0], abs=0.01)
    assert mosaic(small, 4).shape[1] == 4 * 129 - 1


@pytest.mark.parametrize(("low", "high"), [(0.67, 0.73), (0.0401, 0.0419), (1.0, 9.0), (1e-7, 3e2)])
def test_an_axis_has_numbers_however_narrow(low: float, high: float) -> None:
    from matplotlib.figure import Figure

    from edm_unified.report.plots import value_ticks

    ax = Figure().subplots()
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    value_ticks(ax, low, high)
    ticks = [tick for tick in ax.yaxis.get_majorticklocs() if low <= tick <= high]
    assert len(ticks) >= 3
    words = [ax.yaxis.get_major_formatter()(tick) for tick in ticks]
    assert len(set(words)) == len(words)
