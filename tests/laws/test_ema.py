"""Laws of the averages: their profiles are the ones named, and stored ones make others afterwards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from edm_unified.training.optimization import ema, posthoc_ema
from edm_unified.training.runs import posthoc

STDS = (0.01, 0.05, 0.10, 0.2, 0.28)


def profile_of(rule: ema.AnyEMA, steps: int, batch: float, which: int = 0) -> np.ndarray:
    """The weight that each step has in the average after ``steps``, by feeding in one unit vector for each."""
    module = nn.Linear(steps, 1, bias=False)
    nn.init.zeros_(module.weight)
    averages = rule.build(module.double())
    for k in range(steps):
        with torch.no_grad():
            module.weight.zero_()[0, k] = 1
        averages.update((k + 1) * batch, batch)
    return averages.weights()[which][1]["weight"][0].numpy()


@pytest.mark.parametrize("std", STDS)
def test_a_profile_has_the_width_it_is_named_by(std):
    gamma = ema.gamma_of(std)
    p = lambda tau: (gamma + 1) * tau**gamma  # noqa: E731
    moment = lambda k: quad(lambda tau: tau**k * p(tau), 0, 1, epsabs=1e-13, epsrel=1e-13, points=[1 - std])[0]  # noqa: E731
    assert moment(0) == pytest.approx(1, rel=1e-10)
    assert math.sqrt(moment(2) - moment(1) ** 2) == pytest.approx(std, rel=1e-7)  # a difference of nearly equal numbers
    assert ema.std_of(gamma) == pytest.approx(std, rel=1e-12)


def test_published_exponents():
    """Karras et al. 2024, section 3.1: σ_rel of 0.05 and 0.10 are γ ≈ 16.97 and 6.94."""
    assert ema.gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert ema.gamma_of(0.10) == pytest.approx(6.94, abs=0.005)
    assert ema.gamma_of(ema.WIDEST) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 512])
def test_the_recursion_integrates_the_profile_over_each_step(batch):
    steps, stds = 60, (0.05, 0.2)
    for which, std in enumerate(stds):
        edges = (np.arange(steps + 1) / steps) ** (ema.gamma_of(std) + 1)
        got = profile_of(ema.Power(stds), steps, batch, which)
        np.testing.assert_allclose(got, np.diff(edges), rtol=1e-9, atol=1e-15)


def test_half_life_halves():
    steps, batch = 80, 10
    got = profile_of(ema.HalfLife(images=100, ramp_up=None), steps, batch)
    np.testing.assert_allclose(got[10:] / got[:-10], 2, rtol=1e-10)
    assert got.sum() == pytest.approx(1 - 0.5 ** (steps * batch / 100), rel=1e-12)  # the rest is the initial weights
    ramped = profile_of(ema.HalfLife(images=100, ramp_up=0.05), steps, batch)
    assert ramped.sum() == pytest.approx(1, rel=1e-14)  # which the ramp has forgotten: the first step takes its weights
    assert ramped[0] < 1e-9  # and so are the first steps
    beta = 0.5 ** (1 / 0.05 * batch / (500 - batch))  # of the images before the step
    assert ema.HalfLife(images=100, ramp_up=0.05).betas(500, batch)[0] == pytest.approx(beta, rel=1e-12)
    assert ema.HalfLife(images=100, ramp_up=0.05).betas(5000, batch)[0] == pytest.approx(0.5**0.1, rel=1e-12)


@pytest.mark.parametrize("a", [(1.0, 2.5), (0.4, 16.97)])
@pytest.mark.parametrize("b", [(1.0, 6.94), (0.7, 0.0)])
def test_inner_products(a, b):
    def p(tau: float, t: float, gamma: float) -> float:
        return (gamma + 1) * tau**gamma / t ** (gamma + 1) if tau <= t else 0.0

    expected = quad(lambda tau: p(tau, *a) * p(tau, *b), 0, min(a[0], b[0]), epsabs=1e-13, epsrel=1e-12)[0]
    assert posthoc_ema.inner_product(a, b) == pytest.approx(expected, rel=1e-9)
    assert posthoc_ema.inner_product(a, b) == posthoc_ema.inner_product(b, a)


SNAPSHOTS = [(float(t), ema.gamma_of(std)) for t in range(20, 1001, 20) for std in (0.05, 0.10)]


@pytest.mark.parametrize(("t", "std", "place"), [(1000.0, 0.05, 98), (1000.0, 0.10, 99), (500.0, 0.10, 49)])
def test_a_stored_profile_is_its_own_reconstruction(t, std, place):
    weights = np.array(posthoc_ema.reconstruct(SNAPSHOTS, (t, std)))
    expected = np.zeros(len(SNAPSHOTS))
    expected[place] = 1
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("std", [0.06, 0.08, 0.12, 0.15])
def test_lengths_chosen_afterwards(std):
    """A trajectory that settles and wanders, averaged directly and put together from stored averages."""
    time = np.arange(1, 1001)
    trajectory = np.stack([1 + 3 / np.sqrt(time), np.sin(time / 90) + 2, np.exp(-time / 300) + 0.5])
    cells = lambda t, gamma: np.diff((np.minimum(np.arange(1001), t) / t) ** (gamma + 1))  # noqa: E731
    stored = np.stack([trajectory @ cells(*snapshot) for snapshot in SNAPSHOTS])
    weights = posthoc_ema.reconstruct(SNAPSHOTS, (1000.0, std))
    direct = trajectory @ cells(1000.0, ema.gamma_of(std))
    np.testing.assert_allclose(np.array(weights) @ stored, direct, rtol=0.01)
    assert sum(weights) == pytest.approx(1, rel=1e-12)
    made = sum(w * cells(*s) for w, s in zip(weights, SNAPSHOTS, strict=True))
    wanted = cells(1000.0, ema.gamma_of(std))
    by_hand = np.linalg.norm(made - wanted) / np.linalg.norm(wanted)  # discrete steps: near the integral
    assert posthoc_ema.mismatch(SNAPSHOTS, (1000.0, std), weights) == pytest.approx(by_hand, rel=0.1)
    assert by_hand < 0.01


def test_no_weights_of_sum_one_are_nearer():
    weights = posthoc_ema.reconstruct(SNAPSHOTS, (1000.0, 0.13))
    best = posthoc_ema.mismatch(SNAPSHOTS, (1000.0, 0.13), weights)
    generator = np.random.default_rng(0)
    for _ in range(20):
        other = np.array(weights) + 1e-3 * generator.normal(size=len(weights))
        other /= other.sum()
        assert posthoc_ema.mismatch(SNAPSHOTS, (1000.0, 0.13), list(other)) > best


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))


@pytest.mark.parametrize("rule", [ema.HalfLife(), ema.Power()])
def test_averages_are_whole_state_dicts_and_are_restored_bit_for_bit(rule):
    torch.manual_seed(0)
    net = Net()
    averages = rule.build(net)
    for k in range(5):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
            net.steps += 1
        averages.update((k + 1) * 8, 8)
    for _, weights in averages.weights():
        other = Net()
        other.load_state_dict(weights)
        assert int(other.steps) == 5
        assert torch.equal(other.a.weight, other.b.weight)
    assert not torch.equal(averages.weights()[0][1]["a.weight"], net.a.weight)
    fresh = rule.build(Net())
    fresh.load_state_dict({name: tensor.clone() for name, tensor in averages.state_dict().items()})
    for name, tensor in averages.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
    assert averages.snapshots == (rule.kind == "power")


@pytest.mark.parametrize(
    ("rule", "images"),
    [
        (ema.HalfLife(images=int(math.log(2) / 1e-4), ramp_up=None), 0),  # β = 0.9999
        (ema.Power((0.05, 0.10)), 300_000),  # β = 1 − 18/300000 and above
    ],
)
def test_a_change_of_a_weight_by_less_than_a_thousandth_is_averaged(rule, images):
    """The weight is 1, then 1 + 10⁻⁴ for good: what has arrived of it is 1 − Π β, in float32 as published."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    averages = rule.build(module)
    nn.init.constant_(module.weight, 1 + 1e-4)
    step, kept = float(module.weight.detach()) - 1, np.ones(len(rule.labels))
    for k in range(2000):
        averages.update(images + k + 1, 1)
        kept *= rule.betas(images + k + 1, 1)
    for (_, weights), left in zip(averages.weights(), kept, strict=True):
        assert weights["weight"].dtype == torch.float32
        assert float(weights["weight"]) - 1 == pytest.approx(step * (1 - left), abs=2**-24)
    for tensor, left in zip(averages.state_dict().values(), kept, strict=True):
        assert float(tensor) - 1 == pytest.approx(step * (1 - left), rel=1e-8)


