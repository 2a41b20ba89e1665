"""State dicts of DiT (Peebles & Xie 2023) and SiT (Ma et al. 2024), into our transformer.

The names and shapes are the same in both, and say everything but the number of heads and what is predicted. A training
checkpoint of SiT's says its path beside the weights; a state dict alone is taken to be DiT's, ε on DDPM's table.
Of outputs that predict variances as well the mean is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import DDPM, OnSchedule, Preconditioning
from edm_unified.interop import source as sources
from edm_unified.interop.moving import Moving, matrix, rolled
from edm_unified.interop.pickles import Record
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.networks import Transformer
from edm_unified.networks.transformer import FREQUENCIES, positions
from edm_unified.schedules import FlowMatching, Trigonometric

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Of the published widths."""
_PATHS = {"Linear": FlowMatching(), "GVP": Trigonometric()}
_TARGETS = {"velocity": "velocity", "noise": "epsilon", "score": "score"}


def knows(content: Content) -> bool:
    tensors = content.state.tensors
    return {
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "final_layer.linear.weight",
        "pos_embed",
    } <= tensors.keys()


def recognise(content: Content, asked: Asked) -> Source:
    """The source in ``content``. Raises ``ValueError`` where it is another network of these names."""
    label, state = content.label, content.state
    tensors = state.tensors
    try:
        component, shape, classes = _layout(tensors, asked.fields)
        name, own = _convention(content.tree)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    row = own if asked.convention is None else asked.convention
    schedule, steps = sources.schedule_of(row)
    notes = []
    if not _args(content.tree):
        if asked.convention is None:
            notes.append(
                "DiT's epsilon on linear betas is taken; a SiT is named by --convention "
                "on_schedule:reversed=true,toward=data"
            )
        if "heads" not in asked.fields:
            notes.append(f"{component.heads} heads are taken, which the file does not say; --field heads=N")
    if shape[0] == 4:
        notes.append("of latents of Stable Diffusion's autoencoder, times 0.18215")

    def build() -> nn.Module:
        moving = Moving(tensors, label)
        _move(moving, component, shape)
        return moving.into(component, shape, classes)

    return Source(
        place=label, what="state dict", network=name, convention=row, schedule=schedule, steps=steps, shape=shape,
        weights=(content.file,), build=build, component=component, classes=classes, optional=True, own=True,
        notes=tuple(notes), said={"weights": state.place} if state.place else {},
    )  # fmt: skip


def _args(tree: Any) -> Mapping[str, Any]:
    found = tree.get("args") if isinstance(tree, Mapping) else None
    return found.state if isinstance(found, Record) and isinstance(found.state, Mapping) else {}


def _convention(tree: Any) -> tuple[str, Preconditioning]:
    """The name of the network, and the row, by what a training checkpoint says of it."""
    args = _args(tree)
    if "path_type" not in args:
        return "DiT", DDPM()
    path, target = str(args["path_type"]), str(args.get("prediction", "velocity"))
    if path not in _PATHS or target not in _TARGETS:
        raise ValueError(f"path_type {path[:40]!r} with prediction {target[:40]!r} is not known; give convention=")
    toward: Any = "data" if target == "velocity" else "noise"
    return "SiT", OnSchedule(_PATHS[path], _TARGETS[target], "t", reversed=True, toward=toward)  # type: ignore[arg-type]


def _layout(tensors: Mapping[str, Tensor], fields: Mapping[str, Any]) -> tuple[Transformer, tuple[int, ...], int]:
    patches, places = tensors["x_embedder.proj.weight"], tensors["pos_embed"]
    if patches.ndim != 4 or places.ndim != 3 or patches.shape[2] != patches.shape[3] or not patches.shape[2]:
        raise ValueError(f"its patches have the shape {tuple(patches.shape)}; only square ones of images are read")
    width, channels, patch = patches.shape[:3]
    side = math.isqrt(places.shape[1])
    if side * side != places.shape[1] or places.shape[2] != width:
        raise ValueError(f"its positions have the shape {tuple(places.shape)}; only those of square images are read")
    if width % 4 or float((places[0] - positions((side, side), width)).abs().max()) > 1e-3:
        raise ValueError("its positions are not the sines and cosines of DiT")
    depth = 0
    while f"blocks.{depth}.attn.qkv.weight" in tensors:
        depth += 1
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0] if depth and "blocks.0.mlp.fc1.weight" in tensors else 0
    if not depth or not hidden:
        raise ValueError("has no blocks")
    rows = len(tensors["y_embedder.embedding_table.weight"]) if "y_embedder.embedding_table.weight" in tensors else 1
    component = Transformer(
        depth=depth, width=width, heads=HEADS.get(width, max(1, width // 64)) if "heads" not in fields else 1,
        patch=patch, mlp_ratio=hidden / width,
    )  # fmt: skip
    return sources.changed(component, fields), (channels, side * patch, side * patch), rows - 1


def _move(moving: Moving, component: Transformer, shape: tuple[int, ...]) -> None:
    moving.take("pos_embed")
    moving.move("x_embedder.proj", "patches", matrix)
    moving.move("t_embedder.mlp.0", "noise.0", rolled(FREQUENCIES))
    moving.move("t_embedder.mlp.2", "noise.2")
    if (
        shape
        and "y_embedder.embedding_table.weight" in moving.left
        and len(moving.left["y_embedder.embedding_table.weight"]) > 1
    ):
        moving.move("y_embedder.embedding_table", "label")
    for i in range(component.depth):
        for theirs, ours in (
            ("attn.qkv", "attention.qkv"), ("attn.proj", "attention.out"), ("mlp.fc1", "mlp.0"), ("mlp.fc2", "mlp.2"),
            ("adaLN_modulation.1", "modulation"),
        ):  # fmt: skip
            moving.move(f"blocks.{i}.{theirs}", f"blocks.{i}.{ours}")
    moving.move("final_layer.adaLN_modulation.1", "modulation")
    pixels = component.patch**2

    def means(tensor: Tensor) -> Tensor:
        """Of rows (pixel, channel) those of the first half of the channels, where there are twice as many."""
        if len(tensor) != 2 * pixels * shape[0]:
            return tensor
        return tensor.unflatten(0, (pixels, -1))[:, : shape[0]].flatten(0, 1)

    moving.move("final_layer.linear", "head", means)
