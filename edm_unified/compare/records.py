"""The lines of ``records.jsonl``: one for each metric of a cell, with the types and the ranges of what it says.

A line carries a ``digest`` of the rest of it, so that a value that was changed is noticed though it could be one. Lines
of versions before there were digests have none, and are held to types and ranges alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from edm_unified.compare.plan import digest

_TEXTS = ("recipe", "schedule", "steps", "solver", "renoising", "metric", "hash", "cell")
_COUNTS = {"budget": 1, "nfe": 0, "n": 1, "seed": 0, "samples": 1}
"""Whole numbers, and the least of each."""
_RANGES = {
    "error_median": (0.0, math.inf),
    "error_rms": (0.0, math.inf),
    "sliced_wasserstein": (0.0, math.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
}
"""What the metrics can be. The others are estimates without bias, which may come out below what they estimate."""


def lines(records: Iterable[dict[str, Any]]) -> str:
    """The lines for records as they are computed."""
    return "".join(json.dumps(record | {"digest": digest(record)}, allow_nan=False) + "\n" for record in records)


def parse(line: bytes) -> dict[str, Any]:
    """The record of a line, without its digest. Raises ``ValueError`` saying what is wrong with it."""
    try:
        record = json.loads(line, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise ValueError("is not a record") from None
    if not isinstance(record, dict):
        raise ValueError("is not a record")
    found = record.pop("digest", None)
    if found is not None and found != digest(record):
        raise ValueError("was changed after it was written")
    for name in (*_TEXTS, *_COUNTS, "value", "low", "high", "seconds"):
        if name not in record:
            raise ValueError(f"is not a record: has no {name}")
    for name in _TEXTS:
        if not isinstance(record[name], str):
            raise ValueError(f"{name} is no text: {_shown(record[name])}")
    for name, least in _COUNTS.items():
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is no whole number from {least}: {_shown(value)}")
    _check_numbers(record)
    return record


def _check_numbers(record: dict[str, Any]) -> None:
    least, most = _RANGES.get(record["metric"], (-math.inf, math.inf))
    for name in ("value", "low", "high"):
        value = record[name]
        if value is None:  # diverged
            continue
        if not _is_number(value) or not least <= value <= most:
            limits = (
                "" if math.isinf(least) else f" from {least:g}" if math.isinf(most) else f" in [{least:g}, {most:g}]"
            )
            raise ValueError(f"{name} is no number{limits}: {_shown(value)}")
    if record["value"] is None and not (record["low"] is None and record["high"] is None):
        raise ValueError("has an interval and no value")
    if record["low"] is not None and record["high"] is not None and record["low"] > record["high"]:
        raise ValueError("low is above high")
    if not _is_number(record["seconds"]) or record["seconds"] < 0:
        raise ValueError(f"seconds is no number from 0: {_shown(record['seconds'])}")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < math.inf  # also of whole numbers that are too large for a float


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
