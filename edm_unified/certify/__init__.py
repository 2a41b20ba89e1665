"""Certificates: what a solver's name promises, measured.

    certify(solver) -> Certificate           anything with ``init`` and ``step``
    certificates(solvers, observe)           one after the other
    every() -> list                          all solvers of the package at the settings that the table shows

Nothing is taken from a solver but its two methods; ``order`` and ``eta``, where it has them, are claims to be tested.
The truth is scipy's DOP853 on mixtures, closed formulas on Gaussians, and a counter on D: none of it shares code with a
solver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edm_unified.certify.certificate import Certificate, certify
from edm_unified.certify.equivalence import Pair, pairs
from edm_unified.certify.rows import every, label, settings
from edm_unified.certify.table import markdown

__all__ = ["Certificate", "Pair", "build", "certificates", "certify", "every", "label", "markdown", "pairs", "settings"]


def certificates(
    solvers: Iterable[Any], observe: Callable[[int, int, str], object] = lambda done, total, solver: None
) -> list[Certificate]:
    """The certificate of each of ``solvers``; ``observe(done, total, label)`` is called before each."""
    chosen, found = list(solvers), list[Certificate]()
    for i, solver in enumerate(chosen):
        observe(i, len(chosen), label(solver))
        found.append(certify(solver))
    return found


def build(certified: list[Certificate], title: str = "Solver certificates") -> str:
    """The certificates as one self-contained HTML page."""
    from edm_unified.certify.page import build as build_page

    return build_page(certified, title)
