"""Tables of the results: the winners at a glance, one ranked table per budget, and everything as CSV.

All ranks, for every metric, are computed here and written into the cells; the script of the page only shows others
of them. Without JavaScript the tables are complete and sorted by the metric that ``rank_by`` names.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from edm_unified.report import heat
from edm_unified.report.data import Key, Score, metric
from edm_unified.report.markup import scrolling, swatch, table, text
from edm_unified.report.ranking import Place, Table, number, places, problems

_LABEL_COLUMNS = (("schedule", "schedule"), ("steps", "levels"), ("solver", "solver"), ("renoising", "renoising"))


def winners(t: Table) -> str:
    """The best method for each metric and budget, and how many are tied with it; apart for each problem."""
    index, parts = _numbered(t), problems(t)
    rows = [
        [
            text(metric(name).title) + (f"<small>{text(problem)}</small>" if problem else ""),
            *(_winner(part, budget, name, index) for budget in t.budgets),
        ]
        for problem, part in parts.items()
        for name in part.metrics
    ]
    caption = "The best method in each metric, by evaluations; “+2” means that two more lie within its interval"
    name = "winners best-of" if len(index) > heat.MOST_LINES else "winners"
    return table(["metric", *(f"{b} NFE" for b in t.budgets)], rows, caption, name) if rows else ""


def _winner(t: Table, budget: int, name: str, index: dict[str, int]) -> str:
    placed = [(label, p) for label, p in places(t, budget, name).items() if math.isfinite(p.value)]
    if not placed:
        return "–"
    tied = sum(p.rank == 1 for _, p in placed) - 1
    note = f' <small title="methods within the interval of the best">+{tied}</small>' if tied else ""
    label = placed[0][0]
    if len(index) > heat.MOST_LINES:
        row, column = heat.names(t)[label]
        return f"{text(row)}{note}<small>{text(column)}</small>"
    return f'<span class="nobreak">{swatch(index[label])} {text(label)}{note}</span>'


def _numbered(t: Table) -> dict[str, int]:
    """Label -> the number of the method, which is that of its colour, dash and marker."""
    return {m.label: i for i, m in enumerate(t.methods)}


def ranked_tables(t: Table) -> str:
    """Every budget's table, with what the marks mean before them; apart for each problem."""
    if not t.metrics:
        return ""
    options = "".join(
        f'<option value="{text(name)}"{" selected" if name == t.rank_by else ""}>{text(metric(name).title)}</option>'
        for name in t.metrics
    )
    intro = (
        "<p>Every method got as many steps as its counted evaluations allow. Below each value is its 95&nbsp;% "
        'bootstrap interval. The <b>best</b> value of a column is bold; <span class="tie">≈</span> marks those whose '
        "interval overlaps its own. A rank is one plus the number of methods whose whole interval is better, so that "
        "ranks are shared (=). With JavaScript, a column heading sorts by that column.</p>"
        f'<p class="tool" hidden><label>Rank all tables by <select id="rank-by">{options}</select></label></p>'
    )
    parts, index = problems(t), _numbered(t)
    if len(index) > heat.MOST_LINES:
        tables = "".join(
            f"<details><summary>{text(problem)}{', ' if problem else ''}{budget} evaluations</summary>"
            f"{_ranked(part, budget, index, f'-{i}')}</details>"
            for i, (problem, part) in enumerate(parts.items())
            for budget in part.budgets
        )
        return f'{intro}<p class="screen">Each table opens at a click.</p>{tables}'
    if len(parts) > 1:
        return intro + "".join(
            f"<h3>{text(problem)}</h3>" + "".join(_ranked(part, b, index, f"-{i}") for b in part.budgets)
            for i, (problem, part) in enumerate(parts.items())
        )
    jump = "".join(f'<li><a href="#nfe-{b}">{b} evaluations</a></li>' for b in t.budgets)
    return intro + f'<ul class="jump">{jump}</ul>' + "".join(_ranked(t, budget, index, "") for budget in t.budgets)


