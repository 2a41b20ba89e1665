"""The kinds of directories of results, a run, a comparison and samples: how each is recognised, and where one may be.

A directory is known by its mark (:mod:`edm_unified.components.outputs`), or by the files of a version before the mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm_unified.components.files import LOCK, is_temporary

MARK = ".edm-unified.jsonl"
"""The file that marks a directory as ours."""

NOBODYS = frozenset({MARK, LOCK, ".DS_Store", "Thumbs.db", "desktop.ini"})
"""What may lie in a directory that is empty for all that: the mark and the lock, and what file managers leave."""

_LARGEST = 64 * 2**20
"""Bytes of a mark, or of what an unmarked directory is known by, that are read at most."""


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


def json_object(path: Path, first_line: bool = False) -> dict[str, Any]:
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
    return "recipe" in json_object(directory / "run.json")


def _was_comparison(directory: Path) -> bool:
    if {"cell", "metric", "budget", "value"} <= set(json_object(directory / "records.jsonl", first_line=True)):
        return True
    folders = ("reference", "samples", "recipes", "figures")  # made by a first cell that was cut off
    if not all((directory / name).is_dir() for name in folders):
        return False
    return all(
        COMPARISON.adopted.fullmatch(name) or is_old_temporary(name, COMPARISON) or name in NOBODYS
        for name in files_in(directory)
    )


def _was_samples(directory: Path) -> bool:
    about = json_object(directory / "environment.json")
    return {"nfe", "seed", "torch"} <= set(about) and str(about.get("command", "")).startswith("edm-unified sample")


_WEIGHTS = r"(model|ema(-[0-9.e-]+)?(-[0-9a-f]{8})?)\.safetensors"
_STATE = r"state/(__[0-9]+_[0-9]+\.distcp|\.metadata|sha256\.json)"
_IN_RUN = (
    r"(run\.json|recipe\.yaml|log\.jsonl|excess\.jsonl|report\.html|samples/[0-9]{12}\.(npy|png)"
    r"|snapshots/[0-9]{12}\.safetensors|tensorboard/events\.out\.tfevents\.[^/]+"
    rf"|checkpoints/\.?[0-9]{{12}}/({_WEIGHTS}|data\.safetensors|checkpoint\.json|recipe\.yaml|{_STATE}))"
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
    marked = json_object(directory / MARK, first_line=True).get("kind")
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
    if found is None and not is_empty(directory):
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
        if json_object(parent / MARK, first_line=True).get("kind") == RUN.name or RUN.known(parent):
            raise ValueError(f"{label}: is inside the run {parent}; name a place outside it with --out")


def is_empty(directory: Path) -> bool:
    """Whether nothing of anybody's is there; a lock with something in it is no lock of ours.

    The first thing that a command writes is the mark: one that was killed meanwhile leaves a temporary file of it.
    """
    try:
        names = [name for name in os.listdir(directory) if not is_temporary(name, MARK)]
    except OSError as error:
        raise ValueError(f"{directory}: {error.strerror}; name another directory with --out") from None
    lock = directory / LOCK
    return NOBODYS.issuperset(names) and (LOCK not in names or lock.is_symlink() or lock.stat().st_size == 0)


def folders_in(directory: Path) -> Iterator[str]:
    """Folders in a directory, links not followed."""
    for place, names, _ in os.walk(directory):
        for name in names:
            path = Path(place) / name
            if not path.is_symlink():
                yield path.relative_to(directory).as_posix()


def files_in(directory: Path, under: str = "") -> Iterator[str]:
    """Regular files in a directory, by name; links are neither named nor followed. ``under``: that one alone."""
    for place, _, names in os.walk(directory):
        for name in names:
            path = Path(place) / name
            found = path.relative_to(directory).as_posix()
            if (not under or found == under) and stat.S_ISREG(path.lstat().st_mode):
                yield found


def is_old_temporary(name: str, kind: Kind) -> bool:
    """Whether a version before the mark wrote a file of its own under this name first, and was killed: .NAME.RANDOM"""
    folder, slash, last = name.rpartition("/")
    match = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}", last)
    return match is not None and kind.adopted.fullmatch(folder + slash + match[1]) is not None


def is_resolved_recipe(path: Path) -> bool:
    """Whether a file in ``recipes/`` begins as those of a comparison do: ``# LABEL``, of which its name is made."""
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        head, second = file.readline(1024).rstrip("\n"), file.readline(1024)
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in head.removeprefix("# "))
        return head.startswith("# ") and f"{name}.yaml" == path.name and second.startswith("title:")
    return False
