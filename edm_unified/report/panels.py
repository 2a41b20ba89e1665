"""The figures of a report: single panels as SVG for the page, the same panels together as PNG files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from edm_unified.report import curves, heat, images, noise_levels, plots
from edm_unified.report.data import ReportData, image_like, metric
from edm_unified.report.draw import PANEL, Palette, dash, margins, png, svg
from edm_unified.report.ranking import Table, number, tabulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


def figures(data: ReportData, dpi: int = 150) -> dict[str, bytes]:
    """PNG files on white: ``{"error_vs_nfe.png": …, "schedules.png": …}``; a figure with nothing to show is absent."""
    table = tabulate(data)
    shown = curves.drawn_schedules(table.methods)
    files: dict[str, bytes] = {}
    if heat.is_crowded(table):
        maps = heat.grids(table)
        for i, grid in enumerate(maps):
            files[f"heatmap-{i}.png" if i else "heatmap.png"] = heat.heat_png(grid, table.rank_by or "", dpi)
    elif table.metrics:
        files["error_vs_nfe.png"] = _errors(data, table, dpi)
    if data.sweep and table.metrics:
        files["sweep.png"] = _sweep_png(data, table, dpi)
    if shown:
        files["schedules.png"] = _schedules(shown, dpi)
        files["trajectories.png"] = _trajectories(shown, dpi)
    if not heat.is_crowded(table) and any(len(m.levels) for m in table.methods):
        files["levels.png"] = _levels(table, dpi)
    if not heat.is_crowded(table) and pictures(data, table):
        files["samples.png"] = _samples(data, table, dpi)
    return files


def error_panels(data: ReportData, table: Table) -> dict[str, Markup]:
    """metric -> SVG."""
    return {
        name: svg(
            lambda figure, palette, name=name: _error(figure, palette, data, table, name),  # type: ignore[misc]
            f"error-{i}",
            f"{metric(name).title} against network evaluations, one line per method; the values are in the tables",
        )
        for i, name in enumerate(table.metrics)
    }


def sweep_panels(data: ReportData, table: Table) -> dict[str, Markup]:
    """metric -> SVG of it against the parameter whose values were compared; nothing where none was."""
    if not data.sweep:
        return {}
    size = (PANEL[0], PANEL[1] + _sweep_foot(table) - 0.5)
    return {
        name: svg(
            lambda figure, palette, name=name: _against(figure, palette, data, table, name),  # type: ignore[misc]
            f"sweep-{i}",
            f"{metric(name).title} against {data.sweep}; the values are in the tables",
            size,
        )
        for i, name in enumerate(table.metrics)
    }


def _sweep_foot(table: Table) -> float:
    """Inches below the axes: the axis, and the names of the lines."""
    series = len({m.series for m in table.methods})
    rows = series * len(table.budgets) if series > 1 else math.ceil(len(table.budgets) / 3)
    return 0.6 + 0.17 * rows


def _against(figure: Figure | SubFigure, palette: Palette, data: ReportData, table: Table, name: str) -> None:
    plots.error_against_parameter(margins(figure, 0.66, bottom=_sweep_foot(table)), palette, data, table, name)


def _sweep_png(data: ReportData, table: Table, dpi: int) -> bytes:
    panel = (PANEL[0], PANEL[1] + _sweep_foot(table) - 0.5)
    columns, size = _grid(len(table.metrics), 3, panel)

    def draw(figure: Figure, palette: Palette) -> None:
        parts = figure.subfigures(math.ceil(len(table.metrics) / columns), columns, squeeze=False).flat
        for part, name in zip(parts, table.metrics, strict=False):
            _against(part, palette, data, table, name)

    return png(draw, size, dpi)


def schedule_panels(table: Table) -> list[Markup]:
    """σ(t) and s(t) as SVG; nothing where no method has a schedule to draw."""
    shown = curves.drawn_schedules(table.methods)
    if not shown:
        return []
    known = ", ".join(f.label for f in shown)

    def noise(figure: Figure, palette: Palette) -> None:
        curves.noise_against_time(margins(figure, 0.62), palette, shown)

    def scale(figure: Figure, palette: Palette) -> None:
        curves.scale_against_time(margins(figure, 0.5), palette, shown)

    return [
        svg(noise, "sigma", f"Noise level σ against time for the schedules {known}"),
        svg(scale, "scale", f"Scale s against time for the schedules {known}"),
    ]


def trajectory_panels(table: Table) -> dict[str, Markup]:
    """schedule label -> SVG."""
    return {
        drawn.label: svg(
            lambda figure, palette, drawn=drawn: _trajectory(figure, palette, drawn),  # type: ignore[misc]
            f"path-{i}",
            f"Trajectories of a two-mode distribution in one dimension under the schedule {drawn.label}",
            (PANEL[0], 2.9),
        )
        for i, drawn in enumerate(curves.drawn_schedules(table.methods))
    }


def levels_panel(table: Table) -> Markup | None:
    """The strip plot of noise levels as SVG, or nothing."""
    if not any(len(m.levels) for m in table.methods):
        return None
    shape = (4.7, noise_levels.levels_height(table.methods))

    def draw(figure: Figure, palette: Palette) -> None:
        noise_levels.levels(margins(figure, 0.12, 0.12, 0.5, 0.1), palette, table.methods)

    return svg(
        draw, "levels", "Noise levels visited by each method, from noise on the left to data on the right", shape
    )


def samples_svg(samples: Any, limits: tuple[float, float, float, float], index: int, name: str, alt: str) -> Markup:
    """Vectors as a small scatter plot, signals as curves."""
    return svg(lambda figure, palette: images.draw(figure, palette, samples, limits, index), name, alt, (3.0, 2.8))


def pictures(data: ReportData, table: Table) -> list[tuple[str, int, Any]]:
    """(label, index of the method or -1, samples) in the order shown: data, exact endpoints, methods."""
    unknown = set(data.samples) - {m.label for m in table.methods}
    if unknown:
        raise ValueError(f"samples: no method is labelled {min(unknown)!r}; keys must be labels of methods")
    first = [("data", -1, data.data_samples), ("exact endpoints", -1, data.reference_samples)]
    own = [(m.label, i, data.samples[m.label]) for i, m in enumerate(table.methods) if m.label in data.samples]
    return [p for p in first if p[2] is not None] + own if own or data.reference_samples is not None else []


def _error(figure: Figure, palette: Palette, data: ReportData, table: Table, name: str) -> None:
    ax = margins(figure, 0.66, plots.name_room(table.methods, PANEL[1] - 0.8))
    plots.error_against_nfe(ax, palette, table, name, data.floors.get(name))


def _trajectory(figure: Figure, palette: Palette, drawn: curves.DrawnSchedule) -> None:
    curves.trajectories(margins(figure, 0.58, 0.15, 0.45, 0.45), palette, drawn)


def _grid(panels: int, columns: int, panel: tuple[float, float], foot: float = 0.0) -> tuple[int, tuple[float, float]]:
    """Columns, and the size in inches of a figure that holds so many panels."""
    columns = min(columns, panels)
    return columns, (columns * panel[0], math.ceil(panels / columns) * panel[1] + foot)


def _errors(data: ReportData, table: Table, dpi: int) -> bytes:
    columns, size = _grid(len(table.metrics), 3, PANEL)
    rows = math.ceil(len(table.metrics) / columns)

    def draw(figure: Figure, palette: Palette) -> None:
        for part, name in zip(figure.subfigures(rows, columns, squeeze=False).flat, table.metrics, strict=False):
            box = _box(PANEL, 0.66, plots.name_room(table.methods, PANEL[1] - 0.8), 0.5, 0.3)
            plots.error_against_nfe(part.add_axes(box), palette, table, name, data.floors.get(name))

    return png(draw, size, dpi)


def _schedules(shown: list[curves.DrawnSchedule], dpi: int) -> bytes:
    panel = (4.5, 3.5)

    def draw(figure: Figure, palette: Palette) -> None:
        from matplotlib.lines import Line2D

        share = 2 * panel[0] / size[0]
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(share, 1 - share))[0]
        one, two = left.subfigures(1, 2, squeeze=False)[0]
        curves.noise_against_time(one.add_axes(_box(panel, 0.62, 0.12, 0.5, 0.3)), palette, shown)
        curves.scale_against_time(two.add_axes(_box(panel, 0.5, 0.12, 0.5, 0.3)), palette, shown)
        handles = [
            Line2D([], [], color=palette.line(f.index), linestyle=dash(f.index), linewidth=1.6, label=f.label)
            for f in shown
        ]
        right.legend(handles=handles, loc="center left", frameon=False, handlelength=3, labelcolor=palette.fg)

    size = (2 * panel[0] + 0.7 + 0.09 * max(len(f.label) for f in shown), panel[1])
    return png(draw, size, dpi)


def _trajectories(shown: list[curves.DrawnSchedule], dpi: int) -> bytes:
    panel = (4.5, 2.9)
    columns, size = _grid(len(shown), 3, panel)

    def draw(figure: Figure, palette: Palette) -> None:
        parts = figure.subfigures(math.ceil(len(shown) / columns), columns, squeeze=False).flat
        for part, drawn in zip(parts, shown, strict=False):
            curves.trajectories(part.add_axes(_box(panel, 0.58, 0.15, 0.45, 0.45)), palette, drawn)

    return png(draw, size, dpi)


def _levels(table: Table, dpi: int) -> bytes:
    def draw(figure: Figure, palette: Palette) -> None:
        noise_levels.levels(margins(figure, 0.12, 0.12, 0.5, 0.1), palette, table.methods)

    return png(draw, (8.0, noise_levels.levels_height(table.methods)), dpi)


def _samples(data: ReportData, table: Table, dpi: int) -> bytes:
    shown = [p for p in pictures(data, table) if p[2] is not None]
    columns, size = _grid(len(shown), 5, (2.6, 2.95))
    limits = images.shared_frame(shown)

    def draw(figure: Figure, palette: Palette) -> None:
        parts = figure.subfigures(math.ceil(len(shown) / columns), columns, squeeze=False).flat
        for part, (label, index, samples) in zip(parts, shown, strict=False):
            if image_like(samples):
                ax = part.add_axes(_box((2.6, 2.95), 0.08, 0.08, 0.06, 0.34))
                small = images.thumbnails(samples)
                columns_here = images.columns_for(len(small), *small.shape[2:])
                ax.imshow(images.mosaic(small, columns_here), interpolation="nearest")
                ax.set_axis_off()
            else:
                ax = images.draw(part, palette, samples, limits, index, top=0.34)
            ax.set_title(label, loc="left", color=palette.fg if index < 0 else palette.line(index), fontsize=10)

    return png(draw, size, dpi)


def _box(panel: tuple[float, float], left: float, right: float, bottom: float, top: float) -> Any:
    width, height = panel
    return (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)


def caption(data: ReportData, table: Table, label: str) -> str:
    """What is said below a method's samples: evaluations, and its error or its ranking metric."""
    cell = table.cells.get((label, table.grid_budget or 0))
    if cell is None:
        return ""
    name = "error_median" if "error_median" in cell.scores else table.rank_by
    score = cell.scores.get(name or "")
    nfe = "" if np.isnan(cell.nfe) else f"{cell.nfe:g} NFE"
    if score is None or name is None:
        return nfe
    value = "diverged" if score.value is None else f"{metric(name).short} {number(score.value)}"
    return ", ".join(part for part in (nfe, value) if part)
