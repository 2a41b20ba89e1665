"""Under which settings each component is put through the laws.

The keys must be exactly the members of the unions: ``test_union_is_covered`` fails for a component that is named in a
union and not here, so a new component is tested by being named.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import combinations, count, pairwise, product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from edm_unified import analytic_starts, correctors, discretization, renoising, schedules, solvers
from edm_unified.sampling.dynamics import Dynamics, Walk
from edm_unified.sampling.loop import walk

SCHEDULES: dict[type, tuple[Any, ...]] = {
    schedules.EDM: (schedules.EDM(),),
    schedules.VE: (schedules.VE(),),
    schedules.GeometricVE: (schedules.GeometricVE(), schedules.GeometricVE(sigma_min=0.01, sigma_max=50.0)),
    schedules.ExponentialVE: (schedules.ExponentialVE(), schedules.ExponentialVE(base=3.0)),
    schedules.VP: (schedules.VP(), schedules.VP(beta_d=0.0, beta_min=9.0)),
    schedules.SubVP: (schedules.SubVP(),),
    schedules.Cosine: (schedules.Cosine(), schedules.Cosine(offset=0.0)),
    schedules.Trigonometric: (schedules.Trigonometric(),),
    schedules.FlowMatching: (schedules.FlowMatching(), schedules.FlowMatching(shift=3.0)),
    schedules.BetaTable: (
        schedules.BetaTable(),
        schedules.BetaTable(betas="scaled_linear", beta_start=0.00085, beta_end=0.012),
        schedules.BetaTable(betas="cosine"),
    ),
    schedules.OUVE: (schedules.OUVE(),),
    schedules.BBED: (schedules.BBED(),),
    schedules.VEBridge: (schedules.VEBridge(),),
    schedules.BrownianBridge: (schedules.BrownianBridge(),),
    schedules.I2SB: (schedules.I2SB(),),
    schedules.DDBM: (schedules.DDBM(end=3.0),),
    schedules.GOUBridge: (schedules.GOUBridge(),),
}

SOLVERS: dict[type, tuple[Any, ...]] = {
    solvers.Euler: (solvers.Euler(),),
    solvers.Heun: (solvers.Heun(),),
    solvers.Midpoint: (solvers.Midpoint(),),
    solvers.Ralston: (solvers.Ralston(),),
    solvers.SecondOrder: (solvers.SecondOrder(alpha=0.4), solvers.SecondOrder(alpha=0.8)),
    solvers.RK4: (solvers.RK4(),),
    solvers.DDIM: (solvers.DDIM(), solvers.DDIM(eta=0.5), solvers.DDIM(eta=1.0)),
    solvers.DDPM: (solvers.DDPM(), solvers.DDPM(variance="large")),
    solvers.EulerMaruyama: (solvers.EulerMaruyama(), solvers.EulerMaruyama(eta=0.5), solvers.EulerMaruyama(eta=0.0)),
    solvers.ReverseDiffusion: (solvers.ReverseDiffusion(),),
    solvers.SASolver: (
        solvers.SASolver(),
        solvers.SASolver(predictor=1, corrector=2, tau=0.5),
        solvers.SASolver(predictor=2, corrector=0),
        solvers.SASolver(tau=0.0),
    ),
    solvers.ERSDE: (
        solvers.ERSDE(order=2),
        solvers.ERSDE(order=3, phi="reverse_sde"),
        solvers.ERSDE(order=2, phi="ode"),
        solvers.ERSDE(order=1),
    ),
    solvers.DPMSolverPP2M: (solvers.DPMSolverPP2M(), solvers.DPMSolverPP2M(start="rk2")),
    solvers.DPMSolverPP2MSDE: (
        solvers.DPMSolverPP2MSDE(),
        solvers.DPMSolverPP2MSDE(eta=0.5),
        solvers.DPMSolverPP2MSDE(correction="heun"),
        solvers.DPMSolverPP2MSDE(eta=0.0),
    ),
    solvers.ExponentialAdams: (
        *(solvers.ExponentialAdams(order=order, eta=eta) for order in (1, 2, 3) for eta in (0.0, 0.5, 1.0)),
        solvers.ExponentialAdams(order=4),
        solvers.ExponentialAdams(order=3, start="rk2"),
        solvers.ExponentialAdams(order=3, eta=1.0, start="rk2"),
    ),
    solvers.LMS: (*(solvers.LMS(order=order) for order in (4, 3, 2)), solvers.LMS(order=3, start="rk2")),
    solvers.IPNDM: (*(solvers.IPNDM(max_order=order) for order in (4, 3, 2)), solvers.IPNDM(start="rk2")),
    solvers.PNDM: (solvers.PNDM(),),
    solvers.DEIS: tuple(solvers.DEIS(order=order) for order in (3, 2, 4)),
    solvers.ExponentialAdamsNoise: tuple(solvers.ExponentialAdamsNoise(order=order) for order in (2, 3, 4)),
    solvers.VelocityAdams: (
        *(solvers.VelocityAdams(order=order) for order in (3, 2, 4)),
        solvers.VelocityAdams(start="rk2"),
    ),
    solvers.TrigonometricAdams: tuple(solvers.TrigonometricAdams(order=order) for order in (3, 2, 4)),
    solvers.DPMSolverPP3M: (solvers.DPMSolverPP3M(), solvers.DPMSolverPP3M(start="rk2")),
    solvers.DPMSolverPP3MSDE: (
        solvers.DPMSolverPP3MSDE(),
        solvers.DPMSolverPP3MSDE(eta=0.5),
        solvers.DPMSolverPP3MSDE(start="rk2"),
    ),
    solvers.UniPC: tuple(
        solvers.UniPC(p=p, variant=variant, corrector=corrector)
        for p in (3, 2, 1)
        for variant in ("bh2", "bh1")
        for corrector in (True, False)
    ),
    solvers.DPMSolverPP2S: (solvers.DPMSolverPP2S(), solvers.DPMSolverPP2S(r=0.7)),
    solvers.DPMSolverPP3S: (solvers.DPMSolverPP3S(),),
    solvers.RES2S: (solvers.RES2S(), solvers.RES2S(c2=0.8)),
    solvers.RES3S: (solvers.RES3S(), solvers.RES3S(c2=0.3)),
    solvers.Krogstad4: (solvers.Krogstad4(),),
    solvers.HochbruckOstermann4: (solvers.HochbruckOstermann4(),),
    solvers.DPMSolver2: (solvers.DPMSolver2(), solvers.DPMSolver2(r=0.3)),
    solvers.DPMSolver3: (solvers.DPMSolver3(),),
    solvers.DPMSolverFast: (solvers.DPMSolverFast(),),
    solvers.DPMSolverPPSDE: (
        solvers.DPMSolverPPSDE(),
        solvers.DPMSolverPPSDE(eta=0.5),
        solvers.DPMSolverPPSDE(r=0.7),
        solvers.DPMSolverPPSDE(eta=0.0),
    ),
    solvers.SEEDS: (
        *(solvers.SEEDS(order=order, prediction=on) for order in (1, 2, 3) for on in ("data", "noise")),
        solvers.SEEDS(order=3, eta=0.5),
        solvers.SEEDS(order=3, prediction="noise", eta=0.5),
    ),
    solvers.DPMSolverPP3MPublished: (solvers.DPMSolverPP3MPublished(),),
    solvers.DPMSolverPP3MSDEPublished: (
        solvers.DPMSolverPP3MSDEPublished(),
        solvers.DPMSolverPP3MSDEPublished(eta=0.5),
    ),
    solvers.DPMSolverPP3MSDEDiffusers: (solvers.DPMSolverPP3MSDEDiffusers(),),
    solvers.ERSDE3Published: (solvers.ERSDE3Published(), solvers.ERSDE3Published(phi="ode")),  # sums: test_published.py
}

ADAPTIVE: dict[type, tuple[Any, ...]] = {
    solvers.DormandPrince45: (solvers.DormandPrince45(),),
    solvers.DPMSolver12: (solvers.DPMSolver12(),),
    solvers.DPMSolver23: (solvers.DPMSolver23(),),
    solvers.AdaptiveSDE: (solvers.AdaptiveSDE(), solvers.AdaptiveSDE(eta=0.5)),
}
"""Their steps are not ours to set: they have laws of their own in ``test_adaptive.py``."""

UNSOLVED: dict[type, tuple[Any, ...]] = {solvers.NoPredictor: (solvers.NoPredictor(),)}
"""It solves nothing, so that it has no order: its laws are in ``test_predictor_corrector.py``."""

STEPS: dict[type, tuple[Any, ...]] = {
    discretization.Karras: (discretization.Karras(), discretization.Karras(n=7, rho=1.0)),
    discretization.LogLinear: (discretization.LogLinear(),),
    discretization.PolynomialExponential: (discretization.PolynomialExponential(rho=1.5),),
    discretization.UniformTime: (
        discretization.UniformTime(sigma_max=80.0),
        discretization.UniformTime(sigma_max=80.0, sigma_min=0.02),
    ),
    discretization.VPTime: (discretization.VPTime(), discretization.VPTime(power=1.0)),
    discretization.Tan: (discretization.Tan(),),
    discretization.ResolutionShift: (discretization.ResolutionShift(), discretization.ResolutionShift(sigma_max=80.0)),
    discretization.BetaQuantiles: (discretization.BetaQuantiles(),),
    discretization.TableSubset: (
        discretization.TableSubset(n=18, table=schedules.BetaTable()),
        discretization.TableSubset(n=18, table=schedules.BetaTable(), spacing="simple"),
        discretization.TableSubset(n=18, table=schedules.BetaTable(), spacing="sgm_uniform"),
        discretization.TableSubset(n=18, table=schedules.BetaTable(betas="cosine"), spacing="edm", skip=8),
    ),
    discretization.AlignYourSteps: (
        discretization.AlignYourSteps(),
        discretization.AlignYourSteps(n=18, model="stable_diffusion_xl"),
    ),
    discretization.DensitySpaced: (discretization.DensitySpaced(sigmas=(80.0, 1.0, 0.002), density=(0.5, 2.0, 0.1)),),
    discretization.Explicit: (discretization.Explicit(sigmas=(80.0, 5.0, 1.0, 0.1, 0.0)),),
}

RENOISING: dict[type, tuple[Any, ...]] = {
    renoising.Churn: (renoising.Churn(),),
    renoising.Ancestral: (renoising.Ancestral(), renoising.Ancestral(eta=0.5), renoising.Ancestral(eta=1.5)),
    renoising.Restart: (
        renoising.Restart(),
        renoising.Restart(
            intervals=(renoising.RestartInterval(0.1, 1.0, 4, 2), renoising.RestartInterval(1.0, 10.0, 3, 1))
        ),
    ),
    renoising.Corrected: (renoising.Corrected(repeats=2),),
}

CORRECTORS: dict[type, tuple[Any, ...]] = {
    correctors.Langevin: (correctors.Langevin(),),
    correctors.BatchLangevin: (correctors.BatchLangevin(),),
    correctors.AnnealedLangevin: (correctors.AnnealedLangevin(),),
    correctors.NCSNLangevin: (correctors.NCSNLangevin(),),
}

ANALYTIC_STARTS: dict[type, tuple[Any, ...]] = {
    analytic_starts.AnalyticFirstStep: (
        analytic_starts.AnalyticFirstStep(sigma_data=0.5),
        analytic_starts.AnalyticFirstStep(levels=3, sigma_data=1.0, mean=0.2),
    ),
    analytic_starts.GaussianJump: (
        analytic_starts.GaussianJump(sigma_data=0.5),
        analytic_starts.GaussianJump(sigma=3.0, sigma_data=1.0, mean=0.2),
    ),
}

UNIONS = {
    "schedules": (schedules.AnySchedule, SCHEDULES),
    "solvers": (solvers.AnySolver, SOLVERS | ADAPTIVE | UNSOLVED),
    "steps": (discretization.AnySteps, STEPS),
    "renoising": (renoising.AnyRenoising, RENOISING),
    "correctors": (correctors.AnyCorrector, CORRECTORS),
    "analytic_starts": (analytic_starts.AnyAnalyticStart, ANALYTIC_STARTS),
}


def members(union: Any) -> set[type]:
    return set(get_args(union))


def every(settings: dict[type, tuple[Any, ...]]) -> list[Any]:
    """All settings, flat."""
    return [value for values in settings.values() for value in values]


def one_of_each(settings: dict[type, tuple[Any, ...]]) -> list[Any]:
    return [values[0] for values in settings.values()]


def cover(longest: Sequence[Any], *others: Sequence[Any], times: int = 1) -> list[tuple[Any, ...]]:
    """Instead of a full product: each of ``longest`` with ``times`` different combinations of the ``others``, in turn.

    Every combination of the others appears, about equally often, and with neighbours in ``longest`` (variants of one
    class) they are different ones. For laws of which the parts that are crossed have no say in each other's.
    """
    rest = list(product(*others))
    assert times <= len(rest) <= times * len(longest)
    order = random.Random(0).sample(range(len(longest)), len(longest))  # else kinds of variants meet the same partner
    partners = {i: [rest[(times * turn + k) % len(rest)] for k in range(times)] for turn, i in enumerate(order)}
    return [(value, *partner) for i, value in enumerate(longest) for partner in partners[i]]


def pairs(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Instead of a full product: rows in which any two values of two axes meet, few more than the two longest need.

    For laws of which any two of the parts that are crossed may have a say in each other's, and hardly three at once.
    Greedy, and so the same on every machine: each row begins with a pair that has not met, and takes of every other
    axis the value that makes most new pairs.
    """
    sizes = [range(len(axis)) for axis in axes]
    left = {((i, a), (j, b)) for i, j in combinations(range(len(axes)), 2) for a in sizes[i] for b in sizes[j]}
    rows = []
    while left:
        row = dict(min(left))
        for i in range(len(axes)):
            if i not in row:
                met = [sum(tuple(sorted(((i, a), place))) in left for place in row.items()) for a in sizes[i]]
                row[i] = met.index(max(met))
        left -= set(combinations(sorted(row.items()), 2))
        rows.append(tuple(axis[row[i]] for i, axis in enumerate(axes)))
    return rows


