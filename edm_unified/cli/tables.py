"""The ranked tables of a comparison, on a terminal of any width."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from edm_unified.cli import terminal
from edm_unified.report import Table, heat, places
from edm_unified.report.data import MetricValue, metric, printable
from edm_unified.report.ranking import number, problems

_GAP = 2
"""Blanks between columns."""
_PIPED = 120
"""Columns where the output is no terminal."""
_NARROWEST_NAME = 16


class Column(NamedTuple):
    """A column of text: ``width`` is what its numbers and the longest word of its head need."""

    head: str
    cells: Sequence[str]
    best: int | None = None
    """The row whose value is the best, shown bold."""

    @property
    def width(self) -> int:
        words = self.head.split()
        return max((*map(len, words), *map(len, self.cells)), default=1)


def print_tables(whole: Table, width: int | None = None) -> None:
    """The ranked tables, one per problem and budget; of many methods, only the best. ``width`` None: the terminal's.

    No number is ever cut: where the terminal is too narrow the names of the methods go over several lines, and then
    the last metrics are left out, which a note says.
    """
    found = terminal.console(highlight=False, width=width if width or sys.stdout.isatty() else _PIPED)
    console = terminal.console(highlight=False, width=max(found.width, 40))
    if heat.is_crowded(whole):
        _print_best(console, whole)
        return
    dropped: dict[str, None] = {}
    for name, table in problems(whole).items():
        if name:
            console.print(f"\n{printable(name)}", style="bold", markup=False)
        for budget in table.budgets:
            dropped |= dict.fromkeys(_print_ranked(console, table, budget))
    for line in _notes(whole, list(dropped), console.is_terminal):
        console.print(line, style="dim", markup=False)


def _notes(table: Table, dropped: Sequence[str], styled: bool) -> list[str]:
    """What the marks mean, where they occur."""
    shown = [name for name in table.metrics if name not in dropped]
    arrows = {"↓": "lower is better", "↑": "higher is better", "→0": "best at 0"}
    used = [f"{arrow} {words}" for arrow, words in arrows.items() if any(metric(n).arrow == arrow for n in shown)]
    notes = ["", "; ".join([*used, *(["the best of a column is bold"] if styled else [])]) + "."]
    parts = problems(table).values()
    ranked = [places(part, budget, part.rank_by) for part in parts for budget in part.budgets if part.rank_by]
    if any(place.shared for placed in ranked for place in placed.values()):
        notes.append(
            "A rank is one plus the number of methods whose whole 95 % bootstrap interval is better; = marks ranks "
            "that several share because their intervals overlap."
        )
        exact = [name for name in ("error_median", "error_rms") if name in table.metrics]
        if exact and table.rank_by not in exact:
            notes.append(
                f"Methods that draw no noise are told apart by their endpoint error: --set rank_by={exact[0]}."
            )
    if dropped:
        names = ", ".join(metric(name).short for name in dropped)
        notes.append(f"Left out for want of room: {names}. All of them are in the report, and on a wider terminal.")
    return notes


def _print_best(console: Console, table: Table, most: int = 10) -> None:
    """The best solvers and levels at each budget, by their errors over the least, averaged over the problems."""
    tables = {
        f"{budget} evaluations": [(c.solver, c.levels, c.factor) for c in ranked]
        for budget, ranked in heat.choices(table).items()
    }
    means = next(iter(heat.grids(table)), None)
    if means is not None:
        tables["all evaluations"] = [(row, "mean over all", factor) for row, factor in means.means.items()]
    for title, rows in tables.items():
        title = f"{title}, the best {min(most, len(rows))} of {len(rows)}"
        names = [printable(solver) + (f" · {printable(levels)}" if levels else "") for solver, levels, _ in rows[:most]]
        factors = Column("error / least", [f"{factor:.2f}" for _, _, factor in rows[:most]])
        _print(console, title, [], Column("solver · levels", names), [factors])
    words = "geometric mean over the problems; all methods are in the report"
    console.print(f"\nerror / least: {words}.", style="dim")


def _print_ranked(console: Console, table: Table, budget: int) -> list[str]:
    """Print one table; returns the names of the metrics for which there was no room."""
    ranked = places(table, budget, table.rank_by) if table.rank_by else {}
    cells = [table.cells[label, budget] for label in ranked]
    ranks = [f"{p.rank}{'=' if p.shared else ''}" if math.isfinite(p.value) else "–" for p in ranked.values()]
    names = Column("method", [printable(label) for label in ranked])
    counts = [Column("steps", [cell.n for cell in cells]), Column("NFE", [f"{cell.nfe:g}" for cell in cells])]
    values = {
        name: Column(
            f"{metric(name).short} {metric(name).arrow}",
            [_shown(cell.scores.get(name)) for cell in cells],
            _best(table, budget, name, list(ranked)),
        )
        for name in sorted(table.metrics, key=lambda name: name != table.rank_by)
    }
    title = f"{budget} evaluations"
    if table.rank_by:
        title += f", ranked by {metric(table.rank_by).short}"
    kept = _print(console, title, [Column("rank", ranks)], names, [*counts, *values.values()], least=3)
    return list(values)[kept - len(counts) :]


def _best(table: Table, budget: int, name: str, order: Sequence[str]) -> int | None:
    """The row with the best value of a metric; None where all diverged."""
    placed = places(table, budget, name)
    label = next((label for label, place in placed.items() if math.isfinite(place.value)), None)
    return order.index(label) if label in order else None


def _print(
    console: Console, title: str, first: Sequence[Column], names: Column, others: Sequence[Column], least: int = 1
) -> int:
    """Print as many of the columns ``others`` as fit, but ``least`` at the least; returns how many."""
    longest = max(map(len, (names.head, *names.cells)), default=1)
    parts = [len(part) + 2 for cell in names.cells for part in cell.split(" · ")]
    narrow = min(longest, max(_NARROWEST_NAME, max(parts, default=0)), max(_NARROWEST_NAME, console.width // 2))
    taken = sum(column.width + _GAP for column in first) + narrow
    kept = 0
    for column in others:
        if taken + _GAP + column.width > console.width and kept >= least:
            break
        taken += _GAP + column.width
        kept += 1
    room = max(narrow, min(longest, narrow + console.width - taken))
    grid = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    columns = [*first, names, *others[:kept]]
    for column in columns:
        named = column is names
        grid.add_column(
            Text(column.head), justify="left" if named else "right", width=room if named else column.width,
            overflow="fold", vertical="top",
        )  # fmt: skip
    for row in range(len(names.cells)):
        grid.add_row(*(Text(c.cells[row], style="bold" if c.best == row else "") for c in columns))
    console.print(f"\n{title}", style="italic", markup=False)
    console.print(grid, width=max(console.width, taken + _GAP), crop=False, no_wrap=True)
    return kept


def _shown(score: MetricValue | None) -> str:
    if score is None:
        return ""
    return "diverged" if score.value is None else number(score.value)
