"""Makes ``variants`` (the settings under which the laws run) importable, and prints measured orders at the end (-s)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    """Rows of measured numbers; printed when the module is done, visible with ``pytest -s``."""
    rows: list[tuple[str, ...]] = []
    yield rows
    if rows:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