def by_kind(settings: Iterable[Any]) -> list[Any]:
    """One case of a test for all settings of a kind, with its name; the test goes through them, and says which fails.

    Of rows, as :func:`cover` and :func:`pairs` make them, the first entry tells the kind.
    """
    groups: dict[str, list[Any]] = {}
    for value in settings:
        first = value[0] if isinstance(value, tuple) else value
        groups.setdefault(getattr(first, "kind", str(first)), []).append(value)
    return [pytest.param(group, id=kind) for kind, group in groups.items()]


def name(*values: Any) -> str:
    """``heun``, ``ddim(eta=0.5)``: the kind, with what differs from the defaults; of several, all of them."""
    if len(values) != 1:
        return ", ".join(map(name, values))
    (value,) = values
    if not hasattr(value, "kind"):
        return str(value)
    plain = type(value)
    changed = [
        f"{field}={getattr(value, field) if not hasattr(getattr(value, field), 'kind') else '…'}"
        for field, spec in plain.__dataclass_fields__.items()
        if field != "kind" and getattr(value, field) != spec.default
    ]
    return value.kind + (f"({','.join(changed)})" if changed else "")


def needs_corrector(rule: Any) -> Any:
    return correctors.AnnealedLangevin() if isinstance(rule, renoising.Corrected) else None


