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
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Nonnegative, Positive
from edm_unified.sampling.by_sample import along, expm1
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.step_control import (
    LEAST,
    SAFETY,
    Adaptive,
    decay,
    log_size,
    saturation,
    size,
)
from edm_unified.sampling.solvers.trial import SampleLevels, States, Trial

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


class Path:
    """The part of the Brownian path that is known and not used yet: a stack of segments for each sample, next on top.

    ``ends[k]`` (B,) and ``increments[k]`` (B, *), W of the module docstring, are the k-th of all stacks; ``depth`` (B,)
    says how many each has.
    """

    def __init__(self, eta: float, drawn: Drawn) -> None:
        self.eta2, self.drawn = eta**2, drawn
        self.depth = torch.zeros_like(drawn.taken)
        self.ends, self.increments = list[Tensor](), list[Tensor]()

    def next(self, u: Tensor, wanted: Tensor, active: Tensor, x: Tensor, randn: Randn) -> tuple[Tensor, Tensor]:
        """Where the steps from u end, no farther than the next segment, and their W: drawn, bridged, or known."""
        end, known = self.top(x)
        reach = torch.minimum(wanted, end)
        bridged = active & (reach < end) & torch.isfinite(end)
        fresh = active & ~torch.isfinite(end)
        z, self.drawn = self.drawn.next(fresh | bridged, x, randn)
        length, rest = reach - u, end - reach  # the rest is infinite where nothing is known, and then plays no part
        now, later, both = (saturation(2 * self.eta2 * part) for part in (length, rest, length + rest))
        share, fade = torch.where(both > 0, now / both, 0.0), decay(self.eta2 * rest)
        increment = along(fade * share, x) * known + along(torch.sqrt(share * later), x) * z
        self.replace_top(bridged, known - along(fade, x) * increment)
        self.push(fresh | bridged, reach, increment)
        return reach, increment

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
class AdaptiveSDE(Adaptive):
    """The adaptive sampler of Jolicoeur-Martineau et al. 2021 (Algorithm 1), with the linear part exact.

        x' = e^{−Ah} x + (1 − e^{−Ah}) D(x) + N,    x'' = x' + ½ (1 − e^{−Ah}) (D(x') − D(x)),

    is their pair, Euler–Maruyama and its improvement with the same noise, which is accepted (x'') where x'' − x' is
    within the tolerance; the next h is 0.9 h E^{−r}, r = 0.9. They write it for any SDE, where Euler–Maruyama's
    stability holds the step down at high noise; in λ with the exact decay of the linear part it does not. Weak order 2;
    two evaluations per step tried, one of them kept where the step is rejected.

    Noise and steps are each sample's own: a sample is the same in any batch. ``eta`` must be positive; for the ODE
    there is :class:`~edm_unified.sampling.solvers.DormandPrince45`.
    """

    eta: Positive = 1.0
    rtol: Nonnegative = 0.01
    atol: Nonnegative = 0.0078
    exponent: Positive = 0.9
    most_evaluations: Count = 10_000
    kind: Literal["adaptive_sde"] = "adaptive_sde"
    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True

    def pair(self, step: Trial, x: States, a: SampleLevels, b: SampleLevels) -> tuple[States, States]:
        D, whole = step.denoise(x, a), -expm1(-(1 + self.eta**2) * step.h)  # 1 − e^{−Ah}
        x1 = x + whole * (D - x) + b.sigma * step.noise()
        return x1 + 0.5 * whole * (step.denoise(x1, b) - D), x1

    def error(self, x: Tensor, high: Tensor, low: Tensor) -> Tensor:
        return size(high - low, x, low, self.rtol, self.atol)

    def noises(self, B: int, drawn: Any) -> Path:
        return Path(self.eta, drawn or Drawn((), torch.zeros(B, dtype=torch.long)))

    def factor(self, error: float, last: float, before: float, accepted: bool) -> float:
        factor = SAFETY * math.exp(min(-self.exponent * log_size(error), math.log(MOST / SAFETY)))
        return min(max(factor, LEAST), MOST if accepted else SAFETY)

    def cut_short(self, length: Tensor, h: Tensor, arrived: Tensor) -> Tensor:
        return length < 0.999 * h  # by the end of the fall or of a segment
