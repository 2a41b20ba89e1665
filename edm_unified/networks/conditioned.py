"""Any network, conditioned on more than a class: a vector, an image or tokens of each sample.

* ``image`` (B, C', *sides), as large as the sample: its channels are joined to those of the input, c_in z.
* ``vector`` (B, K): joined as K channels that are constant over the sample (to a vector x, as K more numbers).
* ``tokens`` (B, L, K): the network attends to them (:class:`~edm_unified.networks.Transformer`).

The outputs for the joined channels are not used. A row that holds NaN, or None for all, is **no condition**: zeros, and
a channel that says so, 1 where there is one; of tokens, nothing is attended to. That is what a share of the rows is
trained with for classifier-free guidance (``training.condition_dropout``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edm_unified.networks.base import Network

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each condition of one sample, by its kind."""


def build_conditioned(
    network: Network, shape: tuple[int, ...], classes: int, augment: int, conditions: Shapes
) -> nn.Module:
    """The module of ``network`` for samples of ``shape`` with ``conditions``.

    Raises ``ValueError`` where the network cannot attend to tokens, or does not take the channels.
    """
    with_image = getattr(network, "build_with_image", None)  # what has a use of its own for it
    if with_image is not None:
        if other := [kind for kind in conditions if kind != "image"]:
            kind = getattr(network, "kind", type(network).__name__)
            raise ValueError(f"kind: {kind} takes no condition but an image, got {', '.join(other)}; take unet")
        made: nn.Module = with_image(shape, classes, augment, conditions["image"])
        return made
    joined = sum(_channels(kind, size) for kind, size in conditions.items())
    wider = (shape[0] + joined, *shape[1:])
    if "tokens" not in conditions:
        return Conditioned(network.build(wider, classes, augment), shape, conditions)
    with_tokens = getattr(network, "build_with_tokens", None)
    if with_tokens is None:
        kind = getattr(network, "kind", type(network).__name__)
        raise ValueError(f"kind: {kind} does not attend to tokens; take transformer, or give them as a vector")
    return Conditioned(with_tokens(wider, classes, augment, conditions["tokens"][-1]), shape, conditions)


def _channels(kind: str, size: tuple[int, ...]) -> int:
    """How many channels a condition adds, with that which says whether it is there."""
    return 0 if kind == "tokens" else size[0] + 1


class Conditioned(nn.Module):
    """F(x, c_noise; vector, image, tokens): ``network``, built for ``shape`` and the channels that are joined to it.

    See the module docstring. Raises ``ValueError`` for a condition of another shape, of whole numbers, or unknown.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], conditions: Shapes) -> None:
        super().__init__()
        self.network = network
        self.channels, self.conditions = shape[0], {kind: tuple(size) for kind, size in conditions.items()}

    @property
    def needs(self) -> tuple[str, ...]:
        """The conditions that it was built for."""
        return tuple(self.conditions)

    def takes(self, name: str) -> bool:
        """Whether it was built for a condition of that name."""
        return name in self.conditions

    @property
    def checkpoint_activations(self) -> bool:
        """That of the network within."""
        return bool(getattr(self.network, "checkpoint_activations", False))

    @checkpoint_activations.setter
    def checkpoint_activations(self, value: bool) -> None:
        self.network.checkpoint_activations = value  # type: ignore[assignment]

    def after_step(self) -> None:
        """What the network within does after a step of the optimizer."""
        after = getattr(self.network, "after_step", None)
        if after is not None:
            after()

    def forward(self, x: Float[Tensor, "B *shape"], noise: Float[Tensor, " B"], **cond: Any) -> Tensor:
        parts, given = [x], {}
        for kind, size in self.conditions.items():
            values, there = _present(kind, size, cond.pop(kind, None), x)
            if kind == "tokens":
                given = {"tokens": values, "tokens_there": there}
                continue
            channels = torch.cat([values, there.view(-1, 1, *[1] * (values.ndim - 2)).expand_as(values[:, :1])], 1)
            if channels.ndim < x.ndim:
                channels = channels.view(*channels.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
            parts.append(channels)
        out: Tensor = self.network(torch.cat(parts, 1), noise, **cond, **given)
        return out[:, : self.channels]


def _present(kind: str, size: tuple[int, ...], value: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The condition in x's dtype with zeros for what is missing, and (B,) whether it is there."""
    if value is None:
        return x.new_zeros(len(x), *size), x.new_zeros(len(x))
    sides = x.shape[2:] if kind == "image" else size[1:]  # images may be of another size than they were trained with
    wanted = (size[0], *sides) if kind != "tokens" else (*value.shape[1:2], size[-1])
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape[1:] != wanted:
        got = f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{kind}: must be floating-point numbers (B, {', '.join(map(str, wanted))}), got {got}")
    value = value.to(device=x.device, dtype=x.dtype)
    if len(value) not in (1, len(x)):
        raise ValueError(f"{kind}: must have one row, or one for each of {len(x)} samples, got {len(value)}")
    value = value.expand(len(x), *value.shape[1:])
    there = torch.isfinite(value).flatten(1).all(1)
    return torch.where(there.view(-1, *[1] * (value.ndim - 1)), value, 0.0), there.to(x.dtype)
