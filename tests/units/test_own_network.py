"""A network of one's own on the command line: --network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import edm_unified as edm
from edm_unified import cli
from edm_unified.components import plugins

NETS = '''
import torch

import edm_unified as edm

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-0.5, 0.2], [0.4, 0.1]], dtype=torch.float64)
COVARIANCE = torch.eye(2, dtype=torch.float64).expand(2, 2, 2) * 0.04


class Exact(torch.nn.Module):
    """The velocity x_0 - n of a mixture that is known, told 1 - t."""

    def __init__(self):
        super().__init__()
        self.means = torch.nn.Parameter(MEANS.clone())

    def forward(self, x, t):
        s = (1 - t)[:, None]
        D = edm.exact.GaussianMixture(WEIGHTS, self.means.detach(), COVARIANCE)
        rows = [D(x[i : i + 1] / t[i], (1 - t[i]) / t[i]) for i in range(len(x))]
        return (torch.cat(rows) - x) / s


def make():
    return Exact()


def wrapped():
    return edm.wrap(Exact(), "velocity", time="1-t", shape=(2,))


def nothing():
    return 3


def fails():
    raise RuntimeError("no\\nluck")


class Trained(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner = torch.nn.Linear(size + 1, size)

    def forward(self, x, noise, label=None, augment=None):
        return self.inner(torch.cat([x, noise[:, None]], 1))


def trained(shape):
    return Trained(shape[0])


def unlike(shape):
    return torch.nn.Linear(2, 2)
'''
VELOCITY = ("--prediction", "velocity", "--time", "1-t", "--shape", "2")


def exact() -> edm.exact.GaussianMixture:
    means = torch.tensor([[-0.5, 0.2], [0.4, 0.1]], dtype=torch.float64)
    return edm.exact.GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64), means, 0.04 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, words)))


@pytest.mark.parametrize("given", [("nets.py:make", *VELOCITY), ("nets:wrapped",)], ids=["options", "edm.wrap"])
def test_samples_are_those_of_the_network_and_its_recipe_is_used_again(given: tuple[str, ...], here: Path) -> None:
    name, *more = given
    steps = ("--solver", "dpmpp_2m", "--steps", 4, "--n", 3)
    result = run("sample", "edm", "--network", name, *more, *steps, "--out", "a", "-q")
    assert result.exit_code == 0, result.stderr
    drawn = edm.sample(
        exact(), edm.unit_noise(3, (2,)), steps=edm.discretization.Karras(n=4), solver=edm.solvers.DPMSolverPP2M()
    )
    np.testing.assert_allclose(np.load("a/samples.npy"), drawn.numpy(), atol=2e-6)
    (record,) = yaml.safe_load(Path("a/recipe.yaml").read_text())["plugins"]
    assert (record["name"], record["option"]) == (name, "network")
    without = run("sample", "a/recipe.yaml", "--out", "b", "-q")
    assert without.exit_code == 2
    assert without.stderr == (
        f"Error: a/recipe.yaml: needs the network {name} (SHA-256 {record['sha256'][:12]}…); give --network {name}: no "
        "recipe or run imports code by itself\n"
    )
    again = run("sample", "a/recipe.yaml", "--network", name, "--n", 3, "--out", "b", "-q")
    assert again.exit_code == 0, again.stderr
    np.testing.assert_array_equal(np.load("a/samples.npy"), np.load("b/samples.npy"))


def test_the_likelihood_is_that_of_the_mixture(here: Path) -> None:
    points = exact().sample(4000, seed=1)  # by whose moments the prior goes
    np.save("x.npy", points.numpy())
    result = run("likelihood", "edm", "x.npy", "--network", "nets.py:make", *VELOCITY, "--n", 4, "--trace", "exact",
                 "--tolerance", 1e-6, "--out", "nats.npy", "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(np.load("nats.npy"), exact().log_prob(points[:4], 0.002).numpy(), atol=1e-3)


def test_weights_are_put_in_under_the_names_of_wrappers_too(here: Path) -> None:
    means = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    save_file({"module.means": means}, "w.safetensors")
    torch.save({"state_dict": {"_orig_mod.means": means}, "step": 3}, "w.pt")
    found = []
    for file in ("w.safetensors", "w.pt"):
        result = run("inspect", "--network", "nets.py:make", "--weights", file, *VELOCITY, "--json")
        assert result.exit_code == 0, result.stderr
        run("sample", "edm", "--network", "nets.py:make", "--weights", file, *VELOCITY, "--n", 2, "--steps", 8,
            "--solver", "dpmpp_2m", "--out", file[2:], "-q")  # fmt: skip
        found.append(np.load(f"{file[2:]}/samples.npy"))
    np.testing.assert_array_equal(*found)
    assert found[0].min() > 0.5


def test_a_network_is_trained_and_its_run_asks_for_it(here: Path) -> None:
    settings = [
        word for text in ("images=256", "batch=128", "save_every=256") for word in ("--set", f"training.{text}")
    ]
    result = run("train", "toy/train_2d", "--network", "nets.py:trained", *settings, "--out", "run", "-q")
    assert result.exit_code == 0, result.stderr
    with pytest.raises(ValueError, match=r"^run: needs the network nets\.py:trained .* give --network"):
        edm.load("run")
    result = run("sample", "run", "--network", "nets.py:trained", "--n", 2, "--out", "s", "-q")
    assert result.exit_code == 0, result.stderr
    unlike = run("train", "toy/train_2d", "--network", "nets.py:unlike", *settings, "--out", "other", "-q")
    assert unlike.exit_code == 2
    assert "nets.py:unlike: must have forward(x, noise, label=None, augment=None)" in unlike.stderr


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--network", "nets.py"), "--network nets.py: name the function that makes the network, as in nets.py:make"),
        (("--network", "none.py:make"), "--network none.py:make: no such file"),
        (("--network", "nets.py:mak"), "--network nets.py:mak: has no 'mak'; did you mean 'make'?"),
        (("--network", "nets.py:MEANS"), "--network nets.py:MEANS: is Tensor; it must be what makes the network"),
        (("--network", "nets.py:make"), "a velocity told t is n - x_0, one told 1-t is x_0 - n"),
        (("--network", "nets.py:make", "--time", "t"), "name what it predicts"),
        (("--network", "nets.py:nothing", *VELOCITY), "nets.py:nothing: must return a torch.nn.Module, got int"),
        (("--network", "nets.py:fails", *VELOCITY), "nets.py:fails: raised RuntimeError: no luck"),
        (("--network", "nets.py:make", *VELOCITY[:4]), "the shape of a sample is not known; give --shape, or data"),
        (("--network", "nets.py:make", *VELOCITY, "--weights", "w.pt"), "weights: w.pt: no such file"),
        (("--network", "nets.py:make", *VELOCITY, "--weights", "bad.pt"), "no 'means'; 'a' besides; 'b' besides"),
        (("--network", "nets.py:make", *VELOCITY, "--convention", "edm"), "--convention: says all of it"),
        (("--network", "nets.py:wrapped", *VELOCITY), "returns a denoiser, whose convention is known"),
        (("--weights", "w.pt"), "--weights: is of a network of your own; name that by --network"),
        (("--network", "nets.py:make", *VELOCITY, "--set", "data=digits"), "the data have (1, 8, 8)"),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], fault: str, here: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)}, "bad.pt")
    result = run("sample", "edm", *words, "--n", 1, "--out", "s", "-q")
    assert result.exit_code == 2
    assert fault in result.stderr
    assert result.stderr.count("\n") == 1
    assert plugins.ACTIVE == []
    assert not Path("s/samples.npy").exists()


def test_inspect_checks_the_convention_of_a_network(here: Path) -> None:
    np.save("x.npy", exact().sample(64, seed=2).float().numpy())
    checked = ("inspect", "--network", "nets.py:make", "--check", "--data", "x.npy", "--json")
    right = json.loads(run(*checked, *VELOCITY).stdout)
    assert right["check"]["warning"] is None
    wrong = json.loads(run(*checked, *VELOCITY, "--toward", "noise").stdout)
    assert wrong["check"]["best"] == "the sign of the output turned"
