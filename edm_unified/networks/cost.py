"""The cost of training a network: parameters, operations, memory, found without computing or allocating anything.

The network is built of tensors without storage and run once, so that 1.5 billion parameters are counted on a laptop in
seconds. What is counted:

* :func:`parameters`: those that an optimizer trains;
* :func:`flops`: matrix products, convolutions and attention of one forward pass for one sample, a multiplication and
  an addition being two. Papers often count such a pair as one (DiT-XL/2's 119 GFLOPs are 237 of these). A training
  step is about three times as much, four with ``checkpoint_activations``;
* :func:`memory`: weights, gradients, what the optimizer and the averages keep, and the largest sum of activations
  that are alive at any moment of a forward and backward pass.

The memory is an estimate from below: it does not know the workspace of a convolution algorithm, the fragments of an
allocator, the buffers of a distributed run, what ``torch.compile`` fuses away, nor the context of a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from edm_unified.networks.base import Network

Precision = Literal["float32", "bfloat16", "float16"]


class Memory(NamedTuple):
    """Bytes of one process at a step of training. Sharded (FSDP), all but the activations divide by its ranks."""

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def parameters(module: nn.Module) -> int:
    """How many numbers an optimizer would train."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def flops(component: Network, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> int:
    """Floating-point operations of one forward pass for one sample of ``shape``; see the module for what counts.

    Raises ``ValueError`` where ``component`` does not take ``shape``.
    """
    with torch.device("meta"), torch.no_grad():
        module = component.build(shape, classes, augment).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            module(torch.empty(1, *shape), torch.empty(1))
    return int(counter.get_total_flops())


def memory(
    component: Network,
    shape: tuple[int, ...],
    classes: int = 0,
    augment: int = 0,
    *,
    batch: int,
    optimizer_states: int = 2,
    averages: int = 1,
    precision: Precision = "float32",
    checkpoint_activations: bool = False,
) -> Memory:
    """Bytes for training on ``batch`` samples at a time: those of one process in one step of accumulation.

    ``optimizer_states`` are the numbers that the optimizer keeps for each parameter (2 for Adam, 0 for plain gradient
    descent), ``averages`` how many averaged copies of the weights there are, in float64. Weights, gradients and the
    optimizer's numbers are float32 whatever the ``precision``, in which autocast runs the network.

    Raises ``ValueError`` where ``component`` does not take ``shape``.
    """
    with FakeTensorMode():
        module = component.build(shape, classes, augment).train()
        module.checkpoint_activations = checkpoint_activations  # type: ignore[assignment]
        inputs = torch.empty(batch, *shape), torch.empty(batch)
        for parameter in module.parameters():  # gradients are counted below, all at once
            parameter.register_post_accumulate_grad_hook(_forget_gradient)

        def step() -> None:
            cast = nullcontext() if precision == "float32" else torch.autocast("cpu", getattr(torch, precision))
            with cast:
                output = module(*inputs)
            output.float().sum().backward()

        activations = peak_bytes(step) + sum(tensor.nbytes for tensor in inputs)
        trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
        weights = sum(tensor.nbytes for tensor in module.state_dict().values())
        averaged = sum(8 * parameter.numel() for parameter in module.parameters())
    return Memory(weights, trained, optimizer_states * trained, averages * averaged, activations)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors made by ``function`` that are alive at one moment while it runs."""
    with _Peak() as peak:
        function()
    return peak.most


class _Peak(TorchDispatchMode):
    """Counts the bytes of every storage from the operation that makes it until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # an output that shares its storage with an input is a view, or was made before
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()  # PyTorch keeps the Python object for as long as the storage
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None
