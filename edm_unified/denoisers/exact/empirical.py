"""A finite set of points: the exact denoiser of a dataset, which a network of unlimited capacity would learn.

If x_0 is one of y_1 … y_N with equal probability, then x = x_0 + σn has the density (1/N) Σ_n N(y_n, σ²I) and

    D(x; σ) = Σ_n r_n y_n,   r = softmax_n( −‖x−y_n‖²/(2σ²) )

(EDM App. B.3), which is attention with queries x and keys and values y.

**How it is computed.** Like flash attention: the data pass by in chunks, and a running maximum, sum and weighted sum
of the softmax are kept for each row, so the (B, N) weights never exist. Points stay in the dtype they came in and each
chunk is converted to float64. Chunks in which a point has no weight (below e^−745 relative) for any row are skipped
in the second product.

**Accuracy at small σ.** ‖x−y‖² = ‖x‖²+‖y‖²−2x·y is one matrix product, but its rounding, about
ε = 4e-16 (‖x‖²+max‖y‖²), is divided by 2σ². Where that could shift a logit by more than 1e-9 the products only
*screen*: every point whose logit lies within 50 + 4ε/(2σ²) of the best (all others weigh less than e^−50) is evaluated
again as a sum of squared differences. So the nearest point is found correctly at any σ, at the price of a few
differences per row. All is taken about the mean of the data, which removes the largest part of the rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import CHUNK_BYTES, Label, Sigmas, classes, count, flat, generator, levels, moved

SCREEN = 1e-9
"""Error of a logit from which on the products only screen."""


class Empirical:
    """x_0 uniform on ``data`` (N, *shape), optionally with ``labels`` (N,), the class of each point.

    ``data`` may be float16/32/64 (also memory-mapped) and is kept as it is; with ``labels`` it is copied once, ordered
    by class, and ``label`` (B,) then restricts row b to the points of its class (−1 or None: all). Float64 inside; D
    and score return the dtype of x. ``chunk_bytes`` bounds each working array. At σ = 0, D(x) = x.
    """

    def __init__(self, data: Any, labels: Any = None, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        points = torch.as_tensor(data).detach()
        if points.ndim < 1 or len(points) == 0 or points.numel() == 0:
            raise ValueError(f"data: must have shape (N, *shape) with N > 0, got {tuple(points.shape)}")
        if not points.is_floating_point():
            raise ValueError(f"data: must be floating point (images in [-1, 1]), got {points.dtype}")
        points = points[:, None] if points.ndim == 1 else points
        if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes < 1:
            raise ValueError(f"chunk_bytes: must be a positive whole number, got {chunk_bytes!r}")
        self.shape = points.shape[1:]
        self.chunk_bytes = chunk_bytes
        self._y = points.reshape(len(points), -1)
        self._known: tuple[int, ...] = ()
        self._of_class = {-1: slice(0, len(points))}
        if labels is not None:
            c = torch.as_tensor(labels, device=points.device)
            if c.shape != (len(points),) or c.is_floating_point() or bool((c < 0).any()):
                raise ValueError(f"labels: must be {len(points)} whole numbers, zero or above, one for each point")
            c, order = c.sort(stable=True)
            self._y = self._y[order]
            values, sizes = c.unique_consecutive(return_counts=True)
            ends = sizes.cumsum(0).tolist()
            self._known = tuple(values.tolist())
            self._of_class |= {k: slice(e - n, e) for k, e, n in zip(self._known, ends, sizes.tolist(), strict=True)}
        step = self._step()
        total = torch.zeros(self._y.shape[1], dtype=torch.float64, device=self._y.device)
        for i in range(0, len(self._y), step):
            total += self._y[i : i + step].sum(0, dtype=torch.float64)
        if not bool(torch.isfinite(total).all()):
            raise ValueError("data: must be finite, got NaN or inf")
        self._centre = total / len(self._y)
        self._norms = torch.cat([self._rows(slice(i, i + step)).square().sum(1) for i in range(0, len(self._y), step)])
        self._farthest = float(self._norms.max())

    def __len__(self) -> int:
        return len(self._y)

    def __repr__(self) -> str:
        return f"Empirical({len(self)} points, shape={tuple(self.shape)})"

    def to(self, device: torch.device | str) -> Empirical:
        """A copy on ``device``."""
        return moved(self, device)

    def __call__(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """The posterior mean E[x_0 | x], of the shape and dtype of x (B, *shape)."""
        rows = flat(x, self.shape)
        s, low = levels(sigma, rows)
        if low == 0:  # a row at σ = 0 is its own answer; any positive level keeps the arithmetic finite meanwhile
            s, zero = torch.where(s == 0, 1.0, s), s == 0
            return torch.where(zero, rows, self._by_class(rows, s, label)[1]).reshape(x.shape).to(x.dtype)
        return self._by_class(rows, s, label)[1].reshape(x.shape).to(x.dtype)

    def score(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """∇_x log p(x; σ) = (D−x)/σ²; σ must be positive."""
        rows = flat(x, self.shape)
        s = self._positive(sigma, rows)
        return ((self._by_class(rows, s, label)[1] - rows) / s.square()).reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, " B"]:
        """log p(x; σ) in nats, shape (B,); σ must be positive, since points have no density."""
        rows = flat(x, self.shape)
        return self._by_class(rows, self._positive(sigma, rows), label)[0]

    def sample(self, n: int, seed: int = 0, sigma: float = 0.0, label: Label = None) -> Tensor:
        """``n`` draws with replacement of x_0 + σn, float64, (n, *shape)."""
        groups = classes(label, count(n), self._known)
        rng = generator(seed)
        u = torch.rand(n, generator=rng, dtype=torch.float64)
        index = torch.empty(n, dtype=torch.long)
        for c, members in groups:
            part = self._of_class[c]
            size = part.stop - part.start
            members = members.cpu()
            index[members] = part.start + (u[members] * size).long().clamp(max=size - 1)
        out = self._y[index.to(self._y.device)].to(torch.float64)
        s, low = levels(float(sigma), out)
        if low > 0:
            out += s * torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.device)
        return out.reshape(n, *self.shape)

    # -- how they are computed ------------------------------------------------------------------------------------

    def _step(self) -> int:
        """Points per chunk: their float64 copy fits."""
        return max(1, self.chunk_bytes // (8 * self._y.shape[1]))

    def _rows(self, part: slice) -> Tensor:
        return self._y[part].to(torch.float64) - self._centre

    def _positive(self, sigma: Sigmas, rows: Tensor) -> Tensor:
        s, low = levels(sigma, rows)
        if low == 0:
            raise ValueError("sigma: must be positive: a set of points has no density at sigma = 0")
        return s

    def _by_class(self, rows: Tensor, s: Tensor, label: Label) -> tuple[Tensor, Tensor]:
        groups = classes(label, len(rows), self._known)
        z, t = rows - self._centre, s.square()
        if len(groups) == 1:
            log_p, mean = self._attend(z, t, self._of_class[groups[0][0]])
            return log_p, mean + self._centre
        order = torch.cat([members for _, members in groups]).to(rows.device).argsort()
        done = []
        for c, members in groups:
            b = members.to(rows.device)
            done.append(self._attend(z[b], t if t.ndim == 0 else t[b], self._of_class[c]))
        return torch.cat([p for p, _ in done])[order], torch.cat([m for _, m in done])[order] + self._centre

    def _attend(self, z: Tensor, t: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """log p (B,) and the posterior mean about the centre (B, d), over the points of ``part``."""
        step = min(self._step(), part.stop - part.start)
        room = max(1, self.chunk_bytes // (8 * step))
        top = z.new_full((len(z),), -math.inf)
        total, mean = z.new_zeros(len(z)), torch.zeros_like(z)
        slack = 4e-16 * (z.detach().square().sum(1, keepdim=True) + self._farthest) / (2 * t.detach())
        screen = z.numel() > 0 and float(slack.max()) > SCREEN
        for i in range(part.start, part.stop, step):
            here = slice(i, min(i + step, part.stop))
            y = self._rows(here)
            tops, totals, means = [], [], []
            for j in range(0, len(z), room):
                b = slice(j, j + room)
                tb = t if t.ndim == 0 else t[b]
                logits = (z[b] @ y.mT - 0.5 * self._norms[here] - 0.5 * z[b].square().sum(1, keepdim=True)) / tb
                if screen:
                    best = torch.maximum(logits.detach().amax(1), top[b])[:, None]
                    logits = self._exact_logits(logits, z[b], y, tb, best - 50 - 4 * slack[b])
                higher = torch.maximum(top[b], logits.detach().amax(1))
                # No weight at all so far leaves −inf − (−inf); such rows keep a factor of 0 instead of NaN.
                safe = higher.masked_fill(higher == -math.inf, 0.0)
                fade, r = (top[b] - safe).exp(), (logits - safe[:, None]).exp()
                used = (r.detach() > 0).any(0)
                sparse = float(used.sum()) < 0.5 * len(y)
                gained = r[:, used] @ y[used] if sparse else r @ y
                tops.append(higher)
                totals.append(total[b] * fade + r.sum(1))
                means.append(mean[b] * fade[:, None] + gained)
            if tops:
                top, total, mean = torch.cat(tops), torch.cat(totals), torch.cat(means)
        log_norm = math.log(part.stop - part.start) + 0.5 * z.shape[1] * (2 * math.pi * t).log().reshape(-1)
        return top + total.log() - log_norm, mean / total[:, None]

    def _exact_logits(self, logits: Tensor, z: Tensor, y: Tensor, t: Tensor, least: Tensor) -> Tensor:
        """The logits that matter, from differences; the others, which weigh nothing, as −inf."""
        b, n = (logits.detach() > least).nonzero(as_tuple=True)
        pairs = max(1, self.chunk_bytes // (8 * z.shape[1]))
        exact = [-0.5 * (z[b[i : i + pairs]] - y[n[i : i + pairs]]).square().sum(1) for i in range(0, len(b), pairs)]
        if not exact:
            return torch.full_like(logits, -math.inf)
        tb = t if t.ndim == 0 else t[b, 0]
        return torch.full_like(logits, -math.inf).index_put((b, n), torch.cat(exact) / tb)
