"""Sources of data: what they return, and one clear line for everything that cannot be read."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import datasets

from edm_unified import exact
from edm_unified.data import Arrays, Dataset, Digits, ImageFolder, TorchVision
from edm_unified.recipe import denoisers


def refused(source: Any, *parts: str) -> None:
    """``load()`` raises one line that holds all of ``parts``."""
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        source.load()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_digits() -> None:
    data = Digits().load()
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels is not None
    assert data.labels.dtype == torch.long
    assert (float(data.images.min()), float(data.images.max())) == (-1, 1)
    assert (data.images * 8 == (data.images * 8).round()).all()  # the 17 grey levels, exactly
    assert sorted(data.labels.unique().tolist()) == list(range(10))


# -- folders of images ------------------------------------------------------------------------------------------------


def paint(path: Path, size: tuple[int, int], colour: Any, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def test_folders_are_classes_and_images_keep_their_rectangle(tmp_path: Path) -> None:
    paint(tmp_path / "cat" / "deep" / "b.png", (5, 3), (255, 0, 51))
    paint(tmp_path / "ant" / "a.bmp", (5, 3), (0, 255, 0))
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    data = ImageFolder(str(tmp_path)).load()
    assert data.images.shape == (2, 3, 3, 5)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1]  # ant, cat
    torch.testing.assert_close(data.images[1, :, 0, 0], torch.tensor([1.0, -1.0, -0.6]))
    assert data.name == tmp_path.name
    grey = ImageFolder(str(tmp_path), channels=1).load()
    assert grey.images.shape == (2, 1, 3, 5)


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", (4, 4), 0, "L")
    paint(tmp_path / "sub" / "b.png", (4, 4), 255, "L")
    data = ImageFolder(str(tmp_path), channels=1).load()
    assert data.labels is None
    assert data.images.flatten(1).mean(1).tolist() == [-1, 1]


def test_size_covers_and_crops_about_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 255  # the middle third is white
    Image.fromarray(wide).save(tmp_path / "a.png")
    paint(tmp_path / "b.png", (7, 30), 255, "L")
    data = ImageFolder(str(tmp_path), size=4, channels=1).load()
    assert data.images.shape == (2, 1, 4, 4)
    assert (data.images == 1).all()
    assert ImageFolder(str(tmp_path), size=(6, 2), channels=1).load().images.shape == (2, 1, 6, 2)


def test_sixteen_bits_transparency_and_orientation(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 32768, np.uint16)).save(tmp_path / "a.png")
    paint(tmp_path / "b.png", (2, 2), (0, 0, 0, 0), "RGBA")  # transparent: white behind it
    images = ImageFolder(str(tmp_path)).load().images
    torch.testing.assert_close(images[0], torch.full((3, 2, 2), 32768 / 65535 * 2 - 1))
    assert (images[1] == 1).all()
    turned = Image.new("L", (3, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown turned by a quarter
    (tmp_path / "one").mkdir()
    turned.save(tmp_path / "one" / "c.jpg", exif=exif)
    assert ImageFolder(str(tmp_path / "one")).load().images.shape[2:] == (3, 2)


def test_bad_folders(tmp_path: Path) -> None:
    refused(ImageFolder(str(tmp_path / "none")), "path: ", "no such folder")
    refused(ImageFolder(str(tmp_path)), "path: ", "no image in this folder")
    first = paint(tmp_path / "a.png", (4, 4), 0, "L")
    refused(ImageFolder(str(first)), "path: ", "a file, not a folder")
    other = paint(tmp_path / "b.png", (5, 4), 0, "L")
    refused(ImageFolder(str(tmp_path)), "images differ in size", f"{first} is 4x4", f"{other} is 5x4", "`size:`")
    whole = other.read_bytes()
    for content in (b"", b"not an image", whole[:20], whole[: len(whole) // 2]):
        other.write_bytes(content)
        refused(ImageFolder(str(tmp_path)), f"path: {other}: not a readable image", "repair or remove it")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "b.tif")
    other.unlink()
    refused(ImageFolder(str(tmp_path)), "b.tif: floating-point pixels")
    for wrong in (0, -3, (4, 0)):
        with pytest.raises(ValueError, match=r"^size: must be a whole number"):
            ImageFolder(str(tmp_path), size=wrong)
    with pytest.raises(ValueError, match=r"^channels: must be one of 1, 3"):
        ImageFolder(str(tmp_path), channels=2)  # type: ignore[arg-type]


# -- arrays -----------------------------------------------------------------------------------------------------------

BYTES = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)


def write(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, next(iter(arrays.values())))
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_bytes_and_layouts(tmp_path: Path, suffix: str) -> None:
    expected = torch.from_numpy(BYTES).float() / 127.5 - 1
    for array, shape in ((BYTES, (2, 3, 4, 5)), (np.moveaxis(BYTES, 1, 3), (2, 3, 4, 5)), (BYTES[:, 0], (2, 1, 4, 5))):
        data = Arrays(str(write(tmp_path / f"a{suffix}", images=array))).load()
        assert data.images.shape == shape
        assert data.images.dtype == torch.float32
        torch.testing.assert_close(data.images, expected[:, : shape[1]])
        assert data.labels is None
        assert data.name == "a"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_keys_and_labels(tmp_path: Path, suffix: str) -> None:
    file = str(write(tmp_path / f"a{suffix}", images=BYTES, classes=np.array([4, 2]), weights=np.ones(2)))
    data = Arrays(file, key="images", label_key="classes").load()
    assert data.labels is not None
    assert data.labels.tolist() == [4, 2]
    assert data.labels.dtype == torch.long
    refused(Arrays(file), "key: ", "several arrays (classes, images, weights)", file)
    refused(Arrays(file, key="image"), "key: ", "did you mean 'images'?")
    refused(Arrays(file, key="zzz"), "key: ", "it has classes, images, weights")
    refused(Arrays(file, key="images", label_key="clases"), "label_key: ", "did you mean 'classes'?")
    refused(Arrays(file, key="images", label_key="weights"), "label_key: ", "must hold 2 whole numbers")
    two = str(write(tmp_path / f"b{suffix}", x=BYTES, y=np.array([0, 1])))
    assert Arrays(two, label_key="y").load().images.shape == BYTES.shape  # one array is left, so it needs no key


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    """Arrays written on a big-endian machine, which torch does not take as they are."""
    values = np.linspace(-1, 1, 48).reshape(3, 1, 4, 4)
    np.save(tmp_path / "big.npy", values.astype(">f4"))
    found = Arrays(str(tmp_path / "big.npy")).load()
    torch.testing.assert_close(found.images, torch.from_numpy(values.astype(np.float32)))


def test_floats_need_a_stated_range(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 32, dtype=np.float64).reshape(2, 1, 4, 4)
    file = str(write(tmp_path / "a.npy", a=unit))
    data = Arrays(file, range=(0, 1)).load().images
    torch.testing.assert_close(data, torch.from_numpy(unit).float() * 2 - 1)
    refused(Arrays(file), "no value below 0", "`range: [0, 1]`")  # far more likely [0, 1] than [-1, 1]
    torch.testing.assert_close(Arrays(file, range=(-1, 1)).load().images, torch.from_numpy(unit).float())
    signed = str(write(tmp_path / "s.npy", a=unit - 0.5))
    torch.testing.assert_close(Arrays(signed).load().images, torch.from_numpy(unit - 0.5).float())
    refused(Arrays(str(write(tmp_path / "b.npy", a=unit * 255))), "must lie in [-1, 1]", "0 to 255", "`range:`")
    vectors = 40 * np.ones((3, 7), np.float16)
    assert (Arrays(str(write(tmp_path / "c.npy", a=vectors))).load().images == 40).all()
    half = torch.tensor([[0.5, -1.5]], dtype=torch.bfloat16)
    save_file({"x": half}, tmp_path / "d.safetensors")
    assert torch.equal(Arrays(str(tmp_path / "d.safetensors")).load().images, half.float())
    for bad in ((1.0, 0.0), (0.0, float("nan")), (1.0, 1.0)):
        with pytest.raises(ValueError, match=r"^range: must be two finite numbers"):
            Arrays(file, range=bad)


def test_bad_arrays(tmp_path: Path) -> None:
    def npy(array: np.ndarray) -> Arrays:
        return Arrays(str(write(tmp_path / "x.npy", a=array)))

    refused(Arrays(str(tmp_path / "none.npy")), "path: ", "no such file")
    refused(Arrays(str(tmp_path)), "path: ", "is a folder")
    (tmp_path / "a.txt").write_text("1 2 3")
    refused(Arrays(str(tmp_path / "a.txt")), "cannot read '.txt'", "use .npy")
    refused(npy(np.zeros((2, 3), np.uint64)), "whole numbers or floating-point", "got uint64")
    refused(npy(np.zeros((2, 3), np.complex64)), "got complex64")
    if np.dtype(np.longdouble).itemsize > 8:
        refused(npy(np.zeros((2, 3), np.longdouble)), "path: ", f"got {np.dtype(np.longdouble)}; convert it first")
    refused(npy(np.zeros(5)), "got shape (5,)")
    refused(npy(np.zeros((0, 3))), "got shape (0, 3)")
    refused(npy(np.array([[0.0, 1.0], [np.nan, 1.0]])), "NaN", "sample 1")
    refused(npy(np.array([[0.0, 1e300]])), "overflow of float32", "sample 0")
    refused(Arrays(str(write(tmp_path / "x.npy", a=BYTES)), key="a"), "key: ", "leave it out")
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(Arrays(str(tmp_path / "o.npy")), "pickled objects")
    np.savez(tmp_path / "o.npz", a=np.array([{"a": 1}], dtype=object))
    refused(Arrays(str(tmp_path / "o.npz")), "pickled objects")
    for suffix in (".npy", ".npz", ".safetensors"):
        whole = write(tmp_path / f"w{suffix}", a=BYTES).read_bytes()
        for content in (b"", b"junk that is no array", whole[:30], whole[: len(whole) // 2]):
            (tmp_path / f"w{suffix}").write_bytes(content)
            refused(
                Arrays(str(tmp_path / f"w{suffix}")),
                f"path: {tmp_path / f'w{suffix}'}",
                "readable" if content[:4] != b"junk" else "path",
            )
    damaged = bytearray(write(tmp_path / "z.npz", a=BYTES).read_bytes())
    damaged[150] ^= 255  # inside the stored array: the checksum of the archive finds it
    (tmp_path / "z.npz").write_bytes(damaged)
    refused(Arrays(str(tmp_path / "z.npz")), "not a readable NumPy file")


def test_safetensors_that_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    save_file({"x": torch.zeros(2, 3).to(torch.float8_e4m3fn), "y": torch.zeros(2, 3)}, file)
    refused(Arrays(str(file), key="x"), f"key: {file}: 'x' holds F8_E4M3, which is not read; store it as float32")
    refused(Arrays(str(file), key="y", label_key="x"), f"label_key: {file}: 'x' holds F8_E4M3")
    assert Arrays(str(file), key="y").load().images.shape == (2, 3)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32])
def test_labels_are_bounded(tmp_path: Path, kind: Any) -> None:
    def arrays(label: int) -> Arrays:
        file = write(tmp_path / "l.npz", images=BYTES, classes=np.array([0, label], kind))
        return Arrays(str(file), key="images", label_key="classes")

    assert arrays(999_999).load().classes == 1_000_000
    wrong = int(np.iinfo(kind).max)
    refused(arrays(wrong), "label_key: ", f"below 1,000,000, got {wrong} for sample 1; number the classes from 0")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "t.npy").write_bytes(pickle.dumps(Trap()))
    refused(Arrays(str(tmp_path / "t.npy")), "pickled objects")
    assert not (tmp_path / "sprung").exists()


# -- torchvision ------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST: magic 0x08 (unsigned byte), number of axes, sizes, bytes."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_on_disk(tmp_path: Path, name: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    raw = tmp_path / name / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.array([3, 1, 4, 1], np.uint8)))
    for train in (True, False):
        data = TorchVision(name, str(tmp_path), train).load()
        torch.testing.assert_close(data.images, torch.from_numpy(images)[:, None].float() / 127.5 - 1)
        assert data.labels is not None
        assert data.labels.tolist() == [3, 1, 4, 1]
    (raw / "train-images-idx3-ubyte").write_bytes(b"short")
    refused(TorchVision(name, str(tmp_path)), "root: ", name, "download=True")


def test_cifar_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of our own under the names of the real ones; their checksums replace torchvision's list."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)

    def put(file: str, content: Any) -> tuple[str, str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return file, hashlib.md5((folder / file).read_bytes()).hexdigest()

    batch = {"data": pixels.reshape(2, -1), "labels": [7, 0]}
    listed = [put(file, batch) for file, _ in datasets.CIFAR10.train_list]
    names, checksum = put("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", listed)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", listed[:1])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": names, "key": "label_names", "md5": checksum})
    data = TorchVision("CIFAR10", str(tmp_path)).load()
    assert data.images.shape == (10, 3, 32, 32)
    torch.testing.assert_close(data.images[:2], torch.from_numpy(pixels).float() / 127.5 - 1)
    assert data.labels is not None
    assert data.labels.tolist() == [7, 0] * 5
    assert TorchVision("CIFAR10", str(tmp_path), train=False).load().images.shape[0] == 2
    (folder / listed[0][0]).write_bytes(b"damaged")
    refused(TorchVision("CIFAR10", str(tmp_path)), "root: ", "not there or damaged", "download=True")


def test_torchvision_has_three_names() -> None:
    with pytest.raises(ValueError, match="name: unknown 'CIFAR100'; did you mean 'CIFAR10'"):
        TorchVision("CIFAR100", "data")  # type: ignore[arg-type]


def test_torchvision_that_is_not_there(tmp_path: Path) -> None:
    for name in ("MNIST", "FashionMNIST", "CIFAR10"):
        refused(TorchVision(name, str(tmp_path)), f"root: {tmp_path}", name, "download=True")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []  # nothing was made or fetched


# -- denoisers of recipes ---------------------------------------------------------------------------------------------


def test_recipe_gaussian_has_the_moments_of_the_data() -> None:
    data = Digits().load()
    rows = data.images.double().flatten(1)
    full = denoisers.Gaussian(floor=0.01).build(data)
    variances, _ = full.variances.sort(descending=True)
    torch.testing.assert_close(full.mean.flatten(), rows.mean(0))
    torch.testing.assert_close(variances.sum(), rows.var(0, correction=0).sum() + 0.64)
    low = denoisers.Gaussian(rank=20, floor=0.01).build(data)
    kept, _ = low.variances.sort(descending=True)
    torch.testing.assert_close(kept[:20], variances[:20])
    torch.testing.assert_close(kept.sum(), variances.sum())
    every = denoisers.Gaussian(rank=64, floor=0.01).build(data)
    x = full.sample(3, seed=1, sigma=0.5)
    torch.testing.assert_close(every(x, 0.5), full(x, 0.5))


def test_recipe_mixture_of_digits() -> None:
    """Each class looks like itself: a classifier by class densities gets fresh draws and held-out digits right."""
    data = Digits().load()
    assert data.labels is not None
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, test = order[:1400], order[1400:]
    D = denoisers.GaussianMixture().build(Dataset(data.images[train], data.labels[train], "digits"))
    assert isinstance(D, exact.GaussianMixture)
    assert D.shape == (1, 8, 8)
    by_class = torch.stack([D.log_prob(data.images[test], 0.0, label=c) for c in range(10)], 1)
    assert (by_class.argmax(1) == data.labels[test]).float().mean() > 0.95
    label = torch.arange(10).repeat(40)
    by_class = torch.stack([D.log_prob(D.sample(400, label=label), 0.0, label=c) for c in range(10)], 1)
    assert (by_class.argmax(1) == label).float().mean() > 0.95
    held_out = D.log_prob(data.images[test], 0.0).mean()
    single = denoisers.GaussianMixture(1, rank=None).build(Dataset(data.images[train], None, "digits"))
    assert held_out > single.log_prob(data.images[test], 0.0).mean()


def test_recipe_mixture_without_classes_and_empirical() -> None:
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    D = denoisers.GaussianMixture(2, "diag").build(Dataset(vectors, None, "v"))
    assert D.covs.shape == (2, 3)
    E = denoisers.Empirical().build(Dataset(vectors, torch.arange(50) % 2, "v"))
    assert E(vectors.double(), 1e-6, label=torch.arange(50) % 2).allclose(vectors.double())
    for bad in ({"components_per_class": 0}, {"floor": 0.0}, {"rank": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}: must be"):
            denoisers.GaussianMixture(**bad)  # type: ignore[arg-type]
