"""An adaptive stochastic method, each sample on a Brownian path of its own that no rejected step bends.

With noise amplitude η the reverse process over [u, u+h], u = ln(a/σ), A = 1 + η², has the noise

    N = σ_{u+h} W(u, u+h),      W(u, v) = e^{−η²v} (B_{κ(v)} − B_{κ(u)}) of variance r(v − u), r(z) = 1 − e^{−2η²z},

B a Brownian motion in the clock κ(u) = e^{2η²u}, which overflows and is never computed. W is drawn once for a step.
Where that step is rejected and a shorter one is tried, the path is not drawn anew, which would favour quiet paths, but
bridged (Rackauckas & Nie 2017): of W(u, w), given for the whole, v − u = l and w − v = m,

    W(u, v) = e^{−η²m} r(l)/r(l+m) W(u, w) + √(r(l) r(m)/r(l+m)) n,      W(v, w) = W(u, w) − e^{−η²m} W(u, v),

and the latter is kept for the steps that follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import component, positive
from edm_unified.sampling.by_sample import each
from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.step_control import (
    FIRST_STEP,
    LEAST,
    SAFETY,
    Lost,
    along,
    check_resolution,
    check_tolerances,
    decay,
    log_size,
    saturation,
    size,
)

MOST = 2.0
"""A step on a rough path says less about the next one than a step of an ODE does: growth is slower."""


class Drawn(NamedTuple):
    """Noise that some samples have used and others have not yet: sample i uses ``pool[taken[i]]`` next."""

    pool: tuple[Tensor, ...]
    taken: Tensor  # (B,)

    def next(self, need: Tensor, like: Tensor, randn: Randn) -> tuple[Tensor, Drawn]:
        """Fresh noise for the samples ``need``, (B,); zero for the others. Nobody's noise depends on its neighbours."""
        pool, z = list(self.pool), torch.zeros_like(like)
        for k in sorted(set(self.taken[need].tolist())):
            while len(pool) <= k:
                pool.append(randn())
            z = torch.where(along(need & (self.taken == k), like), pool[k], z)
        taken = self.taken + need
        used = int(taken.min())
        return z, Drawn(tuple(pool[used:]), taken - used)


class State(NamedTuple):
    """What is carried from fall to fall."""

    step: Tensor | None = None
    drawn: Drawn | None = None
    evaluations: Tensor | None = None
    rejected: Tensor | None = None


