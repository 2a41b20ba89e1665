"""Heat maps: for many methods, a table of coloured factors over the least error in the place of a plot of lines.

A row is a solver (with its recipe, where several share a problem), a column one rule for the levels at one budget. A
cell is the error over the least error in its column, on that problem; over several problems, the geometric mean of
these factors. The colour follows the logarithm of the factor: 1 is the strongest, 100 and more is nearly blank.
"""

from edm_unified.report.heat.grids import MOST_LINES, Choice, Grid, choices, grids, is_crowded, names
from edm_unified.report.heat.render import COLOURS, WHITE_TEXT, heat_png, section_of, shade, written

__all__ = [
    "COLOURS",
    "MOST_LINES",
    "WHITE_TEXT",
    "Choice",
    "Grid",
    "choices",
    "grids",
    "heat_png",
    "is_crowded",
    "names",
    "section_of",
    "shade",
    "written",
]
