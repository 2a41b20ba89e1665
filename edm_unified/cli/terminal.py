"""Text for the terminal, with the control characters of file names, titles and records written out.

A name may hold the sequence that clears a screen, sets its title, or turns the order of letters round. It is shown as
it would be written in Python, ``\\x1b[31m``. The streams do this themselves, so that no command can forget it; the
tables and bars of rich, which are made of such sequences, go to the stream beneath, and their texts are shown likewise.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 but for tabs and line feeds, DEL, C1, and the marks that turn the direction of writing."""


def printable(text: str) -> str:
    """``text`` with its control characters as escapes.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class PrintableStream:
    """A text stream that writes :func:`printable` text to another one, ``beneath``, and else behaves as that one."""

    def __init__(self, beneath: Any) -> None:
        self.beneath = beneath

    def write(self, text: str) -> int:
        self.beneath.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.beneath)


@contextmanager
def printable_streams() -> Iterator[None]:
    """While open, standard output and error print :func:`printable` text."""
    wrapped = {name: PrintableStream(getattr(sys, name)) for name in ("stdout", "stderr")}
    for name, stream in wrapped.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in wrapped.items():
            if getattr(sys, name) is stream:  # click puts another there, once a pipe is broken
                setattr(sys, name, stream.beneath)


def console(stderr: bool = False, **options: Any) -> Console:
    """A console of rich on a standard stream: it shows :func:`printable` text, and brackets as they are."""
    from rich.console import Console
    from rich.segment import Segment

    class PrintableRenderable:
        """A renderable of rich whose text is made :func:`printable`."""

        def __init__(self, inner: RenderableType) -> None:
            self._inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for text, style, control in console.render(self._inner, options):
                yield Segment(text if control else printable(text), style, control)

    class PrintableText:
        def process_renderables(self, renderables: Sequence[ConsoleRenderable]) -> list[Any]:
            return [PrintableRenderable(renderable) for renderable in renderables]

    stream = sys.stderr if stderr else sys.stdout
    beneath = stream.beneath if isinstance(stream, PrintableStream) else stream
    made = Console(file=beneath, stderr=stderr, **{"markup": False, "emoji": False, **options})
    made.push_render_hook(PrintableText())  # type: ignore[arg-type]
    return made
