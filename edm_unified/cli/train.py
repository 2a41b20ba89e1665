"""``edm-unified train``: from a recipe to a checkpoint, with a log, pictures on the way, and a page of curves."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options
from edm_unified.components import paths, shipped
from edm_unified.components.files import write_atomic

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe
    from edm_unified.training.denoiser import Trained
    from edm_unified.training.job import Job
    from edm_unified.training.parallel import Team
    from edm_unified.training.runs.run import Run

GRID = 64
"""Samples that are drawn at intervals."""
PAGE_EVERY = 60.0
"""Seconds between two pages of a run that goes on: drawing one takes about a second."""


@click.command(short_help="Train a network as a recipe says; continues what was interrupted.")
@options.recipe_argument
@options.sets
@click.option("--out", type=options.PATH, help="Directory of the run.  [default: edm-runs/RECIPE]")
@click.option("--dry-run", is_flag=True, help="Print the recipe and what it costs; train nothing.")
@click.option("--shape", type=options.SizesType(), help="With --dry-run: of a sample, where the data are not at hand.")
@click.option("--classes", type=click.IntRange(0), help="With --dry-run: of the data, where they are not at hand.")
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

    resolved = options.load(recipe, overrides if workers is None else (*overrides, f"training.workers={workers}"))
    if threads is not None:
        torch.set_num_threads(threads)
    if dry_run:
        from edm_unified.cli.cost import describe

        for line in describe(recipe, resolved, shape, classes):
            click.echo(line)
        return
    if shape is not None or classes is not None:
        named = "--shape" if shape is not None else "--classes"
        raise ValueError(f"{named}: is for --dry-run alone, training asks the data themselves; leave it out")
    chosen = options.torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    directory = out or Path("edm-runs") / Path(recipe).stem
    if (paths.expanded(recipe) / "run.json").is_file():  # a run, which is continued where it is
        directory = out or paths.expanded(recipe)
        resolved = dataclasses.replace(resolved, denoiser=None)
    job = _job(recipe, resolved)
    with team(chosen) as peers:
        try:
            _train(resolved, job, directory, peers, fresh, quiet or not peers.leads, tensorboard and peers.leads)
        except LeaderError:  # the leading process says it
            raise click.exceptions.Exit(2) from None


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
    from edm_unified.training.runs.run import Run

    board = _summary_writer() if tensorboard else None  # is it there? before anything is written or removed
    with (
        Run(directory, job, peers, fresh) as run,
        options.progress(not quiet) as bar,
        _board(directory, board) as tell,
    ):
        began, steps, next_page = run.state.step, job.settings.steps, time.monotonic() + PAGE_EVERY
        if began == steps and not quiet:
            click.echo(f"{directory}: is finished; a larger training.images goes on, --fresh starts over", err=True)
        if peers.leads and began < steps and (directory / "report.html").exists():
            _page(directory, recipe)  # as far as it has come: the page of the run that is continued said it was whole
        if began and job.settings.due("sample", began) and not _drawn(run, began * job.settings.batch).exists():
            _picture(run, recipe, began * job.settings.batch, bar)  # a kill came between checkpoint and picture
        for step in run.steps():
            at = step.progress
            text = f"loss {at.loss:.4g}  {at.images_per_second:.4g} images/s"
            bar.update((at.step - began) * job.settings.batch, (steps - began) * job.settings.batch, text)
            if step.line is not None:
                tell(step.line)
            if step.sample:
                _picture(run, recipe, at.images, bar)
            if peers.leads and (step.saved is not None or step.sample) and time.monotonic() > next_page:
                _page(directory, recipe)
                next_page = time.monotonic() + PAGE_EVERY
        if peers.leads:
            bar.say("writing the report")
            excess = _excess(directory, job)
            _page(directory, recipe)
    if not quiet:
        click.echo(f"{directory}: {job.settings.images:,} images, {steps:,} steps")
        if excess:
            click.echo(f"  excess: {excess}")
        click.echo(f"  report: {directory / 'report.html'}")
        shown = str(directory)
        name = shlex.quote(f"./{shown}" if shown in shipped.recipe_names() else shown)
        click.echo(f"  use it: edm-unified sample {name}   edm-unified compare {name} --solver fast")


def _picture(run: Run, recipe: Recipe, images: int, bar: options.Progress) -> None:
    """Samples of the average as it stands. What goes wrong here is told and does not end the training."""
    denoiser = run.denoiser()  # all processes together
    if not run.team.leads:
        return
    file = _drawn(run, images)
    try:
        array = _draw(denoiser, recipe, run.job).numpy()
    except (ValueError, FloatingPointError) as error:
        bar.say(f"no samples at {images:,} images: {error}")
        return
    import numpy as np

    from edm_unified.report import pictured, samples_png

    file.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    if pictured(array.shape[1:]):
        write_atomic(file.with_suffix(".png"), samples_png(array))
    write_atomic(file, buffer.getvalue())  # the last: where it is, the picture is whole


def _drawn(run: Run, images: int) -> Path:
    return run.directory / "samples" / f"{images:012d}.npy"


def _draw(denoiser: Trained, recipe: Recipe, job: Job) -> torch.Tensor:
    import torch

    from edm_unified.recipe.prepared import Prepared

    prepared = Prepared(recipe, denoiser, job.dataset, next(denoiser.parameters()).device)
    return prepared.sample(GRID, dtype=torch.float32).samples.cpu()


def _page(directory: Path, recipe: Recipe) -> None:
    from edm_unified.report import training as page
    from edm_unified.training.runs import log

    lines = log.read(directory / "log.jsonl")
    pictures = sorted((directory / "samples").glob("*.npy"))
    excess = [json.loads(line) for line in _text(directory / "excess.jsonl").splitlines()]
    wanted = 0 if recipe.training is None else recipe.training.images
    html = page.build(recipe.title, recipe.source, recipe.dump(), lines, pictures, excess, wanted)
    write_atomic(directory / "report.html", html)


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def _excess(directory: Path, job: Job) -> str:
    """``excess.jsonl``: how far the average is from the exact denoiser, where the data have one; in words."""
    if job.dataset.exact is None:
        return ""
    from edm_unified.training.objective.excess import excess_of
    from edm_unified.training.runs import checkpoint

    trained = checkpoint.load(directory)
    found = excess_of(trained, job)
    images = trained.about["images"]
    lines = [{"images": images, **level._asdict(), "relative": level.relative} for level in found]
    write_atomic(directory / "excess.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    worst = max(found, key=lambda level: level.relative)
    return f"at most {worst.relative:.2%} of the variance to be explained, at sigma = {worst.sigma:.3g}"


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard: is not installed; pip install edm_unified[tensorboard]") from None
    return SummaryWriter


@contextlib.contextmanager
def _board(directory: Path, board: Any) -> Iterator[Any]:
    """A function that takes lines of the log; to TensorBoard where its ``board`` is given."""
    if board is None:
        yield lambda line: None
        return
    last = max((int(line["step"]) for line in _lines(directory)), default=0)
    with board(os.fspath(directory / "tensorboard"), purge_step=last + 1) as writer:

        def tell(line: dict[str, Any]) -> None:
            for name in ("loss", "grad_norm", "rate", "images_per_second"):
                if line[name] is not None:
                    writer.add_scalar(name, line[name], line["step"])
            for sigma, loss, _ in line["bins"]:
                writer.add_scalar(f"loss_at_sigma/{sigma:.4g}", loss, line["step"])

        yield tell


def _lines(directory: Path) -> list[dict[str, Any]]:
    from edm_unified.training.runs import log

    return log.read(directory / "log.jsonl")
