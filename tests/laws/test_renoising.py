"""Renoising rules are pure functions from levels to levels: no network, no tensor, no tolerance but rounding."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from variants import RENOISING, every, moves_of, name

from edm_unified import count_nfe, solvers
from edm_unified.sampling.levels import Explicit, Karras
from edm_unified.sampling.renoising import Ancestral, Churn, Corrected, Restart, RestartInterval
from edm_unified.sampling.solvers.one_evaluation import ancestral_split
from edm_unified.schedules import EDM

LEVELS = tuple(Karras(n=18).levels(EDM()).tolist())


@pytest.mark.parametrize("rule", every(RENOISING), ids=name)
def test_every_walk_visits_the_levels_in_order(rule: Any) -> None:
    """The levels of the rule for the steps are a subsequence: renoising adds detours, it leaves out nothing."""
    walk = iter(rule.walk(LEVELS))
    assert all(level in walk for level in LEVELS)
    assert rule.walk(LEVELS)[0] == LEVELS[0]
    assert rule.walk(LEVELS)[-1] == LEVELS[-1] == 0.0
    assert rule.walk(LEVELS) == rule.walk(LEVELS)


def test_churn_is_algorithm_2() -> None:
    churn = Churn(S_churn=30, S_min=0.05, S_max=50, S_noise=1.007)
    gamma = min(30 / 18, math.sqrt(2) - 1)
    expected: list[float] = []
    for t in LEVELS[:-1]:
        expected.append(t)
        if 0.05 <= t <= 50:
            expected.append(t * (1 + gamma))
    assert churn.walk(LEVELS) == pytest.approx([*expected, 0.0], rel=1e-15)


def test_churn_is_spread_over_the_steps_until_sqrt2() -> None:
    few = Churn(S_churn=1, S_min=0, S_max=math.inf).walk(LEVELS)
    assert few[1] / few[0] == pytest.approx(1 + 1 / 18)
    many = Churn(S_churn=1e9, S_min=0, S_max=math.inf).walk(LEVELS)
    assert many[1] / many[0] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("rule", [Churn(S_churn=0.0), Churn(S_min=90.0, S_max=100.0), Ancestral(eta=0.0)], ids=name)
def test_no_noise_is_no_detour(rule: Any) -> None:
    assert rule.walk(LEVELS) == LEVELS


@pytest.mark.parametrize("rule", [Churn(S_churn=1e-16), Ancestral(eta=1e-9)], ids=name)
def test_noise_below_rounding_is_neither_a_rise_nor_a_repeat(rule: Any) -> None:
    assert rule.walk(LEVELS) == LEVELS


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.2, 3.0])
@pytest.mark.parametrize(("a", "b"), [(80.0, 57.6), (10.0, 5.0), (0.01, 1e-9), (1.0, 0.999999), (5.0, 0.0)])
def test_ancestral_split_conserves_the_variance(a: float, b: float, eta: float) -> None:
    down, up = ancestral_split(a, b, eta)
    assert down**2 + up**2 == pytest.approx(b**2, rel=1e-12, abs=0)
    assert 0 <= down <= b
    assert 0 <= up <= b


def test_ancestral_split_of_k_diffusions_example() -> None:
    assert ancestral_split(10.0, 5.0, 1.0) == pytest.approx((2.5, 4.3301270189))


def test_ancestral_falls_below_and_rises_to_the_next_level() -> None:
    walk = Ancestral(eta=0.7).walk(LEVELS)
    assert moves_of(walk) == (17, 17, 0)
    for i, (a, b) in enumerate(pairwise(LEVELS[:-1])):
        down, up = walk[2 * i + 1], walk[2 * i + 2]
        assert up == b  # copied, to the bit
        assert down == pytest.approx(math.sqrt(b**2 - (0.7 * b) ** 2 * (1 - b**2 / a**2)), rel=1e-12)


@pytest.mark.parametrize(
    "intervals",
    [
        (RestartInterval(0.06, 0.30, 3, 2),),
        (RestartInterval(0.1, 1.0, 4, 3), RestartInterval(1.0, 10.0, 5, 1)),
        (RestartInterval(0.06, 0.30, 3, 2), RestartInterval(0.05, 0.5, 6, 1)),  # both nearest to the same level
    ],
    ids=str,
)
def test_restart_costs_what_the_paper_says(intervals: tuple[RestartInterval, ...]) -> None:
    """2N − 1 + Σ 2K(n − 1) evaluations with Heun (Xu et al. 2023)."""
    rule = Restart(intervals=intervals)
    expected = 2 * 18 - 1 + sum(2 * r.repeats * (r.n - 1) for r in intervals)
    assert count_nfe(Karras(n=18), solvers.Heun(), renoising=rule) == expected


def test_restart_returns_to_the_level_that_it_left() -> None:
    walk = Restart(intervals=(RestartInterval(0.06, 0.30, 3, 2),)).walk(LEVELS)
    (home,) = {a for a, b in pairwise(walk) if b > a}
    assert home == min(LEVELS[:-1], key=lambda level: abs(level - 0.06))
    start = walk.index(home)
    loop = walk[start + 1 : start + 4]
    assert loop[0] == 0.30
    assert loop[2] == home
    assert loop[1] == pytest.approx(((0.30 ** (1 / 7) + home ** (1 / 7)) / 2) ** 7)
    assert walk[start + 4 : start + 7] == loop
    assert walk[start + 7] == LEVELS[LEVELS.index(home) + 1]


def test_restart_on_few_steps() -> None:
    """The nearest level may be far; what matters is that it lies below σ_max, or there is an error that says so."""
    assert moves_of(Restart().walk((80.0, 0.2, 0.0)))[1] == 2
    with pytest.raises(ValueError, match=r"^intervals.sigma_max: no level lies below 0\.3; take more steps"):
        Restart().walk((80.0, 1.0, 0.0))


def test_corrected_repeats_every_level_but_zero() -> None:
    assert Corrected(repeats=2).walk((3.0, 1.0, 0.0)) == (3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 0.0)


def test_explicit_levels_that_end_above_zero_are_walked_too() -> None:
    levels = tuple(Explicit(sigmas=(4.0, 2.0, 1.0)).levels(EDM()).tolist())
    assert Ancestral().walk(levels) == (4.0, 1.0, 2.0, 0.5, 1.0)
    assert Corrected().walk(levels) == (4.0, 4.0, 2.0, 2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Churn(S_churn=-1.0), "^S_churn: "),
        (lambda: Churn(S_min=-1.0), "^S_min: "),
        (lambda: Churn(S_min=2.0, S_max=1.0), "^S_max: must not be below S_min"),
        (lambda: Churn(S_max=math.nan), "^S_max: "),
        (lambda: Churn(S_noise=0.0), "^S_noise: "),
        (lambda: Ancestral(eta=-0.1), "^eta: "),
        (lambda: Ancestral(eta=math.inf), "^eta: "),
        (lambda: Restart(intervals=(RestartInterval(0.3, 0.1, 3, 1),)), "^intervals.sigma_min: must be below"),
        (lambda: Restart(intervals=(RestartInterval(0.1, 0.3, 1, 1),)), "^intervals.n: "),
        (lambda: Restart(intervals=(RestartInterval(0.1, 0.3, 3, 0),)), "^intervals.repeats: "),
        (lambda: Corrected(repeats=0), "^repeats: "),
        (lambda: Corrected(repeats=10_000).walk((1.0,) * 200), "^repeats: the walk would have 2,000,200 levels"),
        (
            lambda: Restart(intervals=(RestartInterval(0.1, 0.3, 10**6, 10**6),)).walk(LEVELS),
            "^intervals: the walk would have 1,000,000,000,019 levels",
        ),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