def test_float32_averages_of_an_earlier_version_are_taken_as_they_are():
    averages = ema.HalfLife().build(Net())
    old = {name: torch.randn(tensor.shape) for name, tensor in averages.state_dict().items()}
    averages.load_state_dict(old)
    for name, tensor in averages.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, old[name].double())
    assert torch.equal(averages.weights()[0][1]["a.bias"], old["0.a.bias"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ema.HalfLife(images=0), r"^images: "),
        (lambda: ema.HalfLife(ramp_up=0.0), r"^ramp_up: "),
        (lambda: ema.Power(()), r"^stds: at least one"),
        (lambda: ema.Power((0.05, 0.05)), r"^stds: must differ"),
        (lambda: ema.Power((0.3,)), r"^stds: must be at most 0.2887"),
        (lambda: posthoc_ema.reconstruct([], (1.0, 0.1)), r"^snapshots: there are none"),
        (lambda: posthoc_ema.reconstruct([(1.0, 6.94)], (2.0, 0.1)), r"^target: 2 is later than the last snapshot, 1$"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("std", "met"), [(0.005, False), (0.01, True), (0.28, True), (0.288, False)])
def test_lengths_that_fifty_snapshots_make(std, met):
    """docs/training.md: those from 0.01 to 0.28."""
    target = (1000.0, std)
    assert (posthoc_ema.mismatch(SNAPSHOTS, target, posthoc_ema.reconstruct(SNAPSHOTS, target)) <= posthoc.LIMIT) is met
