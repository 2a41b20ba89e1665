"""EDM's ``ablation_sampler`` by numbers that its own code gave (``make_golden.py``), where that code is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from authors_repos import double
from edm_walks import CHURN, COMBINATIONS, ablation

GOLDEN: dict[str, list[float]] = json.loads(Path(__file__).with_name("golden_edm.json").read_text("utf-8"))


def test_no_combination_is_missing() -> None:
    assert set(GOLDEN) == {"-".join((*c, name)) for c in COMBINATIONS for name in ("ode", "churn")}


@pytest.mark.parametrize("discretization", ["vp", "ve", "iddpm", "edm"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_ablation_sampler_is_as_their_code_gave_it(solver: str, discretization: str) -> None:
    """Under each of their schedules and scalings, without noise and with churn; largest difference 1e-10."""
    with double():
        for combination in [c for c in COMBINATIONS if c[:2] == (solver, discretization)]:
            for name, churn in (("ode", None), ("churn", CHURN)):
                key = "-".join((*combination, name))
                wanted = torch.tensor(GOLDEN[key], dtype=torch.float64)
                found = ablation(*combination, churn)[0].flatten()
                assert float((found - wanted).abs().max()) < 1e-10, key
