"""State dicts in the layout of improved- and guided-diffusion (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021).

``input_blocks.N``, ``middle_block``, ``output_blocks.N``: the same names are those of torchcfm's U-Net and of that in
Meta's flow_matching examples, which were made from it. The names and shapes say the widths, the blocks, where they
attend, how they resample, the classes and whether variances are predicted as well (which are dropped). They do not say
how many heads attend, the size of a sample, and which of these libraries it was: the first has a default that is told,
the second has to be given, and the last is known by what is beside the weights, or is taken to be ε-prediction on
DDPM's table of betas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import DDPM, OnSchedule, Preconditioning
from edm_unified.interop import source as sources
from edm_unified.interop.moving import Moving, matrix, means, ordered, rolled
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.networks import UNet
from edm_unified.sampling.levels import AnySteps
from edm_unified.schedules import AnySchedule
from edm_unified.schedules import FlowMatching as FlowSchedule

FLOW = OnSchedule(FlowSchedule(), "velocity", "t", reversed=True, toward="data")
"""Lipman et al., torchcfm: t = 0 is noise, and the velocity x_1 − x_0 points to the data."""


class Layout(NamedTuple):
    """What the names and shapes say."""

    component: UNet
    channels: int
    classes: int
    padded: bool
    """Whether the last row of the table of classes stands for none."""
    order: str
    """Of the rows of queries, keys and values (:func:`~edm_unified.interop.moving.ordered`)."""


def knows(content: Content) -> bool:
    tensors = content.state.tensors
    return "input_blocks.0.0.weight" in tensors and "time_embed.0.weight" in tensors and "out.2.weight" in tensors


def recognise(content: Content, asked: Asked) -> Source:
    """The source in ``content``. Raises ``ValueError`` where it is another network of this layout, or needs a shape."""
    label, state = content.label, content.state
    made_by = _made_by(content)
    try:
        layout = _layout(state.tensors, made_by, asked.fields)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    component = layout.component
    shape = sources.shape_of(asked, layout.channels, label)
    component = sources.changed(component, _attending(state.tensors, component, shape), label)
    row, schedule, steps = _convention(made_by, asked.convention)
    heads = f"heads of {component.head_channels} channels" if component.head_channels else f"{component.heads} heads"
    notes = []
    if not ({"heads", "head_channels"} & asked.fields.keys()) and _attends(state.tensors):
        notes.append(
            f"{heads} are taken, which the file does not say; --field heads=N or head_channels=N, and "
            "new_attention_order=true where the network was made with that"
        )
    if asked.convention is None and made_by == "guided-diffusion":
        notes.append(
            "epsilon on linear betas is taken, which the file does not say; --convention ddpm:betas=cosine or another"
        )

    def build() -> nn.Module:
        moving = Moving(state.tensors, label)
        _move(moving, component, layout)
        return moving.into(component, shape, layout.classes)

    return Source(
        place=label,
        what="state dict",
        network=f"U-Net of {made_by}",
        convention=row,
        schedule=schedule,
        steps=steps,
        shape=shape,
        weights=(content.file,),
        build=build,
        component=component,
        classes=layout.classes,
        optional=layout.padded,
        own=True,
        notes=tuple(notes),
        said={"weights": state.place} if state.place else {},
    )


def _made_by(content: Content) -> str:
    tree = content.tree
    if isinstance(tree, Mapping):
        if "net_model" in tree or "ema_model" in tree:
            return "torchcfm"
        if any("shadow_params" in place for place in (state.place for state in content.states)):
            return "flow_matching"
        if "lr_schedule" in tree and "args" in tree:
            return "flow_matching"
    return "guided-diffusion"


def _convention(made_by: str, given: Preconditioning | None) -> tuple[Preconditioning, AnySchedule, AnySteps]:
    """The row, and the schedule and levels that go with it."""
    row = given if given is not None else DDPM() if made_by == "guided-diffusion" else FLOW
    return row, *sources.schedule_of(row)


def _attends(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("input_blocks.") and name.endswith(".qkv.weight") for name in tensors)


def _layout(tensors: Mapping[str, Tensor], made_by: str, fields: Mapping[str, Any]) -> Layout:
    first, last = tensors["input_blocks.0.0.weight"], tensors["out.2.weight"]
    features = tensors["time_embed.0.weight"]
    if first.ndim != 4 or last.ndim != 4 or features.ndim != 2:
        raise ValueError(f"its first layer has the shape {tuple(first.shape)}; only networks of images are read")
    width, channels = first.shape[:2]
    outputs = last.shape[0]
    if outputs not in (channels, 2 * channels):
        raise ValueError(
            f"takes {channels} channels and gives {outputs}: what is joined to its input is not known; use edm.wrap"
        )
    kinds = _blocks(tensors)
    levels, resampling = _levels(kinds, tensors)
    blocks = {len(level) for level in levels}
    if len(blocks) != 1 or not levels[0]:
        raise ValueError(f"its levels have {', '.join(map(str, sorted(blocks)))} blocks; all must have as many")
    widths = [tensors[f"input_blocks.{level[-1]}.0.out_layers.3.weight"].shape[0] for level in levels]
    if any(w % width for w in widths):
        raise ValueError(f"its levels have {', '.join(map(str, widths))} channels, no multiples of the first {width}")
    embedding = features.shape[0]
    if embedding % width:
        raise ValueError(f"its embedding has {embedding} numbers, no multiple of {width}")
    adaptive = tensors[f"input_blocks.{levels[0][0]}.0.emb_layers.1.weight"].shape[0] == 2 * widths[0]
    rows = len(tensors["label_emb.weight"]) if "label_emb.weight" in tensors else 0
    padded = bool(rows) and made_by == "flow_matching"
    fields = dict(fields)
    newer = fields.pop("new_attention_order", made_by == "flow_matching")
    if not isinstance(newer, bool):
        raise ValueError(f"fields: new_attention_order: must be true or false, got {newer!r}")
    heads: dict[str, Any] = (
        {"head_channels": 64} if resampling == "block" and made_by != "torchcfm" else {"heads": _HEADS[made_by]}
    )
    if {"heads", "head_channels"} & fields.keys():
        heads = {}
    component = UNet(
        channels=width,
        multipliers=tuple(w // width for w in widths),
        blocks=blocks.pop(),
        attention_resolutions=(),
        decoder_attention="all",
        endpoint=False,
        label_at="embedding",
        adaptive_scale=adaptive,
        resample_projection=False,
        rescale=False,
        dropout=0.0,
        norm_eps=1e-5,
        norm_groups=32,
        embedding_multiplier=embedding // width,
        noise_channels=None if features.shape[1] == width else features.shape[1],
        resampling=resampling,  # type: ignore[arg-type]
        init="fan_in",
        **heads,
    )
    return Layout(sources.changed(component, fields), channels, rows - padded, padded, "qhc" if newer else "hqc")


_HEADS = {"guided-diffusion": 4, "torchcfm": 1, "flow_matching": 1}
"""How many heads there are where nothing is said, by the defaults of each."""


def _blocks(tensors: Mapping[str, Tensor]) -> dict[int, str]:
    """What each of ``input_blocks.N`` is, N ≥ 1: a residual ``block``, a ``conv`` that halves, or ``nothing``."""
    found: dict[int, str] = {}
    for name in tensors:
        match = re.match(r"input_blocks\.([0-9]{1,4})\.0\.(in_layers\.2|op)\.weight$", name)
        if match:
            found[int(match[1])] = "block" if match[2] == "in_layers.2" else "conv"
    last = max(found, default=0)
    if not last or last > len(tensors):
        raise ValueError("has no input_blocks")
    return {i: found.get(i, "nothing") for i in range(1, last + 1)}


def _levels(kinds: Mapping[int, str], tensors: Mapping[str, Tensor]) -> tuple[list[list[int]], str]:
    """The numbers of the blocks of each level, and how levels are resampled."""
    if "conv" in kinds.values() or "nothing" in kinds.values():
        levels: list[list[int]] = [[]]
        for i, kind in kinds.items():
            levels[-1].append(i) if kind == "block" else levels.append([])
        return levels, "conv" if "conv" in kinds.values() else "plain"
    # residual blocks halve too and look like others; where levels end, the decoder has a second block to double
    count = len(kinds) + 1
    ends = [i for i in range(count) if _doubles(tensors, i)]
    per = ends[0] + 1 if ends else count
    if count % per or ends != list(range(per - 1, count - 1, per)):
        raise ValueError("its levels have different numbers of blocks")
    return [list(range(start + 1 if start else 1, start + per)) for start in range(0, count, per)], "block"


def _doubles(tensors: Mapping[str, Tensor], i: int) -> bool:
    return any(f"output_blocks.{i}.{j}.in_layers.2.weight" in tensors for j in (1, 2))


def _attending(tensors: Mapping[str, Tensor], component: UNet, shape: tuple[int, ...]) -> dict[str, Any]:
    levels, _ = _levels(_blocks(tensors), tensors)
    sides = [min(shape[1:]) >> level for level in range(len(levels))]
    return {
        "attention_resolutions": tuple(
            side for side, level in zip(sides, levels, strict=True)
            if f"input_blocks.{level[0]}.1.qkv.weight" in tensors
        ),
        "middle_attention": "middle_block.1.qkv.weight" in tensors,
    }  # fmt: skip


def _move(moving: Moving, component: UNet, layout: Layout) -> None:
    turn = rolled(component.noise_features)
    moving.move("time_embed.0", "noise_in", turn)
    moving.move("time_embed.2", "noise_out")
    if layout.classes:
        moving.put("class_embedding.table.weight", moving.take("label_emb.weight"), lambda w: w[: layout.classes])
    moving.move("input_blocks.0.0", "input")
    place, widths = 1, [component.channels * m for m in component.multipliers]
    for level, width in enumerate(widths):
        if level:
            _move_resample(moving, component, f"input_blocks.{place}.0", f"encoder.{level}.resample", "op")
            place += 1
        for j in range(component.blocks):
            _move_block(moving, component, layout, f"input_blocks.{place}", f"encoder.{level}.blocks.{j}", width)
            place += 1
    _move_layers(moving, "middle_block.0", "middle.0")
    if component.middle_attention:
        _move_attention(moving, component, layout, "middle_block.1", "middle.0", widths[-1])
    _move_layers(moving, f"middle_block.{1 + component.middle_attention}", "middle.1")
    place = 0
    for k, width in enumerate(reversed(widths)):
        for j in range(component.blocks + 1):
            attends = _move_block(moving, component, layout, f"output_blocks.{place}", f"decoder.{k}.blocks.{j}", width)
            place += 1
        if k < len(widths) - 1:
            theirs = f"output_blocks.{place - 1}.{2 if attends else 1}"
            _move_resample(moving, component, theirs, f"decoder.{k + 1}.resample", "conv")
    moving.move("out.0", f"decoder.{len(widths) - 1}.readout.norm")
    moving.move("out.2", f"decoder.{len(widths) - 1}.readout.conv", means(layout.channels))


def _move_resample(moving: Moving, component: UNet, theirs: str, ours: str, name: str) -> None:
    if component.resampling == "block":
        _move_layers(moving, theirs, ours)
    elif component.resampling == "conv":
        moving.move(f"{theirs}.{name}", f"{ours}.conv")


def _move_block(moving: Moving, component: UNet, layout: Layout, theirs: str, ours: str, width: int) -> bool:
    """Whether it attends."""
    _move_layers(moving, f"{theirs}.0", ours)
    attends = f"{theirs}.1.qkv.weight" in moving.left
    if attends:
        _move_attention(moving, component, layout, f"{theirs}.1", ours, width)
    return attends


def _move_layers(moving: Moving, theirs: str, ours: str) -> None:
    for a, b in (
        ("in_layers.0", "norm_in"), ("in_layers.2", "conv_in"), ("emb_layers.1", "condition"),
        ("out_layers.0", "norm_out"), ("out_layers.3", "conv_out"),
    ):  # fmt: skip
        moving.move(f"{theirs}.{a}", f"{ours}.{b}")
    if f"{theirs}.skip_connection.weight" in moving.left:
        moving.move(f"{theirs}.skip_connection", f"{ours}.shortcut")


def _move_attention(moving: Moving, component: UNet, layout: Layout, theirs: str, ours: str, width: int) -> None:
    moving.move(f"{theirs}.norm", f"{ours}.attention.norm")
    moving.move(f"{theirs}.qkv", f"{ours}.attention.qkv", ordered(component.heads_for(width), layout.order))
    moving.move(f"{theirs}.proj_out", f"{ours}.attention.output", matrix)
