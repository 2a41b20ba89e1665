"""Precision and recall, and the features of a classifier: laws that hold for any data, and what they see in digits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from edm_unified import metrics
from edm_unified.cli import main
from edm_unified.data import Dataset, Digits, RandomMixture, Signals
from edm_unified.report import ReportData, places
from edm_unified.report.ranking import tabulate

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def value(estimate: metrics.Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def both(x: Tensor, data: Tensor, k: int = 3) -> tuple[float, float]:
    return value(metrics.precision(x, data, k)), value(metrics.recall(x, data, k))


# -- precision and recall ---------------------------------------------------------------------------------------------


def test_identical_sets_have_both_and_sets_apart_have_neither() -> None:
    x = randn(60, 2, 3) + 1e6  # large numbers, where squared distances by products would be rounding
    assert both(x, x.clone()) == (1.0, 1.0)
    assert both(x, x.flip(0)) == (1.0, 1.0)
    assert both(x, x + 100) == (0.0, 0.0)


def test_some_of_the_modes_are_precise_but_do_not_recall() -> None:
    """Four spots, far apart: what draws one of them is right in what it draws, and misses three quarters."""
    spots = 100.0 * torch.eye(4, dtype=F64)
    data = torch.cat([spot + randn(50, 4, seed=i) for i, spot in enumerate(spots)])[torch.randperm(200)]
    one = spots[2] + randn(200, 4, seed=9)
    precise, recalled = both(one, data)
    assert precise > 0.7  # of exact draws; the region of 50 points has gaps
    assert recalled == pytest.approx(0.25, abs=0.03)
    assert both(data, one) == (recalled, precise)  # they are each other's mirror


def test_the_same_by_another_implementation() -> None:
    """scikit-learn's neighbours, and a loop."""
    x, data = randn(40, 3, seed=1) * 1.5, randn(40, 3, seed=2)
    for k in (1, 3, 5):
        radii = NearestNeighbors(n_neighbors=k + 1).fit(data.numpy()).kneighbors(data.numpy())[0][:, -1]
        inside = [any(float((a - b).norm()) <= r for b, r in zip(data, radii, strict=True)) for a in x]
        assert metrics.precision(x, data, k).value == pytest.approx(sum(inside) / 40)


def test_more_neighbours_and_more_noise_do_what_they_must() -> None:
    x, data = randn(100, 5, seed=1), randn(100, 5, seed=2)
    shares = [value(metrics.precision(x, data, k)) for k in (1, 2, 3, 6, 12)]
    assert shares == sorted(shares)  # regions grow with k
    noisy = [value(metrics.precision(x + scale * randn(100, 5, seed=3), data)) for scale in (0.0, 1.0, 3.0)]
    assert noisy == sorted(noisy, reverse=True)
    assert shares[0] < shares[-1]
    assert noisy[0] > noisy[-1]


def test_both_sets_are_cut_to_the_smaller() -> None:
    x, data = randn(50, 2, seed=1), randn(80, 2, seed=2)
    assert both(x, data) == both(x, data[:50])


def test_intervals_are_ordered_seeded_and_as_wide_as_the_spread() -> None:
    """Of precision, over fresh samples. That of recall, over the data, was 0.7 of the spread over fresh samples."""
    data = randn(300, 3, seed=99)
    found = [metrics.precision(randn(300, 3, seed=s) * 1.3, data).value for s in range(40)]
    e = metrics.precision(randn(300, 3, seed=0) * 1.3, data)
    assert e == metrics.precision(randn(300, 3, seed=0) * 1.3, data)
    assert e.low is not None
    assert e.high is not None
    assert e.low <= value(e) <= e.high
    # the spread of 40 values is known to ±11 %
    assert (e.high - e.low) / (2 * 1.96) == pytest.approx(float(torch.tensor(found).std()), rel=0.4)


@pytest.mark.parametrize("metric", [metrics.precision, metrics.recall])
def test_bad_samples(metric: Callable[..., metrics.Estimate]) -> None:
    x, data = randn(20, 3), randn(20, 3, seed=1)
    for bad in (math.nan, math.inf):
        y = x.clone()
        y[3, 1] = bad
        assert metric(y, data) == metrics.DIVERGED
    with pytest.raises(ValueError, match=r"^x: must have shape .* N >= 4"):
        metric(x[:3], data)
    with pytest.raises(ValueError, match=r"^data: must hold events of the shape of x"):
        metric(x, data[:, :2])
    with pytest.raises(ValueError, match=r"^k: must be"):
        metric(x, data, 0)


# -- features ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Digits().load()


@pytest.fixture(scope="module")
def features(digits: Dataset) -> metrics.Features:
    return metrics.Features(digits)


