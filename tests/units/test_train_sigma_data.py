"""EDM's weight has the preconditioning's σ_data unless it is given another, which is then told."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from click.testing import CliRunner
from training_example import recipe

from edm_unified.cli import main
from edm_unified.denoisers.preconditioning import EDM, VP
from edm_unified.recipe import Recipe
from edm_unified.training import Objective
from edm_unified.training.objective.weights import EDMWeight

BOTH = ("preconditioning.sigma_data=0.75", "objective.weight.sigma_data=0.5")


def out(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_null_is_that_of_the_preconditioning() -> None:
    """In the recipe, in what is dumped of it, and in what is trained."""
    found = recipe("preconditioning.sigma_data=0.75")
    assert found.objective is not None
    assert found.objective.weight == EDMWeight(0.75)
    assert "weight:\n    kind: edm\n    sigma_data: 0.75\n" in found.dump()
    assert found.job().objective.weight == EDMWeight(0.75)
    sigma = torch.tensor([0.1, 2.0], dtype=torch.float64)
    c_out = EDM(0.75).c_out(sigma)
    torch.testing.assert_close(found.objective.weight(sigma), 1 / c_out**2, rtol=1e-12, atol=0)
    job = found.job()
    assert dataclasses.replace(job, objective=Objective(), preconditioning=EDM(3.0)).objective.weight == EDMWeight(3.0)


def test_without_one_to_take_it_is_edm_s() -> None:
    """0.5, as the default was: recipes that leave it out keep their hash."""
    sigma = torch.tensor([0.1, 2.0], dtype=torch.float64)
    assert torch.equal(EDMWeight()(sigma), EDMWeight(0.5)(sigma))
    assert Objective().with_sigma_data_of(VP()).weight == EDMWeight(0.5)
    assert recipe().hash == recipe("objective.weight.sigma_data=0.5").hash == "97cd60b490fc"


def test_another_number_is_allowed_and_told() -> None:
    note = "objective.weight.sigma_data is 0.5, the preconditioning's is 0.75"
    sets = [word for text in BOTH for word in ("--set", text)]
    assert note in out("show", "edm", *sets)
    assert note in out("train", "digits/edm", "--dry-run", *sets)
    found = Recipe.load("edm", BOTH)
    assert found.objective is not None
    assert found.objective.weight == EDMWeight(0.5)
    for quiet in (("edm",), ("edm", "--set", "objective.weight=epsilon", *sets[:2]), ("vp",)):
        assert "objective.weight.sigma_data" not in out("show", *quiet)


@pytest.mark.parametrize("weight", ["edm", "edm_null"])
def test_one_override_changes_both(weight: str) -> None:
    told = "objective.weight={kind: edm}" if weight == "edm" else "objective.weight.sigma_data=null"
    found = Recipe.load("edm", [told, "preconditioning.sigma_data=2"])
    assert found.objective is not None
    assert found.objective.weight == EDMWeight(2.0)
    assert found.objective.note(found.preconditioning) is None
