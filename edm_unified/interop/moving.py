"""Weights of another library's network into ours: each is taken once, under another name and perhaps in another order.

What ours has and the file does not, or the other way round, is an error that names the first three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edm_unified.interop import files

LARGEST = 1_000_000
"""The largest number of channels, blocks or classes that is believed."""


class Moving:
    """The tensors of ``file`` by their names there, ``left``, and by ours, ``found``."""

    def __init__(self, tensors: Mapping[str, Tensor], file: Path | str, ignore: Iterable[str] = ()) -> None:
        self.file, self.found, self.missing = file, dict[str, Tensor](), list[str]()
        endings = tuple(ignore)
        self.left = {name: tensor for name, tensor in tensors.items() if not (endings and name.endswith(endings))}

    def take(self, name: str) -> Tensor | None:
        """The tensor of that name, which is then no longer left; None where there is none, which :meth:`into` tells."""
        if name not in self.left:
            self.missing.append(name)
            return None
        return self.left.pop(name)

    def move(self, theirs: str, ours: str, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """The weight of a layer, and its bias if it has one; ``change`` is made to both."""
        parts = [part for part in ("weight", "bias") if f"{theirs}.{part}" in self.left] or ["weight"]
        for part in parts:
            self.put(f"{ours}.{part}", self.take(f"{theirs}.{part}"), change)

    def put(self, ours: str, tensor: Tensor | None, change: Callable[[Tensor], Tensor] | None = None) -> None:
        """A tensor under our name. What ``change`` cannot be made to is left as it is, and does not fit."""
        if tensor is None:
            return
        if change is not None:
            try:
                tensor = change(tensor)
            except (RuntimeError, IndexError):
                self.missing.append(f"{ours} of shape {tuple(tensor.shape)}")
        self.found[ours] = tensor.detach().float().contiguous()

    def into(self, network: Any, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """``network``, a component, built with what was found. Raises ``ValueError`` where anything does not fit.

        Its shapes are made without memory first, so that the memory is that of the file, whatever it says.
        """
        faults = [f"no {name!r}" for name in self.missing] + [f"{name!r} besides" for name in self.left]
        if faults:
            more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise ValueError(f"{self.file}: does not fit the network: {'; '.join(faults[:3])}{more}")
        with torch.device("meta"):
            wanted = network.build(shape, classes, augment).state_dict()
        files.check_fit(wanted, self.found, self.file)
        with torch.random.fork_rng(devices=[]):
            made = network.build(shape, classes, augment)
        made.load_state_dict(self.found)
        return made.eval()  # type: ignore[no-any-return]


def matrix(tensor: Tensor) -> Tensor:
    """A 1 × 1 convolution as the matrix of a linear layer; a bias stays."""
    return tensor if tensor.ndim == 1 else tensor.flatten(1)


def ordered(heads: int, order: str) -> Callable[[Tensor], Tensor]:
    """Rows of queries, keys and values in our order, (q, k, v), head, channel, from that of the letters ``order``: of
    ``hqc`` (head, qkv, channel), ``hcq`` or ``qhc``."""

    def change(tensor: Tensor) -> Tensor:
        rows, sizes = len(tensor), {"h": heads, "q": 3, "c": len(tensor) // (3 * heads)}
        index = torch.arange(rows).view([sizes[letter] for letter in order])
        return matrix(tensor)[index.permute([order.index(letter) for letter in "qhc"]).flatten()]

    return change


def rolled(features: int) -> Callable[[Tensor], Tensor]:
    """The columns of a layer on features of which the cosines come first there, and the sines here."""
    return lambda tensor: tensor if tensor.ndim == 1 else tensor.roll(features // 2, dims=1)


def means(channels: int) -> Callable[[Tensor], Tensor]:
    """The rows of the prediction, where there are as many again for its variance."""
    return lambda tensor: tensor[:channels] if len(tensor) == 2 * channels else tensor
