"""``edm-unified ema``: what it says, and what it refuses in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from training_example import recipe

import edm_unified as edm
from edm_unified.cli import main
from edm_unified.training.parallel import Team
from edm_unified.training.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ema") / "run"
    with Run(path, recipe().job(), Team(torch.device("cpu"))) as running:
        for _ in running.steps():
            pass
    return path


def ema(run: Path, stds: str, code: int = 0) -> list[str]:
    result = CliRunner().invoke(main, ["ema", str(run), "--std", stds])
    assert result.exit_code == code, result.output
    return [line for line in result.output.splitlines() if "std" in line]


def test_each_length_is_a_file_and_the_default_stays(run: Path) -> None:
    before = edm.load(run).fingerprint
    lines = ema(run, "0.05,0.0503,0.1001,0.1004")
    files = [Path(line.split()[0]) for line in lines]
    assert [file.name for file in files] == [
        f"ema-{std}.safetensors" for std in ("0.050", "0.0503", "0.1001", "0.1004")
    ]
    assert all(file.is_file() for file in files)
    assert edm.load(run).fingerprint == before == edm.load(run, ema=0.05).fingerprint


@pytest.mark.parametrize(
    ("stds", "message"),
    [
        (
            "0.0001",
            "do not make an average of 0.0001, its profile would be 99.6 % off and at most 10 % may be; ",
        ),
        ("0.1,0.1", "std: 0.1 and 0.1 are one average; name each length once"),
        ("0.12,0.12000001", "std: 0.12 and 0.12000001 are one average; name each length once"),
        ("0", "std: must be"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, stds: str, message: str) -> None:
    files = sorted(run.rglob("*"))
    (line,) = ema(run, stds, code=2)
    assert line.startswith("Error: ")
    assert message in line
    assert sorted(run.rglob("*")) == files


def test_a_copy_of_a_snapshot_is_none(run: Path) -> None:
    first = min((run / "snapshots").glob("*.safetensors"))
    shutil.copy(first, first.with_name("copy.safetensors"))
    assert len(ema(run, "0.07")) == 1
