"""Render figures: one drawing function for each, as SVG for the page and as PNG for files.

For the page a figure becomes SVG in which every colour is a CSS variable, so that it follows light, dark and print;
for files (README, papers) the same figure becomes a PNG on white. Nothing here touches pyplot, so there is no global
state but matplotlib's rcParams, which are set in a ``with`` block around each rendering.

Text in SVG stays text: it can be searched and read aloud, and it is drawn in the page's own font.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from edm_unified.report.data import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = 10
"""How many line colours there are: --m0 to --m9 in style.css."""

PANEL = (4.5, 3.5)
"""Width and height of one panel in inches. On a 375 px phone a panel fills the width and its text is 10 px high."""

_MARKERS = "osD^vP*X<>hd"
_DASHES: tuple[tuple[float, tuple[float, ...] | None], ...] = (
    (0, None),
    (0, (5, 1.6)),
    (0, (1.2, 1.3)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (9, 2)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (2.6, 2.6)),
)


class Palette(NamedTuple):
    """The colours of a rendering: real ones for PNG, placeholders for SVG that become CSS variables."""

    fg: str
    muted: str
    grid: str
    lines: tuple[str, ...]

    def line(self, index: int) -> str:
        return self.lines[index % COLOURS]


INK = Palette(
    "#1a2230",
    "#586273",
    "#dde1e8",
    (
        *("#1f5fbf", "#c2410c", "#15803d", "#a21caf", "#a16207"),
        *("#0e7490", "#7c3aed", "#be123c", "#4d7c0f", "#475569"),
    ),
)
_SENTINEL = Palette("#010203", "#010204", "#010205", tuple(f"#0a0b{i:02x}" for i in range(COLOURS)))
_VARIABLES = {
    "#010203": "var(--fg)",
    "#010204": "var(--muted)",
    "#010205": "var(--grid)",
    **{colour: f"var(--m{i})" for i, colour in enumerate(_SENTINEL.lines)},
}


def dash(index: int) -> Any:
    """The dash pattern of method ``index``; with colour and marker it is unique for the first 70 methods and more."""
    return _DASHES[index % len(_DASHES)]


def marker(index: int) -> str:
    """The marker of method ``index``."""
    return _MARKERS[index % len(_MARKERS)]


_NOT_OF_A_FIGURE = frozenset({"backend", "backend_fallback", "interactive", "toolbar"})
"""Settings of windows, which this package never opens: the user's stay."""


@contextmanager
def settings() -> Iterator[None]:
    """While open, matplotlib's own defaults and our few changes in the place of the user's settings.

    Every figure of the package is made and saved inside of it.
    """
    import matplotlib

    own: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "edm_unified",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.labelsize": 9.5,
        "axes.unicode_minus": True,
        "text.usetex": False,
        "text.parse_math": False,  # a $ in a user's label is a dollar
        "axes.spines.top": False,
        "axes.spines.right": False,
        "path.simplify": True,
        "path.simplify_threshold": 0.2,
    }
    default = {name: value for name, value in matplotlib.rcParamsDefault.items() if name not in _NOT_OF_A_FIGURE}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the font, if anyone has
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        with matplotlib.rc_context({**default, **own}):  # type: ignore[dict-item]
            yield


Draw = Callable[["Figure", Palette], object]


def svg(draw: Draw, name: str, alt: str, size: tuple[float, float] = PANEL) -> Markup:
    """The figure as an ``<svg>`` element to be put in a page, ids prefixed with ``name``."""
    from matplotlib.figure import Figure

    with settings():
        figure = Figure(figsize=size, dpi=72)
        figure.patch.set_visible(False)
        draw(figure, _SENTINEL)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = printable(file.getvalue())
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)  # its rules would hold in all the page
    text = re.sub(r"<[^<>]*>", lambda tag: _adapt(tag.group(), name), text)  # tags only: labels stay as they are
    text = re.sub(r"\n\s*", "\n", text)
    width, height = (round(72 * x) for x in size)
    head = f'<svg class="plot" role="img" aria-label="{escape(printable(alt))}" viewBox="0 0 {width} {height}">'
    return Markup(re.sub(r"^<svg[^>]*>", lambda _: head, text, count=1).strip())


