"""Where data come from: ``Digits().load()`` and its kin give a ``Dataset`` of samples, with classes if there are any.

Images are (N, C, H, W) float32 in [−1, 1]; signals (N, C, L); vectors (N, d), in whatever units they have. Nothing is
downloaded, nothing is unpickled that a stranger could have written, and whatever cannot be read is one line naming the
file. ``batch(dataset, indices)`` reads a few samples, ``prefetch`` one batch after another with several threads, and
``order.indices`` says in which order training sees them.
"""

from __future__ import annotations

from . import order
from .arrays import Arrays
from .dataset import BYTES, Dataset, Rows, Scaling, batch, to_bytes, to_unit
from .folders import CelebA, ImageFolder, ImageNet
from .fractal import Fractal
from .libraries import HuggingFace, TorchVision
from .packaged import Digits, PhotoPatches
from .prefetch import prefetch
from .synthetic import RandomMixture, Signals, TwoDimensional

AnyData = (
    Digits
    | PhotoPatches
    | TwoDimensional
    | Fractal
    | RandomMixture
    | Signals
    | ImageFolder
    | Arrays
    | TorchVision
    | CelebA
    | ImageNet
    | HuggingFace
)

__all__ = [
    "BYTES",
    "AnyData",
    "Arrays",
    "CelebA",
    "Dataset",
    "Digits",
    "Fractal",
    "HuggingFace",
    "ImageFolder",
    "ImageNet",
    "PhotoPatches",
    "RandomMixture",
    "Rows",
    "Scaling",
    "Signals",
    "TorchVision",
    "TwoDimensional",
    "batch",
    "order",
    "prefetch",
    "to_bytes",
    "to_unit",
]
