"""Small pieces of HTML: escaped text, swatches, tables, figures. No text reaches the page but through ``text``."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from edm_unified.report.data import printable
from edm_unified.report.draw import COLOURS, dash, marker

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_ARXIV = re.compile(r"\barXiv[:\s]\s*(\d{4}\.\d{4,5})\b")
_SHAPES = {
    "o": '<circle cx="18" cy="7" r="3.2"/>',
    "s": '<path d="M15 4h6v6h-6z"/>',
    "D": '<path d="M18 3l4 4-4 4-4-4z"/>',
    "^": '<path d="M18 3l4 7h-8z"/>',
    "v": '<path d="M18 11l4-7h-8z"/>',
    "P": '<path d="M16.6 3h2.8v2.6H22v2.8h-2.6V11h-2.8V8.4H14V5.6h2.6z"/>',
    "*": '<path d="M18 2.6l1.2 3 3.2.2-2.5 2 .8 3.2-2.7-1.8-2.7 1.8.8-3.2-2.5-2 3.2-.2z"/>',
    "X": '<path d="M15.8 3L18 5.2 20.2 3 22 4.8 19.8 7 22 9.2 20.2 11 18 8.8 15.8 11 14 9.2 16.2 7 14 4.8z"/>',
    "<": '<path d="M14 7l7-4v8z"/>',
    ">": '<path d="M22 7l-7-4v8z"/>',
    "h": '<path d="M18 3l3.5 2v4L18 11l-3.5-2V5z"/>',
    "d": '<path d="M18 3l2.6 4-2.6 4-2.6-4z"/>',
}


def text(value: Any) -> str:
    """``value`` as HTML text, also inside a quoted attribute; control and bidirectional marks are dropped."""
    return escape(printable(str(value)))


def formula(value: str) -> str:
    """As :func:`text`, with x_0, β_{min}, e^{−t} and y^2 set as subscripts and superscripts."""
    shown = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", text(value))
    shown = re.sub(r"(?<=\w)_(\w+)", r"<sub>\1</sub>", shown)
    shown = re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", shown)
    return re.sub(r"\^([\w½])", r"<sup>\1</sup>", shown)


def cited(value: str) -> str:
    """As :func:`text`, with arXiv numbers made links."""
    return _ARXIV.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', text(value))


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def swatch(index: int) -> str:
    """The line of method ``index`` as in the plots: colour, dash and marker."""
    pattern = dash(index)[1]
    dashes = f' stroke-dasharray="{" ".join(f"{1.6 * x:g}" for x in pattern)}"' if pattern else ""
    colour = f"var(--m{index % COLOURS})"
    return (
        f'<svg class="swatch" viewBox="0 0 36 14" aria-hidden="true" style="color:{colour}">'
        f'<path d="M1 7h34" fill="none" stroke="currentColor" stroke-width="1.8"{dashes}/>'
        f'<g fill="currentColor">{_SHAPES[marker(index)]}</g></svg>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, name: str = "") -> str:
    """A plain table in a box of its own that scrolls; cells are HTML, the first of each row is its header."""
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return scrolling(
        f"<table{_class(name)}><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>",
        caption,
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def scrolling(content: str, label: str) -> str:
    """A box that scrolls sideways by itself, and by keyboard, when its content is wider than the page."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{content}</div>'


def section(name: str, title: str, *content: str) -> str:
    """A section with its own anchor; nothing if it has no content."""
    body = "".join(content)
    if not body:
        return ""
    anchor = f'<a class="anchor" href="#{name}" aria-label="Link to this section">#</a>'
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{text(title)} {anchor}</h2>{body}</section>'
    )


def document(title: str, intro: str, sections: Mapping[str, tuple[str, str]]) -> str:
    """A page that fetches nothing: ``intro`` under its title, then the sections (title, HTML) that are not empty.

    The first section is where "skip to the summary" leads.
    """
    present = {name: pair for name, pair in sections.items() if pair[1]}
    links = "".join(f'<li><a href="#{name}">{name.capitalize()}</a></li>' for name in present)
    body = "".join(section(name, heading, content) for name, (heading, content) in present.items())
    style, script = (files("edm_unified.report").joinpath(f).read_text("utf-8") for f in ("style.css", "script.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="edm_unified">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#summary">Skip to the summary</a>\n'
        f"<header><h1>{text(title)}</h1>{intro}</header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{body}</main>\n'
        "<footer><p>Made by edm_unified. One file, no network: keep it, print it, send it.</p></footer>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def figure(content: str, caption: str, name: str = "") -> str:
    """``content`` with a caption, both HTML."""
    return f"<figure{_class(name)}>{content}<figcaption>{caption}</figcaption></figure>"


def lines(paragraph: str) -> str:
    """Plain text of one or more paragraphs as HTML."""
    return "".join(f"<p>{cited(part.strip())}</p>" for part in re.split(r"\n\s*\n", paragraph) if part.strip())
