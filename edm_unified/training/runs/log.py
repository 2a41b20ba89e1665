"""``log.jsonl``: one line for each interval of a run, with the means over it; a resumed run drops later lines."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from edm_unified.components.files import write_atomic
from edm_unified.training.loop import TrainingProgress


class Contents(NamedTuple):
    """The sound lines of a log, by number from 1, and the numbers of the damaged ones.

    A line that a kill cut off, the last without an end, is neither.
    """

    sound: dict[int, dict[str, Any]]
    damaged: list[int]


def read(path: Path) -> list[dict[str, Any]]:
    """The sound lines of a log."""
    return [*contents(path).sound.values()]


def contents(path: Path) -> Contents:
    """The lines of a log, sound and damaged."""
    parsed: dict[int, dict[str, Any]] = {}
    written = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(written, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _sound(entry):
            parsed[number] = entry
    batches = Counter(entry["images"] / entry["step"] for entry in parsed.values())
    batch = batches.most_common(1)[0][0] if batches else None
    last, sound = 0, {}
    for number, entry in parsed.items():
        if entry["images"] / entry["step"] == batch and entry["step"] > last:  # no digit of the step is damaged
            last, sound[number] = entry["step"], entry
    return Contents(sound, [number for number in range(1, len(written) + 1) if number not in sound])


def _sound(entry: Any) -> bool:
    """Whether a line says what :meth:`Log.add` does."""
    if not isinstance(entry, dict):
        return False
    counted = all(type(entry.get(name)) is int and 0 < entry[name] < 2**63 for name in ("step", "images"))
    measured = all(_number(entry.get(name)) for name in ("loss", "rate", "images_per_second", "seconds"))
    norm, bins = entry.get("grad_norm", ""), entry.get("bins")
    return (
        counted
        and measured
        and (norm is None or _number(norm))
        and isinstance(bins, list)
        and all(isinstance(row, list) and len(row) == 3 and all(map(_number, row)) for row in bins)
        and all(sigma > 0 and count > 0 for sigma, _, count in bins)
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300


def cut(path: Path, step: int) -> list[int]:
    """Drop what the log says of steps after ``step``, and damaged lines; the numbers of those that were lost.

    Where one was, the file as it was stays beside it, as ``log.jsonl.damaged``.
    """
    if not path.exists():
        return []
    found = contents(path)
    kept = [entry for entry in found.sound.values() if entry["step"] <= step]
    later = (number for number, entry in found.sound.items() if entry["step"] > step)  # it comes again
    end = next(later, math.inf)
    lost = [number for number in found.damaged if number < end]
    if lost:
        write_atomic(path.with_name(f"{path.name}.damaged"), path.read_bytes())
    write_atomic(path, "".join(_line(entry) for entry in kept))
    return lost


class Log:
    """The log of a run that stands at ``step``: what it says of later steps is dropped, they are to come again.

    ``lost``: the numbers of the lines that were damaged.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.lost = cut(path, step)
        kept = read(path)
        self.seconds = float(kept[-1]["seconds"]) if kept else 0.0

    def add(self, progress: TrainingProgress, seconds: float) -> dict[str, Any]:
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
        binary = getattr(os, "O_BINARY", 0)  # on Windows, lest \n become \r\n
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | binary, 0o644)
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
            handle = os.open(self._path, os.O_RDWR)  # Windows syncs only what could be written
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
