"""Real images that come with scikit-learn: the digits, and patches of two photographs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch

from edm_unified.components.component import component
from edm_unified.components.constraints import Seed, whole

from . import splits
from .dataset import BYTES, Dataset, Scaling
from .fields import Holdout


@component
class Digits:
    """The 1797 handwritten digits of scikit-learn (UCI), 8×8, 17 grey levels 0…16 → [−1, 1], with their classes.

    Real data that need no download. Shape (1797, 1, 8, 8). ``holdout``: a share such as 0.1 is held out, chosen by
    ``holdout_seed`` (null: 0); ``split: held_out`` is that part, null what is left.
    """

    holdout: Holdout | None = None
    holdout_seed: Seed | None = None
    split: Literal["train", "held_out", "all"] | None = None
    kind: Literal["digits"] = "digits"
    added_later: ClassVar[tuple[str, ...]] = ("holdout", "holdout_seed", "split")

    def __post_init__(self) -> None:
        splits.check(self.holdout, self.holdout_seed, self.split, splits.HOLDOUT_CHOICES)

    def load(self) -> Dataset:
        """Read them from the scikit-learn package."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        stored = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
        labels, names = torch.from_numpy(bunch.target).long(), tuple("0123456789")
        whole = Dataset(stored, labels, "digits", Scaling(8.0, 8.0), names, extent=(0.0, 16.0))
        return whole.part(splits.kept(len(whole), self.holdout, self.holdout_seed, self.split))


@component
class PhotoPatches:
    """Patches of ``size`` × ``size`` pixels of the two photographs of scikit-learn, a temple (china) and a flower.

    Natural colour images that need no download, with the spectrum and the edges of photographs. Every patch whose
    corner is a multiple of ``stride`` is one sample; where they overlap (stride < size), neighbours share pixels. The
    class is the photograph, where ``photographs`` is both. The photographs are 427 × 640; 32 and 16 give 1950 samples.
    """

    size: Annotated[int, whole(most=427)] = 32
    stride: Annotated[int, whole(most=640)] = 16
    photographs: Literal["both", "china", "flower"] = "both"
    kind: Literal["photo_patches"] = "photo_patches"

    def load(self) -> Dataset:
        """Cut them. Raises ValueError where the patches would not fit in 4 GiB."""
        from sklearn.datasets import load_sample_image

        names = ("china", "flower") if self.photographs == "both" else (self.photographs,)
        parts = []
        for name in names:
            photograph = torch.from_numpy(np.array(load_sample_image(f"{name}.jpg"))).movedim(2, 0)
            windows = photograph.unfold(1, self.size, self.stride).unfold(2, self.size, self.stride)
            if windows.numel() > 2**31:
                raise ValueError(
                    f"stride: {self.stride} gives {windows[0, :, :, 0, 0].numel():,} patches; take a larger"
                )
            parts.append(windows.movedim(0, 2).reshape(-1, 3, self.size, self.size))
        labels = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        title = f"patches of {' and '.join(names)}"
        return Dataset(
            torch.cat(parts), labels if len(names) > 1 else None, title, BYTES, names if len(names) > 1 else ()
        )
