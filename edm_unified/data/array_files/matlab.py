"""MATLAB's files before 7.3, in memory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edm_unified.data.array_files.chosen import MOST_DEFLATED, Chosen, choose
from edm_unified.data.errors import RefusedError, readable


def read_mat(file: Path, key: str | None, label_key: str | None) -> Chosen:
    """A variable of a MATLAB file before 7.3, in memory (7.3 is HDF5). Its axes are as in MATLAB."""
    from scipy.io import loadmat, whosmat

    with readable(f"path: {file}", "MATLAB file"):
        names: dict[str, tuple[int, ...]] = {
            name: shape for name, shape, kind in whosmat(str(file)) if kind in _MAT_NUMBERS
        }
        wanted, classes = choose(list(names), key, label_key, file)
        for name in filter(None, (wanted, classes)):
            claimed = math.prod(names[name])
            if claimed > MOST_DEFLATED * file.stat().st_size:
                raise RefusedError(
                    f"path: {file}: '{name}' says that it holds {claimed:,} numbers, more than can be in it"
                )
        found = loadmat(str(file), variable_names=[name for name in (wanted, classes) if name is not None])
        labels = None if classes is None else np.asarray(found[classes]).reshape(-1)
        return Chosen(np.asarray(found[wanted]), labels)


_MAT_NUMBERS = (
    "double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "logical",
)  # fmt: skip
