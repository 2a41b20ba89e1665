"""README and docs are true: every command in them runs, every Python block works, every link leads somewhere."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import edm_unified
from edm_unified import cli
from edm_unified.components import shipped
from edm_unified.recipe import loads
from edm_unified.recipe.codec import kind_of, members
from edm_unified.sampling.solvers import AnySolver
from edm_unified.training import timing

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
SOLVER_PAGES = sorted((ROOT / "docs" / "solvers").glob("*.md"))


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{i}", block)
        for page in PAGES
        for i, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M))
    ]


COMMANDS = {line: name for name, block in reversed(_blocks("sh")) for line in block.splitlines() if line.strip()}
PYTHON = _blocks("python")
FILES = {code.splitlines()[0].removeprefix("# "): code for _, code in PYTHON if code.startswith("# mylab/")}
"""Files of the reader's own, which a page prints whole, with their path on the first line."""
SHORT = {
    "train": ["--set", "training.images=2560", "--set", "training.batch=256", "--set", "training.save_every=2560"],
    "compare": ["--samples", "16", "--set", "reference_tolerance=1e-4"],
    "tune": ["--samples", "8", "--held-out", "16"],
}
"""Added to a command that is printed: its paths are the same, and it takes ten steps, or draws few samples."""


def test_the_pages_have_what_is_tested_here() -> None:
    assert len(COMMANDS) >= 10
    assert len(PYTHON) >= 5


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    ((_, block),) = _blocks("sh quickstart")
    assert block.splitlines() == [
        "pip install -e . && edm-unified compare recipes/quickstart.yaml",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``run`` that pages train in one command and use in another, only shorter."""
    path = tmp_path_factory.mktemp("trained") / "run"
    args = ["train", "toy/train_2d", "--out", str(path), *SHORT["train"], "--quiet"]
    for command in (args, ["ema", str(path), "--std", "0.15", "--quiet"]):
        assert CliRunner().invoke(cli.main, command).exit_code == 0
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``fitted.yaml`` that a page fits in one command and uses in others, only from fewer noises."""
    path = tmp_path_factory.mktemp("fitted") / "fitted.yaml"
    words = ["tune", "toy/mixture_64d", "--nfe", "5,6", "--out", str(path), *SHORT["tune"], "--quiet"]
    assert CliRunner().invoke(cli.main, words).exit_code == 0
    return path


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in the place of a second of training, by which a dry run says how long the rest would take."""
    monkeypatch.setattr(timing, "time_steps", lambda *_: timing.Timing(images=1000.0, steps=2, seconds=1.0))


@pytest.mark.parametrize("command", COMMANDS, ids=[f"{name}-{line[:60]}" for line, name in COMMANDS.items()])
def test_every_command_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """As it is printed, but with fewer samples; a training is checked as it is printed, and run with fewer images."""
    monkeypatch.chdir(tmp_path)
    program, *args = shlex.split(command)
    if "run" in args[1:] and (args[0] != "train" or "--init" in args):
        shutil.copytree(request.getfixturevalue("trained"), "run")
    if "fitted.yaml" in args and args[0] != "tune":
        shutil.copy(request.getfixturevalue("fitted"), "fitted.yaml")
    for name, code in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(code, "utf-8")
    np.save("my_images.npy", np.random.default_rng(0).uniform(-1, 1, size=(40, 1, 6, 9)).astype(np.float32))
    if program == "python":  # the benchmark, which measures, and is run by hand
        assert (ROOT / args[0]).is_file()
        return
    assert program == "edm-unified"
    trains = args[0] == "train" and "--dry-run" not in args
    short = [*args, *SHORT.get(args[0], ())]
    for words in ([*args, "--dry-run"], short) if trains else (args if "--dry-run" in args else short,):
        result = CliRunner().invoke(cli.main, words)
        assert result.exit_code == 0, result.stderr
        assert result.stdout


@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[name for name, _ in PYTHON])
def test_every_python_block_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if '"run"' in code:
        shutil.copytree(request.getfixturevalue("trained"), "run")
    exec(compile(code, "<docs>", "exec", dont_inherit=True), {"__name__": "docs"})


@pytest.mark.parametrize("text", [text for _, text in _blocks("yaml")], ids=[name for name, _ in _blocks("yaml")])
def test_every_recipe_in_the_docs_loads(text: str) -> None:
    assert loads(text)


def test_every_link_leads_somewhere() -> None:
    targets = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not target.startswith("https://")
    ]
    assert len(targets) > 20
    assert [(page.name, target) for page, target in targets if not (page.parent / target).exists()] == []


def test_the_version_is_said_once_and_repeated_truly() -> None:
    assert f"version = {{{edm_unified.__version__}}}" in (ROOT / "README.md").read_text("utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == edm_unified.__version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_every_public_module_is_in_the_api_reference() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    rendered = set(re.findall(r"^::: ([\w.]+)$", pages, re.M))
    nav = (ROOT / ".mkdocs.yml").read_text("utf-8")
    assert all(f"api/{page.name}" in nav for page in (ROOT / "docs" / "api").glob("*.md"))
    homes = {f"edm_unified.{home}" for home in (*edm_unified._MODULES.values(), *edm_unified._NAMES.values())}
    assert {home for home in homes if not any(f"{home}.".startswith(f"{name}.") for name in rendered)} == set()


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / ".mkdocs.yml").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("**/*.md")]
    assert [page for page in pages if f"- {page}" not in nav] == []


def test_the_readme_names_every_shipped_method() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (ROOT / "README.md").read_text("utf-8"), re.M)
    table = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    methods = {
        name
        for name in shipped.recipe_names()
        if "/" not in name and "recipes" not in yaml.safe_load(shipped.find(name).read_text("utf-8"))
    }
    assert table == methods


def test_every_solver_is_in_the_table_of_solvers_and_on_the_page_of_its_family() -> None:
    kinds = {kind_of(member) for member in members(AnySolver)}
    section = (ROOT / "docs" / "sampling.md").read_text("utf-8").split("\n## Solvers\n")[1].split("\n## ")[0]
    table = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) == kinds
    titles = "".join(page.read_text("utf-8").split("\n\n", 2)[1] for page in SOLVER_PAGES)
    assert kinds <= set(re.findall(r"`(\w+)", titles))
    assert all(f"solvers/{page.name}" in section for page in SOLVER_PAGES)


def _rows(page: Path, first: str) -> dict[str, dict[str, str]]:
    """The rows of the table of ``page`` whose head begins with ``first``, by their first cell and their heads."""
    lines = page.read_text("utf-8").splitlines()
    tables = [i for i, line in enumerate(lines) if re.match(rf"\| {first} +\|", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {}
    for i in tables:
        for j in itertools.takewhile(lambda j: lines[j].startswith("|"), range(i + 2, len(lines))):
            rows[cells[j][0]] = dict(zip(cells[i], cells[j], strict=True))
    return rows


def test_the_rows_of_a_family_are_those_of_the_certificates() -> None:
    """Which test_certificates.py measures again, and whose last digits may change with them."""
    certified = _rows(ROOT / "docs" / "certificates.md", "solver")
    for page in SOLVER_PAGES:
        rows = _rows(page, "certificate")
        assert bool(rows) == (page.name not in ("renoising.md", "options.md", "fitted.md")), page
        for name, row in rows.items():
            known = certified[name]
            assert (row["stated"], row["NFE"]) == (known["stated"], known["NFE"]), name
            for column, bound in {"order": 0.15, "plain start": 0.15, "weak": 0.3}.items():
                assert (row[column] == "–") == (known[column] == "–"), name
                assert row[column] == "–" or abs(float(row[column]) - float(known[column])) <= bound, name
            ratio, known_ratio = row["error/Heun"], known["error/Heun"]
            assert ratio == known_ratio or 2 / 3 < float(ratio) / float(known_ratio) < 3 / 2, name
