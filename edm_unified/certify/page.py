"""The certificates as one page, in the clothes of the comparison's report: its style, its tables, its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from edm_unified.certify.certificate import Certificate
from edm_unified.certify.noise import STEPS
from edm_unified.certify.orders import BUDGETS, GRIDS
from edm_unified.certify.sameness import pairs
from edm_unified.certify.table import HEAD, LEGEND, alike, cells, digits, verdict
from edm_unified.report.draw import Palette, dress, margins, svg
from edm_unified.report.markup import figure, lines, section, table, text
from edm_unified.report.plots import power_of_ten
from edm_unified.report.ranking import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_WORDS = (
    "Each name was put to the test: mixtures in 1, 2 and 64 dimensions against scipy's DOP853, Gaussians against "
    "closed formulas with basis vectors for noise, and evaluations counted by a wrapper on the denoiser. A certificate "
    "fails where a measured order falls short of the stated one, where drift and noise do not belong to one SDE, or "
    "where a solver does not behave."
)


def build(certified: Sequence[Certificate], title: str) -> str:
    """One HTML document: no request leaves it, and it works without JavaScript."""
    sections = {
        "certificates": ("Certificates", _overview(certified)),
        "orders": ("Error against steps", _plots(certified)),
        "budgets": ("Error beside Heun's", _budgets(certified)),
        "schedules": ("Schedules", _schedules(certified)),
        "identities": ("Identities and near misses", _identities(certified)),
    }
    present = {name: pair for name, pair in sections.items() if pair[1]}
    links = "".join(f'<li><a href="#{name}">{name.capitalize()}</a></li>' for name in present)
    body = "".join(section(name, head, content) for name, (head, content) in present.items())
    style = files("edm_unified.report").joinpath("style.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="edm_unified">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#certificates">Skip to the certificates</a>\n'
        f"<header><h1>{text(title)}</h1>{lines(_WORDS)}{_facts(certified)}</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n'
        "<footer><p>Made by edm_unified. One file, no network: keep it, print it, send it.</p></footer>\n"
        "</body>\n</html>\n"
    )


def _facts(certified: Sequence[Certificate]) -> str:
    facts = {
        "Methods": str(len(certified)),
        "Pass": str(sum(c.passed for c in certified)),
        "Fail": str(sum(not c.passed for c in certified)),
        "Measured in": f"{sum(c.seconds for c in certified):.0f} s",
    }
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{items}</dl>'


def _overview(certified: Sequence[Certificate]) -> str:
    rows = []
    for i, c in enumerate(certified):
        name, passes, *values = (text(cell).replace(" ", "&nbsp;") for cell in cells(c))
        passes = f'<span class="{"best" if c.passed else "diverged"}">{passes}</span>'
        rows.append([f'<a href="#curve-{i}">{name}</a>' if c.orders else name, passes, *values])
    legend = "".join(f"<div><dt>{text(name)}</dt><dd>{text(words)}</dd></div>" for name, words in LEGEND.items())
    return (
        table(HEAD, rows, "What each solver states, and what was measured")
        + _findings(certified)
        + f'<h3>Columns</h3><dl class="metrics">{legend}</dl>'
    )


def _findings(certified: Sequence[Certificate]) -> str:
    """Failures and remarks, as lists."""
    parts = []
    for head, kind, found in (
        ("What fails", ' class="diverged"', [(c, line) for c in certified for line in c.failures]),
        ("Remarks", "", [(c, line) for c in certified for line in c.remarks]),
    ):
        items = "".join(f"<li{kind}><b>{text(c.solver)}</b>: {text(line)}</li>" for c, line in found)
        parts.append(f"<h3>{head}</h3><ul>{items}</ul>" if items else "")
    return "".join(parts)


def _plots(certified: Sequence[Certificate]) -> str:
    drawn = [_panel(i, c) for i, c in enumerate(certified) if c.orders]
    if not drawn:
        return ""
    return (
        "<p>Both axes are logarithmic. Solid: from exact starting values; dashed: from the method's own first steps; "
        "dotted: the stated order. The noise of a stochastic method was off: what is left is the drift of its "
        f'SDE.</p><div class="panels">{"".join(drawn)}</div>'
    )


def _panel(i: int, c: Certificate) -> str:
    alt = f"Error of {c.solver} against steps, from 20 to 320; the orders are in the table"
    drawing = svg(lambda canvas, palette: _draw(margins(canvas, 0.66), palette, i, c), f"curve{i}", alt)
    return figure(drawing, f'<b id="curve-{i}">{text(c.solver)}</b>: {text(_caption(c))}')


def _caption(c: Certificate) -> str:
    assert c.orders is not None
    by = ", ".join(f"{_order(value)} in {d}-D" for d, value in c.orders.by_dimension.items())
    other = ", ".join(f"{_order(value)} under {name}" for name, value in c.orders.by_schedule.items())
    uneven = f"{_order(c.orders.uneven)} on uneven steps"
    claim = f"stated {c.stated}, " if c.stated else ""
    return f"{claim}measured {by}; {other}; {uneven}."


def _order(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _draw(ax: Axes, palette: Palette, i: int, c: Certificate) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    assert c.orders is not None
    dress(ax, palette, c.solver, "steps", "error")
    ax.set_xscale("log")
    ax.set_yscale("log")
    for name, style in (("plain", "--"), ("exact", "-")):
        shown = [(n, e) for n, e in c.orders.curves[name].items() if 0 < e < math.inf]
        if shown:
            ax.plot(*zip(*shown, strict=True), style, color=palette.line(i), marker="o", markersize=3.5, linewidth=1.3)
    fine = [(n, e) for n, e in c.orders.curves["exact"].items() if 0 < e < math.inf]
    if c.stated and fine:
        n, e = fine[-1]
        ends = (GRIDS[0], n)
        guide = [2.5 * e * (n / m) ** c.stated for m in ends]
        ax.plot(ends, guide, ":", color=palette.muted, linewidth=1)
    ax.xaxis.set_major_locator(FixedLocator([float(n) for n in GRIDS]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))


def _budgets(certified: Sequence[Certificate]) -> str:
    """The error over Heun's at four budgets, and the standard deviations with all their digits."""
    parts = []
    ode = [c for c in certified if c.beside_heun]
    if ode:
        head = ["solver", *(f"{b} NFE" for b in BUDGETS)]
        rows = [[text(c.solver), *(number(c.beside_heun.get(b, math.nan)) for b in BUDGETS)] for c in ode]
        parts.append(table(head, rows, "Error over that of Heun for the same counted evaluations; below 1 is better"))
    law = [c for c in certified if c.std_errors]
    if law:
        head = ["solver", *(f"{n} steps" for n in STEPS)]
        rows = [[text(c.solver), *(number(c.std_errors[n]) for n in STEPS)] for c in law]
        parts.append(table(head, rows, "Worst relative error of a standard deviation, σ from 80 to 0.002"))
    return "".join(parts)


