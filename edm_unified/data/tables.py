"""Tables with a column of samples and perhaps one of classes: Parquet files, as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edm_unified.components import paths
from edm_unified.components.component import choice, component

from .classes import Classes, by_name, whole_labels
from .dataset import BYTES, Dataset
from .errors import needs, readable
from .fields import Channels, Extent, Size, Standardise
from .images import Decoding
from .measured import check_scale, described
from .rows import pictures_in_memory_or_not

IMAGE_COLUMNS = ("image", "img", "images", "picture", "jpg", "png", "pixels", "x", "data")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "category", "target", "y")
_CACHED = 512 * 2**20
"""Bytes of row groups that are kept once they are read."""


@component
class Parquet:
    """A Parquet file, or a folder of them, with a column of encoded pictures or of arrays; read group by group.

    ``split``: of a folder, the files whose names begin with it (``train``, as in ``train-00000-of-00002.parquet``).
    ``image``: the column of samples; null: the first of the usual names (image, img, …). Pictures are bytes, alone or
    with a path beside them as `datasets` stores them; arrays are lists of numbers, of any depth, all of one shape.
    ``label``: the column of classes, numbers or words; null: the first of the usual names, if there is one; ``none``:
    no classes. The names of the classes are those that `datasets` stores. ``size``, ``channels`` and ``in_memory`` as
    for image_folder; ``range`` and ``standardise`` as for arrays. Needs the extra formats:
    pip install 'edm_unified[formats]'.
    """

    path: str
    split: str | None = None
    image: str | None = None
    label: str | None = None
    size: Size | None = None
    channels: Channels = 3
    in_memory: bool | None = None
    range: Extent | None = None
    standardise: Standardise | None = None
    kind: Literal["parquet"] = "parquet"

    def __post_init__(self) -> None:
        check_scale(self.range, self.standardise)

    def load(self) -> Dataset:
        """Read the footers. Raises ValueError naming the file, and the column that is not there."""
        place = paths.regular(paths.expanded(self.path, "path"), f"path: {self.path}")
        if not place.exists():
            raise ValueError(f"path: {self.path}: no such file or folder")
        needs("pyarrow", "a Parquet table")
        table = _Groups(_files(place, self.split, self.path))
        column = _column("image", self.image, IMAGE_COLUMNS, table.columns, self.path)
        label = None if self.label == "none" else self.label
        if label is None and self.label is None:
            label = next((name for name in LABEL_COLUMNS if name in table.columns and name != column), None)
        classes = None if label is None else self._classes(table, label)
        labels, known = (None, ()) if classes is None else classes[:2]
        name = place.stem if place.is_file() else place.resolve().name
        if table.is_encoded(column):
            for field in ("range", "standardise"):
                if getattr(self, field) is not None:
                    raise ValueError(f"{field}: belongs to arrays, and '{column}' holds pictures; leave it out")
            pictures = _ColumnPictures(table, column)
            stored = pictures_in_memory_or_not(pictures, Decoding(self.size, self.channels), self.in_memory)
            return Dataset(stored, labels, name, BYTES, known)
        array = _ColumnArray(table, column)
        return described(array, f"path: {self.path}: '{column}'", self.range, self.standardise).dataset(
            labels, name, known
        )

    def _classes(self, table: _Groups, label: str) -> Classes:
        choice("label", label, table.columns)
        where = f"label: {self.path} ({label})"
        values = table.whole_column(label)
        if any(value is None for value in values):
            raise ValueError(f"{where}: has no class for sample {values.index(None)}")
        names = table.names_of(label)
        if all(isinstance(value, str) for value in values):
            return by_name(values)
        labels = whole_labels(np.asarray(values), len(values), f"{self.path} ({label})")
        return Classes(labels, names or tuple(map(str, range(int(labels.max()) + 1))), numbered=not names)


def _column(field: str, given: str | None, usual: Sequence[str], columns: Sequence[str], path: str) -> str:
    if given is not None:
        choice(field, given, columns)
        return given
    found = next((name for name in usual if name in columns), None)
    if found is None:
        raise ValueError(f"{field}: {path} has none of the usual columns; name one of {', '.join(columns[:12])}")
    return found


def _files(place: Path, split: str | None, path: str) -> list[Path]:
    if place.is_file():
        if split is not None:
            raise ValueError(f"split: {path} is one file; leave it out")
        return [place]
    folders = [place, place / "data"]
    found = sorted(file for folder in folders if folder.is_dir() for file in folder.glob("*.parquet"))
    splits = sorted({file.name.partition("-")[0].partition(".")[0] for file in found})
    if not found:
        raise ValueError(f"path: {path}: no .parquet in this folder")
    usual = [name for name in splits if name in ("train", "test", "validation", "valid", "val")]
    if split is None and len(usual) > 1:
        raise ValueError(f"split: {path} has {', '.join(splits)}; name one")
    if split is not None:
        choice("split", split, splits)
        found = [file for file in found if file.name.partition("-")[0].partition(".")[0] == split]
    return found


class _Groups:
    """The row groups of Parquet files as one table; those read last are kept, up to ``_CACHED`` bytes."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow.parquet as pq

        self._groups: list[tuple[Any, int, Path]] = []
        lengths = []
        first = None
        for file in files:
            with readable(f"path: {file}", "Parquet table", "; copy it again"):
                opened = pq.ParquetFile(file, memory_map=True)
            first = first or opened
            if opened.schema_arrow.names != first.schema_arrow.names:
                raise ValueError(f"path: {file}: its columns are not those of {files[0].name}; read one of them alone")
            for group in range(opened.num_row_groups):
                lengths.append(opened.metadata.row_group(group).num_rows)
                self._groups.append((opened, group, file))
        assert first is not None
        self._schema = first.schema_arrow
        self.columns: list[str] = list(self._schema.names)
        self._starts = np.cumsum([0, *lengths])
        self._kept: OrderedDict[tuple[int, str], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        if not len(self):
            raise ValueError(f"path: {files[0]}: holds no sample")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, i: int) -> tuple[int, int]:
        """The group that sample ``i`` is in, and its place there."""
        group = int(np.searchsorted(self._starts, i, "right")) - 1
        return group, i - int(self._starts[group])

    def where(self, i: int) -> str:
        group, row = self.place(i)
        return f"path: {self._groups[group][2]}: row {row} of group {self._groups[group][1]}"

    def group(self, group: int, column: str) -> Any:
        """A column of one row group, as one Arrow array."""
        with self._lock:  # a file is read by one thread at a time, too
            found = self._kept.pop((group, column), None)
            if found is None:
                opened, number, file = self._groups[group]
                with readable(f"path: {file}: row group {number}", "part of a Parquet table", "; copy it again"):
                    read = opened.read_row_group(number, columns=[column], use_threads=False)
                    array = read.column(column).combine_chunks()
                    array = array.chunk(0) if hasattr(array, "chunk") else array
                    array = getattr(array, "storage", array)
                found = array, int(array.nbytes)
            self._kept[group, column] = found
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > _CACHED:
                self._kept.popitem(last=False)
            return found[0]

    def whole_column(self, column: str) -> list[Any]:
        return [value for group in range(len(self._groups)) for value in self.group(group, column).to_pylist()]

    def is_encoded(self, column: str) -> bool:
        """Whether a column holds bytes, alone or beside a path."""
        import pyarrow as pa

        kind = self._schema.field(column).type
        if pa.types.is_struct(kind):
            return "bytes" in [kind.field(i).name for i in range(kind.num_fields)]
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def names_of(self, column: str) -> tuple[str, ...]:
        """The names of the classes that `datasets` has stored with the table."""
        try:
            about = json.loads((self._schema.metadata or {})[b"huggingface"])
            return tuple(map(str, about["info"]["features"][column]["names"]))
        except (KeyError, TypeError, ValueError):
            return ()


