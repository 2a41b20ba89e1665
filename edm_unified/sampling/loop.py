"""The sampler: a walk on the noise axis.

    A fall is solved, a rise is noised, a repeat is corrected.

:func:`walk` below is the one loop over noise levels in this package. Everything it needs that depends on levels alone
was computed before it starts; inside it there is no host–device synchronisation, no σ⁻¹, and no noise that is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from edm_unified.components.component import choice
from edm_unified.denoisers import exact
from edm_unified.denoisers.denoiser import Counted, Denoiser, InOwnType, OutputError, check_range
from edm_unified.sampling.analytic_starts import AnalyticStart, Fitted, applied
from edm_unified.sampling.correctors import Corrector
from edm_unified.sampling.dynamics import Axis, Dynamics, Walk, checked_anchor
from edm_unified.sampling.graphs import Graphs
from edm_unified.sampling.last_step import LAST, DenoisedLast, Last, prepared
from edm_unified.sampling.levels import Karras, Steps
from edm_unified.sampling.renoising import MOST_LEVELS, Renoising
from edm_unified.sampling.solvers import AnySolver, Heun, Randn, Solver
from edm_unified.sampling.streams import NoiseStreams, Purpose, unit_noise
from edm_unified.schedules import EDM, Schedule, is_value

__all__ = ["NoiseStreams", "Progress", "count_nfe", "levels_of", "sample", "unit_noise", "walk"]


class Progress(NamedTuple):
    """What a callback is told after each move: ``x`` is the state at ``sigma``. Reading it waits for the device."""

    move: int
    moves: int
    sigma: float
    x: Tensor


def levels_of(
    steps: Steps,
    schedule: Schedule,
    renoising: Renoising | None = None,
    analytic_start: AnalyticStart | None = None,
    last: Last = "solver",
) -> tuple[float, ...]:
    """The noise levels of a run, in order: the steps' own, as the renoising rearranges those ``analytic_start`` leaves.

    With ``last="stop"`` they end above 0.

    Raises ``ValueError`` unless they start above zero, are finite and not negative, and are at most a million.
    """
    levels = tuple(torch.as_tensor(steps.levels(schedule), dtype=torch.float64).tolist())
    for i, (a, b) in enumerate(pairwise(levels)):
        if not (b < a and math.isfinite(a) and b >= 0):
            raise ValueError(
                f"steps: levels must fall from a finite start to at least 0; level {i + 1} is {b} after {a}"
            )
    if len(levels) < 2 or len(levels) > MOST_LEVELS:
        raise ValueError(f"steps: a walk needs from 2 to {MOST_LEVELS:,} levels, got {len(levels):,}")
    return _rearranged(levels if analytic_start is None else analytic_start.walk(levels), renoising, last)


def _rearranged(levels: tuple[float, ...], renoising: Renoising | None, last: Last) -> tuple[float, ...]:
    levels = levels if renoising is None else renoising.walk(levels)
    if last == "stop" and levels[-1] == 0:
        if len(levels) < 3:
            raise ValueError("last: stop leaves no step of a walk that has only the one to 0; take more steps")
        return levels[:-1]
    return levels


def walk(
    dynamics: Dynamics,
    x: Tensor,
    path: Walk,
    solver: Solver,
    corrector: Corrector | None,
    S_noise: float,
    randn: Randn,
    callback: Callable[[Progress], object] | None = None,
    state: Any = None,
    noise_of_rises: Randn | None = None,
) -> Tensor:
    """Take x along ``path``: the loop. ``state`` is what ``solver.init`` returned for this path, where it is known.

    ``noise_of_rises``: that of rises and repeats, where it is not ``randn``, the noise of the falls.
    """
    noise_of_rises = randn if noise_of_rises is None else noise_of_rises
    moves, move = path.moves, 0
    state = solver.init(dynamics.axis, path) if state is None else state
    try:
        for move, (a, b) in enumerate(moves, start=1):
            if b.sigma < a.sigma:
                x, state = solver.step(dynamics, x, a, b, state, randn)
            elif b.sigma > a.sigma:
                std = S_noise * math.sqrt((b.sigma - a.sigma) * (b.sigma + a.sigma))  # EDM Algorithm 2, line 6
                x = torch.add(x, noise_of_rises(), alpha=std)
            elif corrector is not None:
                x = corrector.step(dynamics, x, a, noise_of_rises)
            if callback is not None:
                callback(Progress(move, len(moves), b.sigma, dynamics.in_data_units(x)))
    except OutputError as error:
        raise ValueError(f"{error} (in move {move} of {len(moves)})") from None
    return x


_CHOICES = {
    "schedule": ("sigma", "schedules.VP()"),
    "steps": ("levels", "discretization.Karras(n=18)"),
    "solver": ("step", "solvers.Heun()"),
}
"""A method of each choice that ``sample`` calls, and an example of it."""
_SHIPPED = frozenset(get_args(AnySolver))


_remembered = lru_cache(maxsize=64)(prepared)
"""What ``solver.init`` returns, remembered between runs: numbers that follow from the levels alone."""


def sample(
    denoiser: Denoiser,
    noise: Float[Tensor, "B *shape"],
    *,
    schedule: Schedule = EDM(),  # noqa: B008  # frozen
    steps: Steps = Karras(),  # noqa: B008
    solver: Solver = Heun(),  # noqa: B008
    renoising: Renoising | None = None,
    corrector: Corrector | None = None,
    analytic_start: AnalyticStart | None = None,
    last: Last = "solver",
    seed: int = 0,
    first: int = 0,
    dtype: torch.dtype = torch.float64,
    cond: Mapping[str, object] | None = None,
    anchor: Float[Tensor, "B *shape"] | None = None,
    callback: Callable[[Progress], object] | None = None,
    graphs: Graphs | None = None,
) -> Float[Tensor, "B *shape"]:
    """Turn unit normal ``noise`` (B, *shape) into samples x_0 of the same shape, in ``dtype`` and in data units.

    The run starts from x = σ_0 · noise, visits the levels of ``steps`` under ``schedule`` as ``renoising`` rearranges
    them, lets ``solver`` make the falls and ``corrector`` act on the repeats. ``denoiser`` is any callable D(x, sigma,
    **cond). ``analytic_start`` (:mod:`~edm_unified.sampling.analytic_starts`) takes the highest levels without it.
    ``last`` is what becomes of the fall to 0: the ``solver``'s own rule, ``denoise`` (return D of the last level above
    0), or ``stop`` (leave out the fall and return x at that level, with its noise). ``seed`` and ``first`` determine
    the noise drawn on the way: row i of the batch is sample ``first + i`` of ``seed``, bit for bit the same in any
    batch. ``anchor`` y, of the shape of the noise, is what x_t decays to, x_t = y + s (x_0 − y) + s σ n: the run starts
    from y + σ_0 · noise. ``callback`` is told of every move; of a method with a corrector it is shown the predicted
    states. ``graphs`` (:mod:`~edm_unified.sampling.graphs`) keeps runs as CUDA graphs and replays them, without
    callbacks.

    No gradient is recorded unless ``noise`` requires one. It is the derivative of what is returned; an adaptive solver,
    whose result jumps wherever another step is taken, has none and refuses.

    Raises ``ValueError`` for settings or shapes that do not fit, and ``FloatingPointError`` naming the step and the
    noise level where the denoiser first returned NaN or infinity, or where the walk itself overflowed.
    """
    if not callable(denoiser):
        raise ValueError(f"denoiser: must be callable as D(x, sigma, **cond), got {type(denoiser).__name__}")
    if not isinstance(noise, Tensor) or noise.is_complex() or noise.ndim < 1 or noise.shape[0] < 1:
        got = f"{tuple(noise.shape)} of {noise.dtype}" if isinstance(noise, Tensor) else type(noise).__name__
        raise ValueError(f"noise: must be a real tensor of unit normal noise, (B, *shape) with B ≥ 1, got {got}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: must be a floating-point type, got {dtype}")
    anchor = None if anchor is None else checked_anchor(anchor, noise).to(dtype)
    for name, value in (("schedule", schedule), ("steps", steps), ("solver", solver)):
        method, example = _CHOICES[name]
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            raise ValueError(f"{name}: must be an object such as {example}, got {value!r}")
    choice("last", last, LAST)
    all_levels = levels_of(steps, schedule)
    own = all_levels if analytic_start is None else analytic_start.walk(all_levels)
    check_range(denoiser, torch.tensor(own, dtype=torch.float64))
    levels = _rearranged(own, renoising, last)
    if corrector is None and any(a == b for a, b in pairwise(levels)):
        raise ValueError("corrector: the walk repeats levels but there is none; add corrector=Langevin(snr=0.16)")
    if corrector is not None and not any(a == b for a, b in pairwise(levels)):
        raise ValueError("corrector: the walk repeats no level for it to act on; add renoising=Corrected(repeats=1)")

    recorded = torch.is_grad_enabled() and noise.requires_grad
    if recorded and getattr(solver, "adaptive", False):
        raise ValueError(
            "solver: no gradient goes through an adaptive solver, whose result jumps wherever a small change of the "
            "noise changes its steps; take one of fixed steps, such as solvers.RK4(), or pass noise.detach()"
        )
    if graphs is not None:
        for hinders, why in (
            (recorded, "gradients are recorded"),
            (callback is not None, "there is a callback"),
            (getattr(solver, "adaptive", False), "an adaptive solver chooses its steps on the way"),
        ):
            if hinders:
                raise ValueError(f"graphs: {why}, and a CUDA graph replays what was recorded; leave graphs out")
    with torch.set_grad_enabled(recorded):
        axis = Axis(schedule, noise.device)
        path = axis.walk(levels)
        start, substitute = noise.to(dtype) * all_levels[0], None
        if analytic_start is not None:
            start = start if anchor is None else start + anchor
            start, substitute = applied(analytic_start, start, all_levels, own, getattr(solver, "adaptive", False))
            start = start if anchor is None else start - anchor
        # a step-size control draws as often as the slowest of its batch needs, and nobody else may notice
        apart = getattr(solver, "adaptive", False) and getattr(solver, "stochastic", False)
        known = type(solver) in _SHIPPED and is_value(schedule)  # a solver of the user's own may change between runs
        if last == "denoise" and levels[-1] == 0:
            solver = DenoisedLast(solver)
        S_noise = 1.0 if renoising is None else renoising.S_noise
        state = (_remembered if known else prepared)(cast(Any, solver), axis, path)

        def run(denoiser: Denoiser, callback: Callable[[Progress], object] | None) -> Tensor:
            randn = NoiseStreams(seed, first, noise.shape, dtype, noise.device, purpose=Purpose.STEPS)
            dynamics = Dynamics(schedule, InOwnType(denoiser), dict(cond or {}), noise.device, substitute, anchor)
            rises = (
                NoiseStreams(seed, first, noise.shape, dtype, noise.device, purpose=Purpose.RISES) if apart else None
            )
            x = walk(dynamics, start, path, solver, corrector, S_noise, randn, callback, state, rises)
            return dynamics.in_data_units(x)

        if graphs is None:
            x = run(denoiser, callback)
        else:

            def take(start: Tensor, given: Mapping[str, Any], randn: Randn) -> Tensor:
                cond = {name: given[f"cond.{name}"] for name in cond_names}
                dynamics = Dynamics(schedule, InOwnType(denoiser), cond, noise.device, substitute, given.get("anchor"))
                x = walk(dynamics, start, path, solver, corrector, S_noise, randn, None, state)
                return dynamics.in_data_units(x)

            cond_names = tuple(cond or ())
            given = {f"cond.{name}": value for name, value in (cond or {}).items()}
            given |= {} if anchor is None else {"anchor": anchor}
            randn = NoiseStreams(seed, first, noise.shape, dtype, noise.device, purpose=Purpose.STEPS)
            settings = (schedule, solver, corrector, S_noise, levels, own, analytic_start)
            x = graphs.run(settings, take, start, given, randn)
        # The only wait for the device, after the last step. A finite sum has finite terms; any other may just be large.
        if not math.isfinite(x.detach().sum()) and not bool(torch.isfinite(x).all()):
            if not bool(torch.isfinite(noise).all()):
                raise ValueError("noise: holds NaN or infinity")
            if not bool(torch.isfinite(start).all()):
                raise ValueError(f"dtype: the start at sigma = {all_levels[0]:.6g} overflows {dtype}; use a wider one")
            _blame(denoiser, run, len(path.moves))
        return x


def _blame(denoiser: Denoiser, run: Callable[..., Tensor], moves: int) -> None:
    """Repeat a run that ended in NaN or infinity, watching each evaluation and each move, and say where it began."""
    move = 1

    def watch(progress: Progress) -> None:
        nonlocal move
        move = progress.move + 1
        if not bool(torch.isfinite(progress.x).all()):
            raise FloatingPointError(
                f"the state overflowed in move {progress.move} of {progress.moves}, going to sigma = "
                f"{progress.sigma:.6g}, while the outputs of the denoiser were finite; take more steps "
                "or a more stable solver"
            )

    def watched(x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
        out = denoiser(x, sigma, **cond)
        bad = ~torch.isfinite(out).flatten(1).all(1) if out.ndim > 1 else ~torch.isfinite(out)
        if bool(bad.any()):
            raise FloatingPointError(
                f"denoiser: returned NaN or infinity in move {move} of {moves} at sigma = {float(sigma):.6g}, "
                f"for {int(bad.sum())} of {len(bad)} samples, first for sample {int(bad.nonzero()[0])} of the batch"
            )
        return out

    run(watched, watch)
    raise FloatingPointError(
        "the run ended in NaN or infinity, and did not when it was repeated: the denoiser is not deterministic"
    )


def _null(x: Tensor, sigma: Tensor, **cond: object) -> Tensor:
    return torch.zeros_like(x)


def count_nfe(
    steps: Steps,
    solver: Solver,
    schedule: Schedule = EDM(),  # noqa: B008
    renoising: Renoising | None = None,
    corrector: Corrector | None = None,
    analytic_start: AnalyticStart | None = None,
    last: Last = "solver",
    within: Callable[[Denoiser], Denoiser] | None = None,
) -> int:
    """Evaluations of D in one run, counted by a wrapper on D in a run on a single number, not claimed by the solver.

    There D = 0: a method of fixed steps asks any D as often. How often an adaptive one asks depends on what D returns,
    and its count here is that of D = 0; :class:`~edm_unified.sampling.solvers.Ledger` has that of a run.

    What an analytic start stands for costs nothing, and so does a Gaussian that is still to be estimated. ``within``
    makes a denoiser of D that may call it twice, as guidance does; the label is then 0.
    """
    counted = Counted(_null)
    sample(
        counted if within is None else within(counted),
        torch.ones(1, 1, dtype=torch.float64),
        schedule=schedule,
        steps=steps,
        solver=solver,
        renoising=renoising,
        corrector=corrector,
        analytic_start=None if analytic_start is None else Fitted(analytic_start, exact.Gaussian([0.0], 1.0)),
        last=last,
        cond=None if within is None else {"label": torch.zeros(1, dtype=torch.long)},
    )
    return counted.nfe
