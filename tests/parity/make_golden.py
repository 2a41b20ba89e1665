"""Write golden_edm.json: what the authors' own code gives, for machines that do not have it.

Numbers only: the first sample of every combination of ``ablation_sampler`` of NVlabs/edm, made by running that code.

    AUTHORS_REPOS=FOLDER python tests/parity/make_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

from authors_repos import clone, double, importable
from edm_walks import CHURN, COMBINATIONS, theirs

GOLDEN = Path(__file__).with_name("golden_edm.json")


def main() -> None:
    """Run their samplers and keep what they return."""
    found = {}
    with importable(clone("NVlabs/edm"), stubs=("tqdm", "PIL", "PIL.Image", "requests")) as load, double():
        generate = load("generate")
        for combination in COMBINATIONS:
            for name, churn in (("ode", None), ("churn", CHURN)):
                found["-".join((*combination, name))] = theirs(generate, *combination, churn)[0].flatten().tolist()
    lines = [f"{json.dumps(key)}: {json.dumps(values)}" for key, values in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
