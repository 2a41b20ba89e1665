"""Where data come from: ``Digits().load()`` and its kin give a ``Dataset`` of samples, with classes if there are any.

Images are (N, C, H, W) float32 in [−1, 1]; signals (N, C, L); vectors (N, d), in whatever units they have. Nothing is
downloaded, nothing is unpickled that a stranger could have written, and whatever cannot be read is one line naming the
file. ``batch(dataset, indices)`` reads a few samples, ``prefetch`` one batch after another with several threads, and
``order.indices`` says in which order training sees them.
"""

from __future__ import annotations

from . import order
from .arrays import Arrays
from .dataset import BYTES, Dataset, Rows, Scaling, batch, conditions_of, to_bytes, to_unit
from .folders import CelebA, ImageFolder, ImageNet
from .fractal import Fractal
from .image_zip import ImageZip
from .libraries import HuggingFace, TorchVision
from .packaged import Digits, PhotoPatches
from .pairs import AnyPart, Pairs
from .prefetch import prefetch
from .published import Cifar, Idx, Stl10, Svhn
from .recognise import recognised
from .synthetic import RandomMixture, Signals, TwoDimensional
from .tables import Parquet
from .webdataset import WebDataset

AnyData = Digits | PhotoPatches | TwoDimensional | Fractal | RandomMixture | Signals | AnyPart | Pairs

__all__ = [
    "BYTES",
    "AnyData",
    "Arrays",
    "CelebA",
    "Cifar",
    "Dataset",
    "Digits",
    "Fractal",
    "HuggingFace",
    "Idx",
    "ImageFolder",
    "ImageNet",
    "ImageZip",
    "Pairs",
    "Parquet",
    "PhotoPatches",
    "RandomMixture",
    "Rows",
    "Scaling",
    "Signals",
    "Stl10",
    "Svhn",
    "TorchVision",
    "TwoDimensional",
    "WebDataset",
    "batch",
    "conditions_of",
    "order",
    "prefetch",
    "recognised",
    "to_bytes",
    "to_unit",
]
