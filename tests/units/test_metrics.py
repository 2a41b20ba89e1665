"""The metrics against closed forms and brute force; their intervals against what repeated experiments do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edm_unified import exact, metrics
from edm_unified.metrics import frechet_distance

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def ordered(e: metrics.Estimate) -> bool:
    return e.value is not None and e.low is not None and e.high is not None and e.low <= e.value <= e.high


# -- values -----------------------------------------------------------------------------------------------------------


def test_endpoint_error() -> None:
    reference = randn(5, 2, 3)
    sizes = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0], dtype=F64)
    e = metrics.endpoint_error(reference + sizes[:, None, None], reference)  # RMS over dimensions: the size itself
    assert e.median.value == pytest.approx(2.0)
    assert e.rms.value == pytest.approx(math.sqrt(114 / 5))
    assert ordered(e.median)
    assert ordered(e.rms)
    even = metrics.endpoint_error(reference[:4] + sizes[:4, None, None], reference[:4])
    assert even.median.value == pytest.approx(1.5)


def test_sliced_wasserstein_of_a_shift_and_a_scale_in_one_dimension() -> None:
    x = randn(400, 1)
    shift = metrics.sliced_wasserstein(x + 0.7, x)
    assert shift.value == pytest.approx(0.7, rel=1e-12)
    scale = metrics.sliced_wasserstein(1.5 * x, x)  # the monotone map multiplies by 1.5
    assert scale.value == pytest.approx(float(0.5 * x.square().mean().sqrt()), rel=1e-12)
    assert metrics.sliced_wasserstein(x, x.flip(0)).value == pytest.approx(0, abs=1e-12)


def test_sliced_wasserstein_of_unequal_sizes_is_that_of_repeated_rows() -> None:
    """Repeating every row changes no distribution: 6 and 10 rows are 30 and 30."""
    a, b = randn(6, 3, seed=1), randn(10, 3, seed=2)
    small = metrics.sliced_wasserstein(a, b)
    large = metrics.sliced_wasserstein(a.repeat_interleave(5, 0), b.repeat_interleave(3, 0))
    assert small.value == pytest.approx(large.value, rel=1e-12)


def test_sliced_wasserstein_of_a_shift_in_many_dimensions() -> None:
    """Along u the shift is u·v, so the mean square over directions is |v|²/d in expectation: here within 5 of its
    standard errors over 4096 directions."""
    x, v = randn(50, 8), torch.arange(8, dtype=F64)
    value = metrics.sliced_wasserstein(x + v, x, directions=4096).value
    assert value is not None
    spread = float(v.square().sum()) / 8 * math.sqrt(2)  # an upper bound on the spread of (u·v)²
    assert abs(value**2 - float(v.square().sum()) / 8) < 5 * spread / 64


def test_sliced_wasserstein_influence_is_the_derivative_in_the_weights() -> None:
    """Its interval must match the spread of the value over fresh sets of samples."""
    data = randn(300, 2, seed=100) * 2
    values = [metrics.sliced_wasserstein(randn(300, 2, seed=s) + 0.8, data, seed=9).value for s in range(60)]
    e = metrics.sliced_wasserstein(randn(300, 2, seed=0) + 0.8, data, seed=9)
    spread = float(torch.tensor(values, dtype=F64).std())
    assert e.low is not None
    assert e.high is not None
    # The spread of 60 values is known to ±9 %; the bootstrap of 300 rows to about as much.
    assert (e.high - e.low) / (2 * 1.96) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize(("n", "m"), [(7, 5), (2, 2), (1300, 1100)])
def test_energy_distance_by_brute_force(n: int, m: int) -> None:
    a, b = randn(n, 3, seed=1) + 0.5, randn(m, 3, seed=2)

    def mean_distance(p: Tensor, q: Tensor) -> Tensor:
        return (p[:, None] - q).square().sum(-1).sqrt()

    within_a, within_b = mean_distance(a, a).sum() / (n * (n - 1)), mean_distance(b, b).sum() / (m * (m - 1))
    expected = float(2 * mean_distance(a, b).mean() - within_a - within_b)
    assert metrics.energy_distance(a, b).value == pytest.approx(expected, abs=1e-7)


def test_energy_distance_is_unbiased_and_its_interval_is_as_wide_as_the_spread() -> None:
    """E = 0 for equal distributions, by 60 experiments; with a shift, the interval has the width of their spread."""
    equal = torch.tensor(
        [metrics.energy_distance(randn(60, 2, seed=s), randn(60, 2, seed=s + 500)).value for s in range(60)]
    )
    assert abs(equal.mean()) < 4 * equal.std() / math.sqrt(60)
    data = randn(200, 2, seed=999)
    shifted = torch.tensor(
        [metrics.energy_distance(randn(200, 2, seed=s) + 1, data).value for s in range(60)], dtype=F64
    )
    e = metrics.energy_distance(randn(200, 2, seed=0) + 1, data)
    assert e.low is not None
    assert e.high is not None
    assert (e.high - e.low) / (2 * 1.96) == pytest.approx(float(shifted.std()), rel=0.35)


def test_frechet_of_known_moments() -> None:
    """For covariances that commute, |μ₁−μ₂|² + Σ(√λ₁−√λ₂)²; the samples are whitened to have exactly μ₁ and C₁."""
    z = randn(500, 3)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.mT.cov())).mT
    Q = torch.linalg.qr(randn(3, 3, seed=1)).Q
    l1, l2 = torch.tensor([1.0, 4.0, 0.25], dtype=F64), torch.tensor([2.0, 1.0, 0.0], dtype=F64)
    mean1, mean2 = torch.tensor([1.0, 0, 2], dtype=F64), torch.tensor([0.0, 1, 2], dtype=F64)
    x, C2 = mean1 + (white * l1.sqrt()) @ Q.mT, (Q * l2) @ Q.mT
    expected = 2 + float((l1.sqrt() - l2.sqrt()).square().sum())
    e = metrics.frechet(x, (mean2, C2))
    assert e.value == pytest.approx(expected, abs=1e-7)  # √ of a zero eigenvalue's rounding
    assert ordered(e)
    assert metrics.frechet(x, x).value == pytest.approx(0, abs=1e-7)
    a, b = randn(50, 3, seed=4), randn(60, 3, seed=5) @ randn(3, 3, seed=6)
    assert metrics.frechet(a, b).value == pytest.approx(metrics.frechet(a, (b.mean(0), b.mT.cov())).value)
    # Not commuting: the trace of the root by an independent route, the eigenvalues of C₁C₂.
    cross = torch.linalg.eigvals(a.mT.cov() @ b.mT.cov()).real.clamp(min=0).sqrt().sum()
    expected = float((a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum() - 2 * cross)
    assert metrics.frechet(a, b).value == pytest.approx(expected)


def _dense_frechet(x: Tensor, mean: Tensor, cov: Tensor) -> float:
    """With the trace of the root as the sum of singular values of C^½ Zᵀ/√(n−1): another route, without squares."""
    z = x - x.mean(0)
    values, axes = torch.linalg.eigh(cov)
    root = axes * values.clamp(min=0).sqrt()
    cross = torch.linalg.matrix_norm(root.mT @ z.mT / (len(x) - 1) ** 0.5, "nuc")
    return float((x.mean(0) - mean).square().sum() + z.square().sum() / (len(x) - 1) + cov.trace() - 2 * cross)


@pytest.mark.parametrize("n", [2, 7, 30, 90])
def test_frechet_without_matrices_of_d_by_d_is_the_dense_one(n: int) -> None:
    """Fewer samples than the 30 dimensions, as many, and more; of a low-rank covariance, a full one, and of samples."""
    d = 30
    x, F, mean = randn(n, d, seed=1) + 0.3, randn(4, d, seed=2), randn(d, seed=3)
    for floor in (0.0, 0.2):
        cov = F.mT @ F + floor * torch.eye(d, dtype=F64)
        expected = _dense_frechet(x, mean, cov)
        low, full = metrics.frechet(x, metrics.LowRank(mean, F, floor)), metrics.frechet(x, (mean, cov))
        assert low.value == pytest.approx(expected, rel=1e-7)
        assert full.value == pytest.approx(expected, rel=1e-6)  # n ≥ d: roots of what only rounding keeps from zero
        assert (low.low, low.high) == pytest.approx((full.low, full.high), rel=1e-5)
    few = randn(6, d, seed=4)
    assert metrics.frechet(x, few).value == pytest.approx(_dense_frechet(x, few.mean(0), few.mT.cov()), rel=1e-6)


@pytest.mark.parametrize("n", [5, 60])
def test_the_influence_of_a_sample_on_frechet_is_the_derivative(n: int) -> None:
    """Of the value in the weight of each row, by differences; d = 8 is above one n and below the other."""
    x, F = randn(n, 8, seed=1), randn(2, 8, seed=2)
    second = frechet_distance._Factored(F, torch.tensor(0.1, dtype=F64))
    z = x - x.mean(0)
    _, kept = frechet_distance._transport(z, second)

    values, axes = torch.linalg.eigh(second.matrix())

    def trace(weights: Tensor) -> float:
        A = (axes * values.sqrt()).mT @ (z * weights.sqrt()[:, None]).mT / (n - 1) ** 0.5
        return float(torch.linalg.matrix_norm(A, "nuc"))

    for i in (0, n - 1):
        step = torch.zeros(n, dtype=F64).index_fill(0, torch.tensor([i]), 1e-3)
        slope = (trace(1 + step) - trace(1 - step)) / 2e-3
        assert float(kept[i]) / (2 * (n - 1)) == pytest.approx(slope, rel=1e-5)


def test_what_is_the_same_for_all_methods_may_be_handed_in() -> None:
    x, data = randn(20, 3), randn(50, 3, seed=1)
    assert metrics.energy_distance(x, data, spread=metrics.mean_distance(data)) == metrics.energy_distance(x, data)
    model = exact.Gaussian(torch.zeros(3), 1.0)
    assert metrics.log_density_gap(x, model, fresh=metrics.fresh_log_density(model)) == metrics.log_density_gap(
        x, model
    )


def test_the_stated_bias_of_frechet() -> None:
    """tr(C)(d+5)/(4N) for C = I: the mean of 20 experiments within 5 standard errors, plus the next order 1/N²."""
    n, d = 2000, 16
    target = (torch.zeros(d, dtype=F64), torch.eye(d, dtype=F64))
    values = torch.tensor([metrics.frechet(randn(n, d, seed=s), target).value for s in range(20)])
    stated = d * (d + 5) / (4 * n)
    assert abs(values.mean() - stated) < 5 * values.std() / math.sqrt(20) + stated * d / n


def test_frechet_interval_is_as_wide_as_the_spread() -> None:
    target = (torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    scale = torch.tensor([1.5, 0.8], dtype=F64)
    values = torch.tensor([metrics.frechet(randn(300, 2, seed=s) * scale + 0.5, target).value for s in range(60)])
    e = metrics.frechet(randn(300, 2, seed=0) * scale + 0.5, target)
    assert e.low is not None
    assert e.high is not None
    assert (e.high - e.low) / (2 * 1.96) == pytest.approx(float(values.std()), rel=0.35)


def test_log_density_gap() -> None:
    """For N(0, I) and x ~ N(0, a²I) the gap is (a²−1)/2 nats per dimension."""
    D = exact.Gaussian(torch.zeros(4), 1.0)
    x = 1.5 * randn(4000, 4)
    e = metrics.log_density_gap(x, D)
    assert e.value is not None
    assert e.low is not None
    assert e.high is not None
    assert abs(e.value - 0.625) < 5 * (e.high - e.low) / (2 * 1.96)
    # Given x, only the fresh draws vary: (‖z‖²/2)/d has the spread 1/√(2·4), and 5 standard errors of 2048 are allowed.
    assert e.value == pytest.approx(0.5 * float(x.square().mean()) - 0.5, abs=5 / math.sqrt(8 * 2048))
    exactly = metrics.log_density_gap(D.sample(4000, seed=5, sigma=2.0), D, sigma=2.0)
    assert exactly.value == pytest.approx(0, abs=10 / math.sqrt(8 * 4000))


def test_log_density_gap_of_each_class() -> None:
    M = exact.GaussianMixture([0.5, 0.5], [[-9.0], [9.0]], [1.0, 1.0], [0, 1])
    label = torch.arange(600) % 2
    x = M.sample(600, seed=1, label=label)
    right, wrong = metrics.log_density_gap(x, M, label=label), metrics.log_density_gap(x, M, label=1 - label)
    assert right.value == pytest.approx(0, abs=0.25)
    assert wrong.value == pytest.approx(162, rel=0.1)  # 18²/2


# -- intervals, seeds, bad samples ------------------------------------------------------------------------------------


def all_of(x: Tensor, data: Tensor) -> dict[str, metrics.Estimate]:
    D = exact.Gaussian(torch.zeros(data.shape[1:]), 1.0)
    error = metrics.endpoint_error(x, data[: len(x)])
    return {
        "error_median": error.median,
        "error_rms": error.rms,
        "sliced_wasserstein": metrics.sliced_wasserstein(x, data),
        "energy_distance": metrics.energy_distance(x, data),
        "frechet": metrics.frechet(x, data),
        "log_density_gap": metrics.log_density_gap(x, D),
    }


def test_every_metric_has_an_ordered_seeded_interval_in_any_shape_and_dtype() -> None:
    x, data = 1.3 * randn(40, 2, 3, seed=1), randn(60, 2, 3, seed=2)
    before = torch.get_rng_state()
    once, twice = all_of(x, data), all_of(x, data)
    assert torch.equal(torch.get_rng_state(), before)
    assert once == twice
    for name, e in once.items():
        assert ordered(e), name
    for name, e in all_of(x.float(), data.float()).items():
        assert e.value == pytest.approx(once[name].value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_diverged_samples_are_reported_not_raised(bad: float) -> None:
    x, data = randn(40, 6, seed=1), randn(60, 6, seed=2)
    x[3, 2] = bad
    for name, e in all_of(x, data).items():
        if math.isfinite(bad) and name == "error_median":
            assert e.value is not None  # one sample of forty does not move the median
            continue
        assert e == metrics.DIVERGED, name


def test_wrong_shapes_are_refused() -> None:
    x = randn(4, 3)
    for metric in (metrics.sliced_wasserstein, metrics.energy_distance, metrics.frechet):
        with pytest.raises(ValueError, match=r"^data: must hold events of the shape of x"):
            metric(x, randn(4, 5))
    with pytest.raises(ValueError, match=r"^x: must have the shape of reference"):
        metrics.endpoint_error(x, randn(5, 3))
    with pytest.raises(ValueError, match=r"^x: must have shape .* N >= 2"):
        metrics.energy_distance(x[:1], x)
    with pytest.raises(ValueError, match=r"^directions:"):
        metrics.sliced_wasserstein(x, x, directions=0)
    with pytest.raises(ValueError, match=r"^data: mean and covariance"):
        metrics.frechet(x, (torch.zeros(2), torch.eye(2)))
