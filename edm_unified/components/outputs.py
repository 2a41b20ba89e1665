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
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from edm_unified.components.files import LOCK, Lock, append, is_temporary, make_directory, stage, sweep, write_atomic

MARK = ".edm-unified.jsonl"
"""The file that marks a directory as ours."""

NOBODYS = frozenset({MARK, LOCK, ".DS_Store", "Thumbs.db", "desktop.ini"})
"""What may lie in a directory that is empty for all that: the mark and the lock, and what file managers leave."""

_LARGEST = 64 * 2**20
"""Bytes of a mark, or of what an unmarked directory is known by, that are read at most."""


class DamagedError(ValueError):
    """A file that is there, and is not what was written."""


@dataclass(frozen=True)
class Kind:
    """A kind of directory.

    ``files`` matches the names, with ``/`` between folders, of all that its command may write: ``--fresh`` removes
    nothing else, though it were listed. ``adopted`` matches those that versions before the mark wrote; ``known`` says
    whether an unmarked directory was written by one of them.
    """

    name: str
    command: str
    files: re.Pattern[str]
    adopted: re.Pattern[str]
    known: Callable[[Path], bool]


def _json(path: Path, first_line: bool = False) -> dict[str, Any]:
    """The object in a file, or in its first line; an empty one where there is none."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return {}
        with open(path, "rb") as file:
            found = json.loads(file.readline(_LARGEST) if first_line else file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _was_run(directory: Path) -> bool:
    return "recipe" in _json(directory / "run.json")


def _was_comparison(directory: Path) -> bool:
    if {"cell", "metric", "budget", "value"} <= set(_json(directory / "records.jsonl", first_line=True)):
        return True
    folders = ("reference", "samples", "recipes", "figures")  # made by a first cell that was cut off
    if not all((directory / name).is_dir() for name in folders):
        return False
    return all(
        COMPARISON.adopted.fullmatch(name) or _is_old_temporary(name, COMPARISON) or name in NOBODYS
        for name in _files(directory)
    )


def _was_samples(directory: Path) -> bool:
    about = _json(directory / "environment.json")
    return {"nfe", "seed", "torch"} <= set(about) and str(about.get("command", "")).startswith("edm-unified sample")


_WEIGHTS = r"(model|ema(-[0-9.e-]+)?(-[0-9a-f]{8})?)\.safetensors"
_STATE = r"state/(__[0-9]+_[0-9]+\.distcp|\.metadata|sha256\.json)"
_IN_RUN = (
    r"(run\.json|recipe\.yaml|log\.jsonl|excess\.jsonl|report\.html|samples/[0-9]{12}\.(npy|png)"
    r"|snapshots/[0-9]{12}\.safetensors|tensorboard/events\.out\.tfevents\.[^/]+"
    rf"|checkpoints/\.?[0-9]{{12}}/({_WEIGHTS}|checkpoint\.json|recipe\.yaml|{_STATE}))"
)
_IN_COMPARISON = (
    r"(records\.jsonl|environment\.json|commands\.txt|report\.html|samples/[0-9a-f]{12}\.npy"
    r"|reference/([0-9a-f]{12}|shown-[^/]+)\.npy"
)
_SET_ASIDE = r"(\.damaged(-[0-9]+)?)?"

RUN = Kind("run", "edm-unified train", re.compile(_IN_RUN + _SET_ASIDE), re.compile(_IN_RUN), _was_run)
COMPARISON = Kind(
    "comparison",
    "edm-unified compare",
    re.compile(_IN_COMPARISON + r"|comparison\.json|recipes/[^/]+\.yaml|figures/[^/]+\.png)" + _SET_ASIDE),
    re.compile(
        _IN_COMPARISON + r"|recipes/[^/]+\.yaml|figures/(heatmap(-[0-9]+)?|error_vs_nfe|schedules|trajectories|levels"
        r"|samples)\.png)"
    ),
    _was_comparison,
)
SAMPLES = Kind(
    "samples",
    "edm-unified sample",
    re.compile(r"(samples\.npy|samples\.png|labels\.npy|recipe\.yaml|environment\.json)" + _SET_ASIDE),
    re.compile(r"samples\.npy|samples\.png|labels\.npy|recipe\.yaml|environment\.json"),
    _was_samples,
)
KINDS = (RUN, COMPARISON, SAMPLES)


def kind_of(directory: Path) -> Kind | None:
    """What a directory holds, by its mark, or else by what an earlier version left there; None where it is not ours."""
    marked = _json(directory / MARK, first_line=True).get("kind")
    by_mark = (kind for kind in KINDS if kind.name == marked)
    return next(by_mark, None) or next((kind for kind in KINDS if kind.known(directory)), None)


def check(directory: Path, kind: Kind) -> None:
    """Raise ``ValueError`` unless results of that kind may be written to ``directory``; nothing is written here.

    Refused are a file, a directory that is not empty and not of that kind, and one inside a run.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        raise ValueError(f"{directory}: is a file; name a directory with --out")
    check_outside_runs(directory, f"{directory}")
    if not directory.is_dir():
        return
    found = kind_of(directory)
    if found is None and not _is_empty(directory):
        raise ValueError(
            f"{directory}: is not empty, and not from `{kind.command}`; name a new or an empty directory with --out"
        )
    if found is not None and found is not kind:
        raise ValueError(f"{directory}: is from `{found.command}`; name another directory with --out")


