"""What a forward pass and a training step of the U-Net cost: ours, ours written plainly, and diffusers' of one layout.

    python tests/benchmarks/bench_networks.py       or   python -m pytest tests/benchmarks/bench_networks.py -n 0 -s
    python tests/benchmarks/bench_networks.py --device cuda --dtype bfloat16 --batch 128 --compile

The network is DDPM++ for CIFAR-10 (55.7 M). ``plain`` is the same network with silu, group norm, attention and
resampling written out as formulas (x·sigmoid(x); mean, variance, scale, shift; softmax(q kᵀ) v; grouped convolutions).
diffusers' ``UNet2DModel`` cannot have DDPM++'s layout, so ours is also built in its: three levels of 256 channels, four
blocks each, attention in every block at 16 × 16, equal parameter counts (asserted). A training step is the forward
pass, the backward pass and Adam. ``kept`` is what the forward pass keeps for the backward pass, for each image.

On a CPU with one thread the time is that of the process, without the shares of its neighbours; otherwise it is the
wall's, on a GPU that of ten calls in a row. Rounds are interleaved; a ratio is the median over rounds of the time over
that of its base in the same round.
This prints; it asserts nothing about time, which depends on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from edm_unified.networks import UNet, published
from edm_unified.networks.unet.blocks import Resample

SHAPE = (3, 32, 32)
DDPMPP = published.DDPMPP_CIFAR10
SAME = UNet(
    channels=256,
    multipliers=(1, 1, 1),
    decoder_attention="all",
    endpoint=False,
    label_at="embedding",
    resample_projection=False,
    rescale=False,
    dropout=0.0,
    norm_eps=1e-5,
)


class Row(NamedTuple):
    name: str
    base: int
    """The row that this one's ratios are to."""
    network: nn.Module
    call: Callable[[Tensor, Tensor], Tensor]
    memory: torch.memory_format = torch.contiguous_format
    context: Callable[[], Any] = contextlib.nullcontext


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = x.reshape(len(x), groups, -1)
    rows = (rows - rows.mean(dim=2, keepdim=True)) / torch.sqrt(rows.var(dim=2, keepdim=True, correction=0) + eps)
    axes = (1, -1) + (1,) * (x.ndim - 2)
    return rows.reshape(x.shape) * weight.view(axes) + bias.view(axes)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    replaced = {"silu": silu, "group_norm": group_norm, "scaled_dot_product_attention": attention}
    with mock.patch.multiple(functional, **replaced):
        yield


def rows(device: torch.device, compiled: bool) -> list[Row]:
    def ours(config: UNet, last: bool = False) -> nn.Module:
        network = config.build(SHAPE, augment=9 if config is DDPMPP else 0).to(device)
        return network.to(memory_format=torch.channels_last) if last else network

    last = torch.channels_last
    first, second, third = ours(DDPMPP), ours(DDPMPP, last=True), ours(DDPMPP)
    third.checkpoint_activations = True
    plain = ours(DDPMPP)
    for module in plain.modules():
        if isinstance(module, Resample):
            module.box = False

    def compile(network: nn.Module) -> Callable[..., Any]:
        return torch.compile(network, fullgraph=True)

    found = [
        Row("DDPM++", 0, first, first),
        Row("DDPM++, channels_last", 0, second, second, last),
        Row("DDPM++, activations computed again", 0, third, third),
        Row("DDPM++, plain", 0, plain, plain, context=written_out),
    ]
    if compiled:
        fourth = ours(DDPMPP, last=True)
        found.append(Row("DDPM++, channels_last, compiled", 0, fourth, compile(fourth), last))
    try:
        import diffusers
    except ImportError:
        return found
    theirs = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(256, 256, 256),
        layers_per_block=4,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=256,
    ).to(device)
    theirs_last = diffusers.UNet2DModel.from_config(theirs.config).to(device, memory_format=last)
    base = len(found)
    same, same_last = ours(SAME), ours(SAME, last=True)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (same, theirs)]
    assert sizes[0] == sizes[1], sizes
    found += [
        Row("ours in UNet2DModel's layout", base, same, same),
        Row("ours in UNet2DModel's layout, channels_last", base, same_last, same_last, last),
        Row("diffusers UNet2DModel", base, theirs, lambda x, noise: theirs(x, noise).sample),
        Row("diffusers UNet2DModel, channels_last", base, theirs_last, lambda x, n: theirs_last(x, n).sample, last),
    ]
    if compiled:
        ours_fast, theirs_fast = compile(same_last), compile(theirs_last)
        found += [
            Row("ours in UNet2DModel's layout, compiled", base, same_last, ours_fast, last),
            Row("diffusers UNet2DModel, compiled", base, theirs_last, lambda x, n: theirs_fast(x, n).sample, last),
        ]
    return found


