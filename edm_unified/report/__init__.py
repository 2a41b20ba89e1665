"""One self-contained HTML page, and PNG figures, from the records of a comparison.

``build(data)`` returns the page: tables ranked per budget, error against evaluations, samples side by side, the
levels each method visits, its schedule, trajectories, definitions, environment and commands. It fetches nothing,
works without JavaScript, follows light and dark, prints, and is a pure function of :class:`ReportData`.

``figures(data)`` returns the same figures as PNG files; ``samples_png`` draws samples of any
kind, ``samples_grid_png`` one grid of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edm_unified.report.data import Key, MethodView, Metric, ReportData
from edm_unified.report.ranking import Table, places, short_labels, summary, tabulate

__all__ = [
    "Key",
    "MethodView",
    "Metric",
    "ReportData",
    "Table",
    "build",
    "figures",
    "pictured",
    "places",
    "samples_grid_png",
    "samples_png",
    "short_labels",
    "summary",
    "tabulate",
]


def build(data: ReportData) -> str:
    """The report as one HTML document."""
    from edm_unified.report.page import build as build_page

    return build_page(data)


def figures(data: ReportData, dpi: int = 150) -> dict[str, bytes]:
    """The figures as PNG files, by file name."""
    from edm_unified.report.panels import figures as draw_figures

    return draw_figures(data, dpi)


def samples_grid_png(samples: Any, columns: int = 8, scale: int | None = None) -> bytes:
    """Images (n, C, H, W) in [-1, 1] as one PNG file; see :func:`edm_unified.report.images.samples_grid_png`."""
    from edm_unified.report.images import samples_grid_png as draw_grid

    return draw_grid(samples, columns, scale)


def pictured(shape: Sequence[int]) -> bool:
    """Whether samples of that shape have a picture; see :func:`edm_unified.report.images.pictured`."""
    from edm_unified.report.images import pictured as known

    return known(shape)


def samples_png(samples: Any, labels: Any = None) -> bytes:
    """Images, signals or vectors as one PNG file; see :func:`edm_unified.report.images.samples_png`."""
    from edm_unified.report.images import samples_png as draw_samples

    return draw_samples(samples, labels)
