"""``edm-unified sample``: samples of one method, as an array and a picture."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edm_unified.cli import options

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from edm_unified.recipe import Recipe


@click.command(short_help="Draw samples with one method; write a picture and an array.")
@options.recipe_argument
@options.swaps
@click.option("--n", type=click.IntRange(1, 10_000_000), default=64, show_default=True, help="The number of samples.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
              help="Sample i of a seed is the same whatever --n and --batch.")  # fmt: skip
@click.option("--class", "label", type=int, metavar="K", help="Condition on class K, where the denoiser has classes.")
@click.option("--out", type=click.Path(path_type=Path), help="Directory for the results.  [default: edm-samples/RECIPE]")
@click.option("--batch", type=click.IntRange(1, 1_000_000), default=256, show_default=True, help="Samples at a time.")
@options.device
@options.dtype
@options.quiet
def sample(
    recipe: str,
    overrides: tuple[str, ...],
    n: int,
    seed: int,
    label: int | None,
    out: Path | None,
    batch: int,
    device: str,
    dtype: str,
    quiet: bool,
    **swaps: Any,
) -> None:
    """Draw samples with RECIPE, a shipped name or a YAML file, and write them to a directory.

    \b
    samples.npy         (n, *shape), float32, in the units of the data
    samples.png         the first 256 as a grid, where they are images
    recipe.yaml         the recipe as it was run
    environment.json    versions, machine, command

    \b
    edm-unified sample edm --steps 5
    edm-unified sample flow_matching --solver midpoint --class 7 --n 16
    """
    resolved = options.load(recipe, overrides, **swaps)
    where, precision = options.torch_device(device), options.torch_dtype(dtype)
    directory = out or Path("edm-samples") / Path(recipe).stem
    with _directory(directory), options.progress(not quiet) as bar:
        bar.say("making the denoiser")
        began = time.perf_counter()
        samples, nfe = _draw(recipe, resolved, n, seed, label, batch, where, precision, bar)
        seconds = time.perf_counter() - began
        files = _files(resolved, samples, {"nfe": nfe, "seconds": round(seconds, 3), "seed": seed, "class": label}, where, precision)
        _write_all(directory, files)
    if not quiet:
        shape = "×".join(map(str, samples.shape[1:]))
        click.echo(f"{n} samples of {shape}, {nfe} evaluations each, in {seconds:.2f} s")
        for name in files:
            click.echo(f"  {directory / name}")


def _draw(
    name: str,
    recipe: Recipe,
    n: int,
    seed: int,
    label: int | None,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    bar: options.Progress,
) -> tuple[Tensor, int]:
    """The samples on the CPU, and the evaluations that each of them took."""
    import torch

    from edm_unified import sampling
    from edm_unified.denoiser import Counted

    try:
        built, _ = recipe.build()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    denoiser = Counted(built.to(device))
    condition = _condition(built, label)
    parts: list[Tensor] = []
    for first in range(0, n, batch):
        size = min(batch, n - first)

        def moved(progress: sampling.Progress, first: int = first, size: int = size) -> None:
            bar.update(first + size * progress.move / progress.moves, n, f"sigma {progress.sigma:.3g}")

        with _naming(name):
            x = sampling.sample(
                denoiser,
                sampling.unit_noise(size, built.shape, seed=seed, first=first).to(device),
                schedule=recipe.schedule,
                steps=recipe.sampler.steps,
                solver=recipe.sampler.solver,
                renoising=recipe.sampler.renoising,
                corrector=recipe.sampler.corrector,
                seed=seed,
                first=first,
                dtype=dtype,
                cond=None if condition is None else {"label": torch.full((size,), condition, device=device)},
                callback=moved,
            )
        parts.append(x.cpu())
    return torch.cat(parts), denoiser.nfe // len(parts)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from None


def _condition(denoiser: Any, label: int | None) -> int | None:
    """``label`` once it is known to exist."""
    if label is None:
        return None
    labels = getattr(denoiser, "labels", None)
    known = [] if labels is None else sorted(set(labels.tolist()) - {-1})
    if not known:
        raise ValueError(f"--class {label}: the denoiser has no classes; leave --class out, or give data with classes")
    if label not in known:
        listed = ", ".join(map(str, known)) if len(known) <= 20 else f"{len(known)} of them from {known[0]} to {known[-1]}"
        raise ValueError(f"--class {label}: no such class; the denoiser has {listed}")
    return label


def _files(
    recipe: Recipe, samples: Tensor, run: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> dict[str, bytes]:
    """What is written, by name, all of it made before anything is written."""
    import numpy as np

    from edm_unified.compare.run import Settings
    from edm_unified.compare.view import environment
    from edm_unified.report import samples_grid_png

    array = samples.to("cpu").float().numpy()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    files = {"samples.npy": buffer.getvalue()}
    if array.ndim == 4 and array.shape[1] in (1, 3):
        shown = array[:256]
        files["samples.png"] = samples_grid_png(shown, columns=max(1, round(len(shown) ** 0.5)))
    command = shlex.join(["edm-unified", *sys.argv[1:]])
    about = {"command": command, **run, **environment(Settings(device, dtype))}
    return files | {"recipe.yaml": recipe.dump().encode(), "environment.json": (json.dumps(about, indent=2) + "\n").encode()}


def _write_all(directory: Path, files: Mapping[str, bytes]) -> None:
    """Every file, whole or not at all. A picture of an earlier run does not stay beside new samples."""
    from edm_unified._files import write_atomic

    for name, content in files.items():
        write_atomic(directory / name, content)
    if "samples.png" not in files:
        (directory / "samples.png").unlink(missing_ok=True)


@contextmanager
def _directory(path: Path) -> Iterator[None]:
    """Make ``path`` and see that it can be written before anything is computed; if that fails, leave no trace."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; name a directory with --out")
    made = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
        yield
    except BaseException:
        for folder in made:  # from the innermost; a folder that holds something stays
            try:
                folder.rmdir()
            except OSError:
                break
        raise
