"""Adaptive methods: the error follows the tolerance, each sample is on its own, and the ledger is true.

The truth is ``edm.reference`` (DOP853), or a closed form. For the SDE it is the exact variance by basis noise: rejected
steps included, for the noise of a bridged step is linear in the noises drawn, whatever steps were chosen.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from variants import ADAPTIVE, Basis, cover, dynamics_of, every, exact_flow, name

import edm_unified as edm
from edm_unified import schedules, solvers
from edm_unified.sampling.levels import Explicit, Karras, LogLinear
from edm_unified.sampling.renoising import Churn
from edm_unified.sampling.solvers import adaptive_sde
from edm_unified.sampling.solvers.step_control import FIRST_STEP, size
from edm_unified.sampling.solvers.trial import SampleLevels, States, Trial

ALL = every(ADAPTIVE)
ODE = [solvers.DormandPrince45(), solvers.DPMSolver12(), solvers.DPMSolver23()]
WEIGHTS = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)
MEANS = torch.tensor([-1.1, 0.3, 1.4], dtype=torch.float64)
VARIANCES = torch.tensor([0.19, 0.14, 0.26], dtype=torch.float64)
NOISE = edm.unit_noise(12, (6,), seed=5)
LOW = 0.002
EDM = schedules.EDM()


def D(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
    """The mixture of the other laws, for one level or one per sample."""
    level = sigma.view(-1, *[1] * x.ndim) if sigma.ndim else sigma
    total, z = VARIANCES + level**2, x.double()[..., None] - MEANS
    r = torch.softmax(WEIGHTS.log() - 0.5 * total.log() - 0.5 * z**2 / total, -1)
    return (r * (MEANS + VARIANCES / total * z)).sum(-1).to(x.dtype)


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return edm.reference(D, NOISE, sigma_max=80.0, sigma_min=LOW, tolerance=1e-12)


def solve(solver: Any, **settings: Any) -> tuple[Tensor, list[int]]:
    ledger = solvers.Ledger(solver)
    x = edm.sample(D, NOISE, steps=Explicit(sigmas=(80.0, LOW)), solver=ledger, **settings)
    return x, ledger.evaluations


# -- tolerance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("kind", [type(solver) for solver in ODE], ids=lambda kind: kind.__name__)
def test_the_error_at_the_end_is_the_tolerance(kind: Any, tolerance: float, truth: Tensor) -> None:
    """The tolerance is for one step; where the flow contracts, the errors of all of them do not add up to much more."""
    if kind is solvers.DPMSolver12 and tolerance < 1e-5:
        return  # thousands of steps
    x, _ = solve(kind(rtol=tolerance, atol=tolerance))
    error = size(x - truth, truth, truth, tolerance, tolerance)  # RMS of each sample, in units of the tolerance
    assert float(error.max()) < 1.1
    assert float(error.median()) < 0.8


@pytest.mark.parametrize(
    ("kind", "k", "tolerances"),
    [
        (solvers.DormandPrince45, 5, (1e-6, 1e-9)),
        (solvers.DPMSolver23, 3, (1e-5, 1e-7)),
        (solvers.DPMSolver12, 2, (1e-3, 1e-5)),
    ],
)
def test_error_and_cost_scale_with_the_tolerance(
    kind: Any, k: int, tolerances: tuple[float, float], truth: Tensor, table: list[tuple[str, ...]]
) -> None:
    """Half the tolerance is half the error, at 2^{1/k} times the evaluations, k the order of the error of a step."""
    errors, costs = [], []
    for tolerance in tolerances:
        x, evaluations = solve(kind(rtol=tolerance, atol=tolerance))
        errors.append(float((x - truth).square().mean().sqrt()))
        costs.append(sum(evaluations) / len(evaluations))
    span = math.log(tolerances[0] / tolerances[1])
    proportional, growth = math.log(errors[0] / errors[1]) / span, math.log(costs[1] / costs[0]) / span
    table.append((kind.__name__, f"error ∝ tol^{proportional:.2f}", f"NFE ∝ tol^−{growth:.3f}", f"1/k {1 / k:.3f}"))
    assert proportional == pytest.approx(1, abs=0.15)
    assert growth == pytest.approx(1 / k, abs=0.04)


@pytest.mark.parametrize("solver", ODE, ids=name)
def test_order_of_both_methods_of_the_pair(solver: Any) -> None:
    """At steps of our own choosing: the accepted method has the stated order, the error of one step is O(h^k)."""

    def run(n: int) -> tuple[float, float]:
        high, low = 8.0, 0.15
        start = torch.linspace(-1.7, 1.9, 6, dtype=torch.float64)[:, None] * high
        x, h = start, torch.full((6,), math.log(high / low) / n, dtype=torch.float64)
        place = lambda u: SampleLevels(high * torch.exp(-u), u)  # noqa: E731
        worst = 0.0
        for i in range(n):
            a, b = place(i * h), place((i + 1) * h)
            accurate, compared = solver.pair(Trial(D, place, D(x, a.sigma), None, a, b), States(x), a, b)
            worst = max(worst, float((accurate - compared).x.abs().max())) if i == n // 2 else worst
            x = accurate.x
        return float((x - exact_flow([high, low], start)[-1]).square().mean().sqrt()), worst

    n = {2: (160, 320), 3: (80, 160), 5: (40, 80)}[solver.order]
    (coarse, coarse_step), (fine, fine_step) = run(n[0]), run(n[1])
    assert math.log2(coarse / fine) == pytest.approx(solver.order, abs=0.2)
    assert math.log2(coarse_step / fine_step) == pytest.approx(solver.error_order, abs=0.35)


@pytest.mark.parametrize("pid", [(0.0, 1.0, 0.0), (0.4, 0.3, 0.0), (0.2, 0.6, 0.1)])
def test_any_controller_reaches_the_tolerance(pid: Any, truth: Tensor) -> None:
    x, _ = solve(solvers.DormandPrince45(rtol=1e-8, atol=1e-8, pid=pid))
    assert float(size(x - truth, truth, truth, 1e-8, 1e-8).max()) < 1


@pytest.mark.parametrize("solver", ODE, ids=name)
def test_every_schedule_gives_the_same_answer_to_the_bit(solver: Any) -> None:
    x, _ = solve(solver)
    for schedule in (schedules.VP(), schedules.FlowMatching(), schedules.BetaTable()):
        assert torch.equal(solve(solver, schedule=schedule)[0], x)


def test_levels_in_between_cost_little_and_change_nothing_beyond_the_tolerance(truth: Tensor) -> None:
    """The length of the step and the last output are carried from fall to fall."""
    ledger, noise = solvers.Ledger(solvers.DormandPrince45(rtol=1e-7, atol=1e-7)), NOISE
    levels = (80.0, 9.0, 0.7, 0.05, LOW)
    x = edm.sample(D, noise, steps=Explicit(sigmas=levels), solver=ledger)
    assert float(size(x - truth, truth, truth, 1e-7, 1e-7).max()) < 1
    at_once = solve(ledger.solver)[1]
    assert all(many <= one + 6 * 2 * 3 for many, one in zip(ledger.evaluations, at_once, strict=True))


# -- each sample by itself ---------------------------------------------------------------------------------------------


def mixed(x: Tensor, sigma: Tensor) -> Tensor:
    """Smooth, and the harder the larger x is: samples differ in what they cost. Element by element."""
    level = sigma.view(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
    return torch.tanh(3 * x / torch.sqrt(1 + level**2)) + 0.2 * torch.sin(4 * x / (0.3 + level))


def rational(x: Tensor, sigma: Tensor) -> Tensor:
    """Nonlinear, and of +, −, × and / alone: an element has the same bits wherever it stands."""
    level = sigma.view(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
    return x * (2 + x * x) / (1 + level * level + x * x) + 0.2 * x / (0.03 + level + x * x)


STEPS = [LogLinear(n=2), Karras(n=5)]


@pytest.mark.parametrize(("solver", "dtype"), cover(ALL, [torch.float64, torch.float32]), ids=name)
def test_a_sample_is_the_same_in_any_batch_bit_for_bit(solver: Any, dtype: torch.dtype) -> None:
    """Steps, counts and numbers, in batches of 1, 3, 7 and 64, which fill vector registers otherwise."""
    shape, together = (3, 7), solvers.Ledger(solver)
    settings: dict[str, Any] = {"steps": Karras(n=3), "seed": 7, "dtype": dtype}
    in_64 = edm.sample(rational, edm.unit_noise(64, shape, seed=7), solver=together, **settings)
    for count, firsts in ((1, (0, 63)), (3, (33,)), (7, (14, 57))):
        for first in firsts:
            alone = solvers.Ledger(solver)
            noise = edm.unit_noise(count, shape, seed=7, first=first)
            x = edm.sample(rational, noise, first=first, solver=alone, **settings)
            assert torch.equal(x, in_64[first : first + count])
            assert alone.evaluations == together.evaluations[first : first + count]
            assert alone.rejected == together.rejected[first : first + count]
    assert len(set(together.evaluations)) > 1, "the samples are too alike to tell"


@pytest.mark.parametrize(("solver", "steps"), cover(ALL, STEPS), ids=name)
def test_the_ledger_is_what_a_wrapper_counts(solver: Any, steps: Any) -> None:
    """Exactly for a sample alone. A batch is evaluated as a whole: as often as its most demanding sample, or more."""
    for first in range(4):
        counted, ledger = edm.Counted(mixed), solvers.Ledger(solver)
        edm.sample(counted, edm.unit_noise(1, (4,), first=first), first=first, solver=ledger, steps=steps)
        assert ledger.evaluations == [counted.nfe]
    counted, ledger = edm.Counted(mixed), solvers.Ledger(solver)
    edm.sample(counted, edm.unit_noise(6, (4,)), solver=ledger, steps=steps)
    assert max(ledger.evaluations) <= counted.nfe < sum(ledger.evaluations)


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_levels_lie_within_the_fall_and_its_ends_are_met_to_the_bit(solver: Any) -> None:
    """One level per sample inside a fall, the walk's own at its start; never beyond the end, never recomputed there."""
    seen: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape in ((), (4,))
        assert sigma.dtype == torch.float64
        seen.append(sigma.expand(4).clone())
        return mixed(x, sigma)

    edm.sample(watched, edm.unit_noise(4, (3,)), solver=solver, steps=Explicit(sigmas=(7.7, 0.3, 0.0123)))
    levels = torch.stack(seen)
    assert float(levels.max()) == 7.7
    assert float(levels.min()) >= 0.0123
    assert bool((levels == 0.3).any())
    if not isinstance(solver, solvers.DPMSolver12 | solvers.DPMSolver23):  # these never look at the end of a step
        assert bool((levels == 0.0123).any(0).all())


