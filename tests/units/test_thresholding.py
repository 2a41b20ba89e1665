"""Thresholds on D: what they do, that they are per sample, and that a recipe's run is under them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from click.testing import CliRunner

from edm_unified import exact, thresholding
from edm_unified.cli import main
from edm_unified.denoisers.thresholding import Dynamic, Static, Thresholded
from edm_unified.recipe import Recipe, RecipeError, loads
from edm_unified.sampling import loop as sampling

RULES = (Static(), Static(-0.3, 0.7), Dynamic(), Dynamic(quantile=0.5, high=0.4))


def wild(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """What an ε-network with a constant error makes of a high level: z − σ(n + 0.05)."""
    return 0.9 * torch.tanh(x) - 0.05 * sigma


def test_static_clips_and_nothing_else() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64).view(1, -1)
    assert torch.equal(Static(-1.0, 0.5).of(x), x.clamp(-1, 0.5))


def test_dynamic_is_its_formula_sample_by_sample() -> None:
    D = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    D *= torch.tensor([0.1, 0.3, 1.0, 3.0, 30.0], dtype=torch.float64).view(5, 1, 1, 1)
    found = Dynamic(quantile=0.9).of(D)
    for row, image in zip(found, D, strict=True):
        s = max(float(image.abs().flatten().quantile(0.9, interpolation="higher")), 1.0)
        torch.testing.assert_close(row, image.clamp(-s, s) / s, rtol=1e-14, atol=0)
    assert torch.equal(found[0], D[0])  # within the range: untouched


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_does_not_depend_on_its_batch(rule: thresholding.AnyThreshold) -> None:
    noise = sampling.unit_noise(7, (2, 4, 4))
    whole = sampling.sample(Thresholded(wild, rule), noise)
    alone = sampling.sample(Thresholded(wild, rule), noise[3:4], first=3)
    assert torch.equal(whole[3:4], alone)


@pytest.mark.parametrize("rule", RULES)
def test_the_end_is_within_the_range(rule: thresholding.AnyThreshold) -> None:
    """The last step returns D, and so something within the range, whatever the network's errors."""
    x = sampling.sample(Thresholded(wild, rule), sampling.unit_noise(4, (3,)))
    high = rule.high
    low = rule.low if isinstance(rule, Static) else -high
    assert low <= float(x.min()) <= float(x.max()) <= high


def test_an_exact_denoiser_within_the_range_needs_none() -> None:
    points = exact.Empirical(torch.tensor([[-0.9, 0.4], [0.7, -0.2], [0.1, 0.99]], dtype=torch.float64))
    noise = sampling.unit_noise(16, (2,))
    assert torch.equal(sampling.sample(Thresholded(points, Static()), noise), sampling.sample(points, noise))


def test_the_range_of_the_network_is_kept() -> None:
    class Limited:
        sigma_min, sigma_max = 0.01, 50.0

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return 0 * x

    with pytest.raises(ValueError, match="sigma_max: the network supports"):
        sampling.sample(Thresholded(Limited(), Static()), sampling.unit_noise(1, (2,)))


def test_a_recipe_has_a_threshold() -> None:
    recipe = Recipe.load("ddpm", ["sampler.threshold={kind: static, low: -0.5, high: 0.5}"])
    assert recipe.sampler.threshold == Static(-0.5, 0.5)
    assert loads(recipe.dump()) == recipe
    plain = Recipe.load("ddpm")
    assert recipe.hash != plain.hash
    assert dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, threshold=None)).hash == plain.hash


def test_the_commands_run_under_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    words = ["sample", "edm", "--steps", "4", "--n", "4", "--out", str(tmp_path / "s"), "--scaled", "--quiet"]
    result = CliRunner().invoke(main, [*words, "--set", "sampler.threshold={kind: static, low: -0.25, high: 0.25}"])
    assert result.exit_code == 0, result.output
    assert float(np.abs(np.load(tmp_path / "s" / "samples.npy")).max()) <= 0.25
    shown = CliRunner().invoke(main, ["show", "edm", "--set", "sampler.threshold={kind: dynamic}"])
    assert "threshold" in shown.output
    assert "dynamic" in shown.output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{kind: static, low: 1, high: -1}", "sampler.threshold.low: must be below high"),
        ("{kind: dynamic, quantile: 0}", "sampler.threshold.quantile: must lie in \\(0, 1\\]"),
        ("{kind: dynamik}", "did you mean 'dynamic'"),
    ],
)
def test_bad_thresholds(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load("edm", [f"sampler.threshold={override}"])
