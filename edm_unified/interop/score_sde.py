"""Checkpoints of score_sde_pytorch (Song et al. 2021), into our U-Net: NCSN++, DDPM++ and its port of DDPM.

Layers are numbered, ``all_modules.N``, in the order in which they act. What each is, is seen by the names within it,
and so the levels, the blocks and the attention are read off one after another. The weights are the averages, a list
beside those that are trained. The files do not say which SDE it was: a network with random Fourier features is told σ
and divides by it (VE), one with sinusoids is told 999 t of the VP SDE and predicts ε, and the port of DDPM its step.
Samples are in [−1, 1] here, where the VE networks have them in [0, 1] and map them inside: σ is twice theirs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import DDPM, VE, VP, Preconditioning
from edm_unified.interop import source as sources
from edm_unified.interop.moving import Moving
from edm_unified.interop.source import Asked, Source
from edm_unified.interop.state_dicts import Content
from edm_unified.networks import UNet

_BLOCK = {
    "GroupNorm_0": "norm_in",
    "Conv_0": "conv_in",
    "Dense_0": "condition",
    "GroupNorm_1": "norm_out",
    "Conv_1": "conv_out",
}


def knows(content: Content) -> bool:
    names = list(content.state.tensors)
    first = any(name.startswith("all_modules.0.") for name in names)
    return first and any(name.endswith(".NIN_3.W") for name in names)


def recognise(content: Content, asked: Asked) -> Source:
    """The source in ``content``. Raises ``ValueError`` where it is another network of theirs, or needs a shape."""
    label, state = content.label, content.state
    ema = content.tree.get("ema") if isinstance(content.tree, Mapping) else None
    if isinstance(ema, Mapping) and "shadow_params" in ema and state.place != "ema":
        raise ValueError(f"{label}: ema: its averages do not fit the model beside them")
    reading = _Reading(state.tensors)
    try:
        component, channels = reading.component(asked.fields)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    shape = sources.shape_of(asked, channels, label)
    sides = [min(shape[1:]) >> level for level in range(len(component.multipliers))]
    attends = tuple(side for side, there in zip(sides, reading.attends, strict=True) if there)
    component = dataclasses.replace(component, attention_resolutions=attends)
    name, own, note = reading.convention()
    row = own if asked.convention is None else asked.convention
    schedule, steps = sources.schedule_of(row)

    def build() -> nn.Module:
        moving = Moving(state.tensors, label, ignore=("sigmas",))
        for theirs, ours in reading.names:
            _move(moving, theirs, ours)
        return moving.into(component, shape)

    return Source(
        place=label, what="state dict", network=f"{name} of score_sde_pytorch", convention=row, schedule=schedule,
        steps=steps, shape=shape, weights=(content.file,), build=build, component=component, own=True,
        notes=() if asked.convention is not None else (note,), said={"weights": state.place} if state.place else {},
    )  # fmt: skip


class _Reading:
    """The layers in their order, and what they are in ours: ``names`` (theirs, ours), and where levels ``attend``."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.at = tensors, 0
        self.names: list[tuple[str, str]] = []
        self.attends: list[bool] = []
        self.widths: list[int] = []
        self.blocks, self.encoder, self.decoder, self.resampling = 0, "standard", "standard", "plain"

    def has(self, part: str) -> bool:
        return f"all_modules.{self.at}.{part}" in self.tensors

    def shape(self, part: str) -> tuple[int, ...]:
        name = f"all_modules.{self.at}.{part}"
        if name not in self.tensors:
            raise ValueError(f"has no {name!r}, and is none of the networks that are read")
        return tuple(self.tensors[name].shape)

    def take(self, ours: str) -> None:
        self.names.append((f"all_modules.{self.at}", ours))
        self.at += 1

    @property
    def block(self) -> bool:
        return self.has("Dense_0.weight")

    @property
    def halves(self) -> bool:
        """Whether the next is a block that resamples: of as many channels as before, and yet with a shortcut."""
        if not self.block or not self.has("Conv_2.weight"):
            return False
        shape = self.shape("Conv_0.weight")
        return shape[0] == shape[1]

    @property
    def plain_conv(self) -> bool:
        return self.has("Conv_0.weight") and not self.block

    def component(self, fields: Mapping[str, Any]) -> tuple[UNet, int]:
        """Our network, and the channels of a sample."""
        self.fourier = self.has("W")
        features = 0
        if self.fourier:
            features = 2 * self.shape("W")[0]
            self.take("features")
        width = self.shape("weight")
        if len(width) != 2:
            raise ValueError("its first layer is none of an embedding of the noise level; only such networks are read")
        features = features or width[1]
        self.take("noise_in")
        self.take("noise_out")
        first = self.shape("weight")
        if len(first) != 4:
            raise ValueError(f"its first convolution has the shape {first}; only networks of images are read")
        self.take("input")
        self._levels()
        self._middle()
        self._decoder()
        if any(w % first[0] for w in self.widths) or width[0] % first[0]:
            raise ValueError(f"its widths {', '.join(map(str, self.widths))} are no multiples of the first, {first[0]}")
        ported = self.resampling == "conv_after"
        component = UNet(
            channels=first[0],
            multipliers=tuple(w // first[0] for w in self.widths),
            blocks=self.blocks,
            attention_resolutions=(),
            embedding="fourier" if self.fourier else "positional",
            noise_channels=features if features != first[0] else None,
            embedding_multiplier=width[0] // first[0],
            encoder=self.encoder,  # type: ignore[arg-type]
            decoder=self.decoder,  # type: ignore[arg-type]
            filter=(1, 3, 3, 1) if self.fourier or self.encoder != "standard" else (1, 1),
            resampling=self.resampling,  # type: ignore[arg-type]
            rescale=not ported,
            norm_groups=32 if ported else None,
            dropout=0.0,
        )
        return sources.changed(component, fields), first[1]

    def _levels(self) -> None:
        level = 0
        while True:
            count = 0
            attends = False
            while self.block and not self.halves and (level == 0 or count < self.blocks):
                self.width = self.shape("Conv_0.weight")[0]
                self.take(f"encoder.{level}.blocks.{count}")
                if self.has("NIN_0.W") and not self.block:
                    if level and count == self.blocks:
                        break
                    attends = True
                    self.take(f"encoder.{level}.blocks.{count}.attention")
                count += 1
            self.blocks = self.blocks or count
            if not count or count != self.blocks or level > 20:
                raise ValueError("its levels have different numbers of blocks")
            self.widths.append(self.width)
            self.attends.append(attends)
            level += 1
            if self.halves:
                self.resampling = "block"
                self.take(f"encoder.{level}.resample")
            elif self.plain_conv and self.shape("Conv_0.weight")[2] == 3:
                self.resampling = "conv_after"
                self.names.append((f"all_modules.{self.at}.Conv_0", f"encoder.{level}.resample.conv"))
                self.at += 1
            else:
                break
            if self.has("Conv2d_0.weight"):
                self.encoder = "residual"
                self.names.append((f"all_modules.{self.at}.Conv2d_0", f"encoder.{level}.pyramid.conv"))
                self.at += 1
            elif self.plain_conv and self.shape("Conv_0.weight")[2] == 1:
                self.encoder = "skip"
                self.names.append((f"all_modules.{self.at}.Conv_0", f"encoder.{level}.pyramid.conv"))
                self.at += 1
        if level == 1:
            raise ValueError("has one level; where its blocks end cannot be seen")

    def _middle(self) -> None:
        self.take("middle.0")
        self.take("middle.0.attention")
        self.take("middle.1")

    def _decoder(self) -> None:
        count = len(self.widths)
        for place in range(count):
            for i in range(self.blocks + 1):
                self.take(f"decoder.{place}.blocks.{i}")
            if self.attends[count - 1 - place]:
                self.take(f"decoder.{place}.blocks.{self.blocks}.attention")
            if self.has("weight"):  # a norm and a convolution, at the end or at every level
                if place < count - 1:
                    self.decoder = "skip"
                self.take(f"decoder.{place}.readout.norm")
                self.take(f"decoder.{place}.readout.conv")
            if place < count - 1:
                if self.plain_conv:
                    self.names.append((f"all_modules.{self.at}.Conv_0", f"decoder.{place + 1}.resample.conv"))
                    self.at += 1
                else:
                    self.take(f"decoder.{place + 1}.resample")

    def convention(self) -> tuple[str, Preconditioning, str]:
        """The name of the network, its row, and what is taken to be so."""
        if self.fourier:
            sigmas = self.tensors.get("sigmas")
            known = sigmas is not None and sigmas.numel() > 0
            low, high = (float(sigmas.min()), float(sigmas.max())) if known else (0.01, 50.0)  # type: ignore[union-attr]
            sound = 0 < low < high < math.inf
            row = VE(2 * low, 2 * high) if sound else VE()
            return "NCSN++", row, "the VE SDE is taken, of data in [-1, 1] here: twice the sigma of theirs in [0, 1]"
        if self.resampling == "conv_after":
            return "DDPM", DDPM(), "epsilon at the steps of linear betas is taken"
        return "DDPM++", VP(), "the VP SDE is taken; of the sub-VP SDE or of steps say --convention sub_vp or ddpm"


def _move(moving: Moving, theirs: str, ours: str) -> None:
    """One of their modules: features, a layer, a residual block or an attention."""
    if ours == "features":
        moving.put("features.frequencies", moving.take(f"{theirs}.W"), lambda w: 2 * math.pi * w[:, None])
    elif ours.endswith(".attention"):
        moving.move(f"{theirs}.GroupNorm_0", f"{ours}.norm")
        parts = [(moving.take(f"{theirs}.NIN_{i}.W"), moving.take(f"{theirs}.NIN_{i}.b")) for i in range(3)]
        if all(w is not None and w.ndim == 2 and b is not None for w, b in parts):
            moving.put(f"{ours}.qkv.weight", torch.cat([w.T for w, _ in parts if w is not None]))
            moving.put(f"{ours}.qkv.bias", torch.cat([b for _, b in parts if b is not None]))
        _move_nin(moving, f"{theirs}.NIN_3", f"{ours}.output")
    elif f"{theirs}.Dense_0.weight" in moving.left:
        for a, b in _BLOCK.items():
            moving.move(f"{theirs}.{a}", f"{ours}.{b}")
        if f"{theirs}.Conv_2.weight" in moving.left:
            moving.move(f"{theirs}.Conv_2", f"{ours}.shortcut")
        elif f"{theirs}.NIN_0.W" in moving.left:
            _move_nin(moving, f"{theirs}.NIN_0", f"{ours}.shortcut", lambda w: w.T[..., None, None])
    else:
        moving.move(theirs, ours)


def _move_nin(moving: Moving, theirs: str, ours: str, change: Callable[[Tensor], Tensor] = lambda w: w.T) -> None:
    """A linear layer whose matrix is (inputs, outputs)."""
    moving.put(f"{ours}.weight", moving.take(f"{theirs}.W"), change)
    moving.put(f"{ours}.bias", moving.take(f"{theirs}.b"))
