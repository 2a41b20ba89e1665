"""The component :class:`SpectrogramUNet`."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import nn

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive, whole
from edm_unified.networks.base import check_shape
from edm_unified.networks.spectrogram.module import SpectrogramNetwork


@component
class SpectrogramUNet:
    """U-Net for complex spectrograms (2M, F, T): of each of M microphones the real part and the imaginary part.

    The microphones go through one and the same network, side by side, and tell each other what they hear after every
    level, by transform–average–concatenate: the weights do not depend on M, and another order of the microphones is
    that order of the outputs. So a network that was trained with one number of them takes any other. A condition
    ``image`` of the same shape, the noisy spectrogram, goes with its microphone.

    A level has ``blocks`` modules of one-shot aggregation (VoVNetV2), each of ``layers`` convolutions half as wide as
    the level, ``channels`` times one of the ``multipliers``; from level to level F and T are halved, so that both must
    be multiples of 2^(levels − 1). ``head``: ``plain`` reads the output from the features, zero at the start;
    ``deep_filter`` filters the condition (without one, the input) with complex taps over ``filter_bins`` bins and
    ``filter_frames`` frames to either side, and is that spectrogram itself at the start.
    """

    channels: Annotated[int, whole(least=4, most=4096)] = 32
    multipliers: tuple[Count, ...] = (1, 2, 2)
    blocks: Count = 1
    layers: Count = 3
    head: Literal["plain", "deep_filter"] = "plain"
    filter_bins: Annotated[int, whole(least=0, most=64)] = 1
    filter_frames: Annotated[int, whole(least=0, most=64)] = 2
    noise_scale: Positive = 1.0
    kind: Literal["spectrogram_unet"] = "spectrogram_unet"

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise ValueError("multipliers: at least one is needed, such as [1, 2, 2]")
        if self.channels % 4:
            raise ValueError(f"channels: must be a multiple of 4, got {self.channels}")

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """The module for samples of ``shape``. Raises ``ValueError`` where that is no spectrogram, or has classes."""
        return self.build_with_image(shape, classes, augment, None)

    def build_with_image(
        self, shape: tuple[int, ...], classes: int, augment: int, image: tuple[int, ...] | None
    ) -> nn.Module:
        """That with a condition of the shape ``image``, which must be that of a sample."""
        check_shape(shape, (3,), "a spectrogram is (2 microphones, F, T)")
        if shape[0] % 2:
            raise ValueError(f"shape: a spectrogram has two channels for each microphone, got {tuple(shape)}")
        if classes or augment:
            raise ValueError("kind: spectrogram_unet takes neither classes nor augmentations; take unet")
        if image is not None and tuple(image) != tuple(shape):
            raise ValueError(f"kind: spectrogram_unet needs an image of its sample's shape {shape}, got {tuple(image)}")
        multiple = 2 ** (len(self.multipliers) - 1)
        if any(side % multiple for side in shape[1:]):
            raise ValueError(
                f"multipliers: {len(self.multipliers)} levels need sides that are multiples of {multiple}, got samples "
                f"of shape {tuple(shape)}; give fewer multipliers, or crop or pad the data"
            )
        return SpectrogramNetwork(self, image is not None)
