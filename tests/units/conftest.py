"""What several files of unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the test runs, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
