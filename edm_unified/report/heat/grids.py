"""The numbers of a heat map: factors over the least error, by solver, levels and budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from edm_unified.report.data import metric
from edm_unified.report.ranking import Table, problems

MOST_LINES = 24
"""With more methods than this, plots with a line and grids with a picture for each give way to heat maps."""

WORST = 4.0  # log10 of the factor that a missing or diverged run counts as, and of the largest that counts as it is


class Grid(NamedTuple):
    """A heat map: ``cells[row, column]`` is a factor, infinite where the run diverged, absent where there was none."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]
    cells: dict[tuple[str, tuple[str, int]], float]
    best: dict[tuple[str, int], float]
    """The least error in each column; empty where several problems are averaged."""
    means: dict[str, float]
    """Row -> geometric mean of its factors."""
    planned: Set[tuple[str, str]]
    """Which rows were to be run under which headings."""


class Choice(NamedTuple):
    """A solver on a rule for the levels, and its error over the least at that budget, averaged over the problems."""

    solver: str
    levels: str
    factor: float


def is_crowded(t: Table) -> bool:
    return len(t.methods) > MOST_LINES


def names(t: Table) -> dict[str, tuple[str, str]]:
    """Label -> (row, column heading) of every method of one problem."""
    rows, columns = _joined(t, ("solver", "renoising")), _joined(t, ("schedule", "steps"))
    if len(set(zip(rows, columns, strict=True))) < len(rows):  # only the recipe tells some of them apart
        rows = _joined(t, ("recipe", "solver", "renoising"))
    if not any(rows):  # one solver on many schedules: those are the rows
        rows, columns = columns, rows
    return {m.label: pair for m, pair in zip(t.methods, zip(rows, columns, strict=True), strict=True)}


def _joined(t: Table, fields: Iterable[str]) -> list[str]:
    varying = [f for f in fields if len({getattr(m.key, f) for m in t.methods}) > 1]
    parts = [_short([getattr(m.key, f) for m in t.methods]) for f in varying]
    return [" · ".join(part) for part in zip(*parts, strict=True)] if parts else [""] * len(t.methods)


def _short(values: Sequence[str]) -> list[str]:
    """Labels without what is in parentheses, where that is not needed to tell them apart."""
    kinds = {value: value.partition("(")[0] for value in values}
    alone = {value: list(kinds.values()).count(kind) == 1 for value, kind in kinds.items()}
    return [kinds[v] if alone[v] and len(v) > 24 else v for v in values]


def grids(t: Table) -> list[Grid]:
    """One heat map for each problem; where there are several, first that of their geometric mean."""
    if t.rank_by is None:
        return []
    single = [_grid(name, part, t.rank_by) for name, part in problems(t).items()]
    return [_averaged(single), *single] if len(single) > 1 else single


def _grid(title: str, t: Table, name: str) -> Grid:
    place = names(t)
    values: dict[tuple[str, tuple[str, int]], float] = {}
    for (label, budget), cell in t.cells.items():
        if name in cell.scores:
            row, heading = place[label]
            values[row, (heading, budget)] = cell.scores[name].magnitude(metric(name).best)[0]
    best: dict[tuple[str, int], float] = {}
    for (_, column), value in values.items():
        best[column] = min(value, best.get(column, math.inf))
    cells = {(row, column): _factor(value, best[column]) for (row, column), value in values.items()}
    headings = dict.fromkeys(heading for _, heading in place.values())
    columns = tuple((h, b) for h in headings for b in t.budgets if (h, b) in best)
    return _sorted(title, set(place.values()), columns, cells, best)


def _factor(value: float, best: float) -> float:
    return value / best if best > 0 else 1.0 if value == best else math.inf


def _averaged(single: Sequence[Grid]) -> Grid:
    rows = dict.fromkeys(row for grid in single for row in grid.rows)
    planned = set.intersection(*(set(grid.planned) for grid in single))
    columns = [column for column in single[0].columns if all(column in grid.columns for grid in single)]
    cells = {}
    for row in rows:
        for column in columns:
            found = [grid.cells[row, column] for grid in single if (row, column) in grid.cells]
            if len(found) == len(single):
                cells[row, column] = _mean(found)
    return _sorted("All problems together", planned, tuple(columns), cells, {})


def _mean(factors: Sequence[float]) -> float:
    """Geometric mean; infinite where a run diverged."""
    return math.exp(math.fsum(map(math.log, factors)) / len(factors)) if math.inf not in factors else math.inf


def _sorted(
    title: str,
    planned: Set[tuple[str, str]],
    columns: tuple[tuple[str, int], ...],
    cells: Mapping[tuple[str, tuple[str, int]], float],
    best: dict[tuple[str, int], float],
) -> Grid:
    def mean(row: str) -> float:
        logs = [min(WORST, math.log10(cells.get((row, c), math.inf))) for c in columns if (row, c[0]) in planned]
        return math.fsum(logs) / len(logs)

    headings = {heading for heading, _ in columns}
    means = {row: mean(row) for row in sorted({row for row, heading in planned if heading in headings})}
    order = sorted(means, key=lambda row: means[row])
    return Grid(title, tuple(order), columns, dict(cells), best, {row: 10 ** means[row] for row in order}, planned)


def choices(t: Table) -> dict[int, list[Choice]]:
    """Budget -> every solver on every rule, best first: errors over the least on that problem, averaged over them."""
    if t.rank_by is None:
        return {}
    parts = problems(t)
    factors: dict[int, dict[tuple[str, str], list[float]]] = {b: {} for b in t.budgets}
    for part in parts.values():
        place, best = names(part), metric(t.rank_by).best
        for budget in t.budgets:
            values = {
                place[m.label]: part.cells[m.label, budget].scores[t.rank_by].magnitude(best)[0]
                for m in part.methods
                if (m.label, budget) in part.cells and t.rank_by in part.cells[m.label, budget].scores
            }
            least = min(values.values(), default=math.nan)
            for where, value in values.items():
                factors[budget].setdefault(where, []).append(_factor(value, least))
    return {
        budget: sorted(
            (Choice(*where, _mean(found)) for where, found in here.items() if len(found) == len(parts)),
            key=lambda choice: choice.factor,
        )
        for budget, here in factors.items()
    }
