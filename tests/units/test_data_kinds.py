"""The kinds of data beyond plain files, the scaling, and what stays on disk until it is asked for."""

from __future__ import annotations

import math
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edm_unified import data
from edm_unified.data import measured, rows
from edm_unified.data.rows import ArrayRows, ImageRows, KeptRows
from edm_unified.recipe import denoisers


def refused(source: Any, *parts: str) -> None:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# -- scaling ----------------------------------------------------------------------------------------------------------


def test_all_bytes_make_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = data.to_unit(pixels)
    assert unit.dtype == torch.float32
    assert torch.equal(data.to_bytes(unit), pixels)
    assert torch.equal(data.to_bytes(unit.double() + 0.003), pixels)  # less than half a step, 1/255
    assert torch.equal(unit, -unit.flip(0))
    assert (unit[0], unit[-1]) == (-1, 1)
    assert data.to_bytes(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_a_scaling_is_invertible_and_two_make_one() -> None:
    raw = torch.linspace(-3, 7, 24).reshape(2, 3, 4)
    first = data.Scaling(2.0, 5.0)
    shift, scale = torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[2.0], [0.5], [1.0]])
    both = first.then(shift, scale)
    torch.testing.assert_close(both.to_unit(raw), (first.to_unit(raw) - shift) / scale)
    torch.testing.assert_close(both.to_raw(both.to_unit(raw)), raw)


def test_labels_must_fit() -> None:
    x = torch.zeros(3, 2)
    for labels, words in (
        (torch.zeros(2, dtype=torch.long), "must be 3 whole numbers"),
        (torch.zeros(3), "must be 3 whole numbers"),
        (torch.tensor([0, -1, 2]), "got -1 for sample 1"),
    ):
        with pytest.raises(ValueError, match=f"^labels: .*{words}"):
            data.Dataset(x, labels, "x")
    assert data.Dataset(x, torch.tensor([0, 4, 1]), "x").classes == 5


# -- what is read by index --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_arrays_stay_on_disk_and_batches_convert_what_they_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)  # channels last
    file = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(file, pixels)
    else:
        save_file({"first": torch.zeros(7), "x": torch.from_numpy(pixels)}, file)
    found = data.Arrays(str(file), key=None if suffix == ".npy" else "x").load()
    assert isinstance(found.stored, ArrayRows)
    base: Any = found.stored._array
    while not isinstance(base, np.memmap):
        base = base.base
    assert Path(base.filename) == file
    assert (len(found), found.shape) == (40, (3, 5, 4))
    chosen = torch.tensor([7, 0, 7, 39])
    samples, labels = data.batch(found, chosen)
    assert labels is None
    assert torch.equal(samples, data.to_unit(torch.from_numpy(pixels).movedim(3, 1)[chosen]))
    assert torch.equal(found.images[chosen], samples)
    assert found.images.is_contiguous()


def paint(path: Path, size: tuple[int, int], shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)


def test_a_large_folder_is_read_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        paint(tmp_path / f"class{i % 2}" / f"{i}.png", (5, 4), 40 * i)
    small = data.ImageFolder(str(tmp_path)).load()
    assert isinstance(small.stored, KeptRows)
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    large = data.ImageFolder(str(tmp_path)).load()
    assert isinstance(large.stored, ImageRows)
    assert isinstance(data.ImageFolder(str(tmp_path), in_memory=True).load().stored, torch.Tensor)
    for found in (small, large):
        samples, labels = data.batch(found, torch.tensor([5, 1]))
        assert labels is not None
        assert labels.tolist() == [1, 0]
        assert data.to_bytes(samples)[:, 0, 0, 0].tolist() == [200, 80]
        assert found.class_names == ("class0", "class1")
    assert torch.equal(small.images, large.images)
    paint(tmp_path / "class1" / "z.png", (4, 4), 0)
    refused(data.ImageFolder(str(tmp_path)), "images differ in size", "z.png is 4x4", "`size:`")
    (tmp_path / "class1" / "z.png").write_bytes(b"junk")
    refused(data.ImageFolder(str(tmp_path)), "z.png: not a readable image")


