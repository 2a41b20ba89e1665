"""EDM's augmentation (configuration F): the pipe of NVlabs/edm and ours, given the same random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nvidia import fed, modules
from torch import Tensor

from edm_unified.recipe import Recipe
from edm_unified.training import augment

(theirs,) = modules("NVlabs/edm", "training.augment")

SHARES = {"xflip": 1e8, "yflip": 1, "scale": 1, "rotate_frac": 1, "aniso": 1, "translate_frac": 1}
"""What train.py sets: each with probability p, but the x-flip is always drawn."""


def both(monkeypatch: pytest.MonkeyPatch, images: Tensor, u: Tensor, p: float) -> tuple[Any, Any]:
    """Images and labels of both pipes for the uniform numbers ``u`` (B, 15)."""
    normal = torch.special.ndtri(u).float()
    f, n = u.float(), len(u)

    def column(i: int) -> Tensor:
        return f[:, i].reshape(n, 1, 1, 1)

    def coin(i: int) -> Tensor:
        return (u[:, i] >= 0.5).long().reshape(n, 1, 1, 1)

    draws = [
        coin(6), column(0), coin(7), column(1),
        normal[:, 8], f[:, 2], f[:, 9], f[:, 3],
        normal[:, 11], f[:, 10], f[:, 4], f[:, 14],
        normal[:, 12:14].T, f[None, :, 5],
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        fed(patch, draws, "rand", "randn", "randint")
        wanted = theirs.AugmentPipe(p=p, **SHARES)(images)
    return augment.EDM(p).transform(images, u), wanted


def smooth(rows: int, side: int) -> Tensor:
    """Pictures whose finest detail is some pixels wide, with a border that does not show."""
    x = torch.randn(rows, 3, side, side)
    for axis in (2, 3):
        for _ in range(4):
            x = (x + x.roll(1, axis) + x.roll(-1, axis)) / 3
    return x / x.std()


@pytest.mark.parametrize("p", [0.12, 1.0])
def test_labels(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    (_, found), (_, wanted) = both(monkeypatch, torch.zeros(300, 3, 8, 8), augment.numbers(3, 0, 300), p)
    assert wanted.shape == (300, 9)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_shares_and_ranges() -> None:
    """Two samples of labels of 20 000 images: each has the other's share of zeros, mean, deviation and extremes."""
    images, p = torch.zeros(20_000, 1, 8, 8), 0.12
    _, wanted = theirs.AugmentPipe(p=p, **SHARES)(images)
    _, found = augment.EDM(p).apply(images, seed=0)
    for i in range(9):
        a, b = found[:, i], wanted[:, i]
        assert abs(float((a != 0).float().mean() - (b != 0).float().mean())) < 5 * (0.5 / 20_000) ** 0.5
        a, b = a[a != 0], b[b != 0]
        error = 5 * float(b.std()) * (2 / len(b)) ** 0.5
        assert abs(float(a.mean() - b.mean())) <= error, i
        assert abs(float(a.std() - b.std())) <= error, i
    sideways = (found[:, 5] != 0) & (found[:, 6] == 0)
    assert abs(int(sideways.sum()) - int(((wanted[:, 5] != 0) & (wanted[:, 6].abs() < 1e-9)).sum())) < 250


@pytest.mark.parametrize("p", [0.12, 1.0])
def test_images(monkeypatch: pytest.MonkeyPatch, p: float) -> None:
    """Equal where the source is in the picture. Beyond, theirs goes on as one mirror image and then as zeros."""
    side, rows = 32, 256
    u = augment.numbers(1, 0, rows)
    u[:, 8:14] = 0.5 + 0.3 * (u[:, 8:14] - 0.5)  # no transformation reaches far beyond the border
    (found, _), (wanted, _) = both(monkeypatch, smooth(rows, side), u, p)
    inner = (..., slice(8, -8), slice(8, -8))
    assert (found - wanted)[inner].abs().max() < 2e-5
    share = ((found - wanted).abs() > 1e-3).float().mean()
    assert share < 0.02


def test_the_same_probability_in_the_recipes() -> None:
    for name, p in {"cifar10_f_vp": 0.12, "ffhq64_ve": 0.15, "afhqv2_64_vp": 0.15}.items():
        training = Recipe.load(f"train/{name}").training
        assert training is not None
        assert training.augment == augment.EDM(p)
