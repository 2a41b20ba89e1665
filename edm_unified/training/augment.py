"""Augmentation of images whose parameters are an input of the network, so that samples are not augmented.

Karras et al. 2022, appendix F.2 (configuration F), after Karras et al. 2020 (ADA, arXiv 2006.06676, appendix B): six
geometric transformations, each of them done to an image with probability p, in this order:

                   parameters                    what is done                                   labels
    x-flip         a_0 ∈ {0, 1}                  mirror left and right if 1                     a_0
    y-flip         a_1 ∈ {0, 1}                  mirror up and down if 1                        a_1
    scaling        a_2 ~ N(0, 1)                 enlarge by 2^(0.2 a_2)                         a_2
    rotation       a_3 ~ U(−π, π)                turn by a_3                                    cos a_3 − 1, sin a_3
    anisotropy     a_4 ~ U(−π, π) or 0, a_5 ~    stretch by 2^(0.2 a_5) along a_4, as much      a_5 cos a_4, a_5 sin a_4
                   N(0, 1)                       less across
    translation    a_6, a_7 ~ N(0, 1)            by a_6 W/8 to the right, a_7 H/8 down          a_6, a_7

For half of the images a_4 is 0, and the stretch is along the rows: so it is in the authors' code (NVlabs/edm,
``augment.py``), with which their networks were trained.

Angles turn counter-clockwise as seen. What is not done has label 0, and an image to which nothing is done comes out bit
for bit as it went in. (The labels of the anisotropy, as published, are the same for (a_4, a_5) and (a_4 + π, −a_5),
which do different things; these labels are ambiguous, but nothing leaks into the samples.)

**Resampling** follows ADA: the image is doubled with the 12-tap low-pass of the symlet sym6, sampled bilinearly, and
halved with the same filter, so that neither aliasing nor blur shows which image was touched. Beyond the border it goes
on as its mirror image. Two differences from the publication: the mirror images go on without end (ADA pads as far as
one image and puts zeros beyond), and flips move pixels and never filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Share
from edm_unified.training.random_numbers import BLOCK, seed_of

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Daubechies' least asymmetric orthonormal low-pass with six vanishing moments."""
DELAY = 5
"""Sample k of a row lies at 2k + 5 of the doubled row, as the authors have it; straight lines come out at 2k + 5.098,
so that a picture turned upside down is a tenth of a pixel off."""

_GATES, _PARAMETERS = 6, 8
_NUMBERS = _GATES + _PARAMETERS + 1
LEAST_SIDE = 8


