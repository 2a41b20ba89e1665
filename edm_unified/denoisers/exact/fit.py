"""Fitting a Gaussian mixture to data: expectation–maximisation, per class, with a floor under every variance.

With few samples in many dimensions (60 digits to a component, 64 pixels) a full covariance is nearly singular and
fits noise. ``rank`` = r then keeps the r largest eigenvalues and replaces the others by their mean, the
maximum-likelihood choice of probabilistic PCA (Tipping & Bishop 1999, Eqs. 7–8). It also makes the denoiser d/r times
cheaper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ._common import float64

if TYPE_CHECKING:
    from .mixture import GaussianMixture

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
    valid mixture all the same, and exact as such. Cost O(N d² + d³) per iteration: meant for d up to about 1000.
    """
    from sklearn.mixture import GaussianMixture as Fit  # slow to import, and needed here only

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
    weights, means, covs, of_class = [], [], [], []
    for c, members in groups:
        if len(members) < max(components, 2):
            where = "data" if c == -1 else f"class {c}"
            raise ValueError(
                f"components: {where} has {len(members)} samples, too few for {components}; use fewer components"
            )
        fit = Fit(
            components,
            covariance_type=COVARIANCES[covariance],
            reg_covar=floor,
            max_iter=1000,
            random_state=np.random.RandomState(seed),
        ).fit(members)
        weights.append(torch.as_tensor(fit.weights_) * len(members) / len(rows))
        means.append(torch.as_tensor(fit.means_))
        covs.append(torch.as_tensor(fit.covariances_))
        of_class += [c] * components
    w, mu, cov = torch.cat(weights), torch.cat(means).reshape(-1, *shape), torch.cat(covs)
    kept = w > 1e-12 * w.max()  # a component that lost all its samples says nothing, and would have log-weight −inf
    known = None if labels is None else torch.tensor(of_class)[kept]
    if rank is None or rank == d:
        return cls(w[kept], mu[kept], cov[kept], known)
    values, vectors = torch.linalg.eigh(cov[kept])
    rest = values[:, : d - rank].mean(1)
    factors = vectors[..., d - rank :] * (values[:, None, d - rank :] - rest[:, None, None]).clamp(min=0).sqrt()
    return cls.low_rank(w[kept], mu[kept], factors, rest, known)
