"""Parity of the U-Net with diffusers' ``UNet2DModel``, an independent implementation, on the same weights.

Whole networks of ADM's and of DDPM's kind (resampling inside residual blocks), one block of the kind that both scale
by 1/√2, the FIR filters of NCSN++. Everything in float64 but for angles and taps, which both compute in float32:
agreement to 1e-5 of outputs of order one, where a wrong order of operations shows at 1e-1.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edm_unified.networks import UNet
from edm_unified.networks.embeddings import Positional
from edm_unified.networks.unet.blocks import Attention, Resample, ResidualBlock

diffusers = pytest.importorskip("diffusers")

from diffusers.models import attention_processor, embeddings, resnet  # noqa: E402
from diffusers.models.downsampling import FirDownsample2D  # noqa: E402
from diffusers.models.upsampling import FirUpsample2D  # noqa: E402

CLOSE = 1e-5


def copy(theirs: nn.Module, *ours: Any) -> None:
    """Weight and bias of a layer from ours; several are stacked by rows, and 1 × 1 convolutions are matrices."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(layer, name) for layer in ours]
            getattr(theirs, name).copy_(torch.cat(parts).view_as(getattr(theirs, name)))


def copy_block(theirs: Any, ours: ResidualBlock) -> None:
    pairs = {"norm1": ours.norm_in, "conv1": ours.conv_in, "time_emb_proj": ours.condition}
    pairs |= {"norm2": ours.norm_out, "conv2": ours.conv_out}
    for name, layer in pairs.items():
        copy(getattr(theirs, name), layer)
    assert (theirs.conv_shortcut is None) == (ours.shortcut is None)
    if ours.shortcut is not None:
        copy(theirs.conv_shortcut, ours.shortcut)


def copy_attention(theirs: Any, ours: Attention) -> None:
    copy(theirs.group_norm, ours.norm)
    with torch.no_grad():
        for layer, weight, bias in zip(
            (theirs.to_q, theirs.to_k, theirs.to_v), ours.qkv.weight.chunk(3), ours.qkv.bias.chunk(3), strict=True
        ):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    copy(theirs.to_out[0], ours.output)


def copy_level(theirs: Any, ours: Any, resampler: Any) -> None:
    for i, block in enumerate(ours.blocks):
        copy_block(theirs.resnets[i], block)
        if block.attention is not None:
            copy_attention(theirs.attentions[i], block.attention)
    if resampler is not None:
        copy_block(resampler[0], ours.resample)


def copy_network(theirs: Any, ours: Any) -> None:
    for name, layer in {"conv_in": ours.input, "conv_norm_out": ours.decoder[-1].readout.norm}.items():
        copy(getattr(theirs, name), layer)
    copy(theirs.conv_out, ours.decoder[-1].readout.conv)
    copy(theirs.time_embedding.linear_1, ours.noise_in)
    copy(theirs.time_embedding.linear_2, ours.noise_out)
    if ours.class_embedding is not None:
        with torch.no_grad():
            theirs.class_embedding.weight.copy_(ours.class_embedding.table.weight)
    copy_block(theirs.mid_block.resnets[0], ours.middle[0])
    copy_attention(theirs.mid_block.attentions[0], ours.middle[0].attention)
    copy_block(theirs.mid_block.resnets[1], ours.middle[1])
    levels = len(ours.encoder)
    for i in range(levels):  # theirs halve and double at the end of a level, ours at the start of the next
        copy_level(theirs.down_blocks[i], ours.encoder[i], None)
        copy_level(theirs.up_blocks[i], ours.decoder[i], None)
        if i:
            copy_block(theirs.down_blocks[i - 1].downsamplers[0], ours.encoder[i].resample)
            copy_block(theirs.up_blocks[i - 1].upsamplers[0], ours.decoder[i].resample)


