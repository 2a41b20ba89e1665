"""Checkpoints of denoising-diffusion-pytorch's Trainer: its U-Net, with the table of betas that is saved beside it.

The Trainer saves the whole diffusion, so that the buffers say the table, and by the weights of the loss what the
network predicts: 1, SNR or SNR/(SNR + 1) where the SNR is below the bound of min-SNR weighting, for ε, x_0 and v. The
average of ema-pytorch is taken. Samples are in [−1, 1], where the library's own images are in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import OnSchedule, Preconditioning
from edm_unified.interop import source as sources
from edm_unified.interop.moving import Moving, means
from edm_unified.interop.networks import LucidUNet
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.schedules import BetaTable

BUFFERS = ("betas", "loss_weight")
_BLOCK = {"mlp.1": "condition", "block1.proj": "conv_in", "block2.proj": "conv_out"}
_MOST_SNR = 4.0
"""Below the usual bound of 5 of min-SNR weighting, whose weights are then those without it."""


def knows(content: Content) -> bool:
    weights = _weights(content)
    return {
        "init_conv.weight",
        "time_mlp.1.weight",
        "final_conv.weight",
        "downs.0.0.block1.proj.weight",
    } <= weights.keys()


def recognise(content: Content, asked: Asked) -> Source:
    """The source in ``content``. Raises ``ValueError`` where it is another network, or predicts what is not said."""
    label, weights = content.label, _weights(content)
    try:
        component, channels = _component(weights, asked.fields)
        row = asked.convention or _convention(content.state.tensors)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    shape = sources.shape_of(asked, channels, label)
    schedule, steps = sources.schedule_of(row)

    def build() -> nn.Module:
        moving = Moving(weights, label)
        _move(moving, component, channels)
        return moving.into(component, shape)

    return Source(
        place=label, what="state dict", network="U-Net of denoising-diffusion-pytorch", convention=row,
        schedule=schedule, steps=steps, shape=shape, weights=(content.file,), build=build, component=component,
        own=True, notes=("its own sampler clips D; here: --threshold static:low=-1,high=1",),
        said={"weights": content.state.place} if content.state.place else {},
    )  # fmt: skip


def _weights(content: Content) -> dict[str, Tensor]:
    """Those of the network, in a diffusion or alone."""
    tensors = content.state.tensors
    if "betas" not in tensors:
        return tensors
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def _convention(tensors: Mapping[str, Tensor]) -> Preconditioning:
    """The table, and what the weights of the loss say is predicted."""
    if not all(name in tensors for name in BUFFERS):
        raise ValueError("has no table of betas beside it, and does not say what it predicts; give convention=")
    betas, told = (tensors[name].double() for name in BUFFERS)
    if betas.ndim != 1 or told.shape != betas.shape or not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError("betas: must be in (0, 1), with a weight of the loss for each")
    alpha_bar = torch.cumprod(1 - betas, 0)
    snr = alpha_bar / (1 - alpha_bar)
    noisy = snr < _MOST_SNR
    if not bool(noisy.any()):
        raise ValueError("betas: they add too little noise to say what is predicted; give convention=")
    snr, told = snr[noisy], told[noisy]
    forms = {"epsilon": torch.ones_like(snr), "x0": snr, "v": snr / (snr + 1)}
    errors = {name: float((told / form - 1).abs().nan_to_num(1e9).max()) for name, form in forms.items()}
    best = min(errors, key=lambda name: errors[name])
    if errors[best] > 0.02:
        raise ValueError("loss_weight: is none of those of epsilon, x0 and v; give convention=")
    return OnSchedule(BetaTable(tuple(betas.tolist())), best, "index")  # type: ignore[arg-type]


def _component(weights: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[LucidUNet, int]:
    stem, last, features = weights["init_conv.weight"], weights["final_conv.weight"], weights["time_mlp.1.weight"]
    if stem.ndim != 4 or last.ndim != 4 or features.ndim != 2:
        raise ValueError(f"its first convolution has the shape {tuple(stem.shape)}; only networks of images are read")
    channels = stem.shape[1]
    if last.shape[0] not in (channels, 2 * channels):
        raise ValueError(
            f"takes {channels} channels and gives {last.shape[0]}: self-conditioned networks are not read; use edm.wrap"
        )
    if features.shape[0] != 4 * features.shape[1]:
        raise ValueError("its embedding of the step is learnt or of random features; only sinusoids are read")
    width, levels = features.shape[1], 0
    while f"downs.{levels}.0.block1.proj.weight" in weights:
        levels += 1
    widths = []
    for i in range(levels):
        leads = "3" if i == levels - 1 else "3.1"
        widths.append(weights[f"downs.{i}.{leads}.weight"].shape[0])
    if any(w % width for w in widths):
        raise ValueError(f"its widths {', '.join(map(str, widths))} are no multiples of {width}")
    full = tuple(f"downs.{i}.2.to_out.weight" in weights for i in range(levels))
    memory = weights["mid_attn.mem_kv"]
    if memory.ndim != 4:
        raise ValueError(f"its memory has the shape {tuple(memory.shape)}")
    component = LucidUNet(
        channels=width, multipliers=tuple(w // width for w in widths), stem=stem.shape[0], heads=memory.shape[1],
        head_channels=memory.shape[3], full=full, memory=memory.shape[2],
    )  # fmt: skip
    return sources.changed(component, fields), channels


def _move(moving: Moving, component: LucidUNet, channels: int) -> None:
    moving.move("time_mlp.1", "noise_in")
    moving.move("time_mlp.3", "noise_out")
    moving.move("init_conv", "input")
    levels = len(component.multipliers)
    for theirs, ours, lowest in (("downs", "encoder", levels - 1), ("ups", "decoder", levels - 1)):
        for i in range(levels):
            _move_block(moving, f"{theirs}.{i}.0", f"{ours}.{i}.first")
            _move_block(moving, f"{theirs}.{i}.1", f"{ours}.{i}.second")
            _move_attention(moving, f"{theirs}.{i}.2", f"{ours}.{i}.attention")
            moving.move(f"{theirs}.{i}.3" if i == lowest else f"{theirs}.{i}.3.1", f"{ours}.{i}.leads")
    _move_block(moving, "mid_block1", "middle.first")
    _move_attention(moving, "mid_attn", "middle.attention")
    _move_block(moving, "mid_block2", "middle.second")
    _move_block(moving, "final_res_block", "last")
    moving.move("final_conv", "output", means(channels))


def _move_block(moving: Moving, theirs: str, ours: str) -> None:
    for a, b in _BLOCK.items():
        moving.move(f"{theirs}.{a}", f"{ours}.{b}")
    for a, b in (("block1", "norm_in"), ("block2", "norm_out")):
        moving.put(f"{ours}.{b}.scale", moving.take(f"{theirs}.{a}.norm.g"), torch.flatten)
    if f"{theirs}.res_conv.weight" in moving.left:
        moving.move(f"{theirs}.res_conv", f"{ours}.shortcut")


def _move_attention(moving: Moving, theirs: str, ours: str) -> None:
    moving.put(f"{ours}.norm.scale", moving.take(f"{theirs}.norm.g"), torch.flatten)
    moving.put(f"{ours}.memory", moving.take(f"{theirs}.mem_kv"))
    moving.move(f"{theirs}.to_qkv", f"{ours}.qkv")
    if f"{theirs}.to_out.weight" in moving.left:
        moving.move(f"{theirs}.to_out", f"{ours}.output")
    else:
        moving.move(f"{theirs}.to_out.0", f"{ours}.output")
        moving.put(f"{ours}.last.scale", moving.take(f"{theirs}.to_out.1.g"), torch.flatten)
