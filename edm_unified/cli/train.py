"""``edm-unified train``: from a recipe to a checkpoint, with a log, pictures on the way, and a page of curves."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options
from edm_unified.components import paths, shipped

if TYPE_CHECKING:
    import torch

    from edm_unified.recipe import Recipe
    from edm_unified.training.job import Job
    from edm_unified.training.parallel import Team
    from edm_unified.training.runs.run import Run
    from edm_unified.training.trained_denoiser import TrainedDenoiser

GRID = 64
"""Samples that are drawn at intervals."""
PAGE_EVERY = 60.0
"""Seconds between two pages of a run that goes on: drawing one takes about a second."""


@click.command(short_help="Train a network as a recipe says; continues what was interrupted.")
@options.recipe_argument
@options.sets
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
        peers.lead(lambda: _mend_pictures(run, recipe, tell))
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
    settings, leads, next_page = run.job.settings, run.team.leads, time.monotonic() + PAGE_EVERY
    past, total = run.state.step * settings.batch, settings.steps * settings.batch
    if leads and run.state.step < settings.steps and (run.directory / "report.html").exists():
        _page(run, recipe)  # as far as it has come: the page of the run that is continued said it was whole
    if past and settings.due("sample", run.state.step) and not (run.directory / _drawn(past)).exists():
        _picture(run, recipe, past, tell)  # a kill came between checkpoint and picture
    for step in run.steps():
        at = step.progress
        bar.update(at.images, total, f"loss {at.loss:.4g}  {at.images_per_second:.4g} images/s", start=past)
        if step.line is not None:
            board(step.line)
        if step.sample:
            _picture(run, recipe, at.images, tell)
        if leads and (step.saved is not None or step.sample) and time.monotonic() > next_page:
            _page(run, recipe)
            next_page = time.monotonic() + PAGE_EVERY
    if not leads:
        return ""
    bar.say("writing the report")
    excess = _excess(run)
    _page(run, recipe)
    return excess


def _numbered(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")
    return f"line {shown} was" if len(lines) == 1 else f"{len(lines)} lines ({shown}) were"


def _picture(run: Run, recipe: Recipe, images: int, tell: Callable[[str], object]) -> None:
    """Write samples of the present average. An error here is printed and does not end the training."""
    denoiser = run.denoiser()  # all processes together
    if run.team.leads:
        _write_picture(run, recipe, denoiser, images, tell)


def _write_picture(
    run: Run, recipe: Recipe, denoiser: TrainedDenoiser, images: int, tell: Callable[[str], object]
) -> None:
    try:
        drawn = _draw(denoiser, recipe, run.job)
    except (ValueError, FloatingPointError) as error:
        tell(f"no samples at {images:,} images: {error}")
        return
    import numpy as np

    from edm_unified.data.units import for_pictures
    from edm_unified.report import pictured, samples_png

    buffer = io.BytesIO()
    np.save(buffer, drawn.numpy(), allow_pickle=False)
    file = _drawn(images)
    if pictured(drawn.shape[1:]):
        shown = for_pictures(run.job.measured_dataset, drawn).float().numpy()
        run.output.write(f"{file.removesuffix('.npy')}.png", samples_png(shown))
    run.output.write(file, buffer.getvalue(), sealed=True)  # the last: where it is, the picture is whole


def _drawn(images: int) -> str:
    return f"samples/{images:012d}.npy"


def _pictures(directory: Path) -> list[Path]:
    """The arrays of samples that training drew, the earliest first."""
    found = [path for path in (directory / "samples").glob("*.npy") if re.fullmatch("[0-9]{12,}", path.stem)]
    return sorted(found, key=lambda path: int(path.stem))


def _mend_pictures(run: Run, recipe: Recipe, tell: Callable[[str], object]) -> None:
    """Set aside the samples that were damaged, and draw them again where their checkpoint is still there."""
    from edm_unified.training.runs import checkpoint

    for path in _pictures(run.directory):
        name = f"samples/{path.name}"
        try:
            _check_samples(run.output.read(name), run.job.shape)
        except Exception as error:  # an array that was damaged raises whatever it pleases
            words = str(error).removeprefix(f"{path}: ").splitlines()
            why = words[0] if words else type(error).__name__
        else:
            continue
        aside = run.output.set_aside(name)
        tell(f"{path}: cannot be used ({why}); it is set aside as {aside.name}")
        folder = run.directory / "checkpoints" / path.stem
        if (folder / checkpoint.META).is_file():
            _write_picture(run, recipe, checkpoint.load(folder).to(run.team.device), int(path.stem), tell)


def _check_samples(content: bytes | None, shape: tuple[int, ...]) -> None:
    """Raise an exception unless that is an array of samples of that shape."""
    import numpy as np

    array = np.load(io.BytesIO(content or b""), allow_pickle=False)
    if array.dtype != np.float32 or array.shape != (GRID, *shape):
        raise ValueError(f"holds {array.dtype} of shape {array.shape}, not samples of the run")


def _draw(denoiser: TrainedDenoiser, recipe: Recipe, job: Job) -> torch.Tensor:
    import torch

    from edm_unified.recipe.prepared import Prepared

    prepared = Prepared(recipe, denoiser, job.dataset, next(denoiser.parameters()).device)
    return prepared.sample(GRID, dtype=torch.float32).samples.cpu()


def _page(run: Run, recipe: Recipe) -> None:
    from edm_unified.report import training as page
    from edm_unified.training.runs import log

    lines = log.read(run.directory / "log.jsonl")
    excess = _levels(run.directory / "excess.jsonl")
    wanted = 0 if recipe.training is None else recipe.training.images
    html = page.build(recipe.title, recipe.source, recipe.dump(), lines, _pictures(run.directory), excess, wanted)
    run.output.write("report.html", html)


def _levels(path: Path) -> list[dict[str, Any]]:
    """The lines of ``excess.jsonl``; none where it is damaged, since the run ends with a new one."""
    from edm_unified.training.objective.excess import Excess

    wanted = {"images", "relative", *Excess._fields}
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        sound = all(
            wanted <= line.keys() and all(type(line[name]) in (int, float) for name in wanted) for line in lines
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return lines if sound else []


def _excess(run: Run) -> str:
    """Write ``excess.jsonl``, the excess loss of the average where the data have an exact D; returns a summary."""
    if run.job.dataset.exact is None:
        return ""
    from edm_unified.training.objective.excess import excess_of
    from edm_unified.training.runs import checkpoint

    trained = checkpoint.load(run.directory)
    found = excess_of(trained, run.job)
    images = trained.about["images"]
    lines = [{"images": images, **level._asdict(), "relative": level.relative} for level in found]
    run.output.write("excess.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    worst = max(found, key=lambda level: level.relative)
    return f"at most {worst.relative:.2%} of the variance to be explained, at sigma = {worst.sigma:.3g}"


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
