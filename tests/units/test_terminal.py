"""No control character that a name or a title brought along reaches the terminal."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from rich.table import Table
from rich.text import Text

from edm_unified.cli import options, terminal

RED = "\x1b[31m"
NAME = f"{RED}\x9b1m"
"""Click itself removes the first, where there is no terminal."""
WRITTEN = r"\x9b1m"
EVIL = [RED, "\x1b]0;title\x07", "\x9b31m", "\x07", "\r", "\x7f", "\u202e", "\u2066"]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

RECIPE = """
title: "a \\e[31m title"
source: "made \\u202e up"
schedule: {{kind: edm}}
sampler:
  steps: {{kind: karras, n: 3}}
  solver: {{kind: euler}}
data: {{kind: arrays, path: "{path}"}}
denoiser: {{kind: gaussian}}
"""


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_text_loses_its_control_characters_and_nothing_else(evil: str) -> None:
    assert terminal.printable(f"a\t{evil}ü σ\n") == f"a\t{terminal.printable(evil)}ü σ\n"
    assert not CONTROL.search(terminal.printable(evil))
    assert terminal.printable(terminal.printable(evil)) == terminal.printable(evil)


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_streams_and_tables_and_bars_show_them_written_out(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screens = {name: Screen() for name in ("stdout", "stderr")}
    for name, screen in screens.items():
        monkeypatch.setattr(sys, name, screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal.printable_streams():
        sys.stdout.write(f"<{evil}>")
        sys.stderr.writelines([f"<{evil}>"])
        for screen in screens.values():
            assert not CONTROL.search(screen.getvalue())
            assert screen.getvalue() == f"<{terminal.printable(evil)}>"
        table = Table(title=f"<{evil}>")
        table.add_column(f"<{evil}>")
        table.add_row(f"[red]<{evil}>")
        terminal.console(force_terminal=True, width=100).print(table, Text(evil, style="bold"))
        with options.progress(True) as bar:
            bar.say(f"[/red]<{evil}>")
            sys.stderr.write(f"beside the bar <{evil}>\n")
    assert sys.stdout is screens["stdout"]
    text = screens["stdout"].getvalue()
    assert "[red]<" in text  # brackets are no orders either
    assert "\x1b[1m" in text  # the colours of the table itself
    for screen in screens.values():
        assert f"<{terminal.printable(evil)}>" in screen.getvalue()
        assert f"<{evil}" not in screen.getvalue()


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose name, title and data have escape sequences in them."""
    monkeypatch.chdir(tmp_path)
    np.save(f"x{NAME}.npy", np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
    path = Path(f"one{NAME}.yaml")
    path.write_text(RECIPE.format(path=r"x\e[31m\x9b1m.npy"))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "PATH"],
        ["show", "PATH", "--yaml"],
        ["show", "no-such-PATH"],
        ["sample", "PATH", "--n", "2", "--out", f"o{NAME}"],
        ["sample", "PATH", "--n", "2", "--out", "PATH"],
        ["compare", "PATH", "--nfe", "3", "--samples", "8", "--out", f"o{NAME}", "--set", "grid_samples=2"],
        ["compare", "PATH", "--nfe", "3", "--samples", "8", "--out", f"p{NAME}", "--json"],
        ["likelihood", "PATH", "--n", "2", "--rk4-steps", "2", "--out", f"{NAME}.npy"],
        ["data", f"arrays:path=x{NAME}.npy"],
        ["train", "PATH", "--dry-run"],
        ["ema", "PATH", "--std", "0.1"],
        ["certify", f"heun{NAME}"],
        ["certify", "--plugin", f"{NAME}:x"],
        ["list", f"{NAME}"],
        [f"{NAME}"],
    ],
    ids=lambda words: " ".join(map(ascii, words)),
)
def test_every_command_shows_names_without_control_characters(evil: Path, arguments: list[str]) -> None:
    _, out, err = run(*[word.replace("PATH", str(evil)) for word in arguments])
    assert out + err
    assert not CONTROL.search(out + err), ascii(out + err)
    if "--json" in arguments:
        assert json.loads(out.splitlines()[0])["recipe"] == f"one{NAME}"
    elif "--yaml" not in arguments:
        assert WRITTEN in out + err
