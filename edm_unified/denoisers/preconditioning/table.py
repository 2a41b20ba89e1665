"""ε-networks whose c_noise is the index of a step in a table of betas: DDPM and iDDPM."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from edm_unified import schedules
from edm_unified.components.component import component
from edm_unified.components.constraints import Positive, whole
from edm_unified.denoisers import parametrization
from edm_unified.denoisers.preconditioning.base import EPSILON_FORMULAS, Predicts, unit_variance
from edm_unified.schedules.base import float64
from edm_unified.schedules.table import Beta, BetaKind, NumSteps


def index_in(table: Tensor, sigma: Tensor) -> Tensor:
    """The place 0 … M−1 of ``sigma`` in the rising ``table`` of ln σ_k, linear in ln σ between levels; beyond its ends
    the end."""
    table = table.to(sigma.device, non_blocking=True)
    level = sigma.log().clamp(table[0], table[-1])
    above = torch.searchsorted(table, level).clamp(1, len(table) - 1)
    here, below = table.take(above), table.take(above - 1)  # table[above] would wait for an index on a device
    index = above - (here - level) / (here - below)
    nearest = index.round()
    # a level of the table must be told as a whole number, also if its logarithm is an ulp off
    return torch.where((index - nearest).abs() < 1e-9, nearest, index)


@component
class DDPM(Predicts):
    """ε-network that counts the steps of a table of betas, k = 0 … M−1 (Ho et al. 2020; DDIM and Stable Diffusion too).

    Level σ_k = √((1−ᾱ)/ᾱ) has the index k. Between levels ``index`` = ``log_linear`` interpolates k linearly in
    ln σ (a sinusoidal embedding takes fractions) and ``nearest`` rounds to the level nearest in ln σ (for networks
    with an embedding table). Beyond the ends of the table it is the index of the end. ``betas`` … as in
    :class:`edm_unified.schedules.BetaTable`.
    """

    betas: BetaKind | tuple[float, ...] = "linear"
    num_steps: NumSteps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    index: Literal["log_linear", "nearest"] = "log_linear"
    kind: Literal["ddpm"] = "ddpm"
    form: ClassVar[parametrization.Parametrization] = parametrization.Epsilon()
    formulas: ClassVar[dict[str, str]] = EPSILON_FORMULAS | {"c_noise": "k, the index of σ in √((1−ᾱ_k)/ᾱ_k)"}

    def __post_init__(self) -> None:
        schedules.BetaTable(self.betas, self.num_steps, self.beta_start, self.beta_end)  # for its checks
        if len(self.sigmas) < 2:
            raise ValueError(f"betas: must have at least 2 steps, got {len(self.sigmas)}")

    @cached_property
    def sigmas(self) -> Tensor:
        """σ_0 < … < σ_{M−1}."""
        return schedules.table_sigmas(schedules.beta_table(self.betas, self.num_steps, self.beta_start, self.beta_end))

    @cached_property
    def _log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        index = index_in(self._log_sigmas, float64(sigma))
        return index.round() if self.index == "nearest" else index


@component
class IDDPM(Predicts):
    """c_noise = M−1−argmin_j |u_j − σ| (Nichol & Dhariwal 2021 as read by EDM, Table 1), with the cosine table

        u_M = 0,  u_{j−1} = √((u_j² + 1)/max(ᾱ_{j−1}/ᾱ_j, C_1) − 1),  ᾱ_j = sin²((π/2) j/(M(C_2+1))).

    u_0 = 20291 … u_{M−1} = 0.0064; u_M = 0 is left out of the argmin, as its index would be −1. The same levels as
    ``BetaTable(betas="cosine")``, counted from the other end, so that c_noise is again the step k. The variances
    that such networks also predict are dropped by whoever loads them.
    """

    C_1: Beta = 0.001
    C_2: Positive = 0.008
    M: Annotated[int, whole(least=2, most=100_000)] = 1000
    kind: Literal["iddpm"] = "iddpm"
    form: ClassVar[parametrization.Parametrization] = parametrization.Epsilon()
    formulas: ClassVar[dict[str, str]] = EPSILON_FORMULAS | {"c_noise": "M−1−argmin_j |u_j−σ|"}

    @cached_property
    def u(self) -> Tensor:
        """u_0 > … > u_{M−1} > u_M = 0."""
        betas = schedules.beta_table("cosine", self.M, offset=self.C_2, max_beta=1 - self.C_1)
        return torch.cat([schedules.table_sigmas(betas).flip(0), betas.new_zeros(1)])

    @cached_property
    def _boundaries(self) -> Tensor:
        """Midpoints of u_{M−1} < … < u_0, between which the nearest u_j does not change."""
        rising = self.u[:-1].flip(0)
        return (rising[1:] + rising[:-1]) / 2

    @property
    def sigma_min(self) -> float:
        return float(self.u[-2])

    @property
    def sigma_max(self) -> float:
        return float(self.u[0])

    def c_in(self, sigma: float | Tensor) -> Tensor:
        return unit_variance(sigma)

    def c_noise(self, sigma: float | Tensor) -> Tensor:
        sigma = float64(sigma)
        return torch.searchsorted(self._boundaries.to(sigma.device, non_blocking=True), sigma).to(torch.float64)
