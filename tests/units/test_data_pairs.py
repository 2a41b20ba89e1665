"""Pairs (x, y): which partner a sample gets, what lacks one, and what a run keeps of the condition."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edm_unified import data
from edm_unified.data import order
from edm_unified.data.units import in_units_of
from edm_unified.recipe import RecipeError, loads, parse_data
from edm_unified.training.runs import kept_data


def folder(root: Path, names: list[str], values: list[int]) -> str:
    for name, value in zip(names, values, strict=True):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file)
    return str(root)


def test_partners_are_found_by_name_whatever_the_suffix_the_order_and_the_folder(tmp_path: Path) -> None:
    clean = folder(tmp_path / "clean", ["a/1.png", "a/2.png", "b/1.png", "b/10.png"], [1, 2, 11, 20])
    noisy = folder(tmp_path / "noisy", ["b/10.bmp", "b/1.bmp", "a/2.png", "a/1.tif"], [120, 111, 102, 101])
    found = data.Pairs(data.ImageFolder(clean), data.ImageFolder(noisy)).load()
    told = data.conditions_of(found, torch.arange(4))
    x = data.to_bytes(data.batch(found, torch.arange(4))[0])[:, 0, 0, 0]
    y = data.to_bytes(told["image"])[:, 0, 0, 0]
    assert (y.int() - x.int() == 100).all()
    assert found.class_names == ("a", "b")
    assert told["label"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("clean", "noisy", "words"),
    [
        (["1.png", "2.png", "3.png"], ["2.png"], r"samples: 2 of 3 have no partner \(1, 3\) in noisy, the condition"),
        (["2.png"], list("2abcd"), r"condition: 4 of 5 have no partner \(a, b, c, …\) in clean, the samples"),
        (["1.png"], ["one.png"], "condition: none has the name of a sample: one in noisy, 1 in clean; .*match: row"),
        (["1.png", "1.bmp"], ["1.png"], "samples: two are called '1' but for their suffix"),
    ],
)  # fmt: skip
def test_what_lacks_a_partner_is_named(tmp_path: Path, clean: list[str], noisy: list[str], words: str) -> None:
    names = [name if "." in name else f"{name}.png" for name in noisy]
    x, y = folder(tmp_path / "clean", clean, [0] * len(clean)), folder(tmp_path / "noisy", names, [0] * len(names))
    with pytest.raises(ValueError, match=words):
        data.Pairs(data.ImageFolder(x), data.ImageFolder(y)).load()


def test_arrays_of_one_file_are_matched_by_row_and_held_out_together(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.savez(tmp_path / "both.npz", x=x, y=x[:, :2] * 7, short=x[:4])
    path = str(tmp_path / "both.npz")
    first = data.Arrays(path, key="x")
    pairs = data.Pairs(first, data.Arrays(path, key="y"), holdout=0.3)
    parts = [pairs.load(), data.Pairs(first, pairs.condition, holdout=0.3, split="held_out").load()]
    assert sum(map(len, parts)) == 50
    assert min(map(len, parts)) > 5
    for part in parts:
        told = data.conditions_of(part, torch.arange(len(part)))
        torch.testing.assert_close(told["vector"], part.images[:, :2] * 7)
    with pytest.raises(ValueError, match=r"condition: both has 4 rows .* 50: the first without a partner is row 4 "):
        data.Pairs(first, data.Arrays(path, key="short")).load()
    with pytest.raises(ValueError, match=r"match: name: the samples .* have no names; take match: row"):
        data.Pairs(first, pairs.condition, match="name").load()


@pytest.mark.parametrize(
    ("shape", "given_as", "found"),
    [
        ((5,), None, "vector"), ((2, 4, 4), None, "image"), ((7, 6), "tokens", "tokens"),
        ((2, 4, 8), None, "as large as the sample"),
        ((7, 6), "vector", r"must be a vector \(K,\), and is of shape 7×6"),
    ],
)  # fmt: skip
def test_the_kind_of_a_condition_and_its_shape(
    tmp_path: Path, shape: tuple[int, ...], given_as: str, found: str
) -> None:
    np.save(tmp_path / "x.npy", np.full((6, 1, 4, 4), -0.5, np.float32))
    np.save(tmp_path / "y.npy", np.full((6, *shape), -0.5, np.float32))
    condition = data.Arrays(
        str(tmp_path / "y.npy"), layout="NCHW" if len(shape) == 3 else None, signals=len(shape) == 2
    )
    pairs = data.Pairs(data.Arrays(str(tmp_path / "x.npy")), condition, given_as=given_as)  # type: ignore[arg-type]
    if found in ("vector", "image", "tokens"):
        assert {kind: own.shape for kind, own in pairs.load().conditions.items()} == {found: shape}
    else:
        with pytest.raises(ValueError, match=f"condition: .*{found}"):
            pairs.load()


def test_paths_stand_for_the_parts(tmp_path: Path) -> None:
    clean, noisy = folder(tmp_path / "a, b", ["1.png"], [1]), folder(tmp_path / "007", ["1.png"], [2])
    wanted = data.Pairs(data.ImageFolder(clean), data.ImageFolder(noisy))
    assert parse_data(f"pairs:samples={clean},condition={noisy}") == wanted
    assert parse_data(f"pairs:samples={{kind: image_folder, path: '{clean}'}},condition={noisy}") == wanted
    assert parse_data(f"pairs:samples={{kind: arrays, path: 'x, y=z'}},condition={noisy}").samples.path == "x, y=z"
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"condition: .*empty: is an empty folder"):
        parse_data(f"pairs:samples={clean},condition={tmp_path / 'empty'}")
    text = "title: t\nsource: s\nschedule: {kind: edm}\nsampler: {steps: {kind: karras}, solver: {kind: heun}}\n"
    assert loads(text + f"data: {{kind: pairs, samples: '{clean}', condition: '{noisy}'}}").data == wanted  # type: ignore[union-attr]
    overrides = ["data.kind=pairs", f"data.samples={clean}", f"data.condition={noisy}"]
    assert loads(text, "t", overrides).data == wanted  # type: ignore[union-attr]
    for words in (clean, f"image_folder:path={clean}"):
        assert loads(text, "t", [f"data={words}"]).data == wanted.samples  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match=re.escape("data: condition: nowhere: neither data nor a file")):
        loads(text + f"data: {{kind: pairs, samples: '{clean}', condition: nowhere}}")


def test_a_run_keeps_the_scale_of_the_condition_and_gives_it_to_other_pairs(tmp_path: Path) -> None:
    x, y = torch.randn(30, 3), torch.randn(30, 2) * 50 + 7
    np.savez(tmp_path / "own.npz", x=x.numpy(), y=y.numpy())
    path = str(tmp_path / "own.npz")
    scaled = data.Pairs(data.Arrays(path, key="x"), data.Arrays(path, key="y", standardise=0.5)).load()
    said = kept_data.write(tmp_path, scaled, None)
    found = kept_data.read(tmp_path, said, lambda: scaled)
    assert found is not None
    kept = found[0].conditions["vector"]
    assert kept.scaling.same(scaled.conditions["vector"].scaling)
    assert kept.shape == (2,)
    chosen = order.indices(30, 0, 0, 8)
    wanted = data.conditions_of(scaled, chosen)["vector"]
    torch.testing.assert_close(data.conditions_of(found[0], chosen)["vector"], wanted)
    other = data.Pairs(data.Arrays(path, key="x"), data.Arrays(path, key="y")).load()  # as it is stored
    torch.testing.assert_close(data.conditions_of(in_units_of(found[0], other), chosen)["vector"], wanted)
