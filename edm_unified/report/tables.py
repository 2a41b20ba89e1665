"""Tables of the results: the winners at a glance, one ranked table per budget, and everything as CSV.

All ranks, for every metric, are computed here and written into the cells; the script of the page only shows others
of them. Without JavaScript the tables are complete and sorted by the metric that ``rank_by`` names.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from edm_unified.report.data import Key, Score, metric
from edm_unified.report.markup import scrolling, swatch, table, text
from edm_unified.report.ranking import Place, Table, number, places

_LABEL_COLUMNS = (("schedule", "schedule"), ("steps", "levels"), ("solver", "solver"), ("renoising", "renoising"))


def winners(t: Table) -> str:
    """The best method for each metric and budget, and how many are tied with it."""
    rows = [[text(metric(name).title), *(_winner(t, budget, name) for budget in t.budgets)] for name in t.metrics]
    caption = "The best method in each metric, by evaluations; “+2” means that two more lie within its interval"
    return table(["metric", *(f"{b} NFE" for b in t.budgets)], rows, caption, "winners") if rows else ""


def _winner(t: Table, budget: int, name: str) -> str:
    placed = [(label, p) for label, p in places(t, budget, name).items() if math.isfinite(p.value)]
    if not placed:
        return "–"
    tied = sum(p.rank == 1 for _, p in placed) - 1
    note = f' <small title="methods within the interval of the best">+{tied}</small>' if tied else ""
    return f'<span class="nobreak">{swatch(_index(t, placed[0][0]))} {text(placed[0][0])}{note}</span>'


def _index(t: Table, label: str) -> int:
    return [m.label for m in t.methods].index(label)


def ranked_tables(t: Table) -> str:
    """Every budget's table, with what the marks mean before them."""
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
    jump = "".join(f'<li><a href="#nfe-{b}">{b} evaluations</a></li>' for b in t.budgets)
    return intro + f'<ul class="jump">{jump}</ul>' + "".join(_ranked(t, budget) for budget in t.budgets)


def _ranked(t: Table, budget: int) -> str:
    placed = {name: places(t, budget, name) for name in t.metrics}
    first = placed[t.rank_by or t.metrics[0]]
    present = [m.label for m in t.methods if (m.label, budget) in t.cells]
    order = [*first, *(label for label in present if label not in first)]
    varying = [(f, title) for f, title in _LABEL_COLUMNS if len({getattr(m.key, f) for m in t.methods}) > 1]
    ordered = _ordered(t)
    head = [
        '<th scope="col" class="rank">rank</th>',
        '<th scope="col">method</th>',
        *(
            f'<th scope="col" class="num" data-metric="{text(name)}"{_sorted(name == t.rank_by)}>'
            f"{text(metric(name).short)}</th>"
            for name in ordered
        ),
        '<th scope="col" class="num">NFE</th><th scope="col" class="num">steps</th>',
        '<th scope="col" class="num">seconds</th>',
        *(f'<th scope="col" class="label">{title}</th>' for _, title in varying),
    ]
    body = "".join(_row(t, label, budget, placed, [f for f, _ in varying]) for label in order)
    caption = f"At most {budget} evaluations, ranked by {text(metric(t.rank_by or '').title)}"
    return f'<h3 id="nfe-{budget}">{budget} evaluations</h3>' + scrolling(
        f'<table class="ranked"><caption><span>{caption}</span></caption><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
        caption,
    )


def _sorted(yes: bool) -> str:
    return ' aria-sort="ascending"' if yes else ""


def _ordered(t: Table) -> list[str]:
    """The metrics as columns: the one ranked by comes first, where a phone shows it."""
    return sorted(t.metrics, key=lambda name: name != t.rank_by)


def _row(t: Table, label: str, budget: int, placed: dict[str, dict[str, Place]], varying: Sequence[str]) -> str:
    index = _index(t, label)
    cell, view = t.cells[label, budget], t.methods[index]
    own = placed[t.rank_by or t.metrics[0]].get(label)
    values = "".join(_value(cell.scores.get(name), placed[name], label, name) for name in _ordered(t))
    return (
        f'<tr data-method="{index}"><td class="rank">{_rank(own)}</td>'
        f'<th scope="row"><a href="#method-{index}">{swatch(index)} {text(label)}</a></th>'
        f'{values}<td class="num" data-sort="{cell.nfe}">{cell.nfe:g}</td><td class="num">{text(cell.n)}</td>'
        f'<td class="num" data-sort="{cell.seconds}">{number(cell.seconds, 2)}</td>'
        + "".join(f'<td class="label">{text(getattr(view.key, name))}</td>' for name in varying)
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


def as_csv(t: Table) -> str:
    """Every number of the report, a line for each method, budget and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["method", *Key._fields, "hash", "budget", "nfe", "steps", "metric", "value", "low", "high", "rank"]
    )
    for budget in t.budgets:
        placed = {name: places(t, budget, name) for name in t.metrics}
        for m in t.methods:
            cell = t.cells.get((m.label, budget))
            for name, score in cell.scores.items() if cell else ():
                rank = placed[name][m.label].rank
                found = ("diverged", "", "") if score.value is None else (score.value, score.low, score.high)
                writer.writerow(
                    [
                        m.label,
                        *m.key,
                        m.hash,
                        budget,
                        cell.nfe if cell else "",
                        cell.n if cell else "",
                        name,
                        *found,
                        rank,
                    ]
                )
    return file.getvalue()
