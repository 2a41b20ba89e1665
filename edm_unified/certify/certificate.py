"""The certificate of one solver: every measurement, and the verdict."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

from edm_unified.certify import equivalence, noise
from edm_unified.certify.orders import ABOVE, Orders, beside_heun, drift_error, orders
from edm_unified.certify.requirements import check_requirements, counted_nfe, raised
from edm_unified.certify.rows import is_adaptive, label, own_walk, tolerances
from edm_unified.certify.targets import Flow, exact_flow

TOLERANCE = 0.15
"""How far a measured order may fall short of the stated one."""
FALLEN = 0.5
"""Below the stated order by which one that was above it, and falls on finer grids, is another order."""
MOST_WEAK = 2
"""Noise is not smooth: extrapolating outputs gains one weak order and no more, whatever the order of the drift."""


@dataclass(frozen=True)
class Certificate:
    """Measurements of one solver. ``failures`` says in words what is not as stated; empty is a pass.

    Orders are NaN where there is nothing to measure. ``amplitude`` is η² over the smooth range as Chebyshev
    coefficients: one number for a constant, None where it is not smooth.
    """

    solver: str
    stated: int | None
    stochastic: bool
    adaptive: bool
    orders: Orders | None
    amplitude: tuple[float, ...] | None
    beside_heun: dict[int, float]
    weak: float
    weak_errors: dict[int, float]
    std_errors: dict[int, float]
    nfe: str
    nfe_counts: dict[int, int]
    schedules: dict[str, float]
    same_as: list[tuple[str, float]]
    nearest: tuple[str, float] | None
    conduct: dict[str, str]
    failures: list[str]
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def whole(self) -> bool:
        """Whether the order that is stated was measured: neither a lower one, nor a higher one that stays."""
        if self.stated is None:
            return True
        return self.orders is not None and not self.orders.beyond > self.stated + ABOVE

    @property
    def blind(self) -> bool:
        """Whether it returns the same under every schedule."""
        return all(gap < equivalence.SAME for gap in self.schedules.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data; what is not a number is null."""
        found = dataclasses.asdict(self)
        found["orders"] = self.orders and self.orders._asdict()
        return {"passed": self.passed, **{name: _plain(value) for name, value in found.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def certify(solver: Any) -> Certificate:
    """Measure ``solver``: anything with ``init`` and ``step``; ``order`` and ``eta`` are held to be claims.

    Raises nothing that the solver raises: a run that ends in an error is a failure of the certificate.
    """
    began = time.perf_counter()
    manners = check_requirements(solver)
    failures = [f"{name}: {seen}" for name, seen in manners.items() if seen]
    claims = _claims(solver, failures)
    try:
        found = _measured(solver, claims, failures)
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        failures.append(raised(error))
        found = _nothing()
    return Certificate(
        solver=label(solver),
        stated=claims.order,
        adaptive=is_adaptive(solver),
        conduct=manners,
        failures=failures,
        seconds=time.perf_counter() - began,
        **found,
    )


class Claims(NamedTuple):
    """What a solver says of itself, None where it says nothing."""

    order: int | None
    eta: float | None


def _claims(solver: Any, failures: list[str]) -> Claims:
    """``order`` and ``eta`` as numbers; what is there and is no such number is a failure, not a claim withdrawn."""
    found: dict[str, Any] = {}
    for name, fits, wanted in (
        ("order", lambda value: value >= 1 and value == int(value), "a whole number from 1"),
        ("eta", lambda value: 0 <= value < math.inf, "a number, zero or above"),
    ):
        try:
            value = getattr(solver, name, None)
            number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
            if value is None or (number and fits(value)):
                found[name] = value
            else:
                failures.append(f"{name}: must be {wanted}, got {value!r}")
        except (Exception, SystemExit) as error:  # a property of a plugin
            failures.append(f"{name}: {raised(error)}")
    order, eta = found.get("order"), found.get("eta")
    return Claims(None if order is None else int(order), None if eta is None else float(eta))


def _nothing() -> dict[str, Any]:
    empty: dict[str, Any] = {name: {} for name in ("beside_heun", "weak_errors", "std_errors", "nfe_counts")}
    return {
        **empty,
        "stochastic": False,
        "orders": None,
        "amplitude": None,
        "weak": math.nan,
        "nfe": "–",
        "schedules": {"edm": math.inf},
        "same_as": [],
        "nearest": None,
    }


def _measured(solver: Any, claims: Claims, failures: list[str]) -> dict[str, Any]:
    if own_walk(solver):
        return _of_own_walks(solver, failures)
    stated, adaptive = claims.order, is_adaptive(solver)
    fixed = tolerances(solver, LOOSE) if adaptive else solver
    found, remarks = _nothing(), list[str]()
    found["stochastic"] = stochastic = noise.draws(solver, (4.0, 2.0)) > 0
    found["schedules"] = seen = equivalence.schedules_seen(solver)
    if fixed is None:
        remarks.append("adaptive, with no tolerance among its fields: the order is not measured")
    else:
        found["amplitude"] = amplitude = noise.squared_amplitude(fixed) if stochastic else (0.0,)
        failures += _of_amplitude(claims.eta, amplitude)
        if amplitude is None:
            remarks.append("the noise is not smooth over the range: the order of the drift is not measured")
        else:
            flow, blind = exact_flow(amplitude), all(gap == 0 for gap in seen.values())
            found["orders"] = measured = orders(fixed, stated, flow, blind)
            failures += _of_orders(measured, stated)
            remarks += _remarks(measured, stated)
            if adaptive:
                words, wrong = _of_tolerance(solver, flow)
                remarks.append(words)
                failures += wrong
        if stochastic:
            found["weak"], found["weak_errors"] = noise.weak_order(fixed, _weak(stated))
            failures += _of_weak(found["weak"], stated)
    if adaptive:
        found["nfe"] = "adaptive"
    else:
        found["nfe"], found["nfe_counts"] = counted_nfe(solver)
        found["std_errors"] = noise.std_errors(solver)
        found["beside_heun"] = {} if stochastic else beside_heun(solver)
    found["same_as"], found["nearest"] = equivalence.relatives(solver)
    name = label(solver)
    for pair in equivalence.pairs():
        if not pair.holds and name in (pair.a, pair.b):
            failures.append(f"{pair.a} and {pair.b} differ by {pair.difference:.1e}: {pair.why}")
    return {**found, "remarks": remarks}


def _of_own_walks(solver: Any, failures: list[str]) -> dict[str, Any]:
    """What there is to measure of a solver that takes no walks but its own: no order, and no levels to refine."""
    found = _nothing()
    found["stochastic"] = noise.draws(solver, own_walk(solver)) > 0
    found["schedules"] = seen = equivalence.schedules_seen(solver)
    found["nfe"], found["nfe_counts"] = counted_nfe(solver)
    failures += [
        f"schedule: differs by {gap:.1e} under {name}" for name, gap in seen.items() if gap >= equivalence.SAME
    ]
    wrong = [f"{n} steps cost {count} evaluations" for n, count in found["nfe_counts"].items() if count != n]
    failures += [f"NFE: {words}" for words in wrong]
    off = max(equivalence.constant_error(solver, levels) for levels in solver.walks)
    kept = "keeps a constant x = D" if off < 1e-6 else f"moves a constant x = D by {off:.1e} of it"
    budgets = ", ".join(str(len(levels) - 1) for levels in solver.walks)
    words = f"fitted to its own levels, of {budgets} steps: it has no order, and none is measured; {kept}"
    return {**found, "remarks": [words]}


LOOSE = 1e9
"""Tolerances so much looser make an adaptive method take one step for each short fall."""


def _of_tolerance(solver: Any, flow: Flow) -> tuple[str, list[str]]:
    """What the tolerance of an adaptive method amounts to; its error must follow it."""
    tight = tolerances(solver, 0.01)
    error, less = drift_error(solver, flow), drift_error(tight, flow)
    words = f"adaptive: an error of {error:.0e} at its own tolerance, {less:.0e} at a hundredth of it"
    return words, [] if less < error / 3 else [words]


def _of_amplitude(eta: float | None, amplitude: tuple[float, ...] | None) -> list[str]:
    if eta is None:
        return []
    if amplitude is None or len(amplitude) > 1:
        return [f"eta: stated {eta:g}, the noise is that of no constant η"]
    measured = math.sqrt(max(amplitude[0], 0.0))
    if abs(measured - eta) < 1e-3 * (1 + abs(eta)):
        return []
    return [f"eta: stated {eta:g}, the noise is that of η = {measured:.4g} (here η scales the amplitude of the noise)"]


def _of_orders(found: Orders, stated: int | None) -> list[str]:
    wanted = stated or 1
    self_started = min(wanted, 2)
    said = f"stated {stated}" if stated else "at least 1 is needed"
    checks = [
        ("order", found.exact, wanted, "from exact starting values"),
        ("plain start", found.plain, self_started, "from its own first steps"),
        *(("order", order, wanted, f"under {name}") for name, order in found.by_schedule.items()),
    ]
    failures = [
        f"{name}: {said}, measured {measured:.2f} {where}"
        for name, measured, least, where in checks
        if not measured > least - TOLERANCE
    ]
    if found.beyond < wanted - FALLEN:
        failures.append(
            f"order: {said}, measured {found.exact:.2f} and on finer grids {found.beyond:.2f}: errors of two orders "
            "cancelled for a while"
        )
    return failures


def _remarks(found: Orders, stated: int | None) -> list[str]:
    remarks = []
    if stated and found.uneven < stated - TOLERANCE:
        remarks.append(f"order {found.uneven:.2f} where long and short steps alternate")
    if stated and found.exact > stated + ABOVE:
        remarks.append(f"measured {found.exact:.2f}, above what is stated")
    return remarks


def _weak(stated: int | None) -> int:
    return min(stated or 1, MOST_WEAK)


def _of_weak(measured: float, stated: int | None) -> list[str]:
    wanted = _weak(stated)
    return [] if measured > wanted - TOLERANCE else [f"weak order: {wanted} is needed, measured {measured:.2f}"]