def test_celeba_on_disk(tmp_path: Path) -> None:
    names = [f"00000{i}.jpg" for i in range(1, 5)]
    for i, name in enumerate(names):
        paint(tmp_path / "celeba" / "img_align_celeba" / name, (178, 218), 60 * i)
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("".join(f"{n} {i % 2}\n" for i, n in enumerate(names)))
    table = "4\nMale Smiling\n" + "".join(f"{n}  {(-1) ** i} 1\n" for i, n in enumerate(names))
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(table)
    found = data.CelebA(str(tmp_path), size=16).load()
    assert found.images.shape == (2, 3, 16, 16)
    assert found.labels is None
    both = data.CelebA(str(tmp_path), size=16, split="all", attribute="Male").load()
    assert both.labels is not None
    assert both.labels.tolist() == [1, 0, 1, 0]
    refused(data.CelebA(str(tmp_path), attribute="Smilng"), "attribute: ", "did you mean 'Smiling'?")
    refused(data.CelebA(str(tmp_path), split="test"), "no picture in the split 'test'")
    refused(data.CelebA(str(tmp_path / "none")), "root: ", "no such folder")
    (tmp_path / "celeba" / "img_align_celeba" / names[0]).unlink()
    refused(data.CelebA(str(tmp_path)), "000001.jpg is missing")


def test_imagenet_on_disk(tmp_path: Path) -> None:
    for i, folder in enumerate(("n02000000", "n01000000")):
        paint(tmp_path / "train" / folder / "a.JPEG", (9 + i, 7), 100)
    found = data.ImageNet(str(tmp_path), size=4).load()
    assert isinstance(found.stored, ImageRows)
    assert found.class_names == ("n01000000", "n02000000")
    assert found.images.shape == (2, 3, 4, 4)
    (tmp_path / "train" / ".DS_Store").write_bytes(b"of macOS")
    assert len(data.ImageNet(str(tmp_path), size=4).load()) == 2
    refused(data.ImageNet(str(tmp_path), train=False), "root: ", "val: no such folder")
    paint(tmp_path / "val" / "loose.JPEG", (9, 9), 0)
    refused(data.ImageNet(str(tmp_path), train=False), "holds 'loose.JPEG'", "one folder per class")


