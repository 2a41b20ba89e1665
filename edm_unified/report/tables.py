"""Tables of the results: the best method for each metric and budget, one ranked table per budget, and all as CSV.

All ranks, for every metric, are computed here and written into the cells; the script of the page only shows others
of them. Without JavaScript the tables are complete and sorted by the metric that ``rank_by`` names.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from edm_unified.report import heat
from edm_unified.report.data import Key, Metric, MetricValue, Result, metric
from edm_unified.report.ranking import Place, Table, number, places, problems
from edm_unified.report.templates import part

_PAGE = "tables.html"

_LABEL_COLUMNS = (("schedule", "schedule"), ("steps", "levels"), ("solver", "solver"), ("renoising", "renoising"))


def winners(t: Table) -> Markup:
    """The best method for each metric and budget, and how many are tied with it; apart for each problem."""
    index, parts = _numbered(t), problems(t)
    rows = [
        [
            part(_PAGE, "problem", metric(name).title, problem),
            *(_winner(own, budget, name, index) for budget in t.budgets),
        ]
        for problem, own in parts.items()
        for name in own.metrics
    ]
    caption = "The best method in each metric, by evaluations; “+2” means that two more lie within its interval"
    look = "winners best-of" if len(index) > heat.MOST_LINES else "winners"
    head = ["metric", *(f"{b} NFE" for b in t.budgets)]
    return part("parts.html", "table", head, rows, caption, look) if rows else Markup("")


def _winner(t: Table, budget: int, name: str, index: dict[str, int]) -> str:
    placed = [(label, p) for label, p in places(t, budget, name).items() if math.isfinite(p.value)]
    if not placed:
        return "–"
    tied = sum(p.rank == 1 for _, p in placed) - 1
    label = placed[0][0]
    if len(index) > heat.MOST_LINES:
        return part(_PAGE, "crowded_winner", *heat.names(t)[label], tied)
    return part(_PAGE, "winner", index[label], label, tied)


def _numbered(t: Table) -> dict[str, int]:
    """Label -> the number of the method, which is that of its colour, dash and marker."""
    return {m.label: i for i, m in enumerate(t.methods)}


@dataclass(frozen=True)
class Value:
    """A cell: what is written, what is ``below`` it, its ``look``, and by what it is sorted and ranked."""

    words: str
    sort: str
    rank: str
    look: str = ""
    below: str = ""
    note: str = ""
    tie: bool = False


@dataclass(frozen=True)
class Row:
    """A method in one table; ``linked`` where it has an entry among the methods below."""

    index: int
    rank: str
    title: str
    linked: bool
    values: Sequence[Value]
    cell: Result
    seconds: str
    labels: Sequence[str]


@dataclass(frozen=True)
class Ranked:
    """One table. ``metrics``: (name, metric, whether sorted by it); ``labels``: the heads of the last columns."""

    budget: int
    suffix: str
    by: str
    metrics: Sequence[tuple[str, Metric, bool]]
    labels: Sequence[str]
    rows: Sequence[Row]


def ranked_tables(t: Table) -> Markup:
    """Every budget's table, with what the marks mean before them; apart for each problem."""
    if not t.metrics:
        return Markup("")
    options = [(name, metric(name).title, name == t.rank_by) for name in t.metrics]
    parts, index = problems(t), _numbered(t)
    crowded = len(index) > heat.MOST_LINES
    if not crowded and len(parts) < 2:
        return part(_PAGE, "together", options, [_ranked(t, budget, index, "") for budget in t.budgets])
    tables = [
        (problem, [_ranked(own, budget, index, f"-{i}") for budget in own.budgets])
        for i, (problem, own) in enumerate(parts.items())
    ]
    return part(_PAGE, "folded" if crowded else "apart", options, tables)


def _ranked(t: Table, budget: int, index: dict[str, int], suffix: str) -> Ranked:
    placed = {name: places(t, budget, name) for name in t.metrics}
    first = placed[t.rank_by or t.metrics[0]]
    present = [m.label for m in t.methods if (m.label, budget) in t.cells]
    order = [*first, *(label for label in present if label not in first)]
    crowded = len(index) > heat.MOST_LINES
    if crowded:
        names = heat.names(t)
        varying = ["levels"] if any(column for _, column in names.values()) else []
        labels = {label: [column][: len(varying)] for label, (_, column) in names.items()}
        titles = {label: row for label, (row, _) in names.items()}
    else:
        fields = [(f, title) for f, title in _LABEL_COLUMNS if len({getattr(m.key, f) for m in t.methods}) > 1]
        varying = [title for _, title in fields]
        labels = {m.label: [getattr(m.key, f) for f, _ in fields] for m in t.methods}
        titles = {m.label: m.label for m in t.methods}
    columns = sorted(t.metrics, key=lambda name: name != t.rank_by)  # the one ranked by first, where a phone shows it
    rows = []
    for label in order:
        cell = t.cells[label, budget]
        values = [_value(cell.scores.get(name), placed[name], label) for name in columns]
        rows.append(
            Row(index[label], _rank(first.get(label)), titles[label], not crowded, values, cell,
                number(cell.seconds, 2), labels[label])
        )  # fmt: skip
    shown = [(name, metric(name), name == t.rank_by) for name in columns]
    return Ranked(budget, suffix, metric(t.rank_by or "").title, shown, varying, rows)


def _rank(place: Place | None) -> str:
    if place is None or math.isinf(place.value):
        return "–"
    return f"{place.rank}{'=' if place.shared else ''}"


def _value(score: MetricValue | None, placed: dict[str, Place], label: str) -> Value:
    if score is None:
        return Value("–", "", "–", "none", note="not defined for this method")
    if score.value is None:
        below = f"{score.diverged} of {score.seeds} seeds" if score.seeds > 1 else ""
        return Value("diverged", "Infinity", "–", "diverged", below)
    place = placed[label]
    best = next(iter(placed)) == label
    interval = f"{number(score.low)} … {number(score.high)}"
    tie = place.rank == 1 and not best
    return Value(number(score.value), repr(place.value), _rank(place), "best" if best else "", interval, tie=tie)


def _exact(value: Any) -> str:
    """Nine digits: far more than there are samples for; records.jsonl has all."""
    return f"{value:.9g}"


def as_csv(t: Table) -> str:
    """Every number of the report, a line for each method, budget and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["method", *Key._fields, "hash", "budget", "nfe", "steps", "metric", "value", "low", "high", "rank"]
    )
    for own in problems(t).values():
        for budget in own.budgets:
            placed = {name: places(own, budget, name) for name in own.metrics}
            for m in own.methods:
                cell = own.cells.get((m.label, budget))
                for name, score in cell.scores.items() if cell else ():
                    found = ("diverged", "", "") if score.value is None else map(_exact, score[:3])
                    counted = (cell.nfe, cell.n) if cell else ("", "")
                    rank = placed[name][m.label].rank
                    writer.writerow([m.label, *m.key, m.hash, budget, *counted, name, *found, rank])
    return file.getvalue()
