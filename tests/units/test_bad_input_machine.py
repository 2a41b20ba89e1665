"""Paths, devices, streams and our own faults: one clear line, whatever the machine is like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from edm_unified.cli import crash_report  # noqa: F401
from edm_unified.components import paths

pytestmark = pytest.mark.usefixtures("empty_folder")
FAST = ("--set", "denoiser=gaussian", "-q", "--n", "2")


def refused(arguments: list[str], *words: str) -> None:
    """Exit code 2 and one line with these words; nothing is left behind."""
    before = set(os.listdir())
    code, _, err = run(*arguments)
    assert code == 2, err
    *before_it, line = err.splitlines()  # what was being done, where that is told
    assert line.startswith("Error: "), err
    assert all(before.endswith(("making the denoiser", "reading the data")) for before in before_it), err
    assert all(word in line for word in words), err
    assert set(os.listdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "PATH"],
        ["compare", "PATH"],
        ["train", "PATH"],
        ["likelihood", "PATH"],
        ["likelihood", "edm", "PATH.npy"],
        ["data", "arrays:path=PATH.npy"],
        ["data", "image_folder:path=PATH"],
        ["data", "celeba:root=PATH"],
        ["data", "imagenet:root=PATH"],
        ["data", "torchvision:name=MNIST,root=PATH"],
        ["data", "hugging_face:path=PATH"],
        ["ema", "PATH", "--std", "0.1"],
        ["sample", "edm", "--set", "denoiser={kind: checkpoint, path: PATH}"],
        ["sample", "edm", "--guidance", "autoguidance:w=2,guide=PATH"],
        ["sample", "edm", "--out", "PATH"],
        ["compare", "edm", "--out", "PATH"],
        ["train", "toy/train_2d", "--out", "PATH"],
        ["data", "digits", "--out", "PATH"],
        ["show", "edm", "--weights", "PATH"],
        ["likelihood", "edm", "--out", "PATH.npy"],
        ["certify", "heun", "--html", "PATH"],
        ["certify", "heun", "--into", "PATH"],
    ],
)
def test_the_home_of_nobody_is_told_wherever_a_path_is_taken(arguments: list[str]) -> None:
    refused([word.replace("PATH", "~nobody-here/x") for word in arguments], "~nobody-here/x", "no user 'nobody-here'")


def test_the_home_folder_itself_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("sample", "edm", "--out=~/o", *FAST)[0] == 0
    assert (tmp_path / "o/samples.npy").is_file()
    (tmp_path / "mine.yaml").write_text(run("show", "edm", "--yaml")[1])
    assert run("show", "~/mine.yaml")[0] == 0
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user is in no table either
    refused(["show", "~/mine.yaml"], "the home folder is not known")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_no_path_can_be_is_told(path: str) -> None:
    word = "empty" if not path else "NUL"
    for arguments in (["show", path], ["compare", path], ["sample", "edm", "--out", path], ["ema", path, "--std", "1"]):
        refused(arguments, word)
    with pytest.raises(ValueError, match=f"^path: .*{word}"):
        paths.expanded(path, "path")


def test_pipes_and_devices_are_refused_without_waiting() -> None:
    os.mkfifo("pipe.yaml")
    os.mkfifo("pipe.npy")
    os.mkfifo("pipe.md")
    for arguments in (
        ["show", "pipe.yaml"],
        ["compare", "pipe.yaml"],
        ["data", "arrays:path=pipe.npy"],
        ["likelihood", "edm", "pipe.npy", "--dequantize", "none"],
        ["likelihood", "edm", "--out", "pipe.npy"],
        ["certify", "heun", "--into", "pipe.md"],
        ["data", "digits", "--out", "pipe.npy"],
        ["show", "edm", "--weights", "pipe.npy"],
    ):
        refused(arguments, "is a pipe")
    refused(["show", "/dev/zero"], "is a device")
    refused(["data", "digits", "--out", "/dev/null"], "is a device")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["tpu", "meta", "hpu", "privateuseone", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_here_is_told_with_those_that_are(name: str) -> None:
    refused(["sample", "edm", "--device", name, *FAST], f"--device {name}: ", "; choose from cpu")


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("edm_unified.recipe.load_any", fails)


def test_an_error_nobody_foresaw_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    broken(monkeypatch, ZeroDivisionError("by\nzero"))
    code, out, err = run("show", "edm", "--yaml")
    (file,) = (state / "edm-unified").iterdir()
    assert (code, out) == (1, "")
    assert err == (
        "Error: ZeroDivisionError: by zero; this is a fault of edm_unified, please report it with "
        f"{file}, which has the traceback\n"
    )
    said = file.read_text("utf-8")
    assert "Traceback (most recent call last)" in said
    assert "in fails" in said
    assert "torch" in said
    assert file.stat().st_mode & 0o077 in (0o000, 0o044)


def test_where_no_folder_takes_the_traceback_the_line_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edm_unified.cli.crash_report.write_atomic", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    monkeypatch.setenv("XDG_STATE_HOME", os.path.abspath("state"))
    broken(monkeypatch, ZeroDivisionError())
    code, _, err = run("show", "edm", "--yaml")
    assert code == 1
    assert err.startswith("Error: ZeroDivisionError; this is a fault of edm_unified, please report it in fails, line ")
    assert err.endswith(" of test_bad_input_machine.py; no folder took the traceback\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MemoryError(), 2, "Error: not enough memory; lower --batch\n"),
        (OSError(28, "No space left on device", "x.npy"), 2, "Error: x.npy: No space left on device\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "Error: x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2,
         "Error: not enough memory on the device; lower --batch\n"),
    ],
)  # fmt: skip
def test_what_the_machine_does_is_told_as_such(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, error)
    assert run("show", "edm", "--yaml")[::2] == (code, line)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a shell of its own, for what is done to its streams; ``$EDM`` is edm-unified."""
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **environment}
    line = line.replace("EDM", f"{sys.executable} -m edm_unified")
    return subprocess.run(["sh", "-c", line], capture_output=True, env=given, timeout=120, check=False)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("EDM list recipes 2>&-", 0),
        ("EDM list nothing 2>&-", 2),
        ("EDM list recipes >&-", 0),
        ("EDM list recipes <&- >&- 2>&-", 0),
        ("EDM list recipes >/dev/full", 2),
    ],
)
def test_closed_and_full_streams_give_no_traceback(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.stderr.count(b"\n") <= 1


def test_a_locale_without_greek_is_no_error() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONUNBUFFERED": "1"}
    done = shell("EDM list recipes", **plain)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "method in σ" in done.stdout.decode("utf-8")  # no terminal: as recipes are read
    asked = shell("EDM list recipes", **plain, PYTHONIOENCODING="latin-1")
    assert (asked.returncode, asked.stderr) == (0, b"")
    assert b"method in ?" in asked.stdout
    assert shell("EDM list 'n\xf6thing'", **plain).returncode == 2


def test_a_comparison_says_which_recipe() -> None:
    refused(
        ["compare", "ddim", "edm", "--set", "data={kind: arrays, path: no.npy}"], "ddim: data.path: no.npy: no such"
    )
