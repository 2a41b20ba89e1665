"""A run that is killed, refused or out of disk goes on from its last checkpoint as if nothing had been."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_example import RECIPE, contents, recipe

from edm_unified import load
from edm_unified.training.job import Job
from edm_unified.training.optimization.ema import Averages
from edm_unified.training.parallel import Team
from edm_unified.training.runs import checkpoint, distributed_files, log, posthoc
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))


def train(job: Job, directory: Path, stop: int | None = None, fresh: bool = False) -> None:
    """Train to the end, or leave after the step ``stop``."""
    with Run(directory, job, CPU, fresh) as run:
        for step in run.steps():
            if step.progress.step == stop:
                return


def timeless(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in log.read(run / "log.jsonl")]


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    command = ["train", tmp_path / "toy.yaml", "--quiet", "--device", "cpu"]
    program = [sys.executable, Path(__file__).with_name("killing.py"), tmp_path, *command]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 10, done.stdout
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    # raw, two averages and what is kept of the data in three checkpoints; snapshots at 128, 256 and 320 images
    assert len(whole) == 3 * 4 + 3
    assert killed == whole
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_is_done_again_since_the_last_checkpoint_is_the_same(tmp_path: Path, precision: str) -> None:
    job = recipe("training.images=192", f"training.precision={precision}", "training.log_every=96").job()
    train(job, tmp_path / "whole")
    for stop in (1, 3, 5):  # 3 and 5 are beyond a checkpoint, and between two lines of the log
        train(job, tmp_path / "cut", stop)
    train(job, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
    assert [line["images"] for line in timeless(tmp_path / "cut")] == [96, 192]


def test_averages_in_float32_of_an_earlier_version_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path / "whole")
    with monkeypatch.context() as earlier:
        kept = Averages.state_dict
        earlier.setattr(Averages, "state_dict", lambda self: {k: v.float() for k, v in kept(self).items()})
        train(job, tmp_path / "run", stop=3)
    state = checkpoint.folders(tmp_path / "run")[-1] / "state"
    entries: dict[str, Any] = distributed_files.read_contents(state).state_dict_metadata
    assert {e.properties.dtype for name, e in entries.items() if name.startswith("averages.")} == {torch.float32}
    train(job, tmp_path / "run")
    for std in (0, 0.05, 0.1):
        found, wanted = (load(tmp_path / name, ema=std).state_dict() for name in ("run", "whole"))
        for name, tensor in found.items():
            assert tensor.dtype == wanted[name].dtype
            torch.testing.assert_close(tensor, wanted[name], rtol=3e-7 if std else 0, atol=1e-8 if std else 0)


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    job = recipe("training.images=64").job()
    train(job, tmp_path)
    before = contents(tmp_path)
    with Run(tmp_path, job, CPU) as run:
        assert list(run.steps()) == []
    assert contents(tmp_path) == before


def test_the_newest_are_kept_and_one_has_the_state(tmp_path: Path) -> None:
    train(recipe("training.images=320", "training.keep=2").job(), tmp_path)
    found = checkpoint.folders(tmp_path)
    assert [folder.name for folder in found] == ["000000000256", "000000000320"]
    assert [(folder / "state").is_dir() for folder in found] == [False, True]


def test_fresh_starts_over(tmp_path: Path) -> None:
    train(recipe("training.images=128").job(), tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    train(recipe("training.images=64", "training.seed=1").job(), tmp_path, fresh=True)
    assert [folder.name for folder in checkpoint.folders(tmp_path)] == ["000000000064"]
    assert len(log.read(tmp_path / "log.jsonl")) == 2
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("failing", ["weights", "meta", "state", "log", "snapshot"])
def test_a_full_disk_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Wherever it is noticed: one OSError that names a file of the run, which goes on when there is room."""
    job = recipe("training.images=192").job()
    train(job, tmp_path / "whole")
    run = tmp_path / "run"
    train(job, run, stop=3)
    before = contents(run)
    with monkeypatch.context() as full:
        _fill(full, failing)
        with pytest.raises(OSError, match="No space left") as caught:
            train(job, run)
    assert str(run) in str(caught.value.filename)
    kept = contents(run)
    assert {name: kept[name] for name in before} == before
    assert not list((run / "checkpoints").glob(".*"))
    checkpoint.load(run)
    train(job, run)
    assert contents(run) == contents(tmp_path / "whole")
    assert timeless(run) == timeless(tmp_path / "whole")


