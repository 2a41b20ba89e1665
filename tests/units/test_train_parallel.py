"""Two processes train what one does: the same batches, noise and losses; and a run may go on with another number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_example import recipe

from edm_unified.training import random_numbers
from edm_unified.training.parallel import LeaderError, Team
from edm_unified.training.random_numbers import TrainingPurpose
from edm_unified.training.runs import checkpoint, log
from edm_unified.training.runs.run import Run

PROGRAM = """
import sys, torch
from pathlib import Path
from training_example import recipe
from edm_unified.training.parallel import team
from edm_unified.training.runs.run import Run

with team(torch.device("cpu")) as peers:
    for out, stop, *overrides in [line.split() for line in Path(sys.argv[1]).read_text().splitlines()]:
        with Run(Path(out), recipe(*overrides).job(), peers) as run:
            for step in run.steps():
                if step.progress.step == int(stop):
                    break
"""
OVERRIDES = ("training.images=192", "training.stratified=true", "network.dropout=0")
"""Without dropout: its masks depend on how the batch is cut up."""


def test_two_processes_follow_one(tmp_path: Path) -> None:
    """DDP and FSDP on two gloo processes against one; a run saved by two, in the middle, and continued by one."""
    (tmp_path / "program.py").write_text(PROGRAM)
    plan = [
        (tmp_path / "ddp", 0, *OVERRIDES),
        (tmp_path / "fsdp", 0, *OVERRIDES, "training.parallel=fsdp"),
        (tmp_path / "ddp_cut", 4, *OVERRIDES),
        (tmp_path / "fsdp_cut", 4, *OVERRIDES, "training.parallel=fsdp"),
        (tmp_path / "one_line", 4, *OVERRIDES, "training.log_every=192"),
    ]
    (tmp_path / "plan").write_text("\n".join(" ".join(map(str, line)) for line in plan))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         tmp_path / "program.py", tmp_path / "plan"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    one = Team(torch.device("cpu"))
    for out, how in (("one", "ddp"), ("ddp_cut", "ddp"), ("fsdp_cut", "fsdp")):
        with Run(tmp_path / out, recipe(*OVERRIDES, f"training.parallel={how}").job(), one) as run:
            assert run.state.step == (0 if out == "one" else 4)
            for _ in run.steps():
                pass
    with Run(tmp_path / "one_line", recipe(*OVERRIDES, "training.log_every=192").job(), one) as run:
        for _ in run.steps():
            pass
    curve = log.read(tmp_path / "one" / "log.jsonl")
    assert len(curve) == 6
    (line,) = log.read(tmp_path / "one_line" / "log.jsonl")  # what both had summed up when they were cut is in it
    assert sum(number for _, _, number in line["bins"]) == 192
    assert line["loss"] == pytest.approx(sum(entry["loss"] for entry in curve) / 6, rel=1e-5)
    for out in ("ddp", "fsdp", "ddp_cut", "fsdp_cut"):
        other = log.read(tmp_path / out / "log.jsonl")
        assert [line["step"] for line in other] == [1, 2, 3, 4, 5, 6]
        for a, b in zip(curve, other, strict=True):
            # the batch is summed in another order: some ulps of float32, and what six steps of Adam make of them
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5), out
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4), out
            assert [entry[2] for entry in b["bins"]] == [entry[2] for entry in a["bins"]]
        for ema in (0.0, 0.05, 0.1):
            weights = [checkpoint.load(tmp_path / name, ema=ema).state_dict() for name in ("one", out)]
            for name, tensor in weights[0].items():
                torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_what_the_leading_process_raises_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("no room")

    cpu, said = torch.device("cpu"), []
    monkeypatch.setattr(Team, "all_of", lambda self, value: said.append(value) or [value])
    with pytest.raises(OSError, match="no room"):
        Team(cpu, 0, 2).lead(fails)
    assert said == ["no room"]
    monkeypatch.setattr(Team, "all_of", lambda self, value: said)
    with pytest.raises(LeaderError, match="no room"):
        Team(cpu, 1, 2).lead(fails)  # it does not act itself


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    job = recipe("training.batch=30", "training.accumulation=5").job()
    from edm_unified.training.loop import train
    from edm_unified.training.runs.state import TrainState

    state = TrainState.start(job, Team(torch.device("cpu")))
    with pytest.raises(
        ValueError, match=r"training\.batch: must be a multiple of accumulation × processes = 20, got 30"
    ):
        next(train(job, state, Team(torch.device("cpu"), 0, 4)))


@pytest.mark.parametrize("shares", [2, 4, 8])
def test_the_shares_of_a_batch_make_it_up(shares: int) -> None:
    device, batch = torch.device("cpu"), 256
    whole = random_numbers.normals((0, TrainingPurpose.NOISE, 3), 0, batch, (2, 3), device, batch)
    rows = batch // shares
    parts = [
        random_numbers.normals((0, TrainingPurpose.NOISE, 3), i * rows, rows, (2, 3), device, batch)
        for i in range(shares)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(
        random_numbers.normals((0, TrainingPurpose.NOISE, 4), 0, batch, (2, 3), device, batch), whole
    )


def test_spread_levels_lie_one_in_each_part() -> None:
    u = random_numbers.stratified_uniforms((7, TrainingPurpose.LEVELS, 0), 100)
    assert torch.equal((u * 100).long().sort().values, torch.arange(100))
    assert not torch.equal((u * 100).long(), torch.arange(100))


def test_accumulation_does_what_the_whole_batch_does(tmp_path: Path) -> None:
    """Six steps in four micro-batches each: the same curve to float32 rounding."""
    curves = []
    for parts in (1, 4):
        with Run(tmp_path / str(parts), recipe(*OVERRIDES, f"training.accumulation={parts}").job(),
                 Team(torch.device("cpu"))) as run:  # fmt: skip
            curves.append([step.progress.loss for step in run.steps()])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
