"""Classes by name: their order, their sources, how those of other data find those of a run; and held-out parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edm_unified.data import Arrays, Dataset, Digits, ImageFolder, ImageNet, batch, classes, labels, splits


def paint(top: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (20 * i, i, 255 - i)).save(top / name)


def of(dataset: Dataset) -> list[str]:
    """The name of the class of each sample."""
    assert dataset.labels is not None
    return [dataset.class_names[i] for i in dataset.labels.tolist()]


def test_folders_that_are_whole_numbers_are_in_their_order(tmp_path: Path) -> None:
    paint(tmp_path, *(f"{k}/a.png" for k in ("0", "1", "2", "9", "10", "11")), "007/a.png")
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("0", "1", "2", "007", "9", "10", "11")
    assert of(data) == ["0", "007", "1", "10", "11", "2", "9"]  # the files stay in the order of their paths
    assert classes.ordered(["b10", "b9", "7"]) == ("7", "b10", "b9")


def test_a_folder_without_samples_moves_none_of_the_others(tmp_path: Path) -> None:
    paint(tmp_path, "apple/a.png", "cloud/c.png")
    (tmp_path / "basil" / ".hidden").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").write_text("no image, and so no class")
    data = ImageFolder(str(tmp_path)).load()
    assert data.class_names == ("apple", "basil", "cloud")
    assert data.class_counts == [1, 0, 1]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 2]


@pytest.mark.parametrize("known", [("apple", "basil", "cloud"), ("cloud", "basil", "apple", "dew")])
def test_other_data_are_matched_by_name(known: tuple[str, ...]) -> None:
    one = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]), "part", class_names=("basil", "cloud"))
    many = Dataset(torch.zeros(2, 2), torch.tensor([[True, False], [True, True]]), "m", class_names=("basil", "cloud"))
    found, several = classes.matched(one, known), classes.matched(many, known)
    assert of(found) == ["basil", "cloud", "cloud", "basil"]
    assert found.class_names == several.class_names == known
    assert several.labels is not None
    assert [{known[k] for k in row.nonzero().flatten()} for row in several.labels] == [{"basil"}, {"basil", "cloud"}]
    strange = Dataset(torch.zeros(1, 2), torch.tensor([1]), "x", class_names=("basill", "durian"))
    with pytest.raises(ValueError, match=r"^other: has a class 'durian' \(1 samples\); known are .*apple"):
        classes.matched(strange, known, "other")


def test_a_class_is_named_by_its_name_and_else_by_its_number() -> None:
    shapes, years, plain = ("circle", "square"), ("1", "007", "2024"), classes.numbers(3)
    assert [classes.number_of(word, shapes) for word in ("square", "0", 1)] == [1, 0, 1]
    assert [classes.number_of(word, years) for word in ("1", "7", "007", 2024)] == [0, 1, 1, 2]
    assert classes.number_of("2", plain) == 2
    for word, names, words in (
        ("circel", shapes, "did you mean 'circle'"), ("0", years, "there are 1, 007, 2024"), ("2", shapes, "no class"),
        ("3", plain, "from 0 to 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            classes.number_of(word, names)


TABLES = {
    "metadata.jsonl": '{"file_name": "s0/1.png", "label": "cat"}\n{"file_name": "s0/2.png", "label": "ant"}\n'
    '{"file_name": "s1/3.png", "label": "cat"}\n{"file_name": "gone.png", "label": "bee"}\n',
    "metadata.csv": "file_name,label\ns0/1.png,cat\ns0/2.png,ant\ns1/3.png,cat\ngone.png,bee\n",
    "bare.csv": "1.png,cat\n2.png,ant\n3.png,cat\nother.png,bee\n",
    "by_id.csv": "id,sky,class\n1,x,cat\n2,x,ant\n3,x,cat\n9,x,bee\n",
    "tabs.tsv": "file\tlabel\ns0/1.png\tcat\ns0/2.png\tant\n.\\s1\\3.png\tcat\nother.png\tbee\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_names_the_classes(name: str, tmp_path: Path) -> None:
    top = tmp_path / "pictures"
    paint(top, "s0/1.png", "s0/2.png", "s1/3.png")
    inside = name.startswith("metadata")
    (top / name if inside else tmp_path / name).write_text(TABLES[name])
    data = ImageFolder(str(top), labels=None if inside else labels.LabelTable(str(tmp_path / name))).load()
    assert of(data) == ["cat", "ant", "cat"]
    assert data.class_names == ("ant", "bee", "cat")  # bee without a sample
    paint(top, "s1/4.png")
    with pytest.raises(ValueError, match=r"no label for 1 of 4 files, the first s1/4\.png"):
        ImageFolder(str(top), labels=None if inside else labels.LabelTable(str(tmp_path / name))).load()


def test_several_classes_of_a_sample(tmp_path: Path) -> None:
    paint(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "t.csv").write_text("file,tags\n1.png,red; round\n2.png,round\n3.png,;\n")
    table = labels.LabelTable(str(tmp_path / "t.csv"), label="tags", separator=";")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"1.png": [1, 1], "2.png": [0, 1], "3.png": [0, 0]}}))
    for data in (ImageFolder(str(tmp_path), labels=table).load(), ImageFolder(str(tmp_path)).load()):
        assert data.several
        assert data.class_counts == [1, 2]
        drawn = batch(data, torch.tensor([2, 0]))[1]
        assert drawn is not None
        assert drawn.tolist() == [[False, False], [True, True]]


def test_the_labels_of_edm_unpacked(tmp_path: Path) -> None:
    names = [f"{i // 2:05d}/img{i:08d}.png" for i in range(4)]
    paint(tmp_path, *names)
    without = ImageFolder(str(tmp_path)).load()
    assert without.labels is None
    assert "shards" in without.notes[0]
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    data = ImageFolder(str(tmp_path)).load()
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 0]
    assert data.notes == ("the classes are those of dataset.json",)
    named = ImageFolder(str(tmp_path), class_names=("ant", "bee", "cat", "dog")).load()
    assert of(named) == ["ant", "bee", "cat", "ant"]
    assert ImageFolder(str(tmp_path), labels=labels.Unlabelled()).load().labels is None
    file.write_text('{"labels": null}')
    assert ImageFolder(str(tmp_path)).load().labels is None
    for wrong, words in (
        ({"labels": 3}, "as the tools of EDM write it"), ({"labels": [[names[0], 1]]}, "no label for 3 of 4 files"),
        ({"labels": dict.fromkeys(names, -1)}, "from 0"), ({"labels": {name: [0.5] for name in names}}, "zeros"),
    ):  # fmt: skip
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=words):
            ImageFolder(str(tmp_path)).load()


def test_a_pattern_in_the_name(tmp_path: Path) -> None:
    paint(tmp_path, "a/cat_1.png", "b/ant_2.png", "b/cat_3.png")
    data = ImageFolder(str(tmp_path), labels=labels.Pattern(r"/([a-z]+)_")).load()
    assert of(data) == ["cat", "ant", "cat"]
    data = ImageFolder(str(tmp_path), labels=labels.Pattern(r"_(?P<class>\d)")).load()
    assert data.class_names == ("1", "2", "3")
    with pytest.raises(ValueError, match=r"is not found in a/cat_1\.png"):
        ImageFolder(str(tmp_path), labels=labels.Pattern("ant")).load()
    with pytest.raises(ValueError, match="no regular expression"):
        labels.Pattern("(")


def test_train_and_val_beside_each_other_are_splits(tmp_path: Path) -> None:
    paint(tmp_path, "train/ant/1.png", "train/cat/2.png", "Validation/cat/3.png", "Validation/dog/4.png")
    train = ImageFolder(str(tmp_path)).load()
    assert of(train) == ["ant", "cat"]
    assert "train/ alone" in train.notes[0]
    val = ImageFolder(str(tmp_path), split="val").load()
    assert of(val) == ["cat", "dog"]
    assert train.class_names == val.class_names == ("ant", "cat", "dog")
    assert sorted(of(ImageFolder(str(tmp_path), split="all").load())) == ["ant", "cat", "cat", "dog"]
    with pytest.raises(ValueError, match="there is no 'test'; there are"):
        ImageFolder(str(tmp_path), split="test").load()
    with pytest.raises(ValueError, match="no folders train/"):
        ImageFolder(str(tmp_path / "train"), split="val").load()
    (tmp_path / "metadata.csv").write_text(
        "file,label\ntrain/ant/1.png,x\ntrain/cat/2.png,y\nValidation/cat/3.png,y\nValidation/dog/4.png,z\n"
    )
    assert of(ImageFolder(str(tmp_path), split="val").load()) == ["y", "z"]
    paint(tmp_path / "vehicles", "train/1.png", "bus/2.png")
    assert of(ImageFolder(str(tmp_path / "vehicles")).load()) == ["bus", "train"]


def test_what_is_held_out_is_the_same_when_files_are_added(tmp_path: Path) -> None:
    paint(tmp_path, *(f"{k}/{i}.png" for i in range(20) for k in ("a", "b")))

    def part(split: str | None, seed: int | None = None) -> set[bytes]:
        data = ImageFolder(str(tmp_path), holdout=0.3, split=split, holdout_seed=seed).load()
        assert data.class_names == ("a", "b")
        return {image.numpy().tobytes() for image in data.images}

    train, held = part(None), part("held_out")
    assert not train & held
    assert len(train | held) == len(part("all")) == 40
    assert part("held_out", 1) != held
    paint(tmp_path, *(f"a/new{i}.png" for i in range(5)))
    assert held <= part("held_out")
    first, longer = splits.kept(50, 0.1, 0, "held_out"), splits.kept(5000, 0.1, 0, "held_out")
    assert first is not None
    assert longer is not None
    assert first.tolist() == [i for i in longer.tolist() if i < 50]
    assert abs(len(longer) - 500) < 5 * (5000 * 0.09) ** 0.5
    for wrong, words in (
        ({"holdout": 1.0}, "between 0 and 1"), ({"split": "held_out"}, "nothing is held out"),
        ({"holdout_seed": 1}, "nothing is held out"), ({"holdout": 1e-6}, "leaves one part empty"),
    ):  # fmt: skip
        made: Any = wrong
        with pytest.raises(ValueError, match=words):
            ImageFolder(str(tmp_path), **made).load()


def test_a_part_of_imagenet_keeps_its_numbers_where_all_are_stated(tmp_path: Path) -> None:
    paint(tmp_path, "train/n00000002/1.png", "train/n00000009/1.png")
    file = tmp_path / "synsets.txt"
    file.write_text("".join(f"n{i:08d} a thing, {i}\n" for i in range(10)))
    data = ImageNet(str(tmp_path), 4, class_names=str(file)).load()
    assert data.labels is not None
    assert data.labels.tolist() == [2, 9]
    assert data.classes == 10
    assert "2 of the 1000 classes" in ImageNet(str(tmp_path), 4).load().notes[0]
    file.write_text("n00000002\n")
    with pytest.raises(ValueError, match="class_names: has a class 'n00000009'"):
        ImageNet(str(tmp_path), 4, class_names=str(file)).load()


def test_arrays_have_names_several_classes_and_a_held_out_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, one, several = rng.normal(size=(40, 3)), np.arange(40) % 2, rng.integers(0, 2, (40, 3))
    np.savez(tmp_path / "a.npz", x=x, one=one, several=several)
    made: Any = {"path": str(tmp_path / "a.npz"), "key": "x", "standardise": 0.5}
    named = Arrays(**made, label_key="one", class_names=("ant", "bee", "cat")).load()
    assert (named.class_names, named.class_counts) == (("ant", "bee", "cat"), [20, 20, 0])
    many = Arrays(**made, label_key="several").load()
    assert many.labels is not None
    assert many.labels.tolist() == several.astype(bool).tolist()
    train, held = (Arrays(**made, label_key="one", holdout=0.3, split=split).load() for split in (None, "held_out"))
    assert len(train) + len(held) == 40
    whole = Arrays(**made).load().images
    rows = {tuple(row) for part in (train, held) for row in part.images.tolist()}
    assert rows == {tuple(row) for row in whole.tolist()}  # of one scale
    first, rest = Digits(holdout=0.1, split="held_out").load(), Digits(holdout=0.1).load()
    assert len(first) + len(rest) == 1797
    assert abs(len(first) - 180) < 60
    with pytest.raises(ValueError, match="split: held_out: nothing is held out"):
        Digits(split="held_out")


def test_columns_of_words_and_of_lists() -> None:
    assert classes.of_column([0, 1], (), "c") is None
    words = classes.of_column(["b", "a"], (), "c")
    assert words is not None
    assert (words.names, words.labels.tolist()) == (("a", "b"), [1, 0])
    lists = classes.of_column([[0, 2], [], [1]], ("x", "y", "z"), "c")
    assert lists is not None
    assert lists.names == ("x", "y", "z")
    assert lists.labels.tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    with pytest.raises(ValueError, match="c: a label must be a word"):
        classes.of_column([[3]], ("x", "y", "z"), "c")
