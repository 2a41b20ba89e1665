"""Reports of unforeseen errors: the traceback, versions and the command are written to a file."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from edm_unified import __version__
from edm_unified.components.files import write_atomic


def report(error: BaseException) -> Path | None:
    """Write the traceback of ``error`` with versions and the command; where it is, or None where no folder takes it."""
    now = datetime.datetime.now().astimezone()
    about = {
        "command": shlex.join(sys.argv),
        "edm_unified": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy")},
        "system": platform.platform(),
        "time": now.isoformat(timespec="seconds"),
    }
    lines = [*(f"{name:<13}{value}\n" for name, value in about.items()), "\n", *traceback.format_exception(error)]
    content = "".join(lines).encode("utf-8", "backslashreplace")
    for folder in _folders():
        path = folder / f"{now:%Y-%m-%d-%H%M%S}-{os.getpid()}.txt"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(path, content)
        except OSError:
            continue
        return path
    return None


def _folders() -> Iterator[Path]:
    """The folders in which a report may be written, best first: the user's state folder, then the temporary folder."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the XDG Base Directory Specification has others ignored
        yield Path(state) / "edm-unified"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield Path.home() / ".local" / "state" / "edm-unified"
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return
    if temporary != Path.cwd():  # tempfile's own last resort, and the user's project is no place for it
        user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # on Windows the folder is each user's own
        yield temporary / f"edm-unified{user}"


def _version(name: str) -> str:
    """The version of a module, if it was imported; importing it now could fail again."""
    return str(getattr(sys.modules.get(name), "__version__", "not imported"))
