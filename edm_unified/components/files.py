"""Files that are either whole or not there, and directories that one process at a time writes to.

What is written stands under a temporary name first, ``.edm-DIGEST-HOST-PID-RANDOM.part``, where DIGEST is that of the
final name. A kill leaves such a file behind: :func:`sweep` removes it, unless the process that made it still lives.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import Any

LOCK = ".lock"
"""The file in an output directory that the process writing there holds locked. It is empty and stays."""

_TEMPORARY = re.compile(r"\.edm-(?P<name>[0-9a-f]{12})-(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}\.part")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path``: a reader, or a kill at any moment, finds the old file or the new one whole.

    Raises ``OSError`` naming ``path`` where it cannot be written; the old file is then as it was.
    """
    temporary = stage(path, content)
    try:
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        raise _named(error, path) from None


def stage(path: Path, content: bytes | str) -> Path:
    """Write ``content`` beside ``path`` under a temporary name, which is returned: ``os.replace`` makes it ``path``.

    Raises ``OSError`` naming ``path``, not the temporary file; nothing is then left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".edm-{_short(path.name)}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        raise _named(error, path) from None
    return temporary


def sweep(folder: Path, name: str | None = None, locked: bool = False) -> None:
    """Remove the temporary files, for ``name`` or for any, that killed processes left in ``folder``.

    Nothing else is touched: neither a file of a process that lives, nor a link, nor one that another machine made,
    unless the caller holds the lock of the directory (``locked``), so that nobody writes there any more.
    """
    try:
        found = list(folder.iterdir())
    except OSError:
        return
    for path in found:
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or (_lives(int(match["pid"])) if match["host"] == _host() else not locked):
            continue
        if name is None or match["name"] == _short(name):
            with contextlib.suppress(OSError):  # a file that cannot go does no harm
                if stat.S_ISREG(path.lstat().st_mode):
                    path.unlink()


def is_temporary(name: str, final: str) -> bool:
    """Whether ``name`` is a temporary name of ``final``: a process writes it, or was killed while it did."""
    match = _TEMPORARY.fullmatch(name)
    return match is not None and match["name"] == _short(final)


def append(path: Path, text: str) -> None:
    """Add ``text`` to a file of lines, in one write: all of it or none. Raises ``OSError`` naming ``path``."""
    data = text.encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, 0o644)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError as error:
            os.ftruncate(handle, size)  # nothing half-written
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


class Lock:
    """A lock on a directory, held until :meth:`close` or the end of the process, whichever way that ends."""

    def __init__(self, directory: Path) -> None:
        """Lock ``directory``, which is there. Raises ``ValueError`` where another has it, or it cannot be locked."""
        from filelock import FileLock, Timeout

        path = directory / LOCK
        try:
            about = path.lstat()
        except FileNotFoundError:
            about = None
        except OSError as error:
            raise _no_directory(directory, error) from None
        if about is not None and not (stat.S_ISREG(about.st_mode) and about.st_nlink == 1):
            raise ValueError(f"{path}: is a link, or no regular file, and is left alone; remove it")
        self._held: Any = FileLock(path, timeout=0, thread_local=False)
        try:
            self._held.acquire()
        except Timeout:
            raise ValueError(
                f"{directory}: another run is writing here; wait for it, or name another with --out"
            ) from None
        except OSError as error:
            raise _no_directory(directory, error) from None

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory free. The file stays: removed, two could hold a lock on two files of that name."""
        self._held.release()


def make_directory(directory: Path) -> list[Path]:
    """Make ``directory`` where it is not there; the folders that were made, the innermost first.

    Raises ``ValueError`` where it is a file, or cannot be made.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        raise ValueError(f"{directory}: is a file; name a directory with --out")
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_directory(directory, error) from None
    return made


def claim(directory: Path) -> Lock:
    """Make ``directory`` where it is not there, and lock it.

    Raises ``ValueError`` where it is a file, cannot be written, or another process has it. A directory that is to be
    told from those of others is claimed by :class:`edm_unified.components.outputs.OutputDirectory`.
    """
    make_directory(directory)
    return Lock(directory)


def _no_directory(directory: Path, error: OSError) -> ValueError:
    return ValueError(f"{directory}: {error.strerror or error}; name a directory to write in with --out")


def _named(error: BaseException, path: Path) -> BaseException:
    """An ``OSError`` by the name that the user knows; a full disk names none, others that of the temporary file."""
    return OSError(error.errno, error.strerror, str(path)) if isinstance(error, OSError) else error


def _short(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _host() -> str:
    return hashlib.sha256(platform.node().encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _lives(pid: int) -> bool:
    """Whether there is a process ``pid``. Where that cannot be asked: no, since open files cannot be removed there."""
    if os.name != "posix":  # os.kill would end it
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
