"""Files of a run that were damaged, left by a kill, or put there by somebody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run as command
from training_example import RECIPE, contents

from edm_unified.report import run_files
from edm_unified.training.parallel import team
from edm_unified.training.runs import checkpoint, log
from edm_unified.training.runs.run import Run

SETTINGS = (
    "training.images=128", "training.snapshot_every=32", "training.sample_every=64", "training.keep=2",
)  # fmt: skip


def train(folder: Path, *overrides: str, code: int = 0) -> str:
    words = ["train", folder / "toy.yaml", "--out", folder / "run", "--device", "cpu"]
    for override in (*SETTINGS, *overrides):
        words += ["--set", override]
    found, _, said = command(*words)
    assert found == code, said
    return said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    (folder / "toy.yaml").write_text(RECIPE)
    train(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_files, "write_page", lambda *arguments: None)  # a second of drawing for each
    return Path(shutil.copytree(made, tmp_path / "folder"))


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(bytes(content))


def ema(run: Path) -> tuple[int, str]:
    code, _, said = command("ema", run, "--std", "0.08")
    return code, said


def test_a_byte_of_a_snapshot(folder: Path) -> None:
    run = folder / "run"
    file = run / "snapshots" / "000000000064.safetensors"
    flip(file, -10)
    code, said = ema(run)
    assert code == 2
    assert f"{file}: was changed after it was written" in said
    assert "copy it again, or remove it to do without" in said
    assert not list(run.glob("checkpoints/*/ema-0.080*"))
    file.unlink()
    assert ema(run)[0] == 0


def test_snapshots_of_an_earlier_version_are_taken_as_they_are_and_that_is_told_once(folder: Path) -> None:
    run = folder / "run"
    (run / ".edm-unified.jsonl").unlink()
    code, said = ema(run)
    assert code == 0
    assert said.count("of 4 of 4 snapshots no SHA-256 was kept; they are taken as they are") == 1


def test_a_byte_of_what_is_said_of_a_checkpoint(folder: Path) -> None:
    """σ_data 0.5 that becomes 0.7 is no other network, and other samples."""
    file = checkpoint.folders(folder / "run")[-1] / "checkpoint.json"
    file.write_text(file.read_text().replace('"sigma_data": 0.5', '"sigma_data": 0.7'))
    code, _, said = command("sample", folder / "run", "--out", folder / "s")
    assert code == 2
    assert "checkpoint.json: was changed after it was written; copy it again, or, where you changed it" in said
    meta = json.loads(file.read_text())
    del meta["sha256"]  # on purpose, or of an earlier version
    file.write_text(json.dumps(meta))
    assert checkpoint.load(folder / "run").denoiser.preconditioning.sigma_data == 0.7  # type: ignore[union-attr]


def test_what_run_json_says_is_checked(folder: Path) -> None:
    file = folder / "run" / "run.json"
    file.write_text(file.read_text().replace('"width": 16', '"width": 17'))
    assert "run.json: was changed after it was written" in train(folder, code=2)


@pytest.mark.parametrize(
    "change", [lambda line: b"\xff" + line[1:], lambda line: line.replace(b'"step": 2', b'"step": 9')]
)
def test_a_damaged_line_of_the_log_takes_no_other_with_it(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    file = folder / "run" / "log.jsonl"
    before = log.read(file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert change(lines[1]) != lines[1]
    lines[1] = change(lines[1])
    file.write_bytes(b"".join(lines))
    damaged = file.read_bytes()
    assert [line["step"] for line in log.read(file)] == [1, 3, 4]
    said = train(folder, "training.images=160")
    assert "log.jsonl: line 2 was damaged and left out; the file as it was is log.jsonl.damaged" in said
    after = log.read(file)
    assert after[:3] == [before[0], *before[2:]]
    assert [line["step"] for line in after] == [1, 3, 4, 5]
    assert (file.parent / "log.jsonl.damaged").read_bytes() == damaged
    assert "left out" not in train(folder, "training.images=160")


def test_a_checkpoint_that_a_kill_left_beyond_the_kept_ones_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the name of the last checkpoint and the end of the oldest."""
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_prune", lambda run: None)
        train(folder, "training.images=192")
    names = [path.name for path in checkpoint.folders(folder / "run")]
    assert names == ["000000000064", "000000000128", "000000000192"]
    train(folder, "training.images=192")
    assert [path.name for path in checkpoint.folders(folder / "run")] == names[1:]
    assert [(path / "state").is_dir() for path in checkpoint.folders(folder / "run")] == [False, True]


def test_what_others_put_there_is_let_alone(folder: Path) -> None:
    run = folder / "run"
    strange = [run / name / file for name in ("checkpoints", "snapshots", "samples") for file in (".DS_Store", "a.txt")]
    strange += [run / "checkpoints" / "7" / "x", run / "checkpoints" / ".cache" / "x", run / "samples" / "1.npy"]
    for file in strange:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    train(folder, "training.images=192")
    assert [path.name for path in checkpoint.folders(run)] == ["000000000128", "000000000192"]
    assert ema(run)[0] == 0
    assert all(file.read_text() == "x" for file in strange)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00v\x00", None])
def test_samples_that_cannot_be_read_are_set_aside_and_drawn_again(folder: Path, content: bytes | None) -> None:
    file = folder / "run" / "samples" / "000000000064.npy"
    before = file.read_bytes()
    if content is None:  # sound, and of another shape
        np.save(file, np.zeros((3, 7), np.float32))
    else:
        file.write_bytes(content)
    damaged = file.read_bytes()
    said = train(folder)
    assert f"{file}: cannot be used (was changed after it was written" in said
    assert "it is set aside as 000000000064.npy.damaged" in said
    assert file.read_bytes() == before
    assert file.with_name("000000000064.npy.damaged").read_bytes() == damaged


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: must be a whole number in the environment, got 'abc'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: must be a whole number"),
        ({"WORLD_SIZE": "2"}, "RANK: is not set in the environment, though WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: is 2 in the environment, of 2 processes"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "-1"}, "MASTER_PORT: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "70000"}, "MASTER_PORT: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "one"}, "LOCAL_RANK: must be a whole number"),
    ],
)
def test_an_environment_that_torchrun_did_not_make(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} if "RANK" in environment else {}
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (whole | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message), team(torch.device("cpu")):
        pass


def test_what_was_damaged_is_of_no_consequence_for_the_weights(folder: Path) -> None:
    before = contents(folder / "run")
    (folder / "run" / "samples" / "000000000064.npy").write_bytes(b"")
    flip(folder / "run" / "log.jsonl", 3)
    train(folder)
    assert contents(folder / "run") == before
