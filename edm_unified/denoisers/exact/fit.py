"""Fitting a Gaussian mixture to data: expectation–maximisation, per class, with a floor under every variance.

With few samples in many dimensions (60 digits to a component, 64 pixels) a full covariance is nearly singular and
fits noise. ``rank`` = r then keeps the r largest eigenvalues and replaces the others by their mean, the
maximum-likelihood choice of probabilistic PCA (Tipping & Bishop 1999, Eqs. 7–8). It also makes the denoiser d/r times
cheaper.

Of n ≤ d samples each covariance is the floor off the n − 1 dimensions in which they lie: full covariances are fitted in
these, which is the same fit, and kept as low-rank ones. Where n and d are both beyond 1024 (or 4·rank) and a ``rank``
is given, the fit is made along the 1024 leading directions of the class, and the mean variance off them is added to the
floor there: an approximation, of what ``rank`` leaves out anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .arguments import float64
from .principal import leading, plane

if TYPE_CHECKING:
    from .mixture import GaussianMixture

MOST_DIRECTIONS = 1024
"""Dimensions in which a mixture of given rank is fitted, at most."""

COVARIANCES = {"full": "full", "diag": "diag", "isotropic": "spherical"}


def fit_mixture(
    cls: type[GaussianMixture],
    data: Any,
    components: int,
    labels: Any = None,
    covariance: Literal["full", "diag", "isotropic"] = "full",
    rank: int | None = None,
    floor: float = 1e-3,
    seed: int = 0,
) -> GaussianMixture:
    """``components`` Gaussians fitted to ``data`` (N, *shape), or to each class of it when ``labels`` (N,) are given.

    ``floor`` (a variance, in squared data units) is added to every variance during the fit. ``rank`` (with "full"
    only) truncates each covariance, see above. Deterministic by ``seed``; no global random state is read or changed.
    A fit that has not converged after 1000 iterations lets scikit-learn's ConvergenceWarning through: its result is a
    valid mixture all the same, and exact as such. An iteration costs O(n p² + p³) in p = min(n − 1, d) dimensions, n
    samples to a class; with ``rank``, p is at most 1024 or 4·rank, see above.
    """
    events = float64("data", data)
    if events.ndim < 1 or len(events) < 1:
        raise ValueError(f"data: must have shape (N, *shape), got {tuple(events.shape)}")
    shape = events.shape[1:] or torch.Size([1])
    rows = events.reshape(len(events), -1).cpu().numpy()
    d = rows.shape[1]
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance: must be one of {', '.join(COVARIANCES)}, got {covariance!r}")
    if isinstance(components, bool) or not isinstance(components, int) or components < 1:
        raise ValueError(f"components: must be a positive whole number, got {components!r}")
    if not (np.isfinite(floor) and floor > 0):
        raise ValueError(f"floor: must be positive and finite, got {floor!r}")
    if rank is not None and (covariance != "full" or isinstance(rank, bool) or not 1 <= rank <= d):
        raise ValueError(f"rank: must be from 1 to {d} and needs covariance 'full', got {rank!r} with {covariance!r}")
    groups: list[tuple[int, np.ndarray]] = [(-1, rows)]
    if labels is not None:
        classes = torch.as_tensor(labels).cpu().numpy()
        if classes.shape != (len(rows),):
            raise ValueError(f"labels: must have shape ({len(rows)},) to match data, got {classes.shape}")
        groups = [(int(c), rows[classes == c]) for c in np.unique(classes)]
    found, of_class = [], []
    for c, members in groups:
        if len(members) < max(components, 2):
            where = "data" if c == -1 else f"class {c}"
            raise ValueError(
                f"components: {where} has {len(members)} samples, too few for {components}; use fewer components"
            )
        found.append(_fit(members, components, covariance, rank, floor, seed, len(members) / len(rows)))
        of_class += [c] * components
    w, mu = torch.cat([part.weights for part in found]), torch.cat([part.means for part in found]).reshape(-1, *shape)
    kept = w > 1e-12 * w.max()  # a component that lost all its samples says nothing, and would have log-weight −inf
    known = None if labels is None else torch.tensor(of_class)[kept]
    if covariance != "full" or rank == d or (rank is None and any(part.axes is None for part in found)):
        return cls(w[kept], mu[kept], torch.cat([part.dense() for part in found])[kept], known)
    factors, rests = zip(*(part.truncated(rank) for part in found), strict=True)
    most = max(factor.shape[2] for factor in factors)
    factors = tuple(functional.pad(factor, (0, most - factor.shape[2])) for factor in factors)
    return cls.low_rank(w[kept], mu[kept], torch.cat(factors)[kept], torch.cat(rests)[kept], known)


class _Class(NamedTuple):
    """The components of one class. Full covariances are Aᵀ C A + rest·(I − AᵀA), with ``axes`` A of p directions."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, d)
    covs: Tensor  # as scikit-learn has them; full: (K, p, p)
    axes: Tensor | None  # (p, d); None: the coordinate axes
    rest: float

    def dense(self) -> Tensor:
        """The covariances in all d dimensions."""
        if self.axes is None:
            return self.covs
        rest = self.rest * torch.eye(len(self.axes), dtype=self.covs.dtype)
        eye = torch.eye(self.axes.shape[1], dtype=self.covs.dtype)
        return self.axes.mT @ (self.covs - rest) @ self.axes + self.rest * eye

    def truncated(self, rank: int | None) -> tuple[Tensor, Tensor]:
        """F (K, d, r) and f (K,) of FFᵀ + f·I, with the ``rank`` largest directions of each, or all p."""
        d, p = self.means.shape[1], self.covs.shape[1]
        r = p if rank is None else min(rank, p)
        values, vectors = torch.linalg.eigh(self.covs)
        rest = (values[:, : p - r].sum(1) + (d - p) * self.rest) / (d - r)
        factors = vectors[..., p - r :] * (values[:, None, p - r :] - rest[:, None, None]).clamp(min=0).sqrt()
        return factors if self.axes is None else self.axes.mT @ factors, rest


def _fit(
    rows: np.ndarray, components: int, covariance: str, rank: int | None, floor: float, seed: int, share: float
) -> _Class:
    """Fit one class, of which the weights sum to ``share``, in as few dimensions as its samples have."""
    from sklearn.mixture import GaussianMixture as Fit  # slow to import, and needed here only

    n, d = rows.shape
    axes, rest = None, floor
    if covariance == "full" and (n <= d or (rank is not None and d > max(MOST_DIRECTIONS, 4 * rank))):
        every = torch.from_numpy(rows)
        centred = every - every.mean(0)
        if rank is None or n <= max(MOST_DIRECTIONS, 4 * rank):
            axes = plane(centred)
        else:
            values, axes = leading(centred, max(MOST_DIRECTIONS, 4 * rank))
            rest += float((centred.square().sum() / n - values.sum()).clamp(min=0)) / (d - len(axes))
    own = rows if axes is None else (centred @ axes.mT).numpy()
    fit = Fit(
        components,
        covariance_type=COVARIANCES[covariance],
        reg_covar=floor,
        max_iter=1000,
        random_state=np.random.RandomState(seed),
    ).fit(own)
    means = torch.as_tensor(fit.means_)
    means = means if axes is None else means @ axes + torch.from_numpy(rows).mean(0)
    return _Class(torch.as_tensor(fit.weights_) * share, means, torch.as_tensor(fit.covariances_), axes, rest)
