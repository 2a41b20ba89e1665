"""One white pixel in the place of every figure, for tests of something else.

Matplotlib takes three seconds for the page of one comparison. Its figures are tested in test_report.py, test_figures.py
and test_excess_page.py; a test of budgets, records or interruptions does not look at them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape
from PIL import Image


def draw_dots(replace: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let the pages and files of this process have dots for figures; a test gives ``monkeypatch.setattr``."""
    from edm_unified.certify import page
    from edm_unified.report import images, panels, training
    from edm_unified.report.heat import drawn

    file = io.BytesIO()
    Image.new("L", (1, 1), 255).save(file, "PNG")

    def svg(draw: object, name: str, alt: str, size: object = None) -> Markup:
        return Markup(f'<svg class="plot" role="img" aria-label="{escape(alt)}" viewBox="0 0 1 1"></svg>')

    for module in (images, panels, training, drawn, page):
        for function, stand_in in (("svg", svg), ("png", lambda *given: file.getvalue())):
            if hasattr(module, function):
                replace(module, function, stand_in)
