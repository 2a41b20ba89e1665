"""``edm-unified certify``: what it prints, writes and imports, and how it exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edm_unified.certify.table import HEAD
from edm_unified.cli import main
from edm_unified.cli.certify import MARKS, _fitting

PLUGIN = '''
"""Euler's method in σ, and the same evaluated at the wrong level."""

print("imported")


class Good:
    order = 1

    def init(self, dynamics, walk):
        return None

    def step(self, dynamics, x, a, b, state, randn):
        return x + (b.sigma - a.sigma) * dynamics.velocity(x, a), None


class Bad(Good):
    order = 2


class Half(Good):
    step = None


instance = Good()


class Float(Good):
    order = 2.0


class Words(Good):
    order = "three"


class Negative(Good):
    order = -1


class Raises(Good):
    @property
    def order(self):
        raise RuntimeError("order is\\nwhat?")


class Exits(Good):
    def step(self, dynamics, x, a, b, state, randn):
        raise SystemExit(9)


class Noisy(Good):
    order, eta = 1, 1.0

    def step(self, dynamics, x, a, b, state, randn):
        x, _ = super().step(dynamics, x, a, b, state, randn)
        return (x + 0.1 * min(a.sigma, 5.0) * randn() if b.sigma > 0 else x), None
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of the user's own in it, as the one the command is run in."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "solvers.py").write_text(PLUGIN, "utf-8")
    (tmp_path / "mylab" / "leaves.py").write_text("import sys\nsys.exit(7)\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["certify", *arguments])


def test_names_and_parameters_make_rows_of_a_table() -> None:
    result = run("ddim", "--quiet")
    assert (result.exit_code, result.stdout) == (0, "")
    result = run("ddim", "second_order:alpha=0.5", "ddim")
    assert result.exit_code == 0, result.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows] == ["solver", rows[1][0], "ddim", "second_order(alpha=0.5)"]
    assert [row[:3] for row in rows[2:]] == [["ddim", "passes", "1"], ["second_order(alpha=0.5)", "passes", "2"]]
    assert len({len(row) for row in rows}) == 1
    assert rows[3][-2:] == ["2N − 1", "sees it"]
    assert len({len(line) for line in result.stdout.splitlines() if line[:1] == "|"}) == 1  # columns line up


def test_json_has_every_number_and_nothing_else() -> None:
    result = run("heun", "ddim:eta=1", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    heun, ddim = map(json.loads, result.stdout.splitlines())
    assert heun["passed"]
    assert heun["orders"]["exact"] == pytest.approx(2, abs=0.1)
    assert set(heun["orders"]["by_dimension"]) == {"1", "2", "64"}
    assert heun["beside_heun"] == {"10": 1.0, "20": 1.0, "40": 1.0, "80": 1.0}
    assert heun["weak"] is None
    assert ddim["stochastic"]
    assert ddim["amplitude"] == [1.0]
    assert ddim["weak"] == pytest.approx(1, abs=0.1)
    assert max(ddim["schedules"].values()) == 0
    assert dict(ddim["same_as"])["ddpm"] < 1e-14


def test_the_page_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    page = tmp_path / "deep" / "page.html"
    result = run("ddim", "ddim:eta=1", "second_order:alpha=0.5", "--html", str(page), "--quiet")
    assert result.exit_code == 0, result.stderr
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)=["']https?:""", text)
    assert "prefers-color-scheme: dark" in text
    assert text.count('<svg class="plot"') == 3  # one for each solver
    assert len(re.findall(r' id="(?:[^"]*)"', text)) == len(set(re.findall(r' id="([^"]*)"', text)))
    for target in re.findall(r'href="#([^"]*)"', text):
        assert f'id="{target}"' in text, target


def test_a_plugin_is_certified_like_any_other_and_imported_only_when_asked(lab: Path) -> None:
    assert "imported" not in run("ddim").stdout
    assert "mylab.solvers" not in sys.modules
    result = run("--plugin", "mylab.solvers:Good", "--plugin", "mylab.solvers:instance")
    assert result.exit_code == 0, result.output
    assert "mylab.solvers" not in sys.modules  # forgotten again
    assert len(re.findall(r"^\| Good +\| passes ", result.stdout, re.M)) == 2
    assert re.search(r"one method, to \d+ digits: Good, .*ddim", result.stdout)


def test_a_failing_certificate_is_exit_code_1(lab: Path) -> None:
    result = run("heun", "--plugin", "mylab.solvers:Bad")
    assert result.exit_code == 1
    assert "FAILS Bad: order: stated 2, measured 1.00" in result.stdout
    assert re.search(r"^\| heun +\| passes ", result.stdout, re.M)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Float", "order: stated 2, measured 1.00"),
        ("Words", "order: must be a whole number from 1, got 'three'"),
        ("Negative", "order: must be a whole number from 1, got -1"),
        ("Raises", "order: raised RuntimeError: order is what?"),
        ("Exits", "one step: raised SystemExit: 9"),
        ("Noisy", "eta: stated 1, the noise is that of no constant η"),
    ],
)
def test_a_claim_that_does_not_hold_fails_whatever_it_is(lab: Path, name: str, words: str) -> None:
    result = run("--plugin", f"mylab.solvers:{name}")
    assert result.exit_code == 1, result.output
    assert f"FAILS {name}: {words}" in result.stdout
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hein"], "did you mean 'heun'?"),
        (["second_order:alpha=2"], "alpha: must lie in (0, 1], got 2"),
        (["heun:steps=3"], "unknown key"),
        (["--plugin", "mylab.solvers"], "--plugin mylab.solvers: has no components"),
        (["--plugin", "mylab.nothing:Mine"], "No module named 'mylab.nothing'; run this in the folder that holds it"),
        (["--plugin", "mylab.leaves:Mine"], "--plugin mylab.leaves:Mine: its import raised SystemExit: 7"),
        (["heun", "--html", "."], "--html .: is a directory; name a file"),
        (["heun", "--html", "/proc/x.html"], "--html /proc/x.html: /proc cannot be written to"),
        (["--plugin", "mylab.solvers:Mine"], "has no 'Mine'"),
        (["--plugin", "mylab.solvers:Half"], "Half: of no family that is known; say which by a line family"),
        (["heun", "--into", "missing.md"], "missing.md: No such file"),
        (["heun", "--into", "mylab/solvers.py"], "has no lines"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lab: Path, arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")


def test_the_table_is_written_between_the_marks_and_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nafter\n", "utf-8")
    for _ in range(2):
        assert run("ddim", "--into", str(page), "--quiet").exit_code == 0
        text = page.read_text("utf-8")
        assert text.startswith(f"before\n\n{MARKS[0]}\n\n| solver")
        assert text.endswith(f"{MARKS[1]}\n\nafter\n")
        assert "old" not in text
        assert text.count("| ddim ") >= 1


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_narrow_terminal_goes_without_some_columns(width: int) -> None:
    rows = [tuple("x" * (20 if i == 0 else 6) for i in range(len(HEAD)))]
    shown = _fitting(HEAD, rows, width)
    assert shown[:4] == [0, 1, 2, 3]
    used = sum(1 + max(len(HEAD[i]), len(rows[0][i])) for i in shown)
    assert used <= max(width, 65)
    assert (len(shown) == len(HEAD)) == (width == 200)


def test_help_answers_without_torch() -> None:
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom edm_unified.cli import main\n"
        "assert CliRunner().invoke(main, ['certify', '--help']).exit_code == 0\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).resolve().parents[2])
