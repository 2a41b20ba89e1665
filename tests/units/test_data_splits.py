"""Data with parts of their own: a share of the training part is held out, and the other parts are left whole."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edm_unified.data import CelebA, HuggingFace, ImageFolder, ImageNet, TorchVision

N = 40


def paint(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(file)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


def folder(top: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for i in range(N):
        paint(top / "train" / "a" / f"{i:08}.png", i)
        paint(top / "val" / "a" / f"{i:08}.png", 100 + i)
    return lambda **more: ImageFolder(str(top), **more)


def imagenet(top: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for i in range(N):
        paint(top / "train" / "n01000000" / f"{i}.png", i)
        paint(top / "val" / "n01000000" / f"{i}.png", 100 + i)
    return lambda **more: ImageNet(str(top), size=4, **more)


def celeba(top: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for i in range(2 * N):
        paint(top / "celeba" / "img_align_celeba" / f"{i:06}.png", i % N + 100 * (i >= N))
    lines = [f"{i:06}.png {int(i >= N)}\n" for i in range(2 * N)]
    (top / "celeba" / "list_eval_partition.txt").write_text("".join(lines))
    names = {"val": "valid", None: "train"}
    return lambda split=None, **more: CelebA(str(top), 4, names.get(split, split), **more)  # type: ignore[arg-type]


def mnist(top: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    raw = top / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, first in (("train", 0), ("t10k", 100)):
        shades = np.arange(first, first + N, dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(np.tile(shades[:, None, None], (1, 28, 28))))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(shades % 10))
    names = {"val": "test"}
    return lambda split=None, **more: TorchVision("MNIST", str(top), split=names.get(split, split), **more)


class Table:
    """As much of a table of the datasets library as is used."""

    column_names, features = ("image",), types.MappingProxyType({"image": None})

    def __init__(self, first: int) -> None:
        self._images = [Image.new("RGB", (4, 4), (first + i,) * 3) for i in range(N)]

    def __len__(self) -> int:
        return N

    def __getitem__(self, rows: list[int]) -> dict[str, Any]:
        return {"image": [self._images[i] for i in rows]}


def hugging_face(top: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    tables = {"train": Table(0), "val": Table(100)}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_from_disk=lambda path: tables))
    return lambda **more: HuggingFace(str(top), label=None, **more)


@pytest.mark.parametrize("make", [folder, imagenet, celeba, mnist, hugging_face])
def test_a_share_of_the_training_part_alone_is_held_out(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path, monkeypatch)

    def shades(**more: Any) -> list[int]:
        found = source(**more).load().images[:, 0, 0, 0]
        return sorted((found * 127.5 + 127.5).round().int().tolist())

    assert shades(split="train") == list(range(N))
    assert shades(split="val") == shades(split="val", holdout=0.3) == list(range(100, 100 + N))
    rest, held = shades(holdout=0.3), shades(holdout=0.3, split="held_out")
    assert min(len(rest), len(held)) > N // 10
    assert sorted(rest + held) == list(range(N))
    assert shades(holdout=0.3, holdout_seed=1) != rest
    with pytest.raises(ValueError, match="split: held_out: nothing is held out"):
        source(split="held_out")


def test_the_two_names_of_a_part_may_not_differ() -> None:
    with pytest.raises(ValueError, match="split: train: train: false names the other part already"):
        TorchVision("MNIST", "data", train=False, split="train")
