"""``edm-unified init``: a training recipe for data, ready to run."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edm_unified.cli import options
from edm_unified.cli.data import complete_data
from edm_unified.components.files import write_atomic


@click.command(short_help="Write a training recipe for data, ready to run.")
@click.argument("data", shell_complete=complete_data)
@click.option("--method", default="edm", show_default=True, shell_complete=options.complete_recipe,
              help="The recipe whose schedule, preconditioning, objective and sampler are taken.")  # fmt: skip
@click.option("--out", type=options.PATH, default="recipe.yaml", show_default=True, help="The file to write.")
@click.option("--hours", type=click.FloatRange(0, 100_000, min_open=True), default=1.0, show_default=True,
              help="How long the training may take.")  # fmt: skip
@click.option("--memory", type=click.FloatRange(0, 100_000, min_open=True), metavar="GIB",
              help="What it may take of the device's memory  [default: half of it]")  # fmt: skip
@click.option("--device", help="Where it is to be trained.  [default: cuda if there is one, else cpu]")
@options.quiet
def init(
    data: str, method: str, out: Path, hours: float, memory: float | None, device: str | None, quiet: bool
) -> None:
    """Write a recipe that trains a network on DATA, with the reasons of its numbers beside them.

    DATA as for `edm-unified data`. The noise levels are those that it suggests; the network is sized to the shape of
    the data, and to the hours and the memory that there are, by a few steps of each size on this machine.

    \b
    edm-unified init digits --hours 0.1
    edm-unified init image_folder:path=pictures,size=64 --hours 12 --out pictures.yaml
    edm-unified train recipe.yaml --dry-run
    """
    import torch

    from edm_unified.cli.data import source_of
    from edm_unified.data.suggest import suggest
    from edm_unified.data.survey import survey
    from edm_unified.recipe.draft import Budget, check_method, draft, in_hours
    from edm_unified.training.timing import machine_memory, time_steps

    if out.exists() or out.is_symlink():
        raise ValueError(f"--out {out}: is there already; name another, or remove it first")
    options.check_file(out, "--out")
    where = options.torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = options.load(method)
    check_method(chosen)
    words = ["edm-unified", "init", data, *(["--method", method] if method != "edm" else []), "--hours", f"{hours:g}"]
    with options.progress(not quiet) as bar:
        bar.say("reading the data")
        source, dataset = source_of(data)
        about = survey(dataset)
        bar.say("trying noise levels")
        levels = suggest(dataset, about)
        bar.say("trying networks")
        size = int(memory * 2**30) if memory is not None else machine_memory(where) // 2
        found = draft(
            source, dataset, about, levels, chosen, Budget(hours, where, size), time_steps,
            f"Written by: {shlex.join(words)}",
        )  # fmt: skip
    write_atomic(out, found.text)
    if not quiet:
        click.echo(f"{out}: {found.network}, {found.images:,} images, about {in_hours(found.hours)} on {where}")
        click.echo(f"  train it: edm-unified train {shlex.quote(str(out))}   first: --dry-run says what it costs")
