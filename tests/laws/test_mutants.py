"""Law 8: the laws can fail. Slips of the kind that has shipped in published samplers are planted and must be caught.

Each mutant passes a glance at its pictures: it runs, converges, and at few steps some are even a little better. The
order test (law 3) or the exact variance (law 4) tells it apart; without the slip the same law holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import test_order
import test_stochastic
from variants import log_levels, slope

from edm_unified import renoising, schedules, solvers
from edm_unified.sampling import loop as sampling
from edm_unified.sampling.solvers.exponential_multistep import exponential_step
from edm_unified.sampling.solvers.phi import lagrange_weights, phi
from edm_unified.sampling.solvers.printed import weighed

Patch = Callable[[pytest.MonkeyPatch], None]


def order(solver: Any) -> float:
    """Law 3."""
    return slope({n: test_order.final_error(solver, schedules.EDM(), n) for n in (80, 160)})


def weak_order(solver: Any, rule: Any = None) -> float:
    """Law 4."""

    def error(n: int) -> float:
        levels = log_levels(n, 8.0, 0.1)
        return test_stochastic.relative_error(levels if rule is None else test_stochastic.around(rule, levels), solver)

    return slope({n: error(n) for n in (160, 320)})


def fall(target: type, mutant: Callable[..., Any]) -> Patch:
    """The printed step of ``target`` with a slip in it."""
    return lambda patch: patch.setattr(target, "fall", mutant)


def weights(target: type, function: Callable[[float, list[float]], list[float]]) -> Patch:
    return fall(
        target,
        lambda self, step, x, a, b: exponential_step(
            step, x, a, b, function, self.most_outputs, getattr(self, "eta", 0.0)
        ),
    )


def tableau(target: type, A: tuple[tuple[float, ...], ...], b: tuple[float, ...], c: tuple[float, ...]) -> Patch:
    """An explicit Runge–Kutta method in t, of that tableau (Butcher 2008, section 23)."""

    def mutant(self: Any, step: Any, x: Any, start: Any, end: Any) -> Any:
        x_t, h, slopes = start.s * x, end.t - start.t, list[Any]()
        for A_i, c_i in zip(A, c, strict=True):
            slopes.append(step.slope(x_t + h * weighed(A_i, slopes), step.in_time(c_i)))
        return (x_t + h * weighed(b, slopes)) / end.s

    return fall(target, mutant)


def extrapolated_backwards(H: float, nodes: list[float]) -> list[float]:
    """2M with the sign of its correction turned round."""
    whole = -math.expm1(-H)
    return [whole] if len(nodes) == 1 else [whole + 0.5 * whole / nodes[1], -0.5 * whole / nodes[1]]


def newton_form(factor: float, half: float) -> Callable[[float, list[float]], list[float]]:
    """Order 3 as the codes write it, from divided differences: D2 = factor·(d0−d1)/(r0+r1), φ_3 from ``half``."""

    def mutant(H: float, nodes: list[float]) -> list[float]:
        whole = -math.expm1(-H)
        phi_2 = (math.expm1(-H) + H) / H
        if len(nodes) == 1:
            return [whole]
        r0 = -nodes[1]
        if len(nodes) == 2:
            return [whole + phi_2 / r0, -phi_2 / r0]
        r1 = nodes[1] - nodes[2]
        phi_3 = (phi(2, -H) - half) / -H * H  # H φ_3(−H) where half = 1/2
        d0, d1 = [1 / r0, -1 / r0, 0.0], [0.0, 1 / r1, -1 / r1]
        D1 = [u + r0 / (r0 + r1) * (u - v) for u, v in zip(d0, d1, strict=True)]
        D2 = [factor * (u - v) / (r0 + r1) for u, v in zip(d0, d1, strict=True)]
        return [w + phi_2 * u + phi_3 * v for w, u, v in zip([whole, 0.0, 0.0], D1, D2, strict=True)]

    return mutant


def row_of(std: Callable[[float, float, float, float], float], keep: Callable[..., float] | None = None) -> Patch:
    """A mutant of the step that all exponential methods share: std(a, b, h, η), keep(a, b, h, η)."""

    def mutant(self: Any, step: Any, x: Any, a: Any, b: Any) -> Any:
        D = step.remember(step.denoise(x, a))
        h, eta, past = math.log(a.sigma / b.sigma), getattr(self, "eta", 0.0), step.past(self.most_outputs - 1)
        nodes = [0.0, *(math.log(a.sigma / before.sigma) / h for before, _ in past)]
        kept = b.sigma / a.sigma * math.exp(-(eta**2) * h) if keep is None else keep(a.sigma, b.sigma, h, eta)
        drift = weighed(lagrange_weights((1 + eta**2) * h, nodes), [D, *(D_j for _, D_j in past)])
        return kept * x + drift + std(a.sigma, b.sigma, h, eta) * step.noise()

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(solvers.ExponentialAdams, "fall", mutant)
        patch.setattr(solvers.DPMSolverPP2M, "fall", mutant)

    return apply


def split(mutant: Callable[[float, float, float], tuple[float, float]]) -> Patch:
    """DDIM and DDPM that go down to a level and add noise up to another, by ``mutant``."""

    def ancestral(self: Any, step: Any, x: Any, a: Any, b: Any) -> Any:
        down, up = mutant(a.sigma, b.sigma, getattr(self, "eta", 1.0))
        D = step.denoise(x, a)
        return D + down / a.sigma * (x - D) + up * step.noise()

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(solvers.DDIM, "fall", ancestral)
        patch.setattr(solvers.DDPM, "fall", ancestral)

    return apply


def first_power(a: float, b: float, eta: float) -> tuple[float, float]:
    """√(1 − b/a) where √(1 − b²/a²) belongs: every marginal is still right, and the SDE is another one."""
    up = eta * b * math.sqrt(1 - b / a)
    return math.sqrt(b**2 - up**2), up


def down_forgotten(a: float, b: float, eta: float) -> tuple[float, float]:
    """Noise is added on top of a step to b, not to the level below."""
    return b, eta * b * math.sqrt(1 - (b / a) ** 2)


def euler_maruyama(pull: Callable[[float], float], std: Callable[[float], float]) -> Patch:
    def mutant(self: Any, step: Any, x: Any, a: Any, b: Any) -> Any:
        x_t, h, D = a.s * x, b.t - a.t, step.denoise(x, a)
        drift = a.f * x_t + pull(self.eta) * a.l * (x_t - a.s * D)
        return (x_t + h * drift + std(self.eta) * a.s * a.sigma * math.sqrt(-2 * a.l * h) * step.noise()) / b.s

    return fall(solvers.EulerMaruyama, mutant)


def no_root(patch: pytest.MonkeyPatch) -> None:
    """A rise whose noise has std b² − a²."""
    patch.setattr(sampling, "math", SimpleNamespace(sqrt=lambda variance: variance, isfinite=math.isfinite))


std_of = lambda eta, b, h: b * math.sqrt(-math.expm1(-2 * eta**2 * h))  # noqa: E731
three = solvers.ExponentialAdams(order=3)
adams_sde = solvers.ExponentialAdams(order=2, eta=0.5)
churn = renoising.Churn(S_churn=20, S_min=0.0, S_max=math.inf, S_noise=1.0)

MUTANTS: dict[str, tuple[Patch, Callable[[], float], float]] = {
    "2M with the sign of the correction turned": (
        weights(solvers.DPMSolverPP2M, extrapolated_backwards),
        lambda: order(solvers.DPMSolverPP2M()),
        2,
    ),
    "3M without the factor 2 (dpm-solver, diffusers, k-diffusion)": (
        weights(solvers.ExponentialAdams, newton_form(factor=1.0, half=0.5)),
        lambda: order(three),
        3,
    ),
    "3M SDE with −½ for +½ (diffusers)": (
        weights(solvers.ExponentialAdams, newton_form(factor=2.0, half=-0.5)),
        lambda: order(solvers.ExponentialAdams(order=3, eta=1.0)),
        3,
    ),
    "Heun with weights 0.4 and 0.6": (
        tableau(solvers.Heun, A=((), (1.0,)), b=(0.4, 0.6), c=(0.0, 1.0)),
        lambda: order(solvers.Heun()),
        2,
    ),
    "Heun that evaluates at the old level": (
        tableau(solvers.Heun, A=((), (1.0,)), b=(0.5, 0.5), c=(0.0, 0.0)),
        lambda: order(solvers.Heun()),
        2,
    ),
    "midpoint whose stage takes the whole step": (
        tableau(solvers.Midpoint, A=((), (1.0,)), b=(0.0, 1.0), c=(0.0, 0.5)),
        lambda: order(solvers.Midpoint()),
        2,
    ),
    "RK4 with two weights exchanged": (
        tableau(
            solvers.RK4,
            A=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
            b=(1 / 3, 1 / 6, 1 / 3, 1 / 6),
            c=(0.0, 0.5, 0.5, 1.0),
        ),
        lambda: order(solvers.RK4()),
        4,
    ),
    "noise scaled by the level that is left": (
        row_of(lambda a, b, h, eta: std_of(eta, a, h)),
        lambda: weak_order(adams_sde),
        2,
    ),
    "noise without its level": (
        row_of(lambda a, b, h, eta: std_of(eta, 1.0, h)),
        lambda: weak_order(adams_sde),
        2,
    ),
    "noise of η where η² belongs": (
        row_of(lambda a, b, h, eta: b * math.sqrt(-math.expm1(-2 * eta * h))),
        lambda: weak_order(adams_sde),
        2,
    ),
    "an SDE step that keeps x as the ODE does": (
        row_of(lambda a, b, h, eta: std_of(eta, b, h), keep=lambda a, b, h, eta: b / a),
        lambda: order(adams_sde),
        2,
    ),
    "a step by the wrong σ (azula's REAB)": (
        row_of(lambda a, b, h, eta: std_of(eta, b, h), keep=lambda a, b, h, eta: b / math.sqrt(a * b)),
        lambda: order(solvers.DPMSolverPP2M()),
        2,
    ),
    "ancestral noise from the first power": (split(first_power), lambda: order(solvers.DDPM()), 1),
    "ancestral noise on top of a full step": (split(down_forgotten), lambda: weak_order(solvers.DDIM(eta=1.0)), 1),
    "Euler-Maruyama with 1 + η for 1 + η²": (
        euler_maruyama(pull=lambda eta: 1 + eta, std=lambda eta: eta),
        lambda: order(solvers.EulerMaruyama(eta=0.5)),
        1,
    ),
    "Euler-Maruyama with the drift of the ODE": (
        euler_maruyama(pull=lambda eta: 1.0, std=lambda eta: eta),
        lambda: weak_order(solvers.EulerMaruyama(eta=0.5)),
        1,
    ),
    "Euler-Maruyama with √2 less noise": (
        euler_maruyama(pull=lambda eta: 1 + eta**2, std=lambda eta: eta / math.sqrt(2)),
        lambda: weak_order(solvers.EulerMaruyama()),
        1,
    ),
    "churn whose noise is a variance": (no_root, lambda: weak_order(solvers.Heun(), churn), 2),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, law, stated = MUTANTS[mutant]
    assert law() == pytest.approx(stated, abs=0.15), "the law must hold before the slip is planted"
    plant(monkeypatch)
    assert law() != pytest.approx(stated, abs=0.15), "the slip went unnoticed"


def test_the_third_order_formula_of_the_codes_is_ours_once_it_is_mended() -> None:
    """With the factor 2 and +½ the divided differences are the same method: the slip is in those two numbers alone."""
    for H in (0.1, 0.7):
        ours = lagrange_weights(H, [0.0, -0.9, -2.0])
        assert ours == pytest.approx(newton_form(factor=2.0, half=0.5)(H, [0.0, -0.9, -2.0]), rel=1e-9)
