"""The parts of the U-Net, for signals, images and volumes alike: ``axes`` = 1, 2 or 3 axes besides the channels.

Memory layout is kept: a channels_last tensor stays one. Sums of two branches are optionally divided by √2, which
keeps their variance (Song et al. 2021, appendix H).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

CONV: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def conv(axes: int, inputs: int, outputs: int, size: int = 3) -> nn.Module:
    """A convolution that keeps the size."""
    return CONV[axes](inputs, outputs, size, padding=size // 2)


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class GroupNorm(nn.GroupNorm):
    """torch's, by its accurate kernel on a CPU too.

    There torch takes the variance of a channels_last tensor as E x² − (E x)², which in float32 is off by 2e-4 where the
    mean is ten times the standard deviation, and by 1e-2 at a hundred times; of a contiguous one by 2e-6 and 1e-5. So
    the norm is taken of a contiguous copy, in the same time, and the memory layout is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        kept = _CHANNELS_LAST.get(x.ndim)
        if x.device.type != "cpu" or x.is_contiguous() or kept is None or not x.is_contiguous(memory_format=kept):
            return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        out = functional.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return out.contiguous(memory_format=kept)


def group_norm(channels: int, eps: float, groups: int | None = None) -> GroupNorm:
    """``groups`` of them; None: at most 32 groups of at least 4 channels, the most that divide ``channels`` evenly."""
    if groups is not None:
        return GroupNorm(groups, channels, eps)
    most = max(1, min(32, channels // 4))
    return GroupNorm(next(groups for groups in range(most, 0, -1) if channels % groups == 0), channels, eps)


def add(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """(x + y) · scale, with one allocation."""
    return x + y if scale == 1 else (x + y).mul_(scale)


class Resample(nn.Module):
    """Half or double the size with a separable low-pass filter of even length; ``[1, 1]`` averages or repeats.

    Outside the image there are zeros. Longer filters, such as [1, 3, 3, 1], alias less (Zhang 2019).
    """

    kernel: Tensor

    def __init__(self, axes: int, taps: tuple[float, ...]) -> None:
        super().__init__()
        self.axes, self.length = axes, len(taps)
        self.box = tuple(taps) == (1,) * 2
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        kernel = line
        for _ in range(axes - 1):
            kernel = kernel[..., None] * line
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def weight(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, *self.kernel.shape[2:])

    def down(self, x: Tensor) -> Tensor:
        if self.box:
            return _POOL[self.axes](x, 2)
        return _CONV[self.axes](x, self.weight(x), None, 2, self.length // 2 - 1, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        if self.box:
            return functional.interpolate(x, scale_factor=2.0, mode="nearest")
        weight = self.weight(x) * 2**self.axes
        return _TRANSPOSED[self.axes](x, weight, None, 2, self.length // 2 - 1, groups=x.shape[1])


class Attention(nn.Module):
    """x + W softmax(q kᵀ/√c) v over all positions, q, k, v read from norm(x); W = 0 at first."""

    def __init__(self, channels: int, heads: int, eps: float, scale: float, groups: int | None = None) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        self.norm = group_norm(channels, eps, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "b c ... -> b (...) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        mixed = rearrange(functional.scaled_dot_product_attention(q, k, v), "b h n c -> b n (h c)")
        return add(x, rearrange(self.output(mixed), "b n c -> b c n").view(x.shape), self.scale)


class ResidualBlock(nn.Module):
    """The residual block: norm, silu, [resample], conv; the embedding; norm, silu, dropout, conv; sum; [attention].

    The embedding is added before the second norm, or with ``adaptive`` scales and shifts what comes out of it
    (Dhariwal & Nichol 2021, section 3). ``resample``: "up", "down" or "". A second input is joined to the first by
    its channels.
    """

    def __init__(
        self,
        axes: int,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        taps: tuple[float, ...] = (1, 1),
        resample: str = "",
        project: bool = False,
        heads: int = 0,
        adaptive: bool = False,
        dropout: float = 0.0,
        scale: float = 1.0,
        eps: float = 1e-6,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.adaptive, self.scale, self.resample = adaptive, scale, resample
        self.filter = Resample(axes, taps) if resample else None
        self.norm_in = group_norm(inputs, eps, groups)
        self.conv_in = conv(axes, inputs, outputs)
        self.condition = nn.Linear(embedding, outputs * (2 if adaptive else 1))
        self.norm_out = group_norm(outputs, eps, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = conv(axes, outputs, outputs)
        self.shortcut = conv(axes, inputs, outputs, 1) if project or inputs != outputs else None
        self.attention = Attention(outputs, heads, eps, scale, groups) if heads else None

    def forward(self, x: Tensor, embedding: Tensor, joined: Tensor | None = None) -> Tensor:
        if joined is not None:
            x = torch.cat([x, joined], dim=1)
        h = self.conv_in(self.resampled(functional.silu(self.norm_in(x))))
        condition = rearrange(self.condition(embedding), f"b c -> b c {'1 ' * (x.ndim - 2)}")
        if self.adaptive:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm_out(h), scale + 1)
        else:
            h = self.norm_out(h + condition)
        h = self.conv_out(self.dropout(functional.silu(h)))
        x = self.resampled(x)
        h = add(h, x if self.shortcut is None else self.shortcut(x), self.scale)
        return h if self.attention is None else self.attention(h)

    def resampled(self, x: Tensor) -> Tensor:
        if self.filter is None:
            return x
        return self.filter.up(x) if self.resample == "up" else self.filter.down(x)


class ConvResample(nn.Module):
    """Half the size by a convolution of stride 2, or double by repetition and a convolution (Ho et al. 2020).

    ``after`` pads by one on the far sides alone, as TensorFlow's "same" does of an even side. Without ``convolves``
    neighbours are averaged, or repeated.
    """

    def __init__(self, axes: int, channels: int, way: str, convolves: bool = True, after: bool = False) -> None:
        super().__init__()
        self.axes, self.way, self.after = axes, way, after
        stride, padding = (2, 0 if after else 1) if way == "down" else (1, 1)
        self.conv = CONV[axes](channels, channels, 3, stride, padding) if convolves else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.way == "up":
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.conv is None:
            return _POOL[self.axes](x, 2)
        elif self.after:
            x = functional.pad(x, (0, 1) * self.axes)
        return x if self.conv is None else self.conv(x)  # type: ignore[no-any-return]


class ResidualPyramid(nn.Module):
    """NCSN++'s encoder: the halved, convolved copy of the last level is added to what the blocks made of it.

    The filter comes before a convolution of stride 2, as one operation (Song et al. 2021, appendix H).
    """

    def __init__(self, axes: int, inputs: int, outputs: int, taps: tuple[float, ...], scale: float) -> None:
        super().__init__()
        self.filter, self.scale = Resample(axes, taps), scale
        self.conv = CONV[axes](inputs, outputs, 3, stride=2)

    def forward(self, x: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        blurred = _CONV[self.filter.axes](
            pyramid, self.filter.weight(pyramid), None, 1, self.filter.length // 2, groups=pyramid.shape[1]
        )
        x = add(x, self.conv(blurred), self.scale)
        return x, x


class SkipPyramid(nn.Module):
    """The encoder of skips: the network's input, halved level by level, is added to each after a 1 × 1 convolution."""

    def __init__(self, axes: int, inputs: int, outputs: int, taps: tuple[float, ...]) -> None:
        super().__init__()
        self.filter = Resample(axes, taps)
        self.conv = conv(axes, inputs, outputs, 1)

    def forward(self, x: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.filter.down(pyramid)
        return x + self.conv(pyramid), pyramid


class Readout(nn.Module):
    """norm, silu, conv to the sample's channels, zero at first; added to the doubled output of the level below."""

    def __init__(
        self, axes: int, inputs: int, outputs: int, taps: tuple[float, ...], eps: float, groups: int | None = None
    ) -> None:
        super().__init__()
        self.filter = Resample(axes, taps)
        self.norm = group_norm(inputs, eps, groups)
        self.conv = conv(axes, inputs, outputs)

    def forward(self, x: Tensor, below: Tensor | None) -> Tensor:
        image = self.conv(functional.silu(self.norm(x)))
        return image if below is None else image + self.filter.up(below)


def initialise(network: nn.Module, fan_average: bool) -> None:
    """Draw the weights, then set the last layer of each branch and of the network to zero: F = 0 at first.

    ``fan_average``: uniform with variance 2/(fan_in + fan_out), biases zero, a tenth of that variance for q, k and v
    each (Song et al. 2021; NVlabs/edm, ``SongUNet``, which has 1e-5 of that size for zero). Otherwise PyTorch's own,
    uniform with variance 1/(3 fan_in) (Dhariwal & Nichol 2021; ``DhariwalUNet``).
    """
    for module in network.modules():
        if fan_average and isinstance(module, LAYERS):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, Attention):
            if fan_average:  # one matrix of 3 C rows: 2/(C + 3 C) · 0.2 is a tenth of 2/(C + C)
                nn.init.xavier_uniform_(module.qkv.weight, gain=math.sqrt(0.2))
            _zero(module.output)
        elif isinstance(module, ResidualBlock):
            _zero(module.conv_out)
        elif isinstance(module, Readout):
            _zero(module.conv)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