@dataclass
class Path:
    """The part of the Brownian path that is known and not used yet: a stack of segments for each sample, next on top.

    ``ends[k]`` (B,) and ``increments[k]`` (B, *), W of the module docstring, are the k-th of all stacks; ``depth`` (B,)
    says how many each has.
    """

    depth: Tensor
    ends: list[Tensor] = field(default_factory=list)
    increments: list[Tensor] = field(default_factory=list)

    def top(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """End (∞ where there is none) and increment (0 there) of each sample's next segment."""
        end, increment = torch.full(self.depth.shape, math.inf, dtype=torch.float64), torch.zeros_like(like)
        for k, (e, w) in enumerate(zip(self.ends, self.increments, strict=True)):
            here = self.depth == k + 1
            end, increment = torch.where(here, e, end), torch.where(along(here, like), w, increment)
        return end, increment

    def replace_top(self, which: Tensor, increment: Tensor) -> None:
        for k in range(len(self.increments)):
            here = along(which & (self.depth == k + 1), increment)
            self.increments[k] = torch.where(here, increment, self.increments[k])

    def push(self, which: Tensor, end: Tensor, increment: Tensor) -> None:
        if bool((which & (self.depth == len(self.ends))).any()):
            self.ends.append(torch.zeros_like(end))
            self.increments.append(torch.zeros_like(increment))
        for k in range(len(self.ends)):
            here = which & (self.depth == k)
            self.ends[k] = torch.where(here, end, self.ends[k])
            self.increments[k] = torch.where(along(here, increment), increment, self.increments[k])
        self.depth = self.depth + which

    def pop(self, which: Tensor) -> None:
        self.depth = self.depth - which.long()
        keep = int(self.depth.max())
        del self.ends[keep:], self.increments[keep:]


@component
class AdaptiveSDE:
    """The adaptive sampler of Jolicoeur-Martineau et al. 2021 (Algorithm 1), with the linear part exact.

        x' = e^{−Ah} x + (1 − e^{−Ah}) D(x) + N,    x'' = x' + ½ (1 − e^{−Ah}) (D(x') − D(x)),

    is their pair, Euler–Maruyama and its improvement with the same noise, which is accepted (x'') where x'' − x' is
    within the tolerance; the next h is 0.9 h E^{−r}, r = 0.9. They write it for any SDE, where Euler–Maruyama's
    stability holds the step down at high noise; in λ with the exact decay of the linear part it does not. Weak order 2;
    two evaluations per step tried, one of them kept where the step is rejected.

    Noise and steps are each sample's own: a sample is the same in any batch. ``eta`` must be positive; for the ODE
    there is :class:`~edm_unified.sampling.solvers.DormandPrince45`.
    """

    eta: float = 1.0
    rtol: float = 0.01
    atol: float = 0.0078
    exponent: float = 0.9
    most_evaluations: int = 10_000
    kind: Literal["adaptive_sde"] = "adaptive_sde"
    order: ClassVar[int] = 2
    adaptive: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("eta", self.eta)
        positive("exponent", self.exponent)
        check_tolerances(self.rtol, self.atol, self.most_evaluations)

    def init(self, axis: Axis, walk: Walk) -> State:
        """Nothing is known before the batch is."""
        return State()

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: State, randn: Randn
    ) -> tuple[Tensor, State]:
        """One fall from level a to level b."""
        check_resolution(self.rtol, x)
        B, eta2 = (len(x),), self.eta**2
        none = torch.zeros(B, dtype=torch.long)
        drawn = state.drawn or Drawn((), none)
        evaluations = (none if state.evaluations is None else state.evaluations) + 1
        rejected = none if state.rejected is None else state.rejected
        D = dynamics.denoise(x, a)
        if b.sigma == 0:
            return D, State(state.step, drawn, evaluations, rejected)

        H = math.log(a.sigma / b.sigma)

        def sigma_at(u: Tensor) -> Tensor:
            return torch.where(u < H, a.sigma * decay(u), b.sigma)  # the end is the walk's own number

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            return dynamics.denoise(x, a._replace(sigma_tensor=sigma.to(x.device)))

        u = torch.zeros(B, dtype=torch.float64)
        h = torch.full(B, FIRST_STEP, dtype=torch.float64) if state.step is None else state.step
        path, stale = Path(none), torch.zeros(B, dtype=torch.bool)
        lost = Lost(stale, stale)
        while bool((active := (u < H) & ~lost.any).any()):
            if bool(stale.any()):
                D = torch.where(along(stale, x), evaluate(x, sigma_at(u)), D)
                evaluations = evaluations + stale

            end, known = path.top(x)
            wanted = torch.where(h < H - u, u + h, H)
            reach = torch.minimum(wanted, end)
            bridged = active & (reach < end) & torch.isfinite(end)
            fresh = active & ~torch.isfinite(end)
            z, drawn = drawn.next(fresh | bridged, x, randn)
            length, rest = reach - u, end - reach  # the rest is infinite where nothing is known, and then plays no part
            now, later, both = (saturation(2 * eta2 * part) for part in (length, rest, length + rest))
            share, fade = torch.where(both > 0, now / both, 0.0), decay(eta2 * rest)
            increment = along(fade * share, x) * known + along(torch.sqrt(share * later), x) * z
            path.replace_top(bridged, known - along(fade, x) * increment)
            path.push(fresh | bridged, reach, increment)

            whole = along(saturation((1 + eta2) * length), x)
            sigma = sigma_at(reach)
            low = torch.lerp(x, D, whole) + along(sigma, x) * increment
            high = low + 0.5 * whole * (evaluate(low, sigma) - D)
            error = size(high - low, x, low, self.rtol, self.atol)
            accepted = active & (error <= 1)
            evaluations = evaluations + active
            rejected = rejected + (active & ~accepted)
            lost.find(self, active & ~(accepted & (reach == H)), accepted, evaluations, length)

            next_h = length * each(self._factor, error, accepted)
            cut = accepted & (length < 0.999 * h)  # by the end of the fall or of a segment: no reason to go slower
            h = torch.where(active, torch.where(cut, torch.maximum(next_h, h), next_h), h)
            path.pop(accepted)
            u = torch.where(accepted, reach, u)
            x = torch.where(along(accepted, x), high, x)
            stale = accepted & (u < H)
        lost.report(self, a.sigma * decay(u))
        return x, State(h, drawn, evaluations, rejected)

    def _factor(self, error: float, accepted: bool) -> float:
        """What the next step of a sample is of this one, given its error."""
        factor = SAFETY * math.exp(min(-self.exponent * log_size(error), math.log(MOST / SAFETY)))
        return min(max(factor, LEAST), MOST if accepted else SAFETY)
