"""Components of one's own for one call: --plugin, and edm.plugin in Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

import edm_unified as edm
from edm_unified import cli
from edm_unified.compare.problem import Problem, Settings
from edm_unified.components import plugins, shipped
from edm_unified.recipe import loads
from edm_unified.recipe.json_schema import json_schema

MINE = '''
from __future__ import annotations

from typing import Literal

import torch

import edm_unified as edm


@edm.component
class ByHand:
    """Euler's method, by hand."""

    factor: float = 1.0
    kind: Literal["by_hand"] = "by_hand"

    def init(self, axis, walk):
        return None

    def step(self, dynamics, x, a, b, state, randn):
        return x + self.factor * (b.sigma - a.sigma) * dynamics.velocity(x, a), state


class Shaken:
    def init(self, axis, walk):
        return None

    def step(self, dynamics, x, a, b, state, randn):
        return x + (b.sigma - a.sigma) * dynamics.velocity(x, a) + 0 * b.sigma + b.sigma * randn(), state


class Quiet:
    def init(self, axis, walk):
        return None

    def step(self, dynamics, x, a, b, state, randn):
        return x + (b.sigma - a.sigma) * dynamics.velocity(x, a), state


@edm.component
class Halving:
    """Levels that are halved."""

    n: int = 4
    kind: Literal["halving"] = "halving"

    def levels(self, schedule):
        return torch.tensor([2.0 * 0.5**i for i in range(self.n)] + [0.0], dtype=torch.float64)


@edm.component
class Plane:
    """Points in the plane."""

    n: int = 40
    kind: Literal["plane"] = "plane"

    def load(self):
        return edm.data.Dataset(torch.randn(self.n, 2, generator=torch.Generator().manual_seed(0)), None, "a plane")


@edm.component
class Tiny:
    """A linear network."""

    kind: Literal["tiny"] = "tiny"

    def build(self, shape, classes, augment):
        return Linear(shape[0])


class Linear(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner = torch.nn.Linear(size, size)

    def forward(self, x, noise, label=None, augment=None):
        return self.inner(x)


def gap(x, target):
    """The distance of the means."""
    return (x.mean(0) - target.mean(0)).norm()


METRICS = {"gap": gap}
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab/mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, list(map(str, words)))


def test_a_plugin_is_in_everything_and_gone_afterwards(here: Path) -> None:
    before, schema = shipped.index(), json_schema()
    searched = list(sys.path)
    with edm.plugin("mylab/mine.py"):
        assert "by_hand" in shipped.kinds("solvers")
        assert "gap" in shipped.index()["metrics"]
        # a recipe by its text, an override, options of a component
        recipe = edm.Recipe.load("edm", ["sampler.solver.kind=by_hand", "sampler.steps.kind=halving", "data.kind=plane",
                                         "denoiser={kind: gaussian}", "sampler.solver.factor=1.0"])  # fmt: skip
        assert loads(recipe.dump()) == recipe
        plain = edm.Recipe.load("edm", ["sampler.solver.kind=euler", "sampler.steps.kind=halving", "data.kind=plane",
                                        "denoiser={kind: gaussian}"])  # fmt: skip
        torch.testing.assert_close(recipe.sample(3), plain.sample(3), rtol=0, atol=1e-12)
        x = torch.ones(4, 2, dtype=torch.float64)
        found = Problem(recipe, Settings(), {}).measure(x, "gap")
        assert found.value == pytest.approx(float((1 - Problem(recipe, Settings(), {}).target.mean(0)).norm()))
        wide = json_schema()
        names = {name for name in wide["$defs"] if name.startswith("plugin__")}
        assert names == {f"plugin__{one}" for one in
                         ("by_hand__ByHand", "halving__Halving", "plane__Plane", "tiny__Tiny")}  # fmt: skip
        solver = wide["$defs"]["Sampler"]["properties"]["solver"]["anyOf"]
        assert {"$ref": "#/$defs/plugin__by_hand__ByHand"} in solver
        assert "gap" in json.dumps(wide["$defs"]["Comparison"])
    assert shipped.index() == before
    assert json_schema() == schema
    assert sys.path == searched
    assert not [name for name in sys.modules if name.startswith(("_own_", "mylab"))]
    with pytest.raises(ValueError, match="unknown 'by_hand'"):
        edm.Recipe.load("edm", ["sampler.solver.kind=by_hand"])


