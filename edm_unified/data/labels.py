"""Where the classes of files come from: their folders, EDM's ``dataset.json``, a table, or a pattern in their names.

A source is asked ``read(top, names)``: ``names`` are the files, as paths from the folder ``top`` with ``/`` between,
and the answer are their :class:`~edm_unified.data.classes.Classes`, or None where there are none.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from edm_unified.components import paths
from edm_unified.components.component import component

from .classes import MOST_CLASSES, Classes, by_name, numbers

EDM_LABELS = "dataset.json"
METADATA = ("metadata.jsonl", "metadata.csv")
FILES = ("file_name", "file", "filename", "image", "image_id", "path", "name", "id")
"""Names of the column of files, the first that a table has."""
LABELS = ("label", "labels", "class", "classes", "category", "target")


@component
class FolderNames:
    """The class of a file is the first folder that it lies in: ``apple/1.png`` is an apple.

    A folder with nothing in it is a class without samples.
    """

    kind: Literal["folders"] = "folders"

    def read(self, top: Path, names: Sequence[str], folders: Iterable[str] = ()) -> Classes | None:
        """None where a file lies in no folder. ``folders``: classes that have no file among ``names``."""
        within = [PurePosixPath(name).parts[:-1] for name in names]
        return by_name([parts[0] for parts in within], folders) if all(within) else None


@component
class DatasetJson:
    """``dataset.json``, as the tools of StyleGAN and EDM write it: {"labels": [["00000/img00000000.png", 3], …]}.

    The classes are its numbers; a list of zeros and ones in the place of a number is several classes of one sample.
    """

    kind: Literal["dataset_json"] = "dataset_json"

    def read(self, top: Path, names: Sequence[str]) -> Classes | None:
        """None where it says that there are no labels. Raises ValueError naming what is wrong in it."""
        file = top / EDM_LABELS
        if not file.is_file():
            raise ValueError(f"labels: {file}: no such file")
        return edm_labels(file.read_bytes(), names, f"labels: {file}")


@component
class LabelTable:
    """A table with a row for each file: CSV, TSV, or JSON lines such as the ``metadata.jsonl`` of an imagefolder.

    ``path``: the table; null: metadata.jsonl or metadata.csv in the folder. ``file`` and ``label``: its columns; null:
    the first of the usual names (file_name, file, …; label, class, …), or the first two where a CSV has no names. Files
    are paths from the folder or from the table, or bare names, also without their ending, where no two are the same.
    Several classes of one file: a list in JSON, or in a CSV with the ``separator`` between, e.g. ``;``. Words are the
    names of the classes, and so are numbers.
    """

    path: str | None = None
    file: str | None = None
    label: str | None = None
    separator: str | None = None
    kind: Literal["table"] = "table"

    def read(self, top: Path, names: Sequence[str]) -> Classes | None:
        """Raises ValueError naming the table, and the column or the file that is not in it."""
        table = self._table(top)
        where = f"labels: {table}"
        rows = _json_rows(table, where) if table.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(table, where)
        resolve = _resolver(top, table, names)
        file, label = self._columns(rows, where)
        values: dict[int, str | tuple[str, ...]] = {}
        seen: dict[str, None] = {}  # also of files that are not there, so that the classes of every part are the same
        for row in rows:
            if row.get(label) in (None, ""):
                continue
            value, at = self._value(row[label], where), resolve(str(row.get(file)))
            seen.update(dict.fromkeys((value,) if isinstance(value, str) else value))
            if at is not None:
                values[at] = value
        left = [name for i, name in enumerate(names) if i not in values]
        if left:
            raise ValueError(f"{where}: has no label for {len(left):,} of {len(names):,} files, the first {left[0]}")
        return by_name([values[i] for i in range(len(names))], seen)

    def _table(self, top: Path) -> Path:
        if self.path is not None:
            table = paths.regular(paths.expanded(self.path, "labels.path"), f"labels.path: {self.path}")
            if not table.is_file():
                raise ValueError(f"labels.path: {self.path}: no such file")
            return table
        found = _metadata(top)
        if found is None:
            raise ValueError(f"labels: no {' or '.join(METADATA)} in {top}; name the table with labels.path")
        return found

    def _columns(self, rows: Sequence[Mapping[str, Any]], where: str) -> tuple[str, str]:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        chosen = []
        for field, given, usual in (("file", self.file, FILES), ("label", self.label, LABELS)):
            name = given or next((name for name in usual if name in columns), None)
            if name is None or name not in columns:
                what = f"no column {name!r}" if name else f"no column of the {field}s"
                raise ValueError(f"{where}: {what}; set labels.{field}, it has {', '.join(columns[:12]) or 'none'}")
            chosen.append(name)
        return chosen[0], chosen[1]

    def _value(self, cell: Any, where: str) -> str | tuple[str, ...]:
        if isinstance(cell, list) and all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in cell):
            return tuple(map(str, cell))
        if isinstance(cell, str) and self.separator:
            return tuple(part.strip() for part in cell.split(self.separator) if part.strip())
        if isinstance(cell, (str, int)) and not isinstance(cell, bool):
            return str(cell)
        raise ValueError(f"{where}: a label must be a word, a whole number or a list of them, got {str(cell)[:40]!r}")


@component
class Pattern:
    r"""A regular expression that finds the class in the path of a file, seen from the folder.

    The class is the group named ``class``, or the first group, or all that is found: ``'^([a-z]+)_'`` takes ``cat`` of
    ``cat_12.jpg``, ``'class=(\d+)'`` takes ``3`` of ``a/class=3/x.png``.
    """

    pattern: str
    kind: Literal["pattern"] = "pattern"

    def __post_init__(self) -> None:
        try:
            re.compile(self._python)
        except re.error as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression ({error})") from None

    @property
    def _python(self) -> str:
        return self.pattern.replace("(?P<class>", "(?P<class_>")  # a word that Python keeps for itself

    def read(self, top: Path, names: Sequence[str]) -> Classes | None:
        """Raises ValueError naming the first file that it does not fit."""
        expression, values = re.compile(self._python), []
        for name in names:
            match = expression.search(name)
            if match is None:
                raise ValueError(f"labels.pattern: {self.pattern!r} is not found in {name}")
            group: str | int = "class_" if "class_" in expression.groupindex else min(expression.groups, 1)
            value = match[group]
            if not value:
                raise ValueError(f"labels.pattern: {self.pattern!r} finds no text in {name}")
            values.append(value)
        return by_name(values)


@component
class Unlabelled:
    """No classes, whatever folders there are."""

    kind: Literal["none"] = "none"

    def read(self, top: Path, names: Sequence[str]) -> Classes | None:
        """None."""
        return None


AnyLabels = FolderNames | DatasetJson | LabelTable | Pattern | Unlabelled


def of_files(
    source: AnyLabels | None, top: Path, root: Path, names: Sequence[str], folders: Iterable[str] = ()
) -> tuple[Classes | None, tuple[str, ...]]:
    """The classes of files ``names``, paths from ``top``, and notes on them.

    ``source`` None: what ``top`` brings along, or ``root`` that it lies in: dataset.json, or metadata with labels, or
    else its folders. ``folders``: of these, the classes without samples. Raises ``ValueError``, begun with ``labels``.
    """
    for base in dict.fromkeys((top, root)):
        asked = _brought(base) if source is None else source
        if asked is None or (isinstance(asked, DatasetJson) and not (base / EDM_LABELS).is_file() and base != root):
            continue
        if isinstance(asked, LabelTable) and asked.path is None and base != root and _metadata(base) is None:
            continue
        if not isinstance(asked, DatasetJson | LabelTable):
            break
        prefix = "" if base == top else f"{top.relative_to(base).as_posix()}/"
        classes = asked.read(base, [prefix + name for name in names])
        file = EDM_LABELS if isinstance(asked, DatasetJson) else asked.path or str(_metadata(base))
        what = "no classes, as it says" if classes is None else "the classes are those of"
        return classes, () if source is not None else (f"{what} {Path(file).name}",)
    if isinstance(source, FolderNames | None):
        if source is None and all(re.fullmatch(SHARDED, name) for name in names):
            return None, (f"no classes: the folders are shards of EDM's tools, and there is no {EDM_LABELS}",)
        return FolderNames().read(top, names, folders), ()
    return source.read(top, names), ()


SHARDED = r"[0-9]{5}/img[0-9]{8}\.[a-z]+"


def _metadata(base: Path) -> Path | None:
    return next((base / name for name in METADATA if (base / name).is_file()), None)


def _brought(base: Path) -> DatasetJson | LabelTable | None:
    """The file with labels that lies in ``base``."""
    if (base / EDM_LABELS).is_file():
        return DatasetJson()
    table = _metadata(base)
    if table is None:
        return None
    where = f"labels: {table}"
    rows = _json_rows(table, where, 1) if table.suffix == ".jsonl" else _csv_rows(table, where)
    return LabelTable() if rows and any(name in rows[0] for name in LABELS) else None


def edm_labels(content: bytes, names: Sequence[str], where: str) -> Classes | None:
    """The classes of files ``names`` in a ``dataset.json``; None where it has no labels.

    Raises ``ValueError``, begun with ``where``.
    """
    try:
        given = json.loads(content)["labels"]
        rows = None if given is None else dict(given)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f'{where}: must be {{"labels": [["file", class], …]}}, as the tools of EDM write it') from None
    if not rows:
        return None
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(f"{where}: has no label for {len(missing):,} of {len(names):,} files, the first {missing[0]}")
    every, values = list(rows.values()), [rows[name] for name in names]
    if all(type(value) is int and 0 <= value < MOST_CLASSES for value in every):
        return Classes(torch.tensor(values), numbers(max(every) + 1), numbered=True)
    width = len(every[0]) if isinstance(every[0], list) else 0
    if width and all(isinstance(v, list) and len(v) == width and all(x in (0, 1) for x in v) for v in every):
        return Classes(torch.tensor(values) == 1, numbers(width), numbered=True)
    strange = next((v for v in every if type(v) is not int or not 0 <= v < MOST_CLASSES), every[0])
    raise ValueError(
        f"{where}: a label must be a whole number from 0, or as many zeros and ones for all, got {str(strange)[:40]}"
    )


def _json_rows(table: Path, where: str, most: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        with table.open(encoding="utf-8-sig") as lines:
            for text in filter(str.strip, lines):
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise ValueError("not a mapping")
                rows.append(row)
                if len(rows) == most:
                    break
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: row {len(rows) + 1}: not a line of JSON ({str(error)[:60]})") from None
    return rows


def _csv_rows(table: Path, where: str) -> list[dict[str, Any]]:
    """The rows by the names of the columns; ``file`` and ``label`` where the first row has none of the usual names."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            rows = [row for row in csv.reader(opened, delimiter="\t" if table.suffix.lower() == ".tsv" else ",") if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{where}: not a readable table ({str(error)[:60]})") from None
    if not rows:
        return []
    head = [cell.strip() for cell in rows[0]]
    if len(head) == 2 and not {*FILES, *LABELS} & set(head) and "." in head[0]:  # a file name: there is no head
        return [{"file": row[0], "label": row[1]} for row in rows if len(row) == 2]
    return [dict(zip(head, row, strict=False)) for row in rows[1:]]


def _resolver(top: Path, table: Path, names: Sequence[str]) -> Callable[[str], int | None]:
    """From what a table calls a file to its place in ``names``, which are paths from ``top``."""
    places = {name: i for i, name in enumerate(names)}
    for key in (lambda path: path.name, lambda path: path.with_suffix("").as_posix(), lambda path: path.stem):
        short = [key(PurePosixPath(name)) for name in names]
        times = Counter(short)
        for i, word in enumerate(short):
            if times[word] == 1:
                places.setdefault(word, i)
    here, there = top.resolve(), table.parent.resolve()
    below = f"{there.relative_to(here).as_posix()}/" if here in there.parents else ""
    above = f"{here.relative_to(there).as_posix()}/" if there in here.parents else ""

    def resolve(cell: str) -> int | None:
        word = PurePosixPath(cell.strip().replace("\\", "/")).as_posix()
        tried = (places.get(name) for name in (below + word, word.removeprefix(above), word))
        return next((place for place in tried if place is not None), None)

    return resolve
