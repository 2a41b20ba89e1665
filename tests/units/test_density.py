"""Densities over ln σ that are measured on a denoiser: against closed forms, and against what is shipped."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import yaml
from click.testing import CliRunner

from edm_unified.cli import main
from edm_unified.denoisers.denoiser import Counted
from edm_unified.denoisers.exact import Gaussian
from edm_unified.recipe import Comparison, Recipe, codec
from edm_unified.sampling.levels import DensitySpaced, Tan, mean_squared_errors, measured_density
from edm_unified.schedules import EDM

VARIANCE = 0.25
NORMAL = Gaussian(torch.zeros(4, dtype=torch.float64), VARIANCE)


def test_the_error_of_a_gaussian_is_its_closed_form() -> None:
    """v σ²/(v + σ²); 4000 draws in 4 dimensions leave a standard error of √(2/16000) = 1.1 %."""
    sigmas = (10.0, 1.0, 0.5, 0.01)
    for sigma, error in zip(sigmas, mean_squared_errors(NORMAL, NORMAL.sample(4000), sigmas), strict=True):
        assert error == pytest.approx(VARIANCE * sigma**2 / (VARIANCE + sigma**2), rel=0.04)


def test_the_integral_of_the_rate_is_the_entropy() -> None:
    """H(x_0 | x) = ½ ln 2πe v σ²/(v + σ²), in nats per dimension."""
    rule = measured_density(NORMAL, NORMAL.sample(4000), "entropy", sigma_min=0.05, sigma_max=20.0, nodes=60)
    total = sum(
        0.5 * (p + q) * math.log(a / b)
        for (a, b), (p, q) in zip(pairwise(rule.sigmas), pairwise(rule.density), strict=True)
    )
    posterior = [VARIANCE * sigma**2 / (VARIANCE + sigma**2) for sigma in (20.0, 0.05)]
    assert total == pytest.approx(0.5 * math.log(posterior[0] / posterior[1]), rel=0.03)


def test_the_rescaled_entropy_of_a_gaussian_is_tan() -> None:
    rule = measured_density(NORMAL, NORMAL.sample(4000), n=9, sigma_min=0.02, sigma_max=20.0, nodes=200)
    expected = Tan(n=9, sigma_min=0.02, sigma_max=20.0, sigma_data=0.5).levels(EDM())
    assert torch.allclose(rule.levels(EDM())[1:-2], expected[1:-2], rtol=0.05)


def test_the_cost_is_one_evaluation_for_each_node_and_batch() -> None:
    counted = Counted(NORMAL)
    rule = measured_density(counted, NORMAL.sample(100), nodes=7, batch=40)
    assert counted.nfe == 7 * 3
    whole = measured_density(NORMAL, NORMAL.sample(100), nodes=7, batch=100)
    assert rule.density == pytest.approx(whole.density, rel=1e-12)


def test_the_density_of_the_solver_atlas_is_the_measured_one() -> None:
    """The mean of its four problems; 512 draws here and 2048 there leave some per cent."""
    atlas = Comparison.load("solver_atlas")
    rule = next(rule for rule in atlas.cross["sampler.steps"] if isinstance(rule, DensitySpaced))
    nodes = slice(0, None, 5)
    found = torch.zeros(len(rule.sigmas[nodes]), dtype=torch.float64)
    names = [name.removesuffix(".yaml") for name in atlas.recipes]
    for name in names:
        D, _ = Recipe.load(name).build()
        errors = torch.tensor(mean_squared_errors(D, D.sample(512), rule.sigmas[nodes]), dtype=torch.float64)
        found += errors / torch.tensor(rule.sigmas[nodes], dtype=torch.float64) / len(names)
    assert torch.allclose(found, torch.tensor(rule.density[nodes], dtype=torch.float64), rtol=0.1)


def test_show_prints_a_rule_that_a_recipe_can_name() -> None:
    result = CliRunner().invoke(main, ["show", "toy/mixture_2d", "--density", "rescaled_entropy", "--steps", "7"])
    assert result.exit_code == 0, result.stderr
    rule = codec.decode(DensitySpaced, yaml.safe_load(result.stdout), "", [])
    assert isinstance(rule, DensitySpaced)
    assert (rule.n, rule.sigmas[0], rule.sigmas[-1]) == (7, 80.0, 0.002)
    assert len(rule.levels(EDM())) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "quickstart", "--density", "entropy"], "--density: quickstart is a comparison; name one recipe"),
        (["show", "toy/mixture_2d", "--density", "entropy", "--steps", "1"], "has one level above zero"),
        (["show", "edm", "--density", "enthropy"], "entropy"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_bad_values_name_their_field() -> None:
    for settings, field in (({"nodes": 1}, "nodes"), ({"sigma_min": 90.0}, "sigma_min"), ({"density": "x"}, "density")):
        with pytest.raises(ValueError, match=f"^{field}: "):
            measured_density(NORMAL, NORMAL.sample(4), **settings)  # type: ignore[arg-type]
