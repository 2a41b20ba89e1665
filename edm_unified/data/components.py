"""The sources: a recipe's ``data:`` is one of the components below; ``load()`` gives a ``Dataset``.

Images are (N, C, H, W) float32 in [−1, 1]: a byte b becomes b/127.5 − 1. Vectors are (N, d), in whatever units they
have. Nothing is downloaded, nothing is unpickled that a stranger could have written, and whatever cannot be read is
one line naming the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from edm_unified._component import component, count, positive

from .readers import line, read_image, read_numpy, read_safetensors, whole_labels


class Dataset(NamedTuple):
    """What ``load()`` returns: ``images`` (N, C, H, W) float32, or vectors (N, d); ``labels`` (N,) long or None."""

    images: Tensor
    labels: Tensor | None
    name: str


@component
class Digits:
    """The 1797 handwritten digits of scikit-learn (UCI), 8×8, 17 grey levels 0…16 → [−1, 1], with their classes.

    Real data that need no download. Shape (1797, 1, 8, 8).
    """

    kind: Literal["digits"] = "digits"

    def load(self) -> Dataset:
        """Read them from the scikit-learn package."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images).to(torch.float32)[:, None] / 8 - 1
        return Dataset(images, torch.from_numpy(bunch.target).long(), "digits")


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@component
class ImageFolder:
    """All images under ``path``, at any depth, in the order of their names.

    With sub-folders (and no image directly in ``path``) the first level of folders is the class, numbered in the order
    of the names. ``size``: a side, or [height, width]; images are resized to cover it and cropped about the centre. It
    is needed only when the files differ in size. ``channels``: 1 (grey) or 3 (RGB); an alpha channel is composed on
    white.
    """

    path: str
    size: int | tuple[int, int] | None = None
    channels: Literal[1, 3] = 3
    kind: Literal["image_folder"] = "image_folder"

    def __post_init__(self) -> None:
        if self.size is not None:
            for side in (self.size,) if isinstance(self.size, int) else self.size:
                count("size", side, most=65536)
        if self.channels not in (1, 3):
            raise ValueError(f"channels: must be 1 or 3, got {self.channels!r}")

    def load(self) -> Dataset:
        """Read, convert and stack the files. Raises ValueError naming the file that is at fault."""
        root = Path(self.path).expanduser()
        if not root.is_dir():
            what = "a file, not a folder" if root.exists() else "no such folder"
            raise ValueError(f"path: {self.path}: {what}")
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
        if not files:
            raise ValueError(f"path: {self.path}: no image in this folder (looked for {', '.join(SUFFIXES)})")
        first = read_image(files[0], self.size, self.channels)
        images = torch.empty(len(files), *first.shape, dtype=torch.float32)
        for i, file in enumerate(files):
            image = read_image(file, self.size, self.channels)
            if image.shape != first.shape:
                (h, w), (h0, w0) = image.shape[1:], first.shape[1:]
                raise ValueError(
                    f"path: images differ in size: {files[0]} is {w0}x{h0} and {file} is {w}x{h} (width x height); "
                    "set `size:` to resize and crop them all"
                )
            images[i] = image
        folders = [f.relative_to(root).parts[:-1] for f in files]
        labels = None
        if all(folders):
            names = sorted({f[0] for f in folders})
            labels = torch.tensor([names.index(f[0]) for f in folders])
        return Dataset(images, labels, root.resolve().name)


@component
class Arrays:
    """One array of a ``.npy``, ``.npz`` or ``.safetensors`` file: images (N, C, H, W), (N, H, W, C), (N, H, W), or
    vectors (N, d).

    ``key``: which array, where the file holds several; ``label_key``: the array of classes (N,), if any. Bytes (uint8)
    become b/127.5 − 1. Floating-point images must already lie in [−1, 1], or ``range`` = [low, high] says what to map
    to it, e.g. [0, 1]; floating-point vectors are mapped only when ``range`` is given. Pickled arrays are refused.
    A trailing axis of 1 or 3 with a second axis that is neither is read as channels-last.
    """

    path: str
    key: str | None = None
    label_key: str | None = None
    range: tuple[float, float] | None = None
    kind: Literal["arrays"] = "arrays"

    def __post_init__(self) -> None:
        if self.range is not None and not (np.isfinite(self.range).all() and self.range[0] < self.range[1]):
            raise ValueError(f"range: must be two finite numbers, the lower first, got {list(self.range)}")

    def load(self) -> Dataset:
        """Read and check the array. Raises ValueError naming the file and what is wrong in it."""
        file = Path(self.path).expanduser()
        if file.is_dir():
            raise ValueError(
                f"path: {self.path}: is a folder; name a .npy, .npz or .safetensors file, or use image_folder"
            )
        if not file.is_file():
            raise ValueError(f"path: {self.path}: no such file")
        readers = {".npy": read_numpy, ".npz": read_numpy, ".safetensors": read_safetensors}
        if file.suffix.lower() not in readers:
            raise ValueError(f"path: {self.path}: cannot read '{file.suffix}'; use .npy, .npz or .safetensors")
        array, labels = readers[file.suffix.lower()](file, self.key, self.label_key)
        images = self._images(array)
        return Dataset(images, None if labels is None else whole_labels(labels, len(images), self.path), file.stem)

    def _images(self, array: np.ndarray) -> Tensor:
        where = f"path: {self.path}"
        if array.ndim not in (2, 3, 4) or array.size == 0:
            raise ValueError(f"{where}: must be images (N, C, H, W) or vectors (N, d), got shape {array.shape}")
        if array.dtype == np.uint8:
            data = torch.from_numpy(np.array(array)).to(torch.float32) / 127.5 - 1
        elif array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # becomes inf, reported below
                data = torch.from_numpy(np.array(array, dtype=np.float32))
        else:
            raise ValueError(f"{where}: must hold uint8 or floating-point numbers, got {array.dtype}; convert it first")
        bad = (~torch.isfinite(data.reshape(len(data), -1))).any(1)
        if bool(bad.any()):
            raise ValueError(
                f"{where}: has NaN, inf or an overflow of float32, first in sample {int(bad.nonzero()[0])}"
            )
        if self.range is not None and array.dtype.kind == "f":
            low, high = self.range
            data = (data - low) * (2 / (high - low)) - 1
        if data.ndim > 2 and array.dtype.kind == "f":
            low, high = float(data.min()), float(data.max())
            if low < -1 - 1e-4 or high > 1 + 1e-4:
                raise ValueError(
                    f"{where}: images must lie in [-1, 1], found {low:.4g} to {high:.4g}; "
                    "say what is black and white with `range:`, e.g. [0, 1] or [0, 255]"
                )
            if low >= 0 and self.range is None:
                raise ValueError(
                    f"{where}: images have no value below 0 (found {low:.4g} to {high:.4g}), so 0 is probably black; "
                    "set `range: [0, 1]`, or `range: [-1, 1]` if they are right as they are"
                )
        if data.ndim == 3:
            data = data[:, None]
        elif data.ndim == 4 and data.shape[3] in (1, 3) and data.shape[1] not in (1, 3):
            data = data.movedim(3, 1).contiguous()
        return data


