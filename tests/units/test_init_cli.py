"""The recipes that ``init`` writes: they load, they train, and they say why; what ``--dry-run`` says of the hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import run as command
from PIL import Image

from edm_unified.networks import MLP, UNet, cost
from edm_unified.recipe import Recipe
from edm_unified.training import timing
from edm_unified.training.parallel import Team
from edm_unified.training.runs.run import Run


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A machine of 1e12 operations a second, which is not asked; the networks that were tried, by their operations."""
    tried: list[float] = []

    def timed(job: Any, device: torch.device, flops: float, seconds: float = 1.0) -> timing.Timing:
        tried.append(flops)
        return timing.Timing(1e12 / flops / 3, 5, 1.0)

    def bytes_of(component: Any, shape: Any, classes: int = 0, augment: int = 0, **more: Any) -> cost.Memory:
        with torch.device("meta"):
            size = 4 * cost.parameters(component.build(shape, classes, augment))
        return cost.Memory(size, size, 2 * size, size, more["batch"] * size)

    monkeypatch.setattr(timing, "time_steps", timed)
    monkeypatch.setattr(cost, "memory", bytes_of)  # that of a real step is measured in test_networks_cost.py
    return tried


def data(kind: str, top: Path) -> str:
    rng = np.random.default_rng(0)
    if kind == "table":
        np.save(top / "t.npy", rng.normal(3.0, 2.0, (200, 5)))
        return f"arrays:path={top}/t.npy"
    for i in range(40):
        name = top / "p" / (f"{i % 2}" if kind == "classes" else "") / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12) if kind == "odd" else (8, 8), dtype=np.uint8)).save(name)
    return f"{top}/p" if kind == "classes" else f"image_folder:path={top}/p,channels=1"


@pytest.mark.parametrize(("kind", "method"), [("table", "ddpm"), ("classes", "edm"), ("odd", "flow_matching")])
def test_a_recipe_that_is_written_trains(kind: str, method: str, tmp_path: Path, fast: list[float]) -> None:
    out = tmp_path / "recipe.yaml"
    words = ("init", data(kind, tmp_path), "--method", method, "--hours", 1e-6, "--device", "cpu", "--out", out)
    code, said, err = command(*words)
    assert code == 0, err
    assert "train it: edm-unified train" in said
    recipe = Recipe.load(out)
    assert isinstance(recipe.network, MLP if kind == "table" else UNet)
    assert recipe.training is not None
    assert recipe.training.conditional is (kind == "classes")
    assert Recipe.load(method).schedule == recipe.schedule
    short = Recipe.load(out, ["training.images=64", "training.batch=32"])
    with Run(tmp_path / "run", short.job(), Team(torch.device("cpu"))) as run:
        assert [step.progress.step for step in run.steps()] == [1, 2]
    before = out.read_bytes()
    code, _, err = command(*words)
    assert (code, err) == (2, f"Error: --out {out}: is there already; name another, or remove it first\n")
    assert out.read_bytes() == before


def test_more_hours_give_a_larger_network_and_the_numbers_have_reasons(tmp_path: Path, fast: list[float]) -> None:
    sizes = []
    for hours in (1e-5, 1):
        out = tmp_path / f"{hours}.yaml"
        words = ("init", "two_dimensional:name=moons,samples=60", "--hours", hours, "--device", "cpu", "--out", out)
        assert command(*words, "--quiet")[0] == 0
        found = Recipe.load(out)
        assert isinstance(found.network, MLP)
        assert found.training is not None
        sizes.append((found.network.width, found.training.images))
    assert sizes[0] < sizes[1]
    assert sizes[1][0] > 64  # of a ladder that begins with 64
    text = out.read_text()
    levels = yaml.safe_load(command("data", "two_dimensional:name=moons,samples=60", "--yaml")[1])
    tree = yaml.safe_load(text)
    assert tree["preconditioning"] == levels["preconditioning"]
    assert tree["objective"]["noise"] == levels["objective"]["noise"]
    assert tree["sampler"]["steps"] == levels["sampler"]["steps"]
    for name in ("sigma_data", "P_mean", "sigma_min", "sigma_max"):
        assert f"# {name}: " in text


def test_what_init_refuses(tmp_path: Path, fast: list[float]) -> None:
    for words, message in (
        (("init", "digits", "--method", "quickstart"), "is a comparison"),
        (("init", "nothing"), "neither data nor"),
        (("init", "digits", "--hours", 0), "--hours"),
        (("init", data("table", tmp_path), "--memory", 1e-6, "--device", "cpu"), "does not fit"),
    ):
        code, _, err = command(*words, "--out", tmp_path / "r.yaml", "--quiet")
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err
        assert not (tmp_path / "r.yaml").exists()


def test_a_dry_run_times_some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    memory = cost.Memory(*[1000] * 5)
    monkeypatch.setattr(cost, "memory", lambda *_, **options: memory)
    small = ("data.samples=64", "training.batch=32", "network.width=8", "network.blocks=1")
    sets = [word for value in small for word in ("--set", value)]
    words = ("train", "toy/train_2d", "--dry-run", *sets, "--device", "cpu")
    code, said, err = command(*words)
    assert code == 0, err
    assert " on cpu, an estimate: " in said
    monkeypatch.setattr(timing, "machine_memory", lambda device: 1000)
    assert "not timed on cpu: it needs more than half" in command(*words)[1]
    monkeypatch.undo()
    monkeypatch.setattr(timing, "_HEAVY", 1.0)
    assert "not timed on cpu: one image takes it too long" in command(*words)[1]