def test_conditions_stay_with_their_samples() -> None:
    label = torch.tensor([-1.0, 0.0, 2.0]).double()[:, None]
    out = edm.sample(
        lambda x, sigma, label: 0 * x + label,
        edm.unit_noise(3, (2,)),
        cond={"label": label},
        solver=solvers.DormandPrince45(),
        steps=LogLinear(n=2),
    )
    assert torch.allclose(out, label.expand(3, 2))


# -- the rest of the contract of a solver ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_a_single_step_to_zero_is_D(solver: Any) -> None:
    x = edm.sample(D, NOISE, solver=solver, steps=Karras(n=1))
    assert torch.equal(x, D(80 * NOISE, torch.tensor(80.0, dtype=torch.float64)))


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_rises_and_repeats_forget_the_last_output(solver: Any) -> None:
    rule = Churn(S_churn=3.0, S_min=0.1, S_max=20.0)
    counted = edm.Counted(D)
    x = edm.sample(counted, NOISE, solver=solver, steps=Karras(n=5), renoising=rule)
    assert bool(torch.isfinite(x).all())
    path = dynamics_of(EDM, D).walk((4.0, 2.0, 2.0, 1.0))
    state, at = solver.init(None, path), NOISE
    for a, b in path.moves:
        if b.sigma < a.sigma:
            calls: list[Tensor] = []
            watched = lambda x, sigma, calls=calls: calls.append(sigma) or D(x, sigma)  # noqa: E731
            at, state = solver.step(dynamics_of(EDM, watched), at, a, b, state, lambda: torch.zeros_like(NOISE))
            assert calls[0].shape == (), "after a repeat x is another one: its D must be asked for"


