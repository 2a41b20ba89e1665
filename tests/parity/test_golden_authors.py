"""The numbers kept of the authors' code belong to tests that are there: a test of another name would be skipped."""

from __future__ import annotations

import re
from pathlib import Path

from authors_repos import GOLDEN, _kept

HERE = Path(__file__).parent


def test_every_number_has_its_test_and_every_test_its_numbers() -> None:
    kept: dict[str, set[str]] = {}
    for key in _kept():
        file, _, test = key.partition("::")
        kept.setdefault(file, set()).add(re.split(r"[\[ ]", test)[0])
    files = {file.name: file.read_text("utf-8") for file in HERE.glob("test_authors_*.py")}
    assert set(kept) == {name for name, text in files.items() if "@golden(" in text}
    for name, tests in kept.items():
        assert tests <= set(re.findall(r"^def (test_\w+)", files[name], re.M)), name
        within = re.split(r"^(?=def |@)", files[name], flags=re.M)
        nested = {m[1] for part in within if "    @golden(" in part and (m := re.match(r"def (test_\w+)", part))}
        assert nested <= tests, f"{name}: make_golden.py was not run"


def test_they_are_few() -> None:
    assert GOLDEN.stat().st_size < 300_000
