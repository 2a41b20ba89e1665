"""``tune``: the fit for each budget, and whether it is better than the best stock method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor

from edm_unified.components.component import count, falling
from edm_unified.denoisers.denoiser import Counted, Denoiser, InOwnType, check_range
from edm_unified.metrics import Estimate
from edm_unified.sampling.levels import FittedLevels, Steps
from edm_unified.sampling.loop import unit_noise
from edm_unified.sampling.solvers import Fitted, Solver
from edm_unified.sampling.solvers.fitted import Levels, Rows
from edm_unified.schedules import EDM
from edm_unified.tuning import starts
from edm_unified.tuning.answers import answers
from edm_unified.tuning.fit import ITERATIONS, Noises, enough, errors, fit
from edm_unified.tuning.many import Array, Asked, Layout
from edm_unified.tuning.stock import Stock, best, candidates, rows_of, squared_errors
from edm_unified.tuning.teacher import STEPS, Teacher

TEACHING = "the teacher"
"""What a callback is told while the trajectories are computed."""
HELD_OUT = 96
"""Noises that decide, where none are given."""
HELD_OUT_SEED = 1_000_003
_RACED, _LAPS = 4, 2
"""Starts that are fitted for a few iterations, and how many, before the best of them is fitted to its end."""
_RESAMPLES = 2000
MOST_BUDGET = STEPS // 2
"""Above it the teacher would not be far enough above its student."""

Tell = Callable[[str, float], object]
"""Told what is being done, and the share of it all that is done."""


@dataclass(frozen=True)
class Fit:
    """What was found for one budget of ``nfe`` evaluations.

    ``sigmas`` and ``weights`` are the fit's. ``held_out``: the median error of the best stock method over that of the
    fit, on held-out noises, with its 95 % interval, the noises drawn in pairs. ``error`` and ``stock_error``: those
    medians, in the units of the data. ``better``: whether the interval is above 1; where it is not, :attr:`settings`
    are the stock method's.
    """

    nfe: int
    sigmas: Levels
    weights: Rows
    told: Levels
    stock: Stock
    stock_rows: Rows
    held_out: Estimate
    error: Estimate
    stock_error: Estimate
    rms: tuple[float, float]
    start: str
    iterations: int
    evaluations: int
    """Calls of D for this budget, of many noises each."""
    cpu_seconds: float
    others: tuple[tuple[str, float], ...] = ()
    """Stock methods by name, and their median errors on the held-out noises."""
    model: tuple[float, ...] = ()
    teacher: str = ""
    seed: int = 0
    samples: int = 0

    @property
    def better(self) -> bool:
        return self.held_out.low is not None and self.held_out.low > 1

    @property
    def settings(self) -> dict[str, Any]:
        """``edm.sample(D, noise, **fit.settings)``: the fit, or the stock method where it is no worse."""
        if not self.better:
            return {"steps": self.stock.steps, "solver": self.stock.solver}
        return Tuning((self,)).settings

    @property
    def chosen(self) -> tuple[Levels, Rows, Levels]:
        """Levels, rows and told levels of :attr:`settings`."""
        if self.better:
            return self.sigmas, self.weights, self.told
        levels = tuple(self.stock.steps.levels(EDM()).tolist())
        return levels, self.stock_rows, levels[:-1] if self.told else ()


@dataclass(frozen=True)
class Tuning:
    """The fits of several budgets, as one method that has them all."""

    fits: tuple[Fit, ...]

    def __getitem__(self, nfe: int) -> Fit:
        return next(fit for fit in self.fits if fit.nfe == nfe)

    @cached_property
    def solver(self) -> Fitted:
        """The value that a recipe has under ``sampler.solver``."""
        first = self.fits[0]
        told = tuple(fit.chosen[2] for fit in self.fits)
        return Fitted(
            sigmas=tuple(fit.chosen[0] for fit in self.fits),
            weights=tuple(fit.chosen[1] for fit in self.fits),
            told=told if all(told) else (),
            model=first.model,
            teacher=first.teacher,
            seed=first.seed,
            samples=max(1, first.samples),
            gain=tuple(
                tuple(float(f"{value or 0.0:.4g}") for value in (fit.held_out if fit.better else (1.0, 1.0, 1.0)))
                for fit in self.fits
            ),
        )

    def steps(self, nfe: int | None = None) -> FittedLevels:
        """The value under ``sampler.steps``, at a budget; at the largest of them where none is named."""
        most = max(fit.nfe for fit in self.fits)
        return FittedLevels(sigmas=self.solver.sigmas, n=most if nfe is None else nfe)

    @property
    def settings(self) -> dict[str, Any]:
        """Of the largest budget: ``edm.sample(D, noise, **tuning.settings)``."""
        return {"steps": self.steps(), "solver": self.solver}


@overload
def tune(denoiser: Denoiser, noise: Tensor, *, nfe: int, **settings: Any) -> Fit: ...
@overload
def tune(denoiser: Denoiser, noise: Tensor, *, nfe: Sequence[int], **settings: Any) -> Tuning: ...
def tune(
    denoiser: Denoiser,
    noise: Tensor,
    *,
    nfe: int | Sequence[int],
    **settings: Any,
) -> Fit | Tuning:
    """A solver fitted to ``denoiser`` for ``nfe`` evaluations, from unit normal ``noise`` (B, *shape).

    32 noises of 64 numbers and more are enough; D is called and nothing else is asked of it. Of several budgets, which
    share the teacher, the result is one :class:`Tuning` of them all. ``settings`` are those of :class:`Session`:

        sigma_max, sigma_min   where the walk begins, and the lowest level that it may visit (80, 0.002)
        cond                   what D is told besides, a row for each noise: {"label": …}
        held_out               noises that decide (drawn), with held_out_cond where D is told something
        told                   fit what D is told in place of σ, too (False)
        depth                  past outputs in a step, besides its own (3)
        seed                   of the noises, for the record (0)
        tell                   called with what is being done and the share that is done

    Raises ``ValueError`` for budgets below 2 or above half of the teacher's steps, and for fewer numbers in the noises
    than a fit has parameters; ``FloatingPointError`` where D returns NaN or infinity.
    """
    session = Session(denoiser, noise, **settings)
    if isinstance(nfe, int):
        return session.fit(nfe)
    session.check(nfe)
    return Tuning(tuple(session.fit(one, (i / len(nfe), 1 / len(nfe))) for i, one in enumerate(nfe)))


class Session:
    """The teacher and what all budgets share. See :func:`tune` for the settings."""

    def __init__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        *,
        sigma_max: float = 80.0,
        sigma_min: float = 0.002,
        cond: Mapping[str, object] | None = None,
        held_out: Tensor | None = None,
        held_out_cond: Mapping[str, object] | None = None,
        told: bool = False,
        depth: int = 3,
        seed: int = 0,
        iterations: int = ITERATIONS,
        teachers: tuple[Teacher, Teacher] | None = None,
        model: tuple[float, ...] | None = None,
        tell: Tell = lambda what, share: None,
    ) -> None:
        if not isinstance(noise, Tensor) or noise.ndim < 2 or len(noise) < 2:
            raise ValueError("noise: must be unit normal noise of two samples or more, (B, *shape)")
        falling("sigma_min", sigma_min, "sigma_max", sigma_max)
        count("depth", depth, least=0, most=16)
        check_range(denoiser, torch.tensor([sigma_max, sigma_min], dtype=torch.float64))
        if cond and held_out is not None and held_out_cond is None:
            raise ValueError("held_out_cond: what D is told about the held-out noises is missing; give a row for each")
        self.noise = noise.double()
        self.cond = dict(cond or {})
        if held_out is None:
            held_out = unit_noise(HELD_OUT, tuple(noise.shape[1:]), seed=HELD_OUT_SEED + seed).to(noise.device)
            held_out_cond = {key: _filled(value, len(noise), HELD_OUT) for key, value in self.cond.items()}
        self.held_out, self.held_out_cond = held_out.double(), dict(held_out_cond or {})
        self.denoiser = Counted(InOwnType(denoiser))
        self.sigma_max, self.sigma_min, self.told, self.depth = sigma_max, sigma_min, told, depth
        self.seed, self.iterations, self.tell, self._given, self._model = seed, iterations, tell, teachers, model

    @cached_property
    def teachers(self) -> tuple[Teacher, Teacher]:
        """That of the noises and that of the held-out ones."""
        if self._given is not None:
            return self._given
        levels = (self.sigma_max, self.sigma_min)
        told = lambda share: self.tell(TEACHING, share)  # noqa: E731
        own = Teacher.of(self.denoiser, self.noise, *levels, self.cond, tell=told)
        return own, Teacher.of(self.denoiser, self.held_out, *levels, self.held_out_cond, tell=told)

    @cached_property
    def model(self) -> tuple[float, ...]:
        """What D answers to fixed noises, told what the first of the noises are."""
        if self._model is not None:
            return self._model
        cond = {key: _filled(value, len(self.noise), 2) for key, value in self.cond.items()}
        return answers(self.denoiser, self.noise.shape[1:], cond, self.noise.device)

    def check(self, budgets: Sequence[int]) -> None:
        """Raise ``ValueError`` for budgets that cannot be fitted from these noises."""
        if not budgets:
            raise ValueError("nfe: name a budget")
        for nfe in budgets:
            if isinstance(nfe, bool) or not isinstance(nfe, int) or not 2 <= nfe <= MOST_BUDGET:
                raise ValueError(
                    f"nfe: must be from 2 to {MOST_BUDGET}, half of the teacher's {STEPS} steps, got {nfe!r}; one "
                    "evaluation leaves nothing to fit"
                )
            numbers, parameters = self.noise.numel(), Layout(nfe, self.depth, self.told).size
            if numbers < 2 * parameters:
                raise ValueError(
                    f"samples: {len(self.noise)} noises have {numbers} numbers, and {parameters} parameters are fitted "
                    f"at {nfe} evaluations; give {math.ceil(2 * parameters * len(self.noise) / numbers)} or more"
                )

    def fit(self, nfe: int, within: tuple[float, float] = (0.0, 1.0)) -> Fit:
        """The fit for ``nfe`` evaluations. ``within``: where it begins in all that is to be done, and its share."""
        self.check([nfe])
        began, asked_before = time.process_time(), self.denoiser.nfe
        teacher, _ = self.teachers
        begin, share = within
        tell = lambda part: self.tell(f"{nfe} evaluations", begin + share * part)  # noqa: E731
        with torch.no_grad():
            tell(0.0)
            stock, stock_squares, others = self._stock(nfe)
            tell(0.3)
            noises = self._noises(self.noise, teacher, self.cond)
            layout = Layout(nfe, self.depth, self.told)
            name, theta = self._start(layout, noises)
            found = fit(noises, layout, theta, self.iterations, lambda i, most: tell(0.35 + 0.6 * i / most))
            sigmas, rows = layout.rows(self.sigma_max, found.theta)
            told = layout.asked(self.sigma_max, found.theta[None])[0].tolist() if self.told else []
            solver = Fitted(sigmas=(sigmas,), weights=(rows,), told=(tuple(told),) if told else ())
            squares = self._held_out(FittedLevels(sigmas=(sigmas,), n=nfe), solver)
        levels = stock.steps.levels(EDM()).tolist()
        return Fit(
            nfe,
            sigmas,
            rows,
            tuple(told),
            stock,
            rows_of(stock.solver, levels),
            *judged(squares, stock_squares),
            rms=(float(squares.mean().sqrt()), float(stock_squares.mean().sqrt())),
            start=name,
            iterations=found.iterations,
            evaluations=self.denoiser.nfe - asked_before,
            cpu_seconds=time.process_time() - began,
            others=others,
            model=self.model,
            teacher=teacher.name,
            seed=self.seed,
            samples=len(self.noise),
        )

    def compared(self, fit: Fit) -> tuple[Estimate, Estimate, Estimate]:
        """The gain, the error and the stock error of a fit of another session on the held-out noises of this one."""
        solver = Fitted(sigmas=(fit.sigmas,), weights=(fit.weights,), told=(fit.told,) if fit.told else ())
        squares = self._held_out(FittedLevels(sigmas=(fit.sigmas,), n=fit.nfe), solver)
        return judged(squares, self._held_out(fit.stock.steps, fit.stock.solver))

    def _noises(self, noise: Tensor, teacher: Teacher, cond: Mapping[str, object]) -> Noises:
        asked = Asked(self.denoiser, cond)
        return Noises(asked, self.sigma_max * noise, teacher.ends, self.sigma_max, self.sigma_min)

    def _held_out(self, steps: Steps, solver: Solver) -> Tensor:
        """Through the package's own loop, as it will be used."""
        judge = self.teachers[1]
        return squared_errors(self.denoiser, self.held_out, judge.ends, self.held_out_cond, steps, solver)

    def _stock(self, nfe: int) -> tuple[Stock, Tensor, tuple[tuple[str, float], ...]]:
        """The best stock method, its squared errors on the held-out noises, and the medians of its rivals there."""
        teacher, _ = self.teachers
        rules = starts.closed(teacher, self.sigma_min, self.sigma_max)
        held: dict[Any, Tensor] = {}

        def on(one: Stock, noises: int) -> float:
            cond = {key: _filled(value, len(self.noise), noises) for key, value in self.cond.items()}
            q = squared_errors(self.denoiser, self.noise[:noises], teacher.ends[:noises], cond, one.steps, one.solver)
            return float(q.median())

        def held_out(one: Stock) -> float:
            held[one] = self._held_out(one.steps, one.solver)
            return float(held[one].median())

        found = best(candidates(rules, nfe), on, held_out, len(self.noise))
        return found, held[found], tuple((one.name, float(q.median().sqrt())) for one, q in held.items())

    def _start(self, layout: Layout, noises: Noises) -> tuple[str, Array]:
        """Of the rules on which the base method, exponential Adams of order 2, errs least, the one on which it errs
        least after a few iterations; and θ after them."""
        teacher, _ = self.teachers
        rules = {**starts.closed(teacher, self.sigma_min, self.sigma_max), **starts.measured(teacher)}
        thetas: dict[str, Array] = {}
        for name, rule in rules.items():
            try:
                thetas[name] = layout.start(rule(layout.n).levels(EDM()).tolist())
            except ValueError:  # levels that coincide
                continue
        medians = {name: float(errors(noises, layout, theta[None])[0].median()) for name, theta in thetas.items()}
        few = noises.only(torch.arange(enough(layout, noises)))
        raced = sorted(medians, key=lambda one: medians[one])[:_RACED]
        after = {one: fit(few, layout, thetas[one], _LAPS) for one in raced}
        q = {one: errors(noises, layout, found.theta[None])[0] for one, found in after.items()}
        name = min(q, key=lambda one: float(q[one].median()))
        return name, after[name].theta


