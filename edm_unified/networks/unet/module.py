"""The module that :class:`~edm_unified.networks.UNet` builds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.networks.base import check_augment, check_condition, check_input, check_label, level_sides, run
from edm_unified.networks.embeddings import ClassEmbedding, ClassLinear, Fourier, Positional
from edm_unified.networks.unet.blocks import (
    ConvResample,
    Readout,
    ResidualBlock,
    ResidualPyramid,
    SkipPyramid,
    conv,
    initialise,
)

if TYPE_CHECKING:
    from edm_unified.networks.unet.component import UNet


class UNetModule(nn.Module):
    """What :class:`UNet` builds. ``checkpoint_activations`` computes each block again in the backward pass."""

    def __init__(self, config: UNet, shape: tuple[int, ...], classes: int, augment: int) -> None:
        super().__init__()
        self.checkpoint_activations = False
        self.classes, self.augment, self.label_at = classes, augment, config.label_at
        self.shape, self.noise_scale = (shape[0], *[-1] * (len(shape) - 1)), config.noise_scale
        self.multiple = 2 ** (len(config.multipliers) - 1)

        features, width = config.noise_features, config.channels * config.embedding_multiplier
        self.features = (
            Fourier(features, config.fourier_scale)
            if config.embedding == "fourier"
            else Positional(features, endpoint=config.endpoint)
        )
        early = config.label_at == "features"
        self.class_embedding: nn.Module | None = None
        if classes:
            self.class_embedding = ClassLinear(classes, features) if early else ClassEmbedding(classes, width)
        self.augment_embedding = nn.Linear(augment, features, bias=False) if augment else None
        self.noise_in = nn.Linear(features, width)
        self.noise_out = nn.Linear(width, width)
        self.conditions = config.conditions or 0
        self.condition_in = nn.Linear(self.conditions, width) if self.conditions else None
        self.condition_out = nn.Linear(width, width) if self.conditions else None

        axes, widths = len(shape) - 1, [config.channels * m for m in config.multipliers]
        attends = [side in config.attention_resolutions for side in level_sides(shape, len(widths))]
        self.input = conv(axes, shape[0], config.channels)
        kept, h = [config.channels], config.channels
        pyramid, self.encoder = shape[0], nn.ModuleList()
        for level, w in enumerate(widths):
            self.encoder.append(_EncoderLevel(config, axes, level, h, w, pyramid, attends[level]))
            kept += [h] * (level > 0) + [w] * config.blocks
            pyramid, h = (h if config.encoder == "residual" and level else pyramid), w
        self.middle = nn.ModuleList(_block(config, axes, h, h, attends=a) for a in (config.middle_attention, False))
        self.decoder = nn.ModuleList()
        for level, w in reversed(list(enumerate(widths))):
            joined = [kept.pop() for _ in range(config.blocks + 1)]
            self.decoder.append(_DecoderLevel(config, axes, level, h, w, joined, shape[0], attends[level]))
            h = w
        initialise(self, config.init == "fan_average")
        if self.augment_embedding is not None and config.init == "fan_in":
            nn.init.zeros_(self.augment_embedding.weight)

    def forward(
        self,
        x: Float[Tensor, "B *shape"],
        noise: Float[Tensor, " B"],
        *,
        label: Shaped[Tensor, "B *classes"] | None = None,
        augment: Float[Tensor, "B k"] | None = None,
        condition: Float[Tensor, "B *numbers"] | None = None,
    ) -> Float[Tensor, "B *shape"]:
        check_input(x, noise, self.shape)
        check_condition(condition, self.conditions, len(x))
        check_label(label, self.classes, len(x))
        check_augment(augment, self.augment, len(x))
        if any(side % self.multiple for side in x.shape[2:]):
            raise ValueError(f"x: sides must be multiples of {self.multiple}, got {tuple(x.shape)}")
        embedding = self._embed(x.dtype, noise, label, augment, condition)
        recompute = self.checkpoint_activations
        h = self.input(x)
        kept, pyramid = [h], x
        for level in self.encoder:
            h, pyramid, made = level(h, pyramid, embedding, recompute)
            kept += made
        for block in self.middle:
            h = run(block, h, embedding, recompute=recompute)
        output = None
        for level in self.decoder:
            h, output = level(h, output, kept, embedding, recompute)
        assert output is not None
        return output

    def _embed(
        self, dtype: torch.dtype, noise: Tensor, label: Tensor | None, augment: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        features = self.features(noise * self.noise_scale).to(dtype)
        named = None
        if self.class_embedding is not None:
            named = self.class_embedding(torch.full(noise.shape, -1, device=noise.device) if label is None else label)
        if augment is not None and self.augment_embedding is not None:
            features = features + self.augment_embedding(augment.to(dtype))
        if named is not None and self.label_at == "features":
            features = features + named
        embedding = self.noise_out(functional.silu(self.noise_in(features)))
        if named is not None and self.label_at == "embedding":
            embedding = embedding + named
        if condition is not None and self.condition_in is not None and self.condition_out is not None:
            numbers = condition.to(dtype).reshape(len(noise), self.conditions)
            embedding = embedding + self.condition_out(functional.silu(self.condition_in(numbers)))
        return functional.silu(embedding)


def _block(
    config: UNet, axes: int, inputs: int, outputs: int, resample: str = "", attends: bool = False
) -> ResidualBlock:
    return ResidualBlock(
        axes,
        inputs,
        outputs,
        config.channels * config.embedding_multiplier,
        taps=config.filter,
        resample=resample,
        project=bool(resample) and config.resample_projection,
        heads=config.heads_for(outputs) if attends else 0,
        adaptive=config.adaptive_scale,
        dropout=config.dropout,
        scale=math.sqrt(0.5) if config.rescale else 1.0,
        eps=config.norm_eps,
        groups=config.norm_groups,
    )


def _resample(config: UNet, axes: int, width: int, way: str) -> nn.Module:
    """What halves ("down") or doubles ("up") a level, called with the embedding as blocks are."""
    if config.resampling == "block":
        return _block(config, axes, width, width, way)
    return ConvResample(
        axes, width, way, convolves=config.resampling != "plain", after=config.resampling == "conv_after"
    )


class _EncoderLevel(nn.Module):
    """[halve, pyramid], blocks; all that the decoder will join is handed back."""

    def __init__(
        self, config: UNet, axes: int, level: int, inputs: int, width: int, pyramid: int, attends: bool
    ) -> None:
        super().__init__()
        self.resample = _resample(config, axes, inputs, "down") if level else None
        self.pyramid: nn.Module | None = None
        if level and config.encoder == "residual":
            scale = math.sqrt(0.5) if config.rescale else 1.0
            self.pyramid = ResidualPyramid(axes, pyramid, inputs, config.filter, scale)
        elif level and config.encoder == "skip":
            self.pyramid = SkipPyramid(axes, pyramid, inputs, config.filter)
        widths = [inputs] + [width] * (config.blocks - 1)
        self.blocks = nn.ModuleList(_block(config, axes, w, width, attends=attends) for w in widths)

    def forward(
        self, h: Tensor, pyramid: Tensor, embedding: Tensor, recompute: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        made = []
        if self.resample is not None:
            h = run(self.resample, h, embedding, recompute=recompute)
            if self.pyramid is not None:
                h, pyramid = self.pyramid(h, pyramid)
            made.append(h)
        for block in self.blocks:
            h = run(block, h, embedding, recompute=recompute)
            made.append(h)
        return h, pyramid, made


class _DecoderLevel(nn.Module):
    """[double], blocks, each joined to the last of what is kept; [the sample, read from this level]."""

    def __init__(
        self,
        config: UNet,
        axes: int,
        level: int,
        inputs: int,
        width: int,
        joined: list[int],
        output: int,
        attends: bool,
    ) -> None:
        super().__init__()
        lowest = level == len(config.multipliers) - 1
        self.resample = None if lowest else _resample(config, axes, inputs, "up")
        widths = [inputs] + [width] * config.blocks
        attending = [attends and (config.decoder_attention == "all" or i == config.blocks) for i in range(len(widths))]
        self.blocks = nn.ModuleList(
            _block(config, axes, w + other, width, attends=a)
            for w, other, a in zip(widths, joined, attending, strict=True)
        )
        reads = level == 0 or config.decoder == "skip"
        self.readout = (
            Readout(axes, width, output, config.filter, config.norm_eps, config.norm_groups) if reads else None
        )

    def forward(
        self, h: Tensor, output: Tensor | None, kept: list[Tensor], embedding: Tensor, recompute: bool
    ) -> tuple[Tensor, Tensor | None]:
        if self.resample is not None:
            h = run(self.resample, h, embedding, recompute=recompute)
        for block in self.blocks:
            h = run(block, h, embedding, kept.pop(), recompute=recompute)
        return h, output if self.readout is None else self.readout(h, output)