def test_the_classifier_knows_digits_that_it_has_not_seen(digits: Dataset) -> None:
    """Trained on the first thousand, asked for the rest: one in ten would be chance."""
    assert digits.labels is not None
    known = metrics.Features(Dataset(digits.images[:1000], digits.labels[:1000], "some digits"))
    fresh, labels = known(digits.images[1000:]), digits.labels[1000:]
    seen, seen_labels = known(digits.images[:1000]), digits.labels[:1000]
    nearest = torch.cdist(fresh, seen).argmin(1)
    assert known.accuracy > 0.98
    assert float((seen_labels[nearest] == labels).double().mean()) > 0.9


def test_features_have_unit_variance_and_follow_from_the_seed(
    digits: Dataset, features: metrics.Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_rng_state()
    found = features(digits.images)
    assert found.shape == (len(digits), 64)
    assert float(found.var(0).sum()) == pytest.approx(1, rel=1e-4)
    assert found.mean(0).abs().max() < 1e-4
    monkeypatch.setattr("edm_unified.metrics.features.STEPS", 10)
    one, two = (metrics.Features(digits)(digits.images[:50]) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_distance_in_features(digits: Dataset, features: metrics.Features) -> None:
    seen = features(digits.images)
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    half = value(metrics.frechet(seen[order][:900], seen))
    assert metrics.frechet(seen, seen).value == pytest.approx(0, abs=1e-6)
    assert metrics.frechet(seen[order], seen).value == pytest.approx(0, abs=1e-6)
    # half of the data; those without a class; those upside down: further and further
    assert digits.labels is not None
    fewer = value(metrics.frechet(features(digits.images[digits.labels != 3]), seen))
    turned = value(metrics.frechet(features(digits.images.flip(2)), seen))
    assert 0 < half < fewer < turned


def test_any_kind_of_data_with_classes_has_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edm_unified.metrics.features.STEPS", 3)
    for data in (RandomMixture(samples=200, components=3), Signals(samples=100)):
        loaded = data.load()
        assert metrics.Features(loaded)(loaded.images).shape == (len(loaded), 64)
    large = torch.rand(40, 3, 40, 70)  # odd sizes, averaged down
    assert metrics.Features(Dataset(large, torch.arange(40) % 2, "noise"))(large).shape == (40, 64)
    with pytest.raises(ValueError, match=r"^data: noise has no classes"):
        metrics.Features(Dataset(large, None, "noise"))


def test_a_sample_that_is_not_finite_has_no_features(digits: Dataset, features: metrics.Features) -> None:
    x = digits.images[:8].clone()
    x[3, 0, 0, 0] = math.inf
    seen = features(x)
    assert torch.isnan(seen[3]).all()
    assert torch.isfinite(seen[[0, 1, 2, 4, 5, 6, 7]]).all()
    assert metrics.frechet(seen, features(digits.images)) == metrics.DIVERGED


# -- in a comparison --------------------------------------------------------------------------------------------------


def test_precision_is_ranked_the_highest_first() -> None:
    rows = [
        {"recipe": name, "schedule": "s", "steps": "k", "solver": "e", "renoising": "none", "budget": 10, "nfe": 10,
         "n": 10, "seed": 0, "metric": "precision", "value": value, "low": value - 0.05, "high": value + 0.05}
        for name, value in (("low", 0.2), ("high", 0.9), ("middle", 0.6), ("close", 0.87))
    ]  # fmt: skip
    found = places(tabulate(ReportData(title="", records=rows)), 10, "precision")
    assert {name: place.rank for name, place in found.items()} == {"high": 1, "close": 1, "middle": 3, "low": 4}
    assert list(found) == ["high", "close", "middle", "low"]


@pytest.mark.usefixtures("real_figures")
def test_compare_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edm_unified.metrics.features.STEPS", 30)
    names = ["frechet_features", "precision", "recall"]
    result = CliRunner().invoke(
        main,
        ["compare", "edm", "--solver", "euler", "--solver", "heun", "--nfe", "20", "--samples", "64", "--set",
         f"metrics=[{', '.join(names)}]", "--set", "rank_by=recall", "--set", "grid_samples=0", "--json", "--quiet",
         "--out", str(tmp_path)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.output.splitlines()]
    assert {(r["solver"], r["metric"]) for r in records} == {(s, n) for s in ("euler", "heun") for n in names}
    assert all(r["value"] > 0.3 for r in records if r["metric"] == "precision")
    page = (tmp_path / "report.html").read_text()
    assert "but for precision and recall, which are best at 1" in page
    assert "1 − recall" in page


def test_data_without_classes_have_precision_and_recall_of_their_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main,
        ["compare", "edm", "--nfe", "9", "--samples", "32", "--set", "data.kind=two_dimensional", "--set",
         "data.name=swiss_roll", "--set", "denoiser.kind=empirical", "--set", "grid_samples=0", "--set",
         "metrics=[precision, recall, frechet_features]", "--set", "rank_by=precision", "--json", "--quiet", "--out",
         str(tmp_path)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert {json.loads(line)["metric"] for line in result.output.splitlines()} == {"precision", "recall"}
