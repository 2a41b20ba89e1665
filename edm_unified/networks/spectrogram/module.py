"""The module that :class:`~edm_unified.networks.SpectrogramUNet` builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.networks.base import run
from edm_unified.networks.embeddings import Positional
from edm_unified.networks.spectrogram.blocks import DeepFilterHead, OneShotAggregation, TransformAverageConcatenate

if TYPE_CHECKING:
    from edm_unified.networks.spectrogram.component import SpectrogramUNet


class _Level(nn.Module):
    """Modules of one-shot aggregation for each microphone by itself, then what they tell each other."""

    def __init__(self, config: SpectrogramUNet, inputs: int, width: int, embedding: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * (config.blocks - 1)
        self.blocks = nn.ModuleList(
            OneShotAggregation(size, width // 2, width, config.layers, embedding) for size in sizes
        )
        self.share = TransformAverageConcatenate(width, width)

    def forward(self, h: Tensor, embedding: Tensor, microphones: int) -> Tensor:
        for block in self.blocks:
            h = block(h, embedding)
        apart = rearrange(h, "(b m) c f t -> b m c f t", m=microphones)
        return rearrange(self.share(apart), "b m c f t -> (b m) c f t")


class SpectrogramNetwork(nn.Module):
    """F(x, c_noise; image) for x (B, 2M, F, T) of any number M of microphones, image of its shape or None."""

    def __init__(self, config: SpectrogramUNet, conditioned: bool) -> None:
        super().__init__()
        self.checkpoint_activations = False
        self.conditioned, self.multiple = conditioned, 2 ** (len(config.multipliers) - 1)
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        embedding = 4 * config.channels
        self.noise = nn.Sequential(
            Positional(config.channels, config.noise_scale),
            nn.Linear(config.channels, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.input = nn.Conv2d(5 if conditioned else 2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            _Level(config, widths[max(level - 1, 0)], width, embedding) for level, width in enumerate(widths)
        )
        self.decoder = nn.ModuleList(
            _Level(config, widths[level] + widths[level + 1], widths[level], embedding)
            for level in reversed(range(len(widths) - 1))
        )
        self.norm = nn.GroupNorm(4, widths[0])
        self.filter = DeepFilterHead(widths[0], config.filter_bins, config.filter_frames)
        self.output: nn.Conv2d | None = None
        if config.head == "plain":
            del self.filter
            self.output = nn.Conv2d(widths[0], 2, 3, padding=1)
            nn.init.zeros_(self.output.weight)
            assert self.output.bias is not None
            nn.init.zeros_(self.output.bias)

    @property
    def needs(self) -> tuple[str, ...]:
        """The condition that it was built for."""
        return ("image",) if self.conditioned else ()

    def takes(self, name: str) -> bool:
        """Whether it was built for a condition of that name."""
        return name in self.needs

    def forward(
        self,
        x: Float[Tensor, "B channels F T"],
        noise: Float[Tensor, " B"],
        *,
        image: Float[Tensor, "B channels F T"] | None = None,
    ) -> Float[Tensor, "B channels F T"]:
        self._check(x, noise, image)
        microphones = x.shape[1] // 2
        each = rearrange(x, "b (m two) f t -> (b m) two f t", two=2)
        embedding = self.noise(noise).to(x.dtype).repeat_interleave(microphones, 0)
        filtered, h = each, each
        if self.conditioned:
            y, there = _present(image, x)
            filtered = rearrange(y, "b (m two) f t -> (b m) two f t", two=2)
            told = there.repeat_interleave(microphones, 0).view(-1, 1, 1, 1).expand_as(each[:, :1])
            h = torch.cat([each, filtered, told], 1)
        h = self.input(h)
        kept = []
        for depth, level in enumerate(self.encoder):
            h = functional.avg_pool2d(h, 2) if depth else h
            h = run(level, h, embedding, microphones, recompute=self.checkpoint_activations)  # type: ignore[arg-type]
            kept.append(h)
        kept.pop()
        for level in self.decoder:
            h = torch.cat([functional.interpolate(h, scale_factor=2.0, mode="nearest"), kept.pop()], 1)
            h = run(level, h, embedding, microphones, recompute=self.checkpoint_activations)  # type: ignore[arg-type]
        h = functional.silu(self.norm(h))
        out = self.filter(h, filtered) if self.output is None else self.output(h)
        return rearrange(out, "(b m) two f t -> b (m two) f t", m=microphones)

    def _check(self, x: Tensor, noise: Tensor, image: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] % 2 or any(side % self.multiple for side in x.shape[2:]):
            raise ValueError(
                f"x: must be spectrograms (B, 2 microphones, F, T), F and T multiples of {self.multiple}, got "
                f"{tuple(x.shape)}"
            )
        if noise.shape != x.shape[:1]:
            raise ValueError(f"noise: must have shape ({len(x)},), one c_noise per sample, got {tuple(noise.shape)}")
        if image is None:
            return
        if not self.conditioned:
            raise ValueError("image: the network was built without a condition; leave it out")
        if image.shape[1:] != x.shape[1:] or len(image) not in (1, len(x)) or not image.is_floating_point():
            raise ValueError(
                f"image: must be of the shape of x, {tuple(x.shape)}, got {image.dtype} of {tuple(image.shape)}"
            )


def _present(image: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The condition with zeros for rows that are missing (None, or NaN in them), and (B,) whether each is there."""
    if image is None:
        return torch.zeros_like(x), x.new_zeros(len(x))
    y = image.to(x).expand_as(x)
    there = torch.isfinite(y).flatten(1).all(1)
    return torch.where(there.view(-1, 1, 1, 1), y, 0.0), there.to(x.dtype)
