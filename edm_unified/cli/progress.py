"""The progress of a command: a bar where stderr is a terminal, lines where it is not, nothing with ``--quiet``.

Ctrl-C is handled here too. Inside a callback of the garbage collector Python prints and drops its exception, and the
program goes on. So each Ctrl-C is also noted, and raised again when the command next reports its progress.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from edm_unified.cli import terminal

SHARE = 0.1
"""The share of this session's work that must be done before the time left is shown."""


class ProgressDisplay(Protocol):
    """What a command reports its progress to."""

    def update(self, done: float, total: float, text: str, start: float = 0.0) -> None:
        """Show ``done`` of ``total``, of which ``start`` was done before this session."""

    def say(self, text: str) -> None:
        """Show what is being done, where there is no number for it."""


class Interrupt:
    """A press of Ctrl-C that Python dropped; ``check`` raises ``KeyboardInterrupt`` for it."""

    def __init__(self) -> None:
        self.pressed = False

    def check(self) -> None:
        if self.pressed:
            self.pressed = False
            raise KeyboardInterrupt


class Silent:
    """Reports nothing."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def update(self, done: float, total: float, text: str, start: float = 0.0) -> None:
        self._interrupt.check()

    def say(self, text: str) -> None:
        self._interrupt.check()


class Lines:
    """A line every ten seconds, for logs; the first after one second."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt, self._pace = interrupt, _Pace()
        self._next = time.monotonic() + 1

    def update(self, done: float, total: float, text: str, start: float = 0.0) -> None:
        self._interrupt.check()
        left = self._pace.left(done, total, start)
        now = time.monotonic()
        if now < self._next or not total:
            return
        self._next = now + 10
        click.echo(f"{100 * done / total:3.0f} %  {text}{left and f', {left}'}", err=True)

    def say(self, text: str) -> None:
        self._interrupt.check()
        click.echo(text, err=True)
        self._pace.restart()


class Bar:
    """A bar that redraws itself, on a terminal."""

    def __init__(self, interrupt: Interrupt, bar: Any) -> None:
        self._interrupt, self._pace = interrupt, _Pace()
        self._bar, self._task = bar, bar.add_task("", total=None, left="")

    def update(self, done: float, total: float, text: str, start: float = 0.0) -> None:
        self._interrupt.check()
        left = self._pace.left(done, total, start)
        self._bar.update(self._task, completed=done, total=total, description=terminal.printable(text), left=left)

    def say(self, text: str) -> None:
        self._interrupt.check()
        self._bar.update(self._task, description=terminal.printable(text), left="")
        self._pace.restart()


class _Pace:
    """Estimates the time left from the work done since the first update: reading data or making a denoiser, before
    it, does not count. ``restart`` begins anew, for other work.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def restart(self) -> None:
        self._first = None

    def left(self, done: float, total: float, start: float) -> str:
        """``1:05 left``; nothing while less than ``SHARE`` is known, or nothing is left."""
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = now, done
        began, before = self._first
        if not SHARE * (total - start) <= done - start < total - start or done == before:
            return ""
        return f"{_clock((now - began) * (total - done) / (done - before))} left"


@contextmanager
def progress(talk: bool) -> Iterator[ProgressDisplay]:
    """A bar where stderr is a terminal, lines where it is not, and nothing at all unless ``talk``."""
    with kept_interrupt() as interrupt:
        if not talk:
            yield Silent(interrupt)
        elif not sys.stderr.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
            yield Lines(interrupt)
        else:
            from rich import progress as rich

            columns = (
                rich.TextColumn("{task.description}", markup=False),
                rich.BarColumn(),
                rich.TaskProgressColumn(),
                rich.TextColumn("{task.fields[left]}", markup=False),
            )
            shown = rich.Progress(*columns, console=terminal.console(stderr=True), transient=True)
            with shown as bar, terminal.printable_streams():  # rich has put streams of its own there
                yield Bar(interrupt, bar)
        interrupt.check()


@contextmanager
def kept_interrupt() -> Iterator[Interrupt]:
    """Note every Ctrl-C while open, so that one that Python drops is raised at the next report of progress.

    What Python prints of a dropped one is left out. A handler that somebody else has set, or that ignores it, stays.
    """
    interrupt, before, hook = Interrupt(), signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def noted(number: int, frame: Any) -> None:
        interrupt.pressed = True
        signal.default_int_handler(number, frame)

    def dropped(found: Any) -> None:
        if not (interrupt.pressed and issubclass(found.exc_type, KeyboardInterrupt)):
            hook(found)

    signal.signal(signal.SIGINT, noted)
    sys.unraisablehook = dropped
    try:
        yield interrupt
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
