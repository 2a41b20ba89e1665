"""One process or many: who this one is, and what they do together.

``torchrun --nproc-per-node=8 -m edm_unified train RECIPE --out RUN`` starts processes that find each other through
the environment. Each takes its share of every batch; gradients are averaged by DDP, or weights, gradients, optimizer
and averages are cut up among the processes by FSDP2 (``fully_shard``). Under one process all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, distributed, nn


class Team(NamedTuple):
    """This process among the others, and where it computes."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            distributed.barrier()

    def add(self, tensor: Tensor) -> Tensor:
        """``tensor`` summed over the processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def all_of(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def lead(self, act: Callable[[], object]) -> None:
        """Let the leading process ``act`` while the others wait. What it raises ends them all.

        Raises what ``act`` raises, in the leading process; in the others :class:`LeaderError` with its words.
        """
        error: Exception | None = None
        if self.leads:
            try:
                act()
            except Exception as raised:
                error = raised
        words = self.all_of(None if error is None else str(error))[0]
        if error is not None:
            raise error
        if words is not None:
            raise LeaderError(words)


class LeaderError(ValueError):
    """An error of the leading process, in another one; the leading one tells it."""


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """This process and its peers, where ``torchrun`` started several; just this one otherwise.

    Raises ``ValueError`` naming the variable of the environment where it is not what ``torchrun`` sets.
    """
    size = _count("WORLD_SIZE", 1, 1)
    if size == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Team(device)
        return
    own = not distributed.is_initialized()
    if own:
        _check_environment(size)
    if device.type == "cuda" and device.index is None:
        place, there = _count("LOCAL_RANK", 0, 0), torch.cuda.device_count()
        if place >= there:
            raise ValueError(f"LOCAL_RANK: is {place} in the environment, and this machine has {there} GPUs")
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    if own:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Team(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        if own:
            distributed.destroy_process_group()


_REMEDY = "start several processes with torchrun, which sets it, or unset it"


def _count(name: str, absent: int, least: int, most: int = 2**31) -> int:
    """A whole number of the environment. Raises ``ValueError`` where it is none, or not from ``least`` to ``most``."""
    given = os.environ.get(name)
    if given is None:
        return absent
    if not (given.strip().isdecimal() and least <= int(given) <= most):
        raise ValueError(f"{name}: must be a whole number in the environment, got {given[:40]!r}; {_REMEDY}")
    return int(given)


def _check_environment(size: int) -> None:
    """Raise ``ValueError`` naming what the processes need to find each other, where it is missing or wrong."""
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise ValueError(
                f"{name}: is not set in the environment, though WORLD_SIZE is {size}; unset that, or start several "
                "processes with torchrun, which sets all of them"
            )
    _count("MASTER_PORT", 0, 1, 65535)
    _count("LOCAL_RANK", 0, 0)
    if _count("RANK", 0, 0) >= size:
        raise ValueError(f"RANK: is {os.environ['RANK']} in the environment, of {size} processes; {_REMEDY}")


def distribute(module: nn.Module, how: Literal["ddp", "fsdp"], team: Team) -> nn.Module:
    """``module`` as the processes share it. With ``fsdp`` it is changed in place and returned."""
    if how == "fsdp" and (team.size > 1 or distributed.is_initialized()):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(team.device.type, (team.size,))
        for block in _blocks(module):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module
    if team.size == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    ids = [team.device.index] if team.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the option has another name in new versions, old ones lack it
        # weights are equal by their seed, and buffers are constants
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network, which are gathered one at a time: the members of its lists of modules."""
    lists = [child for child in module.modules() if isinstance(child, nn.ModuleList)]
    inner = {id(grandchild) for entry in lists for child in entry for grandchild in child.modules()} - {
        id(child) for entry in lists for child in entry
    }
    outermost = [entry for entry in lists if id(entry) not in inner]
    return [child for entry in outermost for child in entry if any(p.requires_grad for p in child.parameters())]


@contextmanager
def synchronizing(module: nn.Module, last: bool) -> Iterator[None]:
    """Gradients are exchanged in the backward pass of the ``last`` micro-batch only."""
    from torch.nn.parallel import DistributedDataParallel

    with contextlib.ExitStack() as stack:
        if isinstance(module, DistributedDataParallel) and not last:
            stack.enter_context(module.no_sync())
        elif hasattr(module, "set_requires_gradient_sync"):
            fully_sharded: Any = module
            fully_sharded.set_requires_gradient_sync(last)
        yield


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be cut up among the processes, put together again. All processes must call this."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()  # type: ignore[no-any-return]