def filled(module: nn.Module) -> nn.Module:
    """All weights of the order of those of a trained network, zeros included."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(
                torch.randn_like(p) * (p.shape[1] * p[0, 0].numel()) ** -0.5
                if p.ndim > 1
                else p + 0.1 * torch.randn_like(p)
            )
    return module.double()


@pytest.mark.parametrize("adm", [True, False], ids=["adm", "ddpm"])
def test_the_whole_network(adm: bool) -> None:
    config = UNet(
        channels=128,  # from here on the number of groups is 32, which theirs has everywhere
        multipliers=(1, 1, 2),
        blocks=1,
        attention_resolutions=(4,) if adm else (),
        decoder_attention="all",
        head_channels=64 if adm else None,
        endpoint=not adm,
        label_at="embedding",
        adaptive_scale=adm,
        resample_projection=False,
        rescale=False,
        dropout=0.0,
        norm_eps=1e-5,
    )
    ours = filled(config.build((3, 8, 8), classes=4 if adm else 0))
    plain, attends = "ResnetDownsampleBlock2D", "AttnDownBlock2D" if adm else "ResnetDownsampleBlock2D"
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(128, 128, 256),
        layers_per_block=1,
        down_block_types=(plain, attends, plain),
        up_block_types=tuple(name.replace("Down", "Up") for name in (plain, attends, plain)),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=64 if adm else None,
        norm_eps=1e-5,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if adm else "default",
        num_class_embeds=4 if adm else None,
        flip_sin_to_cos=False,
        freq_shift=0 if adm else 1,
    )
    theirs = theirs.double().eval()
    copy_network(theirs, ours)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())

    x, noise = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3.0, 700.0])
    label = torch.tensor([3, 1]) if adm else None
    with torch.no_grad():
        found = ours(x, noise, label=label)
        wanted = theirs(x, noise, class_labels=label).sample
    assert wanted.std() > 0.1
    assert torch.allclose(found, wanted, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("resample", ["", "up", "down"])
def test_one_residual_block_with_rescaled_sums(resample: str, adaptive: bool) -> None:
    ours = filled(ResidualBlock(2, 128, 256, 64, resample=resample, adaptive=adaptive, scale=0.5**0.5, eps=1e-6))
    theirs = resnet.ResnetBlock2D(
        in_channels=128,
        out_channels=256,
        temb_channels=64,
        groups=32,
        eps=1e-6,
        time_embedding_norm="scale_shift" if adaptive else "default",
        output_scale_factor=2**0.5,
        up=resample == "up",
        down=resample == "down",
    ).double()
    copy_block(theirs, ours)
    x, embedding = torch.randn(2, 128, 6, 4, dtype=torch.float64), torch.randn(2, 64, dtype=torch.float64)
    # theirs applies the silu that ours applies once for all blocks
    assert torch.allclose(ours(x, nn.functional.silu(embedding)), theirs(x, embedding), rtol=0, atol=1e-10)


@pytest.mark.parametrize("heads", [1, 4])
def test_one_attention_with_rescaled_sums(heads: int) -> None:
    ours = filled(Attention(128, heads, eps=1e-6, scale=0.5**0.5))
    theirs = attention_processor.Attention(
        128,
        heads=heads,
        dim_head=128 // heads,
        rescale_output_factor=2**0.5,
        eps=1e-6,
        norm_num_groups=32,
        residual_connection=True,
        bias=True,
        upcast_softmax=True,
        _from_deprecated_attn_block=True,
    ).double()
    copy_attention(theirs, ours)
    x = torch.randn(2, 128, 3, 5, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x), rtol=0, atol=1e-6)  # theirs takes the softmax in float32


def test_fir_filters() -> None:
    filter, x = Resample(2, (1, 3, 3, 1)), torch.randn(2, 4, 6, 8)
    assert torch.allclose(filter.down(x), FirDownsample2D(4, fir_kernel=(1, 3, 3, 1))(x), atol=1e-6)
    assert torch.allclose(filter.up(x), FirUpsample2D(4, fir_kernel=(1, 3, 3, 1))(x), atol=1e-6)


@pytest.mark.parametrize("endpoint", [True, False])
def test_positional_embedding(endpoint: bool) -> None:
    noise: Tensor = torch.tensor([0.0, 0.4, 17.0, 999.0])
    wanted = embeddings.get_timestep_embedding(noise, 64, downscale_freq_shift=float(endpoint))
    # an angle of 999 has an ulp of 6e-5 in float32
    assert torch.allclose(Positional(64, endpoint=endpoint)(noise), wanted, atol=2e-4)
