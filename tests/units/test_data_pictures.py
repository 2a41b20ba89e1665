"""Pictures are decoded when they are asked for, of any depth and number of pages, and none is damaged in silence."""

from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFile import ImageFile

from edm_unified import data
from edm_unified.data import rows
from edm_unified.data.survey import survey
from edm_unified.recipe import Recipe
from edm_unified.recipe.suitability import notes_on_training

HOUNSFIELD = np.round(1000 + 1900 * np.sin(np.arange(3 * 4 * 5) * 0.7)).reshape(3, 4, 5)


def tiff(path: Path, array: np.ndarray) -> None:
    """A plain TIFF of one page of signed or unsigned numbers, by hand: Pillow writes not all that it reads."""
    height, width = array.shape
    raw, bits = array.astype(array.dtype.newbyteorder("<")).tobytes(), array.dtype.itemsize * 8
    form = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, len(raw)), (339, form)]  # fmt: skip
    entries = b"".join(tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags)
    head = b"II*\0" + (8 + len(raw)).to_bytes(4, "little")
    path.write_bytes(head + raw + len(tags).to_bytes(2, "little") + entries + bytes(4))


def pages(path: Path, arrays: np.ndarray) -> None:
    first, *rest = [Image.fromarray(array.astype(np.uint8)) for array in arrays]
    first.save(path, save_all=True, append_images=rest)


def refused(source: Any, *parts: str) -> None:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize("dtype", ["i2", "i4", "u4", "f4"])
def test_deep_pixels_keep_every_value_once_their_range_is_stated(tmp_path: Path, dtype: str) -> None:
    values = HOUNSFIELD[0] + (1e9 if dtype == "u4" else 0)
    tiff(tmp_path / "a.tif", values.astype(dtype))
    refused(data.ImageFolder(str(tmp_path), channels=1), "a.tif: ", "no stated range", "`range:`")
    low, high = float(values.min()) - 50, float(values.max()) + 50
    found = data.ImageFolder(str(tmp_path), channels=1, range=(low, high)).load()
    np.testing.assert_allclose(found.scaling.to_raw(found.images[0, 0].double()), values.astype(dtype), rtol=1e-6)
    refused(data.ImageFolder(str(tmp_path), channels=1, range=(low + 100, high)), "outside range", "widen it")
    with pytest.raises(ValueError, match=r"^range: must be two finite numbers"):
        data.ImageFolder(str(tmp_path), range=(3.0, 3.0))


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_pages_are_samples_or_depth_and_never_cut_off_unasked(tmp_path: Path, suffix: str) -> None:
    stack = np.arange(3 * 4 * 5).reshape(3, 4, 5) * 4
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        pages(tmp_path / name / f"a.{suffix}", stack)

    def read(pages: Literal["first", "samples", "depth"]) -> tuple[torch.Tensor, list[int]]:
        found = data.ImageFolder(str(tmp_path), channels=1, pages=pages).load()
        assert found.labels is not None
        return data.to_bytes(found.images), found.labels.tolist()

    refused(data.ImageFolder(str(tmp_path)), f"a.{suffix}: holds 3 pages", "`pages:`")
    samples, labels = read("samples")
    assert labels == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(samples[:, 0], np.concatenate([stack, stack]))
    volumes, labels = read("depth")
    assert labels == [0, 1]
    np.testing.assert_array_equal(volumes[1, 0], stack)
    np.testing.assert_array_equal(read("first")[0][:, 0], np.stack([stack[0], stack[0]]))


def test_no_picture_is_decoded_before_it_is_asked_for_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        Image.new("L", (4, 4 + i // 29), 8 * i).save(tmp_path / f"{i:02d}.png")
    decoded: list[str] = []

    def load(picture: Any) -> Any:
        decoded.append(str(picture.filename))
        return plain(picture)

    plain = ImageFile.load
    monkeypatch.setattr(ImageFile, "load", load)
    refused(data.ImageFolder(str(tmp_path), channels=1), "images differ in size", "29.png is 4x5")
    (tmp_path / "29.png").unlink()
    decoded.clear()
    found = data.ImageFolder(str(tmp_path), channels=1).load()
    assert isinstance(found.stored, rows.KeptRows)
    first = data.batch(found, torch.tensor([3, 20, 3]))[0]
    assert {Path(name).name for name in decoded} == {"00.png", "03.png", "20.png"}
    decoded.clear()
    assert torch.equal(data.batch(found, torch.tensor([3, 20, 3]))[0], first)
    assert decoded == []


def test_what_is_kept_becomes_floating_point_with_the_first_deep_picture(tmp_path: Path) -> None:
    Image.new("L", (3, 3), 100).save(tmp_path / "a.png")
    Image.fromarray(np.full((3, 3), 12345, np.uint16)).save(tmp_path / "b.png")
    kept = data.ImageFolder(str(tmp_path), channels=1).load().stored
    assert kept[torch.tensor([0])].dtype == torch.uint8
    assert kept[torch.tensor([1])].unique().tolist() == [pytest.approx(12345 / 257)]
    assert kept[torch.tensor([0, 1])][0].unique().tolist() == [100]


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_colours_of_16_bits_are_not_cut_to_8_in_silence(tmp_path: Path, suffix: str) -> None:
    values = np.full((4, 4, 3), 300, np.uint16)
    file = tmp_path / f"a.{suffix}"
    if suffix == "ppm":
        file.write_bytes(b"P6 4 4 65535\n" + values.astype(">u2").tobytes())
    elif suffix == "png":
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
        parts = [
            (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(lines)),
            (b"IEND", b""),
        ]
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    else:
        raw = values.astype("<u2").tobytes()
        tags = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 3, 226), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
                (277, 3, 1, 3), (278, 4, 1, 4), (279, 4, 1, 96)]  # fmt: skip
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        directory = struct.pack("<H", len(tags)) + entries + bytes(4)
        assert 8 + 96 + len(directory) == 218
        file.write_bytes(
            b"II*\0" + struct.pack("<I", 104) + raw + directory + bytes(8) + struct.pack("<3H", 16, 16, 16)
        )
    refused(data.ImageFolder(str(tmp_path)), f"a.{suffix}: has 16 bits in each of several channels", "save it with 8")


def test_masks_of_bytes_0_and_1_are_noticed(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (6, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "m.npy", mask)
    for i, one in enumerate(mask):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    recipe = Recipe.load("digits/edm")
    for plain in (data.Arrays(str(tmp_path / "m.npy")), data.ImageFolder(str(tmp_path), channels=1)):
        (note,) = [line for line in survey(plain.load()).problems if "0 and 1" in line]
        assert "set range: [0, 1]" in note
        assert note in notes_on_training(recipe, plain.load())
        scaled = dataclasses.replace(plain, range=(0.0, 1.0)).load()
        assert scaled.images.unique().tolist() == [-1, 1]
        assert not [line for line in survey(scaled).problems if "0 and 1" in line]
