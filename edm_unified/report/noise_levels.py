"""Figure of the noise levels that each method visits: a fall is solved, a rise is noised, a repeat is corrected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import MethodView
from edm_unified.report.draw import Palette, dress
from edm_unified.report.plots import power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 1e3
"""Levels above this are drawn at the left edge: σ = 10⁶, which stands for ∞, would take up half of the axis."""
_ROW = 0.46  # inches for one method


def levels_height(methods: Sequence[MethodView]) -> float:
    """Inches that :func:`levels` needs for these methods."""
    return 0.62 + _ROW * sum(bool(len(m.levels)) for m in methods)


def levels(ax: Axes, palette: Palette, methods: Sequence[MethodView]) -> None:
    """A row per method: its noise levels from left (pure noise) to right (data); rises as arcs, repeats as rings."""
    from matplotlib.ticker import FixedLocator, NullLocator

    rows = [(i, m) for i, m in enumerate(methods) if len(m.levels)]
    positive = [x for _, m in rows for x in m.levels if x > 0 and math.isfinite(x)] or [1e-2, 1e2]
    least, most = max(min(positive), 1e-5), min(max(positive), MOST)
    if not least < most:  # one level, or all beyond the edge
        least = most / 10
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
        own = np.array([x if x > 0 else zero for x in method.levels], dtype=float)
        walk = own.clip(zero, most)
        ax.axhline(row, color=palette.grid, linewidth=0.8)
        ax.text(
            0.0,
            row - 0.33,
            _cut(method.label, 54),
            transform=ax.get_yaxis_transform(),
            color=colour,
            fontsize=9,
            gid=group,
        )
        fell = np.concatenate([[True], own[1:] < own[:-1]])
        same = np.concatenate([[False], own[1:] == own[:-1]])
        beyond = own > most
        style: dict[str, Any] = {"color": colour, "linestyle": "none", "gid": group}
        dots = walk[fell & ~beyond]
        ax.plot(dots, np.full(len(dots), row), marker="o", markersize=4, markeredgewidth=0, **style)
        if beyond.any():
            ax.plot(most, row, marker="<", markersize=5.5, markeredgewidth=0, **style)
        if same.any():
            ax.plot(walk[same], np.full(same.sum(), row), marker="o", markersize=7, fillstyle="none", **style)
        _rises(ax, palette, walk, row, group)
        note = (
            ""
            if len(method.label) > 36
            else f"{len(walk) - 1} moves" + (f", {rises} rises" if (rises := int((~fell & ~same).sum())) else "")
        )
        ax.text(
            zero * (most / least) ** 0.012,
            row - 0.33,
            note,
            color=palette.muted,
            fontsize=8,
            ha="right",
            gid=group,
        )


def _cut(label: str, most: int) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


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
