"""Read image, NumPy and safetensors files; errors are one line that names the file and what is wrong with it."""

from __future__ import annotations

import difflib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


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


_MEND = "; repair or remove it"


class Reading(NamedTuple):
    """How pictures become arrays.

    ``size``: a side or (height, width) that each is resized to cover and cropped to; ``channels``: 1 or 3. ``range``:
    the numbers that stand for −1 and 1, for pixels of more than 8 bits, which are then left as they are; without it
    bytes stay bytes, and unsigned 16 bits become float32 in 0 … 255. ``pages``: what becomes of a file of several
    pages: the ``first`` alone is read, or all of them one behind the other along a new axis, ``depth``; None
    refuses it.
    """

    size: int | tuple[int, int] | None = None
    channels: int = 3
    range: tuple[float, float] | None = None
    pages: Literal["first", "depth"] | None = None


def read_image(source: Path | IO[bytes], reading: Reading, where: str, page: int | None = None) -> Tensor:
    """One picture, (C, H, W), or (C, D, H, W) of all pages; ``where`` starts the message of what is wrong with it.

    ``page``: that of the pages alone.
    """
    from PIL import Image  # only needed here

    with readable(where, "image", _MEND):
        found = Image.open(source)  # the header alone
    with found as opened:
        if page is None and reading.pages == "depth":
            return torch.stack([_page(opened, i, reading, where) for i in range(pages_of(opened, where))], 1)
        if page is None:
            _check_pages(opened, reading, where)
        return _page(opened, page or 0, reading, where)


def _check_pages(opened: Image.Image, reading: Reading, where: str) -> None:
    pages = pages_of(opened, where) if reading.pages is None else 1
    if pages > 1:
        raise ValueError(
            f"{where}: holds {pages} pages; set `pages:` to samples (each page one), depth (one volume a file), or "
            "first (that one alone)"
        )


def _page(opened: Image.Image, page: int, reading: Reading, where: str) -> Tensor:
    if page:
        with readable(where, "image", _MEND):
            opened.seek(page)
    return pixels(opened, reading, where)


def pages_of(opened: Image.Image, where: str) -> int:
    """How many pictures a file holds: the pages of a TIFF but for smaller copies, the frames of an animation."""
    if opened.format == "MPO":  # a photograph of a phone, with its preview
        return 1
    with readable(where, "image", _MEND):
        if not getattr(opened, "is_animated", False):
            return 1
        pages = int(getattr(opened, "n_frames", 1))
        if opened.format == "TIFF":
            tags: Any = opened
            for i in range(1, pages):
                opened.seek(i)
                if int(tags.tag_v2.get(254, 0)) & 1:  # NewSubfileType: a copy of reduced size
                    pages = i
                    break
            opened.seek(0)
        return pages


def pixels(opened: Image.Image, reading: Reading, where: str) -> Tensor:
    """An opened picture as :func:`read_image` gives it."""
    from PIL import Image, ImageOps

    with readable(where, "image", _MEND):
        ImageOps.exif_transpose(opened, in_place=True)  # as a viewer shows it
        image: Image.Image = opened
        image.load()
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep(image, reading.range, where)
    else:
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if reading.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    if reading.size is not None:
        h, w = (reading.size, reading.size) if isinstance(reading.size, int) else reading.size
        image = ImageOps.fit(image, (w, h), Image.Resampling.LANCZOS)
    found = torch.from_numpy(np.array(image))
    if found.dtype != torch.uint8:
        found = found.clamp(*(reading.range or (0, 255)))  # Lanczos overshoots
    elif reading.range is not None:
        found = _in_range(found.to(torch.float32), reading.range, where)
    return found.expand(reading.channels, *found.shape) if found.ndim == 2 else found.movedim(2, 0)


def _numbers_of(image: Image.Image) -> tuple[int, int]:
    """(bits, form) of the numbers in a TIFF, form 1 unsigned, 2 signed, 3 floating point; (0, 0) where none says."""
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return 0, 0
    bits, form = (int(np.max(tags.get(tag, 1))) for tag in (258, 339))  # BitsPerSample, SampleFormat: 1 by default
    return bits, form


def _without_range(image: Image.Image) -> str | None:
    """What kind of pixels these are, where no range of theirs is known; from the header."""
    bits, form = _numbers_of(image)
    if image.mode == "F":
        return "floating-point pixels"
    if not image.mode.startswith("I"):
        return None
    return "pixels of 32 bits" if bits == 32 else "signed pixels" if form == 2 else None


