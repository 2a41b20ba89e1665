"""Whether a convention is the right one, asked of the denoiser itself.

A denoiser that is read rightly returns x as σ → 0, to about σ; its output keeps to the data's size at every σ; and its
error on noisy data is no larger than the one it has when read in any neighbouring convention. The last is the test:

    E (1/d) ‖D(x_0 + σ n; σ) − x_0‖² (σ² + σ_d²)/(σ σ_d)²,

the weight of EDM, by which the best linear denoiser of white data has 1 at every σ. A network that was read wrongly is
told the wrong time, sees another scale, or has its output in the wrong place, and is far above.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edm_unified import schedules
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import (
    DDPM,
    EDM,
    VP,
    DataPrediction,
    FlowMatching,
    OnSchedule,
    Preconditioning,
    SubVP,
    VPrediction,
)
from edm_unified.schedules import BetaTable, Trigonometric
from edm_unified.training.trained_denoiser import TrainedDenoiser

LEVELS = 8
MARGIN = 0.97
"""A neighbour is named if its loss is below this share of that of the convention as it was read."""


class Negated(nn.Module):
    """Minus a network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **cond: Any) -> Tensor:
        return -self.network(*args, **cond)  # type: ignore[no-any-return]


class Neighbour(NamedTuple):
    """Another convention: in words, as a row, and whether the output's sign is turned."""

    words: str
    row: Preconditioning
    negate: bool = False


class Fit(NamedTuple):
    """The loss of one convention: its mean over the levels, and at each."""

    words: str
    loss: float
    losses: tuple[float, ...]


class Check(NamedTuple):
    """What :func:`check` found.

    ``sigmas``: the levels. ``nearness``: rms(D − x)/σ at the lowest, about 1 or less of a denoiser. ``spread``: the
    standard deviation of D at the highest, ``sigma_data`` that of the data. ``fits``: the convention as it was read,
    then its neighbours, the best first. ``between``: the rms of the difference of D, over σ, between a told fraction
    and the nearest step of a table, at levels between its own; nan where there is no table.
    """

    sigmas: tuple[float, ...]
    nearness: float
    spread: float
    sigma_data: float
    fits: tuple[Fit, ...]
    between: float

    @property
    def declared(self) -> Fit:
        """The convention as it was read."""
        return self.fits[0]

    @property
    def best(self) -> Fit:
        """The one of the least loss."""
        return min(self.fits, key=lambda fit: fit.loss)

    @property
    def warning(self) -> str | None:
        """A sentence where another convention fits better than the one that was read, or none does."""
        if not self.best.loss < MARGIN * self.declared.loss:
            return None
        return (
            f"with {self.best.words} the loss is {self.best.loss:.3g}, as it was read {self.declared.loss:.3g}: the "
            "convention is probably that one"
        )


def general(row: Preconditioning) -> OnSchedule | None:
    """``row`` as one of :class:`OnSchedule`, where it is one."""
    match row:
        case OnSchedule():
            return row
        case DDPM():
            noise: Any = "index" if row.index == "log_linear" else "nearest_index"
            return OnSchedule(BetaTable(row.betas, row.num_steps, row.beta_start, row.beta_end), "epsilon", noise)
        case FlowMatching():
            return OnSchedule(schedules.FlowMatching(), "velocity")
        case VPrediction():
            return OnSchedule(Trigonometric(), "v")
        case DataPrediction():
            return OnSchedule(Trigonometric(), "x0")
        case VP():
            return OnSchedule(schedules.VP(row.beta_d, row.beta_min), "epsilon", scale=row.M - 1.0)
        case SubVP():
            return OnSchedule(schedules.SubVP(row.beta_d, row.beta_min), "epsilon", scale=row.M - 1.0)
        case _:
            return None


def neighbours(row: Preconditioning) -> list[Neighbour]:
    """Conventions that are taken for ``row`` by mistake: another target, sign, direction or scale of the time."""
    if isinstance(row, EDM):
        return [
            Neighbour("EDM's with the sign of F turned", row, True),
            *(Neighbour(f"sigma_data {s:g}", EDM(s)) for s in (0.5 * row.sigma_data, 2 * row.sigma_data)),
            Neighbour("v of σ_data 1, told ln(σ)/4", OnSchedule(Trigonometric(), "v", "log_sigma", scale=0.25)),
        ]
    base = general(row)
    found = [] if base is not None else [Neighbour("the sign of the output turned", row, True)]
    if base is None:
        return found
    for predicts in ("epsilon", "v", "velocity", "x0"):
        if predicts != base.predicts:
            other = dataclasses.replace(base, predicts=predicts, toward="noise")  # type: ignore[arg-type]
            found.append(Neighbour(f"prediction {predicts}", other))
            if predicts == "velocity":
                found.append(Neighbour("prediction velocity, x_0 - n", dataclasses.replace(other, toward="data")))
    found.append(Neighbour("the sign of the output turned", base, True))
    if base.noise not in ("sigma", "log_sigma") and math.isfinite(base.schedule.t_max):
        found.append(Neighbour("the time from the other end", dataclasses.replace(base, reversed=not base.reversed)))
        found.append(
            Neighbour("the time from the other end, and the sign turned",
                      dataclasses.replace(base, reversed=not base.reversed), True)
        )  # fmt: skip
    for factor in (1000.0, 0.001):
        found.append(Neighbour(f"the time times {factor:g}", dataclasses.replace(base, scale=base.scale * factor)))
    return found


