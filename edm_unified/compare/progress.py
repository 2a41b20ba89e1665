"""What the cells of a comparison tell of their progress: the work that is done, in evaluations of D × samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Event(NamedTuple):
    """Progress: ``done`` of ``total`` units of work (evaluations × samples), and the present step."""

    what: str
    cell: int
    cells: int
    nfe: int
    done: float
    total: float
    finished: bool = False


Observer = Callable[[Event], object]


class Work:
    """Adds up the work that is done of ``total`` and tells the observer."""

    def __init__(self, cells: int, total: float, observe: Observer | None) -> None:
        self._cells, self._total, self._observe, self._cell, self._what, self._done = cells, total, observe, 0, "", 0.0

    def start(self, cell: int, what: str) -> None:
        self._cell = cell
        self.say(what)

    def say(self, what: str) -> None:
        self._what = what
        self._tell(0)

    def done(self, amount: float, nfe: int) -> None:
        self._done = min(self._done + amount, self._total)
        self._tell(nfe)

    def end(self, cells: int) -> None:
        self._cell, self._done = cells, self._total
        self._tell(0, finished=True)

    def _tell(self, nfe: int, finished: bool = False) -> None:
        if self._observe is not None:
            self._observe(Event(self._what, self._cell, self._cells, nfe, self._done, self._total, finished))