def _no_range(where: str, what: str, extent: str = "") -> str:
    return (
        f"{where}: {what} have no stated range{extent}; say which numbers are black and white with `range:`, e.g. "
        "[-1000, 3000]"
    )


def _deep(image: Image.Image, extent: tuple[float, float] | None, where: str) -> Image.Image:
    """A picture of 16 or 32 bits, or of floating point, as floating point: as it is where ``extent`` says what is
    black and white, and unsigned 16 bits else as 0 … 255. (Pillow's own conversion to 8 bits would clip.)
    """
    from PIL import Image

    numbers = np.asarray(image)
    if _numbers_of(image) == (32, 1) and numbers.dtype == np.int32:
        numbers = numbers.view(np.uint32)  # Pillow takes them for signed
    if extent is not None:
        return Image.fromarray(_in_range(torch.from_numpy(numbers.astype(np.float32)), extent, where).numpy())
    low, high = float(numbers.min()), float(numbers.max())
    what = _without_range(image) or ("signed pixels" if low < 0 else "pixels of 32 bits" if high > 65535 else None)
    if what is not None:
        raise ValueError(_no_range(where, what, f" (here {low:g} to {high:g})"))
    return Image.fromarray(numbers.astype(np.float32) / 257)


def _in_range(found: Tensor, extent: tuple[float, float], where: str) -> Tensor:
    low, high = float(found.min()), float(found.max())
    if not (extent[0] <= low and high <= extent[1]):
        raise ValueError(f"{where}: has pixels from {low:g} to {high:g}, outside range: {list(extent)}; widen it")
    return found


def count_pages(source: Path, where: str) -> int:
    """How many pages a file has; see :func:`pages_of`."""
    from PIL import Image

    with readable(where, "image", _MEND):
        found = Image.open(source)
    with found as opened:
        return pages_of(opened, where)


