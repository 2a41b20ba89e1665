"""The certificates can fail: slips of the kind that ships are planted in plugin solvers, and each is caught.

The solver they are planted in is written here in the form of the published codes (divided differences), knows nothing
of the package but the protocol, and passes as long as no slip is in it. And the page of certificates in docs is true.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from variants import by_kind

import edm_unified as edm
from edm_unified import certify, solvers
from edm_unified.certify import equivalence, noise, requirements, runs, table, targets
from edm_unified.certify.certificate import LOOSE, Certificate
from edm_unified.certify.certificate import _of_amplitude as of_amplitude
from edm_unified.certify.certificate import _of_orders as of_orders
from edm_unified.certify.certificate import _of_weak as of_weak
from edm_unified.certify.certificate import _weak as weak
from edm_unified.certify.orders import GRIDS, orders
from edm_unified.certify.runs import FLOOR, WARM, final_errors, pooled

DOCS = Path(__file__).resolve().parents[2] / "docs" / "certificates.md"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class ThreeM:
    """DPM-Solver++(3M) and its SDE as the codes write them, with room for one slip."""

    eta: float = 0.0
    slip: str = ""
    order = 3

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def init(self, dynamics: Any, walk: Any) -> Any:
        if self.slip == "state on the solver":
            object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
        return 0, walk.streaks, ()

    def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
        turn, streaks, past = state
        if streaks[turn] == 0 and self.slip != "history across a rise":
            past = ()
        D = dynamics.denoise(x, b if self.slip == "swapped sigma" and b.sigma > 0 else a)
        if b.sigma == 0:
            return (D + 0.1 * randn() if self.slip == "noise on the fall to 0" else D), (turn + 1, streaks, past)
        level = (lambda l: l.t) if self.slip == "time for level" else (lambda l: l.sigma)
        h, eta2 = math.log(level(a) / level(b)), self.eta**2
        if self.slip == "eta for eta squared":
            eta2 = self.eta
        if not past and self.slip == "wrong warm-up":
            past = ((h, x),)  # the history starts from the state, as if it were an output
        H = (1 + eta2) * h
        whole = -math.expm1(-H)
        phi_2 = (math.expm1(-H) + H) / H
        half = -0.5 if self.slip == "sign in the SDE" else 0.5
        phi_3 = ((math.expm1(-H) + H) / H**2 - half) / -1
        keep = math.exp(-h) if self.slip == "drift of the ODE" else math.exp(-H)
        out = keep * x + whole * D
        if past:
            r0 = 1.0 if self.slip == "even steps" else past[0][0] / h
            d0 = (D - past[0][1]) / r0
            first = d0
            if len(past) > 1:
                r1 = 1.0 if self.slip == "even steps" else past[1][0] / h
                d1 = (past[0][1] - past[1][1]) / r1
                first = d0 + r0 / (r0 + r1) * (d0 - d1)
                factor = 1 if self.slip in ("factor 2 missing", "sign in the SDE") else 2
                out = out + phi_3 * factor * (d0 - d1) / (r0 + r1)
            out = out + phi_2 * first
        std = math.sqrt(-math.expm1(-2 * eta2 * h))
        if self.slip != "noise without its level":
            std *= b.sigma
        if self.slip == "state on the solver" and self.calls % 2:  # type: ignore[attr-defined]
            out = 1.001 * out
        if std:
            out = out + std * randn()
        if self.slip == "writes in place":
            x.copy_(out)
        return out, (turn + 1, streaks, ((h, D), *past)[:2])


@cache
def certificate(solver: Any) -> Certificate:
    return certify.certify(solver)


def told(solver: Any) -> Iterator[str]:
    """The failures of its certificate, one instrument after another, so that the first that tells is enough."""
    yield from (f"{name}: {words}" for name, words in requirements.check_requirements(solver).items() if words)
    amplitude = noise.squared_amplitude(solver) if solver.stochastic else (0.0,)
    yield from of_amplitude(solver.eta, amplitude)
    if solver.stochastic:
        yield from of_weak(noise.weak_order(solver, weak(solver.order))[0], solver.order)
    assert amplitude is not None
    blind = all(gap == 0 for gap in equivalence.schedules_seen(solver).values())
    yield from of_orders(orders(solver, solver.order, targets.exact_flow(amplitude), blind), solver.order)


SLIPS = [
    ("factor 2 missing", 0.0, "order: stated 3, measured 2.0"),  # dpm-solver, diffusers, k-diffusion
    ("factor 2 missing", 1.0, "order: stated 3, measured"),
    ("sign in the SDE", 1.0, "order: stated 3, measured 1."),  # diffusers, which lacks the factor as well
    ("wrong warm-up", 0.0, "plain start: stated 3, measured 0.9"),
    ("noise without its level", 1.0, "weak order"),
    ("swapped sigma", 0.0, "order: stated 3, measured 0.9"),
    ("time for level", 0.0, "under vp"),
    ("even steps", 0.0, "order: stated 3, measured"),
    ("eta for eta squared", 0.5, "eta: stated 0.5, the noise is that of η = 0.7071"),
    ("drift of the ODE", 0.5, "weak order"),
    ("noise on the fall to 0", 1.0, "fall to 0: draws noise"),
    ("history across a rise", 0.0, "history: after a move"),
    ("state on the solver", 0.0, "repeatable"),
    ("writes in place", 0.0, "state: writes into"),
]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_a_slip_it_passes(eta: float) -> None:
    found = certificate(ThreeM(eta))
    assert found.passed, found.failures
    assert found.stochastic == (eta > 0)
    assert found.amplitude == (eta**2,)
    assert found.blind
    assert found.nfe == "N"
    assert found.orders is not None
    assert found.orders.exact == pytest.approx(3, abs=0.1)
    assert found.orders.local == pytest.approx(4, abs=0.1)
    if eta in (0, 1):  # the table has these two: a plugin is told whose method it is
        assert any("dpmpp_3m" in name for name, _ in found.same_as)


@pytest.mark.parametrize(("slip", "eta", "words"), SLIPS, ids=lambda value: str(value))
def test_slip_is_caught(slip: str, eta: float, words: str) -> None:
    seen = []
    for failure in told(ThreeM(eta, slip)):
        seen.append(failure)
        if words in failure:
            return
    pytest.fail(f"told is {seen}")


def test_what_is_told_is_in_the_certificate() -> None:
    solver = ThreeM(0.0, "writes in place")
    found = certificate(solver)
    assert not found.passed
    assert sorted(found.failures) == sorted(told(solver))


@dataclass(frozen=True)
class Halved:
    """A midpoint step in ln σ in as many parts as its tolerance asks for, or in one whatever it asks for."""

    rtol: float = 1e-2
    deaf: bool = False
    order, adaptive, stochastic = 2, True, False

    def init(self, dynamics: Any, walk: Any) -> Any: ...

    def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
        if b.sigma == 0:
            return dynamics.denoise(x, a), None
        h = math.log(a.sigma / b.sigma)
        parts = 1 if self.deaf else max(1, math.ceil(h / math.sqrt(self.rtol)))
        ladder = dynamics.walk([a.sigma * math.exp(-h * i / (2 * parts)) for i in range(2 * parts + 1)]).levels
        for start, middle, end in zip(ladder[::2], ladder[1::2], ladder[2::2], strict=False):
            half = x + math.expm1(-0.5 * h / parts) * (x - dynamics.denoise(x, start))
            x = x + h / parts * (dynamics.denoise(half, middle) - half)
            assert start.sigma > end.sigma
        return x, None


@pytest.mark.parametrize("deaf", [False, True])
def test_the_error_of_an_adaptive_method_must_follow_its_tolerance(deaf: bool) -> None:
    """Its order is measured with a tolerance so loose that it takes one step for each fall."""
    found = certificate(Halved(deaf=deaf))
    assert found.adaptive
    assert found.nfe == "adaptive"
    assert found.orders is not None
    assert found.orders.exact == pytest.approx(2, abs=0.05)
    assert [words for words in found.failures if words.startswith("adaptive: an error of")] == found.failures
    assert found.passed != deaf


@dataclass(frozen=True)
class TwoM:
    """DPM-Solver++(2M), whose ½ may be a little wrong: then order 1, with a small factor."""

    half: float = 0.5
    order = 2

    def init(self, dynamics: Any, walk: Any) -> Any:
        return 0, walk.streaks, (1.0, None)

    def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
        turn, streaks, (before, last) = state
        D = dynamics.denoise(x, a)
        if b.sigma == 0:
            return D, (turn + 1, streaks, (before, last))
        h = math.log(a.sigma / b.sigma)
        ahead = D + self.half * h / before * (D - last) if streaks[turn] else D
        return x + math.expm1(-h) * (x - ahead), (turn + 1, streaks, (h, D))


@pytest.mark.parametrize(("half", "measured"), [(0.5025, "1.2"), (0.4975, "2.98 and on finer grids 0.8")])
def test_a_coefficient_that_is_half_a_percent_wrong_is_caught(half: float, measured: str) -> None:
    """Of one sign the slip's error cancels the method's own where it is looked at, so that the order seems higher."""
    flow = targets.exact_flow((0.0,))
    found = orders(TwoM(half), 2, flow, blind=True)
    failures = of_orders(found, 2)
    assert any(words.startswith(f"order: stated 2, measured {measured}") for words in failures), failures
    assert (found.exact > 2.3) == (half < 0.5)


def test_an_order_that_stays_above_the_stated_one_passes_in_part() -> None:
    """A method of order 2 that says 1: nothing fails, and what is stated was not measured."""

    @dataclass(frozen=True)
    class Modest(TwoM):
        order = 1

    found = orders(Modest(), 1, targets.exact_flow((0.0,)), blind=True)
    assert found.beyond == pytest.approx(2, abs=0.05)
    assert not of_orders(found, 1)
    modest = dataclasses.replace(certificate(ThreeM(0.0)), stated=1, orders=found)
    assert modest.passed
    assert not modest.whole
    assert orders(TwoM(), 2, targets.exact_flow((0.0,)), blind=True).beyond != found.beyond  # NaN: not looked into


def test_a_slip_that_only_shows_on_uneven_steps_is_remarked() -> None:
    @dataclass(frozen=True)
    class EvenTwoM(ThreeM):
        order = 2

    found = certificate(EvenTwoM(slip="even steps"))
    assert any("where long and short steps alternate" in remark for remark in found.remarks)


def test_the_count_may_not_depend_on_what_D_returns() -> None:
    """Counted evaluations are those of D = 0; an adaptive method says that it is one."""

    class Lazy:
        """Heun's step where D is not 0, Euler's where it is."""

        def __init__(self, adaptive: bool) -> None:
            self.adaptive = adaptive

        def init(self, dynamics: Any, walk: Any) -> None:
            return None

        def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
            D = dynamics.denoise(x, a)
            ahead = D + (b.sigma / a.sigma) * (x - D)
            if b.sigma == 0 or not D.any():
                return ahead, None
            return x + (b.sigma - a.sigma) * ((x - D) / a.sigma + dynamics.velocity(ahead, b)) / 2, None

    seen = requirements.check_requirements(Lazy(adaptive=False))
    assert seen["evaluations"] == "asks a D that is 0 6 times and another 11 times: say adaptive = True"
    assert not requirements.check_requirements(Lazy(adaptive=True))["evaluations"]


def test_a_solver_that_raises_fails_and_is_heard() -> None:
    class Broken:
        order = 1

        def init(self, dynamics: Any, walk: Any) -> None:
            raise KeyError("lost")

        def step(self, *arguments: Any) -> Any: ...

    found = certify.certify(Broken())
    assert not found.passed
    assert any("KeyError" in failure for failure in found.failures)
    assert found.as_json()["solver"] == "Broken"
    assert "FAILS" in certify.markdown([found])


def test_a_solver_that_states_nothing_must_still_converge() -> None:
    class Silent:
        def init(self, dynamics: Any, walk: Any) -> None:
            return None

        def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
            return x + (b.sigma - a.sigma) * dynamics.velocity(x, a), None

    class Stuck(Silent):
        def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
            return x, None

    found = certify.certify(Silent())
    assert found.passed, found.failures
    assert found.stated is None
    assert {"ddim", "euler"} <= {name for name, _ in found.same_as}
    assert not certify.certify(Stuck()).passed


# -- the instruments ---------------------------------------------------------------------------------------------


def test_the_mixtures_are_those_of_exact() -> None:
    mine = targets.mixtures()
    x = mine.start * torch.linspace(0.1, 1, 64, dtype=torch.float64)
    for sigma in (8.0, 0.7, 0.15):
        level = torch.tensor(sigma, dtype=torch.float64)
        ours = mine(x, level).reshape(3, -1, 64)
        assert torch.equal(mine(x, level.expand(len(x))).reshape(3, -1, 64), ours)
        for i, d in enumerate(targets.DIMENSIONS):
            law = edm.exact.GaussianMixture(
                mine.log_weights.exp(), mine.means[i, :, :d], mine.variances[i, 0], chunk_bytes=1 << 20
            )
            theirs = law(x.reshape(3, -1, 64)[i, :, :d], level)
            assert torch.allclose(ours[i, :, :d], theirs, rtol=0, atol=1e-12)
            assert not ours[i, :, d:].any()


def test_the_exact_flow_is_that_of_reference() -> None:
    flow, start = targets.exact_flow(), targets.mixtures().start
    for low in (1.3, 0.15):
        truth = edm.reference(targets.mixtures(), start / 8.0, sigma_max=8.0, sigma_min=low)
        assert torch.allclose(flow(low), truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_amplitude_is_measured_to_six_digits_whatever_the_formula(eta: float) -> None:
    for solver in (solvers.DDIM(eta=eta), solvers.EulerMaruyama(eta=eta), solvers.ExponentialAdams(eta=eta)):
        assert noise.squared_amplitude(solver) == (eta**2,)


def test_an_amplitude_that_varies_is_measured_as_a_function() -> None:
    class Fading(ThreeM):
        def step(self, dynamics: Any, x: Any, a: Any, b: Any, state: Any, randn: Any) -> Any:
            fade = math.log(a.sigma * b.sigma) / 4
            return x + math.sqrt(a.sigma**2 - b.sigma**2) * fade * randn(), state

    coefficients = noise.squared_amplitude(Fading(eta=1.0))
    assert coefficients is not None
    lam = (-math.log(8.0), -math.log(0.15))
    for u in np.linspace(*lam, 7):
        assert np.polynomial.Chebyshev(coefficients, domain=lam)(u) == pytest.approx((u / 2) ** 2, abs=1e-5)


def test_the_variance_error_is_that_of_the_closed_formula() -> None:
    """DDIM on N(0, v): x_b = (b/a + (1 − b/a) v/(v + a²)) x_a, a product of numbers."""
    levels = targets.graded(10, 80.0, 0.002)
    v = np.array(targets.VARIANCES)
    gain = np.prod([b / a + (1 - b / a) * v / (v + a**2) for a, b in pairwise(levels)], axis=0)
    std = gain * np.sqrt((v + levels[0] ** 2) / (v + levels[-1] ** 2))
    assert noise.std_error(solvers.DDIM(), levels) == pytest.approx(np.abs(std - 1).max(), rel=1e-10)


def test_the_catalogue_of_pairs_names_what_exists() -> None:
    for a, b, _ in (*equivalence.IDENTITIES, *equivalence.NEAR_MISSES):
        for text in (a, b):
            assert equivalence.built(text) is not None, f"{text}: mend its name in certify/equivalence.py"


@pytest.mark.parametrize("same", [True, False], ids=["identities", "near misses"])
def test_pairs_hold(same: bool) -> None:
    pairs = [pair for pair in certify.pairs() if pair.same == same]
    assert len(pairs) == len(equivalence.IDENTITIES if same else equivalence.NEAR_MISSES)
    assert [pair for pair in pairs if not pair.holds] == []


def test_counted_evaluations_as_a_formula() -> None:
    assert [requirements.counted_nfe(s)[0] for s in (solvers.DDIM(), solvers.Heun(), solvers.RK4())] == [
        "N",
        "2N − 1",
        "4N − 3",
    ]


# -- docs ----------------------------------------------------------------------------------------------------------

REMEDY = "regenerate it: edm-unified certify --into docs/certificates.md"
EVERY = certify.every()
FIXED = [s for s in EVERY if not certify.rows.is_adaptive(s)]
FILES = [[s for s in FIXED if type(s).__module__ == file] for file in dict.fromkeys(type(s).__module__ for s in FIXED)]
SOME = [next((s for s in own if s.stochastic == (i % 2 > 0)), own[0]) for i, own in enumerate(FILES)]
"""One from each file of solvers, by turns with noise and without where it has both."""


@cache
def printed() -> dict[str, tuple[str, ...]]:
    """Rows of the page by solver."""
    lines = re.findall(r"^\| (.*) \|$", DOCS.read_text("utf-8").split("**order**")[0], re.M)
    cells = [tuple(cell.strip() for cell in line.split(" | ")) for line in lines]
    return {row[0]: row for row in cells if len(row) == len(table.HEAD) and row[0] != "solver"}


def test_the_page_has_a_row_for_every_setting_and_all_pass() -> None:
    rows = {name: row for name, row in printed().items() if set(row[0]) != {"-"}}
    assert list(rows) == [certify.label(solver) for solver in EVERY], REMEDY
    assert {row[1] for row in rows.values()} == {"passes"}


@pytest.mark.parametrize("solver", SOME, ids=certify.label)
def test_the_row_of_a_solver_of_each_family_is_true(solver: Any) -> None:
    """Measured again: orders to ±0.05, errors to 10 %, the rest to the letter."""
    found = certificate(solver)
    assert found.passed, found.failures
    for name, said, seen in zip(table.HEAD, printed()[found.solver], table.cells(found), strict=True):
        if name in ("order", "plain start", "local", "weak"):
            assert value(said) == pytest.approx(value(seen), abs=0.05, nan_ok=True), (name, REMEDY)
        elif name in ("error/Heun", "std error 10", "20", "40", "80"):
            assert value(said) == pytest.approx(value(seen), rel=0.1, nan_ok=True), (name, REMEDY)
        else:
            assert said == seen, (name, REMEDY)


@pytest.mark.parametrize("solver", [solvers.DormandPrince45(), solvers.AdaptiveSDE()], ids=certify.label)
def test_the_order_of_an_adaptive_method_is_as_printed(solver: Any) -> None:
    """Between the two finest grids above rounding, as in its certificate; grids beyond those are not asked for."""
    loose = certify.rows.tolerances(solver, LOOSE)
    amplitude = noise.squared_amplitude(loose) if solver.stochastic else (0.0,)
    assert amplitude is not None
    flow, said = targets.exact_flow(amplitude), dict(zip(table.HEAD, printed()[certify.label(solver)], strict=True))
    assert (said["stated"], said["NFE"]) == (str(solver.order), "adaptive"), REMEDY
    for column, warm in (("order", WARM), ("plain start", 0)):
        errors: dict[int, float] = {}
        for n in GRIDS:
            errors[n] = pooled(final_errors(loose, targets.graded(n), flow, warm))
            if errors[n] < FLOOR:
                break
        assert value(said[column]) == pytest.approx(runs.slope(errors), abs=0.05), (column, REMEDY)


@pytest.mark.parametrize("settings", by_kind(FIXED))
def test_the_quick_columns_of_every_row_are_true(settings: list[Any]) -> None:
    """Counted evaluations, what is stated, and the standard deviations."""
    for solver in settings:
        label = certify.label(solver)
        said = dict(zip(table.HEAD, printed()[label], strict=True))
        assert said["stated"] == str(solver.order), (label, REMEDY)
        assert said["NFE"] == requirements.counted_nfe(solver)[0], (label, REMEDY)
        for name, error in zip(("std error 10", "20", "40", "80"), noise.std_errors(solver).values(), strict=True):
            assert value(said[name]) == pytest.approx(error, rel=0.1), (label, REMEDY)


def value(cell: str) -> float:
    """A number as the table writes it: 0.34, 2.3·10⁻⁶, – for none."""
    if cell == "–":
        return math.nan
    mantissa, _, exponent = cell.partition("·10")
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    return float(mantissa.replace("−", "-")) * 10.0 ** int(exponent.translate(plain) or 0)
