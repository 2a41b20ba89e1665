"""Error against evaluations, and the noise levels that each method visits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import Cell, MethodView, metric
from edm_unified.report.draw import Palette, dash, dress, marker, spread
from edm_unified.report.ranking import Table, superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMES = 20
_LONGEST_NAME = 16
_ROW = 0.46  # inches for one method in the figure of levels


def names(methods: Sequence[MethodView]) -> list[str]:
    """What is written at the ends of the lines: the labels, or their numbers in the legend if they would not fit."""
    if len(methods) <= _MOST_NAMES and all(len(m.label) <= _LONGEST_NAME for m in methods):
        return [m.label for m in methods]
    return [str(i + 1) for i in range(len(methods))]


def power_of_ten(value: float, _: int | None = None) -> str:
    """A tick label without mathtext, whose glyphs would be set apart one by one in SVG."""
    exponent = round(math.log10(value)) if value > 0 else 0
    if not -3 < exponent < 4:
        return f"10{superscript(exponent)}"
    return f"{10.0**exponent:.{max(0, -exponent)}f}"


def error_against_nfe(ax: Axes, palette: Palette, table: Table, name: str, floor: Sequence[float] | None) -> None:
    """One panel: metric ``name`` against counted evaluations, log-log, a line and an interval band per method."""
    shown = metric(name)
    dress(ax, palette, shown.title, "network evaluations (NFE)", f"|{shown.short}|" if shown.signed else shown.short)
    lines = [_line(table, method.label, name, shown.signed) for method in table.methods]
    low, high = _limits([v for line in lines for v in line[:, 1]], floor)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    _budget_ticks(ax, table.budgets)
    _value_ticks(ax, low, high)
    if floor is not None:
        ax.axhspan(max(floor[1], low), max(floor[2], low), color=palette.muted, alpha=0.15, linewidth=0)
        ax.axhline(max(floor[0], low), color=palette.muted, linewidth=0.9, dashes=(2, 2))
        ax.annotate(
            "exact endpoints",
            (0, max(floor[0], low)),
            (4, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=palette.muted,
            fontsize=8,
        )
    for i, line in enumerate(lines):
        fine = np.isfinite(line[:, 1])
        if not len(line):
            continue
        colour, group = palette.line(i), f"m{i}"
        nfe, value, below, above = line[fine].T
        style: dict[str, Any] = {"color": colour, "linewidth": 1.4, "linestyle": dash(i), "gid": group}
        ax.fill_between(nfe, np.clip(below, low, None), above, color=colour, alpha=0.13, linewidth=0, gid=group)
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


def _line(table: Table, label: str, name: str, signed: bool) -> np.ndarray:
    """Rows (nfe, value, low, high) of one method, infinite where it diverged."""
    rows = []
    for budget in table.budgets:
        cell: Cell | None = table.cells.get((label, budget))
        if cell is not None and name in cell.scores:
            nfe = cell.nfe if math.isfinite(cell.nfe) and cell.nfe > 0 else budget
            rows.append((nfe, *cell.scores[name].magnitude(signed)))
    return np.array(rows, dtype=float).reshape(-1, 4)


def _limits(values: list[float], floor: Sequence[float] | None) -> tuple[float, float]:
    """The range worth drawing: all of it, unless a method about to diverge would flatten everything else."""
    array = np.array([v for v in values if math.isfinite(v) and v > 0] or [0.1, 10.0])
    if floor is not None and floor[0] > 0:
        array = np.append(array, floor[0])
    top = min(array.max(), 300 * np.median(array))
    bottom = max(array.min(), 1e-12 * top)
    room = (top / bottom) ** 0.06 * 1.1
    return bottom / room, top * room


def _budget_ticks(ax: Axes, budgets: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    if not budgets:
        return
    span = max(budgets[-1] / budgets[0], 1.5)
    ax.set_xlim(budgets[0] / span**0.05, budgets[-1] * span**0.04)
    kept: list[int] = []
    for budget in budgets:  # ticks closer than this would print over each other
        if not kept or math.log(budget / kept[-1]) > 0.075 * math.log(span):
            kept.append(budget)
    ax.xaxis.set_major_locator(FixedLocator([float(b) for b in kept]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(b) for b in kept])


def _value_ticks(ax: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(high / low)
    if decades > 2.6:
        ax.yaxis.set_major_locator(LogLocator(numticks=7))
        ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        ax.yaxis.set_minor_formatter(NullFormatter())
        return
    steps = (1, 2, 5) if decades > 0.5 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    first = math.floor(math.log10(low))
    ticks = [m * 10.0**e for e in range(first, first + 4) for m in steps if low <= m * 10.0**e <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.3g}"))
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
    gap = min(10.5 / height, 1.1 / max(len(drawn), 1))
    for i, end, place in zip(drawn, ends, spread(ends, gap, -0.05, 1.05), strict=True):
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
            1.055,
            place,
            labels[i],
            transform=ax.transAxes,
            color=colour,
            fontsize=8.6,
            va="center_baseline",
            gid=f"m{i}",
        )


def levels_height(methods: Sequence[MethodView]) -> float:
    """Inches that :func:`levels` needs for these methods."""
    return 0.62 + _ROW * sum(bool(len(m.levels)) for m in methods)


def levels(ax: Axes, palette: Palette, methods: Sequence[MethodView]) -> None:
    """A row per method: its noise levels from left (pure noise) to right (data); rises as arcs, repeats as rings."""
    from matplotlib.ticker import FixedLocator, NullLocator

    rows = [(i, m) for i, m in enumerate(methods) if len(m.levels)]
    positive = [x for _, m in rows for x in m.levels if x > 0 and math.isfinite(x)] or [1e-2, 1e2]
    least, most = max(min(positive), 1e-5), min(max(positive), 1e7)
    zero = least / (most / least) ** 0.07  # where σ = 0 is drawn on this log axis
    dress(ax, palette, "", "noise level σ, from noise to data (logarithmic, then 0)", "")
    ax.set_xscale("log")
    ax.set_xlim(most * (most / least) ** 0.03, zero / (most / least) ** 0.03)
    ax.set_ylim(len(rows) - 0.4, -0.68)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.grid(False, axis="y")
    decades = [10.0**e for e in range(math.ceil(math.log10(least) - 1e-9), math.floor(math.log10(most) + 1e-9) + 1)]
    shown = decades[:: max(1, math.ceil(len(decades) / 7))]
    ax.xaxis.set_major_locator(FixedLocator([*shown, zero]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([*map(power_of_ten, shown), "0"])
    ax.axvline(zero, color=palette.muted, linewidth=0.6, dashes=(2, 2))
    for row, (i, method) in enumerate(rows):
        colour, group = palette.line(i), f"m{i}"
        walk = np.array([x if x > 0 else zero for x in method.levels], dtype=float).clip(zero, most)
        ax.axhline(row, color=palette.grid, linewidth=0.8)
        ax.text(0.0, row - 0.27, method.label, transform=ax.get_yaxis_transform(), color=colour, fontsize=9, gid=group)
        fell = np.concatenate([[True], walk[1:] < walk[:-1]])
        same = np.concatenate([[False], walk[1:] == walk[:-1]])
        style: dict[str, Any] = {"color": colour, "linestyle": "none", "gid": group}
        ax.plot(walk[fell], np.full(fell.sum(), row), marker="o", markersize=4, markeredgewidth=0, **style)
        if same.any():
            ax.plot(walk[same], np.full(same.sum(), row), marker="o", markersize=7, fillstyle="none", **style)
        _rises(ax, palette, walk, row, group)
        note = f"{len(walk) - 1} moves" + (f", {rises} rises" if (rises := int((~fell & ~same).sum())) else "")
        ax.text(
            zero * (most / least) ** 0.012,
            row - 0.27,
            note,
            color=palette.muted,
            fontsize=8,
            ha="right",
            gid=group,
        )


def _rises(ax: Axes, palette: Palette, walk: np.ndarray, row: int, group: str) -> None:
    """Arcs over the row from each level up to the one it is noised to, drawn as one line with gaps."""
    arch = np.linspace(0, 1, 13)
    x: list[float] = []
    y: list[float] = []
    tops: list[float] = []
    for start, end in pairwise(walk):
        if end > start:
            x += [*np.exp(np.log(start) + arch * math.log(end / start)), math.nan]
            y += [*(row - 0.2 * np.sin(np.pi * arch)), math.nan]
            tops.append(end)
    if tops:
        ax.plot(x, y, color=palette.fg, linewidth=0.9, gid=group)
        ax.plot(tops, [row] * len(tops), "o", markersize=2.6, color=palette.fg, markeredgewidth=0, gid=group)