def check_header(source: Path | IO[bytes], reading: Reading, where: str, page: int | None = None) -> tuple[int, int]:
    """(height, width) of a picture, or of one ``page`` of it, as a viewer shows it, from its header alone.

    Raises ValueError where the header says already that the picture is damaged or cannot be read as ``reading`` says.
    """
    from PIL import Image

    with readable(where, "image", _MEND):
        found = Image.open(source)
    with found as opened:
        if page:
            with readable(where, "image", _MEND):
                opened.seek(page)
        elif page is None:
            _check_pages(opened, reading, where)
        what = None if reading.range is not None else _without_range(opened)
        if what is not None:
            raise ValueError(_no_range(where, what))
        with readable(where, "image", _MEND):
            width, height = opened.size
            # a PNG is decoded to find whether something follows the pixels: not for what may come before them
            plain = width == height or (opened.format == "PNG" and "exif" not in opened.info)
            turned = not plain and opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_numpy(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The array of a ``.npy``, mapped, or those of a ``.npz``, in memory. Raises ValueError naming the file.

    What a header claims is compared with what is there before any memory is asked for.
    """
    with readable(f"path: {file}", "NumPy file"), file.open("rb") as opened:
        start = opened.read(2)
        opened.seek(0)
        if start != b"PK" and (start == b"\x93N" or file.suffix.lower() != ".npz"):
            for name, value in (("key", key), ("label_key", label_key)):
                if value is not None:
                    raise RefusedError(f"{name}: {file} holds a single array without a name; leave it out")
            check_claim(opened, os.fstat(opened.fileno()).st_size, f"path: {file}")
            return np.load(file, mmap_mode="r", allow_pickle=False), None
        with zipfile.ZipFile(opened) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted, classes = choose(list(members), key, label_key, file)
            arrays = [_member(archive, members[name], file) for name in (wanted, classes) if name is not None]
            return arrays[0], arrays[1] if classes is not None else None


MOST_DEFLATED = 1032
"""Bytes that one byte can stand for in DEFLATE, at most (zlib's technical details)."""


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: Path) -> np.ndarray:
    """One array of an archive. The directory of the archive can lie about sizes as the header of the array can."""
    where = f"path: {file}: '{info.filename.removesuffix('.npy')}'"
    most = MOST_DEFLATED * min(info.compress_size, file.stat().st_size)
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and info.file_size > most:
        raise RefusedError(f"{where}: says that it holds {info.file_size:,} bytes, more than can be in it")
    with archive.open(info) as opened:
        check_claim(opened, info.file_size, where)
    with archive.open(info) as opened:
        found: np.ndarray = np.lib.format.read_array(opened, allow_pickle=False)
        return found


def check_claim(opened: IO[bytes], size: int, where: str) -> None:
    """Raise unless the header of an array in ``size`` bytes asks for no more than there are, and for plain numbers."""
    magic = np.lib.format.MAGIC_PREFIX
    start = opened.read(len(magic) + 6)  # and the version in two bytes, the length of the header in two or four
    if not start.startswith(magic):
        raise RefusedError(f"{where}: not a readable NumPy file, or one of pickled objects, which are not opened")
    first = start[len(magic) : len(magic) + 1] == b"\1"
    if int.from_bytes(start[len(magic) + 2 :][: 2 if first else 4], "little") > size:
        raise RefusedError(f"{where}: not a readable NumPy file (its header is longer than the file)")
    opened.seek(0)
    np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    if dtype.hasobject:
        raise RefusedError(f"{where}: holds pickled objects, which are not opened; save plain arrays")
    wanted, there = math.prod(shape) * dtype.itemsize, size - opened.tell()
    if min(shape, default=0) < 0 or wanted > there:
        raise RefusedError(
            f"{where}: its header says shape {_short(shape)} of {dtype}, {_short(wanted)} bytes, and there are "
            f"{max(there, 0):,}; it is damaged or was cut off, copy it again"
        )


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_safetensors(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    from safetensors import safe_open

    def array(field: str, name: str) -> np.ndarray:
        about = opened.get_slice(name)
        if about.get_dtype() not in (*_DTYPES, *_CONVERTED):
            raise RefusedError(
                f"{field}: {file}: '{name}' holds {about.get_dtype()}, which is not read; store it as float32"
            )
        if about.get_dtype() in _CONVERTED:
            tensor: Tensor = opened.get_tensor(name)
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        shape, first = about.get_shape(), _offset(file, name)
        if 0 in shape:
            return np.empty(shape, _DTYPES[about.get_dtype()])
        return np.memmap(file, _DTYPES[about.get_dtype()], "r", first, tuple(shape))

    with (
        readable(f"path: {file}", "safetensors file"),
        safe_open(file, framework="pt") as opened,  # checks the header and the length of the file
    ):
        wanted, classes = choose(list(opened.keys()), key, label_key, file)
        return array("key", wanted), None if classes is None else array("label_key", classes)


_DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
"""Those that stay on disk."""
_CONVERTED = ("BF16", "BOOL", "I8", "I16", "U16", "U32", "U64")
"""Those that torch reads; NumPy has no bfloat16."""
MOST_CLASSES = 1_000_000
"""Labels stay below it: a table over all classes is made more than once."""


def _offset(file: Path, name: str) -> int:
    """Where the bytes of an array begin: after 8 bytes of length, a header in JSON, and the arrays before it."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return 8 + length + int(json.loads(opened.read(length))[name]["data_offsets"][0])


class RefusedError(Exception):
    """A request that a readable file cannot meet, told apart from the readers' own ValueErrors."""


def choose(names: list[str], key: str | None, label_key: str | None, file: Path) -> tuple[str, str | None]:
    """The names of the array and of its classes, checked to be in the file."""
    for field, name in (("key", key), ("label_key", label_key)):
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(names)) or 'none'}"
            raise RefusedError(f"{field}: {file} has no array '{name}'; {hint}")
    left = [name for name in names if name != label_key]
    if key is None and len(left) != 1:
        what = f"several arrays ({', '.join(sorted(left))}); name one" if left else "no array"
        raise RefusedError(f"key: {file} holds {what}")
    return key or left[0], label_key


def whole_labels(array: np.ndarray, n: int, path: str) -> Tensor:
    """Classes of ``n`` samples, (n,) whole numbers, or (n, C) zeros and ones where each may have several.

    Raises ``ValueError`` naming the first that is not a class.
    """
    where = f"label_key: {path}"
    if array.ndim == 2 and len(array) == n and array.shape[1] and array.dtype.kind in "biu" and array.max() <= 1:
        if array.min() < 0:
            raise ValueError(f"{where}: must be zeros and ones, where a sample may have several classes")
        return torch.from_numpy(array.astype(bool))
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: must hold {n} whole numbers, zero or above, got {array.dtype} of shape {array.shape}"
        )
    if n and array.min() < 0:
        at = int((array < 0).argmax())
        raise ValueError(f"{where}: must be zero or above, got {array[at]} for sample {at}")
    if n and array.max() >= MOST_CLASSES:
        at = int((array >= MOST_CLASSES).argmax())
        raise ValueError(
            f"{where}: must be below {MOST_CLASSES:,}, got {array[at]} for sample {at}; number the classes from 0"
        )
    return torch.from_numpy(array.astype(np.int64))


def line(error: BaseException) -> str:
    """The first line of an error's message, kept short."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