def _fill(full: pytest.MonkeyPatch, failing: str) -> None:
    """Make the disk full for one kind of file."""
    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrap(module: Any, name: str, suffix: str) -> None:
        real = getattr(module, name)

        def write(path: Path, content: Any) -> Any:
            if path.name.endswith(suffix):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, content)

        full.setattr(module, name, write)

    from edm_unified.components import outputs

    if failing == "weights":
        wrap(checkpoint, "write_atomic", "ema-0.100.safetensors")
    elif failing == "meta":
        wrap(checkpoint, "write_atomic", "checkpoint.json")
    elif failing == "snapshot":
        wrap(outputs, "stage", ".safetensors")
    elif failing == "state":
        real = torch.save

        def save(*arguments: Any, **options: Any) -> None:
            real(*arguments, **options)
            raise no_room

        full.setattr(torch, "save", save)
    else:
        full.setattr(log.os, "write", lambda handle, data: 0)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    job = recipe("training.images=64").job()
    with Run(tmp_path, job, CPU), pytest.raises(ValueError, match=r"another run is writing here; wait for it"):
        Run(tmp_path, job, CPU)
    train(job, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed=1", "training.seed was 0 and is 1"),
        ("network.width=32", "network.width was 16 and is 32"),
        ("data.samples=600", "data.samples was 512 and is 600"),
        ("training.clip=null", "training.clip was 1.0 and is null"),
        ("preconditioning=flow_matching", 'preconditioning.kind was "edm" and is "flow_matching"'),
    ],
)
def test_another_recipe_in_the_same_directory_is_refused(tmp_path: Path, override: str, message: str) -> None:
    train(recipe("training.images=64").job(), tmp_path)
    with pytest.raises(ValueError, match="was begun with another recipe") as caught:
        Run(tmp_path, recipe("training.images=64", override).job(), CPU)
    assert message in str(caught.value)


def test_what_training_does_not_depend_on_may_change(tmp_path: Path) -> None:
    train(recipe("training.images=128").job(), tmp_path, stop=2)
    train(recipe("training.images=128", "title=Another", "sampler.steps.n=9").job(), tmp_path)
    assert "n: 9" in (tmp_path / "recipe.yaml").read_text()


def test_snapshots_from_before_the_title_changed_are_still_of_the_run(tmp_path: Path) -> None:
    short = ("training.images=128", "training.snapshot_every=32")
    train(recipe(*short).job(), tmp_path, stop=2)
    train(recipe(*short, "title=Another").job(), tmp_path)
    assert [made.images for made in posthoc.write(tmp_path, (0.07,))] == [128]


@pytest.mark.parametrize(
    "override",
    [
        "training.augment={kind: mirror}",
        "training.augment={kind: edm}",
        "objective.matching={kind: implicit, most: 1}",
    ],
)
def test_what_the_first_step_would_find_is_found_before(tmp_path: Path, override: str) -> None:
    path = override.partition("=")[0]
    with pytest.raises(ValueError, match=f"^{path}"):
        recipe("training.images=64", override).job()


