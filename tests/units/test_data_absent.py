"""``train`` and what is said of the data on the command line: ``--shape`` and ``--classes``."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edm_unified import cli
from edm_unified.networks import cost

ADM = ("train/imagenet64_adm", "--set", "data={kind: arrays, path: /nowhere, shape: [3, 64, 64]}")


def invoke(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.main, ["train", *args])
    assert result.exit_code == code, result.output
    if code:
        lines = result.stderr.splitlines()
        assert [line for line in lines if line.startswith("Error: ")] == lines[-1:], result.stderr
        return lines[-1]
    return result.stdout


@pytest.mark.parametrize("shape", [(), ("--shape", "3,64,64")])
def test_a_dry_run_asks_for_the_classes_of_data_that_are_not_at_hand(shape: tuple[str, ...]) -> None:
    said = invoke(*ADM, "--dry-run", *shape, code=2)
    assert "training.conditional: the data are not at hand" in said
    assert "--shape 3,64,64 --classes 10" in said
    assert "have no labels" not in said


def test_a_dry_run_tells_data_without_labels() -> None:
    celeba = "data={kind: celeba, root: /nowhere, size: 64}"  # without an attribute
    for args in ((*ADM, "--classes", "0"), (ADM[0], "--set", celeba)):
        assert "the data have no labels" in invoke(*args, "--dry-run", code=2)


def test_a_dry_run_with_stated_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "memory", lambda *_, **options: cost.Memory(*range(1, 6)))  # takes ten seconds
    assert "classes     1000" in invoke(*ADM, "--dry-run", "--classes", "1000")


@pytest.mark.parametrize("option", [("--shape", "3,9,9"), ("--classes", "5")])
def test_training_does_not_ignore_what_it_is_told(tmp_path: Path, option: tuple[str, str]) -> None:
    said = invoke("toy/train_2d", "--out", str(tmp_path / "run"), *option, code=2)
    assert f"{option[0]}: is for --dry-run alone" in said
    assert not (tmp_path / "run").exists()
