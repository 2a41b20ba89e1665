# ruff: noqa: E501  (messages are compared whole, and read best in one piece)
"""Whatever a user gets wrong on the command line is one line on stderr that names the remedy, and exit code 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import interruptible

from edm_unified.cli import main

FAST = ["--set", "denoiser=gaussian", "-q"]


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, in this process."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("shwo edm", "no command 'shwo'; did you mean 'show'?; see edm-unified --help"),
        ("--wrong", "no such option '--wrong'; did you mean '--version'?; see edm-unified --help"),
        ("show", "missing argument 'RECIPE'; see edm-unified show --help"),
        ("show edm --stepz 3", "no such option '--stepz'; did you mean '--steps'?; see edm-unified show --help"),
        ("show emd", "emd: no such recipe; did you mean 'edm'?"),
        ("show heunn", "heunn: no such recipe or component; did you mean 'heun'?"),
        ("show edm.yaml", "edm.yaml: no such file; the shipped recipe is called 'edm'"),
        ("show .", ".: is a directory; name a recipe file (.yaml) in it"),
        ("sample quickstart", "quickstart: is a comparison, not a recipe; run it with `edm-unified compare quickstart`"),
        ("list solver", "list: no family 'solver'; did you mean 'solvers'?"),
        ("sample edm --solver hein", "--solver hein: unknown 'hein'; did you mean 'heun'?"),
        ("sample edm --solver second_order:alpha=2", "--solver second_order:alpha=2: alpha: must lie in (0, 1], got 2.0"),
        ("sample edm --schedule flow_macthing", "--schedule flow_macthing: unknown 'flow_macthing'; did you mean 'flow_matching'?"),
        ("sample edm --schedule vp:beta=3", "--schedule vp:beta=3: beta: unknown key; did you mean 'beta_d'? (vp takes beta_d, beta_min)"),
        ("sample edm --steps-rule karas", "--steps-rule karas: unknown 'karas'; did you mean 'karras'?"),
        ("sample edm --steps 0", "edm: --steps 0: must be a whole number from 1 to 1,000,000, got 0"),
        ("sample edm --steps -5", "edm: --steps -5: must be a whole number from 1 to 1,000,000, got -5"),
        ("sample edm --steps 99999999", "edm: --steps 99999999: must be a whole number from 1 to 1,000,000, got 99999999"),
        ("sample edm --steps nan", "invalid value for '--steps': 'nan' is not a valid integer; see edm-unified sample --help"),
        ("sample edm --n 0", "invalid value for '--n': 0 is not in the range 1<=x<=10000000; see edm-unified sample --help"),
        ("sample ddpm --steps 2000", "ddpm: sampler.steps.n: 2000 steps out of a table of 1000; lower n"),
        ("sample ddpm --steps-rule karras:sigma_max=200", "ddpm: sampler.steps: 200 is beyond this schedule (BetaTable), "
         "which ends at 157.407; lower sigma_max"),
        ("sample edm --steps-rule explicit:sigmas=[80,90,0]", "--steps-rule explicit:sigmas=[80,90,0]: sigmas: must fall, "
         "but level 1 is 90.0 after 80.0"),
        ("sample edm --steps-rule explicit:sigmas=[80,0] --steps 3", "edm: --steps: a list of levels has its own length; "
         "choose a rule with --steps-rule, e.g. karras"),
        ("sample edm --set sampler.steps.n=.nan", "edm: sampler.steps.n: must be a whole number, got nan "
         "(with --set sampler.steps.n=.nan)"),
        ("sample edm --dtype int8", "invalid value for '--dtype': 'int8' is not one of 'float64', 'float32'; "
         "see edm-unified sample --help"),
        ("sample edm --class 3 --set denoiser=gaussian -q", "--class 3: must be None or -1: this denoiser has no classes, got 3"),
        ("sample edm --class 12 --set denoiser=empirical -q", "--class 12: must be from 0 to 9, got 12"),
        ("sample edm --set data=null", "edm: data: missing; gaussian_mixture is made from data, such as data: {kind: digits}"),
        ("sample edm --set data={kind:image_folder}", "edm: data.kind: missing; `edm-unified list` names "
         "all 20 (with --set data={kind:image_folder})"),
        ("sample edm --out /dev/null/x", "/dev/null/x: Not a directory; name a directory to write in with --out"),
        ("sample edm --out /dev/null", "/dev/null: is a file; name a directory with --out"),
        ("sample edm --out /proc/nowhere", "/proc/nowhere: No such file or directory; name a directory to write in with --out"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(arguments: str, message: str) -> None:
    code, out, err = command(*arguments.split())
    assert err in (f"Error: {message}\n", f"making the denoiser\nError: {message}\n")
    assert (code, out) == (2, "")
    assert os.listdir() == []  # and nothing was left behind


def image_folder(path: str) -> list[str]:
    return ["sample", "edm", "--set", f"data={{kind: image_folder, path: {path}}}", *FAST]


def test_data_that_cannot_be_read_are_named_with_the_file() -> None:
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    Path("short.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save("nan.npy", np.full((4, 1, 8, 8), np.nan))
    np.save("object.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    for arguments, named in (
        (image_folder("absent"), "edm: data.path: absent: no such folder"),
        (image_folder("empty"), "edm: data.path: empty: no image in this folder"),
        (image_folder("broken"), "edm: data.path: broken/a.png: "),
        (["sample", "edm", "--set", "data={kind: arrays, path: short.npy}", *FAST], "edm: data.path: short.npy: "),
        (["sample", "edm", "--set", "data={kind: arrays, path: nan.npy}", *FAST], "edm: data.path: nan.npy: has NaN"),
        (["sample", "edm", "--set", "data={kind: arrays, path: object.npy}", *FAST], "edm: data.path: object.npy: "),
    ):
        code, out, err = command(*arguments)
        assert err.startswith(f"Error: {named}")
        assert err.count("\n") == 1
        assert (code, out) == (2, "")
    assert not Path("edm-samples").exists()


def test_a_denoiser_that_returns_nan_is_reported_with_the_noise_level(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from edm_unified import exact

    monkeypatch.setattr(exact.Gaussian, "__call__", lambda self, x, sigma, label=None: x * torch.nan)
    code, _, err = command("sample", "edm", "--n", "3", *FAST)
    assert code == 2
    assert err == (
        "Error: edm: denoiser: returned NaN or infinity in move 1 of 18 at sigma = 80, for 3 of 3 samples, "
        "first for sample 0 of the batch\n"
    )
    assert os.listdir() == []


def test_earlier_results_survive_a_run_that_fails() -> None:
    assert command("sample", "edm", "--n", "2", "--out", "o", *FAST)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    code, _, err = command("sample", "edm", "--n", "2", "--class", "1", "--out", "o", *FAST)
    assert (code, err.count("\n")) == (2, 1)
    assert {path.name: path.read_bytes() for path in Path("o").iterdir()} == before


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    words = [sys.executable, "-m", "edm_unified", *arguments]
    return subprocess.Popen(
        words, stdout=-1, stderr=-1, text=True, env=environment, **{"preexec_fn": interruptible, **options}
    )


def test_a_full_disk_leaves_nothing_half_written(small_disk: Callable[[int], AbstractContextManager[None]]) -> None:
    with small_disk(2000):
        done = command("sample", "edm", "--n", "64", "--steps", "2", "--out", "o", *FAST)
    assert done == (2, "", "Error: o/samples.npy: File too large\n")
    assert os.listdir() == []


def test_ctrl_c_is_one_line_and_exit_code_130() -> None:
    run = start("sample", "ddpm", "--n", "4000", "--batch", "10", "--set", "denoiser=gaussian", "--out", "a/b")
    assert run.stderr is not None
    assert run.stderr.readline() == "making the denoiser\n"
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert [line for line in err.splitlines() if "%" not in line] == ["Interrupted."]
    assert (run.returncode, out) == (130, "")
    assert os.listdir() == []


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    run = start("schema")
    assert run.stdout is not None
    run.stdout.close()
    run.stdout = None
    assert run.communicate(timeout=120)[1] == ""
