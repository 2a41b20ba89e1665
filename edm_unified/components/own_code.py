"""Code of one's own that a user names, ``mylab/nets.py:make`` or ``mylab.nets:make``: imported for one call.

It is imported because it is named, and never because a recipe or a run names it: these record a name and the SHA-256 of
the file. What is imported is forgotten again at the end of the call.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from edm_unified.components import paths

FILES: list[str] = []
"""The files that are imported at present."""


def blamed(error: BaseException) -> str | None:
    """Where in code of one's own that is imported at present an error came up, in one line; None where it did not."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        found = frame if frame.filename in FILES else found
    if found is None:
        return None
    words = " ".join(str(error).split())[:200]
    return f"{found.filename}, line {found.lineno}: raised {type(error).__name__}{': ' + words if words else ''}"


class OwnCode(NamedTuple):
    """``module``, imported as ``name``, and the ``attribute`` asked for, if any, with the SHA-256 of its file."""

    name: str
    attribute: str
    module: ModuleType
    sha256: str

    def get(self, attribute: str, label: str) -> Any:
        """What the module has by that name. Raises ``ValueError`` with the nearest spelling where it has none."""
        from edm_unified.components.shipped import suggest

        found: Any = self.module
        for part in attribute.split("."):
            if not hasattr(found, part):
                names = [name for name in vars(self.module) if not name.startswith("_")]
                raise ValueError(f"{label}: has no {attribute!r}{suggest(attribute, names)}")
            found = getattr(found, part)
        return found


def split(text: str, label: str) -> tuple[str, str]:
    """``mylab/nets.py:make`` → the file or module, and the name in it, which may be absent."""
    place, colon, attribute = text.rpartition(":")
    if not colon or "/" in attribute or "\\" in attribute or attribute.endswith(".py"):
        place, attribute = text, ""
    if not place or (colon and place != text and not attribute):
        raise ValueError(
            f"{label}: write it as FILE.py or MODULE, with :NAME for what is in it, e.g. mylab/nets.py:make"
        )
    return place, attribute


@contextmanager
def imported(text: str, option: str) -> Iterator[OwnCode]:
    """Import what ``text`` names, and forget it at the end. ``option`` (``--plugin``) starts every message.

    Raises ``ValueError`` in one line for what is absent, and for whatever the module raises.
    """
    label = f"{option} {text}"
    place, attribute = split(text, label)
    known, searched = set(sys.modules), list(sys.path)
    file = paths.expanded(place, option) if place.endswith(".py") or "/" in place else None
    folders = [str(Path.cwd()), *([] if file is None else [str(file.absolute().parent)])]
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    try:
        module = _module(place, label) if file is None else _file(file, label)
        source = getattr(module, "__file__", None)
        content = Path(source).read_bytes() if source is not None else b""
        FILES.append(str(source))
        try:
            yield OwnCode(place, attribute, module, hashlib.sha256(content).hexdigest())
        finally:
            FILES.remove(str(source))
    finally:
        sys.path[:] = searched
        for name in [name for name in sys.modules if name not in known]:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if any(Path(origin).is_relative_to(folder) for folder in folders) and "site-packages" not in origin:
                del sys.modules[name]


def _module(name: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{label}: {error}; run this in the folder that holds it, put that folder on PYTHONPATH, or name a file .py"
        ) from error
    except (Exception, SystemExit) as error:  # whatever a foreign module raises is one line here
        raise ValueError(f"{label}: {_raised(error)}") from error


def _file(file: Path, label: str) -> ModuleType:
    paths.regular(file, label)
    if not file.is_file():
        raise ValueError(f"{label}: {'is a folder; name a file .py in it' if file.is_dir() else 'no such file'}")
    name = f"_own_{hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:12]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{label}: is no file of Python; name one that ends in .py")
    if name in sys.modules:  # named twice in one call
        return sys.modules[name]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of dataclasses are looked up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ValueError(f"{label}: {_raised(error)}") from error
    return module


def _raised(error: BaseException) -> str:
    """What a foreign module raised, on one line."""
    words = " ".join(str(error).split())[:200]
    where = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f"its import raised {type(error).__name__}{': ' + words if words else ''}{where}"
