"""Damaged files of data: each is one line that names the file, and no header is believed before it is measured."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edm_unified import data

TERABYTES = (2**20, 3, 1024, 1024)


def refused(source: Any, *words: str) -> None:
    """Loading raises ValueError with these words in one line, and asks for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\A.+\Z") as error:  # no line break
            source.load()
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    said = str(error.value)
    assert all(word in said for word in words), said
    assert "--batch" not in said


def npy(array: np.ndarray, **more: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def claiming(shape: Any, kind: str = "<f4") -> bytes:
    """A file whose header says ``shape`` and which has 64 bytes."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


ARRAY = np.linspace(-1, 1, 600, dtype=np.float32).reshape(50, 12)
DAMAGED: list[tuple[bytes, str]] = [
    (b"", "pickled objects, which are not opened"),
    (b"\x93NUMPY", "not a readable NumPy file"),
    (b"\x93NUMPY\x09\x09garbage", "not a readable NumPy file"),
    (b"\x93NUMPY\x01\x00\x10\x00not a dictionary", "not a readable NumPy file"),
    (b"\x93NUMPY\x01\x00\xe8\x03" + b"(" * 1000, "not a readable NumPy file"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "not a readable NumPy file"),
    (npy(ARRAY)[:-100], "its header says shape (50, 12) of float32, 2,400 bytes, and there are 2,300"),
    (npy(np.array([{}, {}], object), allow_pickle=True), "pickled objects"),
    (pickle.dumps(ARRAY), "pickled objects"),
    (claiming(TERABYTES), "13,194,139,533,312 bytes, and there are 64; it is damaged or was cut off"),
    (claiming((10**30, 2)), "and there are 64"),
    (claiming((-1, 3)), "its header says shape (-1, 3)"),
    (claiming((2.5, 3)), "not a readable NumPy file"),
    (claiming((4, 4), "not a type"), "not a readable NumPy file"),
]


@pytest.mark.parametrize(("content", "words"), DAMAGED)
def test_a_damaged_array_is_told_with_its_file(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    file.write_bytes(content)
    refused(data.Arrays(str(file)), f"path: {file}: ", words)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    refused(data.Arrays(str(tmp_path / "a.npz")), f"path: {tmp_path / 'a.npz'}: ", words)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 3  # in the compressed bytes
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def _encrypted(content: bytes) -> bytes:
    central = content.index(b"PK\x01\x02")
    marked = bytearray(content)
    marked[6] |= 1
    marked[central + 8] |= 1
    return bytes(marked)


def _strange_compression(content: bytes) -> bytes:
    central = content.index(b"PK\x01\x02")
    marked = bytearray(content)
    marked[8] = marked[central + 10] = 97
    return bytes(marked)


@pytest.mark.parametrize("damage", [_cut, _flipped, _encrypted, _strange_compression])
def test_a_damaged_archive_is_told_with_its_file(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file, buffer = tmp_path / "a.npz", io.BytesIO()
    np.savez_compressed(buffer, x=ARRAY)
    file.write_bytes(damage(buffer.getvalue()))
    refused(data.Arrays(str(file)), f"path: {file}: not a readable NumPy file")


def test_the_directory_of_an_archive_is_not_believed_either(tmp_path: Path) -> None:
    """A member that says 4 GB in its header and in the directory of the archive, of 200 bytes."""
    file, content = tmp_path / "a.npz", claiming((2**30 - 50,))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    raw = bytearray(file.read_bytes())
    central = raw.index(b"PK\x01\x02")
    raw[central + 24 : central + 28] = raw[22:26] = struct.pack("<I", 2**32 - 10)
    file.write_bytes(raw)
    refused(data.Arrays(str(file)), f"path: {file}: 'x': says that it holds 4,294,967,286 bytes, more than can be in")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 9) + b"not json!",
        (lambda h: struct.pack("<Q", len(h)) + h + bytes(64))(
            json.dumps({"x": {"dtype": "F32", "shape": TERABYTES, "data_offsets": [0, 13194139533312]}}).encode()
        ),
        (lambda h: struct.pack("<Q", len(h)) + h + bytes(64))(
            json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}}).encode()
        ),
    ],
)
def test_a_safetensors_header_that_lies_is_told(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    refused(data.Arrays(str(file)), f"path: {file}: not a readable safetensors file")


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png(60_000, 60_000)),  # a decompression bomb: Pillow refuses it by its size
        ("a.png", _picture("png")[:-200]),
        ("a.jpg", _picture("jpeg")[:-300]),
        ("a.gif", _picture("gif")[:100]),
        ("a.webp", _picture("webp")[:60]),
        ("a.bmp", _picture("bmp")[:90]),
        ("a.tiff", _picture("tiff")[:100]),
        ("a.png", b"%PDF-1.4 not an image"),
    ],
)
def test_a_damaged_image_is_told_with_its_file(name: str, content: bytes, in_memory: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    source = data.ImageFolder(str(tmp_path), in_memory=in_memory)
    refused(source, f"path: {tmp_path / name}: not a readable image (", "; repair or remove it")


def test_files_of_an_old_torchvision_are_told_and_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    place = tmp_path / "MNIST/processed"
    place.mkdir(parents=True)
    source = data.TorchVision("MNIST", str(tmp_path))
    for content in (pickle.dumps(Trap()), b"", b"garbage"):
        for name in ("training.pt", "test.pt"):
            (place / name).write_bytes(content)
        refused(source, f"root: {tmp_path}", "download=True")
    for name in ("training.pt", "test.pt"):
        torch.save((Trap(), torch.zeros(3)), place / name)
    refused(source, f"root: {place}: holds files of an old torchvision (.pt)", "remove that folder and download")
    for found in (
        None,
        torch.zeros(3),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3, 2, 2).byte(), torch.zeros(2)),
    ):
        for name in ("training.pt", "test.pt"):
            torch.save(found, place / name)
        refused(source, f"root: {tmp_path}: ", "download=True")
    assert not (tmp_path / "sprung").exists()
