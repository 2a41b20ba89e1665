"""The directory of a comparison: what is there is finished, and what was cut off is not there.

    records.jsonl     one line per (cell, metric); the lines of a cell are appended in one write when it is done
    reference/        exact endpoints, by starting level and seed
    samples/          the samples that the report shows
    recipes/          every method as it was resolved
    environment.json, commands.txt, figures/*.png, report.html

A kill at any moment loses at most the cell in flight: a last line that was cut off is dropped when the directory is
opened again. One process at a time may write.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.components.files import claim, write_atomic

_OURS = (
    "records.jsonl",
    "reference",
    "samples",
    "recipes",
    "environment.json",
    "commands.txt",
    "figures",
    "report.html",
)


class Store:
    """Opens ``directory``, making it where needed; ``fresh`` removes what an earlier comparison left in it.

    Raises ``OSError`` where it cannot be written, and ``ValueError`` where another run is writing to it, where it is a
    file, or where ``records.jsonl`` is not ours.
    """

    def __init__(self, directory: Path, fresh: bool = False) -> None:
        self.directory = directory
        self._lock = claim(directory)
        try:
            if fresh:
                self._clear()
            for name in ("reference", "samples", "recipes", "figures"):
                (directory / name).mkdir(exist_ok=True)
            self._records = self._load()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory free."""
        self._lock.close()
        with contextlib.suppress(OSError):
            (self.directory / ".lock").unlink()

    def _clear(self) -> None:
        for name in _OURS:
            path = self.directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.directory / "records.jsonl"

    def _load(self) -> dict[str, list[dict[str, Any]]]:
        records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if not self._path.exists():
            return records
        lines = self._path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # cut off by a kill or a full disk
            write_atomic(self._path, b"".join(lines[:-1]))
            lines = lines[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                records[record["cell"]].append(
                    {key: record[key] for key in ("metric", "value", "low", "high")} | record
                )
            except (ValueError, KeyError, TypeError, UnicodeDecodeError):
                raise ValueError(f"{self._path}: line {number} is not a record; start over with --fresh") from None
        return records

    def finished(self, cell: str, metrics: tuple[str, ...], budget: int | None = None) -> bool:
        """Whether every one of ``metrics`` is on file for the cell (under that budget, where one is given)."""
        known = self._records.get(cell, ())
        return set(metrics) <= {r["metric"] for r in known if budget is None or r.get("budget", budget) == budget}

    def records(self, cell: str) -> list[dict[str, Any]]:
        """The records of a cell, one per metric (the last written, should there be two)."""
        return list({record["metric"]: record for record in self._records.get(cell, ())}.values())

    def append(self, cell: str, records: list[dict[str, Any]]) -> None:
        """Add the records of a finished cell, all or none."""
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
        size = self._path.stat().st_size if self._path.exists() else 0
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            try:
                written = os.write(handle, text)
                if written != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
            except OSError as error:
                os.ftruncate(handle, size)  # nothing half-written
                raise OSError(error.errno, error.strerror, str(self._path)) from None
        finally:
            os.close(handle)
        self._records[cell] += records

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a whole file, atomically; returns its path."""
        path = self.directory / name
        write_atomic(path, content)
        return path

    def save(self, name: str, x: Tensor) -> None:
        """Write a tensor as ``name``.npy, atomically."""
        buffer = io.BytesIO()
        np.save(buffer, x.detach().cpu().numpy(), allow_pickle=False)
        self.write(f"{name}.npy", buffer.getvalue())

    def load(self, name: str) -> Tensor | None:
        """The tensor saved as ``name``, or None where there is none."""
        path = self.directory / f"{name}.npy"
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except FileNotFoundError:
            return None
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); start over with --fresh") from None
