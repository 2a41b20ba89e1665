"""``edm-unified sample``: samples of one method, as an array and a picture."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options, own
from edm_unified.components import paths
from edm_unified.components.component import MOST, MOST_SAMPLES, MOST_SEED
from edm_unified.components.output_kinds import SAMPLES
from edm_unified.components.outputs import OutputDirectory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edm_unified.recipe import Recipe
    from edm_unified.recipe.prepared import Prepared


NAMES = ("samples.npy", "labels.npy", "samples.png", "recipe.yaml", "environment.json")
"""All that a run may write, and none of them is left of an earlier one."""


@click.command(short_help="Draw samples with one method; write a picture and an array.")
@options.recipe_argument
@options.swaps
@own.network()
@click.option("--n", type=click.IntRange(1, MOST_SAMPLES), default=64, show_default=True, help="The number of samples.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, show_default=True,
              help="Sample i of a seed is the same whatever --n and --batch.")  # fmt: skip
@click.option("--out", type=options.PATH, help="Directory for the results  [default: edm-samples/RECIPE]")
@click.option("--scaled", is_flag=True, help="Write samples.npy in the scale of the network, not in the data's units.")
@click.option("--batch", type=click.IntRange(1, MOST), default=256, show_default=True, help="Samples at a time.")
@click.option("--compile", "compiled", is_flag=True,
              help="Compile the network, and on a GPU replay whole runs as CUDA graphs; for many batches.")  # fmt: skip
@options.threads
@options.device
@options.dtype
@options.quiet
def sample(
    recipe: str,
    overrides: tuple[str, ...],
    n: int,
    seed: int,
    out: Path | None,
    scaled: bool,
    batch: int,
    compiled: bool,
    threads: int | None,
    device: str,
    dtype: str,
    quiet: bool,
    **swaps: Any,
) -> None:
    """Draw samples with RECIPE, a shipped name or a YAML file, and write them to a directory.

    \b
    samples.npy         (n, *shape), in the units of the data: 0 to 255 of images in bytes
    samples.png         256 images as a grid, 8 signals, or vectors as points in their first two coordinates
    labels.npy          the class of each, where they were conditioned on one
    recipe.yaml         the recipe as it was run
    environment.json    versions, machine, command, and the SHA-256 of the others

    \b
    edm-unified sample edm --steps 5
    edm-unified sample flow_matching --solver midpoint --class 7 --n 16
    """
    from edm_unified.recipe.suitability import notes_on_sampling
    from edm_unified.tuning.of_recipe import other_model

    resolved = options.load(recipe, overrides, **swaps)
    where, precision = options.torch_device(device), options.torch_dtype(dtype)
    directory = out or Path("edm-samples") / paths.short_name(recipe)
    with OutputDirectory(directory, SAMPLES) as output, options.progress(not quiet) as bar:
        for name in NAMES:
            output.check_ours(name)
        bar.say("making the denoiser")
        prepared = _prepared(recipe, resolved, where)
        if compiled:
            prepared.compile()
        for note in [] if quiet else notes_on_sampling(resolved, prepared.dataset):
            click.echo(f"note: {note}", err=True)
        if (other := other_model(prepared)) is not None:
            click.echo(f"warning: {other}", err=True)
        samples, labels, seconds = _draw(recipe, prepared, n, seed, batch, compiled, threads, precision, bar)
        nfe = prepared.nfe // -(-n // batch)
        run = {"nfe": nfe, "seconds": round(seconds, 3), "seed": seed, "class": resolved.sampler.label}
        files = _files(prepared, samples, labels, run, precision, scaled)
        replaced = _command_of(output)
        output.write_together(files, gone=[name for name in NAMES if name not in files], sealed=True)
    if not quiet:
        shape = "×".join(map(str, samples.shape[1:]))
        click.echo(f"{n} samples of {shape}, {nfe} evaluations each, in {seconds:.2f} s")
        if short := resolved.sampler.shortfall(resolved.schedule):
            click.echo(f"note: {short}")
        for name in files:
            click.echo(f"  {directory / name}")
        if replaced not in ("", _command()):
            click.echo(f"note: they take the place of those of `{replaced}`; with another --out there would be both")


def _command() -> str:
    return shlex.join(["edm-unified", *sys.argv[1:]])


def _command_of(output: OutputDirectory) -> str:
    """The command whose samples are there; nothing where there are none, or it is not known."""
    try:
        command = json.loads(output.read("environment.json") or b"{}").get("command", "")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return command if isinstance(command, str) else ""


def _prepared(name: str, recipe: Recipe, device: torch.device) -> Prepared:
    from edm_unified.recipe.prepared import Prepared

    try:
        return Prepared.of(recipe, device)
    except ValueError as error:
        raise ValueError(options.of_the_class(str(error)) or f"{name}: {error}") from None


def _draw(
    name: str,
    prepared: Prepared,
    n: int,
    seed: int,
    batch: int,
    compiled: bool,
    threads: int | None,
    dtype: torch.dtype,
    bar: options.ProgressDisplay,
) -> tuple[Tensor, Tensor | None, float]:
    """The samples, in the scale of the network, and their classes on the CPU, and the seconds for all."""
    import torch

    from edm_unified.sampling.loop import Progress

    parts, labels = [], []
    began = time.perf_counter()
    batch = min(batch, n)
    for first in range(0, n, batch):
        size = min(batch, n - first)
        rows = batch if compiled else None  # of the last batch too: another size would be compiled once more

        def moved(progress: Progress, first: int = first, size: int = size) -> None:
            bar.update(first + size * progress.move / progress.moves, n, f"sigma {progress.sigma:.3g}")

        part = f"{name}: samples {first} to {first + size - 1}" if size < n else name
        with _naming(part), options.few_threads(_size(prepared.denoiser), threads):
            drawn = prepared.sample(size, seed, first, dtype=dtype, callback=moved, rows=rows)
        parts.append(drawn.samples.cpu())
        labels += [] if drawn.labels is None else [drawn.labels.cpu()]
        if compiled:
            bar.update(first + size, n, f"{first + size} samples")
    classes = torch.cat(labels) if labels else None
    return torch.cat(parts), classes, time.perf_counter() - began


def _size(denoiser: Any) -> float:
    """Numbers in a sample of a closed form; infinite for a network."""
    import torch

    return math.inf if isinstance(denoiser, torch.nn.Module) else math.prod(denoiser.shape)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from None


def _files(
    prepared: Prepared,
    samples: Tensor,
    labels: Tensor | None,
    run: Mapping[str, Any],
    dtype: torch.dtype,
    scaled: bool,
) -> dict[str, bytes]:
    """What is written, by name, all of it made before anything is written."""
    import numpy as np

    from edm_unified.compare.problem import Settings
    from edm_unified.compare.view import environment
    from edm_unified.data.units import for_pictures, in_data_units
    from edm_unified.report import pictured, samples_png

    dataset = prepared.dataset
    array = (samples.float() if scaled else in_data_units(dataset, samples)).numpy()
    if not np.isfinite(array).all():
        raise FloatingPointError(
            "samples: are beyond the numbers of float32; take more steps, or a more stable corrector"
        )
    files = {"samples.npy": _npy(array)} | ({} if labels is None else {"labels.npy": _npy(labels.numpy())})
    if pictured(array.shape[1:]):
        shown = for_pictures(dataset, samples).float().numpy()
        files["samples.png"] = samples_png(shown, None if labels is None else labels.numpy())
    units = "the scale of the network" if scaled else dataset.unit or "the units of the data"
    about: dict[str, Any] = {
        "command": _command(), **run, "units": units, **environment(Settings(prepared.device, dtype))
    }  # fmt: skip
    files["recipe.yaml"] = prepared.recipe.dump().encode()
    about["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["environment.json"] = (json.dumps(about, indent=2) + "\n").encode()
    return files


def _npy(array: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
