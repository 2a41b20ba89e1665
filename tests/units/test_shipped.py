"""Shipped recipes by name: those in folders too, in the list, on the Tab key, and beside a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edm_unified.cli import main
from edm_unified.cli.options import complete_recipe
from edm_unified.components import shipped
from edm_unified.recipe import Recipe, load_any


def test_recipes_in_folders_come_last_under_their_folder() -> None:
    names = shipped.recipe_names()
    nested = [name for name in names if "/" in name]
    assert {"toy/mixture_2d", "toy/mixture_16d", "toy/mixture_64d"} <= set(nested)
    assert names[-len(nested) :] == nested
    for name in names:
        assert shipped.find(name) == shipped.recipes_folder() / f"{name}.yaml"
        assert shipped.titles()[name]


def test_list_and_show_take_the_same_names() -> None:
    listed = CliRunner().invoke(main, ["list", "recipes"]).stdout
    assert all(f"\n  {name} " in listed for name in shipped.recipe_names())
    shown = CliRunner().invoke(main, ["show", "toy/mixture_2d"])
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("EDM on a mixture of 6 Gaussians in 2 dimensions")


def test_the_tab_key_goes_into_folders() -> None:
    found = [item.value for item in complete_recipe(None, None, "toy/mixture_1")]  # type: ignore[arg-type]
    assert found == ["toy/mixture_16d"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy/mixture_2", "toy/mixture_2: no such recipe; did you mean 'toy/mixture_2d'?"),
        ("mixture_2d", "mixture_2d: no such recipe; did you mean 'toy/mixture_2d'?"),
        ("my/mixture_2d.yaml", "my/mixture_2d.yaml: no such file; the shipped recipe is called 'toy/mixture_2d'"),
        ("toy", "toy: no such recipe; see `edm-unified list recipes`"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such") as caught:
        shipped.find(name)
    assert str(caught.value) == words


def test_a_folder_of_ones_own_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy" / "mixture_2d").mkdir(parents=True)  # a run, say
    assert shipped.find("toy/mixture_2d") == Path("toy/mixture_2d")
    (tmp_path / "edm").mkdir()  # and the folder of --out edm does not hide the recipe
    assert shipped.find("edm") == shipped.recipes_folder() / "edm.yaml"


def test_a_comparison_names_shipped_recipes_and_files_beside_it(tmp_path: Path) -> None:
    comparison = str(tmp_path / "mine.yaml")
    for name in ("edm", "toy/mixture_2d"):
        assert shipped.relative_to(comparison, name) == name
    assert shipped.relative_to(comparison, "sub/one.yaml") == str(tmp_path / "sub" / "one.yaml")
    assert shipped.relative_to("solver_atlas", "toy/mixture_2d.yaml") == str(shipped.find("toy/mixture_2d"))
    assert isinstance(load_any("toy/mixture_2d"), Recipe)