def test_the_fall_to_zero_reuses_the_output_at_its_start() -> None:
    """Dormand–Prince ends a step with D at its end: the closing D costs nothing more."""
    runs = []
    for levels in ((80.0, 0.01), (80.0, 0.01, 0.0)):
        counted = edm.Counted(D)
        runs.append((edm.sample(counted, NOISE, solver=solvers.DormandPrince45(), steps=Explicit(levels)), counted.nfe))
    (x, nfe), (closed, nfe_closed) = runs
    assert nfe == nfe_closed
    assert torch.allclose(closed, D(x, torch.tensor(0.01, dtype=torch.float64)), atol=1e-12)


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_float32_and_a_denoiser_that_returns_its_input(solver: Any) -> None:
    x = edm.sample(D, NOISE, solver=solver, steps=LogLinear(n=2), dtype=torch.float32)
    assert x.dtype == torch.float32
    exact = edm.sample(D, NOISE, solver=solver, steps=LogLinear(n=2))
    scale = solver.rtol + solver.atol
    assert float((x - exact).abs().max()) < 50 * max(scale, 1e-6)
    if not solver.stochastic:
        still = edm.sample(lambda x, sigma: x, NOISE, solver=solver, steps=LogLinear(n=2))
        assert torch.allclose(still, 80 * NOISE, rtol=1e-12)


