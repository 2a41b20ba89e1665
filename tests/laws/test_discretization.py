"""Law 1, the levels: they fall, their ends are the numbers asked for, and the rules are those of the papers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from variants import STEPS, every, name

from edm_unified.sampling.levels import (
    Explicit,
    Karras,
    LogLinear,
    PolynomialExponential,
    TableSubset,
    Tan,
    UniformTime,
    VPTime,
)
from edm_unified.schedules import EDM, VE, VP, BetaTable, Cosine, FlowMatching, GeometricVE, Trigonometric

ALL = every(STEPS)
COUNTED = [steps for steps in ALL if hasattr(steps, "n")]
BOUNDED = [
    Karras(),
    LogLinear(),
    PolynomialExponential(rho=2.0),
    VPTime(),
    Tan(),
    UniformTime(sigma_max=80.0, sigma_min=0.002),
]


@pytest.mark.parametrize("steps", ALL, ids=name)
def test_levels_fall_to_zero_in_float64(steps: Any) -> None:
    for schedule in (EDM(), VP(), FlowMatching(), BetaTable()):
        levels = steps.levels(schedule)
        assert levels.dtype == torch.float64
        assert levels.device.type == "cpu"
        assert bool((levels.diff() < 0).all())
        assert float(levels[-1]) == 0.0
        assert bool(torch.isfinite(levels).all())


@pytest.mark.parametrize("steps", COUNTED, ids=name)
def test_n_steps_are_n_levels_and_zero(steps: Any) -> None:
    for n in (1, 2, 3, 50, 991):
        levels = dataclasses.replace(steps, n=n).levels(VP())
        assert len(levels) == n + 1
        assert bool((levels.diff() < 0).all())


@pytest.mark.parametrize("steps", BOUNDED, ids=name)
def test_both_ends_are_pinned_to_the_bit(steps: Any) -> None:
    for n, (low, high) in product((1, 2, 18, 333), ((0.002, 80.0), (0.0123, 7.77))):
        levels = dataclasses.replace(steps, n=n, sigma_min=low, sigma_max=high).levels(VP()).tolist()
        assert levels[0] == high
        assert levels[-1] == 0.0
        if n > 1:
            assert levels[-2] == low


def test_edm_equation_5() -> None:
    levels = Karras(n=18).levels(EDM()).tolist()
    assert levels[:3] == pytest.approx([80, 57.586, 40.786], abs=1e-3)
    assert levels[-4:] == pytest.approx([0.0229345, 0.00752802, 0.002, 0], rel=1e-5)
    i = np.arange(18)
    printed = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert levels[:-1] == pytest.approx(printed, rel=1e-12)


@pytest.mark.parametrize("rho", [1e-3, 0.5, 1.0, 30.0, 1e9])
def test_karras_for_any_rho(rho: float) -> None:
    levels = Karras(n=10, rho=rho).levels(EDM())
    assert bool((levels.diff() < 0).all())
    if rho == 1:
        assert levels[:-1].diff().tolist() == pytest.approx([-(80 - 0.002) / 9] * 9)


def test_limits_of_the_families() -> None:
    log = LogLinear(n=12).levels(EDM())
    assert torch.allclose(log[:-2] / log[1:-1], torch.full((11,), (80 / 0.002) ** (1 / 11), dtype=torch.float64))
    assert torch.allclose(Karras(n=12, rho=1e7).levels(EDM()), log, rtol=1e-5)
    assert torch.allclose(PolynomialExponential(n=12, rho=1.0).levels(EDM()), log, rtol=1e-13)


def test_polynomial_exponential_as_printed() -> None:
    ramp = np.linspace(1, 0, 12) ** 2.5 * (np.log(80) - np.log(0.002)) + np.log(0.002)
    assert PolynomialExponential(n=12, rho=2.5).levels(EDM()).tolist()[:-1] == pytest.approx(np.exp(ramp), rel=1e-12)


def test_vp_time_is_the_vp_row_of_edm_table_1() -> None:
    """With the ends of the VP schedule its own β come back, and its levels are the VP SDE's uniform grid 1 → ε."""
    low, high = float(VP().sigma(1e-3)), float(VP().sigma(1.0))
    levels = VPTime(n=20, sigma_min=low, sigma_max=high, power=1.0, epsilon=1e-3).levels(EDM())
    assert torch.allclose(levels[:-1], VP().sigma(torch.linspace(1, 1e-3, 20, dtype=torch.float64)), rtol=1e-8)
    uniform = UniformTime(n=20, t_min=1e-3).levels(VP())
    assert torch.allclose(levels, uniform, rtol=1e-8)


