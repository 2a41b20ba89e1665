"""A multilayer perceptron, for vectors and for small samples written as one vector.

    h   = W_in [x, features(x)]
    e   = silu(W_2 silu(W_1 features(c_noise) + class + augmentation))
    h  += W_b silu(norm(W_a silu(norm(h)) + A e))          for each block, W_b = 0 at first
    F   = W_out silu(norm(h)),                              W_out = 0 at first

Fourier features of the input let a small network follow detail much finer than the data's extent (Tancik et al.
2020): without them it learns smooth functions first and the branches of a spiral late.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.components.component import component
from edm_unified.components.constraints import Count, Positive, whole
from edm_unified.networks.base import Dropout, check_augment, check_input, check_label, check_shape, run
from edm_unified.networks.embeddings import ClassEmbedding, Fourier, Positional


@component
class MLP:
    """Residual perceptron, ``blocks`` blocks of width ``width``; a sample of any shape is taken as one vector.

    ``embedding`` turns noise_scale · c_noise into ``noise_features`` numbers: ``fourier`` with frequencies
    2π · ``fourier_scale`` · N(0, 1), or ``positional``, whose frequencies are 1 … 1/10000 and which wants step counts
    (set ``noise_scale`` to 1000 for a c_noise in [0, 1]). ``input_features`` > 0 adds that many Fourier features of
    the input, of scale ``input_scale`` in periods per unit of c_in z. ``dropout`` is applied within the blocks.

    For sets of up to about a hundred numbers per sample; images want :class:`~edm_unified.networks.UNet`.
    """

    width: Count = 256
    blocks: Annotated[int, whole(most=1000)] = 4
    embedding: Literal["fourier", "positional"] = "fourier"
    noise_features: Annotated[int, whole(least=2)] = 64
    noise_scale: Positive = 1.0
    fourier_scale: Positive = 1.0
    input_features: Annotated[int, whole(least=0)] = 0
    input_scale: Positive = 1.0
    dropout: Dropout = 0.0
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self) -> None:
        for name in ("noise_features", "input_features"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name}: must be even, half sines and half cosines, got {getattr(self, name)}")

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """The module for samples of ``shape``."""
        check_shape(shape, tuple(range(1, 9)), "must be (d,) or that of images, with every size at least 1")
        return MLPModule(self, tuple(shape), classes, augment)


class MLPModule(nn.Module):
    """What :class:`MLP` builds. ``checkpoint_activations`` trades a second forward pass for memory."""

    def __init__(self, config: MLP, shape: tuple[int, ...], classes: int, augment: int) -> None:
        super().__init__()
        self.checkpoint_activations = False
        self.shape, self.classes, self.augment = shape, classes, augment
        self.noise_scale = config.noise_scale
        size, width = math.prod(shape), config.width
        self.features: nn.Module
        if config.embedding == "fourier":
            self.features = Fourier(config.noise_features, config.fourier_scale)
        else:
            self.features = Positional(config.noise_features, endpoint=True)
        self.noise_in = nn.Linear(config.noise_features, width)
        self.noise_out = nn.Linear(width, width)
        self.class_embedding = ClassEmbedding(classes, width) if classes else None
        self.augment_embedding = nn.Linear(augment, width, bias=False) if augment else None
        self.input_features = (
            Fourier(config.input_features, config.input_scale, inputs=size) if config.input_features else None
        )
        self.input = nn.Linear(size + config.input_features, width)
        self.blocks = nn.ModuleList(_Block(width, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: Float[Tensor, "B *shape"],
        noise: Float[Tensor, " B"],
        *,
        label: Shaped[Tensor, "B *classes"] | None = None,
        augment: Float[Tensor, "B k"] | None = None,
    ) -> Float[Tensor, "B *shape"]:
        check_input(x, noise, self.shape)
        check_label(label, self.classes, len(x))
        check_augment(augment, self.augment, len(x))
        rows = x.flatten(1)
        embedding = self.noise_in(self.features(noise * self.noise_scale).to(x.dtype))
        if label is not None and self.class_embedding is not None:
            embedding = embedding + self.class_embedding(label)
        if augment is not None and self.augment_embedding is not None:
            embedding = embedding + self.augment_embedding(augment.to(x.dtype))
        embedding = functional.silu(self.noise_out(functional.silu(embedding)))
        if self.input_features is not None:
            rows = torch.cat([rows, self.input_features(rows).to(x.dtype)], dim=1)
        h = self.input(rows)
        for block in self.blocks:
            h = run(block, h, embedding, recompute=self.checkpoint_activations)
        return self.output(functional.silu(self.norm(h))).view_as(x)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.condition = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.inner(functional.silu(self.norm_in(x))) + self.condition(embedding)
        return x + self.outer(self.dropout(functional.silu(self.norm_out(h))))