def judged(squares: Tensor, stock: Tensor) -> tuple[Estimate, Estimate, Estimate]:
    """The gain in the median error, and both medians, from squared errors on the same noises; 95 % intervals by a
    bootstrap over the noises, in pairs."""
    ours, theirs = squares.sqrt(), stock.sqrt()
    index = torch.randint(len(ours), (_RESAMPLES, len(ours)), generator=torch.Generator().manual_seed(0))
    drawn, drawn_stock = ours[index].quantile(0.5, dim=1), theirs[index].quantile(0.5, dim=1)
    return (
        _estimate(theirs.quantile(0.5) / ours.quantile(0.5), drawn_stock / drawn),
        _estimate(ours.quantile(0.5), drawn),
        _estimate(theirs.quantile(0.5), drawn_stock),
    )


def _estimate(value: Tensor, draws: Tensor) -> Estimate:
    if not (math.isfinite(value) and bool(torch.isfinite(draws).all())):
        return Estimate(None, None, None)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Estimate(float(value), low, high)


def _filled(value: object, rows: int, wanted: int) -> object:
    """A condition of ``rows`` rows as one of ``wanted``: the first of them, from the beginning again where it ends."""
    if not (isinstance(value, Tensor) and value.ndim and len(value) == rows):
        return value
    return value[torch.arange(wanted, device=value.device) % rows]
