"""Directories of results: whose they are, which files in them are ours, and whether these are as they were written.

A directory that a command of ours writes to carries a mark, ``.edm-unified.jsonl``. Its first line says what it is:

    {"kind": "comparison", "command": "edm-unified compare", "version": "0.1.0"}

and every other line names a file that was written there and, where a number depends on it, its SHA-256:

    {"file": "reference/06882610b1d4.npy", "sha256": "9f86d0…"}

A directory that is new or empty is taken and marked, one with a mark of the same kind goes on, one that was made before
there were marks is known by what it holds and marked, and any other is refused before anything is written. ``--fresh``
removes the files that are listed here and that the command writes: what anybody else put beside them stays, and no link
is followed.

:class:`OutputDirectory` is how a command writes. It holds the lock, so that one process at a time does.

    with OutputDirectory(Path("out"), COMPARISON) as out:
        out.write("reference/06882610b1d4.npy", content, sealed=True)
        out.read("reference/06882610b1d4.npy")     # raises DamagedError where a byte has changed since
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType

from edm_unified.components.files import LOCK, Lock, append, make_directory, stage, sweep, write_atomic
from edm_unified.components.output_kinds import (
    MARK,
    Kind,
    check,
    files_in,
    folders_in,
    is_empty,
    is_old_temporary,
    is_resolved_recipe,
    json_object,
)


class DamagedError(ValueError):
    """A file that is there, and is not what was written."""


class OutputDirectory:
    """``directory``, claimed for results of ``kind``: checked, made where needed, locked and marked.

    What killed processes left there under temporary names is removed. Where nothing is written in the end, a directory
    that was made for it goes again. Names of files are relative to it, with ``/`` between folders.

    Raises ``ValueError`` where :func:`check` does, where another process writes there, and where it cannot be written;
    ``OSError`` naming the file where the disk is full.
    """

    def __init__(self, directory: Path, kind: Kind) -> None:
        check(directory, kind)
        self.path, self.kind = directory, kind
        self._made = make_directory(directory)
        self._new = not os.path.lexists(directory / MARK)
        self._listed: dict[str, set[str]] = {}
        try:
            self._lock = Lock(directory)
        except BaseException:
            self._unmake()
            raise
        try:
            check(directory, kind)  # as it is now that nobody else writes
            self._listed = self._read_mark()
            for folder in (self.path, *(self.path / name for name in folders_in(self.path))):
                sweep(folder, locked=True)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OutputDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory free; where it is new and nothing was written, leave no trace of it."""
        if self._new and not self._listed and is_empty(self.path):
            with contextlib.suppress(OSError):
                (self.path / MARK).unlink()
                (self.path / LOCK).unlink()  # before it is free: who opened it meanwhile finds that it has no name
        self._lock.close()
        self._unmake()

    def _unmake(self) -> None:
        for folder in self._made:  # from the innermost; one that holds something stays
            try:
                folder.rmdir()
            except OSError:
                break

    # -- the mark ------------------------------------------------------------------------------------------------------

    def _read_mark(self) -> dict[str, set[str]]:
        """The files listed; the mark is written anew where it is missing, or has a line that cannot be read."""
        mark = self.path / MARK
        if json_object(mark, first_line=True).get("kind") != self.kind.name:
            if os.path.lexists(mark) and not stat.S_ISREG(mark.lstat().st_mode):
                raise ValueError(f"{mark}: is a link, or no regular file, and is left alone; remove it")
            for name in list(files_in(self.path)):
                if is_old_temporary(name, self.kind):
                    (self.path / name).unlink(missing_ok=True)
            listed: dict[str, set[str]] = {name: set() for name in files_in(self.path) if self._is_adopted(name)}
            self._write_mark(listed)
            return listed
        lines = mark.read_bytes().splitlines(keepends=True)[1:]
        listed, whole = {}, True
        for line in lines:
            entry = _entry(line)
            whole = whole and entry is not None
            if entry is not None and _is_inside(entry[0]):
                listed.setdefault(entry[0], set()).update(entry[1])
        damaged = any(_entry(line) is None and line.endswith(b"\n") for line in lines)
        if damaged:  # what such a line named is known by its name; one that was cut off names what was not yet written
            listed |= {name: set() for name in files_in(self.path) if name not in listed and self._is_adopted(name)}
        if not whole:
            self._write_mark(listed)
        return listed

    def _write_mark(self, listed: Mapping[str, Iterable[str]]) -> None:
        from edm_unified import __version__

        head = {"kind": self.kind.name, "command": self.kind.command, "version": __version__}
        lines = [json.dumps(head) + "\n"]
        for name, digests in listed.items():
            lines += [_line(name, digest) for digest in sorted(digests)] or [_line(name, None)]
        write_atomic(self.path / MARK, "".join(lines))

    def _is_adopted(self, name: str) -> bool:
        if name == "comparison.json":  # of a directory that was copied without its mark
            return {"command", "cells"} <= set(json_object(self.path / name))
        if self.kind.adopted.fullmatch(name) is None:
            return False
        return not name.startswith("recipes/") or is_resolved_recipe(self.path / name)

    def own(self, name: str, digest: str | None = None) -> None:
        """List ``name``, a file or a folder, as ours, before it is written; with the SHA-256 that it will have."""
        known = self._listed.get(name)
        if known is not None and (digest is None or digest in known):
            return
        append(self.path / MARK, _line(name, digest))
        self._listed.setdefault(name, set()).update(() if digest is None else (digest,))

    def owns(self, name: str) -> bool:
        """Whether ``name``, or a folder that it is in, is listed as ours."""
        return any(str(part) in self._listed for part in (PurePosixPath(name), *PurePosixPath(name).parents))

    def is_sealed(self, name: str) -> bool:
        """Whether it is known what the file was when it was written; of earlier versions it is not."""
        return bool(self._listed.get(name))

    # -- files ---------------------------------------------------------------------------------------------------------

    def write(self, name: str, content: bytes | str, sealed: bool = False) -> Path:
        """Write a whole file, atomically; ``sealed`` where a number will depend on it. Returns its path.

        Raises ``ValueError`` where a file of that name is there that is not ours, and leaves it.
        """
        return self.write_together({name: content}, sealed=sealed)[0]

    def write_together(
        self, files: Mapping[str, bytes | str], gone: Iterable[str] = (), sealed: bool = False
    ) -> list[Path]:
        """Write files that belong together, so that a new one never stands beside an old one; ``gone`` are removed.

        All are written under temporary names first: a full disk leaves the old ones as they were. Then the old ones go,
        and the new ones get their names, in the order of ``files``. A kill between leaves some of the new files alone.
        """
        paths = [self.path / name for name in files]
        for name in (*files, *gone):
            self.check_ours(name)
        staged: list[Path] = []
        try:
            for content, path in zip(files.values(), paths, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                staged.append(stage(path, content))
            for name, content in files.items():  # listed before they are there: none of ours is ever unknown
                self.own(name, _digest(content) if sealed else None)
            if len(files) > 1 or gone:
                for name in (*reversed(list(files)), *gone):
                    (self.path / name).unlink(missing_ok=True)
            for temporary, path in zip(staged, paths, strict=True):
                os.replace(temporary, path)
        except BaseException:
            for temporary in staged:
                temporary.unlink(missing_ok=True)
            raise
        return paths

    def check_ours(self, name: str) -> None:
        """Raise ``ValueError`` where writing ``name`` would replace a file of somebody else, or lead out by a link."""
        path = self.path / name
        for folder in (self.path / part for part in PurePosixPath(name).parents):
            if folder != self.path and os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode):
                raise ValueError(f"{folder}: is a link, or no directory, and is left alone; name another with --out")
        if os.path.lexists(path) and not (self.owns(name) and stat.S_ISREG(path.lstat().st_mode)):
            raise ValueError(
                f"{path}: was not written by `{self.kind.command}` and is left alone; move it, or name another "
                "directory with --out"
            )

    def read(self, name: str) -> bytes | None:
        """The content of a file of ours, None where there is none. Raises :class:`DamagedError` where it is changed."""
        path = self.path / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DamagedError(f"{path}: cannot be read ({error.strerror})") from None
        known = self._listed.get(name)
        if known is None:
            raise DamagedError(f"{path}: was not written by `{self.kind.command}`")
        if known and _digest(content) not in known:
            raise DamagedError(f"{path}: was changed after it was written (another SHA-256)")
        return content

    def set_aside(self, name: str) -> Path:
        """Rename a damaged file to ``NAME.damaged``, or ``NAME.damaged-2``, …, which is returned."""
        number, path = 1, self.path / name
        while os.path.lexists(aside := path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))):
            number += 1
        self.own(aside.relative_to(self.path).as_posix())
        os.replace(path, aside)
        return aside

    def remove(self, name: str) -> None:
        """Remove a file of ours. One that is not, one that is not regular, and one behind a link stays."""
        path = self.path / name
        if self.owns(name) and self.kind.files.fullmatch(name) and name in files_in(self.path, under=name):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every file that is listed as ours, and then the folders that held nothing else: for ``--fresh``."""
        emptied: set[PurePosixPath] = set()
        for name in list(files_in(self.path)):
            if self.owns(name) and self.kind.files.fullmatch(name):
                (self.path / name).unlink(missing_ok=True)
                emptied.update(PurePosixPath(name).parents)
        for folder in sorted(emptied - {PurePosixPath(".")}, key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):  # it holds something else
                (self.path / folder).rmdir()
        self._listed = {}
        self._write_mark({})


def _digest(content: bytes | str) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _line(name: str, digest: str | None) -> str:
    return json.dumps({"file": name} | ({} if digest is None else {"sha256": digest})) + "\n"


def _entry(line: bytes) -> tuple[str, set[str]] | None:
    """File and digest of a line of the mark; None where it is damaged, or was cut off."""
    try:
        found = json.loads(line)
        name, digest = found["file"], found.get("sha256")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(name, str) or not isinstance(digest, str | None):
        return None
    return name, set() if digest is None else {digest}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
