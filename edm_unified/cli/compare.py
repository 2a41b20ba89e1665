"""``edm-unified compare``: recipes × solvers × schedules × budgets × seeds, into a directory with a report."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options

if TYPE_CHECKING:
    from edm_unified.compare import Event, Plan, Problems, Settings


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
@click.option(
    "--analytic-start",
    "analytic_starts",
    multiple=True,
    shell_complete=options.complete_analytic_start,
    help="The highest levels without the network, for every recipe: analytic_first_step, gaussian_jump:sigma=20, or "
    "none; give it again for several.",
)
@click.option(
    "--guidance",
    "guidances",
    multiple=True,
    shell_complete=options.complete_guidance,
    help="Guide every recipe: classifier_free:w=2, autoguidance:w=2,guide=RUN, or none; give it again for several.",
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
@click.option("--out", type=options.PATH, help="Directory for the results.  [default: edm-compare/NAME]")
@click.option("--fresh", is_flag=True, help="Start over instead of continuing what is there.")
@click.option(
    "--batch",
    type=click.IntRange(1, 1_000_000),
    default=1024,
    show_default=True,
    help="Samples at a time; it does not change the results of a denoiser that treats samples alike.",
)
@options.threads
@options.device
@options.dtype
@options.quiet
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON lines, and nothing else.")
def compare(
    recipes: tuple[str, ...],
    solvers: tuple[str, ...],
    schedules: tuple[str, ...],
    steps_rules: tuple[str, ...],
    analytic_starts: tuple[str, ...],
    guidances: tuple[str, ...],
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
    from edm_unified.cli.tables import print_tables
    from edm_unified.compare import loading
    from edm_unified.compare.view import recipe_files, remember, write_report

    comparison, loaded = loading.load(recipes, overrides)
    parsed = tuple(options.parse_analytic_start(text) for text in dict.fromkeys(analytic_starts))
    guided = tuple(options.parse_guidance(text) for text in dict.fromkeys(guidances))
    comparison = loading.with_options(comparison, solvers, schedules, steps_rules, nfe, samples, seeds, parsed, guided)
    settings = comparing.Settings(options.torch_device(device), options.torch_dtype(dtype), batch)
    plan = comparing.make_plan(comparison, loaded)
    directory = out or Path("edm-compare") / loading.short_name(recipes)
    command = shlex.join(["edm-unified", *sys.argv[1:]])
    warn = lambda line: click.echo(f"warning: {line}", err=True)  # noqa: E731
    with comparing.Store(directory, fresh=fresh, warn=warn) as store:
        for name in recipe_files(plan):
            store.output.check_ours(name)
        with options.progress(not (quiet or as_json)) as bar:
            problems = _problems(plan, settings)
            tasks = [problems.of(method.recipe) for method in plan.methods]
            largest = max(math.inf if problem.learnt else math.prod(problem.shape) for problem in tasks)
            with options.few_threads(largest, threads):
                comparing.run(plan, store, settings, problems, _observer(bar))
                bar.say("writing the report")
                data = comparing.report_data(plan, store, settings, problems, remember(store, command))
                write_report(plan, store, data)
        replaced = store.show(set(comparing.keys_of(plan, settings, problems).values()), command)
        if as_json:
            for record in data.records:
                click.echo(json.dumps(record))
        elif not quiet:
            for line in (*plan.skipped, *plan.notes):
                click.echo(line)
            print_tables(report.tabulate(data))
            click.echo(f"\nreport: {directory / 'report.html'}")
            if replaced is not None:
                click.echo(
                    f"note: it takes the place of the report of `{replaced}`, whose cells stay in "
                    f"{directory / 'records.jsonl'}; with another --out there would be both"
                )


def _problems(plan: Plan, settings: Settings) -> Problems:
    """The problems of all methods, which are asked whether they suit the samplers."""
    from edm_unified.compare import Problems

    problems = Problems(settings)
    for method in plan.methods:
        problems.of(method.recipe).check(method.recipe.sampler)
    return problems


def _observer(bar: options.Progress) -> Any:
    def observe(event: Event) -> None:
        if not event.finished:
            cell = min(event.cell + 1, event.cells)
            bar.update(event.done, event.total, f"cell {cell}/{event.cells}  {event.what}")
        elif event.cells == 0:
            bar.say("every cell is finished already; use --fresh to start over")

    return observe
