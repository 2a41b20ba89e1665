"""What several kinds of data have in common: types of fields with what they allow, and the files and folders named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from edm_unified.components import paths
from edm_unified.components.component import SMALLEST, positive, shown
from edm_unified.components.constraints import Constraint, whole


def _standard_deviation(name: str, value: Any) -> None:
    if value != "per_axis":
        positive(name, value)


def _extent(name: str, value: Any) -> None:
    if not (len(value) == 2 and all(map(math.isfinite, value)) and value[0] < value[1]):
        raise ValueError(f"{name}: must be two finite numbers, the lower first, got {list(value)}")


def _part(name: str, value: Any) -> None:
    if not (type(value) in (int, float) and 0 < value < 1):
        raise ValueError(f"{name}: must be a share between 0 and 1, such as 0.1, got {shown(value)}")


Side = Annotated[int, whole(most=65536)]
Size = Side | tuple[Side, Side]
"""Of pictures: a side, or (height, width)."""
Channels = Literal[1, 3]
"""Grey or RGB."""
Extent = Annotated[tuple[float, float], Constraint(_extent, ())]
"""The numbers that become −1 and 1, the lower first."""
Standardise = Annotated[float | Literal["per_axis"], Constraint(_standard_deviation, (("minimum", SMALLEST),))]
"""The standard deviation that numbers are brought to, or ``per_axis``: each axis to EDM's σ_data."""
Holdout = Annotated[float, Constraint(_part, (("exclusiveMinimum", 0), ("exclusiveMaximum", 1)))]
"""The share of the samples that is held out."""


def existing(path: str, what: str = "file") -> Path:
    """The file of that name. Raises ValueError where there is none."""
    file = paths.regular(paths.expanded(path, "path"), f"path: {path}")
    if not file.is_file():
        raise ValueError(f"path: {path}: {f'a folder, not a {what}' if file.is_dir() else 'no such file'}")
    return file


def directory(field: str, path: str) -> Path:
    """The folder of that name. Raises ValueError, naming the field, where there is none."""
    root = paths.expanded(path, field)
    if not root.is_dir():
        raise ValueError(f"{field}: {path}: {'a file, not a folder' if root.exists() else 'no such folder'}")
    return root
