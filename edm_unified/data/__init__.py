"""Where data come from: ``Digits().load()`` and its kin give a ``Dataset`` of images in [−1, 1], with labels if any."""

from __future__ import annotations

from .components import AnyData, Arrays, Dataset, Digits, ImageFolder, RandomMixture, TorchVision

__all__ = ["AnyData", "Arrays", "Dataset", "Digits", "ImageFolder", "RandomMixture", "TorchVision"]
