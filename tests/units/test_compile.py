"""``sample --compile`` and :meth:`Prepared.compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_example
from command_line import run

from edm_unified.cli import options
from edm_unified.recipe.prepared import Prepared


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compile")
    (folder / "toy.yaml").write_text(training_example.RECIPE)
    code, _, error = run("train", folder / "toy.yaml", "--out", folder / "run", "--quiet")
    assert code == 0, error
    return folder / "run"


def test_levels_and_the_last_batch_are_compiled_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, evaluated = [], []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(module)

        def forward(*values: Any) -> Any:
            evaluated.append(module)
            return module.forward(*values)

        return forward

    original = Prepared.compile
    monkeypatch.setattr(Prepared, "compile", lambda self: original(self, backend))
    arguments = (
        "sample",
        trained,
        "--n",
        10,
        "--batch",
        4,
        "--class",
        1,
        "--guidance",
        "classifier_free:w=2",
        "--quiet",
    )
    for out, more in ((tmp_path / "plain", ()), (tmp_path / "compiled", ("--compile",))):
        code, _, error = run(*arguments, "--out", out, *more)
        assert code == 0, error
    assert len(compiled) == 1  # one graph, without breaks
    assert len(evaluated) == 3 * 2 * 11  # batches, evaluations of a guided one, of Heun in six steps
    plain, found = (np.load(tmp_path / name / "samples.npy") for name in ("plain", "compiled"))
    assert np.abs(plain - found).max() < 1e-5


def test_a_formula_has_nothing_to_compile(tmp_path: Path) -> None:
    code, _, error = run("sample", "edm", "--compile", "--out", tmp_path / "out")
    assert code == 2
    assert "compile: this denoiser is a formula and has no network to compile; leave it out" in error
    assert not (tmp_path / "out").exists()


def test_a_compiler_that_is_missing_is_told_in_one_line(trained: Path) -> None:
    prepared = Prepared.of(options.load(str(trained)))

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    prepared.compile(backend)
    with pytest.raises(ValueError, match=r"^compile: torch cannot compile the network here \(.*no C\+\+ compiler.*\)"):
        prepared.sample(2)
