"""Images per second from a folder of JPEGs: the package's threads against the processes of torch's DataLoader.

    python tests/benchmarks/bench_reading.py [--images 512] [--size 64] [--workers 1,2,4] [--seconds 10]

The folder is made for the run: crops of scikit-learn's two photographs, 500×375 and of quality 90 as ImageNet's, which
are decoded, resized to cover a square and cropped. Both read the same files with the same function, in batches of 64,
in turns within one run, so that what else the machine does falls on both; the first batches are not counted. Torch and
OpenMP have one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader

from edm_unified.data import ImageFolder, Rows, prefetch
from edm_unified.data.prefetch import default_workers

BATCH = 64


class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """One file at a time, as the DataLoader wants it."""

    def __init__(self, stored: Rows) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return int(self._stored.shape[0])

    def __getitem__(self, i: int) -> Tensor:
        return self._stored[torch.tensor([i])][0]


def folder(path: Path, number: int) -> None:
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for i in range(number):
        photograph = photographs[i % 2]
        y, x = rng.integers(0, photograph.shape[0] - 375), rng.integers(0, photograph.shape[1] - 500)
        Image.fromarray(photograph[y : y + 375, x : x + 500]).save(path / f"{i:05d}.jpg", quality=90)


def threads(stored: Rows, order: Tensor, workers: int) -> Iterator[Tensor]:
    return prefetch(stored, chain.from_iterable(repeat(order.split(BATCH))), workers)


def processes(stored: Rows, order: Tensor, workers: int) -> Iterator[Tensor]:
    sampler = chain.from_iterable(repeat([batch.tolist() for batch in order.split(BATCH)]))
    return iter(DataLoader(Files(stored), batch_sampler=sampler, num_workers=workers))  # type: ignore[arg-type]


def speed(batches: Iterator[Tensor], workers: int, seconds: float) -> float:
    """Images per second, once every worker is at work and what was read before that is gone."""
    for _ in range(2 * workers + 4):
        next(batches)
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        images += len(next(batches))
    return images / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", help="counts, with commas between")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = [int(n) for n in (options.workers or f"1,2,{default_workers()}").split(",")]
    with tempfile.TemporaryDirectory() as path:
        folder(Path(path), options.images)
        stored = ImageFolder(path, size=options.size, in_memory=False).load().stored
        order = torch.randperm(options.images, generator=torch.Generator().manual_seed(0))
        found: dict[tuple[int, str], list[float]] = {}
        for _ in range(options.turns):
            for workers in dict.fromkeys(counts):
                for way in (threads, processes):
                    batches = way(stored, order, workers)
                    found.setdefault((workers, way.__name__), []).append(speed(batches, workers, options.seconds))
                    del batches  # ends its workers
    print(f"{options.images} JPEGs of 500×375 to {options.size}×{options.size}, batch {BATCH}, {os.cpu_count()} CPUs, "
          f"torch {torch.__version__}, Pillow {Image.__version__}; images/s, median of {options.turns}")  # fmt: skip
    print(f"{'workers':>8}{'threads':>10}{'DataLoader':>12}")
    for workers in dict.fromkeys(counts):
        ours, theirs = (statistics.median(found[workers, way]) for way in ("threads", "processes"))
        print(f"{workers:8}{ours:10.0f}{theirs:12.0f}")


if __name__ == "__main__":
    main()
