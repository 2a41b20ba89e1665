"""The certificates as a table of text, which is also Markdown."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from edm_unified.certify.certificate import Certificate
from edm_unified.certify.noise import STEPS
from edm_unified.certify.sameness import SAME, Pair

HEAD = (
    "solver",
    "stated",
    "order",
    "plain start",
    "local",
    "error/Heun",
    "weak",
    "std error at 10",
    "20",
    "40",
    "80 steps",
    "NFE",
    "schedule",
    "certificate",
)
LEGEND = {
    "order": "global order from exact starting values, σ from 8 to 0.15, mixtures in 1-D, 2-D and 64-D together",
    "plain start": "the same from the method's own first steps",
    "local": "order of the error of one step from the exact state with an exact past",
    "error/Heun": "error over Heun's at 40 counted evaluations, plain start",
    "weak": "order of the worst variance of a Gaussian of power-law spectrum with a near-null floor, by basis noise",
    "std error": "worst relative error of a standard deviation of that Gaussian, σ from 80 to 0.002 on Karras' levels",
    "NFE": "evaluations counted in N steps down to 0",
    "schedule": "blind: the same result under every schedule; else it steps in the schedule's time",
}


def cells(c: Certificate) -> tuple[str, ...]:
    """One row, in the order of :data:`HEAD`."""
    found = c.orders
    measured = (found.exact, found.plain, found.local) if found else (math.nan,) * 3
    return (
        c.solver,
        "–" if c.stated is None else str(c.stated),
        *(_order(value) for value in measured),
        _short(c.beside_heun.get(40, math.nan)),
        _order(c.weak),
        *(_short(c.std_errors.get(n, math.nan)) for n in STEPS),
        c.nfe,
        f"blind, {digits(max(c.schedules.values()))} digits" if c.blind else "sees it",
        "passes" if c.passed else "FAILS",
    )


def digits(gap: float) -> int:
    """How many digits agree, at a relative difference of ``gap``; 16 is all of them."""
    return min(16, math.floor(-math.log10(max(gap, 1e-16))))


def _order(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _short(value: float) -> str:
    """Two digits."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.1e}" if value and not 0.01 <= value < 99.5 else f"{value:.2g}"


def notes(certified: Sequence[Certificate]) -> list[str]:
    """Failures first, then remarks, then what is the same method under another name."""
    lines = [f"FAILS {c.solver}: {failure}" for c in certified for failure in c.failures]
    lines += [f"{c.solver}: {remark}" for c in certified for remark in c.remarks]
    lines += [f"{c.solver}: under {' and '.join(same)} as under EDM" for c in certified if (same := alike(c))]
    for c in certified:
        if c.same_as:
            agreed = digits(max(gap for _, gap in c.same_as))
            lines.append(f"{c.solver} is {' and '.join(name for name, _ in c.same_as)}, to {agreed} digits")
    return lines


def alike(c: Certificate) -> list[str]:
    """The schedules under which a method that does see the schedule returns what it does under EDM."""
    return [] if c.blind else [name for name, gap in c.schedules.items() if gap < SAME]


def markdown(certified: Sequence[Certificate], pairs: Sequence[Pair] = ()) -> str:
    """Everything as text: the table, what its columns are, notes, identities and near misses."""
    parts = [aligned(HEAD, [cells(c) for c in certified])]
    parts.append("\n".join(f"* **{name}**: {words}" for name, words in LEGEND.items()))
    if lines := notes(certified):
        parts.append("\n".join(f"* {line}" for line in lines))
    if pairs:
        rows = [(p.a, p.b, "same" if p.same else "differs", f"{p.difference:.0e}", p.why) for p in pairs]
        parts.append(aligned(("method", "method", "", "relative difference", "why"), rows))
    return "\n\n".join(parts) + "\n"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal as well."""
    widths = [max(_width(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, rule, *rows)
    )


def _width(text: str) -> int:
    return sum(not unicodedata.combining(character) for character in text)
