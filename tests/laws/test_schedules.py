"""Law 1: σ⁻¹(σ(t)) = t; the closed-form rates are the derivatives; (f, g) → (s, σ) → (f, g) is the identity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from variants import SCHEDULES, every, name

from edm_unified import schedules
from edm_unified.schedules import (
    EDM,
    VE,
    VP,
    BetaTable,
    Cosine,
    FlowMatching,
    GeometricVE,
    SubVP,
    Trigonometric,
    from_sde,
)

ALL = every(SCHEDULES)


def times(schedule: Any, n: int = 41) -> Tensor:
    """Inside the axis: to its end where it has one, or else to t = 80."""
    end = schedule.t_max if math.isfinite(schedule.t_max) else 80.0
    return torch.linspace(0, end, n, dtype=torch.float64)[1:] ** 2 / end


def reach(schedule: Any) -> float:
    return min(schedule.sigma_limit, schedule.sigma_end, 1e4)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_inverse(schedule: Any) -> None:
    t = times(schedule)
    assert torch.allclose(schedule.time(schedule.sigma(t)), t, rtol=1e-9, atol=0)
    sigma = torch.logspace(-4, math.log10(0.999 * reach(schedule)), 50, dtype=torch.float64)
    assert torch.allclose(schedule.sigma(schedule.time(sigma)), sigma, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_rates_are_the_derivatives(schedule: Any) -> None:
    t = times(schedule)[:-1].requires_grad_()
    (log_sigma_rate,) = torch.autograd.grad(schedule.sigma(t).log().sum(), t)
    assert torch.allclose(schedule.log_sigma_rate(t), log_sigma_rate, rtol=1e-9)
    log_s = schedule.s(t).log().sum()
    log_s_rate = torch.autograd.grad(log_s, t)[0] if log_s.requires_grad else torch.zeros_like(t)
    assert torch.allclose(schedule.log_s_rate(t), log_s_rate, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_f_and_g_follow_from_s_and_sigma(schedule: Any) -> None:
    """f = s'/s and g² = s² dσ²/dt (EDM appendix B), by autograd."""
    t = times(schedule)[:-1].requires_grad_()
    (variance_rate,) = torch.autograd.grad(schedule.sigma(t).square().sum(), t)
    assert torch.allclose(schedule.g(t).square(), schedule.s(t).square() * variance_rate, rtol=1e-9)
    assert torch.equal(schedule.f(t), schedule.log_s_rate(t))


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_sigma_rises_and_s_does_not(schedule: Any) -> None:
    t = torch.cat([torch.zeros(1, dtype=torch.float64), times(schedule, 401)])
    assert bool((schedule.sigma(t).diff() > 0).all())
    assert bool((schedule.s(t).diff() <= 0).all())
    assert bool((schedule.log_snr(t).diff() < 0).all())


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_clean_data_at_time_zero(schedule: Any) -> None:
    assert float(schedule.s(0.0)) == 1.0
    assert float(schedule.time(0.0)) == 0.0
    if schedule.reaches_zero:
        assert float(schedule.sigma(0.0)) == 0.0
        assert float(schedule.log_snr(0.0)) == math.inf
    else:
        assert isinstance(schedule, GeometricVE)
        assert float(schedule.sigma(0.0)) == schedule.sigma_min


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_small_levels_keep_their_digits(schedule: Any) -> None:
    """expm1 and log1p where exp and log would cancel: σ⁻¹ and σ agree to 1e-10 at σ = 1e-6."""
    sigma = torch.tensor([1e-6, 1e-5, 1e-3], dtype=torch.float64)
    assert torch.allclose(schedule.sigma(schedule.time(sigma)), sigma, rtol=1e-10, atol=0)


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_float64_whatever_comes_in(schedule: Any) -> None:
    t = 0.3
    for function in (schedule.s, schedule.sigma, schedule.log_s_rate, schedule.log_sigma_rate, schedule.f, schedule.g):
        assert function(t).dtype == torch.float64
        assert function(torch.tensor([t], dtype=torch.float32)).dtype == torch.float64
        assert function(torch.full((2, 3), t)).shape == (2, 3)
    assert schedule.time(torch.full((2, 3), 0.7)).shape == (2, 3)
    assert schedule.time(torch.tensor([[0.0, 0.7]])).tolist()[0][0] == 0.0


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_a_level_that_is_not_one_is_refused(schedule: Any) -> None:
    for bad, words in ((math.inf, "large finite"), (math.nan, "finite"), (-1.0, "not negative")):
        with pytest.raises(ValueError, match=f"^sigma: .*{words}"):
            schedule.time(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("schedule", [s for s in ALL if math.isfinite(s.sigma_limit)], ids=name)
def test_a_level_beyond_a_table_is_refused_with_the_remedy(schedule: Any) -> None:
    assert float(schedule.time(schedule.sigma_limit)) == pytest.approx(schedule.t_max, rel=1e-12)
    with pytest.raises(ValueError, match=r"beyond this schedule .* ends at .*; lower sigma_max"):
        schedule.time(1.01 * schedule.sigma_limit)


# -- from an SDE ---------------------------------------------------------------------------------------------------


def on_short_axis(schedule: Any) -> float:
    """The quadrature is asked for at most what it promises: an axis that ends where σ is finite."""
    return min(schedule.t_max, float(schedule.time(min(1e3, schedule.sigma_end))))


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, BetaTable)], ids=name)
def test_round_trip_through_the_sde(schedule: Any) -> None:
    """(s, σ) → (f, g) → (s, σ) by quadrature, to 1e-8, and σ⁻¹ with it. An SDE starts clean: σ(0)² is subtracted."""
    end = on_short_axis(schedule)
    start = float(schedule.sigma(0.0)) ** 2
    again = from_sde(schedule.f, schedule.g, t_max=end)
    t = torch.linspace(0, end, 33, dtype=torch.float64)[1:]
    truth = torch.sqrt(schedule.sigma(t).square() - start)
    assert torch.allclose(again.s(t), schedule.s(t), rtol=1e-8, atol=0)
    assert torch.allclose(again.sigma(t), truth, rtol=1e-8, atol=0)
    inner = t[:-1]
    assert torch.allclose(again.time(again.sigma(inner)), inner, rtol=1e-8, atol=0)
    assert torch.allclose(again.f(inner), schedule.f(inner), rtol=1e-8)
    assert torch.allclose(again.g(inner), schedule.g(inner), rtol=1e-8)


