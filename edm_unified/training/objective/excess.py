"""Excess loss: the error of a trained denoiser above that of the exact one, where that is known.

The loss at a noise level splits into what no denoiser can explain and what this one has not (Karras et al. 2022,
appendix B.3; the cross term vanishes, as D* = E[x_0 | z]):

    E ‖D_θ − x_0‖² = E ‖D* − x_0‖² + E ‖D_θ − D*‖².

The last term is the excess. It is given relative to E ‖x_0 − c_skip(σ) z‖², the loss of an untrained network with
F = 0. The weight λ(σ) of an objective cancels in this ratio, so that methods with different weights can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edm_unified.components.component import count, positive
from edm_unified.denoisers.denoiser import Preconditioned, estimate
from edm_unified.denoisers.exact import GaussianMixture
from edm_unified.training.job import Job
from edm_unified.training.objective.noise import Noise, SigmaOfTime
from edm_unified.training.trained_denoiser import TrainedDenoiser


class Excess(NamedTuple):
    """At one noise level, each a mean over samples and entries, in squared units of the data."""

    sigma: float
    excess: float
    """E (D_θ − D*)²."""
    irreducible: float
    """E (D* − x_0)²."""
    to_explain: float
    """E (x_0 − c_skip z)²."""

    @property
    def relative(self) -> float:
        """The excess as a share of the variance to be explained."""
        return self.excess / self.to_explain


def covered(noise: Noise, schedule: SigmaOfTime, levels: int = 10) -> tuple[float, ...]:
    """The σ in the middle of each of so many equal shares of p(σ), rising: what training has seen and can be held to.

    With ten, from the 5 % to the 95 % quantile.
    """
    count("levels", levels)
    u = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return tuple(noise.quantile(u, schedule).tolist())


@torch.no_grad()
def excess_loss(
    denoiser: Preconditioned,
    exact: Callable[..., Tensor],
    draws_from: GaussianMixture,
    sigmas: Sequence[float],
    *,
    samples: int = 4096,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    label: Tensor | None = None,
) -> list[Excess]:
    """The excess of ``denoiser`` over ``exact`` at every level, on fresh draws of the distribution ``draws_from``.

    ``exact`` is its denoiser, usually the same object. ``label`` (samples,): classes to draw from and to tell both
    denoisers. The standard error is about √(2/(samples · d)) of each number.
    """
    count("samples", samples)
    x0 = draws_from.sample(samples, seed=seed, label=label)
    cond = {} if label is None else {"label": label}
    n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=x0.dtype).to(x0.device)
    found = []
    for sigma in sigmas:
        positive("sigmas", sigma)
        level = torch.tensor(sigma, dtype=torch.float64, device=x0.device)
        z = x0 + sigma * n
        ideal = estimate(exact, z, level, cond)
        ours = estimate(denoiser, z.to(dtype), level, cond).double()
        skip = z * float(denoiser.preconditioning.c_skip(sigma))
        parts = ((ours - ideal), (ideal - x0), (x0 - skip))
        found.append(Excess(float(sigma), *(float(part.square().mean()) for part in parts)))
    return found


def excess_of(trained: TrainedDenoiser, job: Job, levels: int = 32, samples: int = 4096) -> list[Excess]:
    """The excess of what a job made, ``edm.load(RUN)``, over the levels that its p(σ) covers; on the CPU.

    Raises ``ValueError`` where the exact D of the data is not known (``Dataset.exact``).
    """
    if job.dataset.exact is None:
        raise ValueError(f"data: the exact denoiser of {job.dataset.name} is not known, and so is no excess over it")
    trained, mixture = trained.cpu(), job.dataset.exact()
    label = trained.labels_for(samples)
    sigmas = covered(job.objective.noise, job.schedule, levels)
    return excess_loss(trained.denoiser, mixture, mixture, sigmas, samples=samples, label=label)
