"""Data on a disk: read ahead by several threads, and the weights do not know how many."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from training_example import RECIPE, contents, recipe

from edm_unified import data
from edm_unified.cli import main
from edm_unified.data import rows
from edm_unified.data.prefetch import default_workers, prefetch
from edm_unified.training.batches import Reader
from edm_unified.training.job import Job
from edm_unified.training.parallel import Team
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))
PLAIN = ("training.images=128", "training.conditional=false", "training.label_dropout=0", "training.accumulation=2")


def train(job: Job, directory: Path, stop: int | None = None) -> None:
    with Run(directory, job, CPU) as run:
        for step in run.steps():
            if step.progress.step == stop:
                return


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edm-unified")]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 pictures of 8×8."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(96):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def of(pictures: Path, *overrides: str, in_memory: bool = False) -> Job:
    source = f"data={{kind: image_folder, path: {pictures}, channels: 1, in_memory: {str(in_memory).lower()}}}"
    return recipe(source, *PLAIN, *overrides).job()


# -- prefetch ---------------------------------------------------------------------------------------------------------


class Slow:
    """Samples 0, 1, 2 … as they are asked for; the earlier of a batch takes longer, so that threads finish in disorder.

    Sample ``bad`` cannot be read.
    """

    shape = (1000,)

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.reads = bad, 0

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        self.reads += 1
        if self.bad in indices.tolist():
            raise ValueError(f"sample {self.bad}")
        time.sleep(0.002 * (1 + (-int(indices[0])) % 3))
        return indices.clone()


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 16])
def test_batches_come_whole_and_in_their_order(workers: int, size: int) -> None:
    order = torch.randperm(48)
    found = list(prefetch(Slow(), order.split(size), workers))
    assert [len(batch) for batch in found] == [size] * (48 // size)
    assert torch.equal(torch.cat(found), order)
    assert readers() == []


def test_several_batches_are_under_way_and_no_more() -> None:
    asked: list[int] = []

    def batches() -> Any:
        for i in range(100):
            asked.append(i)
            yield torch.tensor([2 * i, 2 * i + 1])

    ahead = prefetch(Slow(), batches(), workers=2, ahead=3)
    next(ahead)
    assert len(asked) == 4
    next(ahead)
    assert len(asked) == 5
    ahead.close()
    assert readers() == []


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    rows = Slow()
    ahead = prefetch(rows, torch.arange(1000).split(10), workers=1, ahead=50)
    next(ahead)
    ahead.close()
    assert rows.reads < 10  # of 51 that were asked for
    assert readers() == []


def test_an_error_comes_in_its_turn_and_ends_the_reading() -> None:
    ahead = prefetch(Slow(bad=25), torch.arange(100).split(10), workers=3)
    assert [int(next(ahead)[0]) for _ in range(2)] == [0, 10]
    with pytest.raises(ValueError, match="sample 25"):
        next(ahead)
    assert readers() == []


def test_the_workers_are_this_process_s_share_of_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert default_workers() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(256)), raising=False)
    assert default_workers() == 8


def test_bytes_stay_bytes_and_sixteen_bits_do_not_become_eight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 2**16, (4, 4, 4)).astype(np.uint16)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(tmp_path / f"{i}.png")
    stored = data.ImageFolder(str(tmp_path), channels=1, in_memory=False).load().stored
    assert stored[torch.arange(4)].dtype == torch.uint8
    Image.fromarray(deep[2]).save(tmp_path / "2.png")
    stored = data.ImageFolder(str(tmp_path), channels=1, in_memory=False).load().stored
    (mixed,) = prefetch(stored, [torch.arange(4)], 4)  # each worker has one of them
    assert mixed.dtype == torch.float32
    np.testing.assert_allclose(mixed[2, 0], deep[2] / 257, rtol=1e-6)
    assert torch.equal(mixed[0], stored[torch.tensor([0])][0].float())


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_weights_do_not_know_how_many_workers_there_were(pictures: Path, tmp_path: Path) -> None:
    """In memory, with one thread, with three; cut, and continued with another number."""
    train(of(pictures, in_memory=True), tmp_path / "memory")
    whole = contents(tmp_path / "memory")
    for workers in (1, 3):
        train(of(pictures, f"training.workers={workers}"), tmp_path / str(workers))
        files = contents(tmp_path / str(workers))
        assert {name: _weights(content) for name, content in files.items()} == {
            name: _weights(content) for name, content in whole.items()
        }
    train(of(pictures, "training.workers=3"), tmp_path / "cut", stop=3)
    assert readers() == []
    train(of(pictures, "training.workers=2"), tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "3")


def test_a_run_that_is_left_between_two_steps_leaves_no_thread(pictures: Path, tmp_path: Path) -> None:
    """Also where somebody still holds the steps, as a traceback does."""
    with Run(tmp_path, of(pictures), CPU) as run:
        steps = run.steps()
        next(steps)
        assert readers() != []
    assert readers() == []
    assert list(steps) == []


def _weights(content: bytes) -> bytes:
    """The tensors of a safetensors file, without the header that names the recipe."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_an_array_that_is_not_finite_is_told_at_its_own_step(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(128, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", samples)
    job = recipe(f"data={{kind: arrays, path: {tmp_path / 'x.npy'}}}", *PLAIN, "training.workers=2").job()
    held = dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, stored=torch.from_numpy(samples)))
    train(job, tmp_path / "disk")
    train(held, tmp_path / "memory")
    assert contents(tmp_path / "disk") == contents(tmp_path / "memory")
    third = int(Reader(job, CPU)._chosen(1, 0)[5])
    bad = samples.copy()
    bad[third] = np.nan
    job.dataset.stored._array = bad  # type: ignore[union-attr]
    with Reader(job, CPU) as reader:
        assert reader(0, 0)[0].shape == (16, 2)
        reader(0, 1)
        with pytest.raises(ValueError, match=f"data: NaN or infinity in sample {third} of x"):
            reader(1, 0)
    assert readers() == []


def test_a_file_that_cannot_be_read_is_one_line_with_its_name(pictures: Path, tmp_path: Path) -> None:
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "toy.yaml").write_text(RECIPE)
    (tmp_path / "041.png").write_bytes((tmp_path / "041.png").read_bytes()[:60])
    words = ["train", str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "run"), "--workers", "3", "--quiet"]
    for override in (f"data={{kind: image_folder, path: {tmp_path}, channels: 1, in_memory: false, size: 8}}", *PLAIN):
        words += ["--set", override]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("Error: ")
    assert str(tmp_path / "041.png") in line
    assert "not a readable image" in line
    assert readers() == []


def test_ctrl_c_begins_nothing_that_is_under_way(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the pieces of 16 files that are under way the two threads end theirs, and no other is begun."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    real, begun = rows.read_image, []

    def slow(*given: Any) -> Any:
        begun.append(given)
        if len(begun) == 101:
            os.kill(os.getpid(), signal.SIGINT)
        if len(begun) > 101:
            time.sleep(0.05)
        return real(*given)

    monkeypatch.setattr(rows, "read_image", slow)
    arguments = ["train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--workers", "2", "--quiet", "--set",
                 f"data={{kind: image_folder, path: {pictures}, channels: 1, in_memory: false}}"]  # fmt: skip
    for override in (*PLAIN[1:], "training.images=100000", "training.batch=64"):
        arguments += ["--set", override]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    try:
        ended = CliRunner().invoke(main, [str(word) for word in arguments])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.exit_code == 130
    assert ended.stderr == "Interrupted.\n"
    assert len(begun) - 101 <= 2 * 16  # all that was under way are 60
    assert readers() == []
