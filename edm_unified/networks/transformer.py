"""The diffusion transformer: DiT (Peebles & Xie 2023, arXiv 2212.09748), also SiT's network (Ma et al. 2024).

The image is cut into patches, each a token. A block is a transformer's, except that what its two layer norms scale
and shift by is a function of the noise level and the class, and that each of its two branches ends in such a gate α:

    h ← h + α_1(c) · Attention( (1+γ_1(c)) LN(h) + β_1(c) )
    h ← h + α_2(c) · MLP(       (1+γ_2(c)) LN(h) + β_2(c) )                                   (adaLN-Zero, their §3.2)

All of α, β, γ are one linear map of silu(c), zero at the start, so that every block begins as the identity, and the
last layer is zero too: F = 0 before training. SiT is this network with the preconditioning ``flow_matching``; nothing
in it depends on what it predicts.

Published sizes (their Table 1), each with a patch of 2, 4 or 8:

====  =====  =====  =====
name  depth  width  heads
====  =====  =====  =====
S        12    384      6
B        12    768     12
L        24   1024     16
XL       28   1152     16
====  =====  =====  =====

XL/2 on 4×32×32 latents with 1000 classes has 674,816,272 parameters. The 675 M of the paper are the 674,834,720 of the
same network with a second set of outputs for the learned variance, which no preconditioning of this package has a use
for, or 675,129,632 with the table of positions, which is not trained, counted as well.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive
from edm_unified.networks.base import check_augment, check_input, check_label, check_shape, run
from edm_unified.networks.embeddings import Positional, class_rows

FREQUENCIES = 256
"""Length of the sinusoidal embedding of c_noise."""


@component
class Transformer:
    """DiT with adaLN-Zero (Peebles & Xie 2023): ``depth`` blocks of ``width`` channels in ``heads`` heads.

    For images (C, H, W) of any size, signals (C, L), and vectors (d,), which are signals of one channel. Each spatial
    side must be a multiple of ``patch``, the side of the square (or the length of the piece) that becomes a token;
    the cost of attention is quadratic in their number. Positions are sines and cosines of the patch's column and row
    (of its place, in one dimension), not learned. ``qk_norm`` divides each head's queries and keys by their root mean
    square, with a learned scale (Esser et al. 2024): for bfloat16, and for learning rates at which logits would grow.

    ``noise_scale`` multiplies c_noise before its sines: 1, the published value, suits step indices (DiT) and is what
    SiT uses for t in [0, 1]; Esser et al. 2024 tell t times 1000. A class −1 (or no label) has an embedding of its own,
    the null class of classifier-free guidance.

    ``build`` raises ``ValueError`` for a shape that is none of these, or with a side that is no multiple of ``patch``.
    """

    depth: Count = 12
    width: Count = 384
    heads: Count = 6
    patch: Count = 2
    mlp_ratio: Positive = 4.0
    qk_norm: bool = False
    noise_scale: Positive = 1.0
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width: must be a multiple of 4, for sines and cosines of two axes, got {self.width}")
        if self.width % self.heads:
            raise ValueError(f"heads: must divide width, got {self.heads} against {self.width}")

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> TransformerNetwork:
        """The network for ``shape`` (C, H, W), (C, L) or (d,), its weights drawn from torch's generator."""
        return self.build_with_tokens(shape, classes, augment, 0)

    def build_with_tokens(self, shape: tuple[int, ...], classes: int, augment: int, tokens: int) -> TransformerNetwork:
        """That with cross-attention in every block to the ``tokens`` (B, L, K) of a condition, K = ``tokens`` or 0."""
        check_shape(shape, (1, 2, 3), "a transformer is for images (C, H, W), signals (C, L) or vectors (d,)")
        sides = shape if len(shape) == 1 else shape[1:]
        if any(side % self.patch for side in sides):
            size = "x".join(map(str, sides))
            raise ValueError(f"patch: must divide every side of the data, got {self.patch} against {size}")
        return TransformerNetwork(self, shape, classes, augment, tokens)


