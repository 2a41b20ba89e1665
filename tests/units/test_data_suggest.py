"""The survey of data, the suggested noise levels, and the command that prints them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from edm_unified import cli, data
from edm_unified.data.dataset import Dataset
from edm_unified.data.suggest import Suggestion, errors, suggest
from edm_unified.data.survey import spectrum, survey

FIGURES = True  # drawn, not dots: see conftest.py


def made(points: Any, labels: Any = None, **rest: Any) -> Dataset:
    return Dataset(torch.as_tensor(points, dtype=torch.float32), labels, "made up", **rest)


def levels(dataset: Dataset) -> Suggestion:
    return suggest(dataset, survey(dataset))


# -- survey -----------------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal([[[1]], [[-2]]], [[[3]], [[0.5]]], (700, 2, 3, 5)).astype(np.float32)
    labels = torch.arange(700) % 3
    found = survey(made(x, labels, class_names=("a", "b", "c", "d")))
    assert (found.n, found.surveyed, found.shape) == (700, 700, (2, 3, 5))
    assert (found.low, found.high) == (x.min(), x.max())
    np.testing.assert_allclose(found.mean, x.mean((0, 2, 3), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(found.std, x.std((0, 2, 3), dtype=np.float64), rtol=1e-9)
    assert found.sigma_data == pytest.approx(x.std(dtype=np.float64), rel=1e-9)
    assert found.counts == {"a": 234, "b": 233, "c": 233, "d": 0}
    assert any("1 of 4 classes have no sample, the first of them 'd'" in text for text in found.problems)


def test_a_part_of_large_data_is_a_fair_sample_of_them() -> None:
    x = np.sort(np.random.default_rng(0).normal(size=(5000, 1)), 0)  # sorted: the first 500 would be the smallest
    found = survey(made(x), samples=500)
    assert (found.n, found.surveyed) == (5000, 500)
    assert abs(found.mean[0]) < 5 / math.sqrt(500)
    assert abs(found.sigma_data - 1) < 5 / math.sqrt(1000)


@pytest.mark.parametrize(("narrow", "told"), [(0.9 / 25, True), (1.1 / 25, False)])
def test_axes_that_the_levels_would_lose_are_said(narrow: float, told: bool) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 2))
    x = (x - x.mean(0)) / x.std(0) * [2**0.5, 2**0.5 * narrow / (1 + narrow**2) ** 0.5 / 2**0.5]
    notes = [text for text in survey(made(x)).problems if "standardise: per_axis" in text]
    assert bool(notes) is told
    assert all(text.startswith("axis 1 has a standard deviation of 0.0") for text in notes)


def test_what_is_wrong_is_said() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    x[7] = x[3]
    x[11, 1] = math.nan
    x[15, 0] = math.inf
    found = survey(made(x))
    assert found.duplicates == 1
    assert "NaN or inf, first in sample 11" in found.problems[0]
    assert found.problems[-1] == "1 of 18 samples are copies of earlier ones"
    assert any("from 0: preconditioning assumes 0" in text for text in survey(made(x[:5] + 9)).problems)
    assert "every number is the same: there is nothing to learn" in survey(made(torch.ones(4, 2))).problems
    with pytest.raises(ValueError, match="needs at least 4 samples that differ"):
        levels(made(torch.ones(9, 2)))
    pair = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    assert survey(made(pair.repeat(32, 1))).problems[-1] == "62 of 64 samples are copies of earlier ones"
    with pytest.raises(ValueError, match="needs at least 4 samples that differ"):  # however many copies there are
        levels(made(pair.repeat(32, 1)))
    with pytest.raises(ValueError, match="no sample without NaN or inf"):
        survey(made(torch.full((3, 2), math.nan)))


# -- spectrum and error -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 16), (3, 12, 12), (3, 40, 40)])
def test_every_spectrum_has_the_trace_of_the_covariance(shape: tuple[int, ...]) -> None:
    x = torch.randn(300, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    values = spectrum(x)
    assert values.shape == (math.prod(shape),)
    torch.testing.assert_close(values.sum(), x.flatten(1).var(0, correction=0).sum())


def test_the_linear_error_of_gaussian_data_is_that_of_the_exact_denoiser() -> None:
    """mmse = mean of λσ²/(λ+σ²); and no estimate may fall below it but by the noise of 512 held-out samples."""
    scales = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
    x = scales * torch.randn(4000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma, error = errors(x, spectrum(x), 0.01, 20.0)
    truth = np.array([float((scales**2 * s**2 / (scales**2 + s**2)).mean()) for s in sigma])
    assert (error <= 1.05 * truth).all()
    assert (error >= 0.8 * truth).all()
    assert (np.diff(error) >= 0).all()


def test_the_error_of_a_mixture_is_near_that_of_its_exact_denoiser() -> None:
    """Where the linear denoiser is blind: between the spots and within them."""
    source = data.TwoDimensional("eight_gaussians", samples=4096, noise=0.1)
    x = source.load().images.double()
    exact = source.mixture()
    sigma, error = errors(x, spectrum(x), 0.01, 2.0)
    truth, linear = [], []
    for s in sigma:
        noisy = x + s * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
        truth.append(float((exact(noisy, s) - x).square().mean()))
        linear.append(0.25 * s**2 / (0.25 + s**2))
    ratio = error / np.array(truth)
    assert ((ratio > 0.8) & (ratio < 1.35)).all()
    assert (np.array(linear) / np.array(truth)).max() > 3


# -- the suggestion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "factor"), [(data.Digits(), 0.1), (data.TwoDimensional("moons", samples=1024), 30.0)]
)
def test_the_suggestion_scales_with_the_data(source: Any, factor: float) -> None:
    """Data times c: every σ times c, P_mean + ln c, and the shape of it all as before."""
    dataset = source.load()
    one, other = levels(made(dataset.images)), levels(made(factor * dataset.images))
    for name in ("sigma_data", "sigma_min", "sigma_max"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=2e-3)
    assert other.P_mean == pytest.approx(one.P_mean + math.log(factor), abs=0.01)
    assert other.P_std == pytest.approx(one.P_std, abs=0.01)
    assert other.kl == pytest.approx(one.kl, rel=0.01)


def test_bytes_give_the_sigma_min_of_edm() -> None:
    """A quarter of 2/255, of which EDM's 0.002 is the rounded value; sixteen levels give sixteen times as much."""
    assert levels(data.PhotoPatches(16, 32).load()).sigma_min == pytest.approx(2 / 255 / 4, rel=1e-3)
    assert levels(data.Digits().load()).sigma_min == pytest.approx(1 / 8 / 4, rel=1e-3)


def test_natural_images_come_out_near_edm() -> None:
    """EDM trains CIFAR-10 at −1.2 ± 1.2; the photographs have σ_data 0.67 instead of 0.5, which shifts ln σ by 0.3."""
    found = levels(data.PhotoPatches().load())
    assert abs(found.P_mean - (-1.2 + math.log(0.671 / 0.5))) < 0.4
    assert found.P_std == 1.2
    assert 50 < found.sigma_max < 150


def test_larger_images_need_a_larger_sigma_max() -> None:
    """Distances grow with the side: a factor 2 in pixels per side is a factor 2 in σ_max."""
    small, large = (levels(data.PhotoPatches(size, 32).load()).sigma_max for size in (32, 64))
    assert 1.7 < large / small < 2.3


def test_sigma_max_is_a_distance_or_what_the_prior_needs() -> None:
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).double()
    centred = levels(made(x - x.mean(0)))
    assert centred.sigma_max == pytest.approx(float(torch.cdist(x, x).max()), rel=1e-5)
    assert centred.kl < 0.01
    away = levels(made(x - x.mean(0) + 20))
    assert away.kl == pytest.approx(0.01, rel=1e-3)
    assert away.sigma_max == pytest.approx(20 * math.sqrt(8) / math.sqrt(0.02), rel=0.01)  # ‖mean‖²/(2σ²) = 0.01
    assert "the mean lies 56.6 from 0" in away.reasons["sigma_max"]


def test_kl_of_gaussian_data_is_the_textbook_formula() -> None:
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([2.0, 1, 0.5, 3]) + 0.1
    found = levels(made(x))
    p = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov(correction=0) + found.sigma_max**2 * torch.eye(4))
    q = torch.distributions.MultivariateNormal(torch.zeros(4).double(), found.sigma_max**2 * torch.eye(4).double())
    assert found.kl == pytest.approx(float(torch.distributions.kl_divergence(p, q)), rel=1e-3)


def test_white_noise_has_one_scale_only() -> None:
    """Of white Gaussian data nothing but σ_data can be learnt: the centre is ln σ_data."""
    x = 3 * torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    found = levels(made(x))
    assert found.P_mean == pytest.approx(math.log(3), abs=0.05)
    assert found.P_std == 1.2


@pytest.mark.parametrize("n", [64, 4096])
def test_a_coarse_step_is_no_guide(n: int) -> None:
    """Zeros but for four samples: a quarter of the step would be above σ_data. σ_min is EDM's ratio then."""
    x = torch.zeros(n, 8)
    x[-4:] = torch.eye(8)[:4]  # beyond the first 2048
    found = levels(made(x))
    assert found.sigma_min == pytest.approx(found.sigma_data / 250)
    assert "a quarter of 1, the step of the values, is too much" in found.reasons["sigma_min"]
    assert found.sigma_min < math.exp(found.P_mean) < found.sigma_max == pytest.approx(math.sqrt(2), rel=0.01)


def test_samples_told_apart_without_error_do_not_draw_the_centre_down() -> None:
    """Of four points, many times each, all is known at low noise: training gains where σ nears their distances."""
    points = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    apart = torch.pdist(points)
    found = levels(made(points.repeat(16, 1)))
    assert float(apart.min()) / 8 < math.exp(found.P_mean) < float(apart.max())


@pytest.mark.parametrize("name", ["moons", "spirals", "checkerboard", "swiss_roll", "eight_gaussians"])
def test_planar_sets_are_not_looked_at_in_their_detail_alone(name: str) -> None:
    """What is wrong above the detail moves samples far: the centre is within a factor 3 below σ_data, as EDM's is."""
    found = levels(data.TwoDimensional(name, samples=4096).load())  # type: ignore[arg-type]
    assert math.log(found.sigma_data / 3) < found.P_mean < math.log(found.sigma_data)


def test_known_suggestions_stay() -> None:
    """As printed before copies and coarse steps were seen to."""
    for source, smallest, centre in (
        (data.Digits(), 0.03125, -0.8137),
        (data.TwoDimensional("moons"), 0.0012218, -1.4328),
        (data.TwoDimensional("eight_gaussians"), 0.00048919, -1.0763),
    ):
        found = levels(source.load())
        assert found.sigma_min == pytest.approx(smallest, rel=1e-3)
        assert found.P_mean == pytest.approx(centre, abs=1e-3)


# -- the command ------------------------------------------------------------------------------------------------------


def width(file: Path) -> int:
    with Image.open(file) as image:
        return image.size[0]


def run(*args: str) -> Result:
    return CliRunner().invoke(cli.main, ["data", *args])


def fails(*args: str, words: str) -> None:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert words in result.stderr.splitlines()[-1], result.stderr


def test_the_card(tmp_path: Path) -> None:
    result = run("digits", "--out", str(tmp_path / "d.png"))
    assert result.exit_code == 0, result.stderr
    assert "1,797 of shape 1×8×8" in result.stdout
    assert "10: 0 (178)" in result.stdout
    for name in ("sigma_data", "sigma_min", "sigma_max", "P_mean", "P_std"):
        assert f"  {name}" in result.stdout
    assert width(tmp_path / "d.png") >= 8 * 48
    assert [file.name for file in tmp_path.iterdir()] == ["d.png"]
    assert run("digits", "--quiet").output == ""


