"""How fast a network trains on a machine: a few steps of the real thing, timed.

The state is made for it and forgotten; nothing is written. A micro-batch may be cut down, so that a step of a large
network does not take minutes: what is measured is images per second.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, NamedTuple

import torch

from edm_unified.training.job import Job
from edm_unified.training.loop import train
from edm_unified.training.parallel import Team
from edm_unified.training.runs.state import TrainState

SECONDS = 1.0
"""That the timed steps take together, about."""
_LIGHT = 2e10
"""Floating-point operations of one step on a CPU, about a second of a slow one, up to which it is not cut down."""
_HEAVY = 2e12
"""Of one image, beyond which a CPU is not tried at all."""


class Timing(NamedTuple):
    """``images`` a second, measured in ``steps`` steps that took ``seconds`` together."""

    images: float
    steps: int
    seconds: float

    def hours(self, images: int) -> float:
        """For showing so many images, without what is written and drawn in between."""
        return images / self.images / 3600


def time_steps(job: Job, device: torch.device, flops: float, seconds: float = SECONDS) -> Timing | None:
    """Take a few steps of ``job`` on ``device``; ``flops``: of a forward pass of one image.

    None where one image is too much for a CPU.
    """
    cpu, each = device.type == "cpu", 3 * flops
    if cpu and each > _HEAVY:
        return None
    rows = job.settings.batch // job.settings.accumulation
    if cpu:
        rows = max(1, min(rows, int(_LIGHT / each)))
    settings: Any = dataclasses.replace(
        job.settings, batch=rows, accumulation=1, images=10**9, parallel="ddp", log_every=None, save_every=None,
        sample_every=None, snapshot_every=None,
    )  # fmt: skip
    short = dataclasses.replace(job, settings=settings)
    team = Team(device)
    steps = train(short, TrainState.start(short, team), team)
    try:
        next(steps)  # the first one makes buffers and chooses algorithms
        _wait(device)
        taken, began = 0, time.perf_counter()
        while taken < 2 or time.perf_counter() - began < seconds:
            next(steps)
            taken += 1
        _wait(device)
        spent = time.perf_counter() - began
    finally:
        steps.close()
    return Timing(taken * rows / spent, taken, spent)


def machine_memory(device: torch.device) -> int:
    """Bytes of the device, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no such question
        return 8 * 2**30


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
