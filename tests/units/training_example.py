"""A small recipe to train, for the tests; and, run as a program, a command that is killed again and again.

    python training_example.py RECIPE DIRECTORY

trains RECIPE once in peace, into DIRECTORY/whole, and once in processes that are killed with SIGKILL: some at random
moments, some in the middle of writing a checkpoint. Each process is a fork that runs the command itself.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from edm_unified.recipe import Recipe, loads

RECIPE = """
title: "A toy"
source: nobody
schedule: {kind: edm}
sampler:
  steps: {kind: karras, n: 6}
  solver: {kind: heun}
data: {kind: random_mixture, dimension: 2, components: 3, samples: 512}
network: {kind: mlp, width: 16, blocks: 1, noise_features: 8, dropout: 0.1}
preconditioning: {kind: edm, sigma_data: 0.5}
objective: {noise: {kind: log_normal}, weight: {kind: edm}}
training:
  images: 320
  batch: 32
  conditional: true
  label_dropout: 0.25
  ema: {kind: power, stds: [0.05, 0.1]}
  clip: 1.0
  log_every: 32
  save_every: 64
  snapshot_every: 128
  sample_every: 320
"""


def recipe(*overrides: str) -> Recipe:
    """The recipe above with ``overrides`` such as ``training.images=64``."""
    found = loads(RECIPE, "toy", overrides)
    assert isinstance(found, Recipe)
    return found


def contents(run: Path) -> dict[str, bytes]:
    """Everything that a finished run has to have got right: weights, averages, snapshots."""
    return {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*.safetensors"))}


def main() -> None:
    from edm_unified.cli import main as command
    from edm_unified.cli import train
    from edm_unified.training.runs import run as running

    torch.set_num_threads(1)
    train._page = lambda *arguments: None  # type: ignore[assignment]  # a second of drawing for each process
    train._picture = lambda *arguments: None  # type: ignore[assignment]
    arguments = ["train", sys.argv[1], "--quiet", "--device", "cpu", "--out"]
    whole, killed = (Path(sys.argv[2]) / name for name in ("whole", "killed"))

    def start(out: Path, doomed: int | None = None) -> int:
        pid = os.fork()
        if pid:
            return pid
        if doomed is not None:
            _die_at_rename(running, doomed)
        try:
            command([*arguments, str(out)], standalone_mode=False)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    began = time.monotonic()
    assert os.waitpid(start(whole), 0)[1] == 0
    length = time.monotonic() - began
    choose, kills = random.Random(0), 0
    for doomed in (2, None, 1, None, 2):
        pid = start(killed, doomed)
        if doomed is None:
            time.sleep(choose.uniform(0.1, 0.6) * length)
            os.kill(pid, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    sys.stdout.write(f"killed {kills} times\n")
    assert os.waitpid(start(killed), 0)[1] == 0


def _die_at_rename(running: Any, number: int) -> None:
    """Be killed just before a checkpoint gets its name, the ``number``-th time."""
    left, rename = number, os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        if Path(target).parent.name == "checkpoints" and Path(target).name.isdigit():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    running.os.replace = replace


if __name__ == "__main__":
    main()
