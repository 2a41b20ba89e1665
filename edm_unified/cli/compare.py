"""``edm-unified compare``: recipes × solvers × schedules × budgets × seeds, into a directory with a report."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own
from edm_unified.components.component import MOST, MOST_SAMPLES, MOST_SEED

if TYPE_CHECKING:
    from edm_unified.compare import Event


@click.command(short_help="Compare methods at equal budgets; writes tables, figures and a report.")
@click.argument("recipes", nargs=-1, required=True, shell_complete=options.complete_recipe)
@options.crossings
@own.network()
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="PATH=V,V,...",
    help="Run every recipe with each of these values, e.g. sampler.renoising.S_churn=0,10,40; of several, all "
    "combinations.",
)
@click.option("--nfe", type=options.NumbersType(least=1), help="Budgets: evaluations of the denoiser.")
@click.option("--samples", type=click.IntRange(2, MOST_SAMPLES), help="Samples per method, budget and seed.")
@click.option(
    "--seeds", type=options.NumbersType(least=0, most=MOST_SEED, name="S,S,..."), help="One run of every cell for each."
)
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
    type=click.IntRange(1, MOST),
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
    sweeps: tuple[str, ...],
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
    **parts: tuple[options.Part, ...],
) -> None:
    """Run every RECIPE (a shipped name or a YAML file; a recipe or a whole comparison) at every budget.

    At each budget a method takes as many steps as its counted evaluations allow. All start from the same noise. The
    same command again continues an interrupted run.

    \b
    edm-unified compare quickstart
    edm-unified compare edm ddim --nfe 5,10,20
    edm-unified compare edm --solver euler --solver heun --solver dpmpp_2m --schedule vp
    edm-unified compare edm --solver fast --nfe 6,8,10
    edm-unified compare edm_stochastic --sweep sampler.renoising.S_churn=0,10,40
    """
    from edm_unified import compare as comparing
    from edm_unified import report
    from edm_unified.cli.tables import print_tables
    from edm_unified.compare import loading
    from edm_unified.compare.view import recipe_files, remember, write_report
    from edm_unified.tuning.of_recipe import other_models

    with options.old_forms_noted():
        comparison, loaded = loading.load(recipes, overrides, own.amend())
    crossed = options.crossed(parts) | dict(loading.parse_sweep(text) for text in sweeps)
    comparison = loading.with_options(comparison, crossed, nfe, samples, seeds)
    settings = comparing.Settings(options.torch_device(device), options.torch_dtype(dtype), batch)
    plan = comparing.make_plan(comparison, loaded)
    directory = out or Path("edm-compare") / loading.short_name(recipes)
    command = shlex.join(["edm-unified", *sys.argv[1:]])
    warn = lambda line: click.echo(f"warning: {line}", err=True)  # noqa: E731
    with comparing.Store(directory, fresh=fresh, warn=warn) as store:
        for name in recipe_files(plan):
            store.output.check_ours(name)
        with options.progress(not (quiet or as_json)) as bar:
            problems = comparing.Problems(settings)
            comparing.prepare(plan, problems, bar.say)
            for line in other_models(plan, problems):
                warn(line)
            tasks = [problems.of(method.recipe) for method in plan.methods]
            largest = max(math.inf if problem.learnt else math.prod(problem.shape) for problem in tasks)
            with options.few_threads(largest, threads):
                comparing.run(plan, store, settings, problems, _observer(bar))
                data = comparing.report_data(plan, store, settings, problems, remember(store, command), bar.say)
                bar.say("writing the report")
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


def _observer(bar: options.ProgressDisplay) -> Any:
    def observe(event: Event) -> None:
        if not event.finished:
            cell = min(event.cell + 1, event.cells)
            bar.update(event.done, event.total, f"cell {cell}/{event.cells}  {event.what}")
        elif event.cells == 0:
            bar.say("every cell is finished already; use --fresh to start over")

    return observe
