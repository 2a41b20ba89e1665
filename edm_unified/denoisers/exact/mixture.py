"""A mixture of Gaussians: its marginals, scores and posteriors are closed formulas at every noise level.

If x_0 ~ Σ_k w_k N(μ_k, C_k) then x = x_0 + σn ~ Σ_k w_k N(μ_k, C_k + σ²I), and with the responsibilities
r_k(x) = p(k | x), a softmax over k of log w_k + log N(x; μ_k, C_k + σ²I),

    D(x; σ)       = Σ_k r_k [ μ_k + C_k (C_k+σ²I)⁻¹ (x−μ_k) ]
    ∇ log p(x; σ) = −Σ_k r_k (C_k+σ²I)⁻¹ (x−μ_k)
    p(x_0 | x)    = Σ_k r_k N( μ_k + C_k (C_k+σ²I)⁻¹ (x−μ_k),  σ² C_k (C_k+σ²I)⁻¹ )

**How it is computed.** Each C_k = U_k diag(λ_k) U_kᵀ + f_k (I − U_k U_kᵀ) is decomposed once. All K projections
U_kᵀ(x−μ_k) are then one matrix product, and Σ_k r_k U_k(...) is another, so no (B, K, d, d) array and no loop over
components is needed. Components and batch are cut into chunks that keep every working array under ``chunk_bytes``;
chunks of components are joined by an online softmax (running maximum, sum and weighted mean).

**Accuracy.** Full covariances use only differences x−μ. For diagonal and isotropic ones the quadratic form is expanded
into products (fast) only where its rounding stays below 1e-11, and is a sum of squared differences otherwise.
The low-rank form always expands ‖x−μ‖²: its log-densities err by about 1e-16 (‖x‖+‖μ‖)²/(floor+σ²).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .arguments import (
    CHUNK_BYTES,
    TINY,
    Label,
    Sigmas,
    classes,
    count,
    flat,
    float64,
    generator,
    levels,
    moved,
    spectrum,
)
from .fit import fit_mixture
from .mixture_sums import ROUNDING, Components, logits, reduce
from .posterior import Posterior, dense, posterior


class GaussianMixture:
    """x_0 ~ Σ_k w_k N(μ_k, C_k), optionally with a class label on each component.

    ``weights`` (K,): positive, divided by their sum. ``means`` (K, *shape). ``covs``: (K,) variances of isotropic
    components, (K, d) of diagonal ones, or (K, d, d) matrices; d = prod(shape), flattened in row-major order.
    ``labels`` (K,): the class of each component. Then ``label`` (B,) given to any method conditions row b on that
    class, with the weights of its components renormalised; −1 or None means all classes.

    Float64 inside; D and the score come back in the dtype of x, log-densities in float64 nats. Autograd flows through
    D, score and log_prob (the chunks then all stay in memory). ``chunk_bytes`` bounds each working array.
    """

    def __init__(
        self, weights: Any, means: Any, covs: Any, labels: Any = None, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        means = float64("means", means)
        means = means[:, None] if means.ndim == 1 else means
        covs = float64("covs", covs, ndim=(1, 2, 3)).to(means.device)
        K, d = len(means), means[0].numel()
        if covs.shape != (K, d, d)[: covs.ndim]:
            raise ValueError(f"covs: must have shape ({K},), ({K}, {d}) or ({K}, {d}, {d}), got {tuple(covs.shape)}")
        if covs.ndim == 3:
            values, axes = spectrum("covs", covs)
            self._set(weights, means, values, axes, None, labels, chunk_bytes)
            return
        if bool((covs < 0).any()):
            raise ValueError(f"covs: variances must not be negative, got {float(covs.min()):.3g}")
        self._set(weights, means, covs.reshape(K, -1).expand(K, d), None, None, labels, chunk_bytes)

    @classmethod
    def low_rank(
        cls,
        weights: Any,
        means: Any,
        factors: Any,
        floor: Any,
        labels: Any = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> GaussianMixture:
        """C_k = F_k F_kᵀ + floor_k·I with F (K, d, r) and floor () or (K,) > 0. Never forms a d×d matrix."""
        means = float64("means", means)
        factors = float64("factors", factors, ndim=(3,)).to(means.device)
        K, d = len(means), means[0].numel()
        if factors.shape[:2] != (K, d) or factors.shape[2] > d:
            raise ValueError(f"factors: must have shape ({K}, {d}, r) with r <= {d}, got {tuple(factors.shape)}")
        rest = float64("floor", floor, ndim=(0, 1)).to(means.device).expand(K).clone()
        if not bool((rest > 0).all()):
            raise ValueError("floor: must be positive")
        vectors, singular, _ = torch.linalg.svd(factors, full_matrices=False)
        self = cls.__new__(cls)
        axes = vectors.mT.contiguous()
        self._set(weights, means, singular.square() + rest[:, None], axes, rest, labels, chunk_bytes)
        return self

    def _set(
        self,
        weights: Any,
        means: Tensor,
        values: Tensor,
        axes: Tensor | None,
        rest: Tensor | None,
        labels: Any,
        chunk_bytes: int,
    ) -> None:
        K = len(means)
        weights = float64("weights", weights, ndim=(1,)).to(means.device)
        if len(weights) != K or not bool((weights > 0).all()):
            raise ValueError(f"weights: must be {K} positive numbers, one for each of the means")
        if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes < 1:
            raise ValueError(f"chunk_bytes: must be a positive whole number, got {chunk_bytes!r}")
        if labels is not None:
            labels = torch.as_tensor(labels, device=means.device)
            if labels.shape != (K,) or labels.is_floating_point() or bool((labels < 0).any()):
                raise ValueError(f"labels: must be {K} whole numbers, zero or above, one for each of the means")
        self.shape = means.shape[1:]
        self.weights = weights / weights.sum()
        self.labels: Tensor | None = labels
        self.chunk_bytes = chunk_bytes
        self._centre = self.weights @ means.reshape(K, -1)  # products are taken about it: an offset costs no digits
        self._c = Components(self.weights.log(), means.reshape(K, -1) - self._centre, values, axes, rest)
        self._least = float(values.min()) if rest is None else min(float(values.min()), float(rest.min()))
        self._farthest = float(self._c.m.square().sum(-1).max())
        self._known: tuple[int, ...] = () if labels is None else tuple(labels.unique().tolist())
        self._parts: dict[int, GaussianMixture] = {}

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def means(self) -> Tensor:
        """μ, (K, *shape)."""
        return (self._c.m + self._centre).reshape(-1, *self.shape)

    @property
    def covs(self) -> Tensor:
        """C: (K, d) where they are diagonal, else (K, d, d), formed on request."""
        return dense(self._c.values, self._c.axes, self._c.rest)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The exact mean (*shape) and covariance (d, d) of x_0."""
        m, w = self._c.m, self.weights
        if self._c.axes is None:
            within = torch.diag(w @ self._c.values)
        else:  # one component at a time: never (K, d, d)
            within = torch.zeros(m.shape[1], m.shape[1], dtype=m.dtype, device=m.device)
            for k in range(len(self)):
                one = self._c.part(slice(k, k + 1))
                within += w[k] * dense(one.values, one.axes, one.rest)[0]
        return self._centre.reshape(self.shape), within + m.mT @ (w[:, None] * m)

    def low_rank_moments(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """The mean (*shape), F (q, d) and floor () with which the covariance of x_0 is FᵀF + floor·I; q = K(r + 1).

        None where that would be no less than the covariance itself, q ≥ d, or where components are not low-rank.
        """
        c, w = self._c, self.weights
        if c.axes is None or c.rest is None or len(self) * (c.values.shape[1] + 1) >= c.m.shape[1]:
            return None
        within = c.axes * (w[:, None] * (c.values - c.rest[:, None]).clamp(min=0)).sqrt()[..., None]
        factor = torch.cat([within.flatten(0, 1), w.sqrt()[:, None] * c.m])
        return self._centre.reshape(self.shape), factor, w @ c.rest

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        r = self._c.values.shape[1]
        form = "diagonal" if self._c.axes is None else "full" if self._c.rest is None else f"rank-{r}"
        return f"GaussianMixture({len(self)} {form} components, shape={tuple(self.shape)})"

    def to(self, device: torch.device | str) -> GaussianMixture:
        """A copy on ``device``."""
        other = moved(self, device)
        other._c = self._c.to(device)
        other._parts = {}
        return other

    def given(self, label: int) -> GaussianMixture:
        """The mixture of one class, p(x_0 | label), with its weights renormalised. −1 is the mixture itself."""
        if label == -1:
            return self
        if label not in self._parts:
            classes(label, 1, self._known)  # raises on an unknown class
            assert self.labels is not None
            k = (self.labels == label).nonzero().squeeze(1)
            c, part = self._c.part(k), GaussianMixture.__new__(GaussianMixture)
            part._set(self.weights[k], self.means[k], c.values, c.axes, c.rest, None, self.chunk_bytes)
            self._parts[label] = part
        return self._parts[label]

    # -- the closed formulas --------------------------------------------------------------------------------------

    def __call__(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """The posterior mean E[x_0 | x], of the shape and dtype of x (B, *shape)."""
        rows = flat(x, self.shape)
        s, low = levels(sigma, rows)
        out = self._by_class(rows, s, low, label, lambda v, t: v / (v + t).clamp(min=TINY), 1.0)
        return torch.where(s == 0, rows, out).reshape(x.shape).to(x.dtype)

    def score(self, x: Float[Tensor, "B *shape"], sigma: Sigmas, label: Label = None) -> Float[Tensor, "B *shape"]:
        """∇_x log p(x; σ), computed without the cancellation of (D−x)/σ² at small σ."""
        rows = flat(x, self.shape)
        s, low = levels(sigma, rows)
        self._need_density(low)
        out = self._by_class(rows, s, low, label, lambda v, t: -1 / (v + t), 0.0)
        return out.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Float[Tensor, "B *shape"], sigma: Sigmas = 0.0, label: Label = None) -> Float[Tensor, " B"]:
        """log p(x; σ) in nats, shape (B,). At σ = 0 all covariances must be positive definite."""
        rows = flat(x, self.shape)
        s, low = levels(sigma, rows)
        self._need_density(low)
        return self._by_class(rows, s, low, label, None, 0.0)

    def posterior(self, x: Tensor, sigma: Sigmas, label: Label = None) -> Posterior:
        """p(x_0 | x; σ), itself a mixture for every row of x; σ must be positive. Takes O(B K d) memory."""
        rows = flat(x, self.shape)
        s, low = levels(sigma, rows)
        if low == 0:
            raise ValueError("sigma: the posterior at sigma = 0 is x itself; use sigma > 0")
        c, z, t = self._c, rows - self._centre, s.square()
        weights = logits(c, z, t, self._expand(z, low), self.chunk_bytes)
        for label_value, members in classes(label, len(rows), self._known):
            if label_value != -1:
                own = torch.zeros(len(rows), 1, dtype=torch.bool).index_fill(0, members.cpu(), True)
                weights = weights.masked_fill(own.to(z.device) & (self.labels != label_value), -math.inf)
        return posterior(c, z, t.reshape(-1, 1, 1) if t.ndim else t[None], self._centre, weights.softmax(1), self.shape)

    def sample(self, n: int, seed: int = 0, sigma: float = 0.0, label: Label = None) -> Tensor:
        """``n`` exact draws of x_0 + σn, float64, (n, *shape). The same seed gives the same draws on every device."""
        groups = classes(label, count(n), self._known)
        rng, c = generator(seed), self._c
        u = torch.rand(n, generator=rng, dtype=torch.float64).to(c.m.device)
        z = torch.randn(n, c.m.shape[1], generator=rng, dtype=torch.float64).to(c.m.device)
        s, _ = levels(float(sigma), z)
        component = torch.empty(n, dtype=torch.long, device=c.m.device)
        for label_value, members in groups:
            weights = self.weights if label_value == -1 else self.weights * (self.labels == label_value)
            edges = weights.cumsum(0)
            rows = members.to(c.m.device)
            # u < 1 = the last edge, and ties go right, so a component of weight 0 is never drawn.
            component[rows] = torch.searchsorted(edges / edges[-1], u[rows], right=True)
        out = self._centre + c.m[component]
        for k in component.unique().tolist():
            rows = (component == k).nonzero().squeeze(1)
            std = (c.values[k] + s.square()).sqrt()
            if c.axes is None:
                out[rows] += std * z[rows]
                continue
            y = z[rows] @ c.axes[k].mT
            out[rows] += (std * y) @ c.axes[k]
            if c.rest is not None:
                out[rows] += (c.rest[k] + s.square()).sqrt() * (z[rows] - y @ c.axes[k])
        return out.reshape(n, *self.shape)

    @classmethod
    def fit(
        cls,
        data: Any,
        components: int = 10,
        labels: Any = None,
        *,
        covariance: Literal["full", "diag", "isotropic"] = "full",
        rank: int | None = None,
        floor: float = 1e-3,
        seed: int = 0,
    ) -> GaussianMixture:
        """A mixture fitted to ``data`` (N, *shape): see ``exact.fit_mixture`` for the options."""
        return fit_mixture(cls, data, components, labels, covariance, rank, floor, seed)

    # -- how they are computed ------------------------------------------------------------------------------------

    def _by_class(
        self,
        rows: Tensor,
        s: Tensor,
        low: float,
        label: Label,
        gain: Callable[[Tensor, Tensor], Tensor] | None,
        base: float,
    ) -> Tensor:
        """Each row evaluated under the mixture of its class only: fewer components, and no masks."""
        groups = classes(label, len(rows), self._known)
        if len(groups) == 1:
            return self.given(groups[0][0])._evaluate(rows, s, low, gain, base)
        order = torch.cat([members for _, members in groups]).to(rows.device)
        done = []
        for label_value, members in groups:
            members = members.to(rows.device)
            part = self.given(label_value)
            done.append(part._evaluate(rows[members], s if s.ndim == 0 else s[members], low, gain, base))
        return torch.cat(done)[order.argsort()]

    def _evaluate(
        self, rows: Tensor, s: Tensor, low: float, gain: Callable[[Tensor, Tensor], Tensor] | None, base: float
    ) -> Tensor:
        z, t = rows - self._centre, s.square()
        log_p, out = reduce(self._c, z, t, gain, base, self._expand(z, low), self.chunk_bytes)
        return log_p if out is None else out + base * self._centre

    def _expand(self, z: Tensor, low: float) -> bool:
        """Whether ‖z−m‖²/(λ+σ²) may be expanded into products: only where that costs no accuracy that matters."""
        if self._c.axes is not None or z.numel() == 0:
            return False
        size = float(z.detach().square().sum(1).max()) + self._farthest
        return 4e-16 * size < ROUNDING * (self._least + low * low)

    def _need_density(self, sigma: float) -> None:
        if sigma == 0 and self._least <= 0:
            raise ValueError("sigma: a component has directions of zero variance, so the density needs sigma > 0")
