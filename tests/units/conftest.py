"""What several files of unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the test runs, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def real_figures() -> None:
    """Asked for by a test that looks at a figure, in a file whose other tests have ``figures_are_dots``."""


@pytest.fixture
def figures_are_dots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and files with one white pixel in the place of each figure; all else of them is as it is."""
    if "real_figures" not in request.fixturenames:
        from dots import draw_dots

        draw_dots(monkeypatch.setattr)


@pytest.fixture
def small_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``with small_disk(2000):``: a file ends after 2000 bytes, and what would be more is an ``OSError``.

    The limit on the size of a file stands for the end of the disk: both fail in the middle of a write.
    """
    resource = pytest.importorskip("resource", reason="has no limit on the size of a file")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
