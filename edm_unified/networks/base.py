"""The interface of networks, components that build a module, and the checks that all modules make of their input.

The module is called ``forward(x, noise, *, label=None, augment=None)``:

* ``x`` (B, *shape), already multiplied by c_in; the result has its shape;
* ``noise`` (B,), the c_noise(σ) of the preconditioning, at least float32;
* ``label`` (B,) class indices, −1 for no class; or (B, classes), a weight for each class, of which a row of ones and
  zeros is several classes and a row of zeros none; ``None`` is no class for all;
* ``condition`` (B, k), real numbers, of a network that takes such;
* ``augment`` (B, k), what the augmentation did to each sample, zeros (or ``None``) for nothing.

The checks look at shapes only, which costs nothing on a device and leaves ``torch.compile(fullgraph=True)`` one
graph. A label's value is looked at where it is free, on the CPU; on a device an index out of range is an error of the
embedding's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edm_unified.components.constraints import interval

Dropout = Annotated[float, interval(0, 1, "[)")]
"""The probability with which an activation is set to zero in training."""


class Network(Protocol):
    """A component of :data:`edm_unified.networks.AnyNetwork`: its fields are hyper-parameters."""

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        """The module for samples of ``shape``, ``classes`` classes and ``augment`` augmentation labels.

        Weights are drawn from torch's global generator. Raises ``ValueError`` naming the field that does not fit.
        """
        ...


def check_shape(shape: tuple[int, ...], axes: tuple[int, ...], what: str) -> None:
    """Raise ``ValueError`` unless ``shape`` has one of ``axes`` axes, each at least 1."""
    if len(shape) not in axes or min(shape, default=0) < 1:
        raise ValueError(f"shape: {what}, got {tuple(shape)}")


def level_sides(shape: tuple[int, ...], levels: int) -> list[int]:
    """The shorter side of a sample (C, ...) at each of ``levels`` levels, every one half of the last."""
    return [min(shape[1:]) >> level for level in range(levels)]


def check_attention(resolutions: tuple[int, ...], shape: tuple[int, ...], levels: int) -> None:
    """Raise ``ValueError`` unless each of a recipe's ``attention_resolutions`` is the side of a level."""
    sides = level_sides(shape, levels)
    for side in resolutions:
        if side not in sides:
            known = f"those of samples of shape {tuple(shape)} are {', '.join(map(str, sides))}"
            raise ValueError(f"attention_resolutions: no level has side {side}; {known}")


def check_input(x: Tensor, noise: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless x is (B, *shape), an entry of −1 standing for any size, and noise is (B,)."""
    # not "in": a compiler with symbolic sizes (PyTorch 2.13) does not find 2 in (-1, s) where s may be 2
    sizes = zip(shape, x.shape[1:], strict=True) if x.ndim == len(shape) + 1 else None
    fits = sizes is not None and all(want == -1 or want == got for want, got in sizes)
    if not fits:
        wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
        raise ValueError(f"x: the network was built for samples of shape ({wanted}), got a batch {tuple(x.shape)}")
    if noise.shape != x.shape[:1]:
        raise ValueError(f"noise: must have shape ({len(x)},), one c_noise per sample, got {tuple(noise.shape)}")


def check_label(label: Tensor | None, classes: int, batch: int) -> None:
    """Raise ``ValueError`` unless ``label`` is None, (batch,) whole numbers −1 … classes − 1, or (batch, classes)."""
    if label is None:
        return
    if classes == 0:
        raise ValueError("label: the network was built without classes (classes=0); leave the label out")
    if label.ndim == 2 and label.shape == (batch, classes) and (label.dtype == torch.bool or label.is_floating_point()):
        return
    if label.shape != (batch,) or label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(
            f"label: must be ({batch},) whole numbers, or ({batch}, {classes}) weights of the classes, got "
            f"{label.dtype} of shape {tuple(label.shape)}"
        )
    if label.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = label[(label < -1) | (label >= classes)]
        if len(wrong):
            raise ValueError(f"label: must be from 0 to {classes - 1}, or -1 for no class, got {int(wrong[0])}")


def check_augment(augment: Tensor | None, width: int, batch: int) -> None:
    """Raise ``ValueError`` unless ``augment`` is None or (batch, width)."""
    if augment is None:
        return
    if width == 0:
        raise ValueError("augment: the network was built without augmentation labels (augment=0); leave them out")
    if augment.shape != (batch, width):
        raise ValueError(f"augment: must have shape ({batch}, {width}), got {tuple(augment.shape)}")


def check_condition(condition: Tensor | None, numbers: int, batch: int) -> None:
    """Raise ``ValueError`` unless ``condition`` is (batch, numbers), or (batch,) of one number; None of none."""
    if condition is None:
        if numbers:
            raise ValueError(f"condition: the network is conditioned on {numbers} numbers a sample; give condition=")
        return
    if numbers == 0:
        raise ValueError("condition: the network was built without conditions; leave it out")
    if condition.shape != (batch, numbers) and not (numbers == 1 and condition.shape == (batch,)):
        raise ValueError(f"condition: must have shape ({batch}, {numbers}), got {tuple(condition.shape)}")


def run(block: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """``block(*inputs)``; with ``recompute`` its activations are dropped and computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    return block(*inputs)
