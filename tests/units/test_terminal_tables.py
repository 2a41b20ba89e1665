"""The tables of a comparison on terminals of any width: no number is cut, what has no room is named."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from report_example import crowded, example
from rich.console import Console
from test_report import record

from edm_unified.cli import tables
from edm_unified.report import Key, ReportData, Table, places, tabulate
from edm_unified.report.data import metric
from edm_unified.report.ranking import number


def printed(table: Table, width: int, capsys: pytest.CaptureFixture[str]) -> str:
    tables.print_tables(table, width)
    return capsys.readouterr().out


def long_names() -> ReportData:
    """Eleven methods by names of up to 45 letters, values of nine letters (−5.38·10⁻⁴)."""
    data = example(n=4)
    keys = {
        m.key: m.key._replace(solver=f"exponential_adams(order={i}, eta=0.0625)") for i, m in enumerate(data.methods)
    }
    views = [dataclasses.replace(m, key=keys[m.key], label=f"{m.label} · {keys[m.key].solver}") for m in data.methods]
    rows = [dict(r, **keys[Key.of(r)]._asdict()) for r in data.records]
    for row in rows:
        for bound in ("value", "low", "high"):
            row[bound] = None if row[bound] is None else -1.234e-4 * row[bound]
    return dataclasses.replace(data, methods=views, records=rows)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("data", [example(n=4), long_names()], ids=["short", "long"])
def test_no_number_is_cut_and_what_is_missing_is_named(
    data: ReportData, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tabulate(data)
    text = printed(table, width, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    flat = " ".join(text.split())
    left_out = re.search(r"Left out for want of room: (.*?)\. All of them", flat)
    dropped = left_out.group(1).split(", ") if left_out else []
    kept = [name for name in table.metrics if metric(name).short not in dropped]
    assert table.rank_by in kept
    assert len(kept) == len(table.metrics) if width == 160 else kept
    words = text.split()
    for (label, budget), cell in table.cells.items():
        for name in kept:
            score = cell.scores.get(name)
            if score is not None and score.value is not None:
                assert number(score.value) in words, (label, budget, name)
        for name in set(table.metrics) - set(kept):
            assert metric(name).short in dropped
    for word in {w for m in table.methods for w in m.label.split(" ") if len(w) < 14}:
        assert word in words


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_best_of_many_are_not_cut_either(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(tabulate(crowded(9)), width, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    factors = re.findall(r"\d+\.\d\d$", text, re.M)
    assert len(factors) == 13 * 10


def test_the_terminal_says_what_a_shared_rank_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [record(name, v, 0.2) for name, v in (("a", 1.0), ("b", 1.1))]
    text = " ".join(printed(tabulate(ReportData(title="", records=rows)), 80, capsys).split())
    assert "1= a" in text
    assert "= marks ranks that several share because their intervals overlap" in text
    apart = [record(name, v, 0.1) for name, v in (("a", 1.0), ("b", 2.0))]
    text = printed(tabulate(ReportData(title="", records=apart)), 80, capsys)
    assert "=" not in text


def test_the_best_is_bold_and_arrows_say_which_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        record(name, value, 0.01, metric=kind)
        for kind, values in (("frechet", (1.0, 2.0)), ("precision", (0.5, 0.75)), ("log_density_gap", (-0.3, 0.2)))
        for name, value in zip("ab", values, strict=True)
    ]
    file = io.StringIO()
    monkeypatch.setattr(
        tables.terminal,
        "console",
        lambda **more: Console(file=file, force_terminal=True, color_system="standard", **more),
    )
    tables.print_tables(tabulate(ReportData(title="", records=rows)), 100)
    text = file.getvalue()
    bold = re.findall(r"\x1b\[1m\s*([\d.−]+)\s*\x1b\[0m", text)
    assert sorted(bold) == ["0.200", "0.750", "1.00"]
    for arrow in ("Fréchet ↓", "precision ↑", "↓ lower is better; ↑ higher is better; →0 best at 0; the best"):
        assert all(part in " ".join(text.split()) for part in arrow.split(" ")), arrow


def test_deterministic_methods_are_ranked_by_their_endpoint_error() -> None:
    """By the distance of two sets of samples they would all tie; where one draws noise, all have only that."""
    rows = [
        record(name, value, half, metric=kind)
        for name, error in (("a", 0.04), ("b", 0.2), ("c", 1.0))
        for kind, value, half in (("error_median", error, error / 10), ("sliced_wasserstein", 0.3, 0.2))
    ]
    table = tabulate(ReportData(title="", records=rows))
    assert table.rank_by == "error_median"
    assert [(p.rank, p.shared) for p in places(table, 10, table.rank_by).values()] == [
        (1, False),
        (2, False),
        (3, False),
    ]
    noisy = tabulate(ReportData(title="", records=[*rows, record("d", 0.3, 0.2, metric="sliced_wasserstein")]))
    assert noisy.rank_by == "sliced_wasserstein"
