"""Denoisers of other libraries: a network by its convention, a checkpoint by its files.

:func:`wrap` makes D(x, sigma, **cond) of a network in memory; :func:`load` of what is on disk. What a network predicts,
of which state, and what it is told, is its convention, a row of the design table
(:mod:`edm_unified.denoisers.preconditioning`). Nothing that a file brings along is executed.
"""

from edm_unified.interop.checking import check
from edm_unified.interop.latents import Latents
from edm_unified.interop.source import Source
from edm_unified.interop.sources import is_source, load, recognise
from edm_unified.interop.wrapping import convention_of, wrap

__all__ = ["Latents", "Source", "check", "convention_of", "is_source", "load", "recognise", "wrap"]