class _ColumnPictures:
    """Encoded pictures in a column."""

    def __init__(self, table: _Groups, column: str) -> None:
        self._table, self._column = table, column

    def __len__(self) -> int:
        return len(self._table)

    def where(self, i: int) -> str:
        return f"{self._table.where(i)}: '{self._column}'"

    def open(self, i: int) -> io.BytesIO:
        group, row = self._table.place(i)
        value = self._table.group(group, self._column)[row].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes):
            raise ValueError(f"{self.where(i)}: holds no picture; those that are only named by a path are not read")
        return io.BytesIO(value)

    def page(self, i: int) -> None:
        return None


class _ColumnArray:
    """A column of lists of numbers, all of the shape of the first, as one array."""

    def __init__(self, table: _Groups, column: str) -> None:
        self._table, self._column = table, column
        first = np.asarray(table.group(0, column)[0].as_py())
        if first.dtype.kind not in "fiub" or first.ndim == 0:
            raise ValueError(
                f"image: '{column}' holds {first.dtype}, neither pictures nor lists of numbers; name another"
            )
        self.dtype: np.dtype[Any] = np.dtype(self._leaf(table.group(0, column))[0].type.to_pandas_dtype())
        self.shape = (len(table), *first.shape)

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = np.arange(len(self._table))[rows] if isinstance(rows, slice) else np.asarray(rows)
        found = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        places = [self._table.place(int(i)) for i in chosen]
        for group in dict.fromkeys(group for group, _ in places):
            here = [k for k, place in enumerate(places) if place[0] == group]
            found[here] = self._group(group)[[places[k][1] for k in here]]
        return found

    def _group(self, group: int) -> np.ndarray:
        array = self._table.group(group, self._column)
        leaf, lengths = self._leaf(array)
        shape = self.shape[1:]
        start = int(self._table._starts[group])
        uneven = len(lengths) != len(shape) or any(
            len(found) and not bool((found == side).all()) for found, side in zip(lengths, shape, strict=True)
        )
        if leaf.null_count or uneven or len(leaf) != len(array) * int(np.prod(shape)):
            raise ValueError(f"{self._table.where(start)}: '{self._column}': its lists are not all of shape {shape}")
        return leaf.to_numpy(zero_copy_only=False).reshape(len(array), *shape)

    def _leaf(self, array: Any) -> tuple[Any, list[np.ndarray]]:
        """The numbers of nested lists, and the lengths of the lists at each depth."""
        import pyarrow as pa

        lengths = []
        while hasattr(array, "flatten") and hasattr(array.type, "value_type") and pa.types.is_nested(array.type):
            lengths.append(array.value_lengths().to_numpy(zero_copy_only=False))
            array = array.flatten()
            array = getattr(array, "storage", array)
        return array, lengths
