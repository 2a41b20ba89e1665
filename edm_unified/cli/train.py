"""``edm-unified train``: from a recipe to a checkpoint, with a log, pictures on the way, and a page of curves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own
from edm_unified.components import paths, shipped

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe
    from edm_unified.training.job import Job
    from edm_unified.training.parallel import Team
    from edm_unified.training.runs.run import Run

PAGE_EVERY = 60.0
"""Seconds between two pages of a run that goes on: drawing one takes about a second."""


@click.command(short_help="Train a network as a recipe says; continues what was interrupted.")
@options.recipe_argument
@options.sets
@own.trainee
@click.option("--out", type=options.PATH, help="Directory of the run.  [default: edm-runs/RECIPE]")
@click.option("--dry-run", is_flag=True, help="Print the recipe and what it costs, with the hours here; train nothing.")
@click.option("--shape", type=options.SizesType(), help="With --dry-run: of a sample, where the data are not at hand.")
@click.option("--classes", type=click.IntRange(0), help="With --dry-run: of the data, where they are not at hand.")
@click.option("--init", metavar="RUN", help="Begin with the weights of another run, or of one of its checkpoints.")
@click.option("--fresh", is_flag=True, help="Start over instead of continuing what is there.")
@click.option("--device", help="Where to compute: cpu, cuda, cuda:1, mps.  [default: cuda if there is one, else cpu]")
@click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads.  [default: all]")
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Threads that read data on a disk.  [default: one for each CPU, up to 8]",
)
@click.option("--tensorboard", is_flag=True, help="Write RUN/tensorboard too (pip install edm_unified[tensorboard]).")
@options.quiet
def train(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    dry_run: bool,
    shape: tuple[int, ...] | None,
    classes: int | None,
    init: str | None,
    fresh: bool,
    device: str | None,
    threads: int | None,
    workers: int | None,
    tensorboard: bool,
    quiet: bool,
) -> None:
    """Train the network of RECIPE, a shipped name or a YAML file with `network` and `training`, into a directory.

    \b
    checkpoints/    weights and averages as safetensors, the newest ones; what training continues from
    log.jsonl       loss, also as a function of the noise level, norm of the gradient, rate, speed
    samples/        drawn at intervals with the sampler of the recipe, from the average
    report.html     the curves and the pictures on one page

    The same command again continues an interrupted run, to the same weights bit for bit on one CPU; so does the run in
    the place of RECIPE. Several processes:

    \b
    torchrun --nproc-per-node=8 -m edm_unified train RECIPE --out RUN

    \b
    edm-unified train toy/train_2d --out run
    edm-unified compare run --solver euler --solver heun
    """
    import torch

    from edm_unified.training.parallel import LeaderError, team

    more = [] if workers is None else [f"training.workers={workers}"]
    more += [] if init is None else [f"training.init={json.dumps({'path': init})}"]
    resolved = options.load(recipe, (*overrides, *more))
    if threads is not None:
        torch.set_num_threads(threads)
    if dry_run:
        from edm_unified.cli.cost import describe

        for line in describe(recipe, resolved, shape, classes, _device(device)):
            click.echo(line)
        for note in _notes_without_a_job(resolved):
            click.echo(f"note: {note}")
        return
    if shape is not None or classes is not None:
        named = "--shape" if shape is not None else "--classes"
        raise ValueError(f"{named}: is for --dry-run alone, training asks the data themselves; leave it out")
    chosen = _device(device)
    directory = out or Path("edm-runs") / paths.short_name(recipe)
    if (paths.expanded(recipe) / "run.json").is_file():  # a run, which is continued where it is
        directory = out or paths.expanded(recipe)
        resolved = dataclasses.replace(resolved, denoiser=None)
    job = _job(recipe, resolved)
    with team(chosen) as peers:
        try:
            _train(resolved, job, directory, peers, fresh, quiet or not peers.leads, tensorboard and peers.leads)
        except LeaderError:  # the leading process says it
            raise click.exceptions.Exit(2) from None


def _device(name: str | None) -> torch.device:
    import torch

    return options.torch_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _notes_without_a_job(recipe: Recipe) -> list[str]:
    """What does not suit the data, where they are at hand."""
    from edm_unified.recipe.suitability import notes_on_training

    try:
        return notes_on_training(recipe, recipe.load_data())
    except ValueError:
        return []


def _job(name: str, recipe: Recipe) -> Job:
    """What is to be trained, with its data; and whether its own sampler will be able to use it, known beforehand."""
    import torch

    from edm_unified.denoisers.denoiser import check_range

    try:
        job = recipe.job()
        check_range(job.preconditioning, torch.tensor(recipe.levels, dtype=torch.float64))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return job


def _train(recipe: Recipe, job: Job, directory: Path, peers: Team, fresh: bool, quiet: bool, tensorboard: bool) -> None:
    from edm_unified.recipe.suitability import notes_on_training
    from edm_unified.report import run_files
    from edm_unified.training.runs.run import Run

    board = _summary_writer() if tensorboard else None  # is it there? before anything is written or removed
    tell = _nothing if quiet else partial(click.echo, err=True)
    with Run(directory, job, peers, fresh) as run, _board(run, board) as tell_board:
        settings, began = job.settings, run.state.step
        past, total = began * settings.batch, settings.steps * settings.batch
        if run.state.origin is not None and not began:
            tell(f"{directory}: begins with {run.state.origin['file']} of {run.state.origin['path']}")
        if peers.leads and not quiet:
            for note in notes_on_training(recipe, job.measured_dataset):
                tell(f"note: {note}")
        if began == settings.steps:
            tell(f"{directory}: is finished; a larger training.images goes on, --fresh starts over")
        elif began:
            tell(f"{directory}: goes on after {past:,} of {total:,} images")
        if run.lost:
            tell(
                f"{directory / 'log.jsonl'}: {_numbered(run.lost)} damaged and left out; the file as it was is "
                "log.jsonl.damaged beside it"
            )
        peers.lead(lambda: run_files.mend_samples(run, recipe, tell))
        with options.progress(not quiet) as bar:
            excess = _steps(run, recipe, bar, tell, tell_board)
    if not quiet:
        click.echo(f"{directory}: {settings.images:,} images, {settings.steps:,} steps")
        if excess:
            click.echo(f"  excess: {excess}")
        click.echo(f"  report: {directory / 'report.html'}")
        shown = str(directory)
        name = shlex.quote(f"./{shown}" if shown in shipped.recipe_names() else shown)
        click.echo(f"  use it: edm-unified sample {name}   edm-unified compare {name} --solver fast")


def _nothing(text: str) -> None:
    return


def _steps(
    run: Run,
    recipe: Recipe,
    bar: options.ProgressDisplay,
    tell: Callable[[str], object],
    board: Callable[[Any], object],
) -> str:
    """Train to the end, with pictures on the way and a page; what there is to say of the excess."""
    from edm_unified.report import run_files

    settings, leads, next_page = run.job.settings, run.team.leads, time.monotonic() + PAGE_EVERY
    past, total = run.state.step * settings.batch, settings.steps * settings.batch
    if leads and run.state.step < settings.steps and (run.directory / "report.html").exists():
        run_files.write_page(
            run, recipe
        )  # as far as it has come: the page of the run that is continued said it was whole
    if past and settings.due("sample", run.state.step) and not (run.directory / run_files.samples_file(past)).exists():
        run_files.write_samples(run, recipe, past, tell)  # a kill came between checkpoint and picture
    for step in run.steps():
        at = step.progress
        bar.update(at.images, total, f"loss {at.loss:.4g}  {at.images_per_second:.4g} images/s", start=past)
        if step.line is not None:
            board(step.line)
        if step.sample:
            run_files.write_samples(run, recipe, at.images, tell)
        if leads and (step.saved is not None or step.sample) and time.monotonic() > next_page:
            run_files.write_page(run, recipe)
            next_page = time.monotonic() + PAGE_EVERY
    if not leads:
        return ""
    bar.say("writing the report")
    excess = run_files.write_excess(run)
    run_files.write_page(run, recipe)
    return excess


def _numbered(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")
    return f"line {shown} was" if len(lines) == 1 else f"{len(lines)} lines ({shown}) were"


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard: is not installed; pip install edm_unified[tensorboard]") from None
    return SummaryWriter


@contextlib.contextmanager
def _board(run: Run, board: Any) -> Iterator[Any]:
    """A function that takes lines of the log; to TensorBoard where its ``board`` is given."""
    if board is None:
        yield lambda line: None
        return
    run.output.own("tensorboard")
    with board(os.fspath(run.directory / "tensorboard"), purge_step=run.state.step + 1) as writer:

        def tell(line: dict[str, Any]) -> None:
            for name in ("loss", "grad_norm", "rate", "images_per_second"):
                if line[name] is not None:
                    writer.add_scalar(name, line[name], line["step"])
            for sigma, loss, _ in line["bins"]:
                writer.add_scalar(f"loss_at_sigma/{sigma:.4g}", loss, line["step"])

        yield tell