def test_what_uses_a_plugin_records_it_and_asks_for_it(here: Path) -> None:
    result = run("sample", "edm", "--plugin", "mylab/mine.py", "--solver", "by_hand", "--steps", 3, "--n", 2, "--out",
                 "s", "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    text = (here / "s/recipe.yaml").read_text()
    (record,) = yaml.safe_load(text)["plugins"]
    assert record["name"] == "mylab/mine.py"
    without = run("show", "s/recipe.yaml")
    assert without.exit_code == 2
    assert without.stderr == (
        f"Error: s/recipe.yaml: needs the plugin mylab/mine.py (SHA-256 {record['sha256'][:12]}…); give --plugin "
        "mylab/mine.py: no recipe or run imports code by itself\n"
    )
    given = run("show", "s/recipe.yaml", "--plugin", "mylab/mine.py")
    assert (given.exit_code, given.stderr) == (0, "")
    (here / "mylab/mine.py").write_text(MINE + "\n# changed\n")
    changed = run("show", "s/recipe.yaml", "--plugin", "mylab/mine.py")
    assert changed.exit_code == 0
    assert changed.stderr == "note: s/recipe.yaml: mylab/mine.py is not as it was when this was written\n"
    # another choice in its place needs no plugin, and what is written names none
    other = run("show", "s/recipe.yaml", "--set", "sampler.solver=heun", "--yaml")
    assert yaml.safe_load(other.stdout)["plugins"] == []


def test_a_run_with_a_network_of_a_plugin_asks_for_it(here: Path) -> None:
    result = run("train", "toy/train_2d", "--plugin", "mylab/mine.py", "--set", "network={kind: tiny}", "--set",
                 "training.images=256", "--set", "training.batch=128", "--set", "training.save_every=256", "--out",
                 "run", "-q")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    with pytest.raises(ValueError, match=r"run: needs the plugin mylab/mine\.py .* give --plugin"):
        edm.load("run")
    with edm.plugin("mylab/mine.py"):
        assert edm.load("run").shape == (2,)


def test_a_class_that_is_named_needs_no_kind_and_whether_it_draws_noise_is_found(here: Path) -> None:
    with edm.plugin("mylab.mine:Shaken"), edm.plugin("mylab.mine:Quiet"), edm.plugin("mylab.mine:ByHand"):
        kinds = {cls.kind: cls.stochastic for plugin in plugins.ACTIVE for _, cls in plugin.members}
    assert kinds == {"shaken": True, "quiet": False, "by_hand": False}
    result = run("certify", "--plugin", "mylab.mine:Quiet", "--json")
    assert json.loads(result.stdout)["solver"] == "Quiet"


@pytest.mark.parametrize(
    ("content", "words", "fault"),
    [
        (None, "nowhere.py", "no such file"),
        (None, "nowhere:Mine", "No module named 'nowhere'; run this in the folder that holds it"),
        ("raise RuntimeError('two\\nlines')", "x.py", "its import raised RuntimeError: two lines"),
        ("def (", "x.py", "its import raised SyntaxError: "),
        ("import sys; sys.exit(3)", "x.py", "its import raised SystemExit: 3"),
        ("x = 1", "x.py", "has no components; write classes with @edm.component and a kind"),
        ("x = 1", "x.py:y", "has no 'y'; choose from x"),
        ("x = 1", "x.py:", "write it as FILE.py or MODULE"),
        (MINE.replace('"by_hand"', '"heun"'), "x.py", "the kind 'heun' is taken among solvers; give it another"),
        (MINE.replace('"gap"', '"frechet"'), "x.py", "METRICS: the name 'frechet' is taken"),
        ("class A:\n    def __init__(self, n):\n        self.n = n\n    def levels(self, s):\n        pass", "x.py:A",
         "A: has an __init__ of its own; write its parameters as fields, by @edm.component"),
        ("class A:\n    pass", "x.py:A", "A: of no family that is known; say which by a line family"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plugin_is_one_line(
    content: str | None, words: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("x.py").write_text(content)
    result = run("list", "solvers", "--plugin", words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: --plugin {words}: ")
    assert fault in result.stderr
    assert result.stderr.count("\n") == 1
    assert plugins.ACTIVE == []


def test_a_broken_option_after_a_plugin_leaves_nothing_behind(here: Path) -> None:
    result = run("sample", "edm", "--plugin", "mylab/mine.py", "--solver", "by_hnd")
    assert "did you mean 'by_hand'?" in result.stderr
    assert plugins.ACTIVE == []
