"""The pickles of EDM and EDM2 (NVlabs/edm, NVlabs/edm2), into our U-Nets.

Such a file holds the network under its preconditioning, an object whose class comes along as source text. None of it is
executed (:mod:`edm_unified.interop.pickles`): the arguments with which the object was once made say which of our
networks it is, and its tensors are moved there. A snapshot has the average under ``ema``, a training state the network
under ``net``.

Published networks are under CC BY-NC-SA 4.0. Nothing here is of the authors' code: the maps below are those by which
our networks and theirs are compared on the same weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from edm_unified import schedules
from edm_unified.components.component import shown
from edm_unified.denoisers.preconditioning import EDM, IDDPM, VE, VP, Preconditioning
from edm_unified.interop import pickles
from edm_unified.interop.moving import LARGEST, Moving, matrix, means, ordered, rolled
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.networks import EDM2, UNet
from edm_unified.networks.published import ADM_IMAGENET64
from edm_unified.sampling.levels import Karras


class Network(NamedTuple):
    """One of ours, and how a network of theirs is moved into it."""

    component: UNet | EDM2
    move: Callable[[Moving, UNet | EDM2, int], None]


def _outer(tree: Any) -> Any:
    """The network under its preconditioning, in a snapshot, a training state, or alone."""
    return next((tree[name] for name in ("ema", "net") if name in tree), None) if isinstance(tree, Mapping) else tree


def knows(content: Content) -> bool:
    return isinstance(_outer(content.tree), pickles.Record)


def recognise(content: Content, asked: Asked) -> Source:
    """The source in a pickle. Raises ``ValueError`` where it is no network of EDM or EDM2."""
    found, label = content.tree, content.label
    outer = _outer(found)
    if outer.name not in CONVENTIONS:
        raise ValueError(
            f"{label}: holds {outer.name}, which is no network of EDM or EDM2; known are {', '.join(CONVENTIONS)}"
        )
    inner = _part(outer, "unet" if outer.name == "Precond" else "model")
    if not isinstance(inner, pickles.Record) or inner.name not in NETWORKS:
        raise ValueError(
            f"{label}: a network {getattr(inner, 'name', inner)!s:.60} is not known; known are {', '.join(NETWORKS)}"
        )
    try:
        arguments = _arguments(inner)
        network, side, channels = NETWORKS[inner.name](arguments)
        classes, augment = _whole(arguments, "label_dim", 0, 0), _whole(arguments, "augment_dim", 0, 0)
        row = CONVENTIONS[outer.name](outer)
        dropped = float(arguments.get("label_dropout") or 0)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{label}: {error}") from None
    shape, sigma_min, sigma_max = (channels, side, side), max(0.002, row.sigma_min), min(80.0, row.sigma_max)
    levels = len(network.component.multipliers)
    if network.component.blocks * levels > 10_000 or side > LARGEST:
        raise ValueError(
            f"{label}: {network.component.blocks} blocks of {levels} levels are beyond what any network has"
        )

    def build() -> nn.Module:
        moving = Moving(pickles.modules(inner), label, ignore=("resample_filter",))
        network.move(moving, network.component, side)
        return moving.into(network.component, shape, classes, augment)

    two = outer.name == "Precond"
    notes = ["networks that NVIDIA publishes are under CC BY-NC-SA 4.0"]
    if two and channels == 4:
        notes.append("of latents, which the encoder of the file brings to a mean of 0 and a std of 0.5")
    return Source(
        place=label,
        what="pickle of EDM2" if two else "pickle of EDM",
        network=inner.name,
        convention=asked.convention or row,
        schedule=schedules.EDM(),
        steps=Karras(n=32 if two else 18, sigma_min=sigma_min, sigma_max=sigma_max),
        shape=shape,
        weights=(content.file,),
        build=build,
        component=network.component,
        augment=augment,
        classes=classes,
        optional=dropped > 0,
        own=True,
        notes=tuple(notes),
        said={
            "preconditioning": outer.name,
            "weights": "ema" if isinstance(found, Mapping) and "ema" in found else "net",
        },
    )


def _part(outer: pickles.Record, name: str) -> Any:
    parts = outer.get("_modules")
    return parts.get(name) if isinstance(parts, Mapping) else None


def _arguments(inner: pickles.Record) -> dict[str, Any]:
    """The keyword arguments that the network was made with, and its positional ones by their names."""
    given, positional = inner.get("_init_kwargs"), inner.get("_init_args") or ()
    if not isinstance(given, Mapping):
        raise ValueError(f"{inner.name} does not say how it was made")
    names = ("img_resolution", "img_channels", "label_dim") if inner.name == "UNet" else (
        "img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim")  # fmt: skip
    return dict(zip(names, positional, strict=False)) | dict(given)


def _whole(arguments: Mapping[str, Any], name: str, default: int, least: int = 1) -> int:
    value = arguments.get(name, default)
    if type(value) is not int or not least <= value <= LARGEST:
        raise ValueError(f"{name}: must be a whole number up to {LARGEST:,}, got {shown(value)}")
    return value


def _wholes(arguments: Mapping[str, Any], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = arguments.get(name, default)
    if not isinstance(value, (list, tuple)) or len(value) > 20:
        raise ValueError(f"{name}: must be a list of whole numbers, got {shown(value)}")
    return tuple(_whole({name: item}, name, 1) for item in value)


def _number(arguments: Mapping[str, Any], name: str, default: float) -> float:
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: must be a number, got {shown(value)}")
    return float(value)


CONVENTIONS: dict[str, Callable[[pickles.Record], Preconditioning]] = {
    "VPPrecond": lambda outer: VP(
        _number(outer.state, "beta_d", 19.9), _number(outer.state, "beta_min", 0.1), _whole(outer.state, "M", 1000),
        _number(outer.state, "epsilon_t", 1e-5),
    ),
    "VEPrecond": lambda outer: VE(_number(outer.state, "sigma_min", 0.02), _number(outer.state, "sigma_max", 100.0)),
    "iDDPMPrecond": lambda outer: IDDPM(
        _number(outer.state, "C_1", 0.001), _number(outer.state, "C_2", 0.008), _whole(outer.state, "M", 1000)
    ),
    "EDMPrecond": lambda outer: EDM(_number(outer.state, "sigma_data", 0.5)),
    "Precond": lambda outer: EDM(_number(outer.state, "sigma_data", 0.5)),
}  # fmt: skip
"""The row of the design table by the name of the class around the network."""


# -- SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM) ----------------------------------------------------------------


def _song(arguments: Mapping[str, Any]) -> tuple[Network, int, int]:
    component = UNet(
        channels=_whole(arguments, "model_channels", 128),
        multipliers=_wholes(arguments, "channel_mult", (1, 2, 2, 2)),
        blocks=_whole(arguments, "num_blocks", 4),
        attention_resolutions=_wholes(arguments, "attn_resolutions", (16,)),
        embedding=arguments.get("embedding_type", "positional"),
        noise_multiplier=_whole(arguments, "channel_mult_noise", 1),
        embedding_multiplier=_whole(arguments, "channel_mult_emb", 4),
        encoder=arguments.get("encoder_type", "standard"),
        decoder=arguments.get("decoder_type", "standard"),
        filter=_wholes(arguments, "resample_filter", (1, 1)),
        dropout=_number(arguments, "dropout", 0.1),
    )
    return _sized(component, arguments)


def _dhariwal(arguments: Mapping[str, Any]) -> tuple[Network, int, int]:
    component = dataclasses.replace(
        ADM_IMAGENET64,
        channels=_whole(arguments, "model_channels", 192),
        multipliers=_wholes(arguments, "channel_mult", (1, 2, 3, 4)),
        blocks=_whole(arguments, "num_blocks", 3),
        attention_resolutions=_wholes(arguments, "attn_resolutions", (32, 16, 8)),
        embedding_multiplier=_whole(arguments, "channel_mult_emb", 4),
        dropout=_number(arguments, "dropout", 0.1),
    )
    return _sized(component, arguments)


def _sized(component: UNet, arguments: Mapping[str, Any]) -> tuple[Network, int, int]:
    side, channels = _whole(arguments, "img_resolution", 0), _whole(arguments, "in_channels", 0)
    sides = {side >> level for level in range(len(component.multipliers))}
    attends = tuple(size for size in component.attention_resolutions if size in sides)
    return Network(dataclasses.replace(component, attention_resolutions=attends), _move_unet), side, channels  # type: ignore[arg-type]


def _move_unet(moving: Moving, component: UNet, side: int) -> None:
    adm, features = component.label_at == "embedding", component.noise_features
    turn = rolled(features) if adm else None
    moving.move("map_layer0", "noise_in", turn)
    moving.move("map_layer1", "noise_out")
    if component.embedding == "fourier":
        moving.put("features.frequencies", moving.take("map_noise.freqs"), lambda f: 2 * math.pi * f[:, None])
    if "map_augment.weight" in moving.left:
        half = features // 2
        change: Callable[[Tensor], Tensor] | None = (lambda w: w.roll(half, dims=0)) if adm else None
        moving.move("map_augment", "augment_embedding", change)
    if "map_label.weight" in moving.left:
        moving.put("class_embedding.table.weight", moving.take("map_label.weight"), lambda w: w.T)
        if not adm:
            moving.put("class_embedding.bias", moving.take("map_label.bias"))
    moving.move(f"enc.{side}x{side}_conv", "input")
    channels = moving.found["input.weight"].shape[1] if "input.weight" in moving.found else 0

    sides = [side >> level for level in range(len(component.multipliers))]
    widths = [component.channels * m for m in component.multipliers]
    for level, s in enumerate(sides):
        if level:
            _move_block(moving, component, f"enc.{s}x{s}_down", f"encoder.{level}.resample", 0)
            if component.encoder != "standard":
                aux = "residual" if component.encoder == "residual" else "skip"
                moving.move(f"enc.{s}x{s}_aux_{aux}", f"encoder.{level}.pyramid.conv")
        for i in range(component.blocks):
            _move_block(moving, component, f"enc.{s}x{s}_block{i}", f"encoder.{level}.blocks.{i}", widths[level])
    for i in range(2):
        _move_block(moving, component, f"dec.{sides[-1]}x{sides[-1]}_in{i}", f"middle.{i}", widths[-1])
    for place, level in enumerate(reversed(range(len(sides)))):
        s = sides[level]
        if place:
            _move_block(moving, component, f"dec.{s}x{s}_up", f"decoder.{place}.resample", 0)
        for i in range(component.blocks + 1):
            _move_block(moving, component, f"dec.{s}x{s}_block{i}", f"decoder.{place}.blocks.{i}", widths[level])
        if level == 0 or component.decoder == "skip":
            norm, conv = ("out_norm", "out_conv") if adm else (f"dec.{s}x{s}_aux_norm", f"dec.{s}x{s}_aux_conv")
            moving.move(norm, f"decoder.{place}.readout.norm")
            moving.move(conv, f"decoder.{place}.readout.conv", means(channels))


def _move_block(moving: Moving, component: UNet, theirs: str, ours: str, width: int) -> None:
    for a, b in (
        ("norm0", "norm_in"),
        ("conv0", "conv_in"),
        ("affine", "condition"),
        ("norm1", "norm_out"),
        ("conv1", "conv_out"),
    ):
        moving.move(f"{theirs}.{a}", f"{ours}.{b}")
    if f"{theirs}.skip.weight" in moving.left:
        moving.move(f"{theirs}.skip", f"{ours}.shortcut")
    if f"{theirs}.qkv.weight" in moving.left:
        heads = component.heads_for(width) if width else 1
        moving.move(f"{theirs}.norm2", f"{ours}.attention.norm")
        moving.move(f"{theirs}.qkv", f"{ours}.attention.qkv", ordered(heads, "hcq"))
        moving.move(f"{theirs}.proj", f"{ours}.attention.output", matrix)


# -- EDM2 ------------------------------------------------------------------------------------------------------------


def _edm2(arguments: Mapping[str, Any]) -> tuple[Network, int, int]:
    multipliers = _wholes(arguments, "channel_mult", (1, 2, 3, 4))
    for name, usual in (("channel_mult_noise", multipliers[0]), ("channel_mult_emb", max(multipliers))):
        if arguments.get(name) not in (None, usual):
            raise ValueError(f"{name}: {shown(arguments[name])} is another network than EDM2's config G")
    if arguments.get("clip_act", 256) != 256 or list(arguments.get("resample_filter", [1, 1])) != [1, 1]:
        raise ValueError("clip_act, resample_filter: are of another network than EDM2's config G")
    side, channels = _whole(arguments, "img_resolution", 0), _whole(arguments, "img_channels", 0)
    sides = {side >> level for level in range(len(multipliers))}
    component = EDM2(
        channels=_whole(arguments, "model_channels", 192),
        multipliers=multipliers,
        blocks=_whole(arguments, "num_blocks", 3),
        attention_resolutions=tuple(s for s in _wholes(arguments, "attn_resolutions", (16, 8)) if s in sides),
        head_channels=_whole(arguments, "channels_per_head", 64),
        dropout=_number(arguments, "dropout", 0.0),
        residual_balance=_number(arguments, "res_balance", 0.3),
        attention_balance=_number(arguments, "attn_balance", 0.3),
        concat_balance=_number(arguments, "concat_balance", 0.5),
        label_balance=_number(arguments, "label_balance", 0.5),
    )
    return Network(component, _move_edm2), side, channels  # type: ignore[arg-type]


def _move_edm2(moving: Moving, component: EDM2, side: int) -> None:
    moving.move("emb_noise", "noise")
    moving.move("out_conv", "head")
    moving.put("gain", moving.take("out_gain"), lambda gain: gain.reshape(1))
    for theirs, ours in (("freqs", "frequencies"), ("phases", "phases")):
        moving.put(f"fourier.{ours}", moving.take(f"emb_fourier.{theirs}"), lambda f: f.float() / (2 * math.pi))
    if "emb_label.weight" in moving.left:
        moving.move("emb_label", "label")
    moving.move(f"enc.{side}x{side}_conv", "stem")
    sides = [side >> level for level in range(len(component.multipliers))]
    widths = [component.channels * m for m in component.multipliers]
    place = 0
    for level, s in enumerate(sides):
        names = ["down"] * (level > 0) + [f"block{i}" for i in range(component.blocks)]
        for name in names:
            _move_mp_block(moving, component, f"enc.{s}x{s}_{name}", f"encoder.{place}", widths[level])
            place += 1
    for i in range(2):
        _move_mp_block(moving, component, f"dec.{sides[-1]}x{sides[-1]}_in{i}", f"middle.{i}", widths[-1])
    place = 0
    for level in reversed(range(len(sides))):
        s = sides[level]
        for name in ["up"] * (level < len(sides) - 1) + [f"block{i}" for i in range(component.blocks + 1)]:
            _move_mp_block(moving, component, f"dec.{s}x{s}_{name}", f"decoder.{place}", widths[level])
            place += 1


def _move_mp_block(moving: Moving, component: EDM2, theirs: str, ours: str, width: int) -> None:
    for a, b in (("conv_res0", "first"), ("conv_res1", "second"), ("emb_linear", "modulation")):
        moving.move(f"{theirs}.{a}", f"{ours}.{b}")
    moving.put(f"{ours}.gain", moving.take(f"{theirs}.emb_gain"), lambda gain: gain.reshape(1))
    if f"{theirs}.conv_skip.weight" in moving.left:
        moving.move(f"{theirs}.conv_skip", f"{ours}.skip")
    if f"{theirs}.attn_qkv.weight" in moving.left:
        order, heads = ordered(width // component.head_channels or 1, "hcq"), width // component.head_channels
        if not heads:
            raise ValueError(
                f"channels_per_head: {component.head_channels} are more than the {width} channels of a level"
            )
        moving.put(
            f"{ours}.attention.qkv.weight",
            moving.take(f"{theirs}.attn_qkv.weight"),
            lambda w: order(w)[..., None, None],
        )
        moving.move(f"{theirs}.attn_proj", f"{ours}.attention.out")


NETWORKS: dict[str, Callable[[Mapping[str, Any]], tuple[Network, int, int]]] = {
    "SongUNet": _song,
    "DhariwalUNet": _dhariwal,
    "UNet": _edm2,
}
