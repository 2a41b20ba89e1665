"""What several files of unit tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dots
import pytest


@pytest.fixture(scope="module", autouse=True)
def _dots_for_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """White pixels in the place of figures, but in files of tests that say ``FIGURES = True``: see dots.py."""
    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "FIGURES", False):
            dots.draw_dots(patch.setattr)
        yield


@pytest.fixture(scope="session", autouse=True)
def _certified_once() -> Iterator[None]:
    """A solver of the package is measured once in this process, however many commands and pages ask for it."""
    from edm_unified import certify

    measured, known = certify.certify, dict[Any, Any]()

    def once(solver: Any) -> Any:
        if not type(solver).__module__.startswith("edm_unified."):
            return measured(solver)
        if solver not in known:
            known[solver] = measured(solver)
        return known[solver]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify, "certify", once)
        yield


@pytest.fixture
def real_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test that looks at a figure, in a file of others that do not."""
    dots.draw_figures(monkeypatch.setattr)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the test runs, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
