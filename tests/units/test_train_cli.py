"""The commands around training: train, ema, and sample, show and compare on what they leave."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from training_example import RECIPE, contents

from edm_unified.cli import main

DIGITS = RECIPE.replace("{kind: random_mixture, dimension: 2, components: 3, samples: 512}", "{kind: digits}")


def invoke(*arguments: object, code: int = 0) -> str:
    """The output of the command, which must end with ``code``; of a failure, its one line."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    if code == 2:
        lines = result.output.strip().splitlines()
        assert len(lines) == 1, result.output
        assert lines[0].startswith("Error: ")
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "digits.yaml").write_text(DIGITS)
    with pytest.MonkeyPatch.context() as patch:
        dots.draw_figures(patch.setattr)  # its page is looked at
        invoke("train", folder / "digits.yaml", "--out", folder / "run", "--device", "cpu")
    shutil.copy(folder / "run" / "report.html", folder / "page.html")  # later commands make it anew, with dots
    return folder / "run"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path / "toy.yaml"


def test_a_run_has_weights_a_log_pictures_and_a_page(trained: Path) -> None:
    assert (trained / "recipe.yaml").read_text().startswith("title: A toy\n")
    assert [line["images"] for line in map(json.loads, (trained / "log.jsonl").read_text().splitlines())] == [
        *range(32, 321, 32)
    ]
    with Image.open(trained / "samples" / "000000000320.png") as picture:
        assert picture.size[0] > 64
    page = (trained.parent / "page.html").read_text()
    for words in (
        "Loss against the noise level",
        "Norm of the gradient",
        "Learning rate",
        "data:image/png",
        "kind: mlp",
    ):
        assert words in page
    assert "http://" not in re.sub(r"http://www\.w3\.org/[\w/.]*", "", page)  # nothing is fetched


def test_the_same_command_again_says_that_it_is_finished(trained: Path) -> None:
    assert "is finished; a larger training.images goes on, --fresh starts over" in invoke(
        "train", trained.parent / "digits.yaml", "--out", trained, "--device", "cpu"
    )


def test_another_recipe_is_refused_in_one_line(trained: Path) -> None:
    text = invoke("train", trained.parent / "digits.yaml", "--out", trained, "--set", "training.batch=16", code=2)
    assert "training.batch was 32 and is 16" in text


def test_sample_show_and_compare_take_a_run(trained: Path, tmp_path: Path) -> None:
    invoke("sample", trained, "--n", 5, "--out", tmp_path / "s", "--class", 3, "--quiet")
    assert np.load(tmp_path / "s" / "samples.npy").shape == (5, 1, 8, 8)
    assert f"path: {trained}" in (tmp_path / "s" / "recipe.yaml").read_text()
    assert "checkpoint" in invoke("show", trained)
    out = invoke("compare", trained, "--solver", "euler", "--solver", "heun", "--nfe", "3", "--json",
                 "--samples", "16", "--set", "reference_samples=4", "--set", "grid_samples=4",
                 "--out", tmp_path / "c")  # fmt: skip
    records = [json.loads(line) for line in out.splitlines()]
    assert {r["solver"] for r in records} == {"euler", "heun"}
    assert {r["metric"] for r in records} == {
        "error_median", "error_rms", "sliced_wasserstein", "energy_distance", "frechet"
    }  # fmt: skip  # no density
    assert all(np.isfinite(r["value"]) for r in records)


def test_a_run_in_the_place_of_the_recipe_is_continued_where_it_is(toy: Path, tmp_path: Path) -> None:
    invoke("train", toy, "--out", tmp_path / "run", "--quiet", "--set", "training.images=64")
    weights = tmp_path / "run" / "checkpoints"
    for path in sorted(weights.glob("*/*"), reverse=True):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (weights / "000000000064").rmdir()
    assert "has no checkpoint yet" in invoke("sample", tmp_path / "run", "--out", tmp_path / "s", "--quiet", code=2)
    moved = (tmp_path / "run").rename(tmp_path / "rün 2")
    invoke("train", moved, "--quiet")
    assert "kind: checkpoint" not in (moved / "recipe.yaml").read_text()
    invoke("sample", moved, "--n", 2, "--quiet", "--out", tmp_path / "s")


