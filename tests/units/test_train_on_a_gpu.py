"""Training where there is a GPU: half precision, layout, compilation, resuming, NCCL, and no waiting between steps.

Without a CUDA device these are skipped: ``python -m pytest tests -k on_a_gpu`` on a machine that has one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_example import contents, recipe

import edm_unified as edm
from edm_unified.training.loop import train
from edm_unified.training.parallel import Team
from edm_unified.training.runs import log
from edm_unified.training.runs.run import Run
from edm_unified.training.runs.state import TrainState

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
GPU = Team(torch.device("cuda"))
UNET = (
    "data={kind: digits}",
    "network={kind: unet, channels: 16, multipliers: [1, 2], blocks: 1, attention_resolutions: [4]}",
    "training.augment={kind: edm}",
    "training.batch=64",
    "training.optimizer={kind: adam, lr: 0.002}",
    "training.images=12800",
    "training.log_every=2560",
    "training.save_every=12800",
)


def run(directory: Path, *overrides: str, stop: int | None = None, team: Team = GPU) -> list[float]:
    """Train to the end, or leave after the step ``stop``; the losses of the log."""
    with Run(directory, recipe(*overrides).job(), team) as running:
        for step in running.steps():
            if step.progress.step == stop:
                break
    return [line["loss"] for line in log.read(directory / "log.jsonl") if "loss" in line]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_losses_are_those_of_the_cpu(tmp_path: Path, precision: str) -> None:
    """With their own noise: numbers differ between kinds of device, so that only means can be compared."""
    here = run(tmp_path / "cpu", "training.images=6400", "training.log_every=3200", team=Team(torch.device("cpu")))
    there = run(tmp_path / "gpu", "training.images=6400", "training.log_every=3200", f"training.precision={precision}")
    assert there == pytest.approx(here, rel=0.15)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("training.precision=bfloat16", "training.channels_last=true"),
        ("training.precision=float16",),
        ("training.precision=bfloat16", "training.channels_last=true", "training.compile=true"),
        ("training.precision=bfloat16", "training.checkpoint_activations=true", "training.accumulation=2"),
    ],
    ids=" ".join,
)
def test_a_u_net_learns_and_its_checkpoint_works_anywhere(tmp_path: Path, settings: tuple[str, ...]) -> None:
    losses = run(tmp_path / "run", *UNET, *settings)
    assert losses[-1] < 0.8 * losses[0]
    D, noise = edm.load(tmp_path / "run"), edm.unit_noise(4, (1, 8, 8))
    steps = edm.discretization.Karras(n=5)
    here, there = (
        edm.sample(D.to(device), noise.to(device), steps=steps, cond={"label": 3}) for device in ("cpu", "cuda")
    )
    assert float((here - there.cpu()).abs().max()) < 0.01 * float(here.abs().max())  # TF32 convolutions


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_it_is_resumed_exactly(tmp_path: Path, precision: str) -> None:
    """An MLP: its kernels are deterministic. The dropout's generator is the device's."""
    settings = ("training.images=192", f"training.precision={precision}", "training.log_every=96")
    run(tmp_path / "whole", *settings)
    for stop in (1, 3, 5):
        run(tmp_path / "cut", *settings, stop=stop)
    run(tmp_path / "cut", *settings)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_step_never_waits_for_the_device() -> None:
    job = recipe(*UNET, "training.precision=bfloat16", "training.channels_last=true").job()
    state = TrainState.start(job, GPU)
    steps = train(job, state, GPU)
    for _ in range(3):  # buffers, plans and the states of the optimizer are made
        next(steps)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_under_torchrun(tmp_path: Path, how: str) -> None:
    """NCCL, with as many processes as there are GPUs: the losses are those of one process, to rounding."""
    (tmp_path / "toy.yaml").write_text(recipe("network.dropout=0", f"training.parallel={how}").dump())
    processes = max(n for n in (1, 2, 4, 8) if n <= torch.cuda.device_count())
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
         "-m", "edm_unified", "train", tmp_path / "toy.yaml", "--out", tmp_path / "many", "--quiet"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    many: list[Any] = [line["loss"] for line in log.read(tmp_path / "many" / "log.jsonl") if "loss" in line]
    assert many == pytest.approx(run(tmp_path / "one", "network.dropout=0"), rel=1e-4)
