"""What is measured of data once and kept with a run, so that the run needs them no more: moments, and a few samples.

The moments are those of a part of the data, drawn by the seeded order that training uses (:func:`.survey.part`), in the
units of the network. In place of the covariance C, which has d² numbers, they hold what the error of a Gaussian prior
needs of it: its trace, and ‖C‖² without the bias of few samples. Up to ``MOST_COVARIANCE`` dimensions they hold C too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .dataset import Dataset

MOST_SAMPLES = 10_000
MOST_NUMBERS = 2**24
"""In the samples that are measured, so that large images are read for seconds and not for minutes."""
MOST_COVARIANCE = 256
MOST_SHOWN = 64
MOST_SHOWN_BYTES = 2**22
"""Of the samples that are kept to be shown."""


class Moments(NamedTuple):
    """Of ``samples`` samples, float64: their ``mean`` (*shape), the ``variance`` of an entry on average over all d, and
    ``squared``, the sum of the squares of all entries of C, without bias. ``covariance``: that of the samples, (d, d),
    where d is small."""

    mean: Tensor
    variance: float
    squared: float
    samples: int
    covariance: Tensor | None = None

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
    return Moments(kept, trace * m / n / d, max(squared, trace**2 / d), n, covariance)


def measure(dataset: Dataset) -> Measured:
    """What is kept of ``dataset``; what it has been given is given back."""
    from .dataset import batch
    from .survey import part

    if dataset.measured is not None:
        return dataset.measured
    d = math.prod(dataset.shape)
    chosen = part(dataset, max(MOST_SHOWN, min(MOST_SAMPLES, MOST_NUMBERS // d)))
    found = moments(batch(dataset, chosen)[0])
    few = part(dataset, MOST_SHOWN)
    some = dataset.stored[few[:1]]
    room = max(1, MOST_SHOWN_BYTES // (d * some.element_size()))
    few = few[torch.linspace(0, len(few) - 1, min(len(few), room)).long()]
    return Measured(found, dataset.stored[few].clone(), None if dataset.labels is None else dataset.labels[few])
