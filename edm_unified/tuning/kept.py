"""What an interrupted fit continues from: one file with the teachers and the budgets that are done, and no code."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edm_unified.components.component import encode
from edm_unified.components.files import write_atomic
from edm_unified.metrics import Estimate
from edm_unified.recipe.codec import checked
from edm_unified.sampling.levels import AnySteps
from edm_unified.sampling.solvers import AnySolver
from edm_unified.tuning.session import Fit
from edm_unified.tuning.stock import Stock
from edm_unified.tuning.teacher import Teacher

_ARRAYS = ("ends", "states", "outputs")


def save(path: Path, key: str, teachers: tuple[Teacher, Teacher], fits: list[Fit]) -> None:
    """Written whole or not at all."""
    about = {
        "key": key,
        "teachers": [[one.levels, one.error, one.name] for one in teachers],
        "fits": [_plain(fit) for fit in fits],
    }
    arrays = {f"{name}{i}": getattr(one, name).cpu().numpy() for i, one in enumerate(teachers) for name in _ARRAYS}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())


def load(path: Path, key: str, device: torch.device) -> tuple[tuple[Teacher, Teacher] | None, list[Fit]]:
    """The teachers and the fits of ``key``; nothing where the file is of another one, is damaged or not there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["key"] != key:
                return None, []
            arrays = {name: torch.from_numpy(file[name]).to(device) for name in file.files if name != "about"}
        first, second = (
            Teacher(*(arrays[f"ends{i}"], tuple(found[0]), arrays[f"states{i}"], arrays[f"outputs{i}"]), *found[1:])
            for i, found in enumerate(about["teachers"])
        )
        return (first, second), [_fit(one) for one in about["fits"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, RecursionError):
        return None, []


def _plain(fit: Fit) -> dict[str, Any]:
    found = {field.name: getattr(fit, field.name) for field in dataclasses.fields(fit)}
    found["stock"] = [encode(fit.stock.solver), fit.stock.levels, encode(fit.stock.steps)]
    return found


def _fit(plain: dict[str, Any]) -> Fit:
    solver, levels, steps = plain["stock"]
    stock = Stock(checked(AnySolver, solver, "solver"), levels, checked(AnySteps, steps, "steps"))
    estimates = {name: Estimate(*plain[name]) for name in ("held_out", "error", "stock_error")}
    lists = {name: tuple(plain[name]) for name in ("sigmas", "told", "rms", "model")}
    rows = {name: tuple(tuple(row) for row in plain[name]) for name in ("weights", "stock_rows", "others")}
    return Fit(**{**plain, **estimates, **lists, **rows, "stock": stock})
