"""UniPC against its paper's linear systems, and what its corrector costs and when it acts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from test_equivalence import LEVELS, NOISE, D, at, near, run
from test_order import final_error
from torch import Tensor
from variants import SOLVERS, name, slope, walk_over

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.levels import Explicit, Karras
from edm_unified.sampling.loop import walk
from edm_unified.sampling.renoising import Ancestral, Churn, Corrected
from edm_unified.sampling.solvers import ExponentialAdams
from edm_unified.sampling.solvers.exponential_multistep import taylor_weights
from edm_unified.sampling.solvers.phi import lagrange_weights
from edm_unified.schedules import EDM

ALL = SOLVERS[solvers.UniPC]


def rho(hh: float, B: float, r: list[float]) -> np.ndarray:
    """Zhao et al. 2023, Eq. 5: R_{nk} = r_k^{n−1}, q_n = n! h φ_{n+1}(hh)/B in the recursion of the paper's code."""
    n = len(r)
    R = np.vander(r, n, increasing=True).T
    h_phi, factorial, q = math.expm1(hh) / hh - 1, 1, []
    for i in range(1, n + 1):
        factorial *= i
        q.append(factorial * h_phi / B)
        h_phi = h_phi / hh - 1 / (factorial * (i + 1))
    return np.linalg.solve(R, np.array(q))


def by_hand(
    p: int, variant: str, corrector: bool, levels: tuple[float, ...] = LEVELS, lower: bool = False, keep: int = -1
) -> Tensor:
    """Algorithms 1 and 2 on D, as the authors run them: ρ = ½ where one number is sought, linear systems elsewhere.

    ``lower`` is their ``lower_order_final``; ``keep`` returns the state after so many steps.
    """
    x, outputs, lambdas = NOISE * levels[0], [], []
    now = D(x, at(levels[0]))
    for i, (a, b) in enumerate(pairwise(levels)):
        if b == 0:
            return now
        hh = -math.log(a / b)
        B = {"bh1": hh, "bh2": math.expm1(hh)}[variant]
        order = min(p, len(outputs) + 1, len(levels) - 1 - i if lower else p)
        r = [(lambdas[-k] + math.log(a)) / -hh for k in range(1, order)]  # (λ_{i−k} − λ_i)/h
        D1 = [(outputs[-k] - now) / r[k - 1] for k in range(1, order)]
        linear = b / a * x - math.expm1(hh) * now
        weights = [0.5] if order == 2 else rho(hh, B, r) if r else []
        predicted = linear - B * sum(float(w) * d for w, d in zip(weights, D1, strict=True))
        outputs, lambdas = [*outputs, now], [*lambdas, -math.log(a)]
        ends = i == len(levels) - 2
        if not corrector:
            x, now = predicted, predicted if ends else D(predicted, at(b))
            continue
        if ends:  # no corrector at the last step
            return predicted
        ahead = D(predicted, at(b))
        weights = [0.5] if order == 1 else rho(hh, B, [*r, 1.0])
        x = linear - B * sum(float(w) * d for w, d in zip(weights, [*D1, ahead - now], strict=True))
        now = ahead
        if i + 1 == keep:
            return x
    return x


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[:-1]], ids=["to 0", "above 0"])
@pytest.mark.parametrize("solver", ALL, ids=name)
def test_as_printed(solver: Any, levels: tuple[float, ...]) -> None:
    expected = by_hand(solver.p, solver.variant, solver.corrector, levels)
    assert near(run(solver, levels=levels), expected, 1e-10)  # the systems cost the right-hand side some digits


def test_unip_1_is_ddim_and_unip_2_is_2m() -> None:
    assert near(run(solvers.UniPC(p=1, corrector=False)), run(solvers.DDIM()))
    assert near(run(solvers.UniPC(p=2, corrector=False)), run(solvers.DPMSolverPP2M()))
    bh1 = run(solvers.UniPC(p=2, variant="bh1", corrector=False))
    assert not near(bh1, run(solvers.DPMSolverPP2M()), 1e-4)
    assert not near(bh1, run(ExponentialAdams(order=2)), 1e-4)


