"""Files of a run on the disk: errors that name the file, writes that have reached the disk, and SHA-256 checks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edm_unified.components.files import write_atomic

_SEAL = "sha256.json"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise the errors of a disk as ``OSError`` naming ``path``, also where torch has wrapped them in its own."""
    try:
        yield
    except BaseException as error:  # torch.distributed.checkpoint raises no Exception
        failures = getattr(error, "failures", None)  # of torch.distributed.checkpoint: by rank, (exception, trace)
        cause: Any = next(iter(failures.values()))[0] if failures else error
        while not isinstance(cause, OSError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from None
        if failures or "PytorchStreamWriter" in str(cause):
            free = shutil.disk_usage(path.parent).free
            number = errno.ENOSPC if free < 2**20 else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def sync(folder: Path) -> None:
    """Wait until the names of the files in ``folder`` are on the disk."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path) -> None:
    """Write the SHA-256 of each file in ``folder`` to ``sha256.json`` there."""
    write_atomic(folder / _SEAL, json.dumps({file.name: _digest(file) for file in _files(folder)}, indent=1) + "\n")


def check_seal(folder: Path) -> None:
    """Raise ``ValueError`` naming a file of ``folder`` that is missing or not what it was when it was sealed.

    A folder without a seal, of an earlier version, passes.
    """
    record = folder / _SEAL
    if not record.exists():
        return
    try:
        sealed = dict(json.loads(record.read_text("utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{record}: cannot be read") from None
    for name, digest in sealed.items():
        file = folder / name
        if file.name != name or not file.is_file():
            raise ValueError(f"{file}: is missing")
        if _digest(file) != digest:
            raise ValueError(f"{file}: was changed after it was written")


def signed(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` with the SHA-256 of all else in it, which :func:`check_signature` compares with."""
    return record | {"sha256": _signature(record)}


def check_signature(record: dict[str, Any], file: Path) -> None:
    """Raise ``ValueError`` where ``record``, read from ``file``, is not what was signed.

    One without a signature, of an earlier version, passes.
    """
    if "sha256" in record and record["sha256"] != _signature(record):
        raise ValueError(
            f"{file}: was changed after it was written; copy it again, or, where you changed it on purpose, take out "
            "its last entry, sha256"
        )


def _signature(record: dict[str, Any]) -> str:
    bare = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name != _SEAL)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(file, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