def test_round_trip_of_a_table_through_the_sde() -> None:
    """The cubic between the nodes has jumps in its third derivative, so quadrature sees M pieces: 20 will do."""
    schedule = BetaTable(num_steps=20, beta_start=5e-3, beta_end=0.4)
    again = from_sde(schedule.f, schedule.g)
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    assert torch.allclose(again.s(t), schedule.s(t), rtol=1e-8, atol=0)
    assert torch.allclose(again.sigma(t), schedule.sigma(t), rtol=1e-8, atol=0)


def test_from_sde_of_the_tutorial() -> None:
    """dx = 25^t dw: σ² = (25^{2t} − 1)/(2 ln 25)."""
    again = from_sde(lambda t: 0 * t, lambda t: 25.0**t)
    t = torch.tensor([1e-3, 0.2, 1.0], dtype=torch.float64)
    assert torch.allclose(again.sigma(t).square(), (25 ** (2 * t) - 1) / (2 * math.log(25)), rtol=1e-9)


def test_from_sde_of_ornstein_uhlenbeck_has_its_textbook_variance() -> None:
    """dx = −θ x dt + √(2θ) dw: s = e^{−θt}, s²σ² = 1 − e^{−2θt}."""
    theta = 1.7
    again = from_sde(lambda t: -theta + 0 * t, lambda t: math.sqrt(2 * theta) + 0 * t, t_max=3.0)
    t = torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64)
    assert torch.allclose((again.s(t) * again.sigma(t)).square(), 1 - torch.exp(-2 * theta * t), rtol=1e-10)


