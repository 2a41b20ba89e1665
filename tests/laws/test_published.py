"""The third-order DPM-Solver++ and ER-SDE as printed and as mended: how far they are apart, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from test_equivalence import LEVELS, NOISE, D, at, near, run
from test_order import final_error
from torch import Tensor
from variants import name, slope, zigzag_levels

from edm_unified import solvers
from edm_unified.sampling.solvers.as_published import AsPublished
from edm_unified.sampling.solvers.exponential_multistep import taylor_weights
from edm_unified.sampling.solvers.phi import lagrange_weights
from edm_unified.schedules import VP, FlowMatching

SDE = (solvers.DPMSolverPP3MSDEPublished, solvers.DPMSolverPP3MSDEDiffusers)
PUBLISHED = [solvers.DPMSolverPP3MPublished(), *(solver() for solver in SDE)]


# -- the codes, by hand ------------------------------------------------------------------------------------------------


def differences(now: Tensor, past: list[Tensor], h: float, steps: list[float]) -> tuple[Tensor, Tensor]:
    """D1 and D2 as all of them compute it, without the 2."""
    r0, r1 = steps[-1] / h, steps[-2] / h
    d0, d1 = (now - past[-1]) / r0, (past[-1] - past[-2]) / r1
    return d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)


def dpm_solver(x: Tensor, a: float, b: float, now: Tensor, past: list[Tensor], steps: list[float], n: Any) -> Tensor:
    """The authors' and diffusers' ``dpmsolver++``, order 3; the second step is 2M."""
    h = math.log(a / b)
    x = b / a * x + (1 - math.exp(-h)) * now
    if len(past) == 1:
        return x + 0.5 * (1 - math.exp(-h)) * (now - past[-1]) / (steps[-1] / h)
    if not past:
        return x
    D1, D2 = differences(now, past, h, steps)
    return x + ((math.exp(-h) - 1) / h + 1) * D1 - ((math.exp(-h) - 1 + h) / h**2 - 0.5) * D2


def k_diffusion(x: Tensor, a: float, b: float, now: Tensor, past: list[Tensor], steps: list[float], n: Any) -> Tensor:
    """``sample_dpmpp_3m_sde`` at eta = 1."""
    h = math.log(a / b)
    H = 2 * h
    x = math.exp(-H) * x - math.expm1(-H) * now
    phi_2 = math.expm1(-H) / H + 1
    if len(past) == 1:
        x = x + phi_2 * (now - past[-1]) / (steps[-1] / h)
    elif past:
        D1, D2 = differences(now, past, h, steps)
        x = x + phi_2 * D1 - (phi_2 / H - 0.5) * D2
    return x + b * math.sqrt(-math.expm1(-2 * h)) * n()


def diffusers(x: Tensor, a: float, b: float, now: Tensor, past: list[Tensor], steps: list[float], n: Any) -> Tensor:
    """``sde-dpmsolver++``, order 3: the sign of the half."""
    h = math.log(a / b)
    x = b / a * math.exp(-h) * x + (1 - math.exp(-2 * h)) * now
    if len(past) == 1:
        x = x + 0.5 * (1 - math.exp(-2 * h)) * (now - past[-1]) / (steps[-1] / h)
    elif past:
        D1, D2 = differences(now, past, h, steps)
        x = x + ((1 - math.exp(-2 * h)) / (-2 * h) + 1) * D1
        x = x + ((1 - math.exp(-2 * h) - 2 * h) / (2 * h) ** 2 - 0.5) * D2
    return x + b * math.sqrt(1 - math.exp(-2 * h)) * n()


def by_hand(step: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = lambda: torch.randn(NOISE.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, past, steps = NOISE * LEVELS[0], [], []
    for a, b in pairwise(LEVELS):
        now = D(x, at(a))
        if b == 0:
            return now
        x = step(x, a, b, now, past, steps, noise)
        past, steps = [*past, now], [*steps, math.log(a / b)]
    return x


@pytest.mark.parametrize(
    ("solver", "step"),
    zip(PUBLISHED, (dpm_solver, k_diffusion, diffusers), strict=True),
    ids=lambda v: getattr(v, "kind", ""),
)
def test_as_printed(solver: Any, step: Any) -> None:
    assert near(run(solver), by_hand(step), 1e-11)


# -- how far apart -----------------------------------------------------------------------------------------------------


def test_the_mended_ones_are_exponential_adams_of_order_3() -> None:
    assert near(run(solvers.DPMSolverPP3M()), run(solvers.ExponentialAdams(order=3)))
    for eta in (0.0, 0.5, 1.0):
        assert near(run(solvers.DPMSolverPP3MSDE(eta=eta)), run(solvers.ExponentialAdams(order=3, eta=eta)))


@pytest.mark.parametrize("published", PUBLISHED, ids=name)
def test_the_published_ones_are_far_from_them(published: Any) -> None:
    """Not by rounding: by a hundredth and more of the sample, at twelve steps."""
    mended = solvers.DPMSolverPP3MSDE() if published.stochastic else solvers.DPMSolverPP3M()
    assert not near(run(published), run(mended), 1e-2)


def test_two_numbers_are_all_there_is_to_mend() -> None:
    for H, nodes in ((0.1, [0.0, -0.9, -2.0]), (0.7, [0.0, -1.0, -2.5])):
        right = lagrange_weights(H, nodes)
        assert taylor_weights(H, nodes) == pytest.approx(right, rel=1e-10)
        assert taylor_weights(H, nodes, factor=1.0) == solvers.DPMSolverPP3MPublished().output_weights(H, nodes)
        assert taylor_weights(H, nodes, factor=1.0) != pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("schedule", [VP(), FlowMatching()], ids=name)
@pytest.mark.parametrize(
    ("published", "mended", "lost"),
    [
        (solvers.DPMSolverPP3MPublished(), solvers.DPMSolverPP3M(), 1),
        (solvers.DPMSolverPP3MSDEPublished(), solvers.DPMSolverPP3MSDE(), 1),
        (solvers.DPMSolverPP3MSDEDiffusers(), solvers.DPMSolverPP3MSDE(), 2),
    ],
    ids=lambda value: name(value),
)
def test_the_slips_cost_orders(published: Any, mended: Any, lost: int, schedule: Any) -> None:
    """Measured on steps that are by turns short and long, from exact starting values, with the noise off."""

    def order(solver: Any) -> float:
        return slope({n: final_error(solver, schedule, n, grid=zigzag_levels) for n in (160, 320)})

    assert order(mended) == pytest.approx(3, abs=0.15)
    assert order(published) == pytest.approx(published.order, abs=0.15)
    assert published.order == 3 - lost


def test_a_mended_start_of_few_steps_is_hardly_better() -> None:
    """At ten steps the slip is worth less than a factor of two; at 320 it is worth twenty and more."""

    def ratio(n: int) -> float:
        return final_error(solvers.DPMSolverPP3MPublished(), VP(), n) / final_error(solvers.DPMSolverPP3M(), VP(), n)

    assert ratio(10) < 3
    assert ratio(320) > 20


def test_each_has_a_kind_of_its_own() -> None:
    from typing import get_args

    kinds = {solver.kind for solver in get_args(AsPublished)}
    assert kinds == {"dpmpp_3m_published", "dpmpp_3m_sde_published", "dpmpp_3m_sde_diffusers", "er_sde_3_published"}


# -- ER-SDE-3 ----------------------------------------------------------------------------------------------------------


def er_phi(sigma: float) -> float:
    return sigma * (math.exp(sigma**0.3) + 10)


def by_quadrature(f: Callable[[float], float], a: float, b: float) -> float:
    return float(quad(f, b, a, epsabs=0, epsrel=1e-13)[0])


def by_a_hundred_values(f: Callable[[float], float], a: float, b: float) -> float:
    """From the lower end, as the code has it."""
    return float(sum(f(u) for u in b + np.arange(100) / 100 * (a - b)) * (a - b) / 100)


@pytest.mark.parametrize(("integrals", "integral"), [("exact", by_quadrature), ("sums", by_a_hundred_values)])
def test_er_sde_3_as_printed(integrals: Any, integral: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, D0s, slopes = NOISE * LEVELS[0], list[Tensor](), list[Tensor]()
    for i, (a, b) in enumerate(pairwise(LEVELS)):
        D0s.append(D(x, at(a)))
        if b == 0:
            x = D0s[-1]
            continue
        r = er_phi(b) / er_phi(a)
        x = r * x + (1 - r) * D0s[-1]
        if i > 0:
            slopes.append((D0s[-1] - D0s[-2]) / (a - LEVELS[i - 1]))
            x = x + (b - a + er_phi(b) * integral(lambda u: 1 / er_phi(u), a, b)) * slopes[-1]
        if i > 1:
            bend = 2 * (slopes[-1] - slopes[-2]) / (a - LEVELS[i - 2])
            moment = integral(lambda u, a=a: (u - a) / er_phi(u), a, b)
            x = x + (0.5 * (b - a) ** 2 + er_phi(b) * moment) * bend
        noise = torch.randn(NOISE.shape, generator=generator, dtype=torch.float64)
        x = x + math.sqrt(b**2 - a**2 * r**2) * noise
    assert near(run(solvers.ERSDE3Published(integrals=integrals)), x, 1e-10)


@pytest.mark.parametrize("phi", ["er_sde", "ode"])
def test_er_sde_3_is_of_order_two_and_its_code_of_order_one(phi: Any) -> None:
    def order(solver: Any, *grid: int) -> float:
        return slope({n: final_error(solver, VP(), n, grid=zigzag_levels) for n in grid})

    assert order(solvers.ERSDE(phi=phi), 160, 320) == pytest.approx(3, abs=0.15)
    assert order(solvers.ERSDE3Published(phi=phi), 160, 320) == pytest.approx(2, abs=0.15)
    sums = solvers.ERSDE3Published(phi=phi, integrals="sums")
    assert order(sums, 20, 40) > 1.7  # a hundredth of the term: it shows where steps are short
    assert order(sums, 640, 1280) == pytest.approx(1, abs=0.15)
    assert (sums.order, solvers.ERSDE3Published(phi=phi).order) == (1, 2)
