"""Directories of results: taken where they are empty, refused where they are not ours, cleared of our files alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edm_unified.components import files, output_kinds, outputs
from edm_unified.components.files import LOCK, claim, sweep, write_atomic
from edm_unified.components.output_kinds import COMPARISON, KINDS, MARK, RUN, SAMPLES, Kind
from edm_unified.components.outputs import DamagedError, OutputDirectory

RECORD = {"cell": "0" * 12, "metric": "frechet", "budget": 5, "value": 1.0}
BEFORE_THE_MARK = {
    RUN: {"run.json": json.dumps({"recipe": {}, "data": {}}), "recipe.yaml": "title: t\n", "log.jsonl": ""},
    COMPARISON: {
        "records.jsonl": json.dumps(RECORD) + "\n",
        "report.html": "<html>",
        "recipes/a.yaml": "# a\ntitle: t",
    },
    SAMPLES: {
        "environment.json": json.dumps({"command": "edm-unified sample edm", "nfe": 1, "seed": 0, "torch": "2"}),
        "samples.npy": "",
        "recipe.yaml": "title: t\n",
    },
}
"""What versions before there were marks left, of each kind."""
NAME = {RUN: "run.json", COMPARISON: "report.html", SAMPLES: "samples.npy"}
"""A file that a command of each kind writes."""

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def fill(directory: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def everything(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


# -- whose it is ------------------------------------------------------------------------------------------------------


@kinds
def test_a_new_and_an_empty_directory_are_taken_and_marked(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").write_text("of a file manager")
    for name in ("new/inner", "empty"):
        with OutputDirectory(tmp_path / name, kind) as out:
            out.write(NAME[kind], "whole")
        head = json.loads((tmp_path / name / MARK).read_text().splitlines()[0])
        assert (head["kind"], head["command"]) == (kind.name, kind.command)
        assert set(head) == {"kind", "command", "version"}
        assert output_kinds.kind_of(tmp_path / name) is kind
        with OutputDirectory(tmp_path / name, kind) as out:  # goes on
            out.write(NAME[kind], "again")


@kinds
@pytest.mark.parametrize("foreign", ["notes.txt", "samples/mine.npy", "recipes/edm.yaml", ".git/HEAD", LOCK])
def test_what_is_not_ours_is_refused_and_not_touched(tmp_path: Path, kind: Kind, foreign: str) -> None:
    fill(tmp_path, {foreign: "precious"})
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=f"is not empty, and not from `{kind.command}`; name a new or an empty"):
        OutputDirectory(tmp_path, kind)
    assert everything(tmp_path) == before


@kinds
def test_a_directory_of_another_kind_is_refused(tmp_path: Path, kind: Kind) -> None:
    for other in (k for k in KINDS if k is not kind):
        marked, old = tmp_path / f"marked {other.name}", tmp_path / f"old {other.name}"
        with OutputDirectory(marked, other) as out:
            out.write(NAME[other], "")
        fill(old, BEFORE_THE_MARK[other])
        for directory in (marked, old):
            before = everything(directory)
            with pytest.raises(ValueError, match=f"is from `{other.command}`; name another directory with --out"):
                OutputDirectory(directory, kind)
            assert everything(directory) == before


@kinds
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "before the mark"])
def test_no_results_go_inside_a_run(tmp_path: Path, kind: Kind, marked: bool) -> None:
    run = tmp_path / "run"
    if marked:
        with OutputDirectory(run, RUN) as out:
            out.write("run.json", "{}")
    else:
        fill(run, BEFORE_THE_MARK[RUN])
    (tmp_path / "link").symlink_to(run)
    for inside in (run / "new", run / "a" / "b", tmp_path / "link" / "new"):
        with pytest.raises(ValueError, match=r"is inside the run .*; name a place outside it"):
            OutputDirectory(inside, kind)
        assert not inside.exists()


@kinds
def test_what_was_made_before_the_mark_is_known_and_marked(tmp_path: Path, kind: Kind) -> None:
    fill(tmp_path, BEFORE_THE_MARK[kind])
    (tmp_path / "mine.txt").write_text("precious")
    before = everything(tmp_path)
    with OutputDirectory(tmp_path, kind) as out:
        assert all(out.owns(name) for name in BEFORE_THE_MARK[kind])
        assert not out.owns("mine.txt")
    assert {name: content for name, content in everything(tmp_path).items() if name not in (MARK, LOCK)} == before


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here first")
    with pytest.raises(ValueError, match="out: is a file; name a directory with --out"):
        OutputDirectory(tmp_path / "out", SAMPLES)


def test_nothing_written_leaves_no_trace_of_what_was_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a/b/c", "empty"):
        with pytest.raises(KeyboardInterrupt), OutputDirectory(tmp_path / name, SAMPLES):
            raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


# -- --fresh ----------------------------------------------------------------------------------------------------------


@kinds
def test_clearing_removes_our_files_and_no_others(tmp_path: Path, kind: Kind) -> None:
    elsewhere = tmp_path / "elsewhere"
    fill(elsewhere, {"000000000005.npy": "precious", "000000000005.safetensors": "precious", "a.yaml": "precious"})
    out_path = tmp_path / "out"
    fill(out_path, BEFORE_THE_MARK[kind])
    (out_path / "snapshots").symlink_to(elsewhere)
    (out_path / "samples").symlink_to(elsewhere)
    mine = {"mine.txt", "recipes/mine.yaml", "checkpoints/best.safetensors"}
    fill(out_path, dict.fromkeys(mine, "precious"))
    with OutputDirectory(out_path, kind) as out:
        out.clear()
    assert set(everything(out_path)) - {MARK, LOCK} == mine
    assert len(everything(elsewhere)) == 3
    assert output_kinds.kind_of(out_path) is kind


def test_a_list_that_leads_out_or_names_what_no_command_writes_removes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, {"victim.txt": "precious", "out/mine.txt": "precious", "victim/report.html": "precious"})
    with OutputDirectory(tmp_path / "out2", COMPARISON) as out:
        out.write("report.html", "")
    lines = (tmp_path / "out2" / MARK).read_text()
    for name in ("../victim.txt", str(tmp_path / "victim.txt"), "mine.txt", "../victim/report.html"):
        lines += json.dumps({"file": name}) + "\n"
    (tmp_path / "out" / MARK).write_text(lines)
    before = everything(tmp_path)
    with OutputDirectory(tmp_path / "out", COMPARISON) as out:
        out.clear()
    assert {**before, f"out/{MARK}": b"", f"out/{LOCK}": b""}.keys() == everything(tmp_path).keys()


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    with OutputDirectory(tmp_path, COMPARISON) as out:
        out.write("report.html", "")
        fill(tmp_path, {"recipes/edm.yaml": "precious"})
        with pytest.raises(ValueError, match=r"edm.yaml: was not written by `edm-unified compare` and is left alone"):
            out.write("recipes/edm.yaml", "resolved")
        (tmp_path / "figures").symlink_to(tmp_path / "recipes")
        with pytest.raises(ValueError, match="figures: is a link, or no directory"):
            out.write("figures/edm.png", "drawn")
    assert everything(tmp_path / "recipes") == {"edm.yaml": b"precious"}


# -- the lock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hard", [False, True], ids=["symbolic", "hard"])
def test_a_lock_that_is_a_link_is_refused_and_what_it_leads_to_is_whole(tmp_path: Path, hard: bool) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    if hard:
        victim.write_text("")  # an empty one could be taken for a lock
        os.link(victim, tmp_path / "out" / LOCK)
    else:
        (tmp_path / "out" / LOCK).symlink_to(victim)
    for opened in (claim, lambda path: OutputDirectory(path, SAMPLES)):
        with pytest.raises(ValueError, match=r"\.lock: is a link, or no regular file, and is left alone; remove it"):
            opened(tmp_path / "out")
    assert victim.read_text() == ("" if hard else "precious")


def test_one_at_a_time_and_the_lock_stays(tmp_path: Path) -> None:
    with OutputDirectory(tmp_path, SAMPLES) as out:
        out.write("samples.npy", "")
        number = (tmp_path / LOCK).stat().st_ino
        with pytest.raises(ValueError, match="another run is writing here; wait for it, or name another with --out"):
            OutputDirectory(tmp_path, SAMPLES)
    assert (tmp_path / LOCK).stat().st_ino == number  # removed and made anew, two could hold it
    with claim(tmp_path), pytest.raises(ValueError, match="another run is writing here"):
        claim(tmp_path)


# -- what was written -------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_noticed_and_set_aside(tmp_path: Path) -> None:
    with OutputDirectory(tmp_path, COMPARISON) as out:
        path = out.write("samples/000000000000.npy", b"whole", sealed=True)
        assert out.read("samples/000000000000.npy") == b"whole"
        assert out.read("samples/000000000001.npy") is None
    path.write_bytes(b"whols")
    with OutputDirectory(tmp_path, COMPARISON) as out:
        with pytest.raises(DamagedError, match="was changed after it was written"):
            out.read("samples/000000000000.npy")
        assert out.set_aside("samples/000000000000.npy").name == "000000000000.npy.damaged"
        out.write("samples/000000000000.npy", b"whole", sealed=True)
        assert out.set_aside("samples/000000000000.npy").name == "000000000000.npy.damaged-2"
        out.clear()
    assert not (tmp_path / "samples").exists()


def test_a_line_of_the_list_that_was_cut_off_leaves_its_file_unknown(tmp_path: Path) -> None:
    with OutputDirectory(tmp_path, COMPARISON) as out:
        out.write("samples/000000000000.npy", b"one", sealed=True)
        out.write("samples/000000000001.npy", b"two", sealed=True)
    mark = tmp_path / MARK
    mark.write_bytes(mark.read_bytes()[:-10])
    with OutputDirectory(tmp_path, COMPARISON) as out:
        assert out.read("samples/000000000000.npy") == b"one"
        with pytest.raises(DamagedError, match="was not written by"):
            out.read("samples/000000000001.npy")
    assert mark.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("killed_at", range(4))
def test_killed_between_two_names_no_new_file_stands_beside_an_old_one(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files_ = {"samples.npy": "new", "recipe.yaml": "new", "environment.json": "new"}
    with OutputDirectory(tmp_path, SAMPLES) as out:
        out.write_together(dict.fromkeys([*files_, "labels.npy"], "old"))
    child = os.fork()
    if child == 0:  # dies as by SIGKILL, before a rename or (0) before the first of the old ones is removed
        count, replace, unlink = [0], os.replace, Path.unlink

        def dying(*arguments: object, **named: object) -> None:
            count[0] += 1
            if count[0] == max(killed_at, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            (unlink if killed_at == 0 else replace)(*arguments, **named)  # type: ignore[arg-type]

        if killed_at == 0:
            Path.unlink = dying  # type: ignore[method-assign, assignment]
        else:
            os.replace = dying  # type: ignore[assignment]
        OutputDirectory(tmp_path, SAMPLES).write_together(files_, gone=["labels.npy"])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = {name: content for name, content in everything(tmp_path).items() if name not in (MARK, LOCK)}
    left = [name for name in found if name.endswith(".part")]
    assert len(left) == 3 - max(killed_at - 1, 0)
    assert len({content for name, content in found.items() if name not in left}) <= 1
    with OutputDirectory(tmp_path, SAMPLES) as out:  # the next one removes what was left, and goes on
        assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))
        out.write_together(files_, gone=["labels.npy"])
    assert {k: v for k, v in everything(tmp_path).items() if k not in (MARK, LOCK)} == dict.fromkeys(files_, b"new")


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OutputDirectory(tmp_path, SAMPLES) as out:
        out.write_together({"samples.npy": "old", "recipe.yaml": "old"})
        whole = outputs.stage

        def full(path: Path, content: bytes | str) -> Path:
            if path.name == "recipe.yaml":
                raise OSError(28, "No space left on device", str(path))
            return whole(path, content)

        monkeypatch.setattr(outputs, "stage", full)
        with pytest.raises(OSError, match="No space left"):
            out.write_together({"samples.npy": "new", "recipe.yaml": "new"})
    assert {k: v for k, v in everything(tmp_path).items() if k not in (MARK, LOCK)} == {
        "samples.npy": b"old",
        "recipe.yaml": b"old",
    }


# -- temporary files --------------------------------------------------------------------------------------------------


def test_what_a_kill_left_goes_and_what_lives_or_is_not_ours_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    short, host = files._short("a.txt"), files._host()
    gone = tmp_path / f".edm-{short}-{host}-{dead.pid}-00000000.part"
    stay = [
        tmp_path / f".edm-{short}-{host}-{os.getpid()}-00000000.part",  # of a process that lives
        tmp_path / f".edm-{short}-{'0' * 8}-{dead.pid}-00000000.part",  # of another machine
        tmp_path / f".edm-{short}-{host}-{dead.pid}-0.part",
        tmp_path / "edm.part",
    ]
    for path in (gone, *stay):
        path.write_text("")
    sweep(tmp_path, "b.txt")
    assert gone.exists()
    sweep(tmp_path, "a.txt")
    assert not gone.exists()
    assert all(path.exists() for path in stay)
    sweep(tmp_path, locked=True)
    assert [path.exists() for path in stay] == [True, False, True, True]


def test_what_a_kill_left_before_the_mark_goes(tmp_path: Path) -> None:
    fill(tmp_path, BEFORE_THE_MARK[COMPARISON])
    fill(tmp_path, {".records.jsonl.abcd_123": "ours", ".mine.txt.abcd_123": "precious"})
    with OutputDirectory(tmp_path, COMPARISON):
        pass
    assert not (tmp_path / ".records.jsonl.abcd_123").exists()
    assert (tmp_path / ".mine.txt.abcd_123").exists()


def test_a_long_name_is_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("a" * 250 + ".txt"), "whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]
