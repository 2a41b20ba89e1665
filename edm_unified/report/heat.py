"""Many methods at a glance: what would be hundreds of lines in a plot is a table of factors with coloured cells.

A row is a solver (with its recipe, where several share a problem), a column one rule for the levels at one budget. A
cell is the error over the least error in its column, on that problem; over several problems, the geometric mean of
these factors. The colour follows the logarithm of the factor: 1 is the strongest, 100 and more is nearly blank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edm_unified.report.data import metric
from edm_unified.report.draw import Palette, png
from edm_unified.report.markup import scrolling, table, text
from edm_unified.report.ranking import Table, number, problems, superscript

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 24
"""With more methods than this, plots with a line and grids with a picture for each give way to heat maps."""

COLOURS = (
    *("#123f7d", "#1f5597", "#3468a9", "#7ea3d2", "#94b4dc"),
    *("#aac5e6", "#bfd4ee", "#d3e2f4", "#e6eef9", "#f7f9fd"),
)
"""The colours on white, from the best to 100 times its error; style.css has them, and those on black."""
WHITE_TEXT = 3
"""How many of them, from the first, are written on in white."""
_WORST = 4.0  # log10 of the factor that a missing or diverged run counts as, and of the largest that counts as it is


class Grid(NamedTuple):
    """A heat map: ``cells[row, column]`` is a factor, infinite where the run diverged, absent where there was none."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]
    cells: dict[tuple[str, tuple[str, int]], float]
    best: dict[tuple[str, int], float]
    """The least error in each column; empty where several problems are averaged."""
    means: dict[str, float]
    """Row -> geometric mean of its factors."""


class Choice(NamedTuple):
    """A solver on a rule for the levels, and its error over the least at that budget, averaged over the problems."""

    solver: str
    levels: str
    factor: float


def is_crowded(t: Table) -> bool:
    return len(t.methods) > MOST_LINES


def names(t: Table) -> dict[str, tuple[str, str]]:
    """Label -> (row, column heading) of every method of one problem."""
    rows = _joined(t, ("recipe", "solver", "renoising"))
    columns = _joined(t, ("schedule", "steps"))
    if not any(rows):  # one solver on many schedules: those are the rows
        rows, columns = columns, rows
    return {m.label: pair for m, pair in zip(t.methods, zip(rows, columns, strict=True), strict=True)}


def _joined(t: Table, fields: Iterable[str]) -> list[str]:
    varying = [f for f in fields if len({getattr(m.key, f) for m in t.methods}) > 1]
    parts = [_short([getattr(m.key, f) for m in t.methods]) for f in varying]
    return [" · ".join(part) for part in zip(*parts, strict=True)] if parts else [""] * len(t.methods)


def _short(values: Sequence[str]) -> list[str]:
    """Labels without what is in parentheses, where that is not needed to tell them apart."""
    kinds = {value: value.partition("(")[0] for value in values}
    alone = {value: list(kinds.values()).count(kind) == 1 for value, kind in kinds.items()}
    return [kinds[v] if alone[v] and len(v) > 24 else v for v in values]


def grids(t: Table) -> list[Grid]:
    """One heat map for each problem; where there are several, first that of their geometric mean."""
    if t.rank_by is None:
        return []
    single = [_grid(name, part, t.rank_by) for name, part in problems(t).items()]
    return [_averaged(single), *single] if len(single) > 1 else single


def _grid(title: str, t: Table, name: str) -> Grid:
    place = names(t)
    values: dict[tuple[str, tuple[str, int]], float] = {}
    for (label, budget), cell in t.cells.items():
        if name in cell.scores:
            row, heading = place[label]
            values[row, (heading, budget)] = cell.scores[name].magnitude(metric(name).best)[0]
    best: dict[tuple[str, int], float] = {}
    for (_, column), value in values.items():
        best[column] = min(value, best.get(column, math.inf))
    cells = {(row, column): _factor(value, best[column]) for (row, column), value in values.items()}
    headings = dict.fromkeys(heading for _, heading in place.values())
    columns = tuple((h, b) for h in headings for b in t.budgets if (h, b) in best)
    return _sorted(title, dict.fromkeys(row for row, _ in place.values()), columns, cells, best)


def _factor(value: float, best: float) -> float:
    return value / best if best > 0 else 1.0 if value == best else math.inf


def _averaged(single: Sequence[Grid]) -> Grid:
    rows = dict.fromkeys(row for grid in single for row in grid.rows)
    columns = [column for column in single[0].columns if all(column in grid.columns for grid in single)]
    cells = {}
    for row in rows:
        for column in columns:
            found = [grid.cells[row, column] for grid in single if (row, column) in grid.cells]
            if len(found) == len(single):
                cells[row, column] = _mean(found)
    return _sorted("All problems together", rows, tuple(columns), cells, {})


def _mean(factors: Sequence[float]) -> float:
    """Geometric mean; infinite where a run diverged."""
    return math.exp(math.fsum(map(math.log, factors)) / len(factors)) if math.inf not in factors else math.inf


def _sorted(
    title: str,
    rows: Iterable[str],
    columns: tuple[tuple[str, int], ...],
    cells: Mapping[tuple[str, tuple[str, int]], float],
    best: dict[tuple[str, int], float],
) -> Grid:
    def mean(row: str) -> float:
        logs = [min(_WORST, math.log10(cells.get((row, c), math.inf))) for c in columns]
        return math.fsum(logs) / len(logs)

    means = {row: mean(row) for row in rows} if columns else {}
    order = sorted(means, key=lambda row: means[row])
    return Grid(title, tuple(order), columns, dict(cells), best, {row: 10 ** means[row] for row in order})


def choices(t: Table) -> dict[int, list[Choice]]:
    """Budget -> every solver on every rule, best first: errors over the least on that problem, averaged over them."""
    if t.rank_by is None:
        return {}
    parts = problems(t)
    factors: dict[int, dict[tuple[str, str], list[float]]] = {b: {} for b in t.budgets}
    for part in parts.values():
        place, best = names(part), metric(t.rank_by).best
        for budget in t.budgets:
            values = {
                place[m.label]: part.cells[m.label, budget].scores[t.rank_by].magnitude(best)[0]
                for m in part.methods
                if (m.label, budget) in part.cells and t.rank_by in part.cells[m.label, budget].scores
            }
            least = min(values.values(), default=math.nan)
            for where, value in values.items():
                factors[budget].setdefault(where, []).append(_factor(value, least))
    return {
        budget: sorted(
            (Choice(*where, _mean(found)) for where, found in here.items() if len(found) == len(parts)),
            key=lambda choice: choice.factor,
        )
        for budget, here in factors.items()
    }


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
        "written the budget buys no step. Rows are in the order of their geometric mean, for which what is missing "
        f"counts as {10**_WORST:,.0f}.</p>"
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