def test_what_cannot_be_built_neither_binds_a_directory_nor_clears_one(tmp_path: Path) -> None:
    job = recipe("training.images=64").job()
    bad = recipe("network={kind: unet, channels: 8}").job()
    with pytest.raises(ValueError, match=r"network\."):
        Run(tmp_path, bad, CPU)
    train(job, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"network\."):
        Run(tmp_path, bad, CPU, fresh=True)
    with pytest.raises(ValueError, match="accumulation × processes"):
        Run(tmp_path, job, Team(torch.device("cpu"), 0, 3), fresh=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("where", ["read_data", "write_data"])
def test_ctrl_c_while_a_state_is_read_or_written_is_no_damage(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.checkpoint import filesystem

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    job = recipe("training.images=192").job()
    train(job, tmp_path, stop=2)
    with monkeypatch.context() as patch:
        reads = where == "read_data"
        patch.setattr(filesystem.FileSystemReader if reads else filesystem.FileSystemWriter, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(job, tmp_path)
    train(job, tmp_path)
    train(job, tmp_path.with_name("whole"))
    assert contents(tmp_path) == contents(tmp_path.with_name("whole"))


def test_a_line_of_the_log_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path / "whole")
    train(job, tmp_path / "run", stop=4)
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"step": 5, "ima')
    train(job, tmp_path / "run")
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")


@pytest.mark.parametrize("line", ['{"step": "a"}', '{"step": 7}', '{"loss": 1.0}', "[]", "null"])
def test_a_line_that_is_none_of_ours_is_dropped(tmp_path: Path, line: str) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path)
    before = timeless(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(f"{line}\n")
    train(recipe("training.images=256").job(), tmp_path)
    after = timeless(tmp_path)
    assert after[: len(before)] == before
    assert [entry["images"] for entry in after] == sorted({entry["images"] for entry in after})
    assert after[-1]["images"] == 256


@pytest.mark.parametrize("content", ["[]", '{"recipe": []}', '{"recipe": null}', "{"])
def test_a_run_json_that_is_none_of_ours(tmp_path: Path, content: str) -> None:
    job = recipe("training.images=64").job()
    train(job, tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json: cannot be read; copy it again, or start over with --fresh"):
        Run(tmp_path, job, CPU)


def test_other_data_are_refused(tmp_path: Path) -> None:
    import numpy as np

    file = tmp_path / "x.npy"
    data = f"data={{kind: arrays, path: {file}}}"
    plain = ("training.images=64", "training.conditional=false", "training.label_dropout=0.0", data)
    np.save(file, np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32))
    train(recipe(*plain).job(), tmp_path / "run")
    train(recipe(*plain).job(), tmp_path / "run")
    for shape in ((100, 2), (300, 3)):
        np.save(file, np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match=r"was begun with other data: 300 samples of shape 2") as caught:
            Run(tmp_path / "run", recipe(*plain).job(), CPU)
        assert f"now {shape[0]} samples of shape {shape[1]}" in str(caught.value)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["data"], about["sha256"]  # of a run that was begun before these were kept
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    np.save(file, np.zeros((100, 2), np.float32))
    train(recipe(*plain).job(), tmp_path / "run")


def test_one_bit_of_the_state(tmp_path: Path) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path, stop=4)
    file = next((checkpoint.folders(tmp_path)[-1] / "state").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=rf"{file.name}: was changed after it was written; .* --fresh"):
        Run(tmp_path, job, CPU)


@pytest.mark.parametrize("damage", ["cut", "missing", "gone"])
def test_a_damaged_state_is_one_line_with_a_remedy(tmp_path: Path, damage: str) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path, stop=4)
    state = checkpoint.folders(tmp_path)[-1] / "state"
    file = next(state.glob("*.distcp"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "missing":
        file.unlink()
    else:
        for part in [*state.iterdir()]:
            part.unlink()
        state.rmdir()
    with pytest.raises(ValueError, match=r"000000000128") as caught:
        Run(tmp_path, job, CPU)
    assert "\n" not in str(caught.value)
    assert "start over with --fresh" in str(caught.value)  # the checkpoint before it has no state
    assert "remove" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_step_and_sigma_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = recipe("training.images=192").job()
    train(job, tmp_path / "whole")
    from edm_unified.training import loop

    real, calls = loop._inputs, []

    def spoilt(*arguments: Any) -> Any:
        x0, u, n, cond = real(*arguments)
        calls.append(1)
        if len(calls) == 4:
            n[7] = float("nan")
            u[7] = 0.5  # the median of p(σ): e^{P_mean}
        return x0, u, n, cond

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_inputs", spoilt)
        with pytest.raises(FloatingPointError, match=r"not finite in step 4, for 1 samples, at sigma = 0.301194"):
            train(job, tmp_path / "run")
    train(job, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_the_log_has_the_loss_by_noise_level(tmp_path: Path) -> None:
    train(recipe("training.images=64").job(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert sum(number for _, _, number in line["bins"]) == 32
        mean = sum(loss * number for _, loss, number in line["bins"]) / 32
        assert mean == pytest.approx(line["loss"], rel=1e-12)
