"""Many students at once: linear multistep methods that differ in a few numbers, run over the same noises.

A student of N evaluations is a vector θ of numbers:

    ln σ_1, …, ln σ_{N−1}                  the levels but for the first, which is σ_max
    e_i, δ_i1, …, δ_ik,  k = min(i, K)     for every step
    ln τ_0/σ_0, …                          what D is told in place of σ_i, only where asked for

    x_{i+1} = (b/a) x_i + (1 − b/a) [Σ_j c_j D_{i−j} + e_i (D_i − x_i) + Σ_j δ_ij (D_{i−j} − D_i)]

with a = σ_i, b = σ_{i+1}, and c the weights of exponential Adams of order 2 on these levels. So e = δ = 0 is that
method on any levels, every number is of order one, and a constant D = x is kept exactly whatever they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edm_unified.denoisers.denoiser import Denoiser, estimate
from edm_unified.sampling.solvers.fitted import Rows

Array = np.ndarray[Any, np.dtype[np.float64]]


class Layout:
    """Where each number of θ is: N evaluations, at most ``depth`` past outputs in a step, levels told or not."""

    def __init__(self, n: int, depth: int = 3, told: bool = False) -> None:
        self.n, self.depth, self.told = n, depth, told
        self.of_step: list[slice] = []
        size = n - 1
        first = list(range(1, n))
        for i in range(n):
            width = 1 + min(i, depth)
            self.of_step.append(slice(size, size + width))
            first += [i + 1] * width
            size += width
        self.of_told = slice(size, size + n) if told else slice(size, size)
        first += list(range(n)) if told else []
        self.size = size + (n if told else 0)
        self.first: Sequence[int] = first
        """For each number the first x_i, or D(x_i), that it changes."""

    def start(self, sigmas: Sequence[float]) -> Array:
        """θ of exponential Adams of order 2 on σ_0 > … > σ_{N−1}."""
        theta = np.zeros(self.size)
        theta[: self.n - 1] = np.log(sigmas[1 : self.n])
        return theta

    def sigmas(self, sigma_max: float, thetas: Array) -> Array:
        """(V, N): the levels above 0."""
        return np.concatenate([np.full((len(thetas), 1), sigma_max), np.exp(thetas[:, : self.n - 1])], axis=1)

    def asked(self, sigma_max: float, thetas: Array) -> Array:
        """(V, N): the levels that D is told."""
        sigmas = self.sigmas(sigma_max, thetas)
        return sigmas * np.exp(thetas[:, self.of_told]) if self.told else sigmas

    def weights(self, sigmas: Array, thetas: Array) -> list[Array]:
        """For each step (V, 2 + k): the weights of x, D_i, D_{i−1}, …"""
        found = []
        steps = np.log(sigmas[:, :-1] / sigmas[:, 1:])
        for i in range(self.n):
            theta = thetas[:, self.of_step[i]]
            kept = sigmas[:, i + 1] / sigmas[:, i] if i + 1 < self.n else np.zeros(len(thetas))
            row = np.zeros((len(thetas), 2 + max(theta.shape[1] - 1, min(i, 1))))
            row[:, 1] = 1.0
            if 0 < i < self.n - 1:
                h, before = steps[:, i], steps[:, i - 1]
                slope = (np.expm1(-h) + h) / (-np.expm1(-h)) / before  # h φ_2(−h)/(1 − e^{−h}), over r = h_before/h
                row[:, 1] += slope
                row[:, 2] -= slope
            row[:, 1] += theta[:, 0]
            for j in range(1, theta.shape[1]):
                row[:, 1 + j] += theta[:, j]
                row[:, 1] -= theta[:, j]
            row *= (1 - kept)[:, None]
            row[:, 0] = kept - (1 - kept) * theta[:, 0]
            found.append(row)
        return found

    def rows(self, sigma_max: float, theta: Array, digits: int = 10) -> tuple[tuple[float, ...], Rows]:
        """The levels with 0, and the rows of :class:`~edm_unified.sampling.solvers.Fitted`, in so many digits."""
        sigmas = self.sigmas(sigma_max, theta[None])
        rows = []
        for weights in self.weights(sigmas, theta[None]):
            of_x, _, *past = (round(float(weight), digits) for weight in weights[0])
            rows.append((of_x, round(1 - of_x - math.fsum(past), digits), *past))
        return (*(float(f"{sigma:.{digits}g}") for sigma in sigmas[0]), 0.0), tuple(rows)


class Asked:
    """D under a condition, asked about many batches at once.

    ``cond`` belongs to the batch: its tensors of the batch's length are repeated with it. ``most``: rows at a time.
    """

    def __init__(self, denoiser: Denoiser, cond: Mapping[str, object] | None, most: int = 1024) -> None:
        self.denoiser, self.cond, self.most = denoiser, dict(cond or {}), most

    def only(self, chosen: Tensor) -> Asked:
        """For those rows of the batch alone."""
        return Asked(self.denoiser, {key: _rows(value, chosen) for key, value in self.cond.items()}, self.most)

    def __call__(self, x: Tensor, sigmas: Array, part: slice) -> Tensor:
        """D of x (V, B, *shape), each of the V batches, rows ``part`` of all noises, at its own level.

        Raises ``FloatingPointError`` where it returns NaN or infinity for finite x. Where x is not finite, neither is
        what comes back.
        """
        out = torch.empty_like(x)
        for sigma in dict.fromkeys(sigmas.tolist()):
            places = np.flatnonzero(sigmas == sigma)
            level = torch.tensor(sigma, dtype=torch.float64, device=x.device)
            least = max(1, self.most // x.shape[1])
            for begin in range(0, len(places), least):
                chosen = torch.from_numpy(places[begin : begin + least])
                batch = x[chosen].flatten(0, 1)
                found = estimate(self.denoiser, batch, level, self._repeated(len(chosen), part))
                if not math.isfinite(found.sum()) and bool(
                    (~torch.isfinite(found)).any() & torch.isfinite(batch).all()
                ):
                    raise FloatingPointError(f"denoiser: returned NaN or infinity at sigma = {sigma:.6g}")
                out[chosen] = found.unflatten(0, (len(chosen), x.shape[1]))
        return out

    def _repeated(self, times: int, part: slice) -> dict[str, object]:
        chosen = {key: _rows(value, part) for key, value in self.cond.items()}
        return {
            key: value.repeat(times, *(1,) * (value.ndim - 1)) if isinstance(value, Tensor) and value.ndim else value
            for key, value in chosen.items()
        }


def _rows(value: object, chosen: slice | Tensor) -> object:
    """Those rows of what D is told; what has none is as it is."""
    return value[chosen] if isinstance(value, Tensor) and value.ndim else value


def ends(
    asked: Asked, layout: Layout, thetas: Array, start: Tensor, sigma_max: float, part: slice, share: bool = False
) -> Tensor:
    """Where the students ``thetas`` (V, size) end from ``start`` (B, *shape): (V, B, *shape).

    ``share``: the first is a student, and each of the others differs from it in the number of its place alone; a run
    then begins where it first differs.
    """
    sigmas = layout.sigmas(sigma_max, thetas)
    told, weights = layout.asked(sigma_max, thetas), layout.weights(sigmas, thetas)
    first = [0, *layout.first] if share else [0] * len(thetas)
    active = [v for v, at in enumerate(first) if at == 0]
    x, outputs = start.expand(len(active), *start.shape), list[Tensor]()
    for i in range(layout.n):
        outputs.append(asked(x, told[active, i], part))
        outputs = outputs[-1 - max(layout.depth, 1) :]
        if new := [v for v, at in enumerate(first) if at == i + 1]:
            active += new
            x, outputs = _forked(x, len(new)), [_forked(one, len(new)) for one in outputs]
        row = torch.from_numpy(weights[i][active]).to(x)
        shape = (len(active), *(1,) * start.ndim)
        x = row[:, 0].view(shape) * x
        for j in range(row.shape[1] - 1):
            x = x + row[:, 1 + j].view(shape) * outputs[-1 - j]
    return x[torch.from_numpy(np.argsort(active))]


def _forked(x: Tensor, times: int) -> Tensor:
    """With copies of the first behind."""
    return torch.cat([x, x[:1].expand(times, *x.shape[1:])])
