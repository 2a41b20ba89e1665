"""Image files: one picture as a tensor (C, H, W), its pages, and what its header says of its size."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import readable

if TYPE_CHECKING:
    from PIL import Image


_MEND = "; repair or remove it"


class Decoding(NamedTuple):
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


def read_image(source: Path | IO[bytes], decoding: Decoding, where: str, page: int | None = None) -> Tensor:
    """One picture, (C, H, W), or (C, D, H, W) of all pages; ``where`` starts the message of what is wrong with it.

    ``page``: that of the pages alone.
    """
    from PIL import Image  # only needed here

    with readable(where, "image", _MEND):
        found = Image.open(source)  # the header alone
    with found as opened:
        if page is None and decoding.pages == "depth":
            return torch.stack([_page(opened, i, decoding, where) for i in range(pages_of(opened, where))], 1)
        if page is None:
            _check_pages(opened, decoding, where)
        return _page(opened, page or 0, decoding, where)


def _check_pages(opened: Image.Image, decoding: Decoding, where: str) -> None:
    pages = pages_of(opened, where) if decoding.pages is None else 1
    if pages > 1:
        raise ValueError(
            f"{where}: holds {pages} pages; set `pages:` to samples (each page one), depth (one volume a file), or "
            "first (that one alone)"
        )


def _page(opened: Image.Image, page: int, decoding: Decoding, where: str) -> Tensor:
    if page:
        with readable(where, "image", _MEND):
            opened.seek(page)
    return pixels(opened, decoding, where)


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


def pixels(opened: Image.Image, decoding: Decoding, where: str) -> Tensor:
    """An opened picture as :func:`read_image` gives it."""
    from PIL import Image, ImageOps

    _check_depth(opened, where)
    with readable(where, "image", _MEND):
        ImageOps.exif_transpose(opened, in_place=True)  # as a viewer shows it
        image: Image.Image = opened
        image.load()
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep(image, decoding.range, where)
    else:
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if decoding.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    if decoding.size is not None:
        h, w = (decoding.size, decoding.size) if isinstance(decoding.size, int) else decoding.size
        image = ImageOps.fit(image, (w, h), Image.Resampling.LANCZOS)
    found = torch.from_numpy(np.array(image))
    if found.dtype != torch.uint8:
        found = found.clamp(*(decoding.range or (0, 255)))  # Lanczos overshoots
    elif decoding.range is not None:
        found = _in_range(found.to(torch.float32), decoding.range, where)
    return found.expand(decoding.channels, *found.shape) if found.ndim == 2 else found.movedim(2, 0)


def _check_depth(opened: Image.Image, where: str) -> None:
    """Refuse several channels of more than 8 bits, of which Pillow keeps 8: its mode says 8, its decoder 16."""
    for tile in getattr(opened, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        raw, most = str(args[0]) if args else "", args[1] if len(args) > 1 else 0
        deep_ppm = str(tile[0]).startswith("ppm") and isinstance(most, int) and most > 255
        if opened.mode in ("RGB", "RGBA", "RGBX", "LA", "CMYK") and (";16" in raw or deep_ppm):
            raise ValueError(
                f"{where}: has 16 bits in each of several channels, of which 8 would be read; save it with 8, or all "
                "of them as one array, which kind arrays reads with `range: [0, 65535]`"
            )


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


def check_header(source: Path | IO[bytes], decoding: Decoding, where: str, page: int | None = None) -> tuple[int, int]:
    """(height, width) of a picture, or of one ``page`` of it, as a viewer shows it, from its header alone.

    Raises ValueError where the header says already that the picture is damaged or cannot be read as ``decoding`` says.
    """
    from PIL import Image

    with readable(where, "image", _MEND):
        found = Image.open(source)
    with found as opened:
        if page:
            with readable(where, "image", _MEND):
                opened.seek(page)
        elif page is None:
            _check_pages(opened, decoding, where)
        _check_depth(opened, where)
        what = None if decoding.range is not None else _without_range(opened)
        if what is not None:
            raise ValueError(_no_range(where, what))
        with readable(where, "image", _MEND):
            width, height = opened.size
            # a PNG is decoded to find whether something follows the pixels: not for what may come before them
            plain = width == height or (opened.format == "PNG" and "exif" not in opened.info)
            turned = not plain and opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)
