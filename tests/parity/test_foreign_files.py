"""Files of weights of other libraries: what is read of them, what is refused in one line, and `edm-unified convert`."""

from __future__ import annotations

import argparse
import codecs
import collections
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from foreign_cases import CASES
from foreign_files import kept, persistent, pickled, restored
from torch import Tensor, nn

import edm_unified as edm
from edm_unified import cli
from edm_unified.interop import pickles, state_dicts
from edm_unified.networks import UNet


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, words)))


def written(name: str, folder: Path, most: int = 10**6) -> Path:
    """The file of a case, with the names and shapes that were kept of it; of the tensors the first ``most``."""
    return CASES[name].save(dict(list(restored(kept()[name]["names"]).items())[:most]), folder)


TREE: dict[str, Any] = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "part": torch.arange(10)[3:5],
    "half": torch.ones(2, dtype=torch.bfloat16),
    "number": torch.tensor(3.0),
    "none": torch.empty(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
    "step": 7,
    "loss": np.float64(2.5),
}


@pytest.mark.parametrize("form", ["archive", "old format", "pickle"])
def test_tensors_and_containers_are_read_from_every_container(form: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    if form == "pickle":
        file.write_bytes(pickle.dumps(TREE))
    else:
        torch.save(TREE, file, _use_new_zipfile_serialization=form == "archive")
    found = pickles.read(file)
    assert list(found) == list(TREE)
    for name, value in TREE.items():
        assert torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value


class Marker:
    """A pickle that would make a file, if it were run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps({"a": Marker(mark)}))
    with pytest.raises(ValueError, match=r"more than tensors and containers \(pathlib\.Path.*save its state_dict"):
        pickles.read(file)
    source = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    weights = {"a.weight": torch.ones(2, 2)}
    pickled(file, {"ema": persistent("Anything", weights, source, _init_kwargs={})})
    record = pickles.read(file)["ema"]
    assert record.name == "Anything"
    assert torch.equal(pickles.modules(record)["a.weight"], weights["a.weight"])
    with pytest.raises(ValueError, match=r"holds Anything, which is no network of EDM or EDM2; known are VPPrecond, "):
        edm.load(file)
    assert not mark.exists()


class Copied:
    """Bytes that a file holds once, as text, and has made anew for every one of these."""

    text = "x" * 10_000

    def __reduce__(self) -> Any:
        return codecs.encode, (self.text, "latin1")


@pytest.mark.parametrize(("times", "fits"), [(4, True), (200, False)])
def test_a_file_has_its_contents_copied_a_few_times_at_most(times: int, fits: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pkl"
    file.write_bytes(pickle.dumps([Copied() for _ in range(times)], 2))
    assert file.stat().st_size < 20_000
    if fits:
        assert pickles.read(file) == [b"x" * 10_000] * times
        return
    with pytest.raises(ValueError, match=r"^[^\n]*not a readable file .*its own contents copied again and again"):
        pickles.read(file)


def with_length(file: Path, announced: int) -> None:
    """torch's old format with a storage that announces more numbers than there are."""
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(5)}, buffer, _use_new_zipfile_serialization=False)
    old = b"K\x05" if b"K\x05" in buffer.getvalue() else b""
    assert old
    file.write_bytes(buffer.getvalue().replace(b"K\x05", b"J" + announced.to_bytes(4, "little")))


@pytest.mark.parametrize(
    "kind", ["numbers", "strides", "memory", "bytes", "unpacked", "other object", "list", "cut", "empty"]
)
def test_files_that_announce_more_than_they_hold_are_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    if kind == "numbers":
        with_length(file, 2**30)
    elif kind == "strides":  # of no size on disk, of 4 TB when it is copied
        torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, file)
    elif kind == "memory":
        file.write_bytes(b"\x80\x02K\x01r\xff\xff\xff\x7f.")
    elif kind == "bytes":
        file.write_bytes(b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".")
    elif kind == "unpacked":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"0" * 100_000)
    elif kind == "other object":
        torch.save(argparse.ArgumentParser, file)
    elif kind == "list":
        torch.save([torch.ones(2)], file)
    else:
        torch.save(TREE, file)
        file.write_bytes(file.read_bytes()[: 200 if kind == "cut" else 0])
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        edm.interop.files.read_tensors(file)
    assert str(file) in str(caught.value)


def without(start: str) -> Any:
    return lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(start)]


