"""The likelihood command: what it prints and writes, and its refusals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from edm_unified import data
from edm_unified.cli import main

QUICK = ("--n", "2", "--rk4-steps", "6", "--sigma-min", "0.1", "--sigma-max", "20")


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["likelihood", *arguments], catch_exceptions=False)


def test_it_prints_what_the_numbers_mean_and_writes_them(tmp_path: Path) -> None:
    result = run("edm", "--dequantize", "uniform", *QUICK, "--encode", "--out", str(tmp_path / "a.jsonl"))
    assert result.exit_code == 0, result.stderr
    for words in ("bits/dim", "+ 3.0000, log₂ 8", "closed form", "24 of D", "decoded again", "N(mean, sigma_max²"):
        assert words in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert rows[0]["bits_per_dim"] == pytest.approx(3 - rows[0]["nats"] / (64 * math.log(2)))
    # the same sample in another run, from the middle, one at a time
    again = run(
        "edm", "--dequantize", "uniform", *QUICK, "--first", "1", "--batch", "1", "--out", str(tmp_path / "b.npy")
    )
    assert again.exit_code == 0
    assert float(np.load(tmp_path / "b.npy")[0]) == pytest.approx(rows[1]["nats"], rel=1e-9)


def test_the_error_of_the_prior_is_stated_on_average_and_for_single_samples() -> None:
    """From 1/(4σ⁴): at twice the σ_max a quarter of the square root, which is what single samples are off."""
    found = []
    for sigma_max in ("20", "40"):
        words = " ".join(run("edm", "--dequantize", "none", *QUICK[:-1], sigma_max).stdout.split())
        found.append(re.search(r"off by about (\S+) bits/dim on average, up to (\S+) for single samples", words))
    (mean, single), (mean2, single2) = (tuple(map(float, match.groups())) for match in found if match)
    assert mean2 == pytest.approx(mean / 16, rel=0.05)
    assert single2 == pytest.approx(single / 4, rel=0.05)
    assert single == pytest.approx(3 * math.sqrt(2 * mean / (64 * math.log(2))), rel=0.05)


def test_the_bound_has_its_terms_and_takes_a_stochastic_recipe() -> None:
    result = run("ddpm", "--bound", "--dequantize", "none", "--n", "4", "--points", "8")
    assert result.exit_code == 0, result.stderr
    for words in ("variational bound", "diffusion", "decoder", "standard error"):
        assert words in result.stdout
    assert run("ddpm", "--ode", "--dequantize", "none", *QUICK).exit_code == 0


def test_a_low_sigma_max_warns_with_the_size_of_the_error() -> None:
    words = ("edm", "--dequantize", "none", "--n", "4", "--rk4-steps", "4", "--sigma-min", "0.1", "--quiet")
    found = []
    for batch in ("1", "4"):
        result = run(*words, "--sigma-max", "2", "--prior", "zero", "--batch", batch)
        assert result.exit_code == 0
        assert result.stdout == ""
        assert "warning: --sigma-max: 2 is low for this prior" in result.stderr
        assert result.stderr.endswith("raise it, or take --prior data\n")
        found.append(result.stderr)
    assert found[0] == found[1]  # it is of all the data, and so the same in any batch
    assert run(*words, "--sigma-max", "80", "--batch", "1").stderr == ""
    assert run(*words, "--sigma-max", "1", "--batch", "1").stderr.endswith("for single samples; raise it\n")


def test_unlikely_data_are_right_by_default(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32))
    result = run("edm", str(tmp_path / "noise.npy"), "--n", "2")
    assert result.exit_code == 0, result.stderr
    gap = re.search(r"largest difference (\S+) bits/dim", result.stdout)
    assert gap is not None
    assert float(gap[1]) < 1e-3  # 64 equal steps are wrong by more than 1


def test_what_is_no_part_of_a_likelihood_is_said() -> None:
    words = ("edm", "--dequantize", "none", *QUICK, "--quiet")
    result = run(*words, "--set", "sampler.guidance={kind: classifier_free, w: 2.0}",
                 "--set", "sampler.threshold={kind: static}")  # fmt: skip
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"warning: sampler.{name}: is no part of a likelihood, which is that of D as it is"
        for name in ("guidance", "threshold")
    ]
    for extra, message in (
        (("--guidance", "classifier_free:w=2"), "--guidance: a likelihood is that of D as it is"),
        (("--tolerance", "1e-4"), "--rk4-steps: are of one length"),
        (("--trace", "exact", "--probes", "3"), "--trace exact: has no probes"),
        (("--sigma-max", "1e20"), "sigma_max: must be at most 1e+08"),
        (("--sigma-min", "1e-20"), "sigma_min: must be at least 1e-08"),
        (("--out", "/proc/x.npy"), "--out /proc/x.npy: /proc cannot be written to"),
        (("--bound", "--sigma-min", "1e-20"), ""),
    ):
        result = run(*words, *extra)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_likelihood_given_the_class_says_so() -> None:
    assert "ln p(x | class; sigma_min" in run("edm", "--dequantize", "none", *QUICK, "--conditional").stdout
    assert "ln p(x; sigma_min" in run("edm", "--dequantize", "none", *QUICK).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["edm"],
            "edm: digits are whole numbers, which have no density; spread them over their bins with --dequantize",
        ),
        (["ddpm", "--dequantize", "none"], "ddpm: sampler.solver: ddpm is stochastic"),
        (["edm_stochastic", "--dequantize", "none"], "sampler.renoising: churn is stochastic"),
        (["edm", "wide.npy"], "wide.npy: "),
        (["edm", "other.npy"], "other.npy: samples of shape (1, 4, 4), but the denoiser is for (1, 8, 8)"),
        (["edm", "nowhere"], "nowhere: neither data nor a file"),
        (["edm", "--dequantize", "none", "--first", "5000"], "--first: 5000 is beyond the 1,797 samples"),
        (["edm", "--dequantize", "none", "--out", "a.txt"], "--out: a.txt must end in .npy or .jsonl"),
        (["edm", "--dequantize", "none", "--sigma-min", "90"], "sigma_min: must be below sigma_max"),
        (["edm", "--dequantize", "none", "--bound", "--probes", "3"], "--probes: it belongs to the ODE"),
        (["edm", "--dequantize", "none", "--points", "3"], "--points: it belongs to --bound; add that"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.full((3, 1, 8, 8), 7.0, dtype=np.float32))
    np.save("other.npy", np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 1, 4, 4))
    result = run(*arguments, "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_bytes_are_whole_numbers_however_they_are_read(tmp_path: Path) -> None:
    """Files that are read one by one come as floating point, and standardised bytes have a scale of their own."""
    grey = np.arange(3 * 64, dtype=np.uint8).reshape(3, 1, 8, 8)
    for i, image in enumerate(grey):
        Image.fromarray(image[0]).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "bytes.npy", np.concatenate([grey // 8, 255 - grey // 8])[:4])  # mostly dark
    np.save(tmp_path / "real.npy", np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 1, 8, 8))
    folder = data.ImageFolder(str(tmp_path), channels=1, in_memory=False).load()
    standardised = data.Arrays(str(tmp_path / "bytes.npy"), standardise=0.5).load()
    assert folder.in_whole_numbers
    assert standardised.in_whole_numbers
    assert not data.Arrays(str(tmp_path / "real.npy")).load().in_whole_numbers
    result = run("edm", f"arrays:path={tmp_path}/bytes.npy", "--dequantize", "uniform", *QUICK)
    assert result.exit_code == 0, result.stderr
    result = run("edm", f"arrays:path={tmp_path}/bytes.npy,standardise=0.5", "--dequantize", "uniform", *QUICK)
    assert "standardise: the scale is that of the denoiser's own data; leave it out" in result.stderr


def test_an_exact_trace_in_3072_dimensions_is_priced() -> None:
    result = run("edm", "--set", "data={kind: photo_patches, size: 32, stride: 64}",
                 "--set", "denoiser={kind: gaussian, rank: 4}", "--dequantize", "none", "--n", "1",
                 "--trace", "exact", "--quiet")  # fmt: skip
    assert result.exit_code == 2
    assert "exact in 3,072 dimensions takes 3,072 backward passes for each evaluation; use trace" in result.stderr
    assert "use trace=hutchinson" in result.stderr


def test_show_draws_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "w.png"
    result = CliRunner().invoke(main, ["show", "edm", "--weights", str(file)])
    assert result.exit_code == 0, result.stderr
    assert file.read_bytes().startswith(b"\x89PNG")
    card = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["show", "edm"]).stdout
    assert "w(ln SNR)" in card
    assert "▇" in card


def test_a_single_level_of_training_has_no_weight_to_draw(tmp_path: Path) -> None:
    one = ("show", "edm", "--set", "objective.noise.kind=one_level")
    card = CliRunner(env={"COLUMNS": "100"}).invoke(main, one)
    assert card.exit_code == 0, card.stderr
    assert "one_level" in card.stdout
    assert "w(ln SNR)" not in card.stdout
    drawn = CliRunner().invoke(main, [*one, "--weights", str(tmp_path / "w.png")])
    assert drawn.exit_code == 2
    assert drawn.stderr == "Error: edm: objective.noise: has a single level, which has no density\n"
