"""Rank the methods of a comparison: which leads at which budget, and which do not differ from it significantly.

The rank of a method is one plus the number of methods whose whole interval lies below its own. Methods that the
bootstrap cannot separate thus share a rank, and no tie is broken by the third digit of an estimate. The intervals
are those of each method alone; all start from the same noise, so the test errs on the side of calling a tie.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edm_unified.report.data import METRICS, Key, MethodView, ReportData, Result, combine, metric

_MOST_SENTENCES = 6  # with more changes of the lead, only the least, the shown and the largest budget are named


class Table(NamedTuple):
    """The records, aggregated. ``cells[label, budget]`` exists for every pair that was run."""

    methods: tuple[MethodView, ...]
    budgets: tuple[int, ...]
    metrics: tuple[str, ...]
    cells: dict[tuple[str, int], Result]
    rank_by: str | None
    grid_budget: int | None


class Place(NamedTuple):
    """A method's place among others in one metric: its rank, whether others share it, its ranking value."""

    rank: int
    shared: bool
    value: float


def short_labels(keys: Sequence[Key]) -> list[str]:
    """The shortest labels that tell methods apart: the recipe's name, with what it was changed to where needed.

    >>> short_labels([Key("edm", "edm", "karras", "heun", "none"), Key("edm", "edm", "karras", "euler", "none")])
    ['edm · heun', 'edm · euler']
    """
    fields = ("solver", "schedule", "steps", "renoising")
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys:
        for name in fields:
            found[key.recipe, name].add(getattr(key, name))
    differ = {recipe: [f for f in fields if len(found[recipe, f]) > 1] for recipe, _ in found}
    return [" · ".join([key.recipe, *(getattr(key, name) for name in differ[key.recipe])]) for key in keys]


def tabulate(data: ReportData) -> Table:
    """Aggregate the records of ``data`` over seeds. Raises ``ValueError`` on two methods of one label."""
    grouped: dict[tuple[Key, int], list[Mapping[str, Any]]] = defaultdict(list)
    for record in data.records:
        grouped[Key.of(record), int(record["budget"])].append(record)
    methods = (*data.methods, *_unnamed(data, [key for key, _ in grouped]))
    twice = [label for label, times in Counter(m.label for m in methods).items() if times > 1]
    if twice:
        raise ValueError(f"methods: two methods are labelled {twice[0]!r}; give each its own label")

    budgets_of: dict[Key, list[int]] = defaultdict(list)
    for key, budget in grouped:
        budgets_of[key].append(budget)
    cells = {(m.label, budget): _cell(grouped[m.key, budget]) for m in methods for budget in budgets_of[m.key]}
    seen = {name for cell in cells.values() for name in cell.scores}
    metrics = (*(m for m in METRICS if m in seen), *sorted(seen - set(METRICS)))
    budgets = tuple(sorted({budget for _, budget in grouped}))
    return Table(methods, budgets, metrics, cells, _rank_by(data, metrics, cells), _grid_budget(data, budgets))


def problems(table: Table) -> dict[str, Table]:
    """A table for each problem, by its name: errors on different data cannot be ranked together."""
    groups: dict[str, list[MethodView]] = defaultdict(list)
    for method in table.methods:
        groups[method.problem].append(method)
    if len(groups) < 2:
        return dict.fromkeys(groups, table)
    parts = {}
    for name, methods in groups.items():
        labels = {m.label for m in methods}
        cells = {place: cell for place, cell in table.cells.items() if place[0] in labels}
        budgets = tuple(b for b in table.budgets if any(budget == b for _, budget in cells))
        metrics = tuple(m for m in table.metrics if any(m in cell.scores for cell in cells.values()))
        rank_by = table.rank_by if table.rank_by in metrics else next(iter(metrics), None)
        parts[name] = Table(tuple(methods), budgets, metrics, cells, rank_by, table.grid_budget)
    return parts


def _unnamed(data: ReportData, keys: Sequence[Key]) -> list[MethodView]:
    """Views for the keys that ``data.methods`` leaves out, in order of appearance."""
    known = {m.key for m in data.methods}
    taken = {m.label for m in data.methods}
    fresh = [key for key in dict.fromkeys(keys) if key not in known]
    hashes = {Key.of(r): str(r.get("hash") or "") for r in data.records}
    labels = short_labels(fresh)
    return [
        MethodView(key=key, label=label if label not in taken else " · ".join(key), hash=hashes[key])
        for key, label in zip(fresh, labels, strict=True)
    ]


def _cell(records: Sequence[Mapping[str, Any]]) -> Result:
    by_metric: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        by_metric[str(record["metric"])].append(record)
    scores = {
        name: combine([r.get("value") for r in rs], [r.get("low") for r in rs], [r.get("high") for r in rs])
        for name, rs in by_metric.items()
    }
    runs = {r.get("cell", r.get("seed")): r for r in records}.values()  # one record per run, whatever the metrics
    counted = [float(r["nfe"]) for r in runs if r.get("nfe") is not None]
    steps = sorted({int(r["n"]) for r in runs if r.get("n") is not None})
    seconds = [float(r["seconds"]) for r in runs if r.get("seconds") is not None]
    return Result(
        nfe=math.fsum(counted) / len(counted) if counted else math.nan,
        n="–".join(str(n) for n in dict.fromkeys((steps[0], steps[-1]))) if steps else "",
        seconds=math.fsum(seconds) / len(seconds) if seconds else math.nan,
        scores=scores,
    )


