"""The reference: the probability-flow ODE solved to far more digits than any method under test.

In λ = −ln σ the ODE is dx/dλ = D(x; σ) − x, the same for every schedule, smooth, and not stiff: its Jacobian runs from
−1 at high noise to 0 where σ is far below the finest scale of the data. It is integrated with scipy's DOP853 (Hairer,
Nørsett & Wanner 1993, section II.10), which shares no code with the solvers here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.integrate import solve_ivp
from torch import Tensor

from edm_unified.components.component import falling, nonnegative, positive
from edm_unified.denoisers.denoiser import Denoiser, estimate
from edm_unified.sampling.dynamics import checked_anchor


def reference(
    denoiser: Denoiser,
    noise: Float[Tensor, "B *shape"],
    *,
    sigma_max: float = 80.0,
    sigma_min: float = 0.0,
    sigma_floor: float = 1e-5,
    tolerance: float = 1e-10,
    cond: Mapping[str, object] | None = None,
    anchor: Float[Tensor, "B *shape"] | None = None,
    most_evaluations: int = 100_000,
    callback: Callable[[float], object] | None = None,
) -> Float64[Tensor, "B *shape"]:
    """The exact flow from x = σ_max · noise, or y + σ_max · noise with an ``anchor`` y, to σ_min.

    By DOP853 in ln σ at relative and absolute ``tolerance``.

    ``noise`` is unit normal, (B, *shape); the result is float64. For ``sigma_min`` = 0 the flow is followed to
    ``sigma_floor`` and closed with x = D, whose error is of the order σ_floor² times the curvature of ln p: choose
    ``sigma_floor`` a hundred times below the finest scale of the data. Tolerances apply to each sample by itself: the
    step follows the worst sample, so that a sample's answer does not lean on its batch.

    ``callback`` is told σ now and then. Raises ``ValueError`` for levels that do not fall, and ``FloatingPointError``
    where the denoiser returns NaN, or where ``most_evaluations`` do not suffice (a denoiser that is not smooth, such as
    a network in half precision, cannot be integrated to 1e-10: raise ``tolerance``).
    """
    nonnegative("sigma_min", sigma_min)
    end = sigma_min if sigma_min > 0 else sigma_floor
    falling("sigma_min", end, "sigma_max", sigma_max)
    positive("tolerance", tolerance)
    shape, device = noise.shape, noise.device
    kwargs = dict(cond or {})
    evaluations = 0

    def denoise(x: np.ndarray, sigma: float) -> Tensor:
        state = torch.from_numpy(x).to(device).view(shape)
        return estimate(denoiser, state, torch.tensor(sigma, dtype=torch.float64, device=device), kwargs)

    def slope(lam: float, x: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        sigma = math.exp(-lam)
        if evaluations > most_evaluations:
            raise FloatingPointError(
                f"reference: {most_evaluations:,} evaluations were not enough, at sigma = {sigma:.3g}; raise the "
                f"tolerance ({tolerance:g}) if the denoiser is not smooth to that many digits"
            )
        if callback is not None:
            callback(sigma)
        out = denoise(x, sigma).reshape(-1).cpu().numpy() - x
        if not np.isfinite(out).all():
            raise FloatingPointError(f"denoiser: returned NaN or infinity at sigma = {sigma:.6g}")
        return out

    with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported by slope
        x_max = noise.double() * sigma_max
        x_max = x_max if anchor is None else x_max + checked_anchor(anchor, noise)
        start = x_max.reshape(-1).cpu().numpy()
        # scipy's error norm is the RMS over the whole vector: tighten it so that each sample meets the tolerance
        tight = tolerance / math.sqrt(shape[0])
        span = (-math.log(sigma_max), -math.log(end))
        rtol = max(tight, 100 * np.finfo(np.float64).eps)
        solution = solve_ivp(slope, span, start, method="DOP853", rtol=rtol, atol=tight, t_eval=span[1:])
        if not solution.success:
            raise FloatingPointError(f"reference: DOP853 stopped: {solution.message}")
        x = solution.y[:, -1]
        out = torch.from_numpy(x).to(device).view(shape) if sigma_min > 0 else denoise(x, end)
        return out.clone()
