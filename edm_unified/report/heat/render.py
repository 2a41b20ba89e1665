"""Heat maps as tables of coloured cells on the page, and as PNG files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from edm_unified.report.data import metric
from edm_unified.report.draw import Palette, png
from edm_unified.report.heat.grids import WORST, Choice, Grid, choices, grids
from edm_unified.report.ranking import Table, number, problems, superscript
from edm_unified.report.templates import part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = "heat.html"

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


def section_of(t: Table) -> Markup:
    """The heat maps, and the best of all at each budget."""
    if t.rank_by is None:
        return Markup("")
    factors = (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
    scale = [(written(f) + ("+" if f == 100 else ""), shade(f)) for f in factors]
    maps = [_map(grid, i, t.rank_by) for i, grid in enumerate(grids(t))]
    return part(_PAGE, "section", metric(t.rank_by).axis, f"{10**WORST:,.0f}", scale, _best_of_all(t), maps)


def _best_of_all(t: Table, most: int = 10) -> Markup:
    found = {budget: ranked[:most] for budget, ranked in choices(t).items()}
    rows = [
        [str(i + 1), *(_choice(found[b][i]) if i < len(found[b]) else "" for b in t.budgets)]
        for i in range(max(map(len, found.values()), default=0))
    ]
    several = len(problems(t)) > 1
    caption = "The best of all solvers and levels at each budget, with the error over the least" + (
        " on each problem, averaged geometrically" if several else ""
    )
    head = ["", *(f"{b} NFE" for b in t.budgets)]
    return part("parts.html", "table", head, rows, caption, "best-of") if rows else Markup("")


def _choice(choice: Choice) -> Markup:
    return part(_PAGE, "choice", choice.solver, written(choice.factor), choice.levels)


def _map(grid: Grid, index: int, name: str) -> Markup:
    headings = list(dict.fromkeys(heading for heading, _ in grid.columns))
    starts = {next(c for c in grid.columns if c[0] == heading) for heading in headings}
    spans = [(heading, sum(c[0] == heading for c in grid.columns)) for heading in headings]
    edges = {column: "start" if column in starts else "" for column in grid.columns}
    budgets = [(column[1], edge) for column, edge in edges.items()]
    rows = [
        (row, written(grid.means[row]), [_cell(grid.cells.get((row, c)), edge) for c, edge in edges.items()])
        for row in grid.rows
    ]
    least = [(_tiny(grid.best[column]), edge) for column, edge in edges.items()] if grid.best else []
    title = grid.title or metric(name).title
    caption = f"{title}: {metric(name).axis} over the least in the column, by levels and evaluations"
    return part(_PAGE, "map", index, title, caption, spans, budgets, rows, least)


def _cell(factor: float | None, edge: str) -> tuple[str, str]:
    """What is written in a cell, and its classes."""
    looks = ["none"] if factor is None else [f"h{shade(factor)}", *(["top"] if factor < 1.0 + 1e-9 else [])]
    return "" if factor is None else written(factor), " ".join([*looks, *([edge] if edge else [])])


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
