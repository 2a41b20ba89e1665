"""``Family``: an annotation that gives a family of components its name and its option on the command line.

A field of :class:`~edm_unified.recipe.Recipe`, of its sampler, its objective or its training whose annotation is a
union of components is a *family*. That annotation is the only registry: the YAML loader, ``--solver``, the Tab key,
``edm-unified list`` and ``show``, the JSON Schema and the lists of the tests follow from it (see
:mod:`edm_unified.recipe.catalogue`). :class:`Family` adds to it what no type can say, the plural and a line of help:

    solver: Annotated[AnySolver, Family("solvers", "Another solver, e.g. heun or second_order:alpha=0.5")]

Without it the family is called as the field is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """``plural``: its name for ``list`` (None: that of the field). ``help``: of its option. ``option``: the option's
    name where it is not that of the field, as ``--steps`` is the number of steps and ``--steps-rule`` their rule.
    ``joined``: the option may be given several times, and means all that it was given.
    """

    plural: str | None = None
    help: str | None = None
    option: str | None = None
    joined: bool = False
