"""Zips, tars, tables and the files of published sets: read where they lie, told by their contents, nothing executed."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.io import savemat

from edm_unified import data
from edm_unified.cli import main
from edm_unified.data import recognised
from edm_unified.recipe import RecipeError, parse_component, parse_data

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
FIRST = PIXELS.transpose(0, 3, 1, 2)
Y = np.arange(12) % 3


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def refused(source: Any, *parts: str) -> None:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def same(source: Any, expected: np.ndarray = FIRST, labels: np.ndarray | None = Y) -> data.Dataset:
    """The samples by index, in any order and repeated, in the units of the file; and their classes."""
    found, chosen = source.load(), torch.tensor([5, 0, 5, 11])
    samples, classes = data.batch(found, chosen)
    np.testing.assert_allclose(found.scaling.to_raw(samples.double()), expected[chosen], atol=1e-4)
    assert (None if classes is None else classes.tolist()) == (None if labels is None else labels[chosen].tolist())
    return found


# -- zips and tars ----------------------------------------------------------------------------------------------------


def test_the_zips_of_edm(tmp_path: Path) -> None:
    file = tmp_path / "set.zip"
    names = [f"{i // 8:05d}/img{i:08d}.png" for i in range(12)]
    with zipfile.ZipFile(file, "w") as archive:
        for name, pixels in zip(names, PIXELS, strict=True):
            archive.writestr(name, png(pixels))
        archive.writestr("dataset.json", json.dumps({"labels": [[n, int(y)] for n, y in zip(names, Y, strict=True)]}))
    source = recognised(str(file))
    assert source == data.ImageZip(str(file))
    assert "dataset.json" in same(source).notes[0]
    raw = bytearray(file.read_bytes())
    raw[120] ^= 255  # in the first picture
    file.write_bytes(raw)
    refused(source, f"path: {file}: {names[0]}: not a readable member of the archive")
    with zipfile.ZipFile(file, "w") as archive:  # of one folder, with folders in it
        for i, pixels in enumerate(PIXELS):
            archive.writestr(f"all/{'abc'[i // 4]}/{i:02d}.png", png(pixels))
    assert same(source, labels=np.arange(12) // 4).class_names == ("a", "b", "c")


def tar(file: Path, samples: Mapping[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, content in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_the_tars_of_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for i in range(6 * shard, 6 * shard + 6):
            members[f"./a.b/{i:04d}.png"] = png(PIXELS[i])
            members[f"./a.b/{i:04d}.cls"] = str(Y[i]).encode()
            members[f"./a.b/{i:04d}.json"] = json.dumps({"what": {"label": "xyz"[Y[i]]}}).encode()
        tar(tmp_path / f"train-{shard:03d}.tar", members)
    assert isinstance(recognised(str(tmp_path)), data.WebDataset)
    same(recognised(str(tmp_path)))
    pattern = str(tmp_path / "train-{000..001}.tar")
    assert same(data.WebDataset(pattern, label="json.what.label")).class_names == ("x", "y", "z")
    refused(
        data.WebDataset(pattern, label="json.who"), "label: ", "000.tar: ./a.b/0000.json: holds no class under 'who'"
    )
    file = tmp_path / "train-000.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[:1600])
    refused(data.WebDataset(str(file)), f"path: {file}: ")
    file.write_bytes(gzip.compress(whole))
    refused(data.WebDataset(str(file)), "is compressed as a whole; unpack it once with gunzip")
    buffer: dict[str, bytes] = {}
    for i, values in enumerate(FIRST):
        one = io.BytesIO()
        np.save(one, values.astype(np.float32) / 255)
        buffer[f"{i}.npy"] = one.getvalue()
    tar(file, buffer)
    same(data.WebDataset(str(file), range=(0, 1)), FIRST / 255, None)
    one = io.BytesIO()
    np.save(one, np.array([{}], object), allow_pickle=True)
    tar(file, {"0.npy": one.getvalue()})
    refused(data.WebDataset(str(file)), f"path: {file}: 0.npy: holds pickled objects")


# -- tables -----------------------------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra formats")
    pq = pytest.importorskip("pyarrow.parquet")
    about = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": png(p), "path": None} for p in PIXELS], "label": Y.tolist()})
    file = str(tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), file, row_group_size=5)
    assert same(recognised(str(tmp_path))).class_names == ("a", "b", "c")
    same(data.Parquet(file, label="none"), labels=None)
    refused(data.Parquet(file, image="imge"), "image: unknown 'imge'; did you mean 'image'?")
    nested = pa.table({"x": FIRST.astype(np.float32).tolist(), "y": list("xyz") * 4})
    pq.write_table(nested, file, row_group_size=5)
    same(data.Parquet(file, range=(0, 255)), labels=Y)
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0]] * 6}), file)
    refused(data.Parquet(file), "row 0 of group 0: 'x': its lists are not all of shape (2,)")
    Path(file).write_bytes(b"PAR1" + bytes(99))
    refused(recognised(file), f"path: {file}: not a readable Parquet table")


def test_array_columns_of_save_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    datasets.disable_progress_bars()
    unit = (FIRST / 255).astype(np.float32)
    features = datasets.Features({"image": datasets.Array3D((3, 4, 5), "float32"), "label": datasets.Value("int64")})
    made = datasets.Dataset.from_dict({"image": list(unit), "label": Y.tolist()}, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    refused(recognised(str(tmp_path / "saved")), "'image': images have no value below 0", "`range: [0, 1]`")
    same(data.HuggingFace(str(tmp_path / "saved"), range=(0, 1)), unit)


# -- published sets ---------------------------------------------------------------------------------------------------

ROWS = np.random.default_rng(1).integers(0, 256, (12, 3072), dtype=np.uint8)
PLANES = ROWS.reshape(12, 3, 32, 32)


class Trap:
    """Leaves a mark where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_as_pickles_of_which_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    def write(name: str, **content: Any) -> None:
        (tmp_path / name).write_bytes(pickle.dumps({k.encode(): v for k, v in content.items()}, protocol))

    write("meta", fine_label_names=[b"x", b"y", b"z"], coarse_label_names=[b"all"])
    for name in ("train", "test"):
        write(name, data=ROWS, fine_labels=Y.tolist(), coarse_labels=[0] * 12, filenames=[b"a.png"] * 12)
    source = recognised(str(tmp_path))
    assert source == data.Cifar(str(tmp_path))
    assert same(source, PLANES).class_names == ("x", "y", "z")
    same(data.Cifar(str(tmp_path), train=False, coarse=True), PLANES, np.zeros(12, int))
    write("train", data=Trap(tmp_path / "sprung"), fine_labels=Y.tolist())
    refused(
        source,
        f"path: {tmp_path / 'train'}: not a readable file of CIFAR",
        ", as no file of CIFAR does; it was not opened",
    )
    write("train", data=ROWS.astype(object), fine_labels=Y.tolist())
    refused(source, "not a readable file of CIFAR")
    assert not (tmp_path / "sprung").exists()


