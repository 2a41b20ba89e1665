"""A run without its data: what it keeps of them, the units of what leaves it, and parts and weights given to it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import run as command
from torch import Tensor, nn
from training_example import recipe

import edm_unified as edm
from edm_unified import data
from edm_unified.data.kept import measure, moments
from edm_unified.data.units import difference, for_pictures, in_units_of
from edm_unified.recipe import Recipe, suitability
from edm_unified.training.parallel import Team
from edm_unified.training.runs import checkpoint
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))
SMALL = ("training.images=64", "training.ema=null", "training.conditional=false", "training.label_dropout=0")


def train(out: Path, job: Any) -> Path:
    with Run(out, job, CPU) as run:
        for _ in run.steps():
            pass
    return out


def table(path: Path, factor: float = 1.0) -> np.ndarray:
    rows = np.random.default_rng(0).normal([280, -3], [15, 0.1], (64, 2)).astype(np.float32)
    np.save(path, rows.mean(0) + factor * (rows - rows.mean(0)))
    return rows


@pytest.fixture(scope="module")
def kelvin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run on a table of two columns, and the table, which is then moved away."""
    folder = tmp_path_factory.mktemp("kelvin")
    rows = table(folder / "t.npy")
    source = f"data={{kind: arrays, path: {folder / 't.npy'}, standardise: per_axis, unit: K}}"
    run = train(folder / "run", recipe(source, *SMALL).job())
    shutil.move(folder / "t.npy", folder / "gone.npy")
    return run, rows


