"""EDM2's U-Net, config G (Karras et al. 2024, arXiv 2312.02696), made of the layers in ``layers.py``."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive, interval
from edm_unified.networks.base import (
    Dropout,
    check_attention,
    check_augment,
    check_input,
    check_label,
    check_shape,
    level_sides,
    run,
)
from edm_unified.networks.edm2.layers import (
    CosineAttention,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize_weights,
    pixel_norm,
)
from edm_unified.networks.embeddings import class_rows

CLIP = 256.0
"""Activations are clipped here, far above their magnitude of about one, so that none is lost in float16."""

Balance = Annotated[float, interval(0, 1, "()")]
"""The share t of the second input of :func:`mp_sum` or :func:`mp_cat`."""


@component
class EDM2:
    """EDM2's magnitude-preserving U-Net, config G (Karras et al. 2024, arXiv 2312.02696).

    For images (C, H, W) whose sides are multiples of 2^(levels − 1), and latents: the paper's are (4, 64, 64). The
    published sizes, with 1000 classes, are ``channels`` 64 (XXS, 31.3 M parameters), 128 (XS, 124.7 M), 192 (S,
    280.2 M), 256 (M), 320 (L), 384 (XL) and 448 (XXL); dropout is 0.1 from M upwards, 0 below. Level l has
    ``multipliers[l]`` · ``channels`` channels and ``blocks`` residual blocks on the way down, one more on the way up.
    ``attention_resolutions`` lists sides (the shorter one of a rectangle) at which blocks attend, ``[]`` for none, in
    heads of ``head_channels``; ``middle_attention`` is that of the lowest level's middle block.

    The balances t are the share of the second term of each magnitude-preserving sum: of the residual branch, of
    attention, of the skip connection, of the class. ``bandwidth`` is the standard deviation of the Fourier
    frequencies; 1 suits a c_noise that runs over a few units, such as ln(σ)/4, and not the index of a table.

    The output is zero at the start (a learned gain at 0). The network has to be trained with :meth:`after_step
    <EDM2Network.after_step>` called after each step of the optimizer, and with a learning rate that decays (from 0.017
    for XXS to 0.0065 for XXL, inverse square root: NVlabs/edm2, ``train_edm2.py``), since forced normalization takes
    away the decay that came by itself.

    Augmentation labels are this package's addition: a plain linear map of them is added to the embedding, so that with
    labels of zero the network is exactly the published one.

    ``build`` raises ``ValueError`` for a shape that is not an image, or whose sides are not such multiples, and
    for an ``attention_resolutions`` that no level has.
    """

    channels: Count = 128
    multipliers: tuple[Count, ...] = (1, 2, 3, 4)
    blocks: Count = 3
    attention_resolutions: tuple[Count, ...] = (16, 8)
    head_channels: Count = 64
    middle_attention: bool = True
    dropout: Dropout = 0.0
    residual_balance: Balance = 0.3
    attention_balance: Balance = 0.3
    concat_balance: Balance = 0.5
    label_balance: Balance = 0.5
    bandwidth: Positive = 1.0
    kind: Literal["edm2"] = "edm2"

    def __post_init__(self) -> None:
        if not self.multipliers:
            raise ValueError("multipliers: at least one level is needed")

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> EDM2Network:
        """The network for ``shape`` (C, H, W), its weights drawn from torch's generator."""
        check_shape(shape, (3,), "edm2 is a network for images (C, H, W)")
        check_sides("shape", shape, len(self.multipliers))
        check_attention(self.attention_resolutions, shape, len(self.multipliers))
        return EDM2Network(self, shape, classes, augment)


def check_sides(name: str, shape: tuple[int, ...], levels: int) -> None:
    """Raise ``ValueError`` unless the last two of ``shape`` can be halved ``levels`` − 1 times."""
    multiple = 2 ** (levels - 1)
    height, width = shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"{name}: height and width must be multiples of {multiple}, got {height}x{width}; "
            f"each of the {levels} levels in multipliers but the first halves them"
        )


