"""The commands: what they print and write, and that they answer before torch is there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from edm_unified import recipe
from edm_unified.cli import COMMANDS, main
from edm_unified.cli.drawing import curve
from edm_unified.cli.show import walk_text
from edm_unified.components import shipped
from edm_unified.components.files import LOCK
from edm_unified.components.output_kinds import MARK, SAMPLES
from edm_unified.components.outputs import OutputDirectory
from edm_unified.recipe import Recipe, codec
from edm_unified.recipe.catalogue import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, width: int = 80) -> str:
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def columns(line: str) -> int:
    """How wide a line is on a terminal: accents that stand on the letter before them take no room."""
    return sum(not unicodedata.combining(character) for character in line)


QUICK = """
import sys
from click.testing import CliRunner
from click.shell_completion import ShellComplete
from edm_unified.cli import main
for arguments in (
    "--help", "--version", "sample --help", "show --help", "compare --help", "list recipes", "list", "list heun",
    "list metrics", "show heun", "show edm", "show quickstart", "schema",
):
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 0, (arguments, result.output)
assert ShellComplete(main, {}, "edm-unified", "X").get_completions(["sample", "edm", "--solver"], "he")
slow = {"torch", "numpy", "scipy", "pydantic", "matplotlib", "sklearn", "rich", "yaml"} & set(sys.modules)
assert not slow, slow
"""


def test_help_and_completion_answer_without_torch() -> None:
    subprocess.run([sys.executable, "-c", QUICK], check=True, cwd=ROOT)


def test_help_lists_every_command_with_its_own_short_help() -> None:
    text = run("--help", width=120)
    for name, (_, short) in COMMANDS.items():
        assert f"  {name}" in text
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name
        assert short in " ".join(text.split())


@pytest.mark.parametrize("part", range(4))
def test_show_fits_the_terminal_and_tells_the_method(part: int) -> None:
    """In quarters of the shipped recipes; on a wide terminal, every third of them."""
    for number, name in enumerate(shipped.recipe_names()[part::4]):
        for width in (80, 120) if number % 3 == 0 else (80,):
            text = run("show", name, width=width)
            assert max(map(columns, text.splitlines())) <= width, name
            found = recipe.load_any(name)
            assert found.hash in text, name
            assert text.startswith(found.title), name
            if isinstance(found, Recipe):
                for formula in {**found.schedule.formulas, **found.preconditioning.formulas}.values():  # type: ignore[union-attr]
                    assert "".join(formula.split()) in "".join(text.split()), name
                assert f"{found.levels[0]:.3g}  " in text, name
                assert "●" in text, name
            else:
                assert all(f"\n{method} " in text for method in found.recipes), name


def test_show_takes_other_parts_and_prints_them_as_yaml() -> None:
    text = run("show", "ddim", "--schedule", "edm", "--solver", "second_order:alpha=0.5", "--steps", "5", "--yaml")
    found = recipe.loads(text)
    assert isinstance(found, Recipe)
    assert found.schedule.kind == "edm"
    assert found.sampler.solver == codec.decode(FAMILIES["solvers"], {"kind": "second_order", "alpha": 0.5}, "", [])
    assert found.levels == Recipe.load("ddim", ["sampler.steps.n=5"]).levels


def test_another_rule_takes_the_number_of_steps_along_unless_it_has_its_own() -> None:
    for rule, n in (("log_linear", 18), ("log_linear:n=7", 7), ("log_linear:sigma_min=0.01", 18)):
        found = recipe.loads(run("show", "edm", "--steps-rule", rule, "--yaml"))
        assert isinstance(found, Recipe)
        assert found.sampler.steps.n == n  # type: ignore[union-attr]


def test_the_walk_marks_rises_and_repeats_and_leaves_out_the_middle() -> None:
    parts = ("--renoising", "corrected:repeats=2", "--corrector", "langevin")
    shown = run("show", "edm", "--set", "sampler.steps={kind: explicit, sigmas: [80, 1, 0.5, 0]}", *parts)
    assert "80  =80  =80  1  =1  =1  0.5  =0.5  =0.5  0" in shown
    assert " ^" in run("show", "edm", "--renoising", "churn:S_churn=40")
    long = walk_text([f"{i:.3g}" for i in range(1000, -1, -1)], 1001, 100)
    assert long.startswith("1e+03  999  998")
    assert long.endswith("1  0   (1001 levels)")
    assert "…" in long
    assert len(long) <= 100


def test_a_curve_is_drawn_from_corner_to_corner() -> None:
    lines = curve([0, 1], [-2, 1], [(0.5, -0.5)], width=40, height=8)
    drawn = [line[8:] for line in lines[:8]]
    assert drawn[-1][0] not in " ●"
    assert len(drawn[0]) == 31  # the upper right corner
    assert drawn[0][-1] not in " ●"
    assert sum(row.count("●") for row in drawn) == 1
    assert all(len(line) <= 40 for line in lines)
    assert [line.split()[0] for line in lines if "┤" in line] == ["10", "1", "0.1", "0.01"]


def test_list_names_every_component_with_its_defaults() -> None:
    text = run("list")
    for family, union in FAMILIES.items():
        assert f"{family}  (" in text
        for kind in codec.components(union):
            assert f"\n  {kind}" in text
    assert "  karras  n=18, sigma_min=0.002, sigma_max=80, rho=7\n" in text
    assert "  restart  intervals=[[0.06, 0.3, 3, 2]], rho=7, S_noise=1\n" in text
    for name in shipped.recipe_names():
        assert f"\n  {name} " in text
    only = run("list", "solvers")
    assert "heun" in only
    assert "karras" not in only


def test_schema_is_json() -> None:
    assert json.loads(run("schema")) == recipe.schema()


def test_sample_writes_an_array_a_picture_the_recipe_and_the_environment(tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "deep" / "er"
    arguments = ["edm", "--n", "5", "--steps", "4", "--set", "denoiser=gaussian", "--seed", "3", "--out", str(out)]
    text = run("sample", *arguments)
    assert text.startswith("5 samples of 1×8×8, 7 evaluations each, in ")
    assert sorted(path.name for path in out.iterdir() if path.name not in (MARK, LOCK)) == [
        "environment.json",
        "recipe.yaml",
        "samples.npy",
        "samples.png",
    ]
    samples = np.load(out / "samples.npy")
    assert samples.shape == (5, 1, 8, 8)
    assert samples.dtype == np.float32
    with Image.open(out / "samples.png") as image:
        assert min(image.size) > 50
    again = recipe.load_any(str(out / "recipe.yaml"))
    assert again == Recipe.load("edm", ["denoiser=gaussian", "sampler.steps.n=4"])
    assert json.loads((out / "environment.json").read_text())["nfe"] == 7

    # the same seed in other batches, and the same run from the recipe that was written
    run(
        "sample",
        str(out / "recipe.yaml"),
        "--n",
        "5",
        "--batch",
        "2",
        "--seed",
        "3",
        "--out",
        str(tmp_path / "b"),
        "-q",
    )
    np.testing.assert_allclose(np.load(tmp_path / "b" / "samples.npy"), samples, atol=1e-6)
    run("sample", *arguments[:-3], "4", "--out", str(tmp_path / "c"), "-q")
    assert np.abs(np.load(tmp_path / "c" / "samples.npy") - samples).max() > 0.1


def test_sample_of_a_class_is_of_that_class(tmp_path: Path) -> None:
    assert run("sample", "edm", "--n", "12", "--steps", "8", "--class", "4", "--set", "denoiser=empirical",
               "--out", str(tmp_path), "--scaled", "--quiet") == ""  # fmt: skip
    data = Recipe.load("edm").data
    assert data is not None
    dataset = data.load()
    images, labels = dataset.images, dataset.labels
    samples = torch.from_numpy(np.load(tmp_path / "samples.npy"))
    nearest = torch.cdist(samples.flatten(1), images.flatten(1)).argmin(1)
    assert labels is not None
    assert (labels[nearest] == 4).all()


def test_what_an_earlier_run_left_does_not_stay_beside_new_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 3)))
    with OutputDirectory(tmp_path / "o", SAMPLES) as output:
        output.write_together({"samples.npy": "old", "labels.npy": "old"})
    run("sample", "edm", "--n", "4", "--steps", "3", "--set", f"data={{kind: arrays, path: {tmp_path / 'x.npy'}}}",
        "--set", "denoiser=gaussian", "--out", str(tmp_path / "o"))  # fmt: skip
    assert np.load(tmp_path / "o" / "samples.npy").shape == (4, 3)
    assert not (tmp_path / "o" / "labels.npy").exists()
    for name, digest in json.loads((tmp_path / "o" / "environment.json").read_text())["sha256"].items():
        assert hashlib.sha256((tmp_path / "o" / name).read_bytes()).hexdigest() == digest


def completions(arguments: str, incomplete: str) -> list[CompletionItem]:
    return ShellComplete(main, {}, "edm-unified", "_EDM_UNIFIED_COMPLETE").get_completions(
        arguments.split(), incomplete
    )


TAB = [
    ("", "s", ["sample", "show", "schema"]),
    ("show", "ed", ["edm", "edm_stochastic"]),
    ("sample", "qu", ["quickstart"]),
    ("compare edm", "flow", ["flow_matching"]),
    ("sample edm --solver", "dpmpp_2m", ["dpmpp_2m", "dpmpp_2m_sde"]),
    ("compare edm --solver", "eul", ["euler", "euler_maruyama"]),
    ("sample edm --schedule", "v", ["ve", "ve_bridge", "vp"]),
    ("compare edm --schedule", "co", ["cosine"]),
    ("show edm --steps-rule", "k", ["karras"]),
    ("list", "solv", ["solvers"]),
    ("list", "heu", ["heun"]),
    ("sample edm --renoising", "ch", ["churn"]),
    ("compare edm --last", "s", ["solver", "stop"]),
]


def test_the_tab_key_knows_commands_recipes_solvers_and_schedules() -> None:
    for arguments, incomplete, expected in TAB:
        assert [item.value for item in completions(arguments, incomplete)] == expected


def test_the_tab_key_falls_back_to_files_for_a_recipe() -> None:
    assert [(item.value, item.type) for item in completions("show", "./my")] == [("./my", "file")]


def test_completion_works_in_bash() -> None:
    line = {"COMP_WORDS": "edm-unified sample edm --solver he", "COMP_CWORD": "4"}
    program = "from edm_unified.cli import main; main(prog_name='edm-unified')"
    assert python(program, ROOT, {"_EDM_UNIFIED_COMPLETE": "bash_complete", **line}) == "plain,heun\n"


def test_the_wheel_brings_the_recipes_along(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        names = archive.namelist()
        scripts = b"".join(archive.read(name) for name in names if name.endswith("entry_points.txt"))
    assert {f"edm_unified/_recipes/{name}.yaml" for name in shipped.recipe_names()} <= set(names)
    assert "edm_unified/py.typed" in names
    assert b"edm-unified = edm_unified.cli:main" in scripts
    program = "import edm_unified as e; print(e.__file__, e.Recipe.load('edm').hash)"
    where, found = python(program, tmp_path, {"PYTHONPATH": str(tmp_path / "installed")}).split()
    assert where.startswith(str(tmp_path))
    assert found == Recipe.load("edm").hash


def python(program: str, folder: Path, environment: dict[str, str]) -> str:
    """What ``program`` prints, run in ``folder``."""
    command = [sys.executable, "-c", program]
    environment = {"HOME": str(folder), **environment}
    return subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout
