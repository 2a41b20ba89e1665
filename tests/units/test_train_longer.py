"""A run may be made longer: it becomes what it had been with that length from the beginning, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from training_example import RECIPE, contents, recipe

from edm_unified.cli import main
from edm_unified.training.job import Job
from edm_unified.training.parallel import Team
from edm_unified.training.runs import checkpoint, log, posthoc
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))
LONG = ("training.images=500", "training.keep=20")
"""16 steps of 32: the last one goes over."""
EVERY = tuple(
    f"training.{name}_every={n}" for name, n in (("log", 96), ("save", 96), ("snapshot", 128), ("sample", 192))
)
"""In none of which a run of 300 images, which ends after 320, ends in its turn."""


def train(job: Job, directory: Path, stop: int | None = None) -> None:
    with Run(directory, job, CPU) as run:
        for step in run.steps():
            if step.progress.step == stop:
                return


def everything(run: Path) -> dict[str, Any]:
    """All that a run leaves: weights, averages and snapshots, what is said of them, pictures, and the log."""
    found: dict[str, Any] = dict(contents(run))
    for file in (*run.glob("samples/*"), *run.glob("checkpoints/*/*.json"), *run.glob("checkpoints/*/*.yaml")):
        found[str(file.relative_to(run))] = file.read_bytes()
    clock = ("seconds", "images_per_second")
    found["log"] = [{k: v for k, v in line.items() if k not in clock} for line in log.read(run / "log.jsonl")]
    return found


def of_the_past(found: dict[str, Any]) -> dict[str, Any]:
    """Without the recipes in old checkpoints, which name the length as it then was."""
    return {name: value for name, value in found.items() if not name.endswith(".yaml")}


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_a_finished_run_goes_on_as_if_it_had_never_ended(tmp_path: Path) -> None:
    """Snapshots, pictures, the log, the sums for its next line, and averages put together afterwards."""
    (tmp_path / "toy.yaml").write_text(RECIPE)
    common = [word for override in (*EVERY, *LONG[1:]) for word in ("--set", override)]

    def command(out: str, images: int) -> None:
        invoke("train", tmp_path / "toy.yaml", "--out", tmp_path / out, "--quiet", *common,
               "--set", f"training.images={images}")  # fmt: skip

    command("whole", 500)
    command("longer", 300)
    ended = everything(tmp_path / "longer")
    assert [line["images"] for line in ended["log"]] == [96, 192, 288, 320]
    assert {"samples/000000000320.npy", "snapshots/000000000320.safetensors"} <= ended.keys()
    command("longer", 500)
    whole, longer = everything(tmp_path / "whole"), everything(tmp_path / "longer")
    assert [line["images"] for line in longer["log"]] == [96, 192, 288, 384, 480, 512]
    assert "samples/000000000384.npy" in whole
    assert of_the_past(longer) == of_the_past(whole)
    assert {name.split("/")[0] for name in whole} == {"checkpoints", "snapshots", "samples", "log"}
    for run in ("whole", "longer"):
        assert posthoc.write(tmp_path / run, (0.07,))[0].images == 512
    assert contents(tmp_path / "longer") == contents(tmp_path / "whole")


@pytest.mark.parametrize("stop", [2, 7])
def test_an_interrupted_run_may_be_longer_than_it_was_to_be(tmp_path: Path, stop: int) -> None:
    train(recipe(*LONG, *EVERY).job(), tmp_path / "whole")
    train(recipe(*EVERY, "training.keep=20").job(), tmp_path / "longer", stop)
    train(recipe(*LONG, *EVERY).job(), tmp_path / "longer")
    assert of_the_past(everything(tmp_path / "longer")) == of_the_past(everything(tmp_path / "whole"))


def test_it_may_be_shorter_where_that_has_not_passed(tmp_path: Path) -> None:
    train(recipe(*EVERY, "training.images=192").job(), tmp_path / "whole")
    train(recipe(*EVERY).job(), tmp_path / "shorter", stop=4)
    train(recipe(*EVERY, "training.images=192").job(), tmp_path / "shorter")
    assert of_the_past(everything(tmp_path / "shorter")) == of_the_past(everything(tmp_path / "whole"))
    train(recipe(*EVERY).job(), tmp_path / "whole")
    with pytest.raises(ValueError, match=r"training\.images is 192, and 320 have been shown; set it to that or more"):
        Run(tmp_path / "whole", recipe(*EVERY, "training.images=192").job(), CPU)


def test_twice_longer_is_longer(tmp_path: Path) -> None:
    train(recipe(*EVERY, *LONG).job(), tmp_path / "whole")
    for images in (32, 300, 400, 500):
        train(recipe(*EVERY, LONG[1], f"training.images={images}").job(), tmp_path / "longer")
    assert of_the_past(everything(tmp_path / "longer")) == of_the_past(everything(tmp_path / "whole"))


def test_a_half_life_goes_on_too(tmp_path: Path) -> None:
    plain = ("training.ema={kind: half_life, images: 100}", "training.rate={kind: inverse_sqrt, t_ref: 100}")
    train(recipe("training.images=256", *plain).job(), tmp_path / "whole")
    train(recipe("training.images=128", *plain).job(), tmp_path / "longer")
    train(recipe("training.images=256", *plain).job(), tmp_path / "longer")
    assert contents(tmp_path / "longer") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "override",
    ["log_every=64", "save_every=160", "sample_every=32", "snapshot_every=64", "keep=1", "workers=3", "images=640"],
)
def test_what_no_weight_depends_on_may_change(tmp_path: Path, override: str) -> None:
    train(recipe().job(), tmp_path / "whole")
    train(recipe().job(), tmp_path / "run", stop=4)
    train(recipe(f"training.{override}").job(), tmp_path / "run")
    for ema in (0.0, 0.1):
        place = tmp_path / "run" / "checkpoints" / "000000000320" if "images" in override else tmp_path / "run"
        if place.exists():
            weights = [checkpoint.load(where, ema).state_dict() for where in (place, tmp_path / "whole")]
            assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert f"{override.replace('=', ': ')}\n" in (tmp_path / "run" / "recipe.yaml").read_text()
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["training"]
    assert kept[override.partition("=")[0]] == int(override.partition("=")[2])


def test_a_rate_that_ends_says_why_it_cannot_go_on(tmp_path: Path) -> None:
    """Cosine comes to 0: longer with the same rule learns nothing, and with another the past had been another."""
    rate = "training.rate={kind: cosine, images: 320}"
    train(recipe(rate, "training.images=320").job(), tmp_path)
    with pytest.raises(ValueError, match=r"cannot be trained longer, to training\.images 640: its learning rate "
                                         r"\(cosine\) has come to 0 by then; start over"):  # fmt: skip
        Run(tmp_path, recipe(rate, "training.images=640").job(), CPU)
    longer = ("training.rate={kind: cosine, images: 640}", "training.images=640")
    with pytest.raises(ValueError, match=r"training\.rate\.images was 320 and is 640, and with it the learning rate of "
                                         r"what was already learnt; name another directory"):  # fmt: skip
        Run(tmp_path, recipe(*longer).job(), CPU)
    assert [folder.name for folder in checkpoint.folders(tmp_path)] == ["000000000192", "000000000256", "000000000320"]


def test_a_cosine_that_does_not_come_to_nothing_goes_on(tmp_path: Path) -> None:
    rate = "training.rate={kind: cosine, images: 320, final: 0.1}"
    train(recipe(rate, "training.images=384").job(), tmp_path / "whole")
    train(recipe(rate, "training.images=320").job(), tmp_path / "longer")
    train(recipe(rate, "training.images=384").job(), tmp_path / "longer")
    assert contents(tmp_path / "longer") == contents(tmp_path / "whole")


def test_the_command_says_how_a_finished_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    words = ("train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--set", "training.images=64")
    invoke(*words, "--quiet")
    assert "is finished; a larger training.images goes on, --fresh starts over" in invoke(*words)
    invoke("train", tmp_path / "run", "--quiet", "--set", "training.images=96")
    assert [folder.name for folder in checkpoint.folders(tmp_path / "run")] == ["000000000064", "000000000096"]