class MagnitudePreservingBlock(nn.Module):
    """One residual block, of the encoder or of the decoder, with attention if ``attends``.

    The encoder's first changes the number of channels and then normalizes the pixels, which is what keeps the
    magnitude of the main path from drifting; the decoder's normalizes nothing.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        config: EDM2,
        *,
        encoder: bool,
        attends: bool = False,
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        if attends and outputs % config.head_channels:
            raise ValueError(
                f"head_channels: must divide the {outputs} channels of a level, got {config.head_channels}"
            )
        self.config, self.encoder, self.resample = config, encoder, resample
        self.skip = MPConv(inputs, outputs, (1, 1)) if inputs != outputs else nn.Identity()
        self.first = MPConv(outputs if encoder else inputs, outputs, (3, 3))
        self.modulation = MPConv(embedding, outputs)
        self.gain = nn.Parameter(torch.zeros(1))  # of shape (1,): FSDP2 shards no scalars
        self.second = MPConv(outputs, outputs, (3, 3))
        self.attention = CosineAttention(outputs, config.head_channels) if attends else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample == "down":
            x = functional.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.encoder:
            x = pixel_norm(self.skip(x))
        scale = self.modulation(embedding, self.gain) + 1
        y = mp_silu(self.first(mp_silu(x)) * scale[:, :, None, None])
        y = self.second(functional.dropout(y, self.config.dropout, self.training))
        x = mp_sum(x if self.encoder else self.skip(x), y, self.config.residual_balance)
        if self.attention is not None:
            x = mp_sum(x, self.attention(x), self.config.attention_balance)
        return x.clamp(-CLIP, CLIP)


class EDM2Network(nn.Module):
    """What :meth:`EDM2.build` returns: F(x, c_noise; label) for x (B, C, H, W).

    A sample without a class (label −1) is embedded by its noise level alone, at unit magnitude, which is what all
    samples are where ``classes`` is 0.
    """

    def __init__(self, config: EDM2, shape: tuple[int, ...], classes: int, augment: int) -> None:
        super().__init__()
        self.config = config
        self.shape, self.classes, self.augments = (shape[0], -1, -1), classes, augment
        self.checkpoint_activations = False
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        embedding = max(widths)

        self.fourier = MPFourier(widths[0], config.bandwidth)
        self.noise = MPConv(widths[0], embedding)
        self.label = MPConv(classes, embedding) if classes else None
        self.augment = MPConv(augment, embedding) if augment else None

        def block(inputs: int, outputs: int, encoder: bool, **options: object) -> MagnitudePreservingBlock:
            return MagnitudePreservingBlock(inputs, outputs, embedding, config, encoder=encoder, **options)  # type: ignore[arg-type]

        attends = [side in config.attention_resolutions for side in level_sides(shape, len(widths))]
        self.stem = MPConv(shape[0] + 1, widths[0], (3, 3))
        self.encoder, skips, channels = nn.ModuleList(), [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(block(channels, channels, True, resample="down"))
                skips.append(channels)
            for _ in range(config.blocks):
                self.encoder.append(block(channels, width, True, attends=attends[level]))
                channels = width
                skips.append(channels)

        self.middle = nn.ModuleList(
            [block(channels, channels, False, attends=config.middle_attention), block(channels, channels, False)]
        )
        self.decoder = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.decoder.append(block(channels, channels, False, resample="up"))
            for _ in range(config.blocks + 1):
                self.decoder.append(block(channels + skips.pop(), width, False, attends=attends[level]))
                channels = width
        self.head = MPConv(channels, shape[0], (3, 3))
        self.gain = nn.Parameter(torch.zeros(1))
        normalize_weights(self)

    def after_step(self) -> None:
        """To be called after each step of the optimizer: :func:`normalize_weights`."""
        normalize_weights(self)

    def embed(self, noise: Tensor, label: Tensor | None, augment: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The embedding (B, E) of noise level, class and augmentation, after the nonlinearity."""
        embedding = self.noise(self.fourier(noise).to(dtype))
        if self.label is not None and label is not None:
            # the product of the weight and a one-hot vector of magnitude one, that is of norm √classes; of several
            # classes it is that of their sum, whose magnitude is theirs times the root of their number
            columns = self.label.unit_weight().T * self.label.weight.shape[1] ** 0.5
            classes = class_rows(columns, label).to(embedding.dtype)
            both = mp_sum(embedding, classes, self.config.label_balance)
            none = label < 0 if label.ndim == 1 else (label == 0).all(1)
            embedding = torch.where(none[:, None], embedding, both)
        if self.augment is not None and augment is not None:
            embedding = embedding + self.augment(augment.to(dtype))
        return mp_silu(embedding)

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        noise: Float[Tensor, " B"],
        *,
        label: Shaped[Tensor, "B *classes"] | None = None,
        augment: Float[Tensor, "B A"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        check_input(x, noise, self.shape)
        check_sides("x", tuple(x.shape), len(self.config.multipliers))
        check_label(label, self.classes, len(x))
        check_augment(augment, self.augments, len(x))
        embedding = self.embed(noise, label, augment, x.dtype)
        x = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [x]
        for block in self.encoder:
            x = run(block, x, embedding, recompute=self.checkpoint_activations)
            skips.append(x)
        for block in self.middle:
            x = run(block, x, embedding, recompute=self.checkpoint_activations)
        for block in self.decoder:
            if cast(MagnitudePreservingBlock, block).resample is None:
                x = mp_cat(x, skips.pop(), self.config.concat_balance)
            x = run(block, x, embedding, recompute=self.checkpoint_activations)
        return cast(Tensor, self.head(x, self.gain))
