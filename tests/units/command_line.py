"""The command line as the tests call it."""

from __future__ import annotations

import signal

from click.testing import CliRunner

from edm_unified.cli import main


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``edm-unified ARGUMENTS``; a traceback is an error of the test."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def interruptible() -> None:
    """In a child, before it starts: Ctrl-C as on a terminal, also where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