@pytest.mark.parametrize("wrap", [lambda solver: solver, solvers.Ledger], ids=["plain", "ledger"])
@pytest.mark.parametrize("solver", ALL, ids=name)
def test_a_gradient_is_refused(solver: Any, wrap: Any) -> None:
    """What is returned jumps where a step comes to be rejected: its differences are off from the flow's by up to 1."""
    noise = edm.unit_noise(2, (2,)).requires_grad_()
    settings: dict[str, Any] = {"solver": wrap(solver), "steps": LogLinear(n=2)}
    with pytest.raises(ValueError, match=r"^solver: no gradient .*; take one of fixed steps, such as solvers.RK4\(\)"):
        edm.sample(rational, noise, **settings)
    with torch.no_grad():
        x = edm.sample(rational, noise, **settings)
    assert torch.equal(x, edm.sample(rational, noise.detach(), **settings))


# -- what does not converge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [type(solver) for solver in ODE] + [solvers.AdaptiveSDE], ids=lambda k: k.__name__)
def test_too_few_evaluations_name_the_samples(kind: Any) -> None:
    """Samples 1 and 3 are made rough; the others converge, and the error says so."""

    def rough(x: Tensor, sigma: Tensor) -> Tensor:
        bumps = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)[:, None]
        return D(x, sigma) + bumps * torch.sin(300 * x)

    solver = kind(rtol=1e-3, atol=1e-3, most_evaluations=900)
    with pytest.raises(
        FloatingPointError, match=r"^most_evaluations: 900 were not enough for 2 of 4 samples \(of the batch: 1, 3\)"
    ):
        edm.sample(rough, edm.unit_noise(4, (2,)), solver=solver, steps=LogLinear(n=2))


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_nan_names_the_sample_and_the_level_after_a_few_evaluations(solver: Any) -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        out = D(x, sigma)
        out[2] = torch.where(sigma.expand(4)[2] < 1.0, math.nan, 1.0) * out[2]
        return out

    counted = edm.Counted(broken)
    with pytest.raises(
        FloatingPointError, match=r"^rtol: no step .*1 of 4 samples \(of the batch: 2\), at sigma = (1;|1\.|0\.)"
    ):
        edm.sample(counted, edm.unit_noise(4, (2,)), solver=solver, steps=LogLinear(n=2))
    assert counted.nfe < 500


