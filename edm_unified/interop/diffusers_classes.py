"""The networks of diffusers that are known, by their classes: how each is called, and what its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LARGEST = 1_000_000
"""The largest number that is believed of a configuration: of channels, of layers, of a side."""


class Model(NamedTuple):
    """How a class of diffusers is called: the names of its arguments, what its configuration says, and its wrapper."""

    arguments: Mapping[str, str]
    shape: Callable[[Mapping[str, Any]], tuple[int | None, int | None]]
    """Channels and side."""
    needs: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda config: ()
    classes: Callable[[Mapping[str, Any]], tuple[int, int | None]] = lambda config: (0, None)
    """How many there are, and which stands for none."""
    told_1000: bool = True
    around: Callable[[nn.Module], nn.Module] = lambda network: network


class FluxOnLatents(nn.Module):
    """Flux on latents (B, C, H, W): packed into tokens of 2 × 2, with the places of these and of the text."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **cond: Any) -> Tensor:
        batch, channels, height, width = hidden_states.shape
        h, w = height // 2, width // 2
        tokens = hidden_states.view(batch, channels, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, h * w, -1)
        image = torch.zeros(h, w, 3, device=tokens.device, dtype=tokens.dtype)
        image[..., 1] += torch.arange(h, device=tokens.device)[:, None]
        image[..., 2] += torch.arange(w, device=tokens.device)[None]
        text = torch.zeros(encoder_hidden_states.shape[1], 3, device=tokens.device, dtype=tokens.dtype)
        out = self.network(
            hidden_states=tokens, timestep=timestep, encoder_hidden_states=encoder_hidden_states,
            img_ids=image.view(-1, 3), txt_ids=text, **cond,
        )[0]  # fmt: skip
        return out.view(batch, h, w, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def _classes(config: Mapping[str, Any]) -> tuple[int, int | None]:
    return whole_number(config, "num_class_embeds", 0) or 0, None


def _text(config: Mapping[str, Any]) -> tuple[str, ...]:
    more = ("added_cond_kwargs",) if config.get("addition_embed_type") else ()
    return ("encoder_hidden_states", *more)


def _embedded(config: Mapping[str, Any]) -> tuple[str, ...]:
    return ("class_labels",) if config.get("class_embed_type") else ()


def _side(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return whole_number(config, "in_channels", None), whole_number(config, "sample_size", None)


def _flux_shape(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return (whole_number(config, "in_channels", 64) or 64) // 4, 128


MODELS = {
    "UNet2DModel": Model({"x": "sample", "time": "timestep"}, _side, _embedded, _classes),
    "UNet2DConditionModel": Model({"x": "sample", "time": "timestep"}, _side, _text, _classes),
    "DiTTransformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _side,
        classes=lambda config: (whole_number(config, "num_embeds_ada_norm", 1000) or 0,) * 2,
    ),
    "SD3Transformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _side,
        needs=lambda config: ("encoder_hidden_states", "pooled_projections"),
    ),
    "FluxTransformer2DModel": Model(
        {"x": "hidden_states", "time": "timestep"},
        _flux_shape,
        needs=lambda config: (
            ("encoder_hidden_states", "pooled_projections") + (("guidance",) if config.get("guidance_embeds") else ())
        ),
        told_1000=False,
        around=FluxOnLatents,
    ),
}


def whole_number(config: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = config.get(name, default)
    if isinstance(value, (list, tuple)) and value and all(side == value[0] for side in value):
        value = value[0]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST):
        raise ValueError(f"{name}: must be a whole number up to {LARGEST:,}, got {str(value)[:40]!r}")
    return value


def check_numbers(config: Mapping[str, Any], label: str) -> None:
    """Raise ``ValueError`` for a number beyond all networks, before anything is made of it."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{label}: {str(value)[:30]} is beyond what any network has")
