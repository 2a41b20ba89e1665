"""A run that somebody else made, or that was damaged: nothing in it is executed, and what is wrong is one line."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import run as command
from training_example import RECIPE

from edm_unified.compare import view
from edm_unified.report import run_files
from edm_unified.training.runs import distributed_files
from edm_unified.training.runs.storage import seal

STATE = "checkpoints/000000000064/state"


class Marker:
    """A pickle that makes a folder where it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrusted")
    text = RECIPE.replace("images: 320", "images: 64").replace("snapshot_every: 128", "snapshot_every: 32")
    (folder / "toy.yaml").write_text(text.replace("sample_every: 320", "sample_every: 64"))
    code, _, said = command("train", folder / "toy.yaml", "--out", folder / "run", "--device", "cpu", "--quiet")
    assert code == 0, said
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def commands(run: Path) -> dict[str, tuple[object, ...]]:
    out = run.parent / "out"
    return {
        "train": ("train", run, "--device", "cpu", "--quiet", "--set", "training.images=96"),
        "ema": ("ema", run, "--std", "0.07", "--quiet"),
        "sample": ("sample", run, "--n", 1, "--steps", 1, "--out", out / "s", "--quiet"),
        "show": ("show", run),
        "likelihood": ("likelihood", run, "--n", 2, "--steps", 1, "--quiet", "--out", out / "l"),
        "compare": (
            "compare", run, "--nfe", 1, "--solver", "euler", "--samples", 4, "--quiet", "--out", out / "c",
            "--set", "reference_samples=2", "--set", "grid_samples=2",
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "files",
    [
        (f"{STATE}/.metadata",),
        (f"{STATE}/sha256.json", f"{STATE}/__0_0.distcp"),
        ("snapshots/000000000064.safetensors", "samples/000000000064.npy", "log.jsonl", "excess.jsonl"),
        ("checkpoints/000000000064/ema-0.050.safetensors",),
        ("checkpoints/000000000064/checkpoint.json",),
        ("recipe.yaml",),
        ("run.json",),
    ],
    ids=lambda files: Path(files[0]).name,
)
def test_no_command_executes_what_is_in_a_run(
    run: Path, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = run.parent / "marker"
    for file in files:
        (run / file).write_bytes(pickle.dumps(Marker(marker)))
    if files == (f"{STATE}/.metadata",):
        seal(run / STATE)  # as its author would
    monkeypatch.setattr(run_files, "write_page", lambda *arguments: None)  # seconds of drawing for each
    monkeypatch.setattr(view, "write_report", lambda *arguments: None)
    for words in commands(run).values():
        code, _, said = command(*words)
        assert not marker.exists(), words
        assert code in (0, 2), said
        assert code == 0 or said.count("\n") == 1, said


def test_the_marker_is_made_by_an_unpickler_that_takes_everything(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Marker(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_what_is_no_tensor_in_a_state_is_not_executed_either(run: Path) -> None:
    """Its place in the list of contents is sound, and what is there is a pickle."""
    marker, state = run.parent / "marker", run / STATE
    buffer = io.BytesIO()
    torch.save(Marker(marker), buffer)
    listed = pickle.loads((state / ".metadata").read_bytes())
    entry = next(info for index, info in listed.storage_data.items() if index.fqn == "optimizer.param_groups.0.lr")
    entry.offset, entry.length = (state / entry.relative_path).stat().st_size, len(buffer.getvalue())
    with open(state / entry.relative_path, "ab") as file:
        file.write(buffer.getvalue())
    (state / ".metadata").write_bytes(pickle.dumps(listed))
    seal(state)
    code, _, said = command(*commands(run)["train"])
    assert code == 2, said
    assert "cannot be read (Weights only load failed" in said
    assert not marker.exists()


def test_the_list_of_contents_is_what_torch_reads(run: Path) -> None:
    listed = pickle.loads((run / STATE / ".metadata").read_bytes())
    found = distributed_files.read_contents(run / STATE)
    assert found.state_dict_metadata == listed.state_dict_metadata
    assert found.planner_data == listed.planner_data
    assert found.storage_data == listed.storage_data
    assert {type(entry).__name__ for entry in found.state_dict_metadata.values()} == {
        "TensorStorageMetadata",
        "BytesStorageMetadata",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed, place: setattr(place, "relative_path", "../a.json"), r"'\.\./a\.json', which is not there"),
        (lambda listed, place: setattr(place, "relative_path", "/dev/zero"), "'/dev/zero', which is not there"),
        (lambda listed, place: setattr(place, "length", 10**12), "names bytes .* which has"),
        (lambda listed, place: setattr(place, "offset", -1), "has -1 where a size belongs"),
        (lambda listed, place: setattr(place, "offset", "1"), "has str where int belongs"),
        (lambda listed, place: setattr(place, "offset", True), "has bool where int belongs"),
        (lambda listed, place: setattr(listed, "storage_data", None), "has NoneType where dict belongs"),
        (lambda listed, place: setattr(listed, "storage_data", [1]), "has list where dict belongs"),
        (lambda listed, place: setattr(listed, "planner_data", {"model": range(2)}), "builtins.range, which no"),
        (lambda listed, place: listed.state_dict_metadata.update(model=3), "no TensorStorageMetadata where one"),
    ],
)
def test_a_list_of_contents_that_says_anything_else_is_refused(
    run: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    state = run / STATE
    listed = pickle.loads((state / ".metadata").read_bytes())
    change(listed, next(iter(listed.storage_data.values())))
    (state / ".metadata").write_bytes(pickle.dumps(listed))
    with pytest.raises(ValueError, match=rf"\.metadata: cannot be read \(.*{message}") as caught:
        distributed_files.read_contents(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04" + b"(" * 50 + b".",
        b"\x80\x04}r\xff\xff\xff\xff.",  # LONG_BINPUT: 64 GiB of memory for a table of nothing
        b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00.",  # BYTEARRAY8 of 4 GiB
        b"\x80\x04P1\n.",  # a persistent number
        b"\x80\x04\x82\x01.",  # the registry of extensions
    ],
)
def test_a_list_of_contents_that_is_no_pickle_of_ours(run: Path, content: bytes) -> None:
    (run / STATE / ".metadata").write_bytes(content)
    with pytest.raises(ValueError, match=r"\.metadata: cannot be read"):
        distributed_files.read_contents(run / STATE)


def test_a_list_of_contents_has_a_size(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed_files, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"bytes are more than any list of contents has"):
        distributed_files.read_contents(run / STATE)