def _schedules(certified: Sequence[Certificate]) -> str:
    measured = [c for c in certified if len(c.schedules) > 1]
    if not measured:
        return ""
    names = list(measured[0].schedules)
    rows = [[text(c.solver), *(_agreement(c.schedules[name]) for name in names)] for c in measured]
    seeing = [c for c in measured if alike(c)]
    words = "".join(f"<li>{text(c.solver)}: under {text(' and '.join(alike(c)))} as under EDM</li>" for c in seeing)
    return table(["solver", *names], rows, "Digits to which a run agrees with the run under EDM") + (
        f"<ul>{words}</ul>" if words else ""
    )


def _agreement(gap: float) -> str:
    if not math.isfinite(gap):
        return "diverged"
    return str(digits(gap)) if gap < 1e-10 else f"differs by {number(gap, 1)}"


def _identities(certified: Sequence[Certificate]) -> str:
    rows = [[text(p.a), text(p.b), verdict(p), number(p.difference, 1), text(p.why)] for p in pairs()]
    head = ["method", "method", "found", "relative difference", "why"]
    own = [
        [
            text(c.solver),
            text(", ".join(name for name, _ in c.same_as) or "–"),
            text(f"{c.nearest[0]} ({number(c.nearest[1], 1)})" if c.nearest else "–"),
        ]
        for c in certified
    ]
    return table(head, rows, "Pairs that must agree to rounding, and pairs that look alike and must not") + table(
        ["solver", "the same method as", "nearest other method"], own, "Found by comparing each with every other"
    )
