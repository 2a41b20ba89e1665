"""Files to arrays: each reader raises ValueError with one line that names the file and what is wrong with it."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_image(file: Path, size: int | tuple[int, int] | None, channels: int) -> Tensor:
    """One image file as (channels, H, W) float32 in [−1, 1]."""
    from PIL import Image, ImageOps  # only needed here

    try:
        with Image.open(file) as opened:
            image: Image.Image = ImageOps.exif_transpose(opened)  # as a viewer shows it
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"path: {file}: not a readable image ({line(error)}); repair or remove it") from error
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion to 8 would clip instead of scale
        image = Image.fromarray(np.asarray(image).astype(np.float32) / 257)
    elif image.mode == "F":
        raise ValueError(f"path: {file}: floating-point pixels have no stated range; store them as .npy and use arrays")
    else:
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        h, w = (size, size) if isinstance(size, int) else size
        image = ImageOps.fit(image, (w, h), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / 127.5 - 1
    pixels = pixels.clamp(-1, 1)  # Lanczos overshoots in the 16-bit case
    return pixels.expand(channels, *pixels.shape) if pixels.ndim == 2 else pixels.movedim(2, 0)


def read_numpy(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        if file.suffix.lower() == ".npy":
            for name, value in (("key", key), ("label_key", label_key)):
                if value is not None:
                    raise _RefusedError(f"{name}: {file} holds a single array without a name; leave it out")
            return np.load(file, mmap_mode="r", allow_pickle=False), None
        # Opened here, because NumPy leaves the handle of a damaged archive open.
        with file.open("rb") as handle:
            zipfile.ZipFile(handle).close()  # raises unless it is an archive: np.load would take other things too
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as opened:
                wanted, classes = _choose(opened.files, key, label_key, file)
                return opened[wanted], None if classes is None else opened[classes]
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise ValueError(
                f"path: {file}: holds pickled objects, or is not a NumPy file; save plain arrays"
            ) from error
        raise ValueError(f"path: {file}: not a readable NumPy file ({line(error)})") from error


def read_safetensors(file: Path, key: str | None, label_key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    from safetensors import SafetensorError, safe_open

    def array(name: str) -> np.ndarray:
        tensor: Tensor = opened.get_tensor(name)
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16

    try:
        with safe_open(file, framework="pt") as opened:
            wanted, classes = _choose(list(opened.keys()), key, label_key, file)
            return array(wanted), None if classes is None else array(classes)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"path: {file}: not a readable safetensors file ({line(error)})") from error


class _RefusedError(Exception):
    """A request that a readable file cannot meet, told apart from the readers' own ValueErrors."""


def _choose(names: list[str], key: str | None, label_key: str | None, file: Path) -> tuple[str, str | None]:
    """The names of the array and of its classes, checked to be in the file."""
    for field, name in (("key", key), ("label_key", label_key)):
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(names)) or 'none'}"
            raise _RefusedError(f"{field}: {file} has no array '{name}'; {hint}")
    left = [name for name in names if name != label_key]
    if key is None and len(left) != 1:
        what = f"several arrays ({', '.join(sorted(left))}); name one" if left else "no array"
        raise _RefusedError(f"key: {file} holds {what}")
    return key or left[0], label_key


def whole_labels(array: np.ndarray, n: int, path: str) -> Tensor:
    if array.shape != (n,) or array.dtype.kind not in "iu" or (n and array.min() < 0):
        raise ValueError(
            f"label_key: {path}: must hold {n} whole numbers, zero or above, got {array.dtype} of shape {array.shape}"
        )
    return torch.from_numpy(array.astype(np.int64))


def line(error: BaseException) -> str:
    """The first line of an error's message, kept short."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
