"""From the path of a file or folder to the kind of data that reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from edm_unified.components import paths

from . import formats
from .array_files import READERS
from .arrays import Arrays
from .folders import CelebA, ImageFolder, ImageNet
from .image_zip import ImageZip
from .libraries import HuggingFace
from .published import Cifar, Idx, Stl10, Svhn
from .tables import Parquet
from .webdataset import WebDataset

_KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(READERS, Arrays),
    "image_folder": ImageFolder,
    "image_zip": ImageZip,
    "webdataset": WebDataset,
    "parquet": Parquet,
    "hugging_face": HuggingFace,
    "cifar": Cifar,
    "svhn": Svhn,
    "stl10": Stl10,
    "idx": Idx,
}


def recognised(path: str) -> Any | None:
    """The component that reads what lies at ``path``, with its defaults; None where that is no data, or nothing.

    >>> recognised("no/such/file.npy") is None
    True
    """
    try:
        place = paths.regular(paths.expanded(path), path)
    except ValueError:
        return None
    if place.is_dir():
        if (place / "celeba").is_dir() and (place / "celeba" / "img_align_celeba").is_dir():
            return CelebA(path)
        if (place / "train").is_dir() and _is_imagenet(place / "train"):
            return ImageNet(path)
    if re.search(r"\{[0-9]+\.\.[0-9]+\}.*\.tar$", path):
        return WebDataset(path)
    kind = formats.format_of(place)
    return _KINDS[kind.name](path) if kind is not None and kind.name in _KINDS else None


def _is_imagenet(train: Path) -> bool:
    with os.scandir(train) as entries:
        names = [entry.name for entry in islice(entries, 50) if not entry.name.startswith(".")]
    return bool(names) and all(re.fullmatch(r"n[0-9]{8}", name) for name in names)


def not_a_recipe(path: Path, label: str) -> str | None:
    """What to say of a file or folder in a recipe's place; None where it may be a recipe, or is not known."""
    kind = formats.format_of(path)
    if kind is None:
        return None
    text = f"{label}: is {kind.words}, not a recipe"
    if kind.name in ("pt", "safetensors"):
        return (
            f"{text}; as data it is looked at with `edm-unified data {label}`; weights go into a network of their own "
            "shape in Python, which edm.wrap or edm.Preconditioned makes a denoiser"
        )
    if kind.name in _KINDS:
        return f"{text}; it is data: try `edm-unified data {label}`, and train on it with --set data={label}"
    if kind.name in ("gzip", "bzip2", "xz", "7z", "rar", "zstd", "zip"):
        return f"{text}; unpack it and name what is in it"
    if kind.name == "image":
        return f"{text}; name the folder that it lies in, as data"
    if kind.name == "pickle":
        return f"{text}, and is not opened, as it can execute anything; save arrays or tensors alone"
    return f"{text}; name a YAML file"
