"""The directory of a comparison: records and arrays, of finished cells only.

    records.jsonl     one line per (cell, metric); the lines of a cell are appended in one write when it is done
    reference/        exact endpoints, by starting level and seed
    samples/          the samples that the report shows
    recipes/          every method as it was resolved
    comparison.json   the command of the report, and the cells that are on it
    environment.json, commands.txt, figures/*.png, report.html

A kill at any moment loses at most the cell in flight: a last line that was cut off is dropped when the directory is
opened again. A line or an array that is not as it was written is reported, set aside and computed again. One process at
a time may write; whose the directory is, and what in it is ours, see :mod:`edm_unified.components.outputs`.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.compare import records as lines_of
from edm_unified.components.files import append, write_atomic
from edm_unified.components.output_kinds import COMPARISON
from edm_unified.components.outputs import DamagedError, OutputDirectory

RECORDS = "records.jsonl"
ABOUT = "comparison.json"


class Store:
    """Opens ``directory``, making it where needed; ``fresh`` removes what an earlier comparison left in it.

    ``warn`` is called with a line for every damaged file. Raises ``OSError`` where the disk is full, and
    ``ValueError`` where the directory cannot be written, where another run is writing to it, where it is a file, and
    where something is in it that no comparison has put there.
    """

    def __init__(self, directory: Path, fresh: bool = False, warn: Callable[[str], object] = lambda line: None) -> None:
        self.directory, self._warn = directory, warn
        self.output = OutputDirectory(directory, COMPARISON)
        try:
            if fresh:
                self.output.clear()
            for name in (RECORDS, ABOUT, "commands.txt", "environment.json", "report.html"):
                self.output.check_ours(name)
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
        self.output.close()

    @property
    def _path(self) -> Path:
        return self.directory / RECORDS

    def _load(self) -> dict[str, list[dict[str, Any]]]:
        records: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if not self._path.exists():
            return records
        found = self._path.read_bytes().splitlines(keepends=True)
        if found and not found[-1].endswith(b"\n"):  # cut off by a kill or a full disk
            found = found[:-1]
            write_atomic(self._path, b"".join(found))
        whole, faults = [], []
        for number, line in enumerate(found, start=1):
            try:
                record = lines_of.parse(line)
            except ValueError as error:
                faults.append(f"line {number} {error}")
                continue
            whole.append(line)
            records[record["cell"]].append(record)
        if faults:
            aside = self.output.set_aside(RECORDS)
            write_atomic(self._path, b"".join(whole))
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            self._warn(f"{self._path}: {faults[0]}{more}; kept as {aside.name}, and what it said is computed again")
        return records

    def finished(self, cell: str, metrics: tuple[str, ...], identity: Mapping[str, Any] | None = None) -> bool:
        """Whether every one of ``metrics`` is on file for the cell: under these names and budget, where given."""
        own = (identity or {}).items()
        return set(metrics) <= {r["metric"] for r in self._records.get(cell, ()) if r.items() >= own}

    def records(self, cell: str) -> list[dict[str, Any]]:
        """The records of a cell, one per metric (the last written, should there be two)."""
        return list({record["metric"]: record for record in self._records.get(cell, ())}.values())

    def append(self, cell: str, records: list[dict[str, Any]]) -> None:
        """Add the records of a finished cell, all or none."""
        self.output.own(RECORDS)
        append(self._path, lines_of.lines(records))
        self._records[cell] += records

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a whole file, atomically; returns its path."""
        return self.output.write(name, content)

    def withdraw_report(self) -> None:
        """Remove the page and its figures: they are of cells that were there before those which are run now."""
        for path in (self.directory / "report.html", *self.directory.glob("figures/*.png")):
            self.output.remove(path.relative_to(self.directory).as_posix())

    def write_report(self, files: Mapping[str, bytes | str]) -> None:
        """Write the report and all that belongs to it: a kill leaves no old page beside new figures, or the reverse."""
        figures = {path.relative_to(self.directory).as_posix() for path in self.directory.glob("figures/*.png")}
        self.output.write_together(files, gone=[name for name in figures - set(files) if self.output.owns(name)])

    def show(self, cells: set[str], command: str) -> str | None:
        """Note which cells the report is of; the command of the one there was, where it had others that now leave it.

        They stay in ``records.jsonl``.
        """
        try:
            before = json.loads((self.directory / ABOUT).read_text("utf-8"))
            was, others = str(before["command"]), set(map(str, before["cells"]))
        except (OSError, ValueError, KeyError, TypeError):
            was, others = "", set()
        self.output.write(ABOUT, json.dumps({"command": command, "cells": sorted(cells)}, indent=1) + "\n")
        return was if others - cells else None

    def save(self, name: str, x: Tensor) -> None:
        """Write a tensor as ``name``.npy, atomically, with its digest."""
        buffer = io.BytesIO()
        np.save(buffer, x.detach().cpu().numpy(), allow_pickle=False)
        self.output.write(f"{name}.npy", buffer.getvalue(), sealed=True)

    def load(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor | None:
        """The tensor saved as ``name``, or None where there is none, or a damaged one, which is set aside.

        ``shape``: without the first axis, where that of the saved one is known.
        """
        try:
            content = self.output.read(f"{name}.npy")
            return None if content is None else _tensor(content, shape)
        except DamagedError as error:
            reason = str(error)
        except ValueError as error:
            reason = f"{self.directory / name}.npy: {error}"
        aside = self.output.set_aside(f"{name}.npy")
        self._warn(f"{reason}; kept as {aside.name}, and computed again")
        return None


def _tensor(content: bytes, shape: tuple[int, ...] | None) -> Tensor:
    """Raises ``ValueError`` where the bytes are no array of real numbers, or one of another shape."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except MemoryError:
        raise ValueError("is no array: its head claims more than there is") from None
    except Exception as error:  # a head is read by Python's own parser: whatever that makes of garbage
        raise ValueError(f"is no array ({next(iter(str(error).splitlines()), type(error).__name__)[:120]})") from None
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64) or array.ndim < 1:
        raise ValueError("holds no numbers of float32 or float64")
    if shape is not None and array.shape[1:] != shape:
        raise ValueError(f"holds samples of shape {array.shape[1:]}, not {shape}")
    return torch.from_numpy(array)