def test_latents_are_standardised_by_channel_without_leaving_the_disk(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal([[[3]], [[-1]]], [[[9]], [[0.2]]], (200, 2, 4, 4)).astype(np.float16)
    np.save(tmp_path / "z.npy", latents)
    refused(data.Arrays(str(tmp_path / "z.npy")), "must lie in [-1, 1]", "standardise: 0.5")
    found = data.Arrays(str(tmp_path / "z.npy"), standardise=0.5).load()
    x = found.images.double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(found.scaling.to_raw(found.images), torch.from_numpy(latents).float(), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"^standardise: leave out `range`"):
        data.Arrays("a.npy", standardise=0.5, range=(0, 1))
    np.save(tmp_path / "c.npy", np.ones((3, 5), np.float32))
    refused(data.Arrays(str(tmp_path / "c.npy"), standardise=0.5), "standardise: ", "constant")


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
def test_columns_are_standardised_together_or_each_and_the_map_is_invertible(tmp_path: Path, dtype: str) -> None:
    table = np.random.default_rng(0).normal([1.7e6, 0, -3], [100, 1, 0.01], (300, 3)).astype(dtype)
    np.save(tmp_path / "t.npy", table)
    whole = data.Arrays(str(tmp_path / "t.npy"), standardise=0.2).load()
    x = whole.images.double()
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(correction=0)) - 0.2) < 1e-5
    each = data.Arrays(str(tmp_path / "t.npy"), standardise="per_axis", unit="s").load()
    x, own = each.images.double(), torch.from_numpy(table.astype(float))
    torch.testing.assert_close(x.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.full((3,), 0.5, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        each.scaling.to_raw((own - own.mean(0)) / own.std(0, correction=0) / 2), own, rtol=1e-9, atol=0
    )
    assert each.unit == "s"
    assert each.scaling.same(data.Arrays(str(tmp_path / "t.npy"), standardise="per_axis").load().scaling)
    assert not each.scaling.same(whole.scaling)
    table[:, 1] = 7
    np.save(tmp_path / "t.npy", table)
    refused(data.Arrays(str(tmp_path / "t.npy"), standardise="per_axis"), "column 1 of the data is constant, 7;")


def test_whole_numbers_are_told_by_all_of_them(tmp_path: Path) -> None:
    values = np.tile(np.arange(-2, 2, dtype=np.float32), (40, 1))
    np.save(tmp_path / "w.npy", values)
    values[39, 3] = 0.5
    np.save(tmp_path / "r.npy", values)
    kinds: list[dict[str, Any]] = [{"range": (-2, 2)}, {"standardise": 0.5}]
    for more in kinds:
        found = data.Arrays(str(tmp_path / "w.npy"), **more).load()
        assert found.in_whole_numbers
        assert found.extent == more.get("range")
        assert not data.Arrays(str(tmp_path / "r.npy"), **more).load().in_whole_numbers
    assert not data.Arrays(str(tmp_path / "w.npy")).load().in_whole_numbers  # nothing is known of their scale


def test_arrays_of_signals(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.arange(24, dtype=np.float32).reshape(2, 12))
    assert data.Arrays(str(tmp_path / "s.npy"), signals=True).load().images.shape == (2, 1, 12)
    np.save(tmp_path / "s.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    assert data.Arrays(str(tmp_path / "s.npy"), signals=True, range=(0, 23)).load().images.shape == (2, 3, 4)


class FakeTable:
    """As much of a table of the datasets library as is used."""

    def __init__(self, images: list[Any], labels: list[Any]) -> None:
        self._columns: dict[str, list[Any]] = {"image": images, "label": labels}
        self.column_names = list(self._columns)
        self.features = {"label": types.SimpleNamespace(names=["cat", "dog"])}

    def __len__(self) -> int:
        return len(self._columns["image"])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: [values[i] for i in key] for name, values in self._columns.items()}


def test_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(data.HuggingFace(str(tmp_path)), "pip install 'edm_unified[hf]'")
    images = [Image.new("RGB", (6, 4), (50 * i, 0, 0)) for i in range(3)]
    tables: Any = {"train": FakeTable(images, [1, 0, 1]), "test": FakeTable(images[:1], [0])}
    fake = types.SimpleNamespace(load_from_disk=lambda path: tables)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    refused(data.HuggingFace(str(tmp_path)), "split: ", "has test, train")
    refused(data.HuggingFace(str(tmp_path), split="tran"), "did you mean 'train'?")
    refused(data.HuggingFace(str(tmp_path), split="test", image="img"), "image: unknown 'img'")
    found = data.HuggingFace(str(tmp_path), split="train").load()
    samples, labels = data.batch(found, torch.tensor([2, 0]))
    assert samples.shape == (2, 3, 4, 6)
    assert data.to_bytes(samples)[:, 0, 0, 0].tolist() == [100, 0]
    assert labels is not None
    assert labels.tolist() == [1, 1]
    assert found.class_names == ("cat", "dog")
    tables["train"] = FakeTable([*images[:2], Image.new("RGB", (5, 4))], [0, 0, -1])
    refused(data.HuggingFace(str(tmp_path), split="train"), "must be zero or above, got -1 for sample 2")
    mixed = data.HuggingFace(str(tmp_path), split="train", label=None).load()
    with pytest.raises(ValueError, match="sample 2 is 5x4"):
        data.batch(mixed, torch.tensor([0, 2]))


def test_hugging_face_for_real(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"pixels": [np.full((4, 4), 10 * i, np.uint8).tolist() for i in range(3)], "label": [0, 1, 0]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    found = data.HuggingFace(str(tmp_path / "d"), image="pixels", channels=1).load()
    assert data.to_bytes(found.images)[:, 0, 0, 0].tolist() == [0, 10, 20]


# -- what is made up --------------------------------------------------------------------------------------------------


def test_photo_patches_are_cut_from_the_photographs() -> None:
    from sklearn.datasets import load_sample_image

    found = data.PhotoPatches(size=64, stride=48).load()
    whole = torch.from_numpy(np.array(load_sample_image("flower.jpg"))).movedim(2, 0)
    assert found.labels is not None
    per_photograph = 8 * 13  # floor((427 − 64)/48) + 1 rows, floor((640 − 64)/48) + 1 columns
    assert found.labels.bincount().tolist() == [per_photograph] * 2
    patch = data.batch(found, torch.tensor([per_photograph + 13 + 2]))[0][0]
    assert torch.equal(data.to_bytes(patch), whole[:, 48 : 48 + 64, 96 : 96 + 64])
    one = data.PhotoPatches(64, 48, "china").load()
    assert one.labels is None
    assert torch.equal(one.images, found.images[:per_photograph])
    with pytest.raises(ValueError, match=r"^size: must be a whole number from 1 to 427"):
        data.PhotoPatches(size=500)


@pytest.mark.parametrize("name", ["moons", "swiss_roll", "checkerboard", "spirals", "eight_gaussians"])
def test_planar_sets_have_the_stated_moments_and_noise(name: Any) -> None:
    n = 100_000
    found = data.TwoDimensional(name, samples=n, noise=0.1, sigma_data=0.7).load()
    x = found.images.double()
    spread = (x - x.mean(0)).square().mean().sqrt()
    assert abs(float(spread) - 0.7) < 0.7 * 5 / math.sqrt(n)  # no heavy tails: the error is below σ/√n
    assert x.mean(0).abs().max() < 5 * 1.5 * 0.7 / math.sqrt(n)
    assert torch.equal(found.images, data.TwoDimensional(name, samples=n, noise=0.1, sigma_data=0.7).load().images)
    assert not torch.equal(
        found.images[:50], data.TwoDimensional(name, samples=n, noise=0.1, seed=1).load().images[:50]
    )


def test_the_checkerboard_has_black_squares_alone() -> None:
    sharp = data.TwoDimensional("checkerboard", noise=0.0, sigma_data=math.sqrt(4 / 3)).load().images
    column, row = (sharp + 2).floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all()
    assert len((4 * column + row).unique()) == 8


@pytest.mark.parametrize(
    "source",
    [
        data.Fractal(4000),
        data.TwoDimensional("eight_gaussians", samples=50_000),
        data.RandomMixture(3, samples=50_000),
    ],
)
def test_data_of_known_density_are_drawn_from_it(source: Any) -> None:
    """Mean log-density and moments of the samples against those of fresh draws of the mixture, within 5 σ."""
    found = source.load()
    exact = denoisers.Known().build(found)
    assert found.labels is not None
    n = len(found)
    fresh = exact.sample(n, seed=1).double()
    x = found.images.double()
    ours, theirs = exact.log_prob(x, 1e-3), exact.log_prob(fresh, 1e-3)
    assert abs(float(ours.mean() - theirs.mean())) < 5 * math.sqrt(2) * float(theirs.std()) / math.sqrt(n)
    bound = 5 * math.sqrt(2) * fresh.std(0) / math.sqrt(n)
    assert ((x.mean(0) - fresh.mean(0)).abs() < bound).all()
    own = exact.log_prob(x, 1e-3, label=found.labels)
    assert float((own > exact.log_prob(x, 1e-3, label=(found.labels + 1) % found.classes)).double().mean()) > 0.9


@pytest.mark.parametrize(
    ("seed", "close"), [(2, 1e-3), (0, 1e-12)]
)  # the published trees were scaled by rounded numbers
def test_the_fractal_is_as_described(seed: int, close: float) -> None:
    fractal = data.Fractal(tree_seed=seed)
    weights, means, factors, _ = fractal._components()
    assert len(weights) == 2 * 127 * 8
    mean = weights @ means
    variance = weights @ (means.square() + factors.square().sum(2)) - mean.square()
    torch.testing.assert_close(mean, torch.zeros(2, dtype=torch.float64), atol=close, rtol=0)
    torch.testing.assert_close(variance.sqrt(), torch.full((2,), 0.5, dtype=torch.float64), atol=close, rtol=0)
    x = fractal.mixture().sample(100_000, seed=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.5, dtype=x.dtype), atol=0.01, rtol=0)
    assert len(data.Fractal(forks=0).mixture().weights) == 2 * 8


def test_unknown_densities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^denoiser: the distribution of digits is not known"):
        denoisers.Known().build(data.Digits().load())
    with pytest.raises(ValueError, match="known for eight_gaussians alone"):
        data.TwoDimensional("moons").mixture()


def test_signals_stay_in_range_and_have_the_frequencies_of_their_family() -> None:
    found = data.Signals(channels=2, length=128, samples=600).load()
    assert found.images.shape == (600, 2, 128)
    assert found.images.abs().max() <= 1
    assert found.labels is not None
    assert 200 < int(found.labels.sum()) < 400
    power = torch.fft.rfft(found.images).abs().square().mean((0, 1))
    assert power[: 128 // 8 + 8].sum() > 0.98 * power.sum()  # at most length/8 periods, and the width of a chirp's edge
    energy = found.images.square()
    early, late = energy[..., :32].mean((1, 2)), energy[..., -32:].mean((1, 2))
    damped = found.labels == 0
    assert early[damped].mean() > 1.5 * late[damped].mean()
    assert 0.8 < early[~damped].mean() / late[~damped].mean() < 1.25
    assert data.Signals("damped", samples=4).load().labels is None


def test_standardising_reads_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3, 4, 4)).astype(np.float32)
    whole = measured.standardised(values, data.Scaling(), 0.5)
    monkeypatch.setattr(measured, "_CHUNK", 100)
    torch.testing.assert_close(measured.standardised(values, data.Scaling(), 0.5)[0], whole[0])