def stochastic_amplitude(solver: Any) -> float | Callable[[float], float]:
    """η, or the function σ ↦ 1 + η². With its noise switched off, a solver integrates dx/dλ = (1 + η²)(D − x)."""
    if isinstance(solver, solvers.ERSDE | solvers.ERSDE3Published):
        return solver.rate
    if isinstance(solver, solvers.DDPM | solvers.ReverseDiffusion):
        return 1.0
    return float(getattr(solver, "eta", getattr(solver, "tau", 0.0)))


def rate_of(eta: float | Callable[[float], float]) -> Callable[[float], float]:
    """σ ↦ 1 + η²."""
    return eta if callable(eta) else lambda sigma: 1 + eta**2


class Mixture:
    """Two or three Gaussians on the line, element by element: smooth, nonlinear, and an oracle of its own."""

    weights = np.array([0.3, 0.45, 0.25])
    means = np.array([-1.1, 0.3, 1.4])
    variances = np.array([0.3, 0.2, 0.4]) ** 2 + 0.1

    def numpy(self, x: np.ndarray, sigma: float) -> np.ndarray:
        total = self.variances + sigma**2
        z = x[..., None] - self.means
        logits = np.log(self.weights) - 0.5 * np.log(total) - 0.5 * z**2 / total
        r = np.exp(logits - logits.max(-1, keepdims=True))
        r /= r.sum(-1, keepdims=True)
        return (r * (self.means + self.variances / total * z)).sum(-1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.from_numpy(self.numpy(x.numpy(), float(sigma)))


def exact_flow(levels: list[float], start: Tensor, eta: float | Callable[[float], float] = 0.0) -> list[Tensor]:
    """x at each of ``levels`` on dx/dλ = (1+η²)(D − x), by scipy's DOP853 near the last digit of float64."""
    columns = _exact_flow(tuple(levels), tuple(start.ravel().tolist()), eta)
    return [torch.tensor(column, dtype=torch.float64).reshape(start.shape) for column in columns]


@cache
def _exact_flow(
    levels: tuple[float, ...], start: tuple[float, ...], eta: float | Callable[[float], float]
) -> tuple[tuple[float, ...], ...]:
    lam = [-math.log(level) for level in levels]
    mixture, rate = Mixture(), rate_of(eta)
    solution = solve_ivp(
        lambda u, x: rate(math.exp(-u)) * (mixture.numpy(x, math.exp(-u)) - x),
        (lam[0], lam[-1]),
        np.array(start),
        method="DOP853",
        t_eval=lam,
        rtol=3e-14,
        atol=1e-14,
    )
    return tuple(map(tuple, solution.y.T))


def log_levels(n: int, high: float, low: float) -> list[float]:
    """n + 1 levels, evenly spaced in ln σ, from high to low."""
    levels = np.exp(np.linspace(np.log(high), np.log(low), n + 1)).tolist()
    return [high, *levels[1:-1], low]


def zigzag_levels(n: int, high: float, low: float) -> list[float]:
    """n + 1 levels whose steps in ln σ are by turns short and twice as long."""
    ends = np.cumsum([0.0, *(1.0 + i % 2 for i in range(n))])
    levels = (high * (low / high) ** (ends / ends[-1])).tolist()
    return [high, *levels[1:-1], low]


def dynamics_of(schedule: Any, denoiser: Callable[..., Tensor]) -> Dynamics:
    return Dynamics(schedule, denoiser, {}, torch.device("cpu"))


def exact_start(solver: Any) -> int:
    """How many steps a multistep method needs before its history is full, and good enough for its order."""
    return getattr(solver, "warm_up", getattr(solver, "most_outputs", 1) - 1)


STAGES: dict[type, int] = {
    **dict.fromkeys((solvers.Heun, solvers.Midpoint, solvers.Ralston, solvers.SecondOrder, solvers.DPMSolver2), 2),
    solvers.DPMSolver3: 3,
    solvers.RK4: 4,
}
"""Evaluations in a step that does not end at 0, where there are more than one and no tableau tells."""


def evaluations(solver: Any, n: int) -> int:
    """What n steps that end at 0 must cost: all stages in each, and one in the last."""
    if isinstance(solver, solvers.DPMSolverFast):
        return max(1, 3 * (n - 1))
    if isinstance(solver, solvers.PNDM):
        return n + 3 * min(n - 1, 3)
    if getattr(solver, "start", "plain") == "rk2":
        return n + (n > 1)
    stages = len(solver.scheme.nodes) if hasattr(solver, "scheme") else STAGES.get(type(solver), 1)
    return stages * (n - 1) + 1


def draws(solver: Any) -> int:
    """Noises that a fall above 0 must draw: one, or one for each place at which the step has a state."""
    if not solver.stochastic:
        return 0
    return len({*solver.scheme.nodes, 1.0} - {0.0}) if hasattr(solver, "scheme") else 1


def slope(errors: dict[int, float]) -> float:
    """Order measured between the two finest grids: −d log(error)/d log(N)."""
    (n0, e0), (n1, e1) = sorted(errors.items())[-2:]
    return float(np.log(e0 / e1) / np.log(n1 / n0))


# -- the exact law of a stochastic sampler ------------------------------------------------------------------------


GAUSS = tuple(array.tolist() for array in np.polynomial.legendre.leggauss(16))


class Wiener:
    """D for data ~ N(0, v), one row of coefficients for each v: linear, so that noises stay separate."""

    def __init__(self, variances: tuple[float, ...]) -> None:
        self.v = torch.tensor(variances, dtype=torch.float64)[:, None]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.v / (self.v + sigma**2) * x


class Basis:
    """In place of unit noise: a basis vector orthogonal to all that came before."""

    def __init__(self, rows: int, size: int) -> None:
        self.rows, self.size, self.next = rows, size, count()

    def __call__(self) -> Tensor:
        e = torch.zeros(self.rows, self.size, dtype=torch.float64)
        e[:, next(self.next)] = 1
        return e


def exact_variance(
    solver: Any,
    levels: list[float],
    variances: tuple[float, ...],
    schedule: Any = None,
    corrector: Any = None,
    S_noise: float = 1.0,
    prepared: bool = False,
) -> Tensor:
    """Var of the sampler's output for data ~ N(0, v), started from the true marginal: ‖coefficients‖².

    With ``prepared`` the first steps of a multistep method are replaced by exact transitions of the process, so that
    its history has the exact joint law.
    """
    denoiser = Wiener(variances)
    dynamics = dynamics_of(schedule if schedule is not None else schedules.EDM(), denoiser)
    path = dynamics.walk(levels)
    basis = Basis(len(variances), len(levels) * max(1, draws(solver)) + 8)
    v = denoiser.v
    x = torch.sqrt(v + levels[0] ** 2) * basis()
    if not prepared:
        return walk(dynamics, x, path, solver, corrector, S_noise, basis).square().sum(1)
    rate, state = rate_of(stochastic_amplitude(solver)), solver.init(dynamics, path)
    for i, (a, b) in enumerate(path.moves):
        start = x
        x, state = solver.step(dynamics, x, a, b, state, basis)
        if i < exact_start(solver):
            # exp −∫ (1 + η²) σ²/(v + σ²) d ln σ: ((v + b²)/(v + a²))^{(1 + η²)/2} where η does not depend on σ
            step = math.log(a.sigma / b.sigma)
            sigmas = [b.sigma * math.exp(0.5 * step * (1 + node)) for node in GAUSS[0]]
            pulls = [w * rate(sigma) * sigma**2 / (v + sigma**2) for sigma, w in zip(sigmas, GAUSS[1], strict=True)]
            keep = torch.exp(-0.5 * step * sum(pulls))
            # the noise of an eta = 0 process is exactly nothing; keep rounding from making it negative
            std = torch.sqrt(((v + b.sigma**2) - keep**2 * (v + a.sigma**2)).clamp(min=0))
            x = keep * start + (std * basis() if solver.stochastic else 0)
    return x.square().sum(1)


def moves_of(levels: tuple[float, ...]) -> tuple[int, int, int]:
    """(falls above zero, rises, repeats)."""
    pairs = list(pairwise(levels))
    return (
        sum(0 < b < a for a, b in pairs),
        sum(b > a for a, b in pairs),
        sum(b == a for a, b in pairs),
    )


def walk_over(levels: tuple[float, ...], schedule: Any, denoiser: Callable[..., Tensor]) -> tuple[Dynamics, Walk]:
    dynamics = dynamics_of(schedule, denoiser)
    return dynamics, dynamics.walk(levels)