@pytest.mark.parametrize("number", [lambda t: -0.75, lambda t: torch.tensor(-0.75), lambda t: np.float64(-0.75)])
def test_from_sde_takes_a_number_for_all_times(number: Any) -> None:
    many = from_sde(lambda t: -0.75 + 0 * t, lambda t: 1.0 + 0 * t)
    one = from_sde(number, lambda t: 1.0)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for of in ("s", "sigma", "log_s_rate", "log_sigma_rate", "f", "g"):
        assert torch.equal(getattr(one, of)(t), getattr(many, of)(t)), of
    assert torch.equal(one.time(many.sigma(t)), many.time(many.sigma(t)))
    assert torch.allclose(from_sde(lambda t: np.zeros(t.shape), lambda t: 1).sigma(t), t.sqrt())


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (-0.5, r"^f: -0.5 is no function; f must take a tensor of times"),
        (lambda t: math.exp(t), r"^f: raised \w+ for times of shape \(2, 3\), .*torch.exp"),
        (lambda: 0.0, r"^f: raised TypeError"),
        (lambda t: None, r"^f: raised "),
        (lambda t: t[:1], r"^f: returned shape \(1, 3\) for times of shape \(2, 3\)"),
        (lambda t: 1j * t, r"^f: returned torch.complex128"),
    ],
    ids=["number", "math", "no argument", "None", "shape", "complex"],
)
def test_from_sde_names_a_coefficient_that_is_no_function_of_times(f: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_sde(f, lambda t: 1.0)
    with pytest.raises(ValueError, match=words.replace("^f", "^g").replace("f must", "g must")):
        from_sde(lambda t: 0.0, f)


def test_from_sde_refuses_what_is_not_a_schedule() -> None:
    with pytest.raises(ValueError, match="g: must be positive"):
        from_sde(lambda t: 0 * t, lambda t: 0 * t)
    with pytest.raises(ValueError, match="not finite"):
        from_sde(lambda t: 0 * t, lambda t: t * math.nan)
    with pytest.raises(ValueError, match="t_end"):
        from_sde(lambda t: 0 * t, lambda t: 1 + 0 * t, t_max=-1.0)


# -- against the formulas of the papers, written differently ---------------------------------------------------------


def test_vp_as_printed() -> None:
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    alpha = torch.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)  # Song et al. 2021, Eq. 33
    assert torch.allclose(VP().s(t), alpha, rtol=1e-13)
    assert torch.allclose(VP().s(t) * VP().sigma(t), torch.sqrt(1 - alpha**2), rtol=1e-10)
    assert torch.allclose(SubVP().s(t) * SubVP().sigma(t), 1 - alpha**2, rtol=1e-10)
    beta = 0.1 + t * 19.9
    assert torch.allclose(VP().g(t).square(), beta, rtol=1e-10)
    squared = beta * (1 - torch.exp(-2 * 0.1 * t - 19.9 * t**2))  # Song et al. 2021, Eq. 14
    assert torch.allclose(SubVP().g(t).square(), squared, rtol=1e-10)
    assert torch.allclose(VP().f(t), -0.5 * beta, rtol=1e-13)


def test_known_ends() -> None:
    assert float(VP().sigma(1.0)) == pytest.approx(math.sqrt(math.exp(10.05) - 1), rel=1e-14)
    assert float(VP().sigma(1e-5)) == pytest.approx(0.00100049763, rel=1e-8)  # 0.0009766 where expm1 is not used
    assert float(schedules.ExponentialVE().sigma(1.0)) == pytest.approx(9.8453, rel=1e-4)
    assert float(VE().sigma(9.0)) == 3.0
    assert float(EDM().sigma(9.0)) == 9.0
    assert float(GeometricVE().sigma(1.0)) == pytest.approx(100.0, rel=1e-14)
    assert float(Trigonometric().sigma(0.5)) == pytest.approx(1.0, rel=1e-14)
    assert float(FlowMatching().sigma(0.5)) == 1.0
    for endless in (FlowMatching(), FlowMatching(shift=3.0), Trigonometric(), Cosine()):
        assert endless.sigma_max == pytest.approx(1e6, rel=1e-8)


def test_flow_matching_shift_is_a_factor_of_sigma() -> None:
    """t ↦ m t/(1 + (m−1) t) (Esser et al. 2024, Eq. 23) is σ ↦ m σ, and s = 1/(1+σ) is unmoved."""
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    for m in (0.5, 3.0, 6.93):
        shifted = m * t / (1 + (m - 1) * t)
        assert torch.allclose(FlowMatching(shift=m).sigma(t), FlowMatching().sigma(shifted), rtol=1e-12)
        assert torch.allclose(FlowMatching(shift=m).s(t), 1 - shifted, rtol=1e-12)


