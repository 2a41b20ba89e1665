"""How the learning rate runs over the training.

The rate of a step is lr · factor(images), with ``images`` the number of images shown before it, whatever the size of
the batch: a recipe keeps its meaning when the batch changes. All factors are multiplied by a linear ramp,
min(images/ramp_up, 1), which gives Adam's second moments time to settle before steps are long.

=============================  =========================================================  ====================
rule                           factor, at t images                                        used by
=============================  =========================================================  ====================
:class:`Constant`              1                                                          DDPM, EDM, SiT
:class:`InverseSquareRoot`     1/√max(t/t_ref, 1)                                         EDM2
:class:`CosineDecay`                f + (1−f) (1 + cos π (t − ramp_up)/(images − ramp_up))/2   a known length
=============================  =========================================================  ====================
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from edm_unified.components.component import component
from edm_unified.components.constraints import Share, whole

MOST_IMAGES = 10**13

Images = Annotated[int, whole(most=MOST_IMAGES)]
"""A number of images shown to the network."""
RampUp = Annotated[int, whole(least=0, most=MOST_IMAGES)]
"""How many images the rate takes to rise to its full value; 0 for none."""


@component
class Constant:
    """The same rate from ``ramp_up`` images on (EDM: ramp_up of 10 million, appendix F.1)."""

    ramp_up: RampUp = 0
    kind: Literal["constant"] = "constant"
    formulas: ClassVar[dict[str, str]] = {"factor": "min(t/ramp_up, 1)"}

    def factor(self, images: float) -> float:
        """What the learning rate is multiplied by after ``images`` images."""
        return _ramp(images, self.ramp_up)


@component
class InverseSquareRoot:
    """1/√max(t/t_ref, 1): constant for ``t_ref`` images, then falling without end (Karras et al. 2024, Eq. 67).

    With weights of fixed norm, as EDM2's, the rate alone sets how far a step turns them. The paper counts t_ref in
    batches: 70 000 of 2048 images are the default here.
    """

    t_ref: Images = 143_360_000
    ramp_up: RampUp = 0
    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    formulas: ClassVar[dict[str, str]] = {"factor": "min(t/ramp_up, 1)/√max(t/t_ref, 1)"}

    def factor(self, images: float) -> float:
        """What the learning rate is multiplied by after ``images`` images."""
        return _ramp(images, self.ramp_up) / math.sqrt(max(images / self.t_ref, 1.0))


@component
class CosineDecay:
    """Half a cosine from 1, at the end of the ramp, to ``final`` after ``images`` (Loshchilov & Hutter 2017, Eq. 5).

    ``images`` is the length of the training, which the rule has to know beforehand (default: that of EDM on CIFAR-10);
    ``final`` is a share of lr.
    """

    images: Images = 200_000_000
    ramp_up: RampUp = 0
    final: Share = 0.0
    kind: Literal["cosine"] = "cosine"
    formulas: ClassVar[dict[str, str]] = {"factor": "final + (1 − final) (1 + cos π (t−ramp_up)/(images−ramp_up))/2"}

    def __post_init__(self) -> None:
        if not self.ramp_up < self.images:
            raise ValueError(f"ramp_up: must be below images, got {self.ramp_up!r} against {self.images!r}")

    def factor(self, images: float) -> float:
        """What the learning rate is multiplied by after ``images`` images."""
        done = min(max((images - self.ramp_up) / (self.images - self.ramp_up), 0.0), 1.0)
        return _ramp(images, self.ramp_up) * (self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2)


AnyRate = Constant | InverseSquareRoot | CosineDecay


def _ramp(images: float, ramp_up: int) -> float:
    return min(images / ramp_up, 1.0) if ramp_up else 1.0
