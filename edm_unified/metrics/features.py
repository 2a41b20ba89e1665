"""Features for metrics: what a small classifier, trained here on the data's own classes, sees in a sample.

Distances between pixels say little about images. FID and its kin take the features of a network that was trained to
tell classes apart; theirs are of Inception and ImageNet, for photographs of 299 pixels. Here a network of a few layers
learns the classes of the recipe's own data, in seconds on a CPU:

    images   conv 3×3 (24), conv 3×3 stride 2 (48), conv 3×3 stride 2 (64), mean over each quarter, linear (64), out
    others   linear (128), linear (128), linear (64), out

with SiLU between. The features are the 64 activations before the last layer, less their mean over the data and over the
root of their total variance there, so that the data have variance 1 in all. Images larger than 32 pixels are averaged
down to at most that. Everything follows from ``seed``: the same numbers on the same machine, threads and versions.

They are no FID: values compare methods on one set of data, and nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.data import Dataset, batch, order

STEPS, BATCH, RATE = 300, 128, 2e-3
MOST_SAMPLES = 16384
"""Of the data that the classifier is trained on."""
MOST_PIXELS = 32
SIZE = 64


class Features:
    """The Fréchet distance between what a small classifier, trained on the data and their classes, sees in the samples
    and in the data.

    An instance takes samples (N, *shape) to features (N, 64), float64. ``accuracy``: the share that it gets right of
    what it learnt.

    Raises ``ValueError`` where the data have no classes, or one only, or several of one sample.
    """

    def __init__(self, dataset: Dataset, seed: int = 0) -> None:
        if dataset.labels is None or dataset.several or dataset.classes < 2:
            raise ValueError(f"data: {dataset.name} has no classes, which a classifier could learn features from")
        chosen = order.indices(len(dataset), seed, 0, min(MOST_SAMPLES, len(dataset)))
        images, labels = batch(dataset, chosen)
        assert labels is not None
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            self._body = _convolutions(images.shape[1]) if images.ndim == 4 else _perceptron(images[0].numel())
            self._head = nn.Linear(SIZE, dataset.classes)
            _train(nn.Sequential(self._body, self._head), _small(images), labels)
        self._mean, self._scale = torch.zeros(SIZE), torch.ones(())
        with torch.no_grad():
            raw = self._raw(images)
            self.accuracy = float((self._head(raw).argmax(1) == labels).double().mean())
        self._mean, self._scale = raw.mean(0), raw.var(0).sum().sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        """On the CPU, whatever the device of ``x``; NaN where a sample is not finite."""
        rows = x.detach().to("cpu", torch.float32)
        with torch.no_grad():
            found = (self._raw(rows) - self._mean) / self._scale
        bad = ~torch.isfinite(rows.flatten(1)).all(1)
        return found.double().masked_fill(bad[:, None], math.nan)

    def _raw(self, images: Tensor) -> Tensor:
        return torch.cat([self._body(_small(part)) for part in images.split(1024)])


def _small(images: Tensor) -> Tensor:
    if images.ndim != 4:
        return images.flatten(1)
    factor = math.ceil(max(images.shape[2:]) / MOST_PIXELS)
    return functional.avg_pool2d(images, factor, ceil_mode=True) if factor > 1 else images


def _convolutions(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 24, 3, padding=1), nn.SiLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, SIZE), nn.SiLU(),
    )  # fmt: skip


def _perceptron(size: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, SIZE), nn.SiLU()
    )


def _train(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    rule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
        rule.step()
