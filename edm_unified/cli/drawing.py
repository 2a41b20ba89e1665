"""A curve in the terminal, out of braille dots: 2 × 4 dots to a character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

SYMBOLS = {
    "s": "s(t)",
    "sigma": "σ(t)",
    "f": "f(t) = s'/s",
    "g": "g(t)",
    "time": "σ⁻¹",
    "p": "p(σ)",
    "lambda": "λ(σ)",
    "corrector": "step size",
}
"""How the symbols of a component's formulas are written."""
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # the dots of a braille cell, by column and row


def curve(
    x: Sequence[float], y: Sequence[float], marks: Sequence[tuple[float, float]], width: int, height: int
) -> list[str]:
    """Lines of text: y over x as dots joined up, ``marks`` as ●, with numbers on the axes. y is in powers of ten."""
    low_x, high_x = min(x), max(x)
    low_y, high_y = min(y), max(y)
    label = 8
    columns, rows = max(width - label - 1, 10), height

    def place(px: float, py: float) -> tuple[int, int]:
        """The dot nearest a point, from the top left."""
        right = (px - low_x) / ((high_x - low_x) or 1) * (2 * columns - 1)
        down = (high_y - py) / ((high_y - low_y) or 1) * (4 * rows - 1)
        return round(right), round(down)

    cells = [[0] * columns for _ in range(rows)]
    dots = [place(a, b) for a, b in zip(x, y, strict=True)]
    for (c0, r0), (c1, r1) in pairwise(dots):
        steps = max(abs(c1 - c0), abs(r1 - r0), 1)
        for i in range(steps + 1):
            c, r = round(c0 + (c1 - c0) * i / steps), round(r0 + (r1 - r0) * i / steps)
            cells[r // 4][c // 2] |= _BITS[c % 2][r % 4]
    text = [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]
    for a, b in marks:
        c, r = place(a, b)
        text[r // 4][c // 2] = "●"

    ticks = _ticks(low_y, high_y, rows)
    axis = [f"{ticks.get(i, ''):>{label - 2}} {'┤' if i in ticks else '│'}" for i in range(rows)]
    lines = [left + "".join(row).rstrip() for left, row in zip(axis, text, strict=True)]
    first, last = f"{low_x:.3g}", f"{high_x:.4g}"
    lines.append(" " * (label - 1) + "└" + "─" * columns)
    lines.append(" " * label + first + " " * max(columns - len(first) - len(last), 1) + last)
    return lines


def _ticks(low: float, high: float, rows: int) -> dict[int, str]:
    """Rows that hold a power of ten, and its text; at most every second row. Without any, both ends."""
    span = (high - low) or 1
    every = max(1, math.ceil(2 * span / rows))
    powers = [p for p in range(math.ceil(low), math.floor(high) + 1) if p % every == 0]
    rows_of = {round((high - p) / span * (rows - 1)): f"{10.0**p:g}" for p in powers}
    return rows_of or {0: f"{10**high:.3g}", rows - 1: f"{10**low:.3g}"}
