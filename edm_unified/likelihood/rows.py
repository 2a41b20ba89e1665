"""Likelihoods of a data set, sample by sample: computed batch by batch, by the ODE or by the bound."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edm_unified import likelihood as lk
from edm_unified.data import Dataset
from edm_unified.data import batch as read
from edm_unified.data.kept import Moments, measure


class LikelihoodJob(NamedTuple):
    """What is to be found out, of which samples, and how."""

    bound: bool
    sigma_min: float
    sigma_max: float
    steps: int
    tolerance: float | None
    trace: Any
    probe: Any
    probes: int
    points: int
    prior: Any
    control: Any
    noise: Any
    seed: int
    conditional: bool
    conditions: Any
    anchor: str | None
    device: torch.device
    dtype: torch.dtype


class LikelihoodRows(NamedTuple):
    """Per sample, (N,) each, in nats; ``entropy`` is that of the dequantisation, None without one."""

    nats: Tensor
    standard_error: Tensor
    closed: Tensor | None
    entropy: float | None
    parts: Tensor | None  # (3, N) of the bound
    reconstruction: float | None
    nfe: int
    notes: tuple[str, ...]


@lru_cache(maxsize=1)  # asked for by the prior, and for its error
def moments_of(dataset: Dataset) -> Moments:
    """The moments of the data: of all of them, as files may be sorted by class."""
    return measure(dataset).moments


def rows(
    denoiser: Any,
    dataset: Dataset,
    job: LikelihoodJob,
    first: int,
    n: int,
    batch: int,
    check: bool,
    tell: Callable[[float, int, str], object],
) -> LikelihoodRows:
    """The values of samples ``first`` … first + n − 1, ``batch`` at a time; with ``check`` encoded and decoded too.

    ``tell(done, of, what)`` is called as they are computed.
    """
    nats, errors, closed, parts, entropy, nfe, worst = [], [], [], [], None, 0, None
    notes: dict[str, None] = {}
    for start in range(first, first + n, batch):
        indices = torch.arange(start, min(start + batch, first + n))
        x, entropy = _points(dataset, indices, job)
        x = x.to(job.device)
        cond = _cond(dataset, indices, job, first)
        common: Any = {"sigma_min": job.sigma_min, "sigma_max": job.sigma_max, "prior": job.prior, "seed": job.seed,
                       "first": start, "cond": cond}  # fmt: skip
        if job.anchor is not None:
            common["anchor"] = _anchor(job.anchor, cond, x)

        def on_step(step: int, steps: int, sigma: float, start: int = start, size: int = len(x)) -> None:
            tell(start - first + size * step / steps, n, f"sigma {sigma:.3g}")

        if job.bound:
            found = lk.variational_bound(denoiser, x, points=job.points, control=job.control, dtype=job.dtype, **common)
            nats.append(-found.nats.cpu())
            errors.append(found.standard_error.cpu())
            parts.append(torch.stack([found.prior, found.diffusion, found.reconstruction]).cpu())
            nfe = found.nfe
            tell(start - first + len(x), n, "noise levels")
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                warnings.simplefilter("ignore", lk.PriorWarning)  # that is on_step once, of all the data
                flow = lk.log_likelihood(
                    denoiser, x, steps=job.steps, tolerance=job.tolerance, trace=job.trace, probe=job.probe,
                    probes=job.probes, dtype=job.dtype, callback=on_step, **common,
                )  # fmt: skip
            notes.update(dict.fromkeys(str(warning.message) for warning in caught))
            nats.append(flow.nats.cpu())
            errors.append(flow.standard_error.cpu())
            nfe = flow.nfe
        if hasattr(denoiser, "log_prob"):
            closed.append(denoiser.log_prob(x, job.sigma_min, **(cond or {})).cpu())
        if check:
            settings: Any = {key: common[key] for key in ("sigma_min", "sigma_max", "cond")} | {
                "steps": job.steps, "tolerance": job.tolerance, "dtype": job.dtype}  # fmt: skip
            back = lk.decode(denoiser, lk.encode(denoiser, x, **settings), **settings)
            worst = max(worst or 0.0, float((back - x).abs().max()))
    return LikelihoodRows(
        torch.cat(nats), torch.cat(errors), torch.cat(closed) if closed else None, entropy,
        torch.cat(parts, 1) if parts else None, worst, nfe, tuple(notes),
    )  # fmt: skip


def _points(dataset: Dataset, indices: Tensor, job: LikelihoodJob) -> tuple[Tensor, float | None]:
    """The samples as points in the units of the network, and the entropy of what was added."""
    if job.noise is None:
        return read(dataset, indices)[0].to(torch.float64), None
    lowest, levels = dataset.grey_levels
    spread = lk.dequantize(
        dataset.stored[indices], job.noise, scaling=dataset.scaling, levels=levels, lowest=lowest,
        sigma_min=job.sigma_min, seed=job.seed, first=int(indices[0]),
    )  # fmt: skip
    return spread.x, spread.entropy


def _anchor(name: str, cond: dict[str, Any] | None, x: Tensor) -> Tensor:
    """The y of an anchored process, a row for each of x."""
    found = (cond or {}).get(name)
    if found is None:
        raise ValueError(f"sampler.anchor: there is no {name} to anchor the process at; give --cond {name}=FILE")
    if found.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"sampler.anchor: {name} is of shape {tuple(found.shape[1:])} and a sample of {tuple(x.shape[1:])}; they "
            "must be alike"
        )
    return torch.as_tensor(found.expand_as(x), dtype=x.dtype)


def _cond(dataset: Dataset, indices: Tensor, job: LikelihoodJob, first: int) -> dict[str, Any] | None:
    """The classes of the samples, and the other conditions: row 0 of these is that of the first sample asked for."""
    more: dict[str, Any] = {}
    if job.conditions is not None:
        more = job.conditions.rows(len(indices), int(indices[0]) - first, job.device)
    if job.conditional and dataset.labels is not None:
        more["label"] = dataset.labels[indices].to(job.device)
    return more or None
