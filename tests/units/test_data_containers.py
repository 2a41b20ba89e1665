"""Arrays of HDF5, NetCDF, Zarr, torch.save, MATLAB and guided-diffusion: the same numbers, lazily, or one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import netcdf_file, savemat

from edm_unified import data
from edm_unified.data import Arrays

X = np.random.default_rng(0).uniform(-1, 1, (7, 2, 4, 4)).astype(np.float32)
Y = np.arange(7) % 3
PIXELS = np.random.default_rng(1).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)


def refused(source: Any, *parts: str) -> None:
    with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
        source.load()
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def same(source: Arrays, expected: np.ndarray = X, labels: bool = True) -> data.Dataset:
    """The samples by index, in any order and repeated, are ``expected`` in the units of the file."""
    found, chosen = source.load(), torch.tensor([5, 0, 5, 6])
    samples, classes = data.batch(found, chosen)
    np.testing.assert_allclose(found.scaling.to_raw(samples.double()), expected[chosen], atol=1e-5)
    assert (classes is not None) == labels
    assert classes is None or classes.tolist() == Y[chosen].tolist()
    return found


# -- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "sample", "note"),
    [
        ((2, 16, 16, 4), (4, 16, 16), "layout: NCHW where it is 16 channels"),  # not 16 channels of 16×4
        ((2, 16, 4, 4), (16, 4, 4), ""),
        ((2, 4, 16, 16), (4, 16, 16), ""),
        ((2, 9, 9, 9), (9, 9, 9), "of volumes without channels, set layout: NDHW"),
        ((2, 1, 4, 6, 6), (1, 4, 6, 6), ""),
        ((2, 4, 6, 6, 1), (1, 4, 6, 6), ""),
        ((2, 6, 6, 6, 2), (2, 6, 6, 6), "layout: NCDHW"),
        ((2, 16, 8, 4), None, "channels may be 16 or 4; set layout: NCHW or NHWC"),
        ((2, 3, 4, 5, 6, 7), None, "must be images (N, C, H, W), volumes"),
    ],
)
def test_channels_are_found_or_asked_for(
    tmp_path: Path, shape: tuple[int, ...], sample: tuple[int, ...] | None, note: str
) -> None:
    np.save(tmp_path / "a.npy", np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    source = Arrays(str(tmp_path / "a.npy"))
    if sample is None:
        refused(source, note)
    else:
        found = source.load()
        assert found.shape == sample
        assert note in "; ".join(found.notes)
        assert bool(note) == bool(found.notes)


def test_a_stated_layout_is_followed(tmp_path: Path) -> None:
    file = str(tmp_path / "a.npy")
    np.save(file, X.transpose(2, 3, 1, 0))
    same(Arrays(file, layout="HWCN"), labels=False)
    np.save(file, X[:, 0])
    assert Arrays(file, layout="NHW").load().shape == (1, 4, 4)
    assert Arrays(file, layout="NCL").load().shape == (4, 4)
    refused(Arrays(file, layout="NCHW"), "layout: NCHW has 4 axes, and the array 3: shape (7, 4, 4)")
    for wrong in ("NHH", "NCD", "CHW", "nchw", "N", "NCLH"):
        with pytest.raises(ValueError, match=r"^layout: must have a letter for each axis"):
            Arrays(file, layout=wrong)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32, np.int64, np.bool_])
def test_whole_numbers_of_any_type_keep_their_values(tmp_path: Path, dtype: Any) -> None:
    values = (PIXELS.transpose(0, 3, 1, 2).astype(np.int64) * (1 if dtype == np.bool_ else 120)).astype(dtype)
    file, top = str(tmp_path / "a.npy"), float(values.max())
    np.save(file, values)
    found = same(Arrays(file, range=(0, top)), values, labels=False)
    assert found.in_whole_numbers
    assert found.extent == (0, top)
    refused(Arrays(file), "no value below 0" if dtype == np.bool_ else "images must lie in [-1, 1]", "`range:")


# -- torch.save, MATLAB, guided-diffusion, NetCDF 3 -------------------------------------------------------------------


def test_tensors_of_torch_save(tmp_path: Path) -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    file = str(tmp_path / "a.pt")
    torch.save(x, file)
    found = same(Arrays(file), labels=False)
    torch.save((x, y), file)
    same(Arrays(file))
    torch.save({"images": x.bfloat16(), "labels": y}, file)
    found = Arrays(file, key="images", label_key="labels").load()
    assert torch.equal(found.images, x.bfloat16().float())
    refused(Arrays(file), "key: ", "several arrays (images, labels); name one")
    torch.save(x, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    same(Arrays(str(tmp_path / "old.bin")), labels=False)  # by its contents
    torch.save(torch.zeros(1).expand(10**9, 4), file)
    refused(Arrays(file), "a.pt: its shape (1000000000, 4) is larger than what is stored")
    torch.save(torch.nn.Linear(2, 2), file)
    refused(Arrays(file), "a.pt: holds more than tensors, which is not opened")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:200])
    refused(Arrays(file), "a.pt: not a readable file of torch.save")


def test_matlab_and_guided_diffusion(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"X": X.transpose(2, 3, 1, 0), "y": Y, "words": "text"})
    same(Arrays(str(tmp_path / "a.mat"), key="X", label_key="y", layout="HWCN"))
    refused(Arrays(str(tmp_path / "a.mat")), "several arrays (X, y); name one")
    np.savez(tmp_path / "a.npz", PIXELS, Y)
    found = same(Arrays(str(tmp_path / "a.npz")), PIXELS.transpose(0, 3, 1, 2))
    assert "as guided-diffusion has it" in found.notes[0]


def test_netcdf_unpacks_and_reads_in_place(tmp_path: Path) -> None:
    kelvin = 280 + 15 * X[:, 0]
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, size in (("time", None), ("lat", 4), ("lon", 4)):
            file.createDimension(name, size)
        file.createVariable("lat", "f4", ("lat",))[:] = np.arange(4)
        packed = file.createVariable("t2m", "i2", ("time", "lat", "lon"))
        packed.scale_factor, packed.add_offset, packed._FillValue = 0.01, 280.0, np.int16(-32768)
        packed[:] = np.round((kelvin - 280) / 0.01).astype(np.int16)
    found = Arrays(str(tmp_path / "a.nc"), standardise=0.5, unit="K").load()
    np.testing.assert_allclose(found.scaling.to_raw(found.images.double())[:, 0], kelvin, atol=0.006)
    with netcdf_file(tmp_path / "a.nc", "a", mmap=False) as file:
        file.variables["t2m"][4, 0, 0] = -32768
    refused(Arrays(str(tmp_path / "a.nc"), standardise=0.5), "has NaN", "first in sample 4")


# -- HDF5 and Zarr ----------------------------------------------------------------------------------------------------


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra formats")
    file = str(tmp_path / "a.dat")  # by its contents
    with h5py.File(file, "w") as opened:
        opened["images"], opened["group/labels"] = X, Y
        opened.create_dataset("small", data=PIXELS, compression="gzip", chunks=(7, 4, 4, 3))
        opened.create_dataset("never", shape=(10**6, 10**6), dtype="f4")
        opened["elsewhere"] = h5py.ExternalLink("/etc/hostname", "/x")
    same(Arrays(file, key="images", label_key="/group/labels"))
    same(Arrays(file, key="small"), PIXELS.transpose(0, 3, 1, 2), labels=False)
    refused(Arrays(file), "several arrays (group/labels, images, never, small); name one")
    refused(Arrays(file, key="never"), "'never' says that it holds 4,000,000,000,000 bytes, and 0 are stored")
    refused(Arrays(file, key="elsewhere"), "has no array 'elsewhere'")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((tmp_path / "a.dat").read_bytes()[:500])
    refused(Arrays(str(cut)), f"path: {cut}: not a readable HDF5 file")


def test_the_line_that_installs_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    refused(Arrays(str(tmp_path / "a.h5")), "an HDF5 file needs `h5py`; pip install 'edm_unified[formats]'")


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="needs the extra formats")
    store = str(tmp_path / "a.zarr")
    group = zarr.open_group(store, mode="w", zarr_format=version)
    for name, values in (("x", X), ("y", Y)):
        group.create_array(name, shape=values.shape, chunks=(2, *values.shape[1:]), dtype=values.dtype)[:] = values
    same(Arrays(store, key="x", label_key="y"))
    chunk = next(file for file in sorted((tmp_path / "a.zarr" / "x").rglob("*")) if file.is_file() and "0" in file.name)
    chunk.unlink()
    assert "1 of 4 chunks are not there and read as 0.0" in Arrays(store, key="x").load().notes


def test_no_codec_of_zarr_is_used_that_unpickles(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    about = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "order": "C", "fill_value": 0,
             "compressor": None, "filters": [{"id": "pickle", "protocol": 4}]}  # fmt: skip
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(about))
    refused(Arrays(str(tmp_path / "a.zarr")), ".zarray: its codec 'pickle' is not used here")
