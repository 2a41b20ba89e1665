"""What ``edm-unified likelihood`` finds out, as text and as a file."""

from __future__ import annotations

import io
import json
import math
import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import Tensor

    from edm_unified.data import Dataset
    from edm_unified.likelihood.rows import LikelihoodJob, LikelihoodRows

_INDENT = 14


def _mean(values: Tensor) -> str:
    se = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{float(values.mean()):.4f}" + (f" ± {se:.4f}" if math.isfinite(se) else "")


def row(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<{_INDENT}}{text}", 110, subsequent_indent=" " * _INDENT)


def report(
    name: str, dataset: Dataset, job: LikelihoodJob, rows: LikelihoodRows, prior_error: float | None = None
) -> list[str]:
    """The lines. ``prior_error``: its mean in nats, where it is known."""
    from edm_unified.likelihood import offset
    from edm_unified.likelihood.prior import prior_sizes

    d = math.prod(dataset.shape)
    bits = -rows.nats / (d * math.log(2))
    of = "x | class" if job.conditional else "x"
    what = (
        f"variational bound on ln p({of})"
        if job.bound
        else f"ln p({of}; sigma_min = {job.sigma_min:g}) of the probability-flow ODE"
    )
    shape = "×".join(map(str, dataset.shape))
    lines = [
        click.style(f"{name}: {what}", bold=True),
        row("data", f"{dataset.name}, {len(rows.nats):,} samples of {shape}; ± is the standard error over them"),
        row("nats", _mean(rows.nats)),
        row("bits/dim", f"{_mean(bits)}   of the density in the units of the network"),
    ]
    if rows.entropy is not None:
        shift = -rows.entropy / (d * math.log(2))
        lines.append(
            row(
                "", f"{_mean(bits + shift)}   of the whole numbers, an upper bound: + {shift:.4f}, {_why(job, dataset)}"
            )
        )
    elif dataset.in_whole_numbers:
        shift = offset(dataset.scaling)
        lines.append(
            row(
                "",
                f"{_mean(bits + shift)}   of the density per grey level: + {shift:.4f}",
            )
        )
    if rows.parts is not None:
        terms = zip(("prior", "diffusion", "decoder"), rows.parts.mean(1).tolist(), strict=True)
        lines.append(row("terms", ", ".join(f"{term} {value:.4f}" for term, value in terms) + " nats"))
    own = rows.standard_error[rows.standard_error.isfinite()]
    if len(own) and float(own.max()) > 0:
        in_the_mean = float(own.square().sum().sqrt()) / len(rows.nats)
        lines.append(
            row(
                "estimator",
                f"standard error {float(own.mean()):.4f} nats in each sample, {in_the_mean:.4f} in the mean",
            )
        )
    if rows.closed is not None:
        gap = (rows.nats - rows.closed).abs() / (d * math.log(2))
        lines.append(
            row("closed form", f"{_mean(rows.closed)} nats; largest difference {float(gap.max()):.2g} bits/dim")
        )
    if rows.reconstruction is not None:
        lines.append(row("encoded", f"and decoded again: largest difference {rows.reconstruction:.2g}"))
    prior = f"N(mean, sigma_max² + {float(job.prior.variances[0]):.3g}) with the mean and variance of the data"
    zero = float(job.prior.variances[0]) == 0
    off = ""
    if prior_error is not None:
        mean, single = prior_sizes(prior_error, d)
        off = f"; off by about {mean:.2g} bits/dim on average, up to {single:.2g} for single samples"
    lines.append(row("prior", f"at sigma_max = {job.sigma_max:g}: " + ("N(0, sigma_max²)" if zero else prior) + off))
    lines.append(row("evaluations", f"{rows.nfe} of D for each batch"))
    return lines


def _why(job: LikelihoodJob, dataset: Dataset) -> str:
    import torch

    if job.noise == "truncated_normal":
        return "less the entropy of the truncated normal"
    scale = torch.as_tensor(dataset.scaling.scale, dtype=torch.float64)
    if scale.numel() > 1:
        return "the mean of log₂ 1/width of a grey level over the channels"
    return f"log₂ {float(scale):g}, as a grey level is 1/{float(scale):g} wide"


def contents(rows: LikelihoodRows, shape: tuple[int, ...], suffix: str, first: int) -> bytes:
    """The value of every sample as a .npy or .jsonl file."""
    import numpy as np

    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rows.nats.numpy(), allow_pickle=False)
        return buffer.getvalue()
    d = math.prod(shape)
    extra = rows.entropy or 0.0
    lines = [
        {"index": first + i, "nats": nats, "standard_error": se if math.isfinite(se) else None,
         "bits_per_dim": -(nats + extra) / (d * math.log(2))}
        for i, (nats, se) in enumerate(zip(rows.nats.tolist(), rows.standard_error.tolist(), strict=True))
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines).encode()
