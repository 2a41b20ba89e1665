"""One white pixel in the place of every figure, for tests of something else.

Matplotlib takes three seconds for the page of one comparison. Its figures are tested in test_report.py and
test_figures.py; a test of budgets, records or interruptions does not look at them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from PIL import Image

from edm_unified.certify import page  # noqa: F401  # each of these takes the two functions from ``draw``
from edm_unified.report import draw, images, panels, training  # noqa: F401

_file = io.BytesIO()
Image.new("L", (1, 1), 255).save(_file, "PNG")


def svg(draw: object, name: str, alt: str, size: object = None) -> Markup:
    """In the place of :func:`edm_unified.report.draw.svg`."""
    return Markup(f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="0 0 1 1"></svg>')


def png(draw: object, size: object, dpi: object) -> bytes:
    """In the place of :func:`edm_unified.report.draw.png`."""
    return _file.getvalue()


_HOLDERS = [
    (module, name)
    for module in list(sys.modules.values())
    for name in ("svg", "png")
    if getattr(module, "__name__", "").startswith("edm_unified.")  # some packages put other things among the modules
    and module is not draw
    and getattr(module, name, None) is getattr(draw, name)
]


def draw_dots(replace: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let the pages and files of this process have dots for figures; a test gives ``monkeypatch.setattr``."""
    for module, name in _HOLDERS:
        replace(module, name, {"svg": svg, "png": png}[name])


def draw_figures(replace: Callable[[Any, str, Any], object]) -> None:
    """Take the dots back."""
    for module, name in _HOLDERS:
        replace(module, name, getattr(draw, name))
