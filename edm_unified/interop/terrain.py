"""The U-Net of adaptive-terrain-diffusion, from its ONNX file into ours.

A published network with trained weights (MIT): 10 456 545 of them in guided-diffusion's layout, for height maps
(1, 128, 128), conditioned on a difficulty in [0, 1], under the preconditioning of consistency models, D clipped to
[−1, 1]. It was distilled to one step from σ = 80: below that it is no denoiser, and proves loading, not solvers.

The names of the layers are in the file; those of the norms are not, and are found by the order of their nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from edm_unified.denoisers.preconditioning import Consistency
from edm_unified.interop import files, onnx_files
from edm_unified.interop.onnx_files import Graph
from edm_unified.interop.source import Source
from edm_unified.networks import UNet
from edm_unified.sampling.levels import Explicit
from edm_unified.schedules import EDM

ARCHITECTURE = "consistency-unet-32"
INPUTS = ("noisy", "sigma", "difficulty")
SHAPE = (1, 128, 128)
NETWORK = UNet(
    channels=32,
    multipliers=(1, 1, 2, 3, 4),
    blocks=4,
    attention_resolutions=(32, 16, 8),
    decoder_attention="all",
    head_channels=32,
    endpoint=False,
    noise_scale=1000.0,
    label_at="embedding",
    adaptive_scale=True,
    resample_projection=False,
    rescale=False,
    dropout=0.0,
    norm_eps=1e-5,
    norm_groups=32,
    conditions=1,
    init="fan_in",
)
DIFFICULTY = 0.5
"""(d − 1)/99 for d = 1 … 100; what is taken where none is given."""


class Conditioned(nn.Module):
    """A network of ours whose ``condition`` goes by the name ``difficulty``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def takes(self, name: str) -> bool:
        """It has one condition."""
        return name == "difficulty"

    def forward(self, x: Tensor, noise: Tensor, difficulty: float | Tensor = DIFFICULTY) -> Tensor:
        condition = torch.as_tensor(difficulty, device=x.device, dtype=x.dtype)
        return self.network(x, noise, condition=condition.expand(len(x)))  # type: ignore[no-any-return]


def recognise(file: Path, label: str) -> Source:
    """The source in ``file``. Raises ``ValueError`` where it is another network, or none."""
    graph = onnx_files.read(file)
    if graph.metadata.get("architecture") != ARCHITECTURE or graph.inputs != INPUTS:
        what = graph.metadata.get("architecture") or f"of inputs {', '.join(graph.inputs)[:60] or 'none'}"
        raise ValueError(
            f"{label}: is an ONNX graph {what}; of these only {ARCHITECTURE} of adaptive-terrain-diffusion is known"
        )
    return Source(
        place=label,
        what="ONNX file",
        network="U-Net of adaptive-terrain-diffusion",
        convention=Consistency(),
        schedule=EDM(),
        steps=Explicit((80.0, 0.0)),
        shape=SHAPE,
        weights=(file,),
        build=lambda: Conditioned(_build(file, graph)),
        clip=True,
        notes=(
            "distilled to one step from sigma = 80: below it is no denoiser, and says nothing of solvers",
            f"difficulty {DIFFICULTY} where none is given, (d - 1)/99 for d = 1 ... 100",
            "licence: MIT (c) 2024 Youwei Yu; MIT (c) 2023 OpenAI",
        ),
        said={name: graph.metadata[name] for name in ("training", "training_step") if name in graph.metadata},
    )


def names() -> Iterator[tuple[str, str]]:
    """(theirs, ours) of every layer; their numbering is that of guided-diffusion."""
    yield from (("time_embed.0", "noise_in"), ("time_embed.2", "noise_out"))
    yield from (("label_emb.0", "condition_in"), ("label_emb.2", "condition_out"))
    yield "input_blocks.0.0", "input"
    for level in range(5):
        if level:
            yield from _block(f"input_blocks.{5 * level}", f"encoder.{level}.resample", None)
        for j in range(4):
            yield from _block(
                f"input_blocks.{5 * level + 1 + j}", f"encoder.{level}.blocks.{j}", 1 if level >= 2 else None
            )
    yield from _layers("middle_block.0", "middle.0")
    yield from _attention("middle_block.1", "middle.0.attention")
    yield from _layers("middle_block.2", "middle.1")
    for k in range(5):
        for j in range(5):
            yield from _block(f"output_blocks.{5 * k + j}", f"decoder.{k}.blocks.{j}", 1 if k <= 2 else None)
        if k < 4:
            yield from _layers(f"output_blocks.{5 * k + 4}.{2 if k <= 2 else 1}", f"decoder.{k + 1}.resample")
    yield "out.2", "decoder.4.readout.conv"


