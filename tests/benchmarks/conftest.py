"""``pytest tests/benchmarks -n 0 -s`` collects the benchmark, which a plain ``pytest`` leaves alone."""

from __future__ import annotations

collect_ignore_glob: list[str] = []


def pytest_collect_file(parent, file_path):  # type: ignore[no-untyped-def]
    """bench_*.py beside test_*.py."""
    import pytest

    if file_path.name.startswith("bench_") and file_path.suffix == ".py":
        return pytest.Module.from_parent(parent, path=file_path)
    return None