def positions(grid: tuple[int, ...], width: int) -> Float[Tensor, "N width"]:
    """Sines and cosines of the place of every token, in float64: one axis after the other, the last axis first.

    Each axis has width/len(grid) channels: sines, then cosines, of place · 10000^{−i/m}, m half of them.
    """
    channels = width // len(grid)
    embed = Positional(channels)
    axes = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) for side in grid], indexing="ij")
    return torch.cat([embed(axis.flatten()) for axis in reversed(axes)], dim=1)


class HeadNorm(nn.Module):
    """Root-mean-square norm of each head's channels, with a learned scale, in the dtype of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # nn.RMSNorm under autocast would warn that its weight is not in bfloat16
        return functional.rms_norm(x, self.scale.shape, self.scale.to(x.dtype), eps=1e-6)


class SelfAttention(nn.Module):
    """Multi-head attention over the tokens."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B N width"]) -> Float[Tensor, "B N width"]:
        q, k, v = rearrange(self.qkv(x), "b n (three head c) -> three b head n c", three=3, head=self.heads).unbind()
        y = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return cast(Tensor, self.out(rearrange(y, "b head n c -> b n (head c)")))


class CrossAttention(nn.Module):
    """Multi-head attention of the image's tokens to those of a condition, zero at the start.

    The condition's tokens (B, L, K) have no order unless they say it themselves. Where ``there`` (B,) is 0, they have
    no say.
    """

    def __init__(self, width: int, heads: int, tokens: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(tokens, 2 * width)
        self.out = nn.Linear(width, width)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "B N width"], tokens: Float[Tensor, "B L K"], there: Tensor) -> Tensor:
        q = rearrange(self.q(x), "b n (head c) -> b head n c", head=self.heads)
        k, v = rearrange(self.kv(tokens), "b l (two head c) -> two b head l c", two=2, head=self.heads).unbind()
        y = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return cast(Tensor, there[:, None, None] * self.out(rearrange(y, "b head n c -> b n (head c)")))


