"""Heat maps as tables of coloured cells on the page, and as PNG files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from edm_unified.report.data import metric
from edm_unified.report.draw import Palette, png
from edm_unified.report.heat.grids import WORST, Choice, Grid, choices, grids
from edm_unified.report.markup import scrolling, table, text
from edm_unified.report.ranking import Table, number, problems, superscript

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (
    *("#123f7d", "#1f5597", "#3468a9", "#7ea3d2", "#94b4dc"),
    *("#aac5e6", "#bfd4ee", "#d3e2f4", "#e6eef9", "#f7f9fd"),
)
"""The colours on white, from the best to 100 times its error; style.css has them, and those on black."""
WHITE_TEXT = 3
"""How many of them, from the first, are written on in white."""


def shade(factor: float) -> int:
    """The colour of a factor: 0 for the best to 9 for 100 and more; finer near 1, where the decision is."""
    return min(9, int(9 * math.sqrt(max(0.0, math.log10(factor)) / 2))) if math.isfinite(factor) else 9


def written(factor: float) -> str:
    """A factor in three or four characters."""
    if not math.isfinite(factor):
        return "✕"
    if factor < 9.95:
        return f"{factor:.1f}"
    return f"{factor:.0f}" if factor < 999.5 else f"10{superscript(round(math.log10(factor)))}"


# -- on the page ------------------------------------------------------------------------------------------------------


def section_of(t: Table) -> str:
    """The heat maps, and the best of all at each budget."""
    if t.rank_by is None:
        return ""
    scale = "".join(
        f'<li class="h{shade(f)}">{written(f)}{"+" if f == 100 else ""}</li>'
        for f in (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
    )
    intro = (
        f"<p>Each number is the {text(metric(t.rank_by).axis)} over the least in its column, that is on the same "
        "levels at the same budget: 1.0 is the best, 10 has ten times its error, ✕ diverged, and where nothing is "
        "written the budget buys no step, or the method was not asked for on those levels. Rows are in the order of "
        f"their geometric mean, for which a budget that buys no step counts as {10**WORST:,.0f}.</p>"
        f'<ul class="scale" aria-label="Colours">{scale}</ul>'
    )
    maps = "".join(_html(grid, i, t.rank_by) for i, grid in enumerate(grids(t)))
    return intro + _best_of_all(t) + maps


def _best_of_all(t: Table, most: int = 10) -> str:
    found = {budget: ranked[:most] for budget, ranked in choices(t).items()}
    rows = [
        [str(i + 1), *(_choice(found[b][i]) if i < len(found[b]) else "" for b in t.budgets)]
        for i in range(max(map(len, found.values()), default=0))
    ]
    several = len(problems(t)) > 1
    caption = "The best of all solvers and levels at each budget, with the error over the least" + (
        " on each problem, averaged geometrically" if several else ""
    )
    return table(["", *(f"{b} NFE" for b in t.budgets)], rows, caption, "best-of") if rows else ""


def _choice(choice: Choice) -> str:
    return f"{text(choice.solver)} <b>{written(choice.factor)}</b><small>{text(choice.levels)}</small>"


def _html(grid: Grid, index: int, name: str) -> str:
    headings = list(dict.fromkeys(heading for heading, _ in grid.columns))
    starts = {next(c for c in grid.columns if c[0] == heading) for heading in headings}
    spans = "".join(
        f'<th scope="colgroup" class="start" colspan="{sum(c[0] == h for c in grid.columns)}">{text(h) or "all"}</th>'
        for h in headings
    )
    budgets = "".join(f'<th scope="col"{_start(c in starts)}>{c[1]}</th>' for c in grid.columns)
    body = "".join(_row(grid, row, starts) for row in grid.rows)
    least = "".join(f"<td{_start(c in starts)}>{_tiny(grid.best[c])}</td>" for c in grid.columns) if grid.best else ""
    foot = f'<tfoot><tr><th scope="row">least error</th><td></td>{least}</tr></tfoot>' if least else ""
    title = grid.title or metric(name).title
    caption = f"{text(title)}: {text(metric(name).axis)} over the least in the column, by levels and evaluations"
    head = f'<th rowspan="2" scope="col">solver</th><th rowspan="2" scope="col">mean</th>{spans}'
    return f'<h3 id="heat-{index}">{text(title)}</h3>' + scrolling(
        f'<table class="heat"><caption><span>{caption}</span></caption><thead><tr>{head}</tr><tr>{budgets}</tr></thead>'
        f"<tbody>{body}</tbody>{foot}</table>",
        caption,
    )


def _start(yes: bool) -> str:
    return ' class="start"' if yes else ""


def _row(grid: Grid, row: str, starts: set[tuple[str, int]]) -> str:
    cells = "".join(_cell(grid.cells.get((row, c)), c in starts) for c in grid.columns)
    return f'<tr><th scope="row">{text(row)}</th><td class="mean">{written(grid.means[row])}</td>{cells}</tr>'


def _cell(factor: float | None, start: bool) -> str:
    edge = " start" if start else ""
    if factor is None:
        return f'<td class="none{edge}"></td>'
    best = " top" if factor < 1.0 + 1e-9 else ""
    return f'<td class="h{shade(factor)}{best}{edge}">{written(factor)}</td>'


def _tiny(value: float) -> str:
    """An error in four characters: 0.31, 4e−5; the tables have all digits."""
    if not math.isfinite(value) or value == 0:
        return number(value)
    if 0.095 <= value < 99.5:
        return f"{value:.2g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


# -- as a file --------------------------------------------------------------------------------------------------------


def heat_png(grid: Grid, name: str, dpi: int) -> bytes:
    """The heat map as a PNG file on white, as on the page."""
    left = 0.35 + 0.075 * max(map(len, grid.rows), default=0)
    width, height = 0.34, 0.19
    size = (left + width * (len(grid.columns) + 1) + 0.15, 0.95 + height * (len(grid.rows) + bool(grid.best)))

    def draw(figure: Figure, palette: Palette) -> None:
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set_xlim(0, size[0])
        ax.set_ylim(size[1], 0)
        ax.text(0.1, 0.2, f"{grid.title or metric(name).title}: {metric(name).axis} over the least in the column",
                color=palette.fg, fontsize=10.5, weight="bold", va="center")  # fmt: skip
        xs = {c: left + width * (i + 1) for i, c in enumerate(grid.columns)}
        previous = None
        for (heading, budget), x in xs.items():
            if heading != previous:
                ax.text(x, 0.48, heading, color=palette.fg, fontsize=8.5, weight="bold", va="center")
                ax.plot([x - 0.02] * 2, [0.4, size[1] - 0.1], color=palette.fg, linewidth=0.8)
                previous = heading
            ax.text(x + width / 2, 0.68, str(budget), color=palette.muted, fontsize=8, ha="center", va="center")
        ax.text(left + width / 2, 0.68, "mean", color=palette.muted, fontsize=7.5, ha="center", va="center")
        for i, row in enumerate(grid.rows):
            y = 0.8 + height * i
            ax.text(left - 0.08, y + height / 2, row, color=palette.fg, fontsize=8, ha="right", va="center")
            ax.text(left + width / 2, y + height / 2, written(grid.means[row]), color=palette.fg, fontsize=7.5,
                    ha="center", va="center")  # fmt: skip
            for column, x in xs.items():
                factor = grid.cells.get((row, column))
                if factor is None:
                    continue
                k = shade(factor)
                ax.add_patch(_box(x, y, width, height, COLOURS[k]))
                ax.text(x + width / 2, y + height / 2, written(factor), fontsize=7.2, ha="center", va="center",
                        color="#ffffff" if k < WHITE_TEXT else palette.fg,
                        weight="bold" if factor < 1.0 + 1e-9 else "normal")  # fmt: skip
        if grid.best:
            y = 0.8 + height * len(grid.rows)
            ax.text(
                left - 0.08, y + height / 2, "least error", color=palette.muted, fontsize=8, ha="right", va="center"
            )
            for column, x in xs.items():
                ax.text(x + width / 2, y + height / 2, _tiny(grid.best[column]), color=palette.muted, fontsize=6.6,
                        ha="center", va="center")  # fmt: skip

    return png(draw, size, dpi)


def _box(x: float, y: float, width: float, height: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=0.6)
