"""The ranked tables of a comparison, on a terminal."""

from __future__ import annotations

import math
import sys

from rich.console import Console
from rich.table import Table as RichTable

from edm_unified.report import Table, heat, places
from edm_unified.report.data import Score, metric
from edm_unified.report.ranking import number, problems


def print_tables(whole: Table) -> None:
    """The ranked tables, one per problem and budget; of many methods, only the best."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    if heat.is_crowded(whole):
        _print_best(console, whole)
        return
    for name, table in problems(whole).items():
        if name:
            console.print(f"\n{name}", style="bold")
        _print_ranked(console, table)
    console.print("\nRanks with = are shared: the 95 % bootstrap intervals overlap.", style="dim")


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
        grid = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("solver", "levels", "error / least"):
            grid.add_column(name, no_wrap=True, justify="right" if "/" in name else "left")
        for solver, levels, factor in rows[:most]:
            grid.add_row(solver, levels, f"{factor:.2f}")
        console.print()
        console.print(grid)
    words = "geometric mean over the problems; all methods are in the report"
    console.print(f"\nerror / least: {words}.", style="dim")


def _print_ranked(console: Console, table: Table) -> None:
    for budget in table.budgets:
        ranked = places(table, budget, table.rank_by) if table.rank_by else {}
        grid = RichTable(
            title=f"{budget} evaluations", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        grid.add_column("rank", justify="right")
        grid.add_column("method", no_wrap=True)
        grid.add_column("steps", justify="right")
        grid.add_column("NFE", justify="right")
        for name in table.metrics:
            grid.add_column(metric(name).short + (" ▾" if name == table.rank_by else ""), justify="right")
        for label, place in ranked.items():
            cell = table.cells[label, budget]
            values = [_shown(cell.scores.get(name)) for name in table.metrics]
            rank = f"{place.rank}{'=' if place.shared else ''}" if math.isfinite(place.value) else "–"
            grid.add_row(rank, label, cell.n, f"{cell.nfe:g}", *values)
        console.print()
        console.print(grid)


def _shown(score: Score | None) -> str:
    if score is None:
        return ""
    return "diverged" if score.value is None else number(score.value)