@component
class EDM:
    """The augmentation of EDM's configuration F: six transformations with probability ``p`` each, and their 9 labels.

    Karras et al. 2022, appendix F.2: p = 0.12 for CIFAR-10, 0.15 for FFHQ and AFHQv2. The fields after p switch single
    transformations off; the labels stay 9. ``always_x_flip``: the x-flip is drawn for every image and not only for a
    share p (half of all are then mirrored, and say so), as in the authors' runs. For images of at least 8 × 8.
    """

    p: Share = 0.12
    x_flip: bool = True
    y_flip: bool = True
    scaling: bool = True
    rotation: bool = True
    anisotropy: bool = True
    translation: bool = True
    always_x_flip: bool = True
    kind: Literal["edm"] = "edm"

    @property
    def labels(self) -> int:
        """How many numbers tell the network what was done."""
        return 9

    def check(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` unless samples of that shape are images of at least 8 × 8."""
        if len(shape) != 3 or min(shape[1:]) < LEAST_SIDE:
            raise ValueError(
                f"training.augment: needs images of at least {LEAST_SIDE}x{LEAST_SIDE}, got samples of {tuple(shape)}"
            )

    def apply(self, images: Tensor, seed: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and the labels (B, 9) of rows ``first`` … of the batch ``seed``.

        What happens to a row depends on ``seed`` and on its place in the batch alone, so that several processes that
        share a batch do to it what one would.
        """
        return self.transform(images, numbers(seed, first, len(images)))

    def transform(self, images: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the random numbers given: ``uniforms`` (B, 15) float64 in [0, 1), on the CPU.

        The first 6 say what is done (where below p), the next 8 become a_0 … a_7, and where the last is ½ or above a_4
        is 0. Raises ValueError unless ``images`` are images of at least 8 × 8.
        """
        self.check(images.shape[1:])
        a = self._parameters(uniforms)
        labels = torch.stack(
            [a[0], a[1], a[2], a[3].cos() - 1, a[3].sin(), a[5] * a[4].cos(), a[5] * a[4].sin(), a[6], a[7]], 1
        )
        found = images
        for parameter, axis in ((a[0], 3), (a[1], 2)):
            mirrored = (parameter == 1).nonzero()[:, 0].to(images.device, non_blocking=True)
            if len(mirrored):
                found = found.index_copy(0, mirrored, found[mirrored].flip(axis))
        moved = (torch.stack(list(a[2:])) != 0).any(0).nonzero()[:, 0]
        if len(moved):
            rows = moved.to(images.device, non_blocking=True)
            matrix, shift = _affine(a[:, moved], images.shape[3], images.shape[2])
            warped = resample(found[rows], matrix, shift)
            found = found.index_copy(0, rows, warped.to(found.dtype))
        return found, labels.to(torch.float32).to(images.device, non_blocking=True)

    def _parameters(self, uniforms: Tensor) -> Tensor:
        """a_0 … a_7 (8, B), 0 where nothing is done."""
        on = (self.x_flip, self.y_flip, self.scaling, self.rotation, self.anisotropy, self.translation)
        share = torch.tensor([self.p * float(wanted) for wanted in on], dtype=torch.float64)
        if self.always_x_flip and self.x_flip and self.p > 0:
            share[0] = 1
        gates = (uniforms[:, :_GATES] < share).to(torch.float64).T
        u = uniforms[:, _GATES:-1].T
        normal = torch.special.ndtri(u.clamp(min=2.0**-53))
        angle = (2 * u - 1) * math.pi
        angle[4] *= uniforms[:, -1] < 0.5
        bits = (u >= 0.5).to(torch.float64)
        raw = (bits[0], bits[1], normal[2], angle[3], angle[4], normal[5], normal[6], normal[7])
        own = (0, 1, 2, 3, 4, 4, 5, 5)
        return torch.stack([gates[gate] * value for gate, value in zip(own, raw, strict=True)])


@component
class Mirror:
    """Mirror every image left and right with probability ``p``, without a label: samples are mirrored as often.

    What DDPM, Song et al. 2021 and EDM's configurations A to E do on CIFAR-10: the mirror images count as data, and are
    drawn as often. Not for images whose left and right differ, such as digits or text.
    """

    p: Share = 0.5
    kind: Literal["mirror"] = "mirror"

    @property
    def labels(self) -> int:
        """0: the network gets no labels."""
        return 0

    def check(self, shape: Sequence[int]) -> None:
        """Raise ``ValueError`` unless samples of that shape are images."""
        if len(shape) != 3:
            raise ValueError(f"training.augment: needs images (C, H, W), got samples of {tuple(shape)}")

    def apply(self, images: Tensor, seed: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) and labels (B, 0) of rows ``first`` … of the batch ``seed``; as :meth:`EDM.apply`."""
        self.check(images.shape[1:])
        mirrored = (numbers(seed, first, len(images))[:, 0] < self.p).nonzero()[:, 0]
        mirrored = mirrored.to(images.device, non_blocking=True)
        return images.index_copy(0, mirrored, images[mirrored].flip(3)), images.new_zeros(len(images), 0)


AnyAugment = EDM | Mirror


def numbers(seed: int, first: int, rows: int) -> Tensor:
    """Rows ``first`` … of a batch of uniform numbers, (rows, 15) float64, drawn in blocks: any share is the same."""
    begin, end = first // BLOCK, -(-(first + rows) // BLOCK)
    blocks = [
        torch.rand(BLOCK, _NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed_of(seed, b)))
        for b in range(begin, end)
    ]
    return torch.cat(blocks)[first - begin * BLOCK :][:rows] if blocks else torch.empty(0, _NUMBERS)


def _affine(a: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """What scaling, rotation, anisotropy do to a point (x right, y down) about the centre, and the shift in pixels."""
    along, back = _turn(a[4]), _turn(-a[4])
    stretch = torch.diag_embed(torch.stack([2 ** (0.2 * a[5]), 2 ** (-0.2 * a[5])], 1))
    size = (2 ** (0.2 * a[2])).reshape(-1, 1, 1)
    matrix = along @ stretch @ back @ _turn(a[3]) * size
    return matrix, torch.stack([a[6] * width / 8, a[7] * height / 8], 1)


def _turn(angle: Tensor) -> Tensor:
    """Counter-clockwise as seen, where y points down: (B, 2, 2)."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, s], 1), torch.stack([-s, c], 1)], 1)


def resample(images: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """(B, C, H, W) moved by p → centre + matrix (p − centre) + shift; see the page above for filters and borders."""
    device, dtype = images.device, torch.float32
    taps = torch.tensor(SYM6, dtype=dtype).to(device, non_blocking=True)
    n, reach = len(taps), len(taps) // 2
    edge = 2 * reach  # pixels beyond the border that are doubled too: half for the filter, half to sample there
    channels, (height, width) = images.shape[1], images.shape[2:]
    down, across = (_mirrored(torch.arange(-edge, side + edge, device=device), side) for side in (height, width))
    padded = images.to(dtype)[:, :, down][..., across]
    double = _separable(padded, taps * math.sqrt(2), channels, doubling=True)

    # Inverted here, as on a GPU that waits; the grid, which is large, is laid out there.
    inverse, shift = (small.to(device, non_blocking=True) for small in (torch.linalg.inv(matrix), shift))
    # The doubled output, with what the halving filter reaches over the border: its positions in pixels.
    axes = [
        (torch.arange(2 * side - 2 + n, dtype=torch.float64, device=device) - DELAY) / 2 for side in (width, height)
    ]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64).to(device, non_blocking=True)
    x, y = torch.meshgrid(axes[0], axes[1], indexing="xy")
    target = torch.stack([x, y], -1) - centre - shift[:, None, None, :]
    source = torch.einsum("bij,bhwj->bhwi", inverse, target) + centre
    grid = []
    for axis, side in ((0, width), (1, height)):
        pixel = source[..., axis]
        near = (pixel > -reach) & (pixel < side - 1 + reach)
        position = 2 * (torch.where(near, pixel, _mirrored(pixel, side)) + edge) + DELAY
        grid.append(2 * position / (double.shape[3 - axis] - 1) - 1)
    where = torch.stack(grid, -1).to(dtype)
    sampled = functional.grid_sample(double, where, mode="bilinear", padding_mode="border", align_corners=True)
    return _separable(sampled, taps / math.sqrt(2), channels, doubling=False)


def _mirrored(position: Tensor, side: int) -> Tensor:
    """A position on an axis that goes on as its mirror image beyond 0 and ``side`` − 1, brought between them."""
    return (side - 1) - (position.remainder(2 * (side - 1)) - (side - 1)).abs()


def _separable(images: Tensor, taps: Tensor, channels: int, doubling: bool) -> Tensor:
    """Doubled by inserting zeros and filtering, or filtered and halved, along both axes."""
    step = functional.conv_transpose2d if doubling else functional.conv2d
    for shape, stride in (((1, 1, 1, -1), (1, 2)), ((1, 1, -1, 1), (2, 1))):
        kernel = taps.reshape(shape).repeat(channels, 1, 1, 1)
        images = step(images, kernel, stride=stride, groups=channels)
    return images
