"""Denoisers of other libraries: a network by its convention, a checkpoint by its files.

:func:`wrap` makes D(x, sigma, **cond) of a network in memory; :func:`load` of what is on disk. What a network predicts,
of which state, and what it is told, is its convention, a row of the design table
(:mod:`edm_unified.denoisers.preconditioning`). Nothing that a file brings along is executed.
"""

from edm_unified.interop.wrapping import convention_of, wrap

__all__ = ["convention_of", "wrap"]