def test_many_samples_are_not_all_listed() -> None:
    with pytest.raises(FloatingPointError, match=r"12 of 12 samples \(of the batch: 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"):
        solve(solvers.DormandPrince45(rtol=1e-12, atol=1e-12, most_evaluations=20))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: solvers.DormandPrince45(rtol=0.0, atol=0.0), "^rtol: rtol and atol are both 0"),
        (lambda: solvers.DormandPrince45(rtol=-1e-3), "^rtol: must be zero or positive"),
        (lambda: solvers.DPMSolver12(atol=math.inf), "^atol: "),
        (lambda: solvers.DPMSolver23(most_evaluations=0), "^most_evaluations: must be a whole number from 1"),
        (lambda: solvers.DPMSolver23(pid=(0.0, 0.0, 0.0)), "^pid: must be three numbers with a positive sum"),
        (lambda: solvers.DPMSolver23(pid=(1.0, 0.0)), "^pid: "),  # type: ignore[arg-type]
        (lambda: solvers.AdaptiveSDE(eta=0.0), "^eta: must be positive"),
        (lambda: solvers.AdaptiveSDE(exponent=0.0), "^exponent: "),
        (lambda: solvers.AdaptiveSDE(rtol=0.0, atol=0.0), "^rtol: rtol and atol are both 0"),
        (lambda: solve(solvers.DormandPrince45(rtol=1e-7), dtype=torch.float32), "^rtol: 1e-07 is below .*float32"),
        (lambda: solvers.Ledger(solvers.Heun()), "^solver: Heun is not adaptive"),
    ],
)
def test_bad_values_name_their_field(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- the SDE -----------------------------------------------------------------------------------------------------------


class Linear:
    """D for data ~ N(0, v), a row for each v; linear, so that noises stay apart."""

    def __init__(self, variances: tuple[float, ...]) -> None:
        self.v = torch.tensor(variances, dtype=torch.float64)[:, None]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.v / (self.v + (sigma[:, None] if sigma.ndim else sigma) ** 2) * x


@pytest.mark.parametrize("levels", [(8.0, 0.1), (8.0, 2.0, 0.5, 0.1)], ids=["one fall", "three falls"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_variance_converges_with_the_tolerance(eta: float, levels: tuple[float, ...]) -> None:
    """With dozens of rejected and bridged steps. (That rejection does not choose among paths is another law.)"""
    variances, columns, errors, rejected = (0.01, 0.25, 1.0, 4.0), 4000, [], 0
    for tolerance in (0.03, 0.003):
        denoiser = Linear(variances)
        dynamics = dynamics_of(EDM, denoiser)
        path, basis = dynamics.walk(levels), Basis(len(variances), columns)
        # the norm is a mean over elements, nearly all of which are zero in a basis
        solver = solvers.AdaptiveSDE(eta=eta, rtol=0.0, atol=tolerance / math.sqrt(columns))
        x, state = torch.sqrt(denoiser.v + 64) * basis(), solver.init(dynamics, path)
        for a, b in path.moves:
            x, state = solver.step(dynamics, x, a, b, state, basis)
        errors.append((x.square().sum(1) / (denoiser.v[:, 0] + 0.01) - 1).abs())
        rejected += int(state.rejected.sum())
    assert rejected > 20
    assert float(errors[1].max()) < 0.01
    assert bool((errors[1] < 0.35 * errors[0] + 1e-3).all())


def test_a_bridged_path_is_a_brownian_path() -> None:
    """D = 0: the end is noise alone, of exact variance, however steps were rejected, split and put together."""
    denoiser_calls = 0

    def fussy(x: Tensor, sigma: Tensor) -> Tensor:
        """Almost nothing, but rough enough that half of the steps are rejected."""
        nonlocal denoiser_calls
        denoiser_calls += 1
        return 1e-9 * ((denoiser_calls * 7919) % 13 > 6) * torch.ones_like(x)

    columns, dynamics = 2000, dynamics_of(EDM, fussy)
    basis, path = Basis(3, columns), dynamics.walk((5.0, 0.2))
    solver = solvers.AdaptiveSDE(eta=0.8, rtol=0.0, atol=1e-10)
    x, state = solver.step(dynamics, torch.zeros(3, columns).double(), *path.moves[0], solver.init(None, path), basis)
    assert int(state.rejected.sum()) > 3
    expected = 0.2**2 * (1 - (0.2 / 5.0) ** (2 * 0.8**2))
    assert torch.allclose(x.square().sum(1), torch.full((3,), expected, dtype=torch.float64), rtol=1e-5)


def forgetful(patch: pytest.MonkeyPatch) -> None:
    """The slip: after a rejection the noise is drawn anew."""
    top = adaptive_sde.Path.top

    def forget(self: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        self.depth = torch.zeros_like(self.depth)
        self.ends.clear()
        self.increments.clear()
        return top(self, like)

    patch.setattr(adaptive_sde.Path, "top", forget)
    patch.setattr(adaptive_sde.Path, "pop", lambda self, which: None)


@pytest.mark.parametrize("slip", [False, True], ids=["bridged", "drawn anew"])
def test_rejection_does_not_choose_among_paths(slip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps on which x moves far are rejected, and D is next to nothing: the end must have the variance of the noise.

    20 000 paths: one standard error of the variance is 1 %.
    """
    if slip:
        forgetful(monkeypatch)
    n, generator = 20_000, torch.Generator().manual_seed(0)
    dynamics = dynamics_of(EDM, lambda x, sigma: 1e-6 * x**2)
    path, solver = dynamics.walk((5.0, 0.2)), solvers.AdaptiveSDE(eta=0.8, rtol=0.0, atol=3e-7)
    randn = lambda: torch.randn(n, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    x, state = solver.step(dynamics, torch.zeros(n, 1).double(), *path.moves[0], solver.init(None, path), randn)
    assert float(state.rejected.double().mean()) > 3
    expected = 0.2**2 * (1 - (0.2 / 5.0) ** (2 * 0.8**2))
    assert (abs(float(x.var()) / expected - 1) < 0.03) != slip


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_without_its_noise_it_integrates_its_drift_to_the_tolerance(eta: float) -> None:
    """Within a few tolerances, as the drift does not contract at low noise, and in proportion to it."""
    start = torch.linspace(-1.7, 1.9, 6, dtype=torch.float64)[:, None] * 8
    dynamics = dynamics_of(EDM, D)
    path = dynamics.walk((8.0, 0.15))
    truth = exact_flow([8.0, 0.15], start, eta)[-1]
    errors = []
    for tolerance in (1e-2, 1e-3, 1e-5):
        solver = solvers.AdaptiveSDE(eta=eta, rtol=tolerance, atol=tolerance)
        x, _ = solver.step(dynamics, start, *path.moves[0], solver.init(None, path), lambda: torch.zeros_like(start))
        errors.append(float((x - truth).abs().max()))
        assert errors[-1] < 6 * tolerance
    assert math.log(errors[1] / errors[2]) / math.log(100) == pytest.approx(1, abs=0.15)


def test_the_first_step_is_no_choice_of_the_user() -> None:
    """A start ten times too long or too short costs a few steps and no accuracy: the default holds at any tolerance."""
    assert 0 < FIRST_STEP < 1
    for tolerance in (1e-1, 1e-9):
        x, evaluations = solve(solvers.DormandPrince45(rtol=tolerance, atol=tolerance))
        assert bool(torch.isfinite(x).all())
        assert max(evaluations) < 1000


@pytest.mark.parametrize("solver", ALL, ids=name)
def test_noise_is_drawn_by_the_sde_alone(solver: Any) -> None:
    drawn = 0

    def randn() -> Tensor:
        nonlocal drawn
        drawn += 1
        return torch.zeros_like(NOISE)

    path = dynamics_of(EDM, D).walk((80.0, 0.5, 0.0))
    x, state = 80 * NOISE, solver.init(None, path)
    falls = [(a.sigma, b.sigma) for a, b in pairwise(path.levels)]
    assert len(falls) == 2
    for a, b in path.moves:
        x, state = solver.step(dynamics_of(EDM, D), x, a, b, state, randn)
    assert (drawn > 0) == solver.stochastic
