"""``log.jsonl``: a line for each interval, with the means over it. A run that is resumed rewrites its future."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from edm_unified.components.files import write_atomic
from edm_unified.training.loop import Progress


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log. One that was cut off or is none of ours is left out, and all that follow it."""
    found: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not _ours(entry):
                break
            found.append(entry)
    return found


def _ours(entry: Any) -> bool:
    """Whether a line says what :meth:`Log.add` does."""
    if not isinstance(entry, dict):
        return False
    counted = all(type(entry.get(name)) is int for name in ("step", "images"))
    measured = all(_number(entry.get(name)) for name in ("loss", "rate", "images_per_second", "seconds"))
    norm, bins = entry.get("grad_norm", ""), entry.get("bins")
    return (
        counted
        and measured
        and (norm is None or _number(norm))
        and isinstance(bins, list)
        and all(isinstance(row, list) and len(row) == 3 and all(map(_number, row)) for row in bins)
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def cut(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop what the log says of steps after ``step``; the lines that are left."""
    kept = [entry for entry in read(path) if entry["step"] <= step]
    if path.exists():
        write_atomic(path, "".join(_line(entry) for entry in kept))
    return kept


class Log:
    """The log of a run that stands at ``step``: what it says of later steps is dropped, they are to come again."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = cut(path, step)
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0

    def add(self, progress: Progress, seconds: float) -> dict[str, Any]:
        """Append what ``progress`` knows; all of the line or nothing."""
        record = progress.record
        assert record is not None
        entry: dict[str, Any] = {
            "step": progress.step,
            "images": progress.images,
            "loss": record.loss,
            "grad_norm": record.grad_norm if math.isfinite(record.grad_norm) else None,  # a skipped step of float16
            "rate": progress.rate,
            "images_per_second": round(progress.images_per_second, 2),
            "seconds": round(self.seconds + seconds, 3),
            "bins": [[float(f"{sigma:.4g}"), loss, number] for sigma, loss, number in record.bins],
        }
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            try:
                data = _line(entry).encode()
                if os.write(handle, data) != len(data):
                    raise OSError(28, os.strerror(28))
            except OSError as error:
                os.ftruncate(handle, size)
                raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(handle)
        return entry

    def flush(self) -> None:
        """On the disk, before a checkpoint that counts on it."""
        if self._path.exists():
            handle = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
