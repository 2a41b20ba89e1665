"""The house has floors: a module imports from its own floor or from below, never from above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edm_unified

ROOT = Path(edm_unified.__file__).parent

FLOORS = (
    {"components"},
    {"schedules", "denoisers.parametrization"},
    {"denoisers.preconditioning"},
    {"denoisers", "data", "networks"},
    {"sampling"},
    {"sampling.solvers", "sampling.correctors"},
    {"sampling.renoising", "sampling.last_step", "sampling.graphs"},
    {"sampling.loop", "sampling.reference", "training", "likelihood"},
    {"metrics", "interop"},
    {"recipe"},
    {"compare", "report", "certify"},
    {"tuning"},
    {"cli", "__main__"},
)
"""From the ground up. A part of a package that stands on a floor of its own is named beside the package."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))
CORE = {name.split(".")[0] for floor in FLOORS[:9] for name in floor}


def top(path: Path) -> str:
    """The entry of the package that a file belongs to: ``sampling/solvers/rows.py`` is part of ``sampling``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def place(dotted: str) -> str:
    """The name on a floor that a module belongs to: ``sampling.solvers.rows`` to ``sampling.solvers``."""
    first_two = ".".join(dotted.split(".")[:2])
    return first_two if first_two in FLOOR else dotted.split(".")[0]


def imports(path: Path, all_levels: bool = True) -> list[tuple[str, int]]:
    """Absolute dotted names that the file imports, with the line; inside functions too if ``all_levels``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ("edm_unified", *path.relative_to(ROOT).parts[:-1])
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree) if all_levels else tree.body:
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # "from edm_unified.sampling import solvers" imports the module solvers
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def test_every_module_has_a_floor() -> None:
    known = {top(path) for path in FILES} - {"__init__"}
    assert known <= set(FLOOR), f"give these a floor: {sorted(known - set(FLOOR))}"


def test_no_arrow_goes_up() -> None:
    for path in [p for p in FILES if top(p) != "__init__"]:
        arrows_go_down(path)


def arrows_go_down(path: Path) -> None:
    here = place(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name, line in imports(path):
        package, _, inside = name.partition(".")
        there = place(inside)
        if package != "edm_unified" or there not in FLOOR:
            continue
        assert FLOOR[there] <= FLOOR[here], f"{path.name}:{line}: {here} imports {there}, which is a floor above"


def test_every_floor_exists() -> None:
    for name in FLOOR:
        assert (ROOT / name.replace(".", "/")).is_dir() or (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


@pytest.mark.parametrize("here", ["training", "networks"])
def test_training_knows_no_sampler(here: str) -> None:
    """The thesis of EDM: what fixes D and what uses D are separate choices."""
    for path in [p for p in FILES if top(p) == here]:
        used = {name.split(".")[1] for name, _ in imports(path) if name.startswith("edm_unified.")}
        assert "sampling" not in used, path


def test_the_core_is_light() -> None:
    """Recipes validate with pydantic and the CLI speaks with click and rich; the mathematics needs neither."""
    for path in [p for p in FILES if top(p) in CORE]:
        is_light(path)


def is_light(path: Path) -> None:
    heavy = {"pydantic", "click", "rich", "yaml", "matplotlib", "tqdm"}
    used = {name.split(".")[0] for name, _ in imports(path)}
    assert not used & heavy, (path, used & heavy)


def test_only_the_cli_prints_reads_argv_or_exits() -> None:
    for path in [p for p in FILES if top(p) not in {"cli", "__main__"}]:
        is_silent(path)


def is_silent(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "exit", "quit", "input"}, f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in {"argv", "exit", "stdout", "stderr"}, f"{path.name}:{node.lineno}"


def test_importing_the_package_does_not_import_torch() -> None:
    """``--help`` answers in under half a second because nothing is imported before it is used."""
    top_level = [name.split(".")[0] for name, _ in imports(ROOT / "__init__.py", all_levels=False)]
    assert set(top_level) <= {"__future__", "importlib", "typing"}


def test_the_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_floors.ROOT", tmp_path)
    (tmp_path / "training").mkdir()
    bad = tmp_path / "training" / "loop.py"
    bad.write_text(
        "from ..sampling.solvers import rows\nfrom edm_unified import cli\nimport edm_unified.sampling.loop\n"
    )
    assert imports(bad) == [
        ("edm_unified.sampling.solvers.rows", 1),
        ("edm_unified.cli", 2),
        ("edm_unified.sampling.loop", 3),
    ]
    with pytest.raises(AssertionError, match=r"loop.py:2: training imports cli"):
        arrows_go_down(bad)