def test_vp_time_refuses_an_epsilon_that_makes_no_schedule() -> None:
    with pytest.raises(ValueError, match=r"^epsilon: "):
        VPTime(n=10, sigma_min=9.0, sigma_max=10.0, epsilon=0.1).levels(EDM())


def test_tan_is_uniform_in_the_angle() -> None:
    angles = torch.atan(Tan(n=9, sigma_data=1.0).levels(EDM())[:-1])
    assert torch.allclose(angles.diff(), angles.diff()[0].expand(8), rtol=1e-10)
    v_prediction = UniformTime(n=9, sigma_max=80.0, sigma_min=0.002).levels(Trigonometric())
    assert torch.allclose(Tan(n=9, sigma_data=1.0).levels(EDM()), v_prediction, rtol=1e-10)


# -- uniform in t --------------------------------------------------------------------------------------------------


def test_uniform_time_of_flow_matching_ends_at_clean_data() -> None:
    """1 − i/n for flow matching: the levels of the flow's Euler sampler, the last of the n steps reaching t = 0."""
    levels = UniformTime(n=4, sigma_max=1e6).levels(FlowMatching())
    t = torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64) * (1e6 / (1 + 1e6))
    assert torch.allclose(levels[1:-1], t / (1 - t), rtol=1e-12)
    assert levels.tolist()[0] == 1e6
    assert float(levels[-1]) == 0


def test_uniform_time_starts_where_the_schedule_ends() -> None:
    assert float(UniformTime(n=5).levels(VP())[0]) == VP().sigma_max
    assert float(UniformTime(n=5).levels(FlowMatching())[0]) == pytest.approx(1e6, rel=1e-9)
    assert float(UniformTime(n=5).levels(Cosine())[0]) == pytest.approx(1e6, rel=1e-8)
    assert float(UniformTime(n=5, t_max=0.5).levels(VP())[0]) == float(VP().sigma(0.5))


def test_uniform_time_on_a_schedule_that_never_reaches_zero() -> None:
    """Its n levels end at σ(0) = σ_min, and a last step goes to 0."""
    levels = UniformTime(n=5).levels(GeometricVE())
    assert levels.tolist()[-2:] == [0.02, 0.0]
    assert len(levels) == 6


@pytest.mark.parametrize("schedule", [EDM(), VE()], ids=name)
def test_uniform_time_without_an_end_asks_for_one(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"sigma_max: .* give sigma_max or t_max"):
        UniformTime().levels(schedule)


@pytest.mark.parametrize("t_max", [1.0, 2.0])
def test_infinite_start_is_refused_with_the_remedy(t_max: float) -> None:
    with pytest.raises(ValueError, match=r"^t_max: .* use t_max up to 0\.999.* sigma_max such as 1e6"):
        UniformTime(t_max=t_max).levels(FlowMatching())


def test_uniform_time_ends_below_its_start() -> None:
    with pytest.raises(ValueError, match=r"^t_min: must lie below the start"):
        UniformTime(t_min=2.0).levels(VP())
    with pytest.raises(ValueError, match=r"^sigma_min: must lie below the start"):
        UniformTime(sigma_min=3.0, sigma_max=2.0).levels(VP())


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_n_is_a_subset_of_the_table(spacing: Any) -> None:
    """For n = 1 … 1000: n different indices, falling, none below 0 (trailing in floats gives −1 for 62 of them)."""
    table = BetaTable()
    place = {sigma: k for k, sigma in enumerate(table.sigmas.tolist())}
    for n in range(1, 1001):
        levels = TableSubset(n=n, spacing=spacing).levels(table).tolist()
        indices = [place[sigma] for sigma in levels[:-1]]
        assert len(indices) == n
        assert all(a > b for a, b in itertools.pairwise(indices))
        assert levels[-1] == 0.0


