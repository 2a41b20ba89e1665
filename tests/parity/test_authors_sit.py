"""SiT's network (willisma/SiT, models.py; DiT's but for what it is told) and ours, on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from authors_repos import clone, importable
from nvidia import filled
from torch import nn

from edm_unified.networks import Transformer

pytest.importorskip("timm", reason="needs timm, of whose layers their network is made: pip install timm")
with importable(clone("willisma/SiT")) as load:
    models = load("models")

CONFIG = Transformer(depth=3, width=64, heads=4)


def built() -> Any:
    """Their second half of the outputs, for a learned variance, is dropped in their forward pass."""
    return models.SiT(input_size=8, in_channels=4, hidden_size=64, depth=3, num_heads=4, num_classes=7)


@torch.no_grad()
def put(ours: Any, theirs: Any) -> None:
    def layer(mine: nn.Linear, other: Any, rows: Any = slice(None), columns: Any = slice(None)) -> None:
        mine.weight.copy_(other.weight.flatten(1)[rows][:, columns])
        mine.bias.copy_(other.bias[rows])

    layer(ours.patches, theirs.x_embedder.proj)
    layer(ours.noise[0], theirs.t_embedder.mlp[0], columns=torch.arange(256).roll(128))  # theirs has cosines first
    layer(ours.noise[2], theirs.t_embedder.mlp[2])
    ours.label.weight.copy_(theirs.y_embedder.embedding_table.weight)
    for mine, other in zip(ours.blocks, theirs.blocks, strict=True):
        layer(mine.attention.qkv, other.attn.qkv)
        layer(mine.attention.out, other.attn.proj)
        layer(mine.mlp[0], other.mlp.fc1)
        layer(mine.mlp[2], other.mlp.fc2)
        layer(mine.modulation, other.adaLN_modulation[-1])
    layer(ours.modulation, theirs.final_layer.adaLN_modulation[-1])
    used = torch.arange(4 * 8).view(4, 8)[:, :4].flatten()  # of 2·2 pixels with 8 channels each, the first 4
    layer(ours.head, theirs.final_layer.linear, rows=used)


@torch.no_grad()
def test_the_network() -> None:
    theirs, ours = built(), CONFIG.build((4, 8, 8), 7).double().eval()
    places = theirs.pos_embed.clone()
    filled(theirs)
    theirs.pos_embed.copy_(places)
    put(ours, theirs)
    x, t = torch.randn(5, 4, 8, 8, dtype=torch.float64), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    label = torch.tensor([0, 3, 6, -1, 2])
    # its features are float32
    theirs.t_embedder.mlp.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    wanted = theirs(x, t, torch.where(label < 0, 7, label))
    assert wanted.std() > 0.1
    found = ours(x, t, label=label)
    assert (found - wanted).abs().max() < 1e-12 * wanted.abs().max()


@torch.no_grad()
def test_weights_start_from_the_same_distributions() -> None:
    start, mapped = CONFIG.build((4, 8, 8), 7), CONFIG.build((4, 8, 8), 7)
    put(mapped, built())
    for (name, p), q in zip(mapped.named_parameters(), start.parameters(), strict=True):
        assert bool(p.any()) == bool(q.any()), name
        if p.any():
            assert abs(float(p.std() / q.std()) - 1) < 5 / p.numel() ** 0.5, name
            assert (p.abs().max() / p.std() < 1.9) == (q.abs().max() / q.std() < 1.9), name  # √3 if uniform
