"""How far a command has come, and Ctrl-C wherever it comes."""

from __future__ import annotations

import gc
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run as command
from training_example import RECIPE

from edm_unified.cli import progress
from edm_unified.training import loop
from edm_unified.training.runs import checkpoint


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress.time, "monotonic", found)
    return found


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_no_estimate_before_a_tenth_of_this_session_is_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(True) as bar:
        for done in range(800, 1001, 10):  # 800 of 1000 were there before; a second for each 1
            clock.now = done - 800.0
            bar.update(done, 1000, "loss 1", start=800)
    left = ["", "", *(f", {seconds // 60}:{seconds % 60:02d} left" for seconds in range(180, 0, -10)), ""]
    assert told(capsys) == [f"{n:3d} %  loss 1{left[n - 80]}" for n in range(81, 101)]


def test_what_came_before_the_work_is_no_part_of_the_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(True) as bar:
        clock.now = 500.0  # reading the data
        for done in range(1, 5):  # twenty seconds for each
            bar.update(done, 4, "sigma 1")
            clock.now += 1.0
            clock.now += 19.0
    assert told(capsys)[:3] == [" 25 %  sigma 1", " 50 %  sigma 1, 0:40 left", " 75 %  sigma 1, 0:20 left"]


def test_nothing_is_told_where_nothing_is_wanted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress(False) as bar:
        clock.now = 100.0
        bar.update(1, 2, "loss")
        bar.say("more")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_terminal_that_cannot_redraw_gets_lines(
    terminal: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", terminal)
    with progress.progress(True) as bar:
        bar.say("reading")
    assert told(capsys) == ["reading"]


def test_a_run_that_goes_on_says_where(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    words = ("train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--device", "cpu", "--set", "data.samples=320")
    _, _, said = command(*words, "--set", "training.images=64")
    assert "goes on" not in said
    _, _, said = command(*words, "--set", "training.images=128")
    assert f"{tmp_path / 'run'}: goes on after 64 of 128 images\n" in said
    _, out, said = command(*words, "--set", "training.images=128", "--quiet")
    assert (out, said) == ("", "")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """The handler that a program has on a terminal, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as it was found
    signal.signal(signal.SIGINT, before)


class Held:
    """Something that can be referred to weakly."""


def press_in_a_callback() -> None:
    """Ctrl-C while the garbage collector calls back: Python prints the exception and goes on."""
    held = Held()
    reference = weakref.ref(held, lambda gone: signal.raise_signal(signal.SIGINT))
    del held
    gc.collect()
    assert reference() is None


def test_ctrl_c_in_a_callback_of_the_garbage_collector_ends_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    real, steps = loop._step, []

    def step(*given: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            press_in_a_callback()
        return real(*given)

    monkeypatch.setattr(loop, "_step", step)
    hook = sys.unraisablehook
    code, _, said = command("train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--device", "cpu", "--quiet")
    assert (code, said) == (130, "Interrupted.\n")
    assert len(steps) == 3
    assert sys.unraisablehook is hook
    assert [folder.name for folder in checkpoint.folders(tmp_path / "run")] == ["000000000064"]


def test_ctrl_c_anywhere_else_is_immediate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctrl_c: None) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    steps = []

    def step(*given: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        steps.append(1)

    monkeypatch.setattr(loop, "_step", step)
    code, _, said = command("train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--device", "cpu", "--quiet")
    assert (code, said, steps) == (130, "Interrupted.\n", [])


def test_a_handler_of_somebody_else_stays(ctrl_c: None) -> None:
    for other in (signal.SIG_IGN, lambda number, frame: None):
        signal.signal(signal.SIGINT, other)
        with progress.progress(False):
            assert signal.getsignal(signal.SIGINT) is other
        assert signal.getsignal(signal.SIGINT) is other
    signal.signal(signal.SIGINT, signal.default_int_handler)
