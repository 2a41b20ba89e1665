"""The weight over the log-SNR of the published objectives, against the closed forms of Kingma & Gao 2023."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.recipe import Recipe
from edm_unified.training import objective as ob
from edm_unified.training.objective.weighting import on_grid, weighting

GRID = torch.linspace(-5, 5, 101, dtype=torch.float64)


def normal(x: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


CASES = {  # objective, schedule, w up to a factor (Kingma & Gao 2023, Table 1 and section 4)
    "edm": (
        ob.Objective(ob.LogNormal(), ob.EDMWeight()),
        schedules.EDM(),
        lambda lam: normal(lam, 2.4, 2.4) * (torch.exp(-lam) + 0.25),
    ),
    "flow": (
        ob.Objective(ob.UniformTime(0.0, 1.0), ob.VelocityWeight()),
        schedules.FlowMatching(),
        lambda lam: torch.exp(-lam / 2),
    ),
    "v": (
        ob.Objective(ob.UniformTime(0.0, 1.0), ob.VWeight()),
        schedules.Trigonometric(),
        lambda lam: torch.exp(-lam / 2),
    ),
    "cosine": (
        ob.Objective(ob.UniformTime(0.0, 1.0), ob.EpsilonWeight()),
        schedules.Trigonometric(),
        lambda lam: 1 / torch.cosh(lam / 2),
    ),
    "elbo": (ob.Objective(ob.LogUniform(1e-3, 1e3), ob.EpsilonWeight()), schedules.EDM(), torch.ones_like),
}


@pytest.mark.parametrize("name", CASES)
def test_the_weight_is_the_published_one(name: str) -> None:
    objective, schedule, formula = CASES[name]
    w, exact = on_grid(weighting(objective, schedule), GRID), formula(GRID)
    torch.testing.assert_close(w / w[50], exact / exact[50], rtol=2e-3, atol=0)  # differences of u


def test_the_density_is_one_and_a_staircase_is_the_density_of_its_levels() -> None:
    for name in ("edm", "ddpm", "vp", "flow_matching", "iddpm"):
        recipe = Recipe.load(name)
        found = weighting(recipe.objective, recipe.schedule)  # type: ignore[arg-type]
        assert abs(float(torch.trapezoid(found.density.flip(0), found.log_snr.flip(0)))) == pytest.approx(1, abs=5e-3)
    # DDPM's table is VP's B(t) to 1/M: the density of its levels is that of uniform t
    table, vp = Recipe.load("ddpm"), Recipe.load("vp")
    a = on_grid(weighting(table.objective, table.schedule), GRID)  # type: ignore[arg-type]
    b = on_grid(weighting(vp.objective, vp.schedule), GRID)  # type: ignore[arg-type]
    torch.testing.assert_close(a / a[50], b / b[50], rtol=0.06, atol=0)  # a step of the staircase is read to 3 %


def test_the_weighted_integral_of_the_noise_error_is_the_loss() -> None:
    """On one Gaussian the ε-error is a closed formula: Monte Carlo over p(σ) against the integral over λ."""
    objective, v = ob.Objective(ob.LogNormal(), ob.EDMWeight()), 0.3
    found = weighting(objective, schedules.EDM())
    s2 = torch.exp(-found.log_snr)
    error = v / (v + s2)  # E(ε̂ − ε)² per entry
    weight = objective.weight(s2.sqrt()) * s2
    integral = float(torch.trapezoid((found.density * weight * error).flip(0), found.log_snr.flip(0)))
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    sigma = objective.noise.quantile(u, schedules.EDM())
    loss = (objective.weight(sigma) * sigma**2 * v / (v + sigma**2)).mean()
    assert integral == pytest.approx(float(loss), rel=1e-3)
