"""The augmentation of EDM's configuration F: geometry against independent oracles, and labels as published."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from edm_unified.training import augment
from edm_unified.training.augment import EDM

GATE = {"x_flip": 0, "y_flip": 1, "scaling": 2, "rotation": 3, "anisotropy": 4, "translation": 5}


def uniforms(rows: int = 1, seed: int = 0) -> Tensor:
    return augment.numbers(seed, 0, rows)


def alone(name: str, p: float = 1.0) -> EDM:
    return EDM(p, **{other: other == name for other in GATE})


def wave(points: Tensor) -> Tensor:
    """A smooth picture of any point (x, y) in pixels."""
    x, y = points.unbind(-1)
    return torch.sin(2 * math.pi * x / 42 + 0.3) * torch.cos(2 * math.pi * y / 34) + 0.5 * torch.cos(x / 9)


def lattice(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    return torch.stack([x, y], -1)


def test_the_filter_is_an_orthonormal_symlet() -> None:
    """Sum √2, orthogonal to its even shifts, six vanishing moments of its high-pass: what defines sym6 up to order."""
    taps = torch.tensor(augment.SYM6, dtype=torch.float64)
    assert abs(float(taps.sum()) - math.sqrt(2)) < 1e-12
    for k in range(6):
        assert abs(float(taps[2 * k :] @ taps[: 12 - 2 * k]) - (k == 0)) < 1e-12
    n = torch.arange(12, dtype=torch.float64)
    for m in range(6):
        assert abs(float((taps * (-1) ** n) @ (n / 12) ** m)) < 1e-11


def test_nothing_done_is_nothing_changed() -> None:
    images = torch.randn(70, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    same, labels = EDM(p=0).apply(images, seed=5)
    assert torch.equal(same, images)
    assert labels.shape == (70, 9)
    assert not labels.any()
    found, labels = EDM(p=0.12, always_x_flip=False).apply(images, seed=5)
    untouched = ~labels.any(1)
    assert 10 < int(untouched.sum()) < 60  # 0.88⁶ and a little more: half of the gated flips do nothing
    assert torch.equal(found[untouched], images[untouched])
    assert all(not torch.equal(found[i], images[i]) for i in (~untouched).nonzero()[:, 0].tolist())


def test_filtering_without_moving_changes_nothing() -> None:
    """Doubling and halving by an orthonormal filter is the identity, borders included."""
    images = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    still = augment.resample(images, torch.eye(2, dtype=torch.float64).expand(2, 2, 2), torch.zeros(2, 2).double())
    torch.testing.assert_close(still, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "axis", "label"), [("x_flip", 3, 0), ("y_flip", 2, 1)])
def test_flips_move_pixels_exactly(name: str, axis: int, label: int) -> None:
    images = torch.randn(64, 1, 8, 11, generator=torch.Generator().manual_seed(0))
    found, labels = alone(name).apply(images, 0)
    flipped = labels[:, label] == 1
    assert 16 < int(flipped.sum()) < 48
    assert not labels[:, [i for i in range(9) if i != label]].any()
    assert torch.equal(found[flipped], images.flip(axis)[flipped])
    assert torch.equal(found[~flipped], images[~flipped])


@pytest.mark.parametrize("name", ["scaling", "rotation", "translation"])
def test_each_alone_is_torchvisions_affine_map(name: str) -> None:
    """On a smooth picture the two differ by their filters alone: a bilinear one errs by (2π/34)²/8 on each axis."""
    height, width = 40, 56
    image = wave(lattice(height, width))[None, None].float()
    u = uniforms(seed=3)
    found, label = alone(name).transform(image, u)
    a = label[0].double()
    angle, shift, scale = 0.0, [0.0, 0.0], 1.0
    if name == "scaling":
        scale = 2 ** (0.2 * float(a[2]))
    elif name == "rotation":
        angle = -math.degrees(math.atan2(float(a[4]), float(a[3]) + 1))  # torchvision's affine turns clockwise
    else:
        shift = [float(a[7]) * width / 8, float(a[8]) * height / 8]
    assert label.count_nonzero() == {"scaling": 1, "rotation": 2, "translation": 2}[name]
    # torchvision takes whole pixels for the shift, and black beyond the border: compare where the source is inside
    whole = [round(s) for s in shift]
    picture = reference.affine(image, angle, whole, scale, [0.0, 0.0], InterpolationMode.BILINEAR)
    inside = reference.affine(torch.ones_like(image), angle, whole, scale, [0.0, 0.0], InterpolationMode.BILINEAR) == 1
    if name == "translation":
        moved = [s / side * 8 for s, side in zip(whole, (width, height), strict=True)]
        u = u.clone()
        u[0, 12:14] = torch.special.ndtr(torch.tensor(moved, dtype=torch.float64))
        found, _ = alone(name).transform(image, u)
    assert inside.float().mean() > 0.4
    assert (found - picture).abs()[inside].max() < 0.03


def test_all_together_are_the_published_product_of_matrices() -> None:
    """The picture is a formula, so the moved picture is too: the formula at the source of every pixel."""
    height, width = 40, 56
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    image = wave(lattice(height, width))[None, None].float()
    checked = 0
    for seed in range(6):
        u = uniforms(seed=seed)
        found, labels = EDM(p=1.0).transform(image, u)
        a = labels[0].double()
        angle = math.pi * (2 * u[0, 10] - 1) * (u[0, 14] < 0.5)  # a_4
        strength = torch.special.ndtri(u[0, 11])  # a_5
        turn = torch.tensor([[a[3] + 1, a[4]], [-a[4], a[3] + 1]])
        c, d = angle.cos(), angle.sin()
        direction = torch.stack([torch.stack([c, d]), torch.stack([-d, c])])
        stretch = direction @ torch.diag(torch.stack([2 ** (0.2 * strength), 2 ** (-0.2 * strength)])) @ direction.mT
        forward = stretch @ turn.double() * 2 ** (0.2 * a[2])
        offset = torch.stack([a[7] * width / 8, a[8] * height / 8])
        source = (lattice(height, width) - centre - offset) @ torch.linalg.inv(forward).mT + centre
        inside = ((source > 4) & (source < 2 * centre - 4)).all(-1)  # off the kink at the mirror
        source = torch.where(labels[0, :2] == 1, 2 * centre - source, source)  # the flips come first
        assert (found[0, 0] - wave(source)).abs()[inside].max() < 0.04  # up to a tenth of a pixel off, see DELAY
        checked += int(inside.sum())
    assert checked > 3000


def test_labels_are_those_of_the_paper() -> None:
    """The last column of the table of the module, from the random numbers themselves."""
    rows = uniforms(500, seed=1)
    _, labels = EDM(p=1.0).transform(torch.zeros(500, 1, 8, 8), rows)
    u = rows[:, 6:]
    normal = torch.special.ndtri(u)
    angle = (2 * u - 1) * math.pi
    angle[:, 4] *= u[:, 8] < 0.5
    expected = [
        (u[:, 0] >= 0.5).double(), (u[:, 1] >= 0.5).double(), normal[:, 2],
        angle[:, 3].cos() - 1, angle[:, 3].sin(),
        normal[:, 5] * angle[:, 4].cos(), normal[:, 5] * angle[:, 4].sin(),
        normal[:, 6], normal[:, 7],
    ]  # fmt: skip
    torch.testing.assert_close(labels, torch.stack(expected, 1).float())


def test_shares_of_what_is_done() -> None:
    _, labels = EDM(p=0.2).apply(torch.zeros(4000, 1, 8, 8), 0)
    done = torch.stack([labels[:, i] != 0 for i in (0, 1, 2, 4, 5, 7)], 1).double().mean(0)
    expected = torch.tensor([0.5, 0.1, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)  # a flip is a coin after its gate
    assert ((done - expected).abs() < 5 * (expected * (1 - expected) / 4000).sqrt()).all()
    _, gated = EDM(p=0.2, always_x_flip=False).apply(torch.zeros(4000, 1, 8, 8), 0)
    assert abs(float((gated[:, 0] != 0).double().mean()) - 0.1) < 5 * math.sqrt(0.09 / 4000)
    _, off = EDM(p=0.2, x_flip=False, rotation=False).apply(torch.zeros(64, 1, 8, 8), 0)
    assert not off[:, [0, 3, 4]].any()


@pytest.mark.parametrize("ranks", [2, 5])
def test_a_row_is_the_same_on_any_rank(ranks: int) -> None:
    images = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, labels = EDM(p=0.5).apply(images, 9)
    share = 100 // ranks
    for rank in range(ranks):
        mine = slice(rank * share, (rank + 1) * share)
        part, own = EDM(p=0.5).apply(images[mine], 9, first=rank * share)
        assert torch.equal(own, labels[mine])
        torch.testing.assert_close(part, whole[mine], atol=1e-6, rtol=0)
    assert not torch.equal(EDM(p=0.5).apply(images, 10)[1], labels)


def test_wrong_input() -> None:
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"^p: must lie in \[0, 1\]"):
            EDM(p)
    for shape in ((2, 5), (2, 1, 7, 9), (2, 1, 64)):
        with pytest.raises(ValueError, match=r"^training.augment: needs images of at least 8x8, got samples of"):
            EDM().apply(torch.zeros(shape), 0)


def test_mirroring_tells_nothing_and_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(400 * 3 * 8 * 8, dtype=torch.float32).view(400, 3, 8, 8)
    found, labels = augment.Mirror().apply(images, seed=3)
    assert labels.shape == (400, 0)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~mirrored], images[~mirrored])
    assert 150 < int(mirrored.sum()) < 250  # five standard deviations
    rest, _ = augment.Mirror().apply(images[100:], seed=3, first=100)
    assert torch.equal(rest, found[100:])
    assert torch.equal(augment.Mirror(p=0.0).apply(images, seed=3)[0], images)


def test_mirroring_wants_images() -> None:
    with pytest.raises(ValueError, match="augment: needs images"):
        augment.Mirror().apply(torch.zeros(4, 2), seed=0)
