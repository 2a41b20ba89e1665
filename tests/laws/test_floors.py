"""The house has floors: a module imports from its own floor or from below, never from above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edm_unified

ROOT = Path(edm_unified.__file__).parent

FLOORS = (
    {"_component", "_files", "_shipped", "streams"},
    {"schedules", "parametrization"},
    {"preconditioning"},
    {"denoiser", "exact", "guidance", "thresholding", "data"},
    {"dynamics", "discretization", "renoising", "analytic_starts"},
    {"solvers", "correctors"},
    {"sampling", "reference_solution", "training", "networks", "likelihood", "interop"},
    {"metrics", "denoisers", "guidances"},
    {"recipe"},
    {"compare", "report", "certify"},
    {"cli", "__main__"},
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))
CORE = {name for floor in FLOORS[:8] for name in floor}


def top(path: Path) -> str:
    """The module of design.md that a file belongs to: ``solvers/linear.py`` is part of ``solvers``."""
    parts = path.relative_to(ROOT).parts
    return parts[0].removesuffix(".py")


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
            # "from edm_unified import solvers" imports the module solvers
            found += [
                (f"{module}.{alias.name}" if module == "edm_unified" else module, node.lineno) for alias in node.names
            ]
    return found


def test_every_module_has_a_floor() -> None:
    known = {top(path) for path in FILES} - {"__init__"}
    assert known <= set(FLOOR), f"give these a floor: {sorted(known - set(FLOOR))}"


@pytest.mark.parametrize("path", [p for p in FILES if top(p) != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_arrow_goes_up(path: Path) -> None:
    here = top(path)
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "edm_unified" or len(parts) < 2 or parts[1] not in FLOOR:
            continue
        assert FLOOR[parts[1]] <= FLOOR[here], f"{path.name}:{line}: {here} imports {parts[1]}, which is a floor above"


@pytest.mark.parametrize("here", ["training", "networks"])
def test_training_knows_no_sampler(here: str) -> None:
    """The thesis of EDM: what fixes D and what uses D are separate choices."""
    for path in [p for p in FILES if top(p) == here]:
        used = {name.split(".")[1] for name, _ in imports(path) if name.startswith("edm_unified.")}
        assert not used & {"solvers", "sampling", "renoising", "discretization", "correctors", "dynamics"}, path


@pytest.mark.parametrize("path", [p for p in FILES if top(p) in CORE], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_is_light(path: Path) -> None:
    """Recipes validate with pydantic and the CLI speaks with click and rich; the mathematics needs neither."""
    heavy = {"pydantic", "click", "rich", "yaml", "matplotlib", "tqdm"}
    used = {name.split(".")[0] for name, _ in imports(path)}
    assert not used & heavy, used & heavy


@pytest.mark.parametrize(
    "path", [p for p in FILES if top(p) not in {"cli", "__main__"}], ids=lambda p: str(p.relative_to(ROOT))
)
def test_only_the_cli_prints_reads_argv_or_exits(path: Path) -> None:
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
    bad.write_text("from ..solvers.linear import row\nfrom edm_unified import cli\nimport edm_unified.sampling\n")
    assert imports(bad) == [("edm_unified.solvers.linear", 1), ("edm_unified.cli", 2), ("edm_unified.sampling", 3)]
    with pytest.raises(AssertionError, match=r"loop.py:2: training imports cli"):
        test_no_arrow_goes_up(bad)
