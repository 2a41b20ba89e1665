"""What is wrong with a file of data, as one line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def readable(where: str, what: str, remedy: str = "") -> Iterator[None]:
    """Whatever a library raises over a damaged file, as one line: ``where: not a readable image (why); remedy``.

    Nearly every kind of exception has been seen to come out of some decoder. What is told with ``RefusedError`` passes
    as it is worded; what does not fit in memory is told as that.
    """
    try:
        yield
    except RefusedError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise ValueError(f"{where}: does not fit in memory; use less of it, or .npy, which stays on disk") from None
    except Exception as error:
        raise ValueError(f"{where}: not a readable {what} ({line(error)}){remedy}") from error


class RefusedError(Exception):
    """A request that a readable file cannot meet, told apart from the readers' own ValueErrors."""


def line(error: BaseException) -> str:
    """The first line of an error's message, kept short."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def needs(module: str, what: str) -> Any:
    """The module that reads ``what``. Raises ValueError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"path: {what} needs `{module}`; pip install 'edm_unified[formats]'") from None