def _block(theirs: str, ours: str, attention: int | None) -> Iterator[tuple[str, str]]:
    yield from _layers(f"{theirs}.0", ours)
    if attention is not None:
        yield from _attention(f"{theirs}.{attention}", f"{ours}.attention")


def _layers(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in (
        ("in_layers.2", "conv_in"),
        ("emb_layers.1", "condition"),
        ("out_layers.3", "conv_out"),
        ("skip_connection", "shortcut"),
    ):
        yield f"{theirs}.{a}", f"{ours}.{b}"


def _attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{theirs}.qkv", f"{ours}.qkv"), (f"{theirs}.proj_out", f"{ours}.output"))


def norms(network: nn.Module) -> list[str]:
    """The names of our norms in the order in which they act, which is that of the blocks in :func:`names`."""
    known = {name for name, module in network.named_modules() if isinstance(module, nn.GroupNorm)}
    blocks = [name for _, name in names() if name.endswith(".conv_in")]
    order = [block.removesuffix(".conv_in") for block in blocks]
    found = [f"{block}.{norm}" for block in order for norm in ("norm_in", "norm_out", "attention.norm")]
    return [name for name in [*found, "decoder.4.readout.norm"] if name in known]


def _build(file: Path, graph: Graph) -> nn.Module:
    """Our network with the weights. Raises ``ValueError`` where a layer is missing, left over or of another shape."""
    with torch.device("meta"):
        wanted = NETWORK.build(SHAPE)
    shapes = wanted.state_dict()
    found: dict[str, Tensor] = {}
    left = {name for name in graph.tensors if name.startswith("network.")}
    for theirs, ours in names():
        for part in ("weight", "bias"):
            name, own = f"network.{theirs}.{part}", f"{ours}.{part}"
            if name not in graph.tensors and own not in shapes:
                continue  # a block without a 1 × 1 shortcut
            if name not in graph.tensors or own not in shapes:
                raise ValueError(f"{file}: does not fit the network: no {name!r}")
            tensor = graph.tensors[name]
            found[own] = (
                tensor[..., 0, 0] if ours.endswith((".qkv", "attention.output")) and tensor.ndim == 4 else tensor
            )
            left.discard(name)
    if left:
        raise ValueError(f"{file}: does not fit the network: {min(left)!r} besides")
    half = found["noise_in.weight"].shape[1] // 2
    found["noise_in.weight"] = found["noise_in.weight"].roll(half, dims=1)  # cosines first there, sines first here
    for name, (weight, bias) in zip(norms(wanted), _norms(file, graph), strict=False):
        found[f"{name}.weight"], found[f"{name}.bias"] = weight.flatten(), bias.flatten()
    files.check_fit(shapes, found, file)
    with torch.random.fork_rng(devices=[]):
        network = NETWORK.build(SHAPE)
    files.fill(network, found, file)
    return network.eval()


def _norms(file: Path, graph: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    """The weight and bias of each norm: of InstanceNormalization → Reshape → Mul (weight) → Add (bias), in order."""
    takers = {name: node for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        if node.op != "InstanceNormalization":
            continue
        numbers, here = [], node
        for op in ("Reshape", "Mul", "Add"):
            after = takers.get(here.outputs[0] if here.outputs else "")
            if after is None or after.op != op:
                raise ValueError(f"{file}: a norm is not followed by its weight and bias; it is of another exporter")
            here = after
            numbers += [graph.tensors[name] for name in here.inputs if name in graph.tensors and op != "Reshape"]
        if len(numbers) != 2:
            raise ValueError(f"{file}: a norm has no weight and bias; it is of another exporter")
        yield numbers[0], numbers[1]
