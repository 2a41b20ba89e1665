"""Files that are either whole or not there, and directories that one process at a time writes to."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``: a reader, or a kill at any moment, finds the old file or the new one whole."""
    data = content.encode() if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # not by the name of the temporary file
    try:
        os.chmod(temporary, 0o666 & ~_umask())
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # a full disk does not name the file
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def claim(directory: Path) -> IO[str]:
    """Make ``directory`` where it is not there, and lock it: until the file is closed, or the process ends.

    Raises ``ValueError`` where it is a file, or another process has it.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: is a file; name a directory with --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "w")  # noqa: SIM115  # held until the caller closes it
    except OSError as error:
        raise ValueError(f"{directory}: {error.strerror}; name a directory to write in with --out") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ValueError(f"{directory}: another run is writing here; wait for it, or name another with --out") from None
    return lock


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