def _adapt(tag: str, name: str) -> str:
    """One tag of matplotlib's, for a page that holds many figures and sets its own colours and font."""
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, variable)
    # Groups of one method become classes, so that the legend can pick them out; all other ids are made unique.
    tag = re.sub(r'^<g id="(m\d+)"', r'<g class="m \1"', tag)
    tag = re.sub(r'^<g id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|[xy]tick)_?\d+"', "<g", tag, flags=re.I)
    if "data:" in tag:  # an embedded bitmap: matplotlib names it by its content
        return re.sub(r' id="[^"]*"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'xlink:href="#', f'href="#{name}-', tag)
    # `font: 9px 'DejaVu Sans', ...` or `font-family: ...` name matplotlib's font; the page's own is inherited instead.
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"font: (?:(?:normal|italic) )?(bold |\d00 )?([\d.]+)px [^;\"]*", _font, tag)
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)


def _font(match: re.Match[str]) -> str:
    weight, size = match.groups()
    return f"font-size: {size}px" + (
        f"; font-weight: {'600' if weight.strip() == 'bold' else weight}" if weight else ""
    )


def png(draw: Draw, size: tuple[float, float], dpi: int) -> bytes:
    """The figure as a PNG file on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with settings():
        figure = Figure(figsize=size, dpi=dpi, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure, INK)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def margins(
    figure: Figure | SubFigure, left: float = 0.5, right: float = 0.12, bottom: float = 0.5, top: float = 0.3
) -> Axes:
    """One axes with margins in inches."""
    box = figure.bbox  # in pixels, of a part of a figure too
    width, height = (side / figure.figure.dpi for side in (box.width, box.height))
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def legend_below(ax: Axes, palette: Palette, columns: int = 3) -> None:
    """The names of the lines in rows under the axis, at a fixed place: matplotlib's "best" depends on the clock."""
    ax.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.17), ncols=columns, frameon=False, labelcolor=palette.fg,
        fontsize=8, borderaxespad=0, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip


def dress(ax: Axes, palette: Palette, title: str = "", x: str = "", y: str = "") -> None:
    """The look shared by all axes: thin muted frame, faint grid, title at the left above the frame."""
    ax.set_facecolor("none")
    ax.grid(True, which="major", color=palette.grid, linewidth=0.6)
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_color(palette.muted)
        spine.set_linewidth(0.7)
    ax.tick_params(colors=palette.muted, which="both", width=0.7, length=3)
    ax.tick_params(which="minor", length=1.5)
    if title:
        ax.set_title(title, loc="left", color=palette.fg, pad=7)
    ax.set_xlabel(x, color=palette.muted, labelpad=3)
    ax.set_ylabel(y, color=palette.muted, labelpad=3)


def spread_apart(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near as possible to ``wanted``, at least ``gap`` apart, within [low, high] if they fit.

    Least squares under an order constraint: neighbours that collide are pooled about their common mean.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, list[int]]] = []  # (position of its first member, members)
    for i in order:
        blocks.append((wanted[i], [i]))
        while len(blocks) > 1 and blocks[-2][0] + gap * len(blocks[-2][1]) > blocks[-1][0]:
            members = blocks[-2][1] + blocks[-1][1]
            del blocks[-2:]
            blocks.append((sum(wanted[j] - gap * k for k, j in enumerate(members)) / len(members), members))
    placed = {j: start + gap * k for start, members in blocks for k, j in enumerate(members)}
    for k, i in enumerate(order):  # push in from the ends; order and gaps are kept
        placed[i] = max(placed[i], low + gap * k)
    for k, i in enumerate(reversed(order)):
        placed[i] = min(placed[i], high - gap * k)
    return [placed[i] for i in range(len(wanted))]
