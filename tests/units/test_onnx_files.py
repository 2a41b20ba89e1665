"""ONNX files are read by their wire format; a published network in one is ours to 1e-5."""

from __future__ import annotations

import importlib.util
import math
import struct
from pathlib import Path

import pytest
import torch

import edm_unified as edm
from edm_unified.interop import onnx_files, terrain


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def part(number: int, value: bytes | str | int) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(**tensor: bytes) -> bytes:
    """A graph of two inputs, one node, a weight of 2 × 3 numbers, and metadata."""
    weight = tensor.get("weight") or part(1, 2) + part(1, 3) + part(2, 1) + part(8, "w") + part(
        9, struct.pack("<6f", *range(6))
    )
    packed = part(1, bytes([3])) + part(2, 1) + part(8, "b") + part(4, struct.pack("<3f", 7, 8, 9))
    node = part(1, "x") + part(1, "w") + part(2, "y") + part(4, "MatMul")
    graph = part(1, node) + part(5, weight) + part(5, packed) + part(11, part(1, "x")) + part(11, part(1, "w"))
    return part(1, 8) + part(7, graph) + part(14, part(1, "architecture") + part(2, "tiny"))


def test_weights_nodes_inputs_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(model())
    graph = onnx_files.read(file)
    assert torch.equal(graph.tensors["w"], torch.arange(6.0).view(2, 3))
    assert graph.tensors["b"].tolist() == [7, 8, 9]
    assert graph.nodes == (onnx_files.Node("MatMul", ("x", "w"), ("y",)),)
    assert (graph.inputs, graph.metadata) == (("x",), {"architecture": "tiny"})
    with pytest.raises(ValueError, match="is an ONNX graph tiny; of these only consistency-unet-32"):
        edm.load(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no graph in it"),
        (part(7, b"")[:-1] + b"\x7f", "a field of 127 bytes with 0 left"),
        (model(weight=part(1, 2**40) + part(2, 1) + part(8, "w") + part(9, b"1234")), "w of .* numbers in 4 bytes"),
        (model(weight=part(2, 1) + part(8, "w") + part(14, 1)), "w is in another file"),
        (b"\xff" * 40, "a number has no end"),
    ],
)
def test_what_is_no_onnx_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.onnx: not a readable ONNX file, .*{words}"):
        edm.load(file)


def test_files_damaged_anywhere_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    file, whole = tmp_path / "a.onnx", model()
    for at in range(len(whole)):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            file.write_bytes(content)
            try:
                onnx_files.read(file)
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_every_layer_of_the_terrain_network_has_a_name() -> None:
    with torch.device("meta"):
        network = terrain.NETWORK.build(terrain.SHAPE)
    ours = {f"{name}.{kind}" for _, name in terrain.names() for kind in ("weight", "bias")}
    norms = {f"{name}.{kind}" for name in terrain.norms(network) for kind in ("weight", "bias")}
    state = set(network.state_dict())
    assert state <= ours | norms
    assert {name for name in ours - state if ".shortcut." not in name} == set()
    assert len(norms) == 2 * 139
    assert sum(weight.numel() for weight in network.parameters()) == 10_456_545


def test_the_published_terrain_network_is_that_of_onnx_runtime() -> None:
    for module in ("onnxruntime", "terrain_diffusion"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'edm_unified[terrain]'")
    import onnxruntime

    spec = importlib.util.find_spec("terrain_diffusion")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "weights"
    file = next(folder.glob("*.onnx"))
    D, session = edm.load(file), onnxruntime.InferenceSession(str(file))
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.rand(2, 1, 128, 128, generator=g) * 2 - 1, torch.randn(2, 1, 128, 128, generator=g)
    difficulty = torch.tensor([9 / 99, 89 / 99])
    for sigma in torch.logspace(math.log10(0.002), math.log10(80), 10).tolist():
        x = x0 + sigma * noise
        told = {"noisy": x, "sigma": torch.full((2,), sigma), "difficulty": difficulty}
        want = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in told.items()})[0])
        torch.testing.assert_close(D(x, sigma, difficulty=difficulty), want, rtol=0, atol=1e-5)