def indices(steps: TableSubset) -> list[int]:
    table = BetaTable().sigmas.tolist()
    return [table.index(sigma) for sigma in steps.levels(BetaTable()).tolist()[:-1]]


def test_spacings_as_lin_et_al_print_them() -> None:
    """Lin et al. 2023, Table 2, T = 1000 and 10 steps, counted from 0."""
    assert indices(TableSubset(n=10, spacing="leading")) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert indices(TableSubset(n=10, spacing="leading", offset=1)) == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert indices(TableSubset(n=10, spacing="linspace")) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert indices(TableSubset(n=10, spacing="trailing")) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert indices(TableSubset(n=1000)) == list(range(999, -1, -1))
    assert indices(TableSubset(n=3)) == [999, 666, 332]  # round(1000), round(666.7), round(333.3), minus one


def test_table_errors() -> None:
    with pytest.raises(ValueError, match=r"^n: 1001 steps out of a table of 1000"):
        TableSubset(n=1001).levels(BetaTable())
    with pytest.raises(ValueError, match=r"^table: EDM is not a table"):
        TableSubset().levels(EDM())
    with pytest.raises(ValueError, match=r"^offset: index 1000 is beyond the table"):
        TableSubset(n=1000, spacing="leading", offset=1).levels(BetaTable())
    with pytest.raises(ValueError, match=r"^spacing: unknown 'traling'; did you mean 'trailing'"):
        TableSubset(spacing="traling")  # type: ignore[arg-type]


def test_a_table_of_its_own_serves_any_schedule() -> None:
    assert torch.equal(TableSubset(n=7, table=BetaTable()).levels(EDM()), TableSubset(n=7).levels(BetaTable()))


# -- given levels, and errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tuple, list, np.array, torch.tensor])
def test_explicit_levels_are_kept_as_they_are(form: Any) -> None:
    assert Explicit(sigmas=form([3.0, 1.0, 0.5])).levels(EDM()).tolist() == [3.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Karras(n=0), "^n: must be a whole number from 1"),
        (lambda: Karras(n=-3), "^n: "),
        (lambda: Karras(n=2.5), "^n: "),  # type: ignore[arg-type]
        (lambda: Karras(n=True), "^n: "),
        (lambda: Karras(n=10**7), "^n: .* to 1,000,000"),
        (lambda: Karras(sigma_min=80.0), "^sigma_min: must be below sigma_max"),
        (lambda: Karras(sigma_min=0.0), "^sigma_min: must be positive"),
        (lambda: Karras(sigma_max=math.inf), "^sigma_max: must be positive and finite"),
        (lambda: Karras(rho=0.0), "^rho: "),
        (lambda: LogLinear(sigma_min=math.nan), "^sigma_min: "),
        (lambda: PolynomialExponential(rho=-1.0), "^rho: "),
        (lambda: VPTime(epsilon=1.0), "^epsilon: must be below 1"),
        (lambda: VPTime(power=0.0), "^power: "),
        (lambda: Tan(sigma_data=0.0), "^sigma_data: "),
        (lambda: UniformTime(t_max=1.0, sigma_max=3.0), "^t_max: give t_max or sigma_max"),
        (lambda: UniformTime(t_min=0.1, sigma_min=0.3), "^t_min: give t_min or sigma_min"),
        (lambda: UniformTime(t_max=0.0), "^t_max: "),
        (lambda: TableSubset(n=0), "^n: "),
        (lambda: TableSubset(offset=-1), "^offset: "),
        (lambda: Explicit(sigmas=(1.0,)), "^sigmas: at least two"),
        (lambda: Explicit(sigmas=(math.inf, 1.0)), "^sigmas: inf .* such as 1e6"),
        (lambda: Explicit(sigmas=(1.0, 1.0)), "^sigmas: must fall, but level 1"),
        (lambda: Explicit(sigmas=(1.0, 0.0, 0.0)), "^sigmas: must fall, but level 2"),
        (lambda: Explicit(sigmas=(1.0, -0.1)), "^sigmas: "),
        (lambda: Explicit(sigmas=(1.0, math.nan)), "^sigmas: "),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_numpy_numbers_are_numbers() -> None:
    assert torch.equal(Karras(n=np.int64(5), sigma_max=np.float64(80)).levels(EDM()), Karras(n=5).levels(EDM()))
