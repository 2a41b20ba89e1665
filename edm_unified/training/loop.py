"""The training loop: a generator that takes one step of the optimizer after another and reports each.

    for progress in train(job, state, team): ...

A step takes the next ``batch`` positions of the order of the data, draws σ and n for each row, and follows the
gradient of the objective. Whatever it needs beyond the state is a function of the step, and what it does to the state
depends on nothing else: two runs that agree at a step agree at the next, bit for bit on one CPU.

Row i of the batch is the same image with the same σ and n however many processes and micro-batches share the work.
Process r of W takes of micro-batch a the rows from (aW + r)·B/(AW) on.

Nothing here writes a file; :mod:`edm_unified.training.runs.run` does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified.training import random_numbers
from edm_unified.training.batches import Reader
from edm_unified.training.job import Job
from edm_unified.training.parallel import Team, synchronizing, whole
from edm_unified.training.random_numbers import TrainingPurpose
from edm_unified.training.runs.state import TrainState
from edm_unified.training.statistics import Record

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingProgress(NamedTuple):
    """What is known after ``step`` steps: ``images`` shown of ``total``; the last step may go over.

    ``loss`` and ``grad_norm`` are those of the last step that was looked at: this one on a CPU, the one before it on a
    device, which is not waited for. ``images_per_second``: since this process began, without what the caller does
    between steps. ``record``: means since the last one, where a line of the log is due.
    """

    step: int
    images: int
    total: int
    loss: float
    grad_norm: float
    rate: float
    images_per_second: float
    record: Record | None


class _Outcome(NamedTuple):
    """A step whose loss and norm may still be on their way from the device."""

    step: int
    numbers: Tensor  # loss, norm of the gradient, processes whose loss is not finite; (3,) on the CPU
    ready: torch.cuda.Event | None  # when they are there
    parts: list[tuple[Tensor, Tensor]]  # σ and losses of each micro-batch


def train(job: Job, state: TrainState, team: Team) -> Generator[TrainingProgress, None, None]:
    """Take ``state`` from its step to the last one, in place; between two of what this yields it is whole.

    Raises ``FloatingPointError`` naming the step and σ where a loss or a gradient is not finite.
    """
    settings = job.settings
    settings.share(team.size)
    state.model.train()
    busy, first, pending = 0.0, state.step, None
    outcome = (float("nan"), float("nan"))
    with Reader(job, team) as reader:
        while state.step < settings.steps:
            began = time.perf_counter()
            factor = settings.rate.factor(state.step * settings.batch)
            for group, base in zip(state.optimizer.param_groups, state.rates, strict=True):
                group["lr"] = base * factor
            done = _step(job, state, team, reader)
            state.step += 1
            look = team.device.type == "cpu" or any(
                settings.due(name, state.step) for name in ("log", "save", "snapshot")
            )
            if pending is not None:
                outcome = _checked(pending, state, team)
            pending = done
            if look:
                outcome, pending = _checked(done, state, team), None
            record = None
            if settings.due("log", state.step):  # at the end the sums stay: should it go on, the line comes later
                record = state.statistics.read(team, start_again=settings.in_turn("log", state.step))
            busy += time.perf_counter() - began
            speed = (state.step - first) * settings.batch / busy
            images = state.step * settings.batch
            yield TrainingProgress(
                state.step, images, settings.images, *outcome, state.rates[0] * factor, speed, record
            )


def _step(job: Job, state: TrainState, team: Team, reader: Reader) -> _Outcome:
    settings, device, scaler = job.settings, team.device, state.scaler
    parameters = [p for p in state.trainee.parameters() if p.requires_grad]
    state.optimizer.zero_grad(set_to_none=True)
    parts = []
    for part in range(settings.accumulation):
        x0, u, n, cond = _inputs(job, state.step, part, team, reader)
        sigma = job.objective.noise.quantile(u, job.schedule)
        with synchronizing(state.model, last=part == settings.accumulation - 1):
            with torch.autocast(device.type, _TYPES[settings.precision], enabled=settings.precision != "float32"):
                losses, logged = state.model(x0, u, n, cond)
            scaler.scale(losses.mean() / settings.accumulation).backward()
        state.statistics.add(sigma, logged)
        parts.append((sigma, losses.detach()))
    scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    if settings.clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
    state.statistics.step(norm, team.leads)
    scaler.step(state.optimizer)
    scaler.update()
    after = getattr(state.trainee.network, "after_step", None)
    if after is not None:
        after()
    if state.averages is not None:
        state.averages.update((state.step + 1) * settings.batch, settings.batch)
    loss = torch.stack([losses.mean() for _, losses in parts]).mean()
    bad = (~torch.isfinite(loss)).double()
    numbers = torch.stack([loss.double(), norm.double(), team.add(bad) if scaler.is_enabled() else bad])
    return _Outcome(state.step + 1, *_copied_to_cpu(numbers), parts)


def _inputs(
    job: Job, step: int, part: int, team: Team, reader: Reader
) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """x_0, u, n and the conditions of this process's rows of a micro-batch."""
    settings, device = job.settings, team.device
    seed, batch = settings.seed, settings.batch
    rows = settings.share(team.size)
    first = (part * team.size + team.rank) * rows
    mine = slice(first, first + rows)
    x0, labels, conditions = reader(step, part)
    x0 = (x0.pin_memory() if device.type == "cuda" else x0).to(device, non_blocking=True)
    draw = random_numbers.stratified_uniforms if settings.stratified else random_numbers.uniforms
    u = draw((seed, TrainingPurpose.LEVELS, step), batch)[mine].to(device, non_blocking=True)
    n = random_numbers.normals((seed, TrainingPurpose.NOISE, step), first, rows, job.shape, device, batch)
    cond: dict[str, Any] = {}
    if settings.conditional and labels is not None:
        if settings.label_dropout:
            kept = random_numbers.uniforms((seed, TrainingPurpose.LABELS, step), batch)[mine] >= settings.label_dropout
            labels = torch.where(kept, labels, -1) if labels.ndim == 1 else labels & kept[:, None]
        cond["label"] = labels.to(device, non_blocking=True)
    if conditions and settings.condition_dropout:
        u_drop = random_numbers.uniforms((seed, TrainingPurpose.CONDITIONS, step), batch)[mine]
        dropped = u_drop < settings.condition_dropout
        for values in conditions.values():
            values[dropped] = torch.nan  # which a network takes for none
    cond |= {kind: values.to(device, non_blocking=True) for kind, values in conditions.items()}
    if settings.augment is not None:
        x0, augment_labels = settings.augment.apply(
            x0, random_numbers.seed_of(seed, TrainingPurpose.AUGMENT, step), first
        )
        if settings.augment.labels:
            cond["augment"] = augment_labels
    if settings.channels_last and x0.ndim == 4:
        x0 = x0.to(memory_format=torch.channels_last)
    _seed(device, random_numbers.seed_of(seed, TrainingPurpose.NETWORK, step, first))  # for dropout
    return x0, u, n, cond


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that draw here, as ``torch.manual_seed`` does.

    That one also keeps, for each kind of device that is not in use, the call and a stack trace: a millisecond a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed_all(seed)