def _ranked(t: Table, budget: int, index: dict[str, int], suffix: str) -> str:
    placed = {name: places(t, budget, name) for name in t.metrics}
    first = placed[t.rank_by or t.metrics[0]]
    present = [m.label for m in t.methods if (m.label, budget) in t.cells]
    order = [*first, *(label for label in present if label not in first)]
    crowded = len(index) > heat.MOST_LINES
    ordered = _ordered(t)
    names = heat.names(t) if crowded else {}
    if crowded:
        varying = ["levels"] if any(column for _, column in names.values()) else []
        labels = {label: [column][: len(varying)] for label, (_, column) in names.items()}
        titles = {label: text(row) for label, (row, _) in names.items()}
    else:
        fields = [(f, title) for f, title in _LABEL_COLUMNS if len({getattr(m.key, f) for m in t.methods}) > 1]
        varying = [title for _, title in fields]
        labels = {m.label: [getattr(m.key, f) for f, _ in fields] for m in t.methods}
        titles = {
            m.label: f'<a href="#method-{index[m.label]}">{swatch(index[m.label])} {text(m.label)}</a>'
            for m in t.methods
        }
    head = [
        '<th scope="col" class="rank">rank</th>',
        '<th scope="col">method</th>',
        *(
            f'<th scope="col" class="num" data-metric="{text(name)}"{_sorted(name == t.rank_by)}>'
            f'{text(metric(name).short)}<small class="toward">{metric(name).arrow} better</small></th>'
            for name in ordered
        ),
        '<th scope="col" class="num">NFE</th><th scope="col" class="num">steps</th>',
        '<th scope="col" class="num">seconds</th>',
        *(f'<th scope="col" class="label">{title}</th>' for title in varying),
    ]
    body = "".join(_row(t, label, budget, placed, titles[label], labels[label], index[label]) for label in order)
    caption = f"At most {budget} evaluations, ranked by {text(metric(t.rank_by or '').title)}"
    return f'<h3 id="nfe-{budget}{suffix}">{budget} evaluations</h3>' + scrolling(
        f'<table class="ranked"><caption><span>{caption}</span></caption><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
        caption,
    )


def _sorted(yes: bool) -> str:
    return ' aria-sort="ascending"' if yes else ""


def _ordered(t: Table) -> list[str]:
    """The metrics as columns: the one ranked by comes first, where a phone shows it."""
    return sorted(t.metrics, key=lambda name: name != t.rank_by)


def _row(
    t: Table,
    label: str,
    budget: int,
    placed: dict[str, dict[str, Place]],
    title: str,
    labels: Sequence[str],
    index: int,
) -> str:
    cell = t.cells[label, budget]
    own = placed[t.rank_by or t.metrics[0]].get(label)
    values = "".join(_value(cell.scores.get(name), placed[name], label, name) for name in _ordered(t))
    return (
        f'<tr data-method="{index}"><td class="rank">{_rank(own)}</td><th scope="row">{title}</th>'
        f'{values}<td class="num" data-sort="{cell.nfe}">{cell.nfe:g}</td><td class="num">{text(cell.n)}</td>'
        f'<td class="num" data-sort="{cell.seconds}">{number(cell.seconds, 2)}</td>'
        + "".join(f'<td class="label">{text(name)}</td>' for name in labels)
        + "</tr>"
    )


def _rank(place: Place | None) -> str:
    if place is None or math.isinf(place.value):
        return "–"
    return f"{place.rank}{'=' if place.shared else ''}"


def _value(score: Score | None, placed: dict[str, Place], label: str, name: str) -> str:
    if score is None:
        return '<td class="num none" data-sort="" data-rank="–" title="not defined for this method">–</td>'
    if score.value is None:
        part = f'<small class="interval">{score.diverged} of {score.seeds} seeds</small>' if score.seeds > 1 else ""
        return f'<td class="num diverged" data-sort="Infinity" data-rank="–">diverged{part}</td>'
    place = placed[label]
    best = next(iter(placed)) == label
    tie = place.rank == 1 and not best
    mark = '<span class="tie" title="within the interval of the best">≈</span> ' if tie else ""
    interval = f"{number(score.low)} … {number(score.high)}"
    return (
        f'<td class="num{" best" if best else ""}" data-sort="{place.value!r}" data-rank="{_rank(place)}">'
        f'{mark}{number(score.value)}<small class="interval">{interval}</small></td>'
    )


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
    for part in problems(t).values():
        for budget in part.budgets:
            placed = {name: places(part, budget, name) for name in part.metrics}
            for m in part.methods:
                cell = part.cells.get((m.label, budget))
                for name, score in cell.scores.items() if cell else ():
                    found = ("diverged", "", "") if score.value is None else map(_exact, score[:3])
                    counted = (cell.nfe, cell.n) if cell else ("", "")
                    rank = placed[name][m.label].rank
                    writer.writerow([m.label, *m.key, m.hash, budget, *counted, name, *found, rank])
    return file.getvalue()
