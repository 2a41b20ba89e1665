"""The certificates as a table of text, which is also Markdown."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from edm_unified.certify import equivalence
from edm_unified.certify.certificate import Certificate
from edm_unified.certify.equivalence import SAME, Pair
from edm_unified.certify.noise import STEPS
from edm_unified.report.ranking import number

HEAD = (
    "solver",
    "certificate",
    "stated",
    "order",
    "plain start",
    "local",
    "error/Heun",
    "weak",
    "std error 10",
    "20",
    "40",
    "80",
    "NFE",
    "schedule",
)
LEGEND = {
    "certificate": "passes, FAILS, or in part: nothing fails, and the order that is stated could not be measured",
    "order": "global order from exact starting values, σ from 8 to 0.15, mixtures in 1-D, 2-D and 64-D together",
    "plain start": "the same from the method's own first steps",
    "local": "order of the error of one step from the exact state with an exact past",
    "error/Heun": "error over Heun's at 40 counted evaluations, plain start",
    "weak": "order of the worst variance of a Gaussian of power-law spectrum with a near-null floor, by basis noise",
    "std error": "worst relative error of a standard deviation of that Gaussian at 10 to 80 steps, σ from 80 to 0.002",
    "NFE": "evaluations counted in N steps down to 0",
    "schedule": "blind: the same result under every schedule; else it steps in the schedule's own time",
}


def cells(c: Certificate) -> tuple[str, ...]:
    """One row, in the order of :data:`HEAD`."""
    found = c.orders
    measured = (found.exact, found.plain, found.local) if found else (math.nan,) * 3
    return (
        c.solver,
        "FAILS" if not c.passed else "passes" if c.whole else "in part",
        "–" if c.stated is None else str(c.stated),
        *(_order(value) for value in measured),
        number(c.beside_heun.get(40, math.nan), 2),
        _order(c.weak),
        *(number(c.std_errors.get(n, math.nan), 2) for n in STEPS),
        c.nfe,
        "blind" if c.blind else "sees it",
    )


def digits(gap: float) -> int:
    """How many digits agree, at a relative difference of ``gap``; 16 is all of them."""
    return min(16, math.floor(-math.log10(max(gap, 1e-16))))


def _order(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def notes(certified: Sequence[Certificate]) -> list[str]:
    """Failures first, then remarks, then the methods that have several names."""
    lines = [f"FAILS {c.solver}: {failure}" for c in certified for failure in c.failures]
    lines += [f"{c.solver}: {remark}" for c in certified for remark in c.remarks]
    if blind := [max(c.schedules.values()) for c in certified if c.blind]:
        lines.append(f"blind: to {digits(max(blind))} digits and more under {', '.join(equivalence.SCHEDULES)} and EDM")
    lines += [f"{c.solver}: under {' and '.join(same)} as under EDM" for c in certified if (same := alike(c))]
    return lines + [f"one method, to {agreed} digits: {', '.join(names)}" for names, agreed in families(certified)]


def families(certified: Sequence[Certificate]) -> list[tuple[list[str], int]]:
    """The methods that have several names, each once, and the digits to which all of them agree."""
    found: dict[frozenset[str], float] = {}
    for c in certified:
        if c.same_as:
            names = frozenset((c.solver, *(name for name, _ in c.same_as)))
            found[names] = max(found.get(names, 0.0), *(gap for _, gap in c.same_as))
    order = [c.solver for c in certified]
    known = {name: i for i, name in enumerate(order)}
    return [(sorted(names, key=lambda n: (known.get(n, len(order)), n)), digits(gap)) for names, gap in found.items()]


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
        rows = [(p.a, p.b, verdict(p), number(p.difference, 1), p.why) for p in pairs]
        parts.append(aligned(("method", "method", "", "relative difference", "why"), rows))
    return "\n\n".join(parts) + "\n"


def verdict(pair: Pair) -> str:
    """``same``, ``differs``, or that it is not what it should be."""
    return ("" if pair.holds else "FAILS: not ") + ("same" if pair.same else "different")


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
