"""One registry: what the annotations of the tree say is all that the command line, the schema and the lists know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

import edm_unified
from edm_unified.components import shipped
from edm_unified.recipe import Sampler, codec, index
from edm_unified.recipe.catalogue import recipe_fields

PACKAGE = Path(edm_unified.__file__).parent


def test_the_index_is_that_of_the_annotations() -> None:
    for name, text in index.build().items():
        kept = (shipped.INDEX / name).read_text("utf-8")
        assert json.loads(kept) == json.loads(text), f"{name} is out of date: python -m edm_unified.recipe.index"


def test_every_field_of_a_sampler_has_an_option() -> None:

    options = {field.path: field.option for field in recipe_fields()}
    assert all(options[f"sampler.{name}"] for name in codec.parameters(Sampler))


@pytest.mark.parametrize("command", ["list heun", "show heun"])
def test_a_component_has_a_page(command: str) -> None:
    code, out, _ = run(*command.split())
    assert code == 0
    assert out.startswith("heun  (solvers)\n  sampler.solver: {kind: heun}, or --solver heun\n\n")
    assert "Algorithm 1" in out


def test_a_page_tells_parameters_defaults_and_formulas() -> None:
    code, out, _ = run("list", "churn")
    assert code == 0
    assert "  sampler.renoising: {kind: churn}, or --renoising churn\n" in out
    assert "  S_churn" in out
    assert "a number" in out
    assert "default" in out
    assert "to be given" in run("list", "classifier_free")[1]  # w


def test_a_kind_of_several_families_has_several_pages_and_a_recipe_comes_first() -> None:
    code, out, _ = run("list", "edm")
    assert code == 0
    assert [f"edm  ({family})" in out for family in ("schedules", "preconditioning", "weights")] == [True] * 3
    assert run("show", "edm")[1].startswith("EDM")


def test_metrics_are_listed_and_explained() -> None:
    code, out, _ = run("list", "metrics")
    assert code == 0
    assert all(f"\n  {name}\n" in out for name in ("error_median", "frechet", "precision"))
    assert "Fréchet" in run("list", "frechet")[1]


def test_lists_fit_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("list")
    assert code == 0
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_a_wrong_name_is_one_line() -> None:
    assert run("list", "solver") == (2, "", "Error: list: no family 'solver'; did you mean 'solvers'?\n")
    code, _, err = run("list", "qqqqq")
    assert code == 2
    assert "choose from recipes, schedules, " in err


def test_the_card_of_a_recipe_that_was_changed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shipped.recipes_folder(), tmp_path / "recipes")
    monkeypatch.setattr(shipped, "recipes_folder", lambda: tmp_path / "recipes")
    assert shipped.card("edm") is not None
    file = tmp_path / "recipes" / "edm.yaml"
    file.write_text(file.read_text("utf-8").replace("n: 18", "n: 7"), "utf-8")
    assert shipped.card("edm") is None
    assert "13 evaluations of D in 7 steps" in run("show", "edm")[1]


TOY = '''
@component
class Toy:
    """A toy: the level half way down.

    Steps as a toy would.
    """

    wheels: int = 4
    kind: Literal["toy"] = "toy"

    def walk(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        return levels


AnyRenoising = '''

SCRIPT = """
import json
from click.testing import CliRunner
from click.shell_completion import ShellComplete
from edm_unified.recipe import Sampler, codec, index
index.write()
from edm_unified.cli import main
from edm_unified.recipe import loads, Recipe
import edm_unified
def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
base = Recipe.load("edm").dump()
assert loads(base, overrides=["sampler.renoising.kind=toy"]).sampler.renoising.wheels == 4
assert loads(base, overrides=["sampler.bells=3"]).sampler.bells == 3
assert "toy  wheels=4" in run("list", "renoising")
assert "  wheels  a whole number; default 4" in run("show", "toy")
assert "toy" in json.loads(run("schema"))["$defs"]["Toy"]["properties"]["kind"]["const"]
assert "bells" in json.loads(run("schema"))["$defs"]["Sampler"]["properties"]
shown = run("show", "edm", "--renoising", "toy:wheels=6", "--bells", "5", "--yaml")
assert loads(shown).sampler.renoising.wheels == 6 and loads(shown).sampler.bells == 5
for command in ("show", "sample", "likelihood", "compare"):
    assert "--bells" in run(command, "--help") and "--renoising" in run(command, "--help"), command
found = ShellComplete(main, {}, "edm-unified", "X").get_completions(["sample", "edm", "--renoising"], "to")
assert [item.value for item in found] == ["toy"]
"""


def test_a_component_is_its_class_and_its_name_in_a_union_and_an_option_one_field(tmp_path: Path) -> None:
    """In a copy of the package: a toy in the union of renoisings, and a toy field of the sampler; nothing else."""
    package = tmp_path / "edm_unified"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    if not (package / "_recipes").exists():
        shutil.copytree(shipped.recipes_folder(), tmp_path / "recipes")
    for file, old, new in (
        ("sampling/renoising.py", "\nAnyRenoising = ", TOY + "Toy | "),
        ("recipe/tree.py", "    added_later: ClassVar[tuple[str, ...]] = (\"analytic_start\"",
         "    bells: int = 1\n    added_later: ClassVar[tuple[str, ...]] = (\"bells\", \"analytic_start\""),
    ):  # fmt: skip
        text = (package / file).read_text("utf-8")
        assert text.count(old) == 1
        (package / file).write_text(text.replace(old, new), "utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, cwd=tmp_path, env=environment)
