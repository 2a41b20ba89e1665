"""Zips of pictures, read without unpacking: indexed by their directory, each picture read when it is asked for."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path, PurePath
from typing import Literal

from edm_unified.components.component import component

from .classes import by_name
from .dataset import BYTES, Dataset
from .errors import RefusedError, readable
from .fields import Channels, Size, existing
from .formats import is_image
from .images import Decoding
from .labels import EDM_LABELS, SHARDED, edm_labels
from .rows import pictures_in_memory_or_not

MOST_MEMBER = 2**30
"""Bytes of one member of an archive, unpacked."""


@component
class ImageZip:
    """A zip of pictures, as EDM's and StyleGAN's ``dataset_tool.py`` write it; it is read without unpacking it.

    The classes are those of ``dataset.json`` in it, else the first level of folders, where every picture lies in one.
    ``size``, ``channels`` and ``in_memory`` as for image_folder.
    """

    path: str
    size: Size | None = None
    channels: Channels = 3
    in_memory: bool | None = None
    kind: Literal["image_zip"] = "image_zip"

    def load(self) -> Dataset:
        """Read the directory of the archive. Raises ValueError naming the archive and the member that is at fault."""
        file = existing(self.path)
        with readable(f"path: {file}", "zip archive"):
            pictures = _ZipPictures(file)
        names, notes = pictures.names, []
        classes = None
        if pictures.labels is not None:
            classes = edm_labels(pictures.labels, names, f"path: {file}: {EDM_LABELS}")
            notes.append(
                "no classes, as dataset.json says" if classes is None else "the classes are those of dataset.json"
            )
        elif all(re.fullmatch(SHARDED, name) for name in names):
            notes.append("no classes: there is no dataset.json in the archive")
        elif all("/" in name for name in names):
            parts = [name.split("/")[:-1] for name in names]
            depth = int(len({part[0] for part in parts}) == 1)  # of a zip of one folder, its folders are the classes
            classes = by_name([part[depth] for part in parts]) if all(len(part) > depth for part in parts) else None
        stored = pictures_in_memory_or_not(pictures, Decoding(self.size, self.channels), self.in_memory)
        labels, known = (None, ()) if classes is None else classes[:2]
        titles = tuple(PurePath(name).with_suffix("").as_posix() for name in names)
        return Dataset(stored, labels, file.stem, BYTES, known, notes=tuple(notes), names=titles)


class _ZipPictures:
    """The pictures of a zip, in the order of their names."""

    def __init__(self, file: Path) -> None:
        self._file, self._archive = file, zipfile.ZipFile(file)
        members = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}
        self.names = sorted(name for name in members if is_image(name) and not name.startswith("__MACOSX/"))
        self._members = [members[name] for name in self.names]
        if not self.names:
            raise RefusedError(f"path: {file}: no picture in this archive; it has {', '.join(sorted(members)[:3])}")
        found = members.get(EDM_LABELS)
        self.labels = None if found is None else self._read(found)

    def __len__(self) -> int:
        return len(self._members)

    def where(self, i: int) -> str:
        return f"path: {self._file}: {self.names[i]}"

    def open(self, i: int) -> io.BytesIO:
        with readable(self.where(i), "member of the archive", "; make the archive again"):
            return io.BytesIO(self._read(self._members[i]))

    def page(self, i: int) -> None:
        return None

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > MOST_MEMBER:
            raise RefusedError(f"path: {self._file}: {info.filename}: says {info.file_size:,} bytes, more than 1 GiB")
        with self._archive.open(info) as opened:
            content = opened.read(info.file_size + 1)  # zipfile compares the checksum at the end
        if len(content) != info.file_size:
            raise RefusedError(f"path: {self._file}: {info.filename}: is longer or shorter than the archive says")
        return content
