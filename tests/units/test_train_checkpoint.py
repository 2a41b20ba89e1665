"""What a run leaves behind: a denoiser that loads without pickle, and one line for whatever is wrong with it."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_example import recipe

import edm_unified as edm
from edm_unified.recipe import denoisers
from edm_unified.training.optimization.ema import gamma_of
from edm_unified.training.optimization.posthoc_ema import reconstruct
from edm_unified.training.parallel import Team
from edm_unified.training.runs import checkpoint, posthoc
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run"
    with Run(path, recipe().job(), CPU) as run:
        for _ in run.steps():
            pass
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")


def newest(run: Path) -> Path:
    return checkpoint.folders(run)[-1]


def test_a_loaded_denoiser_is_the_one_that_was_trained(tmp_path: Path) -> None:
    with Run(tmp_path, recipe("training.images=64").job(), CPU) as run:
        for _ in run.steps():
            pass
        trained = run.state.trainee.denoiser.eval()
        shown = run.denoiser()
    x, sigma, label = torch.randn(4, 2), torch.tensor([0.1, 1.0, 5.0, 50.0]), torch.tensor([0, 1, 2, -1])
    raw = edm.load(tmp_path, ema=0)
    assert not raw.training
    assert raw.shape == (2,)
    assert raw.classes == 3
    assert torch.equal(raw(x, sigma, label=label), trained(x, sigma, label=label))
    assert torch.equal(edm.load(tmp_path)(x, sigma, label=label), shown(x, sigma, label=label))  # the first average
    assert torch.equal(edm.load(tmp_path, ema=0.05)(x, sigma), edm.load(tmp_path)(x, sigma, label=-1))
    assert not torch.equal(edm.load(tmp_path, ema=0.1)(x, sigma), raw(x, sigma))


def test_one_checkpoint_of_several_can_be_named(run: Path) -> None:
    first, *_, last = checkpoint.folders(run)
    x = torch.randn(3, 2)
    assert torch.equal(edm.load(last)(x, 1.0), edm.load(run)(x, 1.0))
    assert not torch.equal(edm.load(first)(x, 1.0), edm.load(run)(x, 1.0))
    meta = json.loads((last / "checkpoint.json").read_text())
    assert (meta["images"], meta["shape"], meta["classes"], meta["data"]["shift"]) == (320, [2], 3, [0.0])


def test_no_pickle_is_opened(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pickle")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    edm.load(run)


@pytest.mark.parametrize("label", [3, -2, [0, 9, 1], 0.5])
def test_a_label_that_there_is_not_is_refused(finished: Path, label: Any) -> None:
    with pytest.raises(ValueError, match="label: must"):
        edm.load(finished)(torch.randn(3, 2), 1.0, label=torch.tensor(label))


def test_a_network_that_always_saw_a_class_wants_one(tmp_path: Path) -> None:
    with Run(tmp_path, recipe("training.images=32", "training.label_dropout=0").job(), CPU) as run:
        for _ in run.steps():
            pass
    D = edm.load(tmp_path)
    with pytest.raises(ValueError, match=r"label: must be from 0 to 2, got -1"):
        D(torch.randn(3, 2), 1.0)
    drawn = D.labels_for(2000, seed=3)
    assert drawn is not None
    assert torch.equal(D.labels_for(5, seed=3, first=7), drawn[7:12])  # sample i has its class in any batch
    counts = torch.tensor(D.about["class_counts"]).double()
    # binomial: five standard deviations of a share out of 2000
    assert (torch.bincount(drawn) / 2000 - counts / counts.sum()).abs().max() < 5 * (0.25 / 2000) ** 0.5


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _edited(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))


def _of_another(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"recipe": "0123456789abcdef"})


def _json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "checkpoint.json").read_text())
        meta.pop("sha256", None)  # as it was written once, without one of itself
        change(meta)
        (folder / "checkpoint.json").write_text(json.dumps(meta))

    return damage


def _not_json(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{")


def _no_json(folder: Path) -> None:
    (folder / "checkpoint.json").unlink()


def _missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "model.safetensors: not a readable safetensors file, it was cut off or changed"),
        (_edited, "model.safetensors: was changed after it was written"),
        (_of_another, "model.safetensors: is a checkpoint of another recipe than checkpoint.json beside it"),
        (_missing, "model.safetensors: is missing"),
        (_not_json, "checkpoint.json: cannot be read"),
        (_json(lambda meta: meta.update(format="other")), "checkpoint.json: is not an edm_unified checkpoint 1"),
        (_json(lambda meta: meta.pop("network")), "checkpoint.json: has no 'network'"),
        (_json(lambda meta: meta.update(shape="x")), "checkpoint.json: shape cannot be 'x'; it was edited"),
        (_json(lambda meta: meta.update(shape=[0])), "shape cannot be '[0]'"),
        (_json(lambda meta: meta.update(classes=-3)), "classes cannot be '-3'"),
        (_json(lambda meta: meta.update(network=None)), "network cannot be 'None'"),
        (_json(lambda meta: meta.update(weights=[])), "weights cannot be '[]'"),
        (_json(lambda meta: meta["weights"][0].pop("std")), "weights cannot be"),
        (_json(lambda meta: meta["weights"][0].update(file="../model.safetensors")), "weights cannot be"),
        (_json(lambda meta: meta.update(class_counts=[])), "class_counts are not those of 3 classes"),
        (_json(lambda meta: meta.pop("label_dropout")), "has no 'label_dropout'"),
        (_json(lambda meta: meta.pop("augment")), "has no 'augment'"),
        (_no_json, "checkpoint.json: is missing, the checkpoint is not whole"),
        (_json(lambda meta: meta["network"].update(width=32)), "has shape (16, 8), the network's is (32, 8)"),
        (_json(lambda meta: meta["network"].update(blocks=2)), "it is of another network"),
        (_json(lambda meta: meta["network"].update(kind="mlpp")), "unknown 'mlpp'"),
        (_json(lambda meta: meta["network"].update(wide=3)), "wide: MLP has no such field"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_one_line_and_the_run_goes_on(
    run: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(newest(run))
    with pytest.raises(ValueError, match="000000000320") as caught:
        edm.load(run, ema=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with Run(run, recipe().job(), CPU) as again:  # its state is whole
        assert again.state.step == 10


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, what in (("nothing", "no such run"), ("file", "a file, not a run"), (".", "no checkpoint in it")):
        with pytest.raises(ValueError, match=what):
            edm.load(tmp_path / name)


def test_an_average_that_there_is_not_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"has no average of 0.2; it has 0.05, 0.1, and 0 for the raw weights"):
        edm.load(finished, ema=0.2)


def test_the_denoiser_of_a_recipe(finished: Path) -> None:
    data = recipe().data
    assert data is not None
    D = denoisers.Checkpoint(str(finished)).build(data.load())
    assert D.shape == (2,)
    with pytest.raises(ValueError, match=r"was trained on samples of shape \(2,\), the data have \(1, 8, 8\)"):
        denoisers.Checkpoint(str(finished)).build(edm.data.Digits().load())


def test_averages_after_the_training(run: Path) -> None:
    """A length that was kept comes back as it is; another is the weighted mean that its profile says."""
    before = edm.load(run, ema=0.1).state_dict()
    meta = newest(run) / "checkpoint.json"
    with_it = json.loads(meta.read_text())
    without = with_it | {"weights": [entry for entry in with_it["weights"] if entry["std"] != 0.1]}
    del without["sha256"]
    meta.write_text(json.dumps(without))
    made = posthoc.write(run, (0.1, 0.12))
    assert [(m.std, m.images) for m in made] == [(0.1, 320), (0.12, 320)]
    assert made[0].mismatch < 1e-5  # the square root of the rounding of a sum of squares
    for name, tensor in edm.load(run, ema=0.1).state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-5, atol=1e-6)
    snapshots = [load_file(file) for file in sorted((run / "snapshots").glob("*.safetensors"))]
    times = [float(file.stem) for file in sorted((run / "snapshots").glob("*.safetensors"))]
    profiles = [(t, gamma_of(std)) for t in times for std in (0.05, 0.1)]
    shares = reconstruct(profiles, (320.0, 0.12))
    name = "blocks.0.inner.weight"
    parts = [snapshot[f"{std}/{name}"] for snapshot in snapshots for std in (0.05, 0.1)]
    expected = sum(share * part.double() for share, part in zip(shares, parts, strict=True))
    found = edm.load(run, ema=0.12).state_dict()[f"denoiser.network.{name}"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    assert [entry["std"] for entry in checkpoint.read_meta(newest(run))["weights"]] == [0.0, 0.05, 0.1, 0.12]


def test_averages_need_snapshots_and_sound_ones(run: Path, tmp_path: Path) -> None:
    with Run(tmp_path / "half", recipe("training.images=32", "training.ema=half_life").job(), CPU) as half:
        for _ in half.steps():
            pass
    with pytest.raises(ValueError, match=r"has no snapshots .* train with ema: \{kind: power\}"):
        posthoc.write(tmp_path / "half", (0.1,))
    file = next((run / "snapshots").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a readable snapshot"):
        posthoc.write(run, (0.1,))


def entries(run: Path) -> list[dict[str, Any]]:
    return checkpoint.read_meta(newest(run))["weights"]


def all_load(run: Path) -> None:
    """Every set of weights that checkpoint.json names is whole."""
    for entry in entries(run):
        edm.load(run, ema=entry["std"])
    edm.load(run)


def test_files_tell_any_two_lengths_apart() -> None:
    stds = (0.05, 0.0501, 0.0504, 0.1, 0.1001, 0.0500014999, 0.0500015001, 1e-4, 1e-9, 0.0, None)
    files = [checkpoint.Average(std, {}).file for std in stds]
    assert len(set(files)) == len(files)
    assert files[0] == "ema-0.050.safetensors"
    assert files[1] == "ema-0.0501.safetensors"
    assert files[-2:] == ["model.safetensors", "ema.safetensors"]


def test_averages_of_nearly_the_same_length_are_both_there(tmp_path: Path) -> None:
    with Run(tmp_path, recipe("training.images=64", "training.ema.stds=[0.0501,0.0504]").job(), CPU) as run:
        for _ in run.steps():
            pass
    all_load(tmp_path)
    assert [edm.load(tmp_path, ema=std).about["used"]["std"] for std in (0.0504, 0.0501)] == [0.0504, 0.0501]
    for std in (0.05, 0.0502, 0.0001):
        with pytest.raises(ValueError, match=rf"no average of {std:g}; it has 0.0501, 0.0504, and 0 for the raw"):
            edm.load(tmp_path, ema=std)


def test_a_run_whose_files_have_three_decimals_loads_and_keeps_them(run: Path) -> None:
    """As they were named once, 0.0504 by ema-0.050."""
    _json(lambda meta: meta["weights"][1].update(std=0.0504))(newest(run))
    before = edm.load(run, ema=0.0504).fingerprint
    with pytest.raises(ValueError, match=r"no average of 0.05; it has 0.0504, 0.1, and 0"):
        edm.load(run, ema=0.05)
    max((run / "snapshots").glob("*.safetensors")).unlink()  # so that 0.05 is not what was kept
    made = posthoc.write(run, (0.05, 0.0504))
    assert made[1].file.name == "ema-0.050.safetensors" != made[0].file.name
    assert edm.load(run, ema=0.0504).fingerprint == before != edm.load(run, ema=0.05).fingerprint
    all_load(run)


def test_a_length_is_found_as_it_is_shown(run: Path) -> None:
    posthoc.write(run, (0.0707106781,))
    assert edm.load(run, ema=0.0707107).about["used"]["std"] == 0.0707106781
    with pytest.raises(ValueError, match=r"no average of 0.0707; it has 0.05, 0.1, 0.0707107, and 0"):
        edm.load(run, ema=0.0707)
    assert edm.load(run, ema=0).about["used"]["std"] == 0


def test_averages_that_the_training_made_stay_and_the_first_is_the_default(run: Path) -> None:
    before = [edm.load(run, ema=std).fingerprint for std in (None, 0.05, 0.1, 0)]
    posthoc.write(run, (0.08,))
    made = posthoc.write(run, (0.05, 0.07, 0.1, 0.08))
    assert [m.file.name for m in made[::2]] == ["ema-0.050.safetensors", "ema-0.100.safetensors"]
    assert [edm.load(run, ema=std).fingerprint for std in (None, 0.05, 0.1, 0)] == before
    assert edm.load(run).about["used"]["std"] == 0.05
    assert [entry["std"] for entry in entries(run)] == [0.0, 0.05, 0.1, 0.08, 0.07]


def test_a_damaged_average_is_made_anew_in_its_place(run: Path) -> None:
    _json(lambda meta: meta["weights"][1].update(file="ema-0.100.safetensors"))(newest(run))  # two of one name, once
    with pytest.raises(ValueError, match="was changed after it was written"):
        edm.load(run)
    posthoc.write(run, (0.05,))
    assert edm.load(run).about["used"]["std"] == 0.05
    all_load(run)


def older(run: Path) -> None:
    """As if 0.07 had been put together with fewer snapshots: the next time it has other weights."""
    last = sorted((run / "snapshots").glob("*.safetensors"))[-1]
    last.rename(last.with_suffix(".away"))
    posthoc.write(run, (0.07,))
    last.with_suffix(".away").rename(last)


def test_a_checkpoint_is_whole_at_any_moment(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older(run)
    before = {entry["file"]: entry["sha256"] for entry in entries(run)}
    moments = []

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            found = real(*arguments, **options)
            if str(run) in str(arguments[0]):
                moments.append(name)
                all_load(run)
            return found

        monkeypatch.setattr(module, name, watched)

    watch(os, "replace")
    watch(Path, "unlink")
    posthoc.write(run, (0.07, 0.08))
    assert moments == ["replace"] * 3 + ["unlink"]
    after = {entry["file"]: entry["sha256"] for entry in entries(run)}
    assert {path.name for path in newest(run).glob("*.safetensors")} == after.keys() | {"data.safetensors"}
    assert len(before.keys() - after.keys()) == 1  # 0.07 as it was
    assert all(after[file] == before[file] for file in before.keys() & after.keys())


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_a_checkpoint_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    older(run)
    before = {path.name: path.read_bytes() for path in newest(run).iterdir() if path.is_file()}
    left, real = failing, os.fsync

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            posthoc.write(run, (0.07, 0.08))
    assert {path.name: path.read_bytes() for path in newest(run).iterdir() if path.is_file()} == before
    all_load(run)
    posthoc.write(run, (0.07, 0.08))
    all_load(run)


def test_a_length_that_the_snapshots_do_not_make_is_refused(run: Path) -> None:
    before = entries(run)
    for std in (1e-4, 1e-200, 5e-324, 0.28):
        with pytest.raises(
            ValueError, match=r"std: .* % off and at most 10 % may be; the nearest they make: "
        ) as caught:
            posthoc.write(run, (0.07, std))
        nearest = float(str(caught.value).split()[-1])
        assert entries(run) == before
        assert 0.03 < nearest < 0.15
        assert posthoc.write(run, (nearest,))[0].mismatch <= posthoc.LIMIT
        _json(lambda meta: meta.update(weights=before))(newest(run))


def test_a_length_far_from_two_that_were_kept_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path, recipe("training.images=32", "training.ema.stds=[0.01,0.25]").job(), CPU) as run:
        for _ in run.steps():
            pass
    with pytest.raises(ValueError, match=r"the nearest they make: 0\.0\d+ and 0\.\d+$"):
        posthoc.write(tmp_path, (0.07,))


def test_a_length_is_named_once_and_is_one(run: Path) -> None:
    for twice in ((0.1, 0.1), (0.1, 0.12, 0.10000001)):
        with pytest.raises(ValueError, match=r"std: 0.1 and 0.10*1? are one average; name each length once"):
            posthoc.write(run, twice)
    made = posthoc.write(run, (0.1201, 0.1204))
    assert len({m.file for m in made}) == 2
    for std in (0.0, -0.1, float("nan"), 0.5):
        with pytest.raises(ValueError, match="std: must be"):
            posthoc.write(run, (std,))


def test_a_file_that_is_no_snapshot_is_left_alone(run: Path) -> None:
    first = min((run / "snapshots").glob("*.safetensors"))
    expected = posthoc.write(run, (0.07,))
    for name in ("copy", "copy-000000000128", "128"):
        shutil.copy(first, first.with_name(f"{name}.safetensors"))
    (first.with_name("notes.safetensors")).write_text("mine")
    assert posthoc.write(run, (0.07,)) == expected