def test_samples_of_a_run_without_its_data_are_in_their_units(kelvin: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    run, rows = kelvin
    for name, more in (("s", ()), ("z", ("--scaled",))):
        assert command("sample", run, "--n", 64, "--out", tmp_path / name, "-q", *more)[0] == 0
    found, scaled = (np.load(tmp_path / name / "samples.npy") for name in ("s", "z"))
    mean, std = rows.mean(0, dtype=float), rows.std(0, dtype=float)
    np.testing.assert_allclose(found, mean + scaled * std / 0.5, rtol=1e-5)
    assert 230 < found[:, 0].mean() < 330
    about = json.loads((tmp_path / "s" / "environment.json").read_text())
    assert about["units"] == "K"
    x = Recipe.load(str(run)).sample(3)
    np.testing.assert_allclose(x.numpy(), found[:3], rtol=1e-5)
    assert edm.load(run).shape == (2,)
    assert command("show", run)[0] == 0
    assert (
        command("sample", run, "--n", 4, "--out", tmp_path / "a", "-q", "--analytic-start", "analytic_first_step")[0]
        == 0
    )
    code, said, _ = command("show", run, "--density", "entropy")
    assert (code, said.startswith("kind: density_spaced")) == (0, True)


@pytest.mark.parametrize(("n", "d", "rank"), [(40, 6, None), (40, 6, 3), (700, 300, 64), (90, 600, 20), (530, 540, 5)])
def test_the_gaussian_of_a_run_is_that_of_its_data(n: int, d: int, rank: int | None) -> None:
    draw = torch.Generator().manual_seed(0)
    spread = 0.7 ** torch.arange(d, dtype=torch.float64) * 10 + 0.3
    rows = torch.randn(n, d, generator=draw, dtype=torch.float64) * spread + 2
    kept, fitted = moments(rows).gaussian(rank), edm.exact.Gaussian.fit(rows, rank)
    assert kept is not None
    x = torch.randn(5, d, generator=draw, dtype=torch.float64) * 4
    for sigma in (0.3, 3.0):
        torch.testing.assert_close(kept(x, sigma), fitted(x, sigma), rtol=1e-4, atol=1e-4)


def test_the_data_are_looked_for_when_a_sample_of_them_is_asked_for(kelvin: tuple[Path, np.ndarray]) -> None:
    run, rows = kelvin
    _, dataset = Recipe.load(str(run)).build()
    assert len(dataset) == 64
    assert (dataset.shape, dataset.unit, dataset.in_whole_numbers) == ((2,), "K", False)
    kept, own = measure(dataset), moments(dataset.scaling.to_unit(torch.from_numpy(rows)))
    torch.testing.assert_close(kept.moments.mean, own.mean)
    assert kept.moments.variance == pytest.approx(own.variance)
    assert {tuple(row) for row in kept.some.tolist()} == {tuple(row) for row in rows.tolist()}
    for words in (("likelihood", run), ("compare", run, "--nfe", 5, "--samples", 8, "--out", run.parent / "c")):
        code, _, err = command(*words)
        assert code == 2
        assert "no such file; this needs the data" in err
    assert "metrics=[error_median,error_rms]" in err
    table(run.parent / "t.npy")
    try:
        assert torch.equal(dataset.images, dataset.scaling.to_unit(torch.from_numpy(rows)))
        np.save(run.parent / "t.npy", rows[:50])
        with pytest.raises(ValueError, match="are no longer those of the run: 50 samples"):
            _ = Recipe.load(str(run)).build()[1].images
    finally:
        (run.parent / "t.npy").unlink()


def test_what_is_kept_is_checked(kelvin: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    run = shutil.copytree(kelvin[0], tmp_path / "run")
    file = checkpoint.folders(run)[-1] / "data.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert "data.safetensors: was changed after it was written" in command("sample", run)[2]
    file.unlink()
    assert "data.safetensors: is missing" in command("sample", run)[2]


def test_a_likelihood_has_the_scale_of_the_run(kelvin: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    run, rows = kelvin
    D: Any
    D, own = Recipe.load(str(run)).build()
    np.save(tmp_path / "same.npy", rows[:8])
    table(tmp_path / "wide.npy", 3.0)
    np.save(tmp_path / "scaled.npy", (rows - rows.mean(0)) / rows.std(0) / 2)
    out = tmp_path / "o.npy"
    quick = ("--n", 4, "--rk4-steps", 4, "--trace", "exact", "--out", out, "-q")
    code, _, err = command("likelihood", run, tmp_path / "same.npy", *quick)
    assert (code, err) == (0, "")
    x = own.scaling.to_unit(torch.from_numpy(rows[:4])).double()
    prior = edm.likelihood.prior_of(measure(own).moments)
    by_hand = edm.log_likelihood(D, x, steps=4, trace="exact", prior=prior)
    np.testing.assert_allclose(np.load(out), by_hand.nats.numpy(), rtol=1e-6)
    code, _, err = command("likelihood", run, tmp_path / "wide.npy", *quick)
    assert code == 0
    assert "are unlike the data of the run" in err
    assert np.abs(np.load(out) - by_hand.nats.numpy()).max() > 0.5  # by their own moments they would be the same
    code, _, err = command("likelihood", run, tmp_path / "scaled.npy", *quick)
    assert code == 2
    assert "they are in another unit" in err


def test_the_bits_of_a_run_on_its_own_data_are_those_of_the_same_file(tmp_path: Path) -> None:
    grey = 128 + 60 * np.sin(np.arange(16).reshape(4, 4) * 0.3 + np.arange(40)[:, None, None])
    np.save(tmp_path / "a.npy", grey.astype(np.uint8)[:, None])
    source = f"data={{kind: arrays, path: {tmp_path / 'a.npy'}, standardise: 0.2}}"
    run = train(tmp_path / "run", recipe(source, *SMALL).job())
    found = []
    for words in ((), (tmp_path / "a.npy",), (f"arrays:path={tmp_path / 'a.npy'},standardise=0.2",)):
        options = ("--n", 4, "--dequantize", "uniform", "--rk4-steps", 4, "--out", tmp_path / "o.npy")
        code, said, err = command("likelihood", run, *words, *options)
        if code:
            assert "standardise: the scale is that of the denoiser's own data; leave it out" in err
            continue
        found.append((np.load(tmp_path / "o.npy"), [line for line in said.splitlines() if "whole numbers" in line]))
    (own, bits), (same, others) = found
    np.testing.assert_array_equal(own, same)
    assert len(bits) == 1
    assert bits == others


def made(values: Any, **more: Any) -> data.Dataset:
    return data.Dataset(torch.as_tensor(values), None, "made up", **more)


def test_black_is_black_and_white_is_white_in_the_scale_of_a_run() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    run = made(grey, scaling=data.BYTES.then(-0.1, 3.0), extent=(0, 255))
    unit = data.BYTES.to_unit(torch.from_numpy(grey))
    for other in (made(grey, scaling=data.BYTES), made(unit, extent=(-1, 1)), made((unit + 1) / 2, extent=(0.0, 1.0))):
        found = in_units_of(run, other)
        torch.testing.assert_close(found.images, run.images, atol=1e-6, rtol=0)
        assert difference(run, found) is None
    torch.testing.assert_close(for_pictures(run, run.images), unit, atol=1e-6, rtol=0)
    assert for_pictures(made(grey, scaling=data.BYTES), unit) is unit
    with pytest.raises(ValueError, match=r"samples of shape \(1, 4, 5\), but the denoiser is for \(1, 4, 4\)"):
        in_units_of(run, made(np.zeros((3, 1, 4, 5), np.float32)))


@pytest.mark.parametrize(("factor", "refused", "told"), [(1, 0, 0), (1.9, 0, 0), (2.1, 0, 1), (15, 0, 1), (17, 1, 0)])
def test_data_of_another_spread_are_told_and_of_another_unit_refused(factor: float, refused: bool, told: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    run, other = made(rows, scaling=data.Scaling(0.0, 2.0)), made(factor * rows)
    if refused:
        with pytest.raises(ValueError, match="another unit"):
            in_units_of(run, other)
    else:
        assert (difference(run, in_units_of(run, other)) is not None) is bool(told)


# -- parts of one's own, and weights to begin with --------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.f = nn.Linear(d + 1, d)

    def forward(self, x: Tensor, noise: Tensor, label: Any = None, augment: Any = None) -> Tensor:
        return self.f(torch.cat([x, noise[:, None].to(x)], 1))  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Mine:
    kind = "mine"

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> Net:
        return Net(shape[0])


def test_a_network_of_ones_own_is_loaded_when_it_is_given(tmp_path: Path) -> None:
    own: Any = Mine()
    job = dataclasses.replace(recipe(*SMALL).job(), network=own)
    del own
    run = train(tmp_path / "run", job)
    x, another = torch.randn(3, 2), cast(Any, Net(2))
    here = edm.load(run)(x, 1.0)  # in the process that trained it
    del job
    with pytest.raises(ValueError, match=r"run: this run's network is your own, .*\.Mine; load it in Python: edm.load"):
        edm.load(run)
    for given in (Mine(), Mine().build, Net(2), lambda shape, classes, augment: Net(*shape)):
        assert torch.equal(edm.load(run, network=given)(x, 1.0), here)
    code, _, err = command("sample", run, "--out", tmp_path / "s")
    assert (code, "edm.load(RUN, network=make)" in err) == (2, True)
    with pytest.raises(ValueError, match="it is of another network"):
        edm.load(run, network=Net(3))
    with pytest.raises(ValueError, match="must build a torch"):
        edm.load(run, network=lambda *_: 3)
    with pytest.raises(ValueError, match=r"network\.own was .*Mine.* and is"):
        Run(run, dataclasses.replace(recipe(*SMALL).job(), network=another), CPU)
    with pytest.raises(ValueError, match="preconditioning: the run knows its preconditioning, edm; leave it out"):
        edm.load(run, network=Mine(), preconditioning=edm.preconditioning.EDM())


def test_training_begins_with_the_weights_of_another_run(tmp_path: Path) -> None:
    first = train(tmp_path / "a", recipe(*SMALL).job())
    where = f"training.init={{path: {first}}}"
    rate = ("training.optimizer.lr=1e-30", where)  # so that nothing moves
    second = train(tmp_path / "b", recipe(*SMALL, *rate).job())
    x = torch.randn(3, 2)
    assert torch.equal(edm.load(second)(x, 1.0), edm.load(first)(x, 1.0))
    about = json.loads((checkpoint.folders(second)[-1] / "checkpoint.json").read_text())
    entry = checkpoint.read_meta(checkpoint.find(first))["weights"][0]
    assert about["init"] == {"path": str(first), "images": 64, **entry}
    assert json.loads((second / "run.json").read_text())["init"] == about["init"]
    with pytest.raises(ValueError, match=r"^training.init: .*: '.*' has shape .*, '.*' has shape .*, .* and \d+ more"):
        Run(tmp_path / "c", recipe(*SMALL, where, "network.width=24").job(), CPU)
    shutil.rmtree(first)
    train(second, recipe("training.images=128", *SMALL[1:], *rate).job())  # goes on without it
    assert json.loads((second / "run.json").read_text())["init"] == about["init"]


# -- levels that do not fit -------------------------------------------------------------------------------------------


def notes(name: str, std: float, mean: float = 0.0, *overrides: str) -> list[str]:
    rows = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0) * std + mean
    return suitability.notes_on_training(Recipe.load(name, overrides), made(rows))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("edm", 0.5), ""),
        (("edm", 0.26), ""),
        (("edm", 0.24), "preconditioning.sigma_data is 0.5, and the standard deviation of the data is 0.24"),
        (("edm", 1.1), "preconditioning.sigma_data is 0.5"),
        (("edm", 22.0, 0.0, "preconditioning.sigma_data=22"), ""),
        (("edm", 27.0, 0.0, "preconditioning.sigma_data=27"), "objective.noise: 18% of training falls between"),
        (("edm", 0.5, 15.0), ""),
        (("edm", 0.5, 17.0), "sampler.steps: the walk begins at sigma = 80, so the mean of samples will be 0.21"),
        (("edm", 0.5, 0.0, "sampler.steps.sigma_max=0.7"), ""),
        (("edm", 0.5, 0.0, "sampler.steps.sigma_max=0.6"), "begins at sigma = 0.6, so samples will have a standard"),
        (("ddim", 0.5, 0.0, "sampler.steps.n=1"), "the walk begins at sigma = 0.01"),
        (("flow_matching", 0.5, 0.0, "sampler.solver={kind: euler_maruyama}"), "are too few for euler_maruyama"),
    ],
)  # fmt: skip
def test_levels_that_do_not_suit_the_data_are_said(words: tuple[Any, ...], told: str) -> None:
    found = notes(*words)
    assert (not found) if not told else any(told in note for note in found), found
