"""What is measured of data once and kept with a run, so that the run needs them no more: moments, and a few samples.

The moments are those of a part of the data, drawn by the seeded order that training uses (:func:`.survey.part`), in the
units of the network. In place of the covariance C, which has d² numbers, they hold what the error of a Gaussian prior
needs of it: its trace, and ‖C‖² without the bias of few samples. Up to ``MOST_COVARIANCE`` dimensions they hold C too,
and beyond the ``MOST_DIRECTIONS`` directions of largest variance, so that a Gaussian of the data can be had.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edm_unified.denoisers.exact import Gaussian

    from .dataset import Dataset

MOST_SAMPLES = 10_000
MOST_NUMBERS = 2**24
"""In the samples that are measured, so that large images are read for seconds and not for minutes."""
MOST_COVARIANCE = 256
MOST_DIRECTIONS = 64
MOST_DIRECTION_BYTES = 2**22
MOST_SHOWN = 64
SMALL_SHOWN_BYTES = 2**16
"""Of samples that are kept in larger number, as vectors are."""
MOST_SHOWN_BYTES = 2**22
"""Of the samples that are kept to be shown."""


class Moments(NamedTuple):
    """Of ``samples`` samples, float64: their ``mean`` (*shape), the ``variance`` of an entry on average over all d, and
    ``squared``, the sum of the squares of all entries of C, without bias. ``covariance``: that of the samples, (d, d),
    where d is small; else ``directions`` (r, d) float32 with the largest ``variances`` (r,), falling."""

    mean: Tensor
    variance: float
    squared: float
    samples: int
    covariance: Tensor | None = None
    directions: Tensor | None = None
    variances: Tensor | None = None

    def gaussian(self, rank: int | None = None, floor: float = 1e-3) -> Gaussian | None:
        """What ``exact.Gaussian.fit`` makes of the samples, from what is kept; None where neither C nor directions are.

        Raises ``ValueError`` where ``rank`` is more than the directions that are kept.
        """
        from edm_unified.denoisers.exact import Gaussian

        d = self.mean.numel()
        if self.covariance is not None:
            C = self.covariance * (max(self.samples - 1, 1) / self.samples)
            if rank is None or rank >= d:
                return Gaussian(self.mean, C + floor * torch.eye(d, dtype=torch.float64))
            values, axes = torch.linalg.eigh(C)
            values, axes = values.flip(0)[:rank].clamp(min=0), axes.mT.flip(0)[:rank]
        elif self.directions is None or self.variances is None:
            return None
        else:
            kept = len(self.directions)
            if rank is not None and kept < rank < min(self.samples, d):
                raise ValueError(f"rank: a run keeps {kept} directions of these data; take {kept} or fewer")
            values, axes = self.variances[:rank], self.directions[:rank].to(torch.float64)
        rest = max(d * self.variance - float(values.sum()), 0.0) / max(d - len(values), 1)
        return Gaussian.low_rank(self.mean, axes.mT * (values - rest).clamp(min=0).sqrt(), rest + floor)

    @property
    def sigma_data(self) -> float:
        """The standard deviation of all numbers about their common mean."""
        return math.sqrt(self.variance + float(self.mean.var(correction=0)))


class Measured(NamedTuple):
    """The ``moments`` of data, and ``some`` of the samples (k, *shape) as they are stored, with their ``labels``."""

    moments: Moments
    some: Tensor
    labels: Tensor | None


def moments(samples: Tensor) -> Moments:
    """Those of ``samples`` (N, *shape), in which not all numbers need be finite: rows that are not are left out.

    Of Gaussian samples with covariance S about their mean, m = N − 1, E‖S‖² = (1 + 1/m) ‖C‖² + (tr C)²/m and
    E(tr S)² = (tr C)² + 2 ‖C‖²/m, which is solved for ‖C‖². Raises ``ValueError`` where there is no sample.
    """
    rows = samples.detach().to("cpu", torch.float64).flatten(1)
    rows = rows[torch.isfinite(rows).all(1)]
    n, d = rows.shape
    if n == 0:
        raise ValueError("data: no sample without NaN or inf")
    mean, m = rows.mean(0), max(n - 1, 1)
    centred = (rows - mean) / m**0.5
    gram = centred @ centred.mT if n < d else centred.mT @ centred  # of either, the squares sum to ‖S‖²
    trace = float(gram.diagonal().sum())
    squared = (float(gram.square().sum()) - trace**2 / m) / (1 + 1 / m - 2 / m**2) if n > 2 else 0.0
    small = d <= MOST_COVARIANCE
    covariance = (gram if n >= d else centred.mT @ centred) if small else None
    kept = mean.reshape(samples.shape[1:] if samples.ndim > 1 else (1,))
    most = min(MOST_DIRECTIONS, m, MOST_DIRECTION_BYTES // (4 * d))
    values, axes = (None, None) if small or most < 1 else _leading(centred, gram, most)
    if values is not None:
        values = values * (m / n)
    return Moments(kept, trace * m / n / d, max(squared, trace**2 / d), n, covariance, axes, values)


def _leading(centred: Tensor, gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest variances of ``centred`` (n, d), falling, and their directions (count, d) in float32.

    ``gram``: the smaller of XXᵀ and XᵀX. Beyond ``_MOST_EXACT`` rows its eigenvectors are found by block power
    iteration from a fixed start.
    """
    size = len(gram)
    if size <= _MOST_EXACT:
        values, vectors = torch.linalg.eigh(gram)
    else:
        start = torch.Generator().manual_seed(0)
        vectors = torch.randn(size, min(2 * count, size), generator=start, dtype=torch.float64)
        for _ in range(_ROUNDS):
            vectors = torch.linalg.qr(gram @ vectors).Q
        values, inner = torch.linalg.eigh(vectors.mT @ gram @ vectors)
        vectors = vectors @ inner
    values, vectors = values.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count]
    axes = vectors.mT if size == centred.shape[1] else torch.nn.functional.normalize(vectors.mT @ centred, dim=1)
    return values, axes.to(torch.float32).contiguous()


_MOST_EXACT = 512
_ROUNDS = 8


def measure(dataset: Dataset) -> Measured:
    """What is kept of ``dataset``; what it has been given is given back."""
    from .dataset import batch
    from .survey import part

    if dataset.measured is not None:
        return dataset.measured
    d = math.prod(dataset.shape)
    chosen = part(dataset, max(MOST_SHOWN, min(MOST_SAMPLES, MOST_NUMBERS // d)))
    found = moments(batch(dataset, chosen)[0])
    some = dataset.stored[part(dataset, 1)]
    size = d * some.element_size()
    few, room = part(dataset, max(MOST_SHOWN, SMALL_SHOWN_BYTES // size)), max(1, MOST_SHOWN_BYTES // size)
    few = few[torch.linspace(0, len(few) - 1, min(len(few), room)).long()]
    return Measured(found, dataset.stored[few].clone(), None if dataset.labels is None else dataset.labels[few])
