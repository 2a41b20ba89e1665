"""The certificates as one page, in the clothes of the comparison's report: its style, its tables, its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from edm_unified.certify.certificate import Certificate
from edm_unified.certify.equivalence import pairs
from edm_unified.certify.noise import STEPS
from edm_unified.certify.orders import BUDGETS, GRIDS
from edm_unified.certify.table import HEAD, LEGEND, alike, cells, digits, verdict
from edm_unified.report.draw import Palette, dress, margins, svg
from edm_unified.report.plots import power_of_ten
from edm_unified.report.ranking import number
from edm_unified.report.templates import document, part

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAGE = "certificates.html"
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
    return document(title, part(_PAGE, "intro", _WORDS, _facts(certified)), sections, "certificates", script=False)


def _facts(certified: Sequence[Certificate]) -> dict[str, str]:
    return {
        "Methods": str(len(certified)),
        "Pass": str(sum(c.passed for c in certified)),
        "Fail": str(sum(not c.passed for c in certified)),
        "Measured in": f"{sum(c.seconds for c in certified):.0f} s",
    }


def _overview(certified: Sequence[Certificate]) -> Markup:
    rows = []
    for i, c in enumerate(certified):
        name, passes, *values = (cell.replace(" ", "\u00a0") for cell in cells(c))  # a row is one line
        rows.append([part(_PAGE, "name", i, name, bool(c.orders)), part(_PAGE, "verdict", passes, c.passed), *values])
    failures = [(c.solver, line) for c in certified for line in c.failures]
    remarks = [(c.solver, line) for c in certified for line in c.remarks]
    return part(_PAGE, "overview", HEAD, rows, failures, remarks, LEGEND)


def _plots(certified: Sequence[Certificate]) -> Markup:
    drawn = [(i, _panel(i, c), c.solver, _caption(c)) for i, c in enumerate(certified) if c.orders]
    return part(_PAGE, "orders", drawn) if drawn else Markup("")


def _panel(i: int, c: Certificate) -> Markup:
    alt = f"Error of {c.solver} against steps, from 20 to 320; the orders are in the table"
    return svg(lambda canvas, palette: _draw(margins(canvas, 0.66), palette, i, c), f"curve{i}", alt)


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


def _budgets(certified: Sequence[Certificate]) -> Markup:
    """The error over Heun's at four budgets, and the standard deviations with all their digits."""
    found = []
    ode = [c for c in certified if c.beside_heun]
    if ode:
        head = ["solver", *(f"{b} NFE" for b in BUDGETS)]
        rows = [[c.solver, *(number(c.beside_heun.get(b, math.nan)) for b in BUDGETS)] for c in ode]
        found.append((head, rows, "Error over that of Heun for the same counted evaluations; below 1 is better"))
    law = [c for c in certified if c.std_errors]
    if law:
        head = ["solver", *(f"{n} steps" for n in STEPS)]
        rows = [[c.solver, *(number(c.std_errors[n]) for n in STEPS)] for c in law]
        found.append((head, rows, "Worst relative error of a standard deviation, σ from 80 to 0.002"))
    return part(_PAGE, "tables", found)


def _schedules(certified: Sequence[Certificate]) -> Markup:
    measured = [c for c in certified if len(c.schedules) > 1]
    if not measured:
        return Markup("")
    names = list(measured[0].schedules)
    rows = [[c.solver, *(_agreement(c.schedules[name]) for name in names)] for c in measured]
    seeing = [f"{c.solver}: under {' and '.join(alike(c))} as under EDM" for c in measured if alike(c)]
    caption = "Digits to which a run agrees with the run under EDM"
    return part(_PAGE, "tables", [(["solver", *names], rows, caption)], seeing)


def _agreement(gap: float) -> str:
    if not math.isfinite(gap):
        return "diverged"
    return str(digits(gap)) if gap < 1e-10 else f"differs by {number(gap, 1)}"


def _identities(certified: Sequence[Certificate]) -> Markup:
    rows = [[p.a, p.b, verdict(p), number(p.difference, 1), p.why] for p in pairs()]
    head = ["method", "method", "found", "relative difference", "why"]
    own = [
        [
            c.solver,
            ", ".join(name for name, _ in c.same_as) or "–",
            f"{c.nearest[0]} ({number(c.nearest[1], 1)})" if c.nearest else "–",
        ]
        for c in certified
    ]
    found = [
        (head, rows, "Pairs that must agree to rounding, and pairs that look alike and must not"),
        (["solver", "the same method as", "nearest other method"], own, "Found by comparing each with every other"),
    ]
    return part(_PAGE, "tables", found)