def _rank_by(data: ReportData, metrics: Sequence[str], cells: Mapping[tuple[str, int], Result]) -> str | None:
    if data.rank_by in metrics:
        return data.rank_by
    complete = [m for m in metrics if all(m in cell.scores for cell in cells.values())]
    return next(iter([*complete, *metrics]), None)


def _grid_budget(data: ReportData, budgets: Sequence[int]) -> int | None:
    if data.grid_budget is not None:
        return data.grid_budget
    return budgets[len(budgets) // 2] if budgets else None


def places(table: Table, budget: int, name: str) -> dict[str, Place]:
    """The place of every method that has metric ``name`` at ``budget``, best first; diverged ones last."""
    best = metric(name).best
    runs = {
        m.label: table.cells[m.label, budget].scores[name].magnitude(best)
        for m in table.methods
        if (m.label, budget) in table.cells and name in table.cells[m.label, budget].scores
    }
    ranks = {label: 1 + sum(high < low for _, _, high in runs.values()) for label, (_, low, _) in runs.items()}
    times = Counter(ranks.values())
    order = sorted(runs, key=lambda label: runs[label][0])
    return {label: Place(ranks[label], times[ranks[label]] > 1, runs[label][0]) for label in order}


def summary(table: Table) -> list[str]:
    """The findings in sentences, computed from the table alone."""
    if table.rank_by is None:
        return ["No run has finished yet: there is nothing to rank."]
    sentences = [f"Ranked by {_in_words(table.rank_by)}, with 95 % bootstrap intervals."]
    parts = problems(table)
    if len(parts) > 1:  # the table of the winners, which follows, tells it apart for each
        return [*sentences, f"Ranked apart for each of {len(parts)} problems.", *_failures(table)]
    leaders: dict[str, list[int]] = defaultdict(list)
    stretches: list[tuple[str, tuple[str, ...], list[int], list[str]]] = []  # budgets in a row with one outcome
    for budget in table.budgets:
        placed = {label: p for label, p in places(table, budget, table.rank_by).items() if math.isfinite(p.value)}
        if not placed:
            stretches.append(("", (), [budget], []))
            continue
        best, *rest = placed
        leaders[best].append(budget)
        tied = tuple(label for label in rest if placed[label].rank == 1)
        if not (stretches and stretches[-1][:2] == (best, tied)):
            stretches.append((best, tied, [], []))
        stretches[-1][2].append(budget)
        stretches[-1][3].append(number(placed[best].value))
    mentioned = stretches
    if len(stretches) > _MOST_SENTENCES:
        ends = {table.budgets[0], table.grid_budget, table.budgets[-1]}
        mentioned = [stretch for stretch in stretches if ends & set(stretch[2])]
    for best, tied, budgets, values in mentioned:
        where = f"At {_listed(budgets)} evaluations"
        sentences.append(
            f"{where} {best} leads with {_listed(values)}{_ties(tied)}." if best else f"{where} all diverged."
        )
    if len(table.budgets) > 2 and leaders:
        most = max(leaders, key=lambda label: len(leaders[label]))
        if len(stretches) > 1 and len(leaders[most]) > 1:
            sentences.append(f"The best value is most often that of {most}: at {_listed(leaders[most])}.")
    return [*sentences, *_failures(table)]


def _failures(table: Table) -> list[str]:
    failed = {m.label for m in table.methods for b in table.budgets if _diverged(table, m.label, b)}
    some = [m.label for m in table.methods if m.label in failed]
    if len(some) > _MOST_SENTENCES:
        some = [*some[:_MOST_SENTENCES], f"{len(some) - _MOST_SENTENCES} more"]
    return [f"Diverged at one budget or more: {_listed(some)}."] if some else []


def _diverged(table: Table, label: str, budget: int) -> bool:
    cell = table.cells.get((label, budget))
    return cell is not None and any(score.diverged for score in cell.scores.values())


def _in_words(name: str) -> str:
    title = metric(name).title
    return title[:1].lower() + title[1:]


def _ties(tied: Sequence[str]) -> str:
    if not tied:
        return ", apart from all others"
    named = _listed(tied if len(tied) <= 3 else [*tied[:2], f"{len(tied) - 2} more"])
    return f", within the interval of {named}"


def _listed(words: Any) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


def number(value: float | None, digits: int = 3) -> str:
    """A number for reading: ``digits`` significant digits, no exponent between 10⁻³ and 10⁵."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}·10{superscript(int(exponent))}".replace("-", "−")


def superscript(exponent: int) -> str:
    """``-3`` as ⁻³."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
