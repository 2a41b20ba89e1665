"""Error against evaluations, with the name of each method at the end of its line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import MethodView, MetricValue, ReportData, Result, metric
from edm_unified.report.draw import Palette, dash, dress, legend_below, marker, spread_apart
from edm_unified.report.ranking import Table, superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 20
_LONGEST_NAME = 16
_LINE = 10.5  # points from one label to the next


def names(methods: Sequence[MethodView]) -> list[str]:
    """What is written at the ends of the lines: the labels, or their numbers in the legend if they would not fit."""
    if len(methods) <= _MOST_NAMES and all(len(m.label) <= _LONGEST_NAME for m in methods):
        return [m.label for m in methods]
    return [str(i + 1) for i in range(len(methods))]


def name_room(methods: Sequence[MethodView], height: float) -> float:
    """Inches that the labels need at the right of axes of ``height`` inches."""
    longest = max((len(name) for name in names(methods)), default=1)
    return 0.28 + _columns(len(methods), height * 72) * (0.07 + 5.3 / 72 * longest) - 0.07


def _columns(count: int, height: float) -> int:
    """Columns in which so many labels fit beside axes of ``height`` points."""
    return max(1, math.ceil(count * _LINE / (1.1 * height + _LINE)))


def power_of_ten(value: float, _: int | None = None) -> str:
    """A tick label without mathtext, whose glyphs would be set apart one by one in SVG."""
    exponent = round(math.log10(value)) if value > 0 else 0
    if not -3 < exponent < 4:
        return f"10{superscript(exponent)}"
    return f"{10.0**exponent:.{max(0, -exponent)}f}"


def error_against_nfe(ax: Axes, palette: Palette, table: Table, name: str, given: Sequence[float] | None) -> None:
    """One panel: metric ``name`` against counted evaluations, log-log, a line and an interval band per method."""
    shown = metric(name)
    dress(ax, palette, shown.title, "network evaluations (NFE)", shown.axis)
    lines = [_line(table, method.label, name, shown.best) for method in table.methods]
    floor = None if given is None else MetricValue(given[0], given[1], given[2], 1, 0).magnitude(shown.best)
    low, high = _limits([v for line in lines for v in line[:, 1]], floor)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _budget_ticks(ax, table.budgets, min((float(line[0, 0]) for line in lines if len(line)), default=math.inf))
    value_ticks(ax, low, high)
    if floor is not None:
        _draw_floor(ax, palette, floor)
    for i, line in enumerate(lines):
        fine = np.isfinite(line[:, 1])
        if not len(line):
            continue
        colour, group = palette.line(i), f"m{i}"
        nfe = line[fine, 0]
        value, below, above = np.maximum(line[fine, 1:].T, low * 1.01)  # an unbiased distance may be negative
        style: dict[str, Any] = {"color": colour, "linewidth": 1.4, "linestyle": dash(i), "gid": group}
        ax.fill_between(nfe, below, above, color=colour, alpha=0.1, linewidth=0, gid=group)
        ax.plot(nfe, value, marker=marker(i), markersize=4, markeredgewidth=0, clip_on=True, **style)
        lost = line[~fine, 0]
        if len(lost):
            ax.plot(
                lost,
                np.full(len(lost), 0.97),
                transform=ax.get_xaxis_transform(),
                color=colour,
                marker="x",
                markersize=6,
                markeredgewidth=1.6,
                linestyle="none",
                gid=group,
            )
    _name_lines(ax, palette, lines, names(table.methods))


def curves_against_parameter(data: ReportData, table: Table, name: str) -> dict[tuple[str, int], np.ndarray]:
    """(series, budget) -> rows (parameter, value, low, high) by rising parameter, infinite where the run diverged."""
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for method in table.methods:
        for budget in table.budgets:
            cell = table.cells.get((method.label, budget))
            if cell is not None and name in cell.scores and math.isfinite(method.swept):
                row = (method.swept, *cell.scores[name].magnitude(metric(name).best))
                found.setdefault((method.series, budget), []).append(row)
    return {which: np.array(sorted(rows)) for which, rows in found.items()}


def error_against_parameter(ax: Axes, palette: Palette, data: ReportData, table: Table, name: str) -> None:
    """One panel: metric ``name`` against ``data.sweep``, a line per budget and series; the recipe's value is marked."""
    shown = metric(name)
    dress(ax, palette, shown.title, data.sweep, shown.axis)
    lines = curves_against_parameter(data, table, name)
    low, high = _limits([v for line in lines.values() for v in line[:, 1]], None)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    value_ticks(ax, low, high)
    several = len({series for series, _ in lines}) > 1
    for i, ((series, budget), line) in enumerate(lines.items()):
        line = line[np.isfinite(line[:, 1])]
        value, below, above = np.maximum(line[:, 1:].T, low * 1.01)
        colour = palette.line(i)
        words = f"{series}, {budget}" if several else str(budget)
        ax.fill_between(line[:, 0], below, above, color=colour, alpha=0.1, linewidth=0)
        ax.plot(
            line[:, 0], value, marker=marker(i), markersize=4, linewidth=1.4, linestyle=dash(i), color=colour,
            label=f"{words} NFE",
        )  # fmt: skip
    if math.isfinite(data.usual):
        ax.axvline(data.usual, color=palette.muted, linewidth=0.9, dashes=(2, 2))
        ax.annotate(
            f"recipe's own: {data.usual:g}", (data.usual, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", color=palette.muted, fontsize=8,
        )  # fmt: skip
    legend_below(ax, palette, 1 if several else 3)


def _draw_floor(ax: Axes, palette: Palette, floor: tuple[float, float, float]) -> None:
    """The level of the exact endpoints and its interval; at the lower edge where it is below everything drawn."""
    bottom = ax.get_ylim()[0]
    value, low, high = (max(x, bottom) for x in floor)
    lowest = value < 1.2 * bottom
    ax.axhspan(low, high, color=palette.muted, alpha=0.15, linewidth=0)
    ax.axhline(value, color=palette.muted, linewidth=0.9, dashes=(2, 2))
    ax.annotate(
        "exact endpoints below" if floor[0] < bottom else "exact endpoints",
        (0, value),
        (4, 3 if lowest else -3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="bottom" if lowest else "top",
        color=palette.muted,
        fontsize=8,
    )


def _line(table: Table, label: str, name: str, best: float | None) -> np.ndarray:
    """Rows (nfe, value, low, high) of one method, infinite where it diverged."""
    rows = []
    for budget in table.budgets:
        cell: Result | None = table.cells.get((label, budget))
        if cell is not None and name in cell.scores:
            nfe = cell.nfe if math.isfinite(cell.nfe) and cell.nfe > 0 else budget
            rows.append((nfe, *cell.scores[name].magnitude(best)))
    return np.array(rows, dtype=float).reshape(-1, 4)


def _limits(values: list[float], floor: Sequence[float] | None) -> tuple[float, float]:
    """The range worth drawing: all of it, unless a method about to diverge would flatten everything else."""
    array = np.array([v for v in values if math.isfinite(v) and v > 0] or [0.1, 10.0])
    if floor is not None and floor[0] > 0.1 * array.min():
        array = np.append(array, floor[0])
    top = min(array.max(), 300 * np.median(array))
    bottom = max(array.min(), 1e-12 * top)
    room = (top / bottom) ** 0.06 * 1.1
    return bottom / room ** (1 if floor is None else 1.7), top * room  # the floor's name is written below it


def _budget_ticks(ax: Axes, budgets: Sequence[int], least: float) -> None:
    """Ticks at the budgets; the axis begins at the ``least`` evaluations, as 9 of a budget of 10."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if not budgets:
        return
    span = max(budgets[-1] / budgets[0], 1.5)
    ax.set_xlim(min(budgets[0], least) / span**0.05, budgets[-1] * span**0.04)
    kept: list[int] = []
    for budget in budgets:  # ticks closer than this would print over each other
        if not kept or math.log(budget / kept[-1]) > 0.075 * math.log(span):
            kept.append(budget)
    ax.xaxis.set_major_locator(FixedLocator([float(b) for b in kept]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(b) for b in kept])


def value_ticks(ax: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = math.log10(high / low)
    if decades > 2.6:
        ax.yaxis.set_major_locator(LogLocator(numticks=7))
        ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        ax.yaxis.set_minor_formatter(NullFormatter())
        return
    steps = (1, 2, 5) if decades > 0.5 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    first = math.floor(math.log10(low))
    ticks = [m * 10.0**e for e in range(first, first + 4) for m in steps if low <= m * 10.0**e <= high]
    if len(ticks) < 3:  # so narrow a range is as good as linear
        near = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ticks = [tick for tick in near if low <= tick <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.4g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _name_lines(ax: Axes, palette: Palette, lines: Sequence[np.ndarray], labels: Sequence[str]) -> None:
    """Write each label beside the end of its line, moved apart where lines end together, with a thin leader."""
    drawn = [i for i, line in enumerate(lines) if len(line)]
    if not drawn:
        return
    low, high = ax.get_ylim()
    ends = []
    for i in drawn:
        value = lines[i][-1, 1]
        height = math.log(max(value, low) / low) / math.log(high / low) if math.isfinite(value) else 1.0
        ends.append(min(height, 1.0))
    height = ax.get_window_extent().height * 72 / ax.figure.dpi  # in points, whatever the rendering
    columns = _columns(len(drawn), height)
    places = spread_apart(ends, min(_LINE / height / columns, 1.1 / len(drawn)), -0.05, 1.05)
    turn = {k: place % columns for place, k in enumerate(sorted(range(len(drawn)), key=lambda k: places[k]))}
    step = (5.3 * max(map(len, labels)) + 5) / ax.get_window_extent().width / 72 * ax.figure.dpi
    for k, (i, end, place) in enumerate(zip(drawn, ends, places, strict=True)):
        colour = palette.line(i)
        last = math.log(lines[i][-1, 0] / ax.get_xlim()[0]) / math.log(ax.get_xlim()[1] / ax.get_xlim()[0])
        ax.plot(
            (min(last, 1.0), 1.0, 1.045),
            (end, end, place),
            transform=ax.transAxes,
            clip_on=False,
            color=colour,
            linewidth=0.5,
            gid=f"m{i}",
        )
        ax.text(
            1.055 + turn[k] * step,
            place,
            labels[i],
            transform=ax.transAxes,
            color=colour,
            fontsize=8.6,
            va="center_baseline",
            gid=f"m{i}",
        )
