"""EDM's networks and ours on the same weights: SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM) of NVlabs/edm.

In float64 on both sides; theirs has the features of the noise level and the softmax in float32, which is what is left.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from nvidia import filled, modules
from torch import Tensor, nn

from edm_unified.networks import UNet, published
from edm_unified.networks.unet.blocks import Attention, ResidualBlock

(networks,) = modules("NVlabs/edm", "training.networks")

CLOSE = 1e-5
SONG = {"channels": 32, "multipliers": (1, 2, 2), "blocks": 2, "attention_resolutions": (8,), "dropout": 0.1}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ddpmpp": ({}, {}),
    "ncsnpp": (
        {"embedding": "fourier", "noise_multiplier": 2, "encoder": "residual", "filter": (1, 3, 3, 1)},
        {
            "embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "skips": (
        {"encoder": "skip", "decoder": "skip", "filter": (1, 2, 3, 3, 2, 1), "embedding_multiplier": 2},
        {
            "encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 2, 3, 3, 2, 1],
            "channel_mult_emb": 2,
        },
    ),
    "wide_first_level": ({"multipliers": (2, 1, 2)}, {"channel_mult": [2, 1, 2]}),
}  # fmt: skip
ADM = replace(published.ADM_IMAGENET64, channels=64, multipliers=(1, 2), blocks=2, attention_resolutions=(8, 16))


def put(ours: Any, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        ours.weight.copy_(weight.view_as(ours.weight))
        if bias is not None:
            ours.bias.copy_(bias)


def put_attention(ours: Attention, theirs: Any) -> None:
    put(ours.norm, theirs.norm2.weight, theirs.norm2.bias)
    # theirs: head, channel, (q, k, v); ours: (q, k, v), head, channel
    order = torch.arange(len(theirs.qkv.weight)).view(ours.heads, -1, 3).permute(2, 0, 1).flatten()
    put(ours.qkv, theirs.qkv.weight[order], theirs.qkv.bias[order])
    put(ours.output, theirs.proj.weight, theirs.proj.bias)


def put_block(ours: ResidualBlock, theirs: Any) -> None:
    for name, layer in (
        ("norm_in", theirs.norm0), ("conv_in", theirs.conv0), ("condition", theirs.affine),
        ("norm_out", theirs.norm1), ("conv_out", theirs.conv1),
    ):  # fmt: skip
        put(getattr(ours, name), layer.weight, layer.bias)
    has = theirs.skip is not None and theirs.skip.weight is not None
    assert has == (ours.shortcut is not None)
    if has:
        put(ours.shortcut, theirs.skip.weight, theirs.skip.bias)
    assert (ours.attention is None) == (theirs.num_heads == 0)
    if ours.attention is not None:
        assert ours.attention.heads == theirs.num_heads
        put_attention(ours.attention, theirs)


def put_network(ours: Any, theirs: Any, side: int) -> None:
    """All weights of theirs into ours; every one of theirs is used, which the count of numbers shows."""
    adm = type(theirs).__name__ == "DhariwalUNet"  # by name, for it may be loaded twice
    half = theirs.map_layer0.weight.shape[1] // 2
    swap = torch.arange(2 * half).roll(half) if adm else torch.arange(2 * half)  # ADM's has the cosines first
    put(ours.noise_in, theirs.map_layer0.weight[:, swap], theirs.map_layer0.bias)
    put(ours.noise_out, theirs.map_layer1.weight, theirs.map_layer1.bias)
    if hasattr(theirs.map_noise, "freqs"):
        ours.features.frequencies.copy_(2 * math.pi * theirs.map_noise.freqs[:, None])
    if theirs.map_augment is not None:
        put(ours.augment_embedding, theirs.map_augment.weight[swap], None)
    if theirs.map_label is not None:
        put(ours.class_embedding.table, theirs.map_label.weight.T, None)
        if not adm:
            with torch.no_grad():
                ours.class_embedding.bias.copy_(theirs.map_label.bias)
    enc, dec = theirs.enc, theirs.dec
    put(ours.input, enc[f"{side}x{side}_conv"].weight, enc[f"{side}x{side}_conv"].bias)
    sides = [side >> level for level in range(len(ours.encoder))]
    for s, level in zip(sides, ours.encoder, strict=True):
        for i, block in enumerate(level.blocks):
            put_block(block, enc[f"{s}x{s}_block{i}"])
        if level.resample is not None:
            put_block(level.resample, enc[f"{s}x{s}_down"])
        if level.pyramid is not None:
            aux = enc[f"{s}x{s}_aux_residual" if f"{s}x{s}_aux_residual" in enc else f"{s}x{s}_aux_skip"]
            put(level.pyramid.conv, aux.weight, aux.bias)
    for i, block in enumerate(ours.middle):
        put_block(block, dec[f"{sides[-1]}x{sides[-1]}_in{i}"])
    for s, level in zip(reversed(sides), ours.decoder, strict=True):
        for i, block in enumerate(level.blocks):
            put_block(block, dec[f"{s}x{s}_block{i}"])
        if level.resample is not None:
            put_block(level.resample, dec[f"{s}x{s}_up"])
        if level.readout is not None:
            norm, conv = (
                (theirs.out_norm, theirs.out_conv) if adm else (dec[f"{s}x{s}_aux_norm"], dec[f"{s}x{s}_aux_conv"])
            )
            put(level.readout.norm, norm.weight, norm.bias)
            put(level.readout.conv, conv.weight, conv.bias)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def difference(ours: Any, theirs: Any, side: int, classes: int, augment: int, noise: Tensor) -> float:
    """The largest difference of the outputs over the largest output; with classes, one sample has none."""
    x = torch.randn(len(noise), 3, side, side, dtype=torch.float64)
    label = torch.arange(len(noise)) % (classes + 1) - 1 if classes else None
    one_hot = nn.functional.one_hot(label + 1, classes + 1)[:, 1:].double() if label is not None else None
    told = torch.randn(len(noise), augment, dtype=torch.float64) if augment else None
    found = ours(x, noise, label=label, augment=told)
    wanted = theirs(x, noise.double(), one_hot, augment_labels=told)
    assert wanted.std() > 0.05
    return float((found - wanted).abs().max() / wanted.abs().max())


def song(config: UNet, side: int, classes: int, augment: int, **options: Any) -> Any:
    return networks.SongUNet(
        side, 3, 3, classes, augment, model_channels=config.channels, num_blocks=config.blocks,
        attn_resolutions=list(config.attention_resolutions), dropout=config.dropout,
        **{"channel_mult": list(config.multipliers)} | options,
    )  # fmt: skip


@pytest.mark.parametrize("told", [(0, 0), (10, 9)], ids=["alone", "classes_and_augmentation"])
@pytest.mark.parametrize("case", CASES)
def test_song_unet(case: str, told: tuple[int, int]) -> None:
    mine, their_own = CASES[case]
    config = UNet(**SONG | mine)
    ours = config.build((3, 16, 16), *told).double().eval()
    theirs = filled(song(config, 16, *told, **their_own))
    put_network(ours, theirs, 16)
    assert difference(ours, theirs, 16, *told, torch.linspace(-2, 2, 5)) < CLOSE


@pytest.mark.parametrize("told", [(0, 0), (10, 9)], ids=["alone", "classes_and_augmentation"])
def test_dhariwal_unet(told: tuple[int, int]) -> None:
    ours = ADM.build((3, 16, 16), *told).double().eval()
    theirs = filled(
        networks.DhariwalUNet(
            16, 3, 3, *told, model_channels=64, channel_mult=[1, 2], num_blocks=2, attn_resolutions=[8, 16]
        )
    )
    put_network(ours, theirs, 16)
    assert difference(ours, theirs, 16, *told, torch.tensor([0.0, 3.0, 17.5, 420.0, 999.0])) < CLOSE


@pytest.mark.parametrize("name", ["DDPMPP_CIFAR10", "NCSNPP_CIFAR10"])
def test_the_published_networks_of_cifar10(name: str) -> None:
    config = getattr(published, name)
    told = CASES["ncsnpp"][1] if name.startswith("NCSN") else {}
    theirs = filled(song(config, 32, 10, 9, **told))
    ours = config.build((3, 32, 32), 10, 9).double().eval()
    put_network(ours, theirs, 32)
    assert difference(ours, theirs, 32, 10, 9, torch.tensor([-1.0, 0.5])) < CLOSE


@pytest.mark.parametrize("name", ["ddpmpp", "ncsnpp", "adm"])
def test_weights_start_from_the_same_distributions(name: str) -> None:
    """Each tensor has their standard deviation and their kind, uniform or normal; theirs of 1e-5 are zeros here."""
    if name == "adm":
        config = ADM
        theirs = networks.DhariwalUNet(16, 3, 3, 10, 9, model_channels=64, channel_mult=[1, 2], num_blocks=2)
    else:
        mine, their_own = CASES[name]
        config = replace(UNet(**SONG | mine), attention_resolutions=(8, 16))
        theirs = song(config, 16, 10, 9, **their_own)
    start, mapped = config.build((3, 16, 16), 10, 9), config.build((3, 16, 16), 10, 9)
    put_network(mapped, theirs, 16)
    compared = 0
    for (label, p), q in zip(mapped.state_dict().items(), start.state_dict().values(), strict=True):
        if p.numel() < 200:
            assert bool(p.any()) == bool(q.any()), label
        elif p.std() < 1e-5:
            assert p.std() == 0 or label.endswith("weight")
            assert torch.equal(q, torch.full_like(q, float(q.flatten()[0]))), label  # zeros, or the ones of a norm
        else:
            assert abs(float(p.std() / q.std()) - 1) < 5 / p.numel() ** 0.5, label
            assert (p.abs().max() / p.std() < 1.9) == (q.abs().max() / q.std() < 1.9), label  # √3 if uniform
            compared += 1
    assert compared > 30
