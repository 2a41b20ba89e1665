"""What a run of training writes for its readers: samples drawn on the way, the excess loss, and the page of curves."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edm_unified.data.units import for_pictures
from edm_unified.recipe import Recipe
from edm_unified.recipe.prepared import Prepared
from edm_unified.report import pictured, samples_png, training
from edm_unified.training.job import Job
from edm_unified.training.objective.excess import Excess, excess_of
from edm_unified.training.runs import checkpoint, log
from edm_unified.training.runs.run import Run
from edm_unified.training.trained_denoiser import TrainedDenoiser

GRID = 64
"""Samples that are drawn at intervals."""


def write_samples(run: Run, recipe: Recipe, images: int, tell: Callable[[str], object]) -> None:
    """Write samples of the present average. An error here is printed and does not end the training."""
    denoiser = run.denoiser()  # all processes together
    if run.team.leads:
        _write(run, recipe, denoiser, images, tell)


def _write(run: Run, recipe: Recipe, denoiser: TrainedDenoiser, images: int, tell: Callable[[str], object]) -> None:
    try:
        drawn = _draw(denoiser, recipe, run.job)
    except (ValueError, FloatingPointError) as error:
        tell(f"no samples at {images:,} images: {error}")
        return
    buffer = io.BytesIO()
    np.save(buffer, drawn.numpy(), allow_pickle=False)
    file = samples_file(images)
    if pictured(drawn.shape[1:]):
        shown = for_pictures(run.job.measured_dataset, drawn).float().numpy()
        run.output.write(f"{file.removesuffix('.npy')}.png", samples_png(shown))
    run.output.write(file, buffer.getvalue(), sealed=True)  # the last: where it is, the picture is whole


def samples_file(images: int) -> str:
    """The name of the array of samples that were drawn after so many images."""
    return f"samples/{images:012d}.npy"


def _pictures(directory: Path) -> list[Path]:
    """The arrays of samples that training drew, the earliest first."""
    found = [path for path in (directory / "samples").glob("*.npy") if re.fullmatch("[0-9]{12,}", path.stem)]
    return sorted(found, key=lambda path: int(path.stem))


def mend_samples(run: Run, recipe: Recipe, tell: Callable[[str], object]) -> None:
    """Set aside the samples that were damaged, and draw them again where their checkpoint is still there."""
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
            _write(run, recipe, checkpoint.load(folder).to(run.team.device), int(path.stem), tell)


def _check_samples(content: bytes | None, shape: tuple[int, ...]) -> None:
    """Raise an exception unless that is an array of samples of that shape."""
    array = np.load(io.BytesIO(content or b""), allow_pickle=False)
    if array.dtype != np.float32 or array.shape != (GRID, *shape):
        raise ValueError(f"holds {array.dtype} of shape {array.shape}, not samples of the run")


def _draw(denoiser: TrainedDenoiser, recipe: Recipe, job: Job) -> torch.Tensor:
    prepared = Prepared(recipe, denoiser, job.dataset, next(denoiser.parameters()).device)
    return prepared.sample(GRID, dtype=torch.float32).samples.cpu()


def write_page(run: Run, recipe: Recipe) -> None:
    """Write ``report.html``: the curves, the samples and the excess loss so far."""
    lines = log.read(run.directory / "log.jsonl")
    excess = _levels(run.directory / "excess.jsonl")
    wanted = 0 if recipe.training is None else recipe.training.images
    html = training.build(recipe.title, recipe.source, recipe.dump(), lines, _pictures(run.directory), excess, wanted)
    run.output.write("report.html", html)


def _levels(path: Path) -> list[dict[str, Any]]:
    """The lines of ``excess.jsonl``; none where it is damaged, since the run ends with a new one."""
    wanted = {"images", "relative", *Excess._fields}
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        sound = all(
            wanted <= line.keys() and all(type(line[name]) in (int, float) for name in wanted) for line in lines
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return lines if sound else []


def write_excess(run: Run) -> str:
    """Write ``excess.jsonl``, the excess loss of the average where the data have an exact D; returns a summary."""
    if run.job.dataset.exact is None:
        return ""
    trained = checkpoint.load(run.directory)
    found = excess_of(trained, run.job)
    images = trained.about["images"]
    lines = [{"images": images, **level._asdict(), "relative": level.relative} for level in found]
    run.output.write("excess.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    worst = max(found, key=lambda level: level.relative)
    return f"at most {worst.relative:.2%} of the variance to be explained, at sigma = {worst.sigma:.3g}"
