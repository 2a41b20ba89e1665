"""Paths as users write them: home folders are filled in, and only regular files and folders may be read."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path


def expanded(path: str | os.PathLike[str], label: str = "") -> Path:
    """The path that a user wrote, with home folders in the place of ``~`` and ``~name``.

    Raises ``ValueError``, whose message starts with ``label``, for an empty path, a NUL, and an unknown user.
    """
    text = os.fspath(path)
    head = f"{label}: " if label else ""
    if not text:
        raise ValueError(f"{head}'': is an empty path; name a file or folder")
    if "\0" in text:
        raise ValueError(f"{head}{text!r}: has a NUL in it, as no path can have")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        name = text.split("/")[0]
        who = f"there is no user {name[1:]!r}" if len(name) > 1 else "the home folder is not known"
        raise ValueError(f"{head}{text}: {who}; write the path without {name}") from None


def short_name(path: str | os.PathLike[str]) -> str:
    """What a recipe or a run is called for short: the last part of its path, without .yaml or .yml.

    A dot in the name of a run stays: ``runs/rate_0.1`` and ``runs/rate_0.2`` are two.
    """
    name = Path(path).name
    if name in ("", ".."):  # "." and "/" too
        name = expanded(path).resolve().name or "root"
    return re.sub(r"(?i)(?<=.)\.ya?ml$", "", name)


def regular(path: Path, label: str) -> Path:
    """``path``, if it is a file, a folder or absent: reading a pipe would wait, and a device has no end.

    Raises ``ValueError`` otherwise, with a message that starts with ``label``.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # absent or not accessible: whoever opens it will say so
        return path
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((word for test, word in kinds if test(mode)), "a device")
        raise ValueError(f"{label}: is {kind}, not a file; save what it gives to a file and name that")
    return path
