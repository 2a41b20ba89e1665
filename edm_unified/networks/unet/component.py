"""The U-Net as a component: its hyper-parameters, and their checks."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import nn

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive
from edm_unified.networks.base import Dropout, check_attention, check_shape
from edm_unified.networks.unet.module import UNetModule


@component
class UNet:
    """U-Net for images (C, H, W), signals (C, L) and volumes (C, D, H, W); the default is DDPM++ for CIFAR-10.

    Sides must be multiples of 2^(levels − 1), one level for each of ``multipliers``, whose widths are ``channels``
    times these. ``attention_resolutions`` lists sides (the shorter one of a rectangle) at which blocks attend, ``[]``
    for none, with ``heads`` heads or heads of ``head_channels``; ``middle_attention`` is that of the lowest middle
    block; ``decoder_attention`` says whether the ``last`` block or ``all`` of such a level do so in the decoder.

    ``embedding`` writes noise_scale · c_noise as ``noise_multiplier`` × ``channels`` sines and cosines: ``positional``
    of frequencies 1 … 1/10000 (``endpoint``: 1/10000 itself is the last, as in DDPM but not in ADM; for a c_noise in
    [0, 1] set ``noise_scale`` to 1000), or ``fourier`` of 2π · ``fourier_scale`` · N(0, 1). Two layers make
    ``embedding_multiplier`` × ``channels`` numbers of it; the class joins before them (``label_at: features``) or
    after (``embedding``). ``adaptive_scale``: the blocks' second norm is scaled and shifted by them, otherwise shifted
    before.

    ``encoder``: ``residual`` adds a convolved copy of the level above to each level, ``skip`` one of the input;
    ``decoder: skip`` sums an output of every level. ``filter`` is the resampling filter, of even length;
    ``resample_projection`` puts a 1 × 1 convolution on the shortcuts of resampling blocks. ``rescale`` divides sums of
    two branches by √2. ``norm_groups`` is the number of groups of every norm, where it is not the most, up to 32, that
    leave each at least 4 channels. ``conditions`` is how many real numbers a sample is conditioned on besides a class
    (``condition``, (B,) or (B, k)): two layers of their own, added to the embedding of the noise level. ``init``:
    ``fan_average`` (Song et al.) or ``fan_in`` (PyTorch's); last layers are zero anyway.

    ``resampling``: by residual ``block`` (BigGAN's); by a 3 × 3 ``conv`` of stride 2, and after doubling by repetition
    (Ho et al. 2020; improved-diffusion), which in ``conv_after`` pads on the far sides alone; or ``plain``, without
    weights. ``noise_channels`` is how many sines and cosines there are, where it is not ``noise_multiplier`` ×
    ``channels``.
    """

    channels: Count = 128
    multipliers: tuple[Count, ...] = (2, 2, 2)
    blocks: Count = 4
    attention_resolutions: tuple[Count, ...] = (16,)
    middle_attention: bool = True
    decoder_attention: Literal["last", "all"] = "last"
    heads: Count = 1
    head_channels: Count | None = None
    embedding: Literal["positional", "fourier"] = "positional"
    noise_scale: Positive = 1.0
    noise_multiplier: Count = 1
    endpoint: bool = True
    fourier_scale: Positive = 16.0
    embedding_multiplier: Count = 4
    label_at: Literal["features", "embedding"] = "features"
    adaptive_scale: bool = False
    encoder: Literal["standard", "residual", "skip"] = "standard"
    decoder: Literal["standard", "skip"] = "standard"
    filter: tuple[float, ...] = (1, 1)
    resample_projection: bool = True
    rescale: bool = True
    dropout: Dropout = 0.1
    norm_eps: Positive = 1e-6
    init: Literal["fan_average", "fan_in"] = "fan_average"
    norm_groups: Count | None = None
    conditions: Count | None = None
    resampling: Literal["block", "conv", "conv_after", "plain"] = "block"
    noise_channels: Count | None = None
    kind: Literal["unet"] = "unet"
    later: ClassVar[tuple[str, ...]] = ("norm_groups", "conditions", "resampling", "noise_channels")

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise ValueError("multipliers: at least one is needed, such as [1, 2, 2]")
        if self.noise_channels is not None and self.noise_multiplier != 1:
            raise ValueError("noise_channels: sets the number of sines and cosines; leave noise_multiplier at 1")
        if self.noise_features % 2:
            name = "channels" if self.noise_channels is None else "noise_channels"
            raise ValueError(f"{name}: must be even, half sines and half cosines, got {getattr(self, name)}")
        if self.head_channels is not None and self.heads != 1:
            raise ValueError("head_channels: sets the number of heads; leave heads at 1")
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        if self.norm_groups is not None and (bad := [w for w in widths if w % self.norm_groups]):
            raise ValueError(f"norm_groups: {self.norm_groups} does not divide the {bad[0]} channels of a level")
        if not self.filter or len(self.filter) % 2 or not all(map(math.isfinite, self.filter)) or not sum(self.filter):
            raise ValueError(
                f"filter: must be an even number of weights of sum other than zero, such as [1, 3, 3, 1], got "
                f"{list(self.filter)}"
            )

    @property
    def noise_features(self) -> int:
        """How many sines and cosines c_noise is written as."""
        return self.noise_channels or self.channels * self.noise_multiplier

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """The module for samples of ``shape``, channels first. Raises ``ValueError`` if a side does not fit."""
        check_shape(shape, (2, 3, 4), "a U-Net takes (C, L), (C, H, W) or (C, D, H, W)")
        multiple = 2 ** (len(self.multipliers) - 1)
        if any(side % multiple for side in shape[1:]):
            raise ValueError(
                f"multipliers: {len(self.multipliers)} levels need sides that are multiples of {multiple}, got samples "
                f"of shape {tuple(shape)}; give fewer multipliers, or crop or pad the data"
            )
        check_attention(self.attention_resolutions, shape, len(self.multipliers))
        return UNetModule(self, tuple(shape), classes, augment)

    def heads_for(self, width: int) -> int:
        """How many heads attend to ``width`` channels."""
        size = self.head_channels or width // self.heads
        if size == 0 or width % size or (self.head_channels is None and width % self.heads):
            name = "heads" if self.head_channels is None else "head_channels"
            raise ValueError(f"{name}: {getattr(self, name)} does not divide the {width} channels of an attention")
        return width // size