@pytest.mark.parametrize("H", [0.03, 0.7, 4.0])
def test_unip_3_is_exponential_adams_of_order_3(H: float) -> None:
    """And so the mended 3M: the same weights of D_0, D_{−1}, D_{−2}. The published 3M is far from all three."""
    r = [-0.8, -2.1]
    expected = np.zeros(3)
    for k, w in enumerate(rho(-H, -H, r)):
        expected += H * float(w) / r[k] * np.eye(3)[k + 1] - H * float(w) / r[k] * np.eye(3)[0]
    expected[0] -= math.expm1(-H)
    nodes = [0.0, *r]
    assert lagrange_weights(H, nodes) == pytest.approx(expected.tolist(), rel=1e-8)
    assert taylor_weights(H, nodes) == pytest.approx(expected.tolist(), rel=1e-8)
    published = solvers.DPMSolverPP3MPublished().output_weights(H, nodes)
    assert float(np.abs(np.array(published) / expected - 1).max()) > 0.03 * min(H, 1)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unip_3_differs_from_exponential_adams_in_its_second_step_alone(variant: Any) -> None:
    """There ρ = ½ as in the authors' code; from the same states and outputs every later step is the same."""
    ours, theirs = solvers.UniPC(p=3, variant=variant, corrector=False), ExponentialAdams(order=3)
    dynamics, path = walk_over(LEVELS, EDM(), D)
    x, mine, other, equal = NOISE * LEVELS[0], ours.init(dynamics, path), theirs.init(dynamics, path), []
    for a, b in path.moves:
        y, mine = ours.step(dynamics, x, a, b, mine, torch.empty)
        z, other = theirs.step(dynamics, x, a, b, other, torch.empty)
        equal.append(near(y, z))
        x = z
    assert equal == [True, False, *[True] * 10]


# -- the corrector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_the_corrector_raises_the_order_by_one_and_costs_nothing(p: int, variant: Any) -> None:
    orders = {}
    for corrector in (False, True):
        solver = solvers.UniPC(p=p, variant=variant, corrector=corrector)
        orders[corrector] = slope({n: final_error(solver, EDM(), n) for n in (160, 320)})
        assert orders[corrector] == pytest.approx(solver.order, abs=0.15)
        assert edm.count_nfe(Karras(n=9), solver) == 9
    assert orders[True] - orders[False] == pytest.approx(1, abs=0.2)


def test_the_corrected_output_is_not_evaluated_again() -> None:
    """Each level is visited once, the last one above 0 too."""
    seen: list[float] = []

    def counting(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma))
        return D(x, sigma)

    edm.sample(counting, NOISE, solver=solvers.UniPC(), steps=Explicit(sigmas=LEVELS))
    assert seen == list(LEVELS[:-1])


def test_no_corrector_where_its_evaluation_would_be_extra() -> None:
    """Ends above 0, rises and repeats: as many evaluations as falls, whatever the walk."""
    solver = solvers.UniPC()
    assert edm.count_nfe(Explicit(sigmas=(8.0, 4.0, 2.0, 1.0)), solver) == 3
    assert edm.count_nfe(Karras(n=7), solver, renoising=Churn(S_min=0.0, S_max=1e9)) == 7
    assert edm.count_nfe(Karras(n=7), solver, renoising=Ancestral()) == 7
    langevin = edm.correctors.AnnealedLangevin()
    assert edm.count_nfe(Karras(n=7), solver, renoising=Corrected(), corrector=langevin) == 14


@pytest.mark.parametrize("rule", [Churn(S_churn=5, S_min=0.0, S_max=1e9), Ancestral(eta=0.5)], ids=name)
def test_between_rises_it_is_ddim(rule: Any) -> None:
    levels = rule.walk(LEVELS)
    assert near(run(solvers.UniPC(), levels=levels), run(solvers.DDIM(), levels=levels))


def test_after_a_rise_it_starts_anew() -> None:
    """(8 → 1, rise, 2 → 0) in one walk, and in two."""
    first, second = (8.0, 4.0, 2.0, 1.0), (2.0, 1.3, 0.7, 0.3, 0.0)
    solver = solvers.UniPC()
    dynamics, path = walk_over((*first, *second), EDM(), D)
    whole = walk(dynamics, NOISE * 8, path, solver, None, 1.0, lambda: NOISE)
    x = walk(dynamics, NOISE * 8, dynamics.walk(first), solver, None, 1.0, torch.empty)
    x = x + math.sqrt(2.0**2 - 1.0**2) * NOISE
    x = walk(dynamics, x, dynamics.walk(second), solver, None, 1.0, torch.empty)
    assert near(whole, x)


def test_one_step_returns_D() -> None:
    assert torch.equal(run(solvers.UniPC(), levels=(80.0, 0.0)), D(NOISE * 80, at(80.0)))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^p: must be a whole number from 1 to 3, got 4"):
        solvers.UniPC(p=4)
    with pytest.raises(ValueError, match=r"^variant: unknown 'bh3'; did you mean"):
        solvers.UniPC(variant="bh3")  # type: ignore[arg-type]
