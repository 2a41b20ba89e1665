"""What can go wrong with a disk, told as ``OSError`` with the path, and what must have reached it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any


class Naming:
    """Errors of a full disk, whoever found them, as ``OSError`` with the path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        failures = getattr(error, "failures", None)  # of torch.distributed.checkpoint: by rank, (exception, trace)
        cause: Any = next(iter(failures.values()))[0] if failures else error
        while not isinstance(cause, OSError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(self._path)) from None
        if failures or "PytorchStreamWriter" in str(cause):
            free = shutil.disk_usage(self._path.parent).free
            number = errno.ENOSPC if free < 2**20 else errno.EIO
            raise OSError(number, os.strerror(number), str(self._path)) from error


def sync(folder: Path) -> None:
    """The name of what was moved there, on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
