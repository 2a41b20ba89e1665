"""The pages as jinja2 templates with autoescape: all that is put into one is text, unless a template of ours made it.

The files beside this are libraries of macros, one for each page, and ``document.html``, which holds them together.
:func:`part` fills in one macro, :func:`document` the page. Control characters and marks that turn the direction of
writing are dropped from everything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from edm_unified.report.data import printable
from edm_unified.report.draw import COLOURS, dash, marker

_ARXIV = re.compile(r"\barXiv[:\s]\s*(\d{4}\.\d{4,5})\b")
_SHAPES = {
    "o": "M14.8 7a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "s": "M15 4h6v6h-6z",
    "D": "M18 3l4 4-4 4-4-4z",
    "^": "M18 3l4 7h-8z",
    "v": "M18 11l4-7h-8z",
    "P": "M16.6 3h2.8v2.6H22v2.8h-2.6V11h-2.8V8.4H14V5.6h2.6z",
    "*": "M18 2.6l1.2 3 3.2.2-2.5 2 .8 3.2-2.7-1.8-2.7 1.8.8-3.2-2.5-2 3.2-.2z",
    "X": "M15.8 3L18 5.2 20.2 3 22 4.8 19.8 7 22 9.2 20.2 11 18 8.8 15.8 11 14 9.2 16.2 7 14 4.8z",
    "<": "M14 7l7-4v8z",
    ">": "M22 7l-7-4v8z",
    "h": "M18 3l3.5 2v4L18 11l-3.5-2V5z",
    "d": "M18 3l2.6 4-2.6 4-2.6-4z",
}
"""The markers of the plots around (18, 7), as paths."""


class Picture(NamedTuple):
    """A bitmap with the size in pixels at which it is shown."""

    source: str
    width: int
    height: int


def _shown(value: Any) -> Any:
    """What is put into a template: text without control characters, or what a template has made."""
    return value if hasattr(value, "__html__") else printable(str(value))


def _text(value: Any) -> str:
    return str(escape(_shown(value)))


def formula(value: str) -> Markup:
    """Text with x_0, β_{min}, e^{−t} and y^2 set as subscripts and superscripts."""
    shown = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", _text(value))
    shown = re.sub(r"(?<=\w)_(\w+)", r"<sub>\1</sub>", shown)
    shown = re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", shown)
    return Markup(re.sub(r"\^([\w½])", r"<sup>\1</sup>", shown))


def cited(value: str) -> Markup:
    """Text with arXiv numbers made links."""
    return Markup(_ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', _text(value)))


def paragraphs(value: str) -> Markup:
    """Text of one or more paragraphs, with empty lines between, and its arXiv numbers made links."""
    parts = [part.strip() for part in re.split(r"\n\s*\n", value) if part.strip()]
    return Markup("").join(Markup("<p>{}</p>").format(cited(part)) for part in parts)


def data_uri(content: bytes, kind: str) -> str:
    """``content`` as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def swatch(index: int) -> Markup:
    """The line of method ``index`` as in the plots: colour, dash and marker."""
    pattern = dash(index)[1] or ()
    dashes = " ".join(f"{1.6 * x:g}" for x in pattern)
    return part("parts.html", "swatch", index % COLOURS, dashes, _SHAPES[marker(index)])


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Made once; the templates are read from the package, and from nowhere else."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    here = files("edm_unified.report.templates")
    environment = Environment(
        loader=FunctionLoader(lambda name: here.joinpath(name).read_text("utf-8")),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(formula=formula, cited=cited, paragraphs=paragraphs)
    environment.globals.update(swatch=swatch)
    return environment


def part(template: str, macro: str, *values: Any, **named: Any) -> Markup:
    """One macro of a template with its values filled in."""
    made = getattr(_environment().get_template(template).module, macro)(*values, **named)
    return Markup(made.strip())


def document(
    title: str, intro: Markup, sections: Mapping[str, tuple[str, Markup]], start: str, script: bool = True
) -> str:
    """A page that fetches nothing: ``intro`` under its title, then the sections (title, content) that are not empty.

    ``start`` is the section that the first link of the page leads to. ``script``: whether the page has ours.
    """
    style, ours = (files("edm_unified.report").joinpath(f).read_text("utf-8") for f in ("style.css", "script.js"))
    page = _environment().get_template("document.html")
    return str(
        page.render(
            title=title,
            intro=intro,
            sections={name: pair for name, pair in sections.items() if pair[1]},
            start=start,
            style=Markup(style),
            script=Markup(ours) if script else "",
        )
    ).lstrip()
