"""The package where Python has only what it has on every system, as on Windows."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock  # noqa: F401  # libraries take from the system at hand what that has, and are loaded before
import matplotlib.figure  # noqa: F401
import pytest
import rich.progress  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.distributed.checkpoint.state_dict  # noqa: F401
from click.testing import CliRunner

import edm_unified

MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
OF_OS = ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "fchmod", "fchown", "fork", "getegid",
         "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "lchown", "mkfifo", "pread", "pwrite",
         "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname", "wait")  # fmt: skip
OF_SIGNAL = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "alarm",
             "pthread_sigmask", "setitimer", "siginterrupt", "sigwait")  # fmt: skip
NEEDED_BY_FILELOCK = ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fchown")


@pytest.fixture
def without_posix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Windows does not have is gone, and the package has not been imported yet; a folder to write to."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in set(names) - set(NEEDED_BY_FILELOCK):
            monkeypatch.delattr(module, name, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "edm_unified"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_every_module_is_imported_and_commands_run(without_posix: Path) -> None:
    for module in pkgutil.walk_packages(edm_unified.__path__, "edm_unified."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    main = sys.modules["edm_unified.cli"].main
    sample = ("sample", "toy/mixture_2d", "--steps", "2", "--n", "2", "--out", str(without_posix / "samples"))
    for command in (("list", "solvers"), ("show", "edm"), sample):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, (command, result.output, result.exception)


def missing_on_windows(tree: ast.AST) -> Iterator[str]:
    """``os.fork`` and the like, but for what stands under ``if hasattr(os, "fork")`` or catches the AttributeError."""
    guarded: set[int] = set()
    for node in ast.walk(tree):
        asked = isinstance(node, (ast.If, ast.IfExp)) and "hasattr(os" in ast.unparse(node.test)
        caught = isinstance(node, ast.Try) and any("AttributeError" in ast.unparse(one) for one in node.handlers)
        guarded |= {id(below) for below in ast.walk(node)} if asked or caught else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and id(node) not in guarded:
            lacking = {"os": OF_OS, "signal": OF_SIGNAL}.get(node.value.id, ())
            yield from [f"{node.value.id}.{node.attr} in line {node.lineno}"] * (node.attr in lacking)


def test_nothing_is_used_that_windows_lacks() -> None:
    """What the commands above do not reach: comparisons, training, the report of an unforeseen error."""
    root = Path(edm_unified.__file__).parent
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    texts = {path: text for path, text in texts.items() if "os." in text or "signal." in text}
    found = {path: lines for path, text in texts.items() if (lines := [*missing_on_windows(ast.parse(text))])}
    assert found == {}
    assert [*missing_on_windows(ast.parse("import os\nos.getuid()"))] == ["os.getuid in line 2"]