def test_the_card_in_the_docs_is_what_is_printed() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
    shown = re.search(r"^    patches of .*?(?=^\S)", page, re.S | re.M)
    assert shown is not None
    number = re.compile(r"-?\d[\d,.]*")
    ours, printed = shown[0].split(), run("photo_patches").stdout.split()
    assert [number.sub("#", word) for word in ours] == [number.sub("#", word) for word in printed]
    for one, other in zip(number.findall(" ".join(ours)), number.findall(" ".join(printed)), strict=True):
        a, b = (float(text.rstrip(".,").replace(",", "")) for text in (one, other))
        assert a == pytest.approx(b, rel=0.02, abs=0.01)


@pytest.mark.parametrize("words", ["two_dimensional:samples=200", "signals:samples=50", "fractal:samples=100,forks=2"])
def test_other_pictures(tmp_path: Path, words: str) -> None:
    assert run(words, "--out", str(tmp_path / "x.png")).exit_code == 0
    assert width(tmp_path / "x.png") > 300


def test_the_snippet_is_a_part_of_a_recipe() -> None:
    result = run("two_dimensional:samples=500", "--yaml")
    assert result.exit_code == 0
    tree = yaml.safe_load(result.stdout)
    from edm_unified.recipe import codec
    from edm_unified.recipe.tree import Recipe

    known = codec.parameters(Recipe)
    for name in ("preconditioning", "objective", "sampler"):
        faults: list[Any] = []
        codec.decode(known[name], tree[name], name, faults)
        assert not faults, faults
    assert tree["objective"]["noise"]["P_mean"] < 0


def test_a_recipe_and_a_file_name_their_data(tmp_path: Path) -> None:
    assert run("edm").stdout == run("digits").stdout
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(50, 6)))
    found = run(f"arrays:path={tmp_path / 'a.npy'}").stdout
    assert "50 of shape 6" in found
    assert "per axis" in found
    assert "per channel" not in found
    assert "50 of shape 6" in run("edm", "--set", f"data={{kind: arrays, path: {tmp_path / 'a.npy'}}}").stdout


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    fails("digit", words="digit: neither data nor a recipe; did you mean 'digits'?")
    fails("image_folder:path=/none", words="image_folder:path=/none: path: /none: no such folder")
    fails("image_folder", words="path: missing")
    fails("fractal:forks=99", words="forks: must be a whole number from 0 to 9, got 99")
    fails("digits", "--set", "data.kind=digits", words="digits is no recipe")
    np.savez(tmp_path / "l.npz", x=np.eye(3), y=np.array([0, 10**9, 1]))
    fails(
        f"arrays:path={tmp_path / 'l.npz'},label_key=y",
        words="must be below 1,000,000, got 1000000000 for sample 1; number the classes from 0",
    )
    fails("digits", "--out", str(tmp_path), words="is a directory; name a file")
    np.save(tmp_path / "z.npy", np.random.default_rng(0).uniform(-1, 1, (50, 4, 8, 8)))
    fails(f"arrays:path={tmp_path / 'z.npy'}", "--out", str(tmp_path / "z.png"), words="no picture of samples of shape")
    np.save(tmp_path / "n.npy", np.array([[0.0, np.nan]]))
    fails(f"arrays:path={tmp_path / 'n.npy'}", words="has NaN")
    np.save(tmp_path / "one.npy", np.ones((9, 3)))
    fails(f"arrays:path={tmp_path / 'one.npy'}", "--yaml", words="needs at least 4 samples that differ")
    result = run(f"arrays:path={tmp_path / 'one.npy'}")
    assert result.exit_code == 0
    assert "every number is the same" in result.stdout
    assert "no noise levels to suggest: needs at least 4 samples that differ" in result.stdout