@torch.no_grad()
def check(
    model: TrainedDenoiser,
    x0: Tensor,
    label: Tensor | None = None,
    seed: int = 0,
    cond: Mapping[str, Any] | None = None,
) -> Check:
    """How well the convention of ``model`` fits, on ``x0`` (B, *shape) of its data; ``label`` (B,) their classes, and
    ``cond`` their other conditions.

    Levels are spread evenly in ln σ where the data are neither drowned nor clean: σ from 0.05 to 20 times their
    standard deviation, within what the network knows.
    """
    inner = model.denoiser
    x0 = x0.to(torch.float64)
    sigma_data = float(x0.std())
    if not sigma_data > 0:
        raise ValueError("data: all samples are one constant, by which no convention can be told from another")
    low = max(0.05 * sigma_data, inner.sigma_min * 1.001)
    high = min(20.0 * sigma_data, inner.sigma_max * 0.999)
    if not low < high:
        raise ValueError(
            f"data: of std {sigma_data:.3g} they lie outside the network's levels, {low:.3g} to {high:.3g}"
        )
    sigmas = torch.exp(torch.linspace(math.log(low), math.log(high), LEVELS, dtype=torch.float64))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    told = dict(cond or {}) | ({} if model.classes == 0 else {"label": _labels(model, len(x0), label)})

    def denoised(row: Preconditioning, negate: bool, sigma: Tensor) -> Tensor:
        network = Negated(inner.network) if negate else inner.network
        return Preconditioned(network, row, inner.dtype)(x0 + sigma * noise, sigma, **told)  # type: ignore[no-any-return]

    def fit(words: str, row: Preconditioning, negate: bool) -> Fit:
        losses = []
        for sigma in sigmas:
            error = float((denoised(row, negate, sigma) - x0).square().mean())
            losses.append(error * float((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2))
        return Fit(words, sum(losses) / len(losses), tuple(losses))

    row = inner.preconditioning
    own = fit("as it was read", row, False)
    own = own if math.isfinite(own.loss) else own._replace(loss=math.inf)  # else nothing would be less than it
    others = []
    for neighbour in neighbours(row):
        try:
            found = fit(*neighbour)
        except Exception:  # a network may refuse what it was never told, such as a step beyond its table
            found = Fit(neighbour.words, math.inf, ())
        others.append(found if math.isfinite(found.loss) else found._replace(loss=math.inf))
    lowest, highest = sigmas[0], sigmas[-1]
    near = denoised(row, False, lowest) - (x0 + lowest * noise)
    return Check(
        tuple(sigmas.tolist()),
        float(near.square().mean().sqrt() / lowest),
        float(denoised(row, False, highest).std()),
        sigma_data,
        (own, *sorted(others, key=lambda found: found.loss)),
        _between(row, denoised, sigmas),
    )


def _labels(model: TrainedDenoiser, count: int, label: Tensor | None) -> Tensor:
    if label is not None:
        return label
    drawn = model.labels_for(count)
    return torch.full((count,), -1) if drawn is None else drawn


def _between(row: Preconditioning, denoised: Any, sigmas: Tensor) -> float:
    """rms(D told a fraction − D told the nearest step)/σ, at the levels half-way between two of a table."""
    base = general(row)
    if base is None or not isinstance(base.schedule, BetaTable) or base.noise not in ("index", "nearest_index"):
        return math.nan
    table = base.schedule.sigmas
    where = torch.searchsorted(table, sigmas).clamp(1, len(table) - 1)
    halfway = torch.sqrt(table[where] * table[where - 1])
    rows = [dataclasses.replace(base, noise=noise) for noise in ("index", "nearest_index")]  # type: ignore[arg-type]
    parts = [((denoised(rows[0], False, s) - denoised(rows[1], False, s)) / s).square().mean() for s in halfway]
    return float(torch.stack(parts).mean().sqrt())
