"""Every command with an output writes it where it may, says where it may not, and trusts nothing that it finds."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run

from edm_unified.compare import Store
from edm_unified.components.files import LOCK
from edm_unified.components.output_kinds import MARK, RUN
from edm_unified.components.outputs import OutputDirectory
from edm_unified.components.paths import short_name

RECIPE = """
title: "one"
source: "made for a test"
schedule: {kind: edm}
sampler:
  steps: {kind: karras, n: 3}
  solver: {kind: euler}
data: {kind: arrays, path: x.npy}
denoiser: {kind: gaussian}
"""
COMPARE = ["compare", "one.yaml", "--nfe", "3", "--samples", "8", "--set", "grid_samples=4"]
SAMPLE = ["sample", "one.yaml", "--n", "2"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a recipe of them, and a comparison in ``c``: made once, since pages take a while to draw."""
    place = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        np.save("x.npy", np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
        Path("one.yaml").write_text(RECIPE)
        out, _ = done([*COMPARE, "--out", "c"])
        assert "note: it takes the place" not in out
    return place


@pytest.fixture(autouse=True)
def folder(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it to work in."""
    shutil.copytree(compared, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")


def refused(arguments: list[str], *words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("Error: ")
    assert all(word in err for word in words), err


def done(arguments: list[str]) -> tuple[str, str]:
    code, out, err = run(*arguments)
    assert code == 0, err
    return out, err


def contents(directory: str | Path) -> dict[str, bytes]:
    paths = sorted(p for p in Path(directory).rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in paths}


# -- where results may go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [COMPARE, [*COMPARE, "--fresh"], SAMPLE], ids=["compare", "--fresh", "sample"])
def test_a_folder_of_somebody_else_is_refused_and_whole(arguments: list[str]) -> None:
    for name in ("samples", "recipes", "figures", "reference", "checkpoints"):
        Path("project", name).mkdir(parents=True)
        Path("project", name, "mine.txt").write_text("precious")
    before = contents("project")
    refused([*arguments, "--out", "project"], "project: is not empty, and not from `edm-unified ")
    assert contents("project") == before


def test_compare_in_a_project_does_not_replace_the_recipe() -> None:
    Path("recipes").mkdir()
    shutil.move("one.yaml", "recipes/one.yaml")
    refused(["compare", "recipes/one.yaml", "--nfe", "3", "--out", "."], ".: is not empty")
    assert Path("recipes/one.yaml").read_text() == RECIPE
    assert sorted(os.listdir()) == ["c", "recipes", "x.npy"]


def test_a_recipe_put_beside_those_of_a_comparison_is_not_replaced() -> None:
    """The directory is ours, the file is not: told before the work."""
    Path("c/recipes/two.yaml").write_text(RECIPE)
    words = ["compare", "c/recipes/two.yaml", "--nfe", "3", "--samples", "8", "--out", "c"]
    records = Path("c/records.jsonl").read_bytes()
    refused(words, "c/recipes/two.yaml: was not written by `edm-unified compare` and is left alone")
    assert Path("c/recipes/two.yaml").read_text() == RECIPE
    assert Path("c/records.jsonl").read_bytes() == records


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "before the mark"])
def test_a_run_is_no_place_for_other_results(marked: bool) -> None:
    if marked:
        with OutputDirectory(Path("run"), RUN) as out:
            out.write("run.json", '{"recipe": {}}')
            out.write("recipe.yaml", RECIPE)
    else:
        Path("run").mkdir()
        Path("run/run.json").write_text('{"recipe": {}}')
        Path("run/recipe.yaml").write_text(RECIPE)
    before = contents("run")
    for arguments in (COMPARE, [*COMPARE, "--fresh"], SAMPLE):
        refused([*arguments, "--out", "run"], "run: is from `edm-unified train`; name another")
        refused([*arguments, "--out", "run/samples"], "run/samples: is inside the run ")
    for words in (
        ["likelihood", "one.yaml", "--n", "2", "--rk4-steps", "2", "--out", "run/samples/000000000001.npy"],
        ["certify", "heun", "--html", "run/report.html"],
        ["data", "arrays:path=x.npy", "--out", "run/new.png"],
        ["show", "one.yaml", "--weights", "run/new.png"],
    ):
        refused(words, ": is inside the run ", "; name a place outside it")
    assert contents("run") == before


def test_samples_and_comparisons_are_no_places_for_each_other() -> None:
    done([*SAMPLE, "--out", "s"])
    before = contents("s"), contents("c")
    refused([*SAMPLE, "--out", "c"], "c: is from `edm-unified compare`; name another directory with --out")
    refused([*COMPARE, "--out", "s", "--fresh"], "s: is from `edm-unified sample`; name another directory with --out")
    assert (contents("s"), contents("c")) == before


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "before the mark"])
def test_fresh_removes_what_the_comparison_wrote_and_nothing_else(marked: bool) -> None:
    if not marked:
        before_the_mark()
    mine = {"mine.txt", "recipes/mine.yaml", "samples/mine.npy", "figures/mine.png", "reference/mine.npy"}
    for name in mine:
        Path("c", name).write_text("precious")
    with Store(Path("c"), fresh=True):
        assert contents("c").keys() - {MARK, LOCK} == mine


def before_the_mark() -> None:
    """Make of ``c`` what versions before there were marks and digests left."""
    records = [json.loads(line) for line in Path("c/records.jsonl").read_text().splitlines()]
    without = [{k: v for k, v in record.items() if k != "digest"} for record in records]
    Path("c/records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in without))
    for name in (MARK, LOCK, "comparison.json"):
        Path("c", name).unlink()


def test_a_comparison_of_a_version_before_the_mark_goes_on() -> None:
    with Store(Path("c"), warn=pytest.fail) as store:
        whole = store._records
    before_the_mark()
    with Store(Path("c"), warn=pytest.fail) as store:
        assert store._records == whole
        for name in (name for name in contents("c") if name.endswith(".npy")):
            assert store.load(name.removesuffix(".npy"), (2,)) is not None


def test_a_report_that_takes_the_place_of_another_is_told() -> None:
    out, _ = done([*COMPARE, "--out", "c", "--solver", "heun"])
    (note,) = [line for line in out.splitlines() if line.startswith("note: it takes the place")]
    assert "c/records.jsonl; with another --out there would be both" in note
    with Store(Path("d")) as store:
        assert store.show({"a", "b"}, "first") is None
        assert store.show({"a", "b", "c"}, "second") is None  # has all of the first
        assert store.show({"b", "c"}, "third") == "second"
        assert store.show({"b", "c"}, "third") is None


def test_samples_that_take_the_place_of_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*words: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["edm-unified", *SAMPLE, *words])
        out, _ = done([*SAMPLE, *words])
        return [line for line in out.splitlines() if line.startswith("note: ")]

    assert drawn() == []
    assert drawn() == []  # the same command again
    (note,) = drawn("--seed", "1")
    assert f"`edm-unified {' '.join(SAMPLE)}`; with another --out" in note


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("edm", "edm"),
        ("toy/mixture_2d", "mixture_2d"),
        ("my/one.YAML", "one"),
        ("one.v2.yml", "one.v2"),
        ("runs/rate_0.1", "rate_0.1"),
        ("runs/rate_0.1/", "rate_0.1"),
        (".", "here"),
        ("runs/..", "here"),
    ],
)
def test_results_are_named_after_the_whole_name_of_a_run(path: str, name: str) -> None:
    assert short_name(path) == name


def test_folders_that_cannot_be_written_are_told_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc takes no files, whoever asks."""
    from edm_unified.compare import Problems
    from edm_unified.recipe import Recipe

    def worked(*arguments: Any) -> Any:
        raise AssertionError("the work had begun")

    monkeypatch.setattr(Problems, "of", worked)
    monkeypatch.setattr(Recipe, "build", worked)
    for arguments in ([*COMPARE, "--out", "/proc"], [*SAMPLE, "--out", "/proc"], [*COMPARE, "--out", "/proc/x"]):
        refused(arguments, "/proc")
    for words in (
        ["likelihood", "one.yaml", "--out", "/proc/x.npy"],
        ["certify", "heun", "--html", "/proc/x.html"],
        ["data", "arrays:path=x.npy", "--out", "/proc/x.png"],
        ["show", "one.yaml", "--weights", "/proc/x.png"],
    ):
        refused(words, "/proc cannot be written to")


# -- what is found there ----------------------------------------------------------------------------------------------


def values(directory: str) -> dict[tuple[Any, ...], Any]:
    """The last value of each metric, as the store takes it."""
    records = map(json.loads, Path(directory, "records.jsonl").read_text().splitlines())
    return {(r["cell"], r["budget"], r["metric"]): (r["value"], r["low"], r["high"]) for r in records}


@pytest.mark.parametrize("value", ["abc", True, [1], {"a": 1}, -5.0, 0.001, 10**400], ids=lambda x: str(x)[:9])
def test_a_record_that_was_changed_is_told_set_aside_and_computed_again(value: Any) -> None:
    path = Path("c/records.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    number = next(i for i, r in enumerate(records, start=1) if r["metric"] == "sliced_wasserstein")
    records[number - 1]["value"] = value
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    damaged, told = path.read_bytes(), []
    with Store(Path("c"), warn=told.append) as store:
        cell = records[0]["cell"]
        assert not store.finished(cell, ("sliced_wasserstein",))
        assert len(store.records(cell)) == len(records) - 1
    fault = f"line {number} was changed after it was written"
    assert told == [f"{path}: {fault}; kept as records.jsonl.damaged, and what it said is computed again"]
    assert Path("c/records.jsonl.damaged").read_bytes() == damaged
    with Store(Path("c"), warn=pytest.fail):
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": "abc"}, 'value is no number from 0: "abc"'),
        ({"value": True}, "value is no number from 0: true"),
        ({"value": -5.0}, "value is no number from 0: -5.0"),
        ({"value": float("nan")}, "is not a record"),
        ({"metric": "precision", "value": 1.5}, "value is no number in [0, 1]: 1.5"),
        ({"value": None}, "has an interval and no value"),
        ({"low": 2.0, "high": 1.0}, "low is above high"),
        ({"budget": "3"}, 'budget is no whole number from 1: "3"'),
        ({"budget": True}, "budget is no whole number from 1: true"),
        ({"seed": -1}, "seed is no whole number from 0: -1"),
        ({"cell": 5}, "cell is no text: 5"),
        ({"seconds": -1.0}, "seconds is no number from 0: -1.0"),
        ({"hash": None}, "hash is no text: null"),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_records_of_versions_without_digests_are_held_to_types_and_ranges(changes: dict[str, Any], words: str) -> None:
    from edm_unified.compare import records

    texts = dict.fromkeys(("recipe", "schedule", "steps", "solver", "renoising", "hash", "cell"), "a")
    counts = {"budget": 5, "nfe": 5, "n": 5, "seed": 0, "samples": 8}
    whole = texts | counts | {"metric": "error_rms", "value": 1.5, "low": 1.0, "high": 2.0, "seconds": 0.1}
    assert records.parse(json.dumps(whole).encode()) == whole
    assert records.parse(records.lines([whole]).encode()) == whole
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        records.parse(json.dumps(whole | changes).encode())
    assert str(error.value) == words


def test_garbage_among_the_records_costs_its_line_alone() -> None:
    path, told = Path("c/records.jsonl"), []
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([b"\xff\x00garbage\n", b"[" * 9999 + b"\n", b"5\n", *lines]))
    with Store(Path("c"), warn=told.append):
        assert path.read_bytes() == b"".join(lines)
    assert len(told) == 1
    assert "line 1 is not a record, and 2 more; kept as records.jsonl.damaged" in told[0]


def pickled(marker: str) -> bytes:
    """A .npy file that, unpickled, would make a file ``marker``."""

    class Touch:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (marker,)

    array = np.empty(1, dtype=object)
    array[0] = Touch()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def claiming(size: int) -> bytes:
    """A .npy file whose head claims ``size`` numbers that are not there."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({size}, 2), }}".encode()
    head = head.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte": lambda content: content[:-2] + bytes([content[-2] ^ 0x10]) + content[-1:],
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\x00\xff garbage\n" * 9,
    "a head cut off": lambda content: content[:20],
    "a pickle": lambda content: pickle.dumps(os.getcwd),
    "an object array": lambda content: pickled("executed"),
    "a claim": lambda content: claiming(10**13),
    "other shape": lambda content: saved(np.zeros((8, 3))),
    "whole numbers": lambda content: saved(np.zeros((8, 2), dtype=np.int64)),
    "no axes": lambda content: saved(np.zeros(())),
}


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "before the mark"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_array_is_told_set_aside_and_computed_again(damage: str, marked: bool) -> None:
    """Also where there is no digest of it yet; but for a byte, which nothing else shows."""
    names = [name for name in contents("c") if name.endswith(".npy")]
    assert {name.split("/")[0] for name in names} == {"reference", "samples"}
    if not marked:
        Path("c", MARK).unlink()
    for name in names:
        path, whole = Path("c", name), Path("c", name).read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        told: list[str] = []
        with Store(Path("c"), warn=told.append) as store:
            found = store.load(name.removesuffix(".npy"), (2,))
        if damage == "a byte" and not marked:
            assert found is not None
            continue
        assert found is None
        assert len(told) == 1
        assert told[0].startswith(f"c/{name}: ")
        assert told[0].endswith(f"; kept as {path.name}.damaged, and computed again")
        assert Path(f"c/{name}.damaged").read_bytes() == DAMAGES[damage](whole)
        assert not path.exists()
    assert not Path("executed").exists()


def test_a_reference_with_a_changed_byte_changes_no_number() -> None:
    shutil.copytree("c", "whole")
    done([*COMPARE, "--out", "whole", "--nfe", "3,5"])
    for path in Path("c/reference").iterdir():
        path.write_bytes(DAMAGES["a byte"](path.read_bytes()))
    _, err = done([*COMPARE, "--out", "c", "--nfe", "3,5"])
    assert "was changed after it was written (another SHA-256); kept as " in err
    assert values("c") == values("whole")


def test_nothing_in_a_file_is_executed() -> None:
    """A harmless marker, in every kind of file that the commands of this page take."""
    tag = 'title: !!python/object/apply:os.mkdir ["executed"]\n'
    Path("evil.yaml").write_text(tag + RECIPE.replace('title: "one"', ""))
    Path("evil.npy").write_bytes(pickled("executed"))
    with zipfile.ZipFile("evil.npz", "w") as archive:
        archive.writestr("x.npy", pickled("executed"))
    for command in (["show"], ["sample"], ["compare"], ["likelihood"], ["train"], ["data"]):
        code, _, err = run(*command, "evil.yaml")
        assert (code, err.count("Error: "), err.count("Traceback")) == (2, 1, 0), err
    for data in ("evil.npy", "evil.npz"):
        for words in (
            ["sample", "one.yaml", "--set", f"data.path={data}"],
            ["compare", "one.yaml", "--set", f"data.path={data}", "--nfe", "3"],
            ["likelihood", "one.yaml", data],
            ["data", f"arrays:path={data}"],
            ["train", "one.yaml", "--set", f"data.path={data}"],
        ):
            code, _, err = run(*words)
            assert (code, err.count("Error: "), err.count("Traceback")) == (2, 1, 0), err
    assert not Path("executed").exists()