def test_trigonometric_is_the_circle() -> None:
    t = times(Trigonometric())[:-1]
    s, sigma = Trigonometric().s(t), Trigonometric().sigma(t)
    assert torch.allclose(s.square() * (1 + sigma.square()), torch.ones_like(t), rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (BetaTable(), lambda k: 1e-4 + (k - 1) / 999 * (0.02 - 1e-4)),
        (
            BetaTable(betas="scaled_linear", beta_start=0.00085, beta_end=0.012),
            lambda k: (math.sqrt(0.00085) + (k - 1) / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2,
        ),
        (
            BetaTable(betas="cosine"),
            lambda k: min(
                1
                - (
                    math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2)
                    / math.cos(((k - 1) / 1000 + 0.008) / 1.008 * math.pi / 2)
                )
                ** 2,
                0.999,
            ),
        ),
    ],
    ids=["linear", "scaled_linear", "cosine"],
)
def test_a_table_has_its_own_levels_at_its_own_times(schedule: BetaTable, betas: Any) -> None:
    """ᾱ_k = Π(1−β_j) in exact order, s = √ᾱ and σ = √((1−ᾱ)/ᾱ) at t = k/M, both ways, for all thousand k."""
    alpha_bar, s, sigma = 1.0, [], []
    for k in range(1, 1001):
        alpha_bar *= 1 - betas(k)
        s.append(math.sqrt(alpha_bar))
        sigma.append(math.sqrt((1 - alpha_bar) / alpha_bar))
    expected = torch.tensor(sigma, dtype=torch.float64)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert torch.allclose(schedule.sigmas, expected, rtol=1e-9)
    assert torch.allclose(schedule.sigma(t), expected, rtol=1e-9)
    assert torch.allclose(schedule.s(t), torch.tensor(s, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(schedule.time(schedule.sigmas), t, rtol=1e-9)


def test_tables_end_where_they_are_known_to() -> None:
    assert BetaTable().sigma_limit == pytest.approx(157.407, rel=1e-5)
    assert BetaTable(betas="scaled_linear", beta_start=0.00085, beta_end=0.012).sigma_limit == pytest.approx(
        14.6146, rel=1e-5
    )
    assert BetaTable(betas="cosine").sigma_limit == pytest.approx(20291, rel=1e-4)


@pytest.mark.parametrize("form", [tuple, list, torch.tensor])
def test_a_table_may_be_given(form: Any) -> None:
    schedule = BetaTable(betas=form([0.1, 0.2, 0.5]))
    assert schedule.sigmas.tolist() == pytest.approx([math.sqrt(1 / a - 1) for a in (0.9, 0.72, 0.36)])
    assert schedule == BetaTable(betas=(0.1, 0.2, 0.5)) or form is torch.tensor
    assert torch.allclose(schedule.time(schedule.sigmas), torch.tensor([1, 2, 3]).double() / 3)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: GeometricVE(sigma_min=2.0, sigma_max=1.0), "sigma_min"),
        (lambda: GeometricVE(sigma_max=math.inf), "sigma_max"),
        (lambda: schedules.ExponentialVE(base=1.0), "base"),
        (lambda: VP(beta_min=0.0), "beta_min"),
        (lambda: VP(beta_d=-1.0), "beta_d"),
        (lambda: SubVP(beta_min=math.nan), "beta_min"),
        (lambda: Cosine(offset=-0.1), "offset"),
        (lambda: FlowMatching(shift=0.0), "shift"),
        (lambda: BetaTable(num_steps=0), "num_steps"),
        (lambda: BetaTable(beta_end=1.0), "beta_end"),
        (lambda: BetaTable(betas=()), "betas"),
        (lambda: BetaTable(betas=(0.1, 1.5)), "betas"),
        (lambda: BetaTable(betas="quadratic"), "betas"),  # type: ignore[arg-type]
    ],
)
def test_bad_values_name_their_field(make: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()