@component
class TorchVision:
    """A dataset of torchvision that is already on disk under ``root``; nothing is downloaded.

    MNIST and FashionMNIST give (N, 1, 28, 28), CIFAR10 (N, 3, 32, 32), with classes 0…9.
    """

    name: Literal["MNIST", "FashionMNIST", "CIFAR10"]
    root: str
    train: bool = True
    kind: Literal["torchvision"] = "torchvision"

    def load(self) -> Dataset:
        """Read the files with torchvision's own reader."""
        from torchvision import datasets

        readers = {"MNIST": datasets.MNIST, "FashionMNIST": datasets.FashionMNIST, "CIFAR10": datasets.CIFAR10}
        if self.name not in readers:
            raise ValueError(f"name: must be one of {', '.join(readers)}, got {self.name!r}")
        root = Path(self.root).expanduser()
        remedy = (
            f'download it once with python -c "from torchvision.datasets import {self.name}; '
            f"{self.name}('{root}', train={self.train}, download=True)\""
        )
        try:
            # MNIST's and CIFAR10's readers check what they read: CIFAR10's pickle by its MD5 before it is opened.
            read: Any = readers[self.name](str(root), train=self.train, download=False)
        except RuntimeError as error:
            raise ValueError(f"root: {self.root}: {self.name} is not there or damaged; {remedy}") from error
        except (OSError, ValueError, AssertionError) as error:
            raise ValueError(f"root: {self.root}: cannot read {self.name}: {line(error)}; {remedy}") from error
        raw = torch.as_tensor(read.data)
        images = (raw[:, None] if raw.ndim == 3 else raw.movedim(3, 1)).to(torch.float32) / 127.5 - 1
        return Dataset(images, torch.as_tensor(read.targets).long(), self.name.lower())


@component
class RandomMixture:
    """Vectors (N, d) drawn from a Gaussian mixture that ``seed`` makes up: a problem of any dimension without a file.

    Component k has the weight w_k, w uniform on the simplex and then half evened out; the mean is N(0, ``spread``² I);
    the covariance has random axes, along which the standard deviation is ``scale`` times a number that is log-uniform
    on [1/4, 1]. The class of a sample is its component, so that a ``gaussian_mixture`` with one component per class
    gets the mixture back. Components far apart (spread ≫ scale) make the flow curved, close ones nearly straight.
    """

    dimension: int = 2
    components: int = 6
    samples: int = 4096
    spread: float = 0.5
    scale: float = 0.2
    seed: int = 0
    kind: Literal["random_mixture"] = "random_mixture"

    def __post_init__(self) -> None:
        count("dimension", self.dimension, most=4096)
        count("components", self.components, most=4096)
        count("samples", self.samples, least=2 * self.components)
        positive("spread", self.spread)
        positive("scale", self.scale)
        count("seed", self.seed, least=0, most=2**63 - 1)

    def load(self) -> Dataset:
        """Draw them; every component has at least two samples."""
        rng, d, k = np.random.default_rng(self.seed), self.dimension, self.components
        weights = 0.5 * rng.dirichlet(np.ones(k)) + 0.5 / k
        means = self.spread * rng.standard_normal((k, d))
        axes = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
        deviations = self.scale * 4.0 ** -rng.uniform(size=(k, d))
        certain = np.repeat(np.arange(k), 2)
        drawn = rng.choice(k, size=self.samples - len(certain), p=weights)
        labels = rng.permutation(np.concatenate([certain, drawn]))
        along = deviations[labels] * rng.standard_normal((self.samples, d))
        points = means[labels]
        for own in range(k):
            points[labels == own] += along[labels == own] @ axes[own].T
        name = f"random mixture of {k} in {d} dimensions"
        return Dataset(torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels), name)


AnyData = Digits | ImageFolder | Arrays | TorchVision | RandomMixture
