"""``edm-unified compare``: recipes × solvers × schedules × budgets × seeds, into a directory with a report."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified import _shipped
from edm_unified.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from edm_unified.compare import Event, Plan
    from edm_unified.recipe import Comparison, Recipe
    from edm_unified.report import Table


SMALL = 4096
"""Numbers in a sample below which one thread is the fastest."""


def _whole_numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"must be whole numbers with commas between, such as 5,10,20; got {text!r}") from None
    least = 1 if parameter.name == "nfe" else 0
    wrong = [n for n in numbers if not least <= n <= 1_000_000]
    if wrong:
        raise click.BadParameter(f"must be from {least} to 1,000,000, got {wrong[0]}")
    return tuple(dict.fromkeys(numbers))


@click.command(short_help="Compare methods at equal budgets; writes tables, figures and a report.")
@click.argument("recipes", nargs=-1, required=True, shell_complete=options.complete_recipe)
@click.option(
    "--solver",
    "solvers",
    multiple=True,
    shell_complete=options.complete_solvers,
    help="Replace every recipe's solver; give it again for several. E.g. heun, ddim:eta=0.5; or a set of them: all, "
    "deterministic, fast (the ten best at small budgets).",
)
@click.option(
    "--schedule",
    "schedules",
    multiple=True,
    shell_complete=options.complete_schedule,
    help="Replace every recipe's schedule, over the same range of noise levels.",
)
@click.option(
    "--steps-rule",
    "steps_rules",
    multiple=True,
    shell_complete=options.complete_steps,
    help="Replace every recipe's rule for the levels. E.g. karras:rho=5",
)
@click.option("--nfe", callback=_whole_numbers, metavar="N,N,...", help="Budgets: evaluations of the denoiser.")
@click.option("--samples", type=click.IntRange(2, 10_000_000), help="Samples per method, budget and seed.")
@click.option("--seeds", callback=_whole_numbers, metavar="S,S,...", help="One run of every cell for each.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Set a value in every recipe (sampler.solver.alpha=0.5), or in the comparison (grid_nfe=20).",
)
@click.option("--out", type=click.Path(path_type=Path), help="Directory for the results.  [default: edm-compare/NAME]")
@click.option("--fresh", is_flag=True, help="Start over instead of continuing what is there.")
@click.option(
    "--batch",
    type=click.IntRange(1, 1_000_000),
    default=1024,
    show_default=True,
    help="Samples at a time; it does not change the results of a denoiser that treats samples alike.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    help=f"CPU threads.  [default: 1 below {SMALL:,} numbers a sample, where more are slower; else all]",
)
@options.device
@options.dtype
@options.quiet
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON lines, and nothing else.")
def compare(
    recipes: tuple[str, ...],
    solvers: tuple[str, ...],
    schedules: tuple[str, ...],
    steps_rules: tuple[str, ...],
    nfe: tuple[int, ...] | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
    overrides: tuple[str, ...],
    out: Path | None,
    fresh: bool,
    batch: int,
    threads: int | None,
    device: str,
    dtype: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run every RECIPE (a shipped name or a YAML file; a recipe or a whole comparison) at every budget.

    At each budget a method takes as many steps as its counted evaluations allow. All start from the same noise. The
    same command again continues an interrupted run.

    \b
    edm-unified compare quickstart
    edm-unified compare edm ddim --nfe 5,10,20
    edm-unified compare edm --solver euler --solver heun --solver dpmpp_2m --schedule vp
    edm-unified compare edm --solver fast --nfe 6,8,10
    """
    from edm_unified import compare as comparing
    from edm_unified import report
    from edm_unified.compare.run import Problems

    comparison, loaded = _load(recipes, overrides)
    comparison = _with_options(comparison, solvers, schedules, steps_rules, nfe, samples, seeds)
    settings = comparing.Settings(options.torch_device(device), options.torch_dtype(dtype), batch)
    plan = comparing.make_plan(comparison, loaded)
    problems = Problems(settings)
    for method in plan.methods:
        problems.of(method.recipe).check()
    _set_threads(threads, max(math.prod(problems.of(method.recipe).shape) for method in plan.methods))
    directory = out or Path("edm-compare") / _name(recipes)

    with comparing.Store(directory, fresh=fresh) as store:
        talk = not (quiet or as_json)
        with options.progress(talk) as bar:
            comparing.run(plan, store, settings, problems, _observer(bar))
            bar.say("writing the report")
            commands = _remember(store)
            data = comparing.report_data(plan, store, settings, problems, commands)
            _write(plan, store, data)
        if as_json:
            for record in data.records:
                click.echo(json.dumps(record))
        elif not quiet:
            for line in plan.skipped:
                click.echo(f"left out: {line}")
            _print_tables(report.tabulate(data))
            click.echo(f"\nreport: {directory / 'report.html'}")


def _set_threads(threads: int | None, size: int) -> None:
    """One thread for small samples: numpy's and torch's own wait for each other and take ten times as long."""
    import torch

    if threads is not None or size < SMALL:
        torch.set_num_threads(threads or 1)