def measure(row: Row, batch: int, device: torch.device, dtype: torch.dtype, optimizer: Any) -> tuple[float, float]:
    """Seconds of a forward pass and of a training step."""
    x = torch.randn(batch, *SHAPE, device=device).to(memory_format=row.memory)
    noise = torch.linspace(-1, 1, batch, device=device)

    def call() -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return row.call(x, noise)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (call().float() - x).square().mean().backward()
        optimizer.step()

    with row.context():
        row.network.eval()
        with torch.no_grad():
            forward = clock(call, device)
        row.network.train()
        return forward, clock(step, device)


def clock(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu" and torch.get_num_threads() == 1:
        start = time.process_time()
        function()
        return time.process_time() - start
    if device.type == "cuda":
        torch.cuda.synchronize()
    start, calls = time.perf_counter(), 10 if device.type == "cuda" else 1
    for _ in range(calls):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def kept(row: Row, device: torch.device, dtype: torch.dtype) -> float:
    """MB per image that the forward pass keeps besides the weights; each storage once."""
    batch = 2
    weights = {p.untyped_storage().data_ptr() for p in row.network.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(batch, *SHAPE, device=device).to(memory_format=row.memory)
    half = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False)
    with row.context(), half, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = row.call(x, torch.zeros(batch, device=device))  # alive until the count is made
        total = sum(storages.values()) / 1e6 / batch
    del out
    return total


def report(batch: int, rounds: int, device: torch.device, dtype: torch.dtype, compiled: bool) -> None:
    table = rows(device, compiled)
    optimizers = [torch.optim.Adam(row.network.parameters(), lr=1e-4) for row in table]
    memory = [kept(row, device, dtype) for row in table]
    times: list[list[tuple[float, float]]] = [[] for _ in table]
    for i in range(rounds + 1):
        for row, optimizer, found in zip(table, optimizers, times, strict=True):
            result = measure(row, batch, device, dtype, optimizer)
            if i:  # the first round warms up
                found.append(result)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread"
    digits = 1 if device.type == "cuda" else 0
    print(f"\nbatch {batch}, {where}, {dtype}, torch {torch.__version__}, {rounds} rounds\n")
    print(f"{'network':46}{'forward':>10}{'ratio':>8}{'step':>10}{'ratio':>8}{'kept/image':>14}")
    for row, found, megabytes in zip(table, times, memory, strict=True):
        cells = ""
        for k in (0, 1):
            ratio = statistics.median(a[k] / b[k] for a, b in zip(found, times[row.base], strict=True))
            cells += f"{statistics.median(t[k] for t in found) * 1e3:7.{digits}f} ms{ratio:8.2f}"
        print(f"{row.name:46}{cells}{megabytes:11.0f} MB")


def test_networks() -> None:
    report(1, 1, torch.device("cpu"), torch.float32, compiled=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--compile", action="store_true", help="three more rows; takes minutes on a CPU")
    parser.add_argument("--benchmark", action="store_true", help="let cuDNN choose its convolutions by timing them")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = arguments.benchmark
    if arguments.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    report(
        arguments.batch,
        arguments.rounds,
        torch.device(arguments.device),
        getattr(torch, arguments.dtype),
        arguments.compile,
    )
