"""The U-Net of denoising-diffusion-pytorch, built from its definition and called as the networks here are.

Its two blocks of a level scale channels by their root mean square over the channels; attention is linear (Shen et al.
2021) but at the lowest level, and begins with learnt keys and values; sides are halved by moving 2 × 2 pixels to the
channels. None of our networks has these.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Count
from edm_unified.networks.base import check_augment, check_input, check_label, check_shape
from edm_unified.networks.embeddings import Positional


@component
class LucidUNet:
    """``channels`` times each of ``multipliers`` are the widths of the levels, ``stem`` that of the first convolution.

    ``heads`` of ``head_channels`` attend at every level, fully where ``full`` says so, to ``memory`` learnt keys too.
    The network is told the step of a table.
    """

    channels: Count = 64
    multipliers: tuple[Count, ...] = (1, 2, 4, 8)
    stem: Count = 64
    heads: Count = 4
    head_channels: Count = 32
    full: tuple[bool, ...] = (False, False, False, True)
    memory: Count = 4
    kind: Literal["lucid_unet"] = "lucid_unet"

    def __post_init__(self) -> None:
        if not self.multipliers or len(self.full) != len(self.multipliers):
            raise ValueError("full: must say of each level whether it attends fully")
        if self.channels % 2 or self.channels < 4:
            raise ValueError(f"channels: must be even and at least 4, got {self.channels}")

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """The module for images of ``shape``; there are no classes in it."""
        check_shape(shape, (3,), "it is a network for images (C, H, W)")
        multiple = 2 ** (len(self.multipliers) - 1)
        if any(side % multiple for side in shape[1:]):
            raise ValueError(f"shape: sides must be multiples of {multiple}, got {tuple(shape)}")
        if classes or augment:
            raise ValueError("classes: this network takes none")
        return LucidModule(self, shape)


class ChannelNorm(nn.Module):
    """x over its root mean square over the channels, times a learnt number for each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        unit = functional.normalize(x, dim=1) * math.sqrt(x.shape[1])
        return unit * self.scale[:, None, None]


class LucidBlock(nn.Module):
    """Twice convolution, norm, silu; after the first norm a scale and a shift by the step; a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.condition = nn.Linear(embedding, 2 * outputs)
        self.conv_in, self.norm_in = nn.Conv2d(inputs, outputs, 3, padding=1), ChannelNorm(outputs)
        self.conv_out, self.norm_out = nn.Conv2d(outputs, outputs, 3, padding=1), ChannelNorm(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.condition(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.norm_in(self.conv_in(x)) * (scale + 1) + shift)
        h = functional.silu(self.norm_out(self.conv_out(h)))
        return h + self.shortcut(x)  # type: ignore[no-any-return]


class LucidAttention(nn.Module):
    """x + attention of norm(x), with keys and values of its own before those of the pixels.

    ``full``: softmax over the keys for every query. Otherwise softmax over the channels of each query and over the
    positions of each key, whose products are then associative: Σ_n k_n v_nᵀ is made once; and a norm at the end.
    """

    def __init__(self, channels: int, config: LucidUNet, full: bool) -> None:
        super().__init__()
        self.heads, self.full = config.heads, full
        width = config.heads * config.head_channels
        self.norm = ChannelNorm(channels)
        sizes = (config.memory, config.head_channels) if full else (config.head_channels, config.memory)
        self.memory = nn.Parameter(torch.randn(2, config.heads, *sizes))
        self.qkv = nn.Conv2d(channels, 3 * width, 1, bias=False)
        self.output = nn.Conv2d(width, channels, 1)
        self.last = None if full else ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three h c) y x -> three b h (y x) c", three=3, h=self.heads)
        keys, values = self.memory if self.full else self.memory.transpose(2, 3)
        k = torch.cat([keys.expand(len(x), -1, -1, -1), k], dim=2)
        v = torch.cat([values.expand(len(x), -1, -1, -1), v], dim=2)
        if self.full:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            context = k.softmax(dim=2).transpose(2, 3) @ v
            mixed = (q.softmax(dim=3) / math.sqrt(q.shape[3])) @ context
        out = self.output(rearrange(mixed, "b h (y x) c -> b (h c) y x", y=x.shape[2]))
        return x + (out if self.last is None else self.last(out))  # type: ignore[no-any-return]


class LucidLevel(nn.Module):
    """Two blocks, an attention, and what leads to the next level."""

    def __init__(self, first: nn.Module, second: nn.Module, attention: nn.Module, leads: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.attention, self.leads = first, second, attention, leads


def _levels(modules: nn.ModuleList) -> list[LucidLevel]:
    return cast("list[LucidLevel]", list(modules))


class LucidModule(nn.Module):
    """What :meth:`LucidUNet.build` returns."""

    def __init__(self, config: LucidUNet, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = (shape[0], -1, -1)
        width = 4 * config.channels
        self.features = Positional(config.channels, endpoint=True)
        self.noise_in, self.noise_out = nn.Linear(config.channels, width), nn.Linear(width, width)
        self.input = nn.Conv2d(shape[0], config.stem, 7, padding=3)
        widths = [config.stem, *(config.channels * m for m in config.multipliers)]
        pairs = list(zip(widths[:-1], widths[1:], config.full, strict=True))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for i, (w, after, full) in enumerate(pairs):
            lowest = i == len(pairs) - 1
            leads = nn.Conv2d(w, after, 3, padding=1) if lowest else nn.Conv2d(4 * w, after, 1)
            blocks = (LucidBlock(w, w, width), LucidBlock(w, w, width))
            self.encoder.append(LucidLevel(*blocks, LucidAttention(w, config, full), leads))
        bottom = widths[-1]
        self.middle = LucidLevel(
            LucidBlock(bottom, bottom, width), LucidBlock(bottom, bottom, width), LucidAttention(bottom, config, True),
            nn.Identity(),
        )  # fmt: skip
        for w, before, full in reversed(pairs):
            both = (LucidBlock(before + w, before, width), LucidBlock(before + w, before, width))
            leads = nn.Conv2d(before, w, 3, padding=1)
            self.decoder.append(LucidLevel(*both, LucidAttention(before, config, full), leads))
        self.last = LucidBlock(2 * config.stem, config.stem, width)
        self.output = nn.Conv2d(config.stem, shape[0], 1)

    def forward(
        self, x: Tensor, noise: Tensor, *, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        check_input(x, noise, self.shape)
        check_label(label, 0, len(x))
        check_augment(augment, 0, len(x))
        embedding = self.noise_out(functional.gelu(self.noise_in(self.features(noise).to(x.dtype))))
        h = first = self.input(x)
        kept: list[Tensor] = []
        for i, level in enumerate(_levels(self.encoder)):
            h = level.first(h, embedding)
            kept.append(h)
            h = level.attention(level.second(h, embedding))
            kept.append(h)
            h = level.leads(h if i == len(self.encoder) - 1 else functional.pixel_unshuffle(h, 2))
        h = self.middle.attention(self.middle.first(h, embedding))
        h = self.middle.second(h, embedding)
        for i, level in enumerate(_levels(self.decoder)):
            h = level.first(torch.cat([h, kept.pop()], dim=1), embedding)
            h = level.attention(level.second(torch.cat([h, kept.pop()], dim=1), embedding))
            lowest = i == len(self.decoder) - 1
            h = level.leads(h if lowest else functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.output(self.last(torch.cat([h, first], dim=1), embedding))  # type: ignore[no-any-return]