def test_a_picture_that_a_kill_prevented_is_drawn_later(toy: Path, tmp_path: Path) -> None:
    words = ("train", toy, "--out", tmp_path / "run", "--quiet")
    invoke(*words)
    pictures = sorted((tmp_path / "run" / "samples").glob("*.npy"))  # written after its picture
    last = pictures[-1].read_bytes()
    pictures[-1].unlink()
    invoke(*words)
    assert pictures[-1].read_bytes() == last


def test_a_run_without_its_recipe_names_the_file(toy: Path, tmp_path: Path) -> None:
    invoke("train", toy, "--out", tmp_path / "run", "--quiet")
    (tmp_path / "run" / "recipe.yaml").unlink()
    for command in ("train", "sample", "compare"):
        assert "recipe.yaml: is missing; copy that of one of the run" in invoke(command, tmp_path / "run", code=2)


def test_fresh_removes_nothing_where_the_extra_is_not_there(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", toy, "--out", tmp_path / "run", "--quiet")
    invoke(*words)
    before = contents(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "--tensorboard: is not installed" in invoke(*words, "--fresh", "--tensorboard", code=2)
    assert contents(tmp_path / "run") == before


def test_a_run_with_the_name_of_a_shipped_recipe_is_not_taken_for_it(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "edm-unified sample ./edm " in invoke("train", toy, "--out", "edm", "--set", "training.images=32")
    for command in ("sample", "show", "compare"):
        text = invoke(command, "edm", code=2)
        assert "edm: is a run in this directory and a shipped recipe too; write ./edm for the run" in text
    assert "checkpoint" in invoke("show", "./edm")


def test_a_small_closed_form_is_drawn_by_one_thread_and_a_network_by_all(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edm_unified.sampling import loop as sampling

    real, seen = sampling.sample, []

    def sample(*given: Any, **named: Any) -> Any:
        seen.append(torch.get_num_threads())
        return real(*given, **named)

    monkeypatch.setattr(sampling, "sample", sample)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for words in (("edm",), (trained,), (trained, "--threads", 3)):
            invoke("sample", *words, "--n", 2, "--steps", 2, "--out", tmp_path, "--quiet")
        assert (seen, torch.get_num_threads()) == ([1, 2, 3], 2)
    finally:
        torch.set_num_threads(before)


def test_the_axes_of_the_page_are_in_plain_letters(trained: Path) -> None:
    page = (trained.parent / "page.html").read_text()
    assert "mathdefault" not in page
    assert ">0.1</text>" in page


def test_new_weights_are_not_taken_for_the_old_ones(toy: Path, tmp_path: Path) -> None:
    """compare keeps what it has measured; a run that was trained further is another denoiser."""
    values = []
    for images in (64, 128):
        invoke("train", toy, "--out", tmp_path / "run", "--fresh", "--quiet", "--set", f"training.images={images}")
        out = invoke("compare", tmp_path / "run", "--nfe", "5", "--samples", "8",
                     "--set", "metrics=[sliced_wasserstein]", "--set", "rank_by=sliced_wasserstein",
                     "--set", "reference_samples=4", "--set", "grid_samples=4",
                     "--out", tmp_path / "c", "--json")  # fmt: skip
        values.append(json.loads(out.splitlines()[0])["value"])
    assert values[0] != values[1]


def test_ema_writes_other_lengths(trained: Path, tmp_path: Path) -> None:
    out = invoke("ema", trained, "--std", "0.07,0.12", "--quiet")
    assert out == ""
    invoke("sample", trained, "--n", 2, "--set", "denoiser.ema=0.07", "--out", tmp_path, "--quiet")
    assert "has no average of 0.2" in invoke(
        "sample", trained, "--set", "denoiser.ema=0.2", "--out", tmp_path, "--quiet", code=2
    )
    assert "must be numbers with commas" in invoke("ema", trained, "--std", "a", code=2)
    assert "must be at most 0.2887" in invoke("ema", trained, "--std", "0.5", code=2)


def test_dry_run_tells_what_it_would_cost_and_writes_nothing(toy: Path, tmp_path: Path) -> None:
    out = invoke("train", toy, "--dry-run", "--out", tmp_path / "run")
    for words in ("kind: mlp", "parameters", "FLOPs", "memory", "320 images in 10 steps of 32"):
        assert words in out
    assert not (tmp_path / "run").exists()


def test_dry_run_needs_no_data(toy: Path) -> None:
    absent = ("--dry-run", "--set", "data={kind: torchvision, name: CIFAR10, root: /nowhere}")
    assert "3×32×32, not at hand" in invoke("train", toy, *absent)
    arrays = ("--dry-run", "--set", "data={kind: arrays, path: /nowhere.npy}")
    assert "--shape 3,32,32" in invoke("train", toy, *arrays, code=2)
    assert "4×8×8" in invoke("train", toy, *arrays, "--shape", "4,8,8", "--classes", "10")


def _folder(tmp_path: Path, *sizes: tuple[int, int]) -> str:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, size in enumerate(sizes):
        Image.new("L", size).save(folder / f"{i}.png")
    return f"data={{kind: image_folder, path: {folder}, channels: 1}}"


def _array(tmp_path: Path, name: str, **arrays: np.ndarray) -> Path:
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def test_bad_input_is_one_line_each_and_the_run_stays_as_it_was(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    invoke("train", toy, "--out", out, "--quiet", "--set", "training.images=64")
    x = np.zeros((64, 2), np.float32)
    bad = x.copy()
    bad[9, 1] = np.nan
    labels = np.arange(64) - 1
    nan, negative = _array(tmp_path, "nan.npz", x=bad), _array(tmp_path, "neg.npz", x=x, y=labels)
    plain = _array(tmp_path, "plain.npz", x=x)
    unet = "network={kind: unet, channels: 8, multipliers: [1, 2, 2], blocks: 1}"
    mixed = _folder(tmp_path, (8, 8), (8, 9))
    (tmp_path / "empty").mkdir()
    cases = {
        f"data={{kind: arrays, path: {plain}}}": "training.conditional: the data (plain) have no labels",
        f"data={{kind: arrays, path: {nan}}}": "NaN",
        f"data={{kind: arrays, path: {negative}, key: x, label_key: y}}": "must be zero or above, got -1",
        mixed: "differ in size",
        f"data={{kind: image_folder, path: {tmp_path / 'empty'}}}": "no image in this folder",
        f"data={{kind: image_folder, path: {tmp_path / 'nowhere'}}}": "no such folder",
        "training.batch=1024": "training.batch: must not be more than the 512 samples of the data, got 1,024",
        unet: "network.",
        "training.accumulation=3": "accumulation: must divide batch 32",
        "network=null": "network: missing; training needs data, network",
        "training.label_dropout=2": "label_dropout: must lie in [0, 1]",
        "training.ema.stds=[0.5]": "must be at most 0.2887",
        "training.precision=float8": "unknown 'float8'",
    }
    for override, message in cases.items():
        assert message in invoke("train", toy, "--out", out, "--quiet", "--set", override, code=2), override
    assert "no such kind of device" in invoke("train", toy, "--out", out, "--device", "warp", code=2)
    assert "denoiser: missing; train one" in invoke("sample", toy, "--out", tmp_path / "s", "--quiet", code=2)
    (tmp_path / "file").touch()
    assert "is a file; name a directory" in invoke("train", toy, "--out", tmp_path / "file", code=2)
    invoke("train", toy, "--out", out, "--quiet", "--set", "training.images=64")


def test_the_sampler_must_stay_within_what_the_network_is_trained_on(toy: Path, tmp_path: Path) -> None:
    text = invoke("train", toy, "--out", tmp_path / "run", "--set", "preconditioning=vp", "--set",
                  "sampler.steps.sigma_max=500", code=2)  # fmt: skip
    assert "the network supports σ up to" in text
    assert not (tmp_path / "run").exists()
