"""A command that is killed again and again; a program of its own, so that a kill is a kill.

    python killing.py FOLDER ARGUMENT...

runs ``edm-unified ARGUMENT... --out FOLDER/whole`` in peace. Then it runs the same with ``--out FOLDER/killed`` in one
process after another: the first is killed at its first moment, the second at its second, ..., later ones a few moments
on from the one before, until one comes to its end. A moment is when something on the disk is about to change: a file of
the run is written, gets a name or is removed, a folder is made or removed. They are counted, not timed, so that the
test is the same whenever it is run. Prints how many were killed.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dots import draw_dots

MOMENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}  # os.replace is told as os.rename


def die_at(moment: int, directory: Path) -> None:
    """Kill this process at the ``moment``-th change in ``directory``: before it, or with a file open and empty."""
    left = moment
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it

    def hear(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        opened = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if not (opened or event in MOMENTS) or not str(given[0]).startswith(str(directory)):
            return
        left -= 1
        if left == 0 and opened:  # the write itself is fatal: what is not whole at once is found cut off
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def run(arguments: Sequence[str], out: Path) -> None:
    from edm_unified.cli import main as command

    command([*arguments, "--out", str(out)], standalone_mode=False)


def doomed(arguments: Sequence[str], out: Path, moment: int) -> int:
    """How the command ended in a process of its own: 0, or by which signal."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        die_at(moment, out)
        run(arguments, out)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    draw_dots()
    run(arguments, folder / "whole")  # here, so that the forks find everything imported
    gc.freeze()  # what the forks share is neither searched nor copied by them
    kills, moment = 0, 1
    while status := doomed(arguments, folder / "killed", moment):
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"after {kills} kills it ended with {status}")
        kills, moment = kills + 1, moment + 1 + moment // 4
    sys.stdout.write(f"killed {kills} times\n")


if __name__ == "__main__":
    main()