class TransformerBlock(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the embedding c; between them cross-attention to tokens."""

    def __init__(self, config: Transformer, tokens: int = 0) -> None:
        super().__init__()
        self.cross = CrossAttention(config.width, config.heads, tokens, config.qk_norm) if tokens else None
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = SelfAttention(width, config.heads, config.qk_norm)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, x: Tensor, condition: Tensor, tokens: Tensor | None = None, there: Tensor | None = None
    ) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attention(self.norm(x) * (1 + scale_1) + shift_1)
        if self.cross is not None and tokens is not None:
            x = x + self.cross(self.norm(x), tokens, there)
        return cast(Tensor, x + gate_2 * self.mlp(self.norm(x) * (1 + scale_2) + shift_2))


class TransformerNetwork(nn.Module):
    """What :meth:`Transformer.build` returns: F(x, c_noise; label) for x (B, C, H, W), (B, C, L) or (B, d).

    The number of channels is that of ``shape``; of sizes it takes every multiple of the patch.
    """

    places: Tensor

    def __init__(
        self, config: Transformer, shape: tuple[int, ...], classes: int, augment: int, tokens: int = 0
    ) -> None:
        super().__init__()
        self.config, self.classes, self.augments = config, classes, augment
        self.checkpoint_activations = False
        self.axes = max(len(shape) - 1, 1)
        self.channels = 1 if len(shape) == 1 else shape[0]
        self.shape = (-1,) if len(shape) == 1 else (shape[0], *[-1] * self.axes)
        self.grid = tuple(side // config.patch for side in shape[-self.axes :])
        width, pixels = config.width, config.patch**self.axes

        self.patches = nn.Linear(self.channels * pixels, width)
        self.register_buffer("places", positions(self.grid, width).float(), persistent=False)
        self.frequencies = Positional(FREQUENCIES, config.noise_scale)
        self.noise = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.augment = nn.Linear(augment, width, bias=False) if augment else None
        self.blocks = nn.ModuleList(TransformerBlock(config, tokens) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, self.channels * pixels)
        self._initialize()

    def _initialize(self) -> None:
        """Glorot-uniform weights, no biases, 0.02 normal embeddings, and zero where a branch or the output ends."""
        linears = [module for module in self.modules() if isinstance(module, nn.Linear)]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        for layer in (self.noise[0], self.noise[2]):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.02)
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)
        for linear in (
            self.modulation,
            self.head,
            *[cast(TransformerBlock, block).modulation for block in self.blocks],
            *[block.cross.out for block in self.blocks if isinstance(block.cross, CrossAttention)],
        ):
            nn.init.zeros_(linear.weight)

    def embed(self, noise: Tensor, label: Tensor | None, augment: Tensor | None, dtype: torch.dtype) -> Tensor:
        """silu(c) (B, width), c the sum of the embeddings of noise level, class and augmentation."""
        condition = self.noise(self.frequencies(noise).to(dtype))
        if self.label is not None:
            condition = condition + self.embed_class(noise, label)
        if self.augment is not None and augment is not None:
            condition = condition + self.augment(augment.to(dtype))
        return functional.silu(condition)

    def embed_class(self, noise: Tensor, label: Tensor | None) -> Tensor:
        """(B, width): that of the class, the sum of those of several, or that of none."""
        assert self.label is not None
        if label is not None and label.ndim == 2:
            table = self.label.weight
            none = (label == 0).all(1)[:, None].to(table.dtype)
            return class_rows(table[:-1], label) + none * table[-1]
        null = torch.full_like(noise, self.classes, dtype=torch.long)
        return self.label(null if label is None else torch.where(label < 0, self.classes, label))  # type: ignore[no-any-return]

    def forward(
        self,
        x: Float[Tensor, "B *shape"],
        noise: Float[Tensor, " B"],
        *,
        label: Shaped[Tensor, "B *classes"] | None = None,
        augment: Float[Tensor, "B A"] | None = None,
        tokens: Float[Tensor, "B L K"] | None = None,
        tokens_there: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B *shape"]:
        check_input(x, noise, self.shape)
        check_label(label, self.classes, len(x))
        check_augment(augment, self.augments, len(x))
        grid = self._grid(tuple(x.shape[-self.axes :]))
        condition = self.embed(noise, label, augment, x.dtype)
        places = self.places if grid == self.grid else positions(grid, self.config.width).to(x)

        given = () if tokens is None or tokens_there is None else (tokens, tokens_there)
        h = self.patches(self._cut(x)) + places.to(x.dtype)
        for block in self.blocks:
            h = run(block, h, condition, *given, recompute=self.checkpoint_activations)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self._paste(self.head(self.norm(h) * (1 + scale) + shift), grid)

    def _grid(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        if any(side % self.config.patch for side in sides):
            size = "x".join(map(str, sides))
            raise ValueError(f"x: every side must be a multiple of the patch, {self.config.patch}, got {size}")
        return tuple(side // self.config.patch for side in sides)

    def _cut(self, x: Tensor) -> Tensor:
        """(B, *shape) to tokens (B, N, C · patch^axes); within a token channels come first, as in a convolution."""
        p = self.config.patch
        if self.axes == 2:
            return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)
        return rearrange(x[:, None] if x.ndim == 2 else x, "b c (n p) -> b n (c p)", p=p)

    def _paste(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Tokens (B, N, patch^axes · C) to (B, *shape); within a token channels come last, as in DiT's last layer."""
        p = self.config.patch
        if self.axes == 2:
            return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid[0], p=p, q=p)
        x = rearrange(tokens, "b n (p c) -> b c (n p)", p=p)
        return x[:, 0] if self.shape == (-1,) else x
