"""One white pixel in the place of every figure, for tests of something else.

Matplotlib takes three seconds for the page of one comparison. Its figures are tested in test_report.py, test_figures.py
and test_excess_page.py; a test of budgets, records or interruptions does not look at them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from PIL import Image


def draw_dots(replace: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let the pages and files of this process have dots for figures; a test gives ``monkeypatch.setattr``."""
    from edm_unified.certify import page  # noqa: F401  # each of these takes the two functions from ``draw``
    from edm_unified.report import draw, images, panels, training  # noqa: F401

    file = io.BytesIO()
    Image.new("L", (1, 1), 255).save(file, "PNG")

    def svg(draw: object, name: str, alt: str, size: object = None) -> Markup:
        return Markup(f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="0 0 1 1"></svg>')

    dots = {"svg": (draw.svg, svg), "png": (draw.png, lambda *given: file.getvalue())}
    for name, module in list(sys.modules.items()):
        for function, (real, dot) in dots.items():
            if name.startswith("edm_unified.") and module is not draw and getattr(module, function, None) is real:
                replace(module, function, dot)
