"""Write golden_edm.json and golden_authors.npz: what the authors' own code gives, for machines that do not have it.

Numbers only, made by running that code: the first sample of every combination of ``ablation_sampler`` of NVlabs/edm,
and what the functions under ``golden`` return in the comparisons beside this file, which are run for it.

    AUTHORS_REPOS=FOLDER python tests/parity/make_golden.py [test_authors_deis.py …]

With names of files it remakes the numbers of those. What a skipped test needs is said; its numbers are not kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import authors_repos
import foreign_files
import pytest
from authors_repos import clone, double, importable
from edm_walks import CHURN, COMBINATIONS, theirs

HERE = Path(__file__).parent
GOLDEN = HERE / "golden_edm.json"


def ablations() -> None:
    """Run their samplers and keep what they return."""
    found = {}
    with importable(clone("NVlabs/edm"), stubs=("tqdm", "PIL", "PIL.Image", "requests")) as load, double():
        generate = load("generate")
        for combination in COMBINATIONS:
            for name, churn in (("ode", None), ("churn", CHURN)):
                found["-".join((*combination, name))] = theirs(generate, *combination, churn)[0].flatten().tolist()
    lines = [f"{json.dumps(key)}: {json.dumps(values)}" for key, values in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def comparisons(names: list[str]) -> None:
    """Run the comparisons that have numbers to keep, in these files or all; those that run must hold."""
    files = [file for file in sorted(HERE.glob("test_authors_*.py")) if "@golden(" in file.read_text("utf-8")]
    files.append(HERE / "test_authors_files.py")
    files = [file for file in files if not names or file.name in names]
    if pytest.main(["-n", "0", "-q", "-rs", "--assert=plain", *map(str, files)]) != 0:
        sys.exit("nothing is kept of comparisons that fail")
    authors_repos.keep(authors_repos.made, [file.name for file in files])
    if HERE / "test_authors_files.py" in files:
        foreign_files.keep()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        ablations()
    comparisons(sys.argv[1:])