def test_binary_cifar_svhn_and_stl(tmp_path: Path) -> None:
    for i in range(1, 6):
        rows = np.concatenate([Y[:, None].astype(np.uint8), ROWS], 1)
        (tmp_path / f"data_batch_{i}.bin").write_bytes(rows.tobytes())
    (tmp_path / "batches.meta.txt").write_text("x\ny\nz\n\n")
    found = same(recognised(str(tmp_path)), np.concatenate([PLANES] * 5), np.tile(Y, 5))
    assert (len(found), found.class_names) == (60, ("x", "y", "z"))
    (tmp_path / "data_batch_3.bin").write_bytes(b"cut")
    refused(recognised(str(tmp_path)), "data_batch_3.bin: 3 bytes are not pictures of 3073")

    (svhn := tmp_path / "svhn").mkdir()
    savemat(svhn / "train_32x32.mat", {"X": PLANES.transpose(2, 3, 1, 0), "y": np.where(Y == 0, 10, Y)[:, None]})
    same(recognised(str(svhn)), PLANES)

    (stl := tmp_path / "stl").mkdir()
    big = np.random.default_rng(2).integers(0, 256, (12, 3, 96, 96), dtype=np.uint8)
    (stl / "train_X.bin").write_bytes(big.transpose(0, 1, 3, 2).tobytes())
    (stl / "train_y.bin").write_bytes((Y + 1).astype(np.uint8).tobytes())
    (stl / "class_names.txt").write_text("x y z")
    assert same(recognised(str(stl)), big).class_names == ("x", "y", "z")


@pytest.mark.parametrize("packed", [False, True])
def test_the_files_of_mnist(tmp_path: Path, packed: bool) -> None:
    def write(name: str, values: np.ndarray, claim: int = 0) -> None:
        shape = (claim or len(values), *values.shape[1:])
        raw = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(raw) if packed else raw)

    grey = PIXELS[..., 0]
    write("train-images-idx3-ubyte", grey)
    write("train-labels-idx1-ubyte", Y.astype(np.uint8))
    write("t10k-images-idx3-ubyte", grey[:2])
    assert isinstance(recognised(str(tmp_path)), data.Idx)
    same(recognised(str(tmp_path)), grey[:, None])
    file = next(tmp_path.glob("train-images*"))
    assert recognised(str(file)) == data.Idx(str(file))
    same(data.Idx(str(file), transposed=True), grey.transpose(0, 2, 1)[:, None])
    write("train-images-idx3-ubyte", grey, claim=2**31)
    refused(data.Idx(str(file)), f"path: {file}: its header says shape (2147483648, 4, 5), more than is there")


# -- what a path is ---------------------------------------------------------------------------------------------------


def test_data_are_named_by_their_path_everywhere(tmp_path: Path) -> None:
    np.save(tmp_path / "a", PIXELS)
    (tmp_path / "a.npy").rename(tmp_path / "007")  # no suffix: told by its contents
    path = str(tmp_path / "007")
    assert parse_data(path) == data.Arrays(path)
    shown = CliRunner().invoke(main, ["data", path])
    assert shown.exit_code == 0, shown.output
    assert f'data: {{kind: arrays, path: "{path}"}}' in shown.stdout.replace("\n             ", "")
    wrong = CliRunner().invoke(main, ["sample", path])
    assert "is a NumPy array, not a recipe; it is data: try `edm-unified data" in wrong.stderr
    for content, words in (
        (b"\0\1\2" * 50, "of no kind that is known here"),
        (pickle.dumps({}), "can execute anything"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(RecipeError, match=words):
            parse_data(str(tmp_path / "x"))
    with pytest.raises(RecipeError, match="neither data nor a file; did you mean 'digits'"):
        parse_data("digit")


def test_paths_with_commas_and_names_that_are_numbers() -> None:
    def path(text: str) -> Any:
        return parse_component(data.AnyData, text, "data")

    assert path("image_folder:path=007").path == "007"
    assert path("image_folder:path=true,size=8").path == "true"
    found = path("arrays:path=a, b.npy,key=1e3")
    assert (found.path, found.key) == ("a, b.npy", "1e3")
    assert path("arrays:path=x.npy,key=null").key is None