FAULTS: dict[str, tuple[Any, str]] = {
    "a name is missing": (without("input_blocks.1.0.in_layers.2.bias"), r"no 'encoder.0.blocks.0.conv_in.bias'"),
    "names besides": (
        lambda weights: weights.update({f"more.{i}": torch.ones(1) for i in range(5)}),
        r"'more.0' besides; 'more.1' besides; 'more.2' besides, and 2 more",
    ),
    "a shape": (
        lambda weights: weights.update({"out.2.bias": torch.ones(7)}),
        r"'decoder.1.readout.conv.bias' of shape",
    ),
    "no blocks": (without("input_blocks.1."), r"its levels have 0, 1 blocks; all must have as many"),
    "another network": (without("time_embed.0.weight"), r"which is of no network that is known; known are "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_weights_that_do_not_fit_are_named(name: str, tmp_path: Path) -> None:
    weights = restored(kept()["improved-diffusion"]["names"])
    FAULTS[name][0](weights)
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=FAULTS[name][1]) as caught:
        edm.load(tmp_path / "a.pt", shape=(3, 8, 8))
    assert "\n" not in str(caught.value)


def test_what_a_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    file = written("improved-diffusion", tmp_path)
    with pytest.raises(ValueError, match=r"does not say the size of its samples; give shape=3,H,W, or "):
        edm.load(file)
    with pytest.raises(ValueError, match=r"takes images of 3 channels, not samples of shape \(1, 8, 8\)"):
        edm.load(file, shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"fields: unet has no 'head'; did you mean 'heads'"):
        edm.load(file, shape=(3, 8, 8), fields={"head": 2})
    source = edm.interop.recognise(file, shape=(3, 8, 8))
    assert "4 heads are taken" in source.notes[0]
    assert "epsilon on linear betas is taken" in source.notes[1]


def test_convert_writes_once_what_every_command_reads(tmp_path: Path) -> None:
    file, out = written("improved-diffusion", tmp_path), tmp_path / "made"
    words = ("convert", file, out, "--shape", "3,8,8", "--field", "heads=2", "--convention", "ddpm:betas=cosine")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "recipe.yaml"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".edm")]
    recipe = edm.Recipe.load(out / "recipe.yaml")
    assert recipe.preconditioning == edm.preconditioning.DDPM(betas="cosine")
    assert edm.Recipe.load(out).sampler == recipe.sampler
    shown = run("inspect", out)
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"convention +ddpm  betas cosine", shown.stdout)
    assert "converted from state dict" in shown.stdout
    again = run(*words)
    assert again.exit_code == 2
    assert "is there already; name another, or remove it first" in again.stderr
    file.write_bytes(b"")
    assert edm.load(out).shape == (3, 8, 8)  # nothing of the file it was is needed


def test_convert_leaves_nothing_half_written(tmp_path: Path) -> None:
    weights = restored(kept()["improved-diffusion"]["names"])
    del weights["out.2.bias"]
    torch.save(weights, tmp_path / "a.pt")
    result = run("convert", tmp_path / "a.pt", tmp_path / "made", "--shape", "3,8,8")
    assert result.exit_code == 2
    assert "does not fit the network: no " in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    for words in (("--shape", "3,x"), ("--field", "heads"), ("--convention", "nothing")):
        wrong = run("convert", tmp_path / "a.pt", tmp_path / "made", *words)
        assert wrong.exit_code == 2
        assert wrong.stderr.startswith(f"Error: {words[0]}")


def test_a_header_that_was_changed_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=()).build((1, 4, 4))
    for header, words in (
        ("{", "its header was changed"),
        ('{"format": "edm_unified network 1", "network": {"kind": "unet", "blocks": 1}}', "its header was changed"),
        ('{"format": "other"}', "is not of the format"),
    ):
        save_file(dict(network.state_dict()), tmp_path / "model.safetensors", metadata={"edm_unified": header})
        with pytest.raises(ValueError, match=words) as caught:
            edm.load(tmp_path / "model.safetensors")
        assert "\n" not in str(caught.value)


def test_a_link_out_of_a_converted_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "out/model.safetensors").symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is a link out of"):
        edm.load(tmp_path / "out")


DAMAGED = ("EDM: NCSN++, VE", "EDM2", "improved-diffusion", "SiT", "score_sde, DDPM++")


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_one_line_or_fit(name: str, tmp_path: Path) -> None:
    """Cut at 50 places, and with bytes changed in 150 copies: refused in a line, or a network with every weight."""
    file = written(name, tmp_path, 6 if name.startswith("EDM") else 10**6)  # a pickle is known by what is around them
    asked = dict(CASES[name].asked)
    whole, draws, seen = file.read_bytes(), np.random.default_rng(0), collections.Counter[str]()
    for i in range(200):
        content = bytearray(whole[: int(draws.integers(len(whole)))] if i < 50 else whole)
        for _ in range(0 if i < 50 else int(draws.integers(1, 4))):
            content[int(draws.integers(len(content)) if i % 2 else draws.integers(min(3000, len(content))))] = int(
                draws.integers(256)
            )
        file.write_bytes(content)
        try:
            edm.interop.recognise(file, **asked)
            seen["read"] += 1
        except ValueError as error:
            assert re.fullmatch(r"[^\n]+", str(error))  # noqa: PT017
            seen["refused"] += 1
    assert seen["refused"] > 40


def test_the_average_is_taken_where_there_is_one(tmp_path: Path) -> None:
    content = state_dicts.read(written("torchcfm", tmp_path), "a")
    assert [state.place for state in content.states] == ["ema_model", "net_model"]
    assert "input_blocks.0.0.weight" in content.state.tensors
    content = state_dicts.read(written("flow_matching, CIFAR-10", tmp_path), "a")
    assert content.state.place == "model, shadow_params"