def _copied_to_cpu(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """``numbers`` on the CPU, and when they have arrived: to wait for that is not to wait for what is queued later."""
    if numbers.device.type != "cuda":
        return numbers.cpu(), None
    here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(numbers.device))
    return here, ready


def _checked(outcome: _Outcome, state: TrainState, team: Team) -> tuple[float, float]:
    """Loss and norm of a step as numbers. Raises ``FloatingPointError`` unless they are finite."""
    if outcome.ready is not None:
        outcome.ready.synchronize()
    loss, norm, bad = outcome.numbers.tolist()
    failed = not math.isfinite(norm)  # the same for all processes: they fail together
    if state.scaler.is_enabled():  # an overflow of the gradient is its business; a loss that is not finite is ours
        failed = bad > 0 or state.scaler.get_scale() < 2**-20
    if failed:
        raise FloatingPointError(_blame(outcome, team))
    return loss, norm


def _blame(outcome: _Outcome, team: Team) -> str:
    sigma = torch.cat([sigma.to(losses.device) for sigma, losses in outcome.parts])
    losses = torch.cat([losses for _, losses in outcome.parts])
    mine = sigma[~torch.isfinite(losses)].tolist()
    wrong = sorted(value for part in team.all_of(mine) for value in part)
    remedy = "lower training.optimizer.lr, set training.clip, or look at the data"
    if wrong:
        levels = f"{wrong[0]:.6g}" if len(wrong) == 1 else f"{wrong[0]:.6g} to {wrong[-1]:.6g}"
        where = f"in step {outcome.step}, for {len(wrong)} samples, at sigma = {levels}"
        return f"training: the loss is not finite {where}; {remedy}"
    worst = int(losses.argmax())
    return (
        f"training: the gradient is not finite in step {outcome.step}; the losses are, the largest is "
        f"{float(losses[worst]):.4g} at sigma = {float(sigma[worst]):.6g}; {remedy}"
    )
