"""README and docs are true: every command in them runs, every Python block works, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from edm_unified import _shipped, cli
from edm_unified.recipe import loads

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(language: str) -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{i}", block)
        for page in PAGES
        for i, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M))
    ]


COMMANDS = [(name, line) for name, block in _blocks("sh") for line in block.splitlines() if line.strip()]
PYTHON = _blocks("python")


def test_the_pages_have_what_is_tested_here() -> None:
    assert len(COMMANDS) >= 10
    assert len(PYTHON) >= 5


def test_the_two_commands_are_the_ones_that_ci_runs() -> None:
    ((_, block),) = _blocks("sh quickstart")
    assert block.splitlines() == [
        "pip install -e . && edm-unified compare recipes/quickstart.yaml",
        "pip install -e '.[test]' && pytest",
    ]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_runs(name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("my_images.npy", np.random.default_rng(0).uniform(-1, 1, size=(40, 1, 6, 9)).astype(np.float32))
    program, *args = shlex.split(command)
    if program == "python":  # the benchmark, which measures, and is run by hand
        assert (ROOT / args[0]).is_file()
        return
    assert program == "edm-unified"
    result = CliRunner().invoke(cli.main, args)
    assert result.exit_code == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("code", [code for _, code in PYTHON], ids=[name for name, _ in PYTHON])
def test_every_python_block_runs(code: str) -> None:
    exec(compile(code, "<docs>", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("text", [text for _, text in _blocks("yaml")], ids=[name for name, _ in _blocks("yaml")])
def test_every_recipe_in_the_docs_loads(text: str) -> None:
    assert loads(text)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_shipped_method() -> None:
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text("utf-8"), re.M))
    methods = {
        name
        for name in _shipped.recipe_names()
        if "recipes" not in yaml.safe_load(_shipped.find(name).read_text("utf-8"))
    }
    assert table == methods
