"""Blocks of networks for complex spectrograms of several microphones, (B, M, channels, F, T).

* :class:`TransformAverageConcatenate`: what the microphones tell each other (Luo et al. 2020, "End-to-end microphone
  permutation and number invariant multi-channel speech separation", section 3.2). With parametric rectifiers P, Q, R of
  linear maps of the channels,

      f_m = P(z_m),     g = Q(mean_m f_m),     z_m ← z_m + R([f_m, g]).

* :class:`OneShotAggregation`: a chain of convolutions of which all outputs are joined once, at the end (VoVNetV2; Lee &
  Park 2020, Figures 2 and 3), then an effective squeeze–excitation and the identity:

      x ← x + s ⊙ u,   u = W_1×1 [x, x_1, …, x_n],   x_i = conv_3×3(x_{i−1}),   s = hardsigmoid(W mean_{F,T} u + b).

* :func:`deep_filter`: a complex filter over neighbouring frames and bins for each bin (Mack & Habets 2020, Eq. 7),

      X̂(f, t) = Σ_{i,l} H_{i,l}(f, t) Y(f + i, t + l),        |i| ≤ I, |l| ≤ L.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class TransformAverageConcatenate(nn.Module):
    """z (B, M, C, …) to the same, for any number M: another order of the microphones is that order of the outputs."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(channels, hidden), nn.PReLU())
        self.average = nn.Sequential(nn.Linear(hidden, hidden), nn.PReLU())
        self.concatenate = nn.Sequential(nn.Linear(2 * hidden, channels), nn.PReLU())

    def forward(self, z: Float[Tensor, "B M C F T"]) -> Float[Tensor, "B M C F T"]:
        last = z.movedim(2, -1)
        f = self.transform(last)
        g = self.average(f.mean(1, keepdim=True)).expand_as(f)
        return z + self.concatenate(torch.cat([f, g], -1)).movedim(-1, 2)


class EffectiveSqueezeExcitation(nn.Module):
    """x ⊙ hardsigmoid(W mean x + b), one fully connected layer of as many channels (Lee & Park 2020, Eq. 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        return x * functional.hardsigmoid(self.weigh(x.mean((2, 3), keepdim=True)))


class OneShotAggregation(nn.Module):
    """A module of VoVNetV2 with ``layers`` convolutions of width ``stage``, from ``inputs`` channels to ``outputs``.

    The chain begins with a norm that the embedding e (B, E) scales and shifts. The identity is added where inputs and
    outputs are as many. ``joined`` are the channels that are aggregated: inputs + layers · stage.
    """

    def __init__(self, inputs: int, stage: int, outputs: int, layers: int, embedding: int) -> None:
        super().__init__()
        self.residual = inputs == outputs
        self.norm = nn.GroupNorm(_groups(inputs), inputs)
        self.modulation = nn.Linear(embedding, 2 * inputs)
        self.chain = nn.ModuleList(
            nn.Conv2d(inputs if layer == 0 else stage, stage, 3, padding=1) for layer in range(layers)
        )
        self.joined = inputs + layers * stage
        self.aggregate = nn.Conv2d(self.joined, outputs, 1)
        self.excite = EffectiveSqueezeExcitation(outputs)

    def forward(self, x: Float[Tensor, "B C F T"], embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B D F T"]:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = functional.silu(self.norm(x) * (1 + scale) + shift)
        made = [h]
        for convolution in self.chain:
            h = functional.silu(convolution(h))
            made.append(h)
        out: Tensor = self.excite(self.aggregate(torch.cat(made, 1)))
        return x + out if self.residual else out


def _groups(channels: int) -> int:
    """The most groups, up to 8, that divide the channels."""
    return next(groups for groups in (8, 4, 2, 1) if channels % groups == 0)


def deep_filter(
    spectrogram: Float[Tensor, "B 2 F T"], taps: Float[Tensor, "B K F T"], bins: int, frames: int
) -> Float[Tensor, "B 2 F T"]:
    """X̂ = Σ H Y over (2 bins + 1)(2 frames + 1) neighbours; beyond the edges Y is 0.

    ``spectrogram``: real and imaginary part. ``taps``: of every neighbour, bins first, the real part and the imaginary
    part of H, K = 2 (2 bins + 1)(2 frames + 1) channels.
    """
    height, width = spectrogram.shape[-2:]
    padded = functional.pad(spectrogram, (frames, frames, bins, bins))
    H = rearrange(taps, "b (n two) f t -> two n b f t", two=2)
    out = [torch.zeros_like(spectrogram[:, 0]) for _ in range(2)]
    places = [(i, l) for i in range(2 * bins + 1) for l in range(2 * frames + 1)]
    for (i, l), real, imaginary in zip(places, *H, strict=True):
        y_real, y_imaginary = padded[:, :, i : i + height, l : l + width].unbind(1)
        out[0] = out[0] + real * y_real - imaginary * y_imaginary
        out[1] = out[1] + real * y_imaginary + imaginary * y_real
    return torch.stack(out, 1)


class DeepFilterHead(nn.Module):
    """From features (B, C, F, T) and a spectrogram (B, 2, F, T) to its filtered one: at the start the spectrogram."""

    def __init__(self, channels: int, bins: int, frames: int) -> None:
        super().__init__()
        self.bins, self.frames = bins, frames
        neighbours = (2 * bins + 1) * (2 * frames + 1)
        self.taps = nn.Conv2d(channels, 2 * neighbours, 1)
        nn.init.zeros_(self.taps.weight)
        assert self.taps.bias is not None
        nn.init.zeros_(self.taps.bias)
        self.taps.bias.data[2 * (neighbours // 2)] = 1.0  # the real part of the tap in the middle

    def forward(self, features: Tensor, spectrogram: Tensor) -> Tensor:
        return deep_filter(spectrogram, self.taps(features), self.bins, self.frames)