def _load(names: tuple[str, ...], overrides: tuple[str, ...]) -> tuple[Comparison, list[tuple[str, Recipe]]]:
    """The comparison that the names amount to, and its recipes with the overrides applied to them or to it."""
    from edm_unified.recipe import Comparison, Recipe, load_any

    fields = set(Comparison.__dataclass_fields__)
    own = tuple(
        text for text in overrides if text.partition("=")[0].partition(".")[0].strip() in fields - {"data", "denoiser"}
    )
    theirs = tuple(text for text in overrides if text not in own)
    whole = [(name, found) for name in names if isinstance(found := load_any(name), Comparison)]
    if len(whole) > 1:
        raise ValueError(
            f"{whole[1][0]}: is a second comparison beside {whole[0][0]}; name one comparison and any number of recipes"
        )
    wanted: list[str] = []
    for name in names:
        if whole and name == whole[0][0]:
            wanted += [_shipped.beside(name, recipe) for recipe in whole[0][1].recipes]
        else:
            wanted.append(name)
    loaded = [(_name((name,)), Recipe.load(name, theirs)) for name in dict.fromkeys(wanted)]
    comparison = Comparison.load(whole[0][0], own) if whole else _default_comparison(wanted, own)
    return comparison, _told_apart(loaded, list(dict.fromkeys(wanted)))


def _default_comparison(names: list[str], own: tuple[str, ...]) -> Comparison:
    from edm_unified.recipe import Comparison, from_tree

    tree = {
        "title": f"Comparison of {', '.join(_name((name,)) for name in names)}",
        "recipes": list(dict.fromkeys(names)),
    }
    comparison = from_tree(tree, "comparison", own)
    assert isinstance(comparison, Comparison)
    return comparison


def _name(names: tuple[str, ...]) -> str:
    return "-".join(Path(name).stem for name in names[:3]) + ("-and-more" if len(names) > 3 else "")


def _told_apart(loaded: list[tuple[str, Recipe]], paths: list[str]) -> list[tuple[str, Recipe]]:
    """Recipes whose files have one stem in different folders go by their paths."""
    stems = [name for name, _ in loaded]
    return [
        (name if stems.count(name) == 1 else path, recipe) for (name, recipe), path in zip(loaded, paths, strict=True)
    ]


def _with_options(
    comparison: Comparison,
    solvers: tuple[str, ...],
    schedules: tuple[str, ...],
    steps_rules: tuple[str, ...],
    nfe: tuple[int, ...] | None,
    samples: int | None,
    seeds: tuple[int, ...] | None,
) -> Comparison:
    import dataclasses

    from edm_unified.compare.sets import solver_set
    from edm_unified.discretization import AnySteps
    from edm_unified.recipe import parse_component
    from edm_unified.schedules import AnySchedule
    from edm_unified.solvers import AnySolver

    changes: dict[str, Any] = {}
    if solvers:
        chosen: list[Any] = []
        for text in solvers:
            named = text.strip() in _shipped.SOLVER_SETS
            chosen += solver_set(text.strip()) if named else [parse_component(AnySolver, text, "--solver")]  # type: ignore[arg-type]
        changes |= {"solvers": tuple(dict.fromkeys(chosen)), "solver_set": None}
    if schedules:
        changes["schedules"] = tuple(
            parse_component(AnySchedule, text, "--schedule") for text in dict.fromkeys(schedules)
        )
    if steps_rules:
        changes["steps_rules"] = tuple(
            parse_component(AnySteps, text, "--steps-rule") for text in dict.fromkeys(steps_rules)
        )
    if nfe is not None:
        changes["nfe"] = nfe
        if comparison.grid_nfe not in nfe:
            changes["grid_nfe"] = sorted(nfe)[len(nfe) // 2]
    if samples is not None:
        changes["samples"] = samples
    if seeds is not None:
        changes["seeds"] = seeds
    return dataclasses.replace(comparison, **changes) if changes else comparison


def _observer(bar: options.Progress) -> Any:
    def observe(event: Event) -> None:
        if not event.finished:
            cell = min(event.cell + 1, event.cells)
            bar.update(event.done, event.total, f"cell {cell}/{event.cells}  {event.what}")
        elif event.cells == 0:
            bar.say("every cell is finished already; use --fresh to start over")

    return observe


def _remember(store: Any) -> list[str]:
    """Add this command to those that made the directory, once, and return them all."""
    path = store.directory / "commands.txt"
    known = path.read_text("utf-8").splitlines() if path.exists() else []
    command = shlex.join(["edm-unified", *sys.argv[1:]])
    if command not in known:
        known.append(command)
        store.write("commands.txt", "\n".join(known) + "\n")
    return known


def _write(plan: Plan, store: Any, data: Any) -> None:
    from edm_unified import report

    for method, view in zip(plan.methods, data.methods, strict=True):
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in view.label)
        text = f"# {view.label}\n{method.recipe.dump()}"
        store.write(f"recipes/{name}.yaml", text)
    store.write("environment.json", json.dumps(dict(data.environment), indent=2) + "\n")
    for name, png in report.figures(data).items():
        store.write(f"figures/{name}", png)
    store.write("report.html", report.build(data))


def _print_tables(whole: Table) -> None:
    """The ranked tables, one per problem and budget; of many methods, only the best."""
    from rich.console import Console

    from edm_unified.report import heat
    from edm_unified.report.ranking import problems

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
    from rich.table import Table as RichTable

    from edm_unified.report import heat

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
    from rich.table import Table as RichTable

    from edm_unified import report
    from edm_unified.report.data import metric
    from edm_unified.report.ranking import number

    for budget in table.budgets:
        ranked = report.places(table, budget, table.rank_by) if table.rank_by else {}
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
            values = [_shown(cell.scores.get(name), number) for name in table.metrics]
            rank = f"{place.rank}{'=' if place.shared else ''}" if math.isfinite(place.value) else "–"
            grid.add_row(rank, label, cell.n, f"{cell.nfe:g}", *values)
        console.print()
        console.print(grid)


def _shown(score: Any, number: Any) -> str:
    if score is None:
        return ""
    return "diverged" if score.value is None else number(score.value)