def check_outside_runs(path: Path, label: str) -> None:
    """Raise ``ValueError``, begun with ``label``, where ``path`` is inside the directory of a run.

    All that is there belongs to the training, which may write a file of any name later on.
    """
    for parent in path.resolve().parents:
        if _json(parent / MARK, first_line=True).get("kind") == RUN.name or RUN.known(parent):
            raise ValueError(f"{label}: is inside the run {parent}; name a place outside it with --out")


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
            for folder in (self.path, *(self.path / name for name in _folders(self.path))):
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
        if self._new and not self._listed and _is_empty(self.path):
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
        if _json(mark, first_line=True).get("kind") != self.kind.name:
            if os.path.lexists(mark) and not stat.S_ISREG(mark.lstat().st_mode):
                raise ValueError(f"{mark}: is a link, or no regular file, and is left alone; remove it")
            for name in list(_files(self.path)):
                if _is_old_temporary(name, self.kind):
                    (self.path / name).unlink(missing_ok=True)
            listed: dict[str, set[str]] = {name: set() for name in _files(self.path) if self._is_adopted(name)}
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
            listed |= {name: set() for name in _files(self.path) if name not in listed and self._is_adopted(name)}
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
            return {"command", "cells"} <= set(_json(self.path / name))
        if self.kind.adopted.fullmatch(name) is None:
            return False
        return not name.startswith("recipes/") or _is_resolved_recipe(self.path / name)

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
        if self.owns(name) and self.kind.files.fullmatch(name) and name in _files(self.path, under=name):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every file that is listed as ours, and then the folders that held nothing else: for ``--fresh``."""
        emptied: set[PurePosixPath] = set()
        for name in list(_files(self.path)):
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


def _is_empty(directory: Path) -> bool:
    """Whether nothing of anybody's is there; a lock with something in it is no lock of ours.

    The first thing that a command writes is the mark: one that was killed meanwhile leaves a temporary file of it.
    """
    try:
        names = [name for name in os.listdir(directory) if not is_temporary(name, MARK)]
    except OSError as error:
        raise ValueError(f"{directory}: {error.strerror}; name another directory with --out") from None
    lock = directory / LOCK
    return NOBODYS.issuperset(names) and (LOCK not in names or lock.is_symlink() or lock.stat().st_size == 0)


def _folders(directory: Path) -> Iterator[str]:
    """Folders in a directory, links not followed."""
    for place, names, _ in os.walk(directory):
        for name in names:
            path = Path(place) / name
            if not path.is_symlink():
                yield path.relative_to(directory).as_posix()


def _files(directory: Path, under: str = "") -> Iterator[str]:
    """Regular files in a directory, by name; links are neither named nor followed. ``under``: that one alone."""
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place) / name
            found = path.relative_to(directory).as_posix()
            if (not under or found == under) and stat.S_ISREG(path.lstat().st_mode):
                yield found


def _is_old_temporary(name: str, kind: Kind) -> bool:
    """Whether a version before the mark wrote a file of its own under this name first, and was killed: .NAME.RANDOM"""
    folder, slash, last = name.rpartition("/")
    match = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", last)
    return match is not None and kind.adopted.fullmatch(folder + slash + match[1]) is not None


def _is_resolved_recipe(path: Path) -> bool:
    """Whether a file in ``recipes/`` begins as those of a comparison do: ``# LABEL``, of which its name is made."""
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        head, second = file.readline(1024).rstrip("\n"), file.readline(1024)
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in head.removeprefix("# "))
        return head.startswith("# ") and f"{name}.yaml" == path.name and second.startswith("title:")
    return False
