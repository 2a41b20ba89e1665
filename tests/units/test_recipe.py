# ruff: noqa: E501  (messages are compared whole, and read best in one piece)
"""Recipes: what is read, what is refused and in which words, and that nothing else can happen."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from edm_unified import data, discretization, renoising, schedules, solvers
from edm_unified.components import shipped
from edm_unified.recipe import (
    Comparison,
    Recipe,
    RecipeError,
    codec,
    from_tree,
    load_any,
    loads,
    parse_component,
    reader,
    replace,
    schema,
)
from edm_unified.recipe.catalogue import FAMILIES, summary
from edm_unified.sampling.solvers import AnySolver
from edm_unified.schedules import AnySchedule
from edm_unified.training.optimization import optimizers
from edm_unified.training.optimization.ema import HalfLife

EDM = codec.encode(Recipe.load("edm"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The tree of the recipe edm with one value replaced (or added)."""

    def put(tree: dict[str, Any], keys: list[str]) -> dict[str, Any]:
        return tree | {keys[0]: value if len(keys) == 1 else put(tree[keys[0]], keys[1:])}

    return put(EDM, path.split("."))


def without(path: str) -> dict[str, Any]:
    *above, last = path.split(".")
    tree = changed(path, None)
    here = tree
    for key in above:
        here = here[key]
    del here[last]
    return tree


def refusal(tree: dict[str, Any], overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(RecipeError) as caught:
        from_tree(tree, "r.yaml", overrides)
    return str(caught.value)


FAULTS: list[tuple[str, Any, str]] = [
    ("sampler.solver.kind", "hein", "sampler.solver.kind: unknown 'hein'; did you mean 'heun'?"),
    ("sampler.solver.kind", "Heun", "sampler.solver.kind: unknown 'Heun'; did you mean 'heun'?"),
    ("sampler.solver.kind", 3, (
        f"sampler.solver.kind: unknown 3; `edm-unified list` names all {len(codec.components(AnySolver))}"
    )),
    ("schedule.kind", 3, (
        f"schedule.kind: unknown 3; `edm-unified list` names all {len(codec.components(AnySchedule))}"
    )),
    ("sampler.solver", "heun", "sampler.solver: must be a mapping such as {kind: heun}, got 'heun'"),
    ("sampler.solver", None, "sampler.solver: must be a mapping such as {kind: euler}, got null"),
    ("sampler.steps.sgima_min", 1.0, (
        "sampler.steps.sgima_min: unknown key; did you mean 'sigma_min'? (karras takes n, sigma_min, sigma_max, rho)"
    )),
    ("sampler.solver.alpha", 0.5, "sampler.solver.alpha: unknown key; heun takes nothing"),
    ("sampler.steps.n", 18.0, "sampler.steps.n: must be a whole number, got 18.0"),
    ("sampler.steps.n", True, "sampler.steps.n: must be a whole number, got true"),
    ("sampler.steps.n", 0, "sampler.steps.n: must be a whole number from 1 to 1,000,000, got 0"),
    ("sampler.steps.n", -3, "sampler.steps.n: must be a whole number from 1 to 1,000,000, got -3"),
    ("sampler.steps.n", 10**12, "sampler.steps.n: must be a whole number from 1 to 1,000,000, got 1000000000000"),
    ("sampler.steps.rho", "7", "sampler.steps.rho: must be a number, got '7'; remove the quotes"),
    ("sampler.steps.rho", "seven", "sampler.steps.rho: must be a number, got 'seven'"),
    ("sampler.steps.rho", True, "sampler.steps.rho: must be a number, got true"),
    ("sampler.steps.rho", None, "sampler.steps.rho: must be a number, got null"),
    ("sampler.steps.rho", math.nan, "sampler.steps.rho: must be positive and finite, got nan"),
    ("sampler.steps.sigma_max", math.inf, "sampler.steps.sigma_max: must be positive and finite, got inf"),
    ("sampler.steps.sigma_min", 100, "sampler.steps.sigma_min: must be below sigma_max, got 100.0 against 80.0"),
    ("sampler", [], "sampler: must be a mapping, got []"),
    ("title", 7, "title: must be text, got 7"),
    ("tilte", "x", (
        "tilte: unknown key; did you mean 'title'? "
        "(recipe takes title, source, schedule, sampler, denoiser, data, preconditioning, objective, network, training, plugins)"
    )),
    ("objective.noise.kind", "log_norml", "objective.noise.kind: unknown 'log_norml'; did you mean 'log_normal'?"),
    ("denoiser.covariance", "ful", "denoiser.covariance: unknown 'ful'; did you mean 'full'?"),
    ("denoiser.rank", "many", "denoiser.rank: must be a whole number or null, got 'many'"),
    ("sampler.renoising", {"kind": "restart", "intervals": [[0.06, 0.3, 3]]}, (
        "sampler.renoising.intervals: item 0: must be [sigma_min, sigma_max, n, repeats], got [0.06, 0.3, 3]"
    )),
    ("sampler.renoising", {"kind": "restart", "intervals": [[0.3, 0.06, 3, 2]]}, (
        "sampler.renoising.intervals.sigma_min: must be below intervals.sigma_max, got 0.3 against 0.06"
    )),
    ("sampler.renoising", {"kind": "corrected"}, (
        "sampler.corrector: missing; the walk repeats levels: add corrector: {kind: langevin}"
    )),
    ("sampler.steps", {"kind": "explicit", "sigmas": [80, 1, 1, 0]}, (
        "sampler.steps.sigmas: must fall, but level 2 is 1.0 after 1.0"
    )),
    ("sampler.steps", {"kind": "explicit", "sigmas": [math.inf, 1, 0]}, (
        "sampler.steps.sigmas: inf cannot be started from; use a large finite level such as 1e6"
    )),
    ("sampler.steps", {"kind": "explicit", "sigmas": [80, "1", 0]}, "sampler.steps.sigmas: item 1: must be a number, got '1'; remove the quotes"),
    ("sampler.steps", {"kind": "table"}, (
        "sampler.steps.table: EDM is not a table of betas; set table, or choose another rule"
    )),
    ("sampler.steps", {"kind": "uniform_time"}, (
        "sampler.steps.sigma_max: the time axis of EDM has no end of its own; give sigma_max or t_max"
    )),
    ("sampler.steps", {"kind": "table", "table": {"betas": "liner"}}, (
        "sampler.steps.table.betas: unknown 'liner'; did you mean 'linear'?"
    )),
    ("schedule", {"kind": "beta_table", "betas": "scaled_linear", "beta_end": 1e-2}, (
        "sampler.steps: 80 is beyond this schedule (BetaTable), which ends at 6.32118; lower sigma_max"
    )),
]  # fmt: skip


def test_a_fault_is_one_line_with_its_path_and_a_remedy() -> None:
    for path, value, message in FAULTS:
        assert refusal(changed(path, value)) == f"r.yaml: {message}"


def test_a_missing_key_is_named_with_what_belongs_there() -> None:
    assert refusal(without("source")) == "r.yaml: source: missing; must be text"
    assert (
        refusal(without("sampler.solver")) == "r.yaml: sampler.solver: missing; must be a mapping such as {kind: euler}"
    )
    assert refusal(without("schedule.kind")).startswith("r.yaml: schedule.kind: missing; `edm-unified list` names all ")


def test_of_several_faults_the_first_is_told_and_the_others_are_counted() -> None:
    tree = changed("sampler.steps", {"kind": "karras", "n": "many", "roh": 7, "sigma_min": True})
    assert refusal(tree) == (
        "r.yaml: sampler.steps.roh: unknown key; did you mean 'rho'? (karras takes n, sigma_min, sigma_max, rho) (and 2 more)"
    )


NOT_YAML = [
    ("", "r: is empty; `edm-unified show edm` shows a complete recipe"),
    ("# a comment\n", "r: is empty; `edm-unified show edm` shows a complete recipe"),
    ("- a\n- b\n", "r: must be a mapping of keys to values, got a list"),
    ("edm", "r: must be a mapping of keys to values, got the single value 'edm'"),
    ("title: [1, 2", "r: line 1, column 13: not YAML: expected ',' or ']', but got '<stream end>'"),
    ("title: x\n\tsource: y\n", "r: line 2, column 1: not YAML: found character '\\t' that cannot start any token"),
    ("title: x\ntitle: y\n", "r: line 2, column 1: the key 'title' is given twice"),
    ("a:\n  n: 1\n  n: 2\n", "r: line 3, column 3: the key 'n' is given twice"),
    ("1: x\n", "r: line 1, column 1: a key must be plain text"),
    ("[a]: x\n", "r: line 1, column 1: a key must be plain text"),
    ("a: &b [x]\nc: *b\n", "r: line 1, column 4: anchors and aliases (& and *) are not read; write the value out"),
    ("a: !!python/object:os.system x\n", "r: line 1, column 4: tags such as tag:yaml.org,2002:python/object:os.system are not read; remove it"),
    ("a: 1\n---\nb: 2\n", "r: line 2, column 1: not YAML: but found another document"),
    ("a: " + "[" * 500 + "]" * 500, "r: line 1, column 43: nested more than 40 deep"),
    ("a: \x07\n", "r: not YAML: a control character, U+0007, at position 3"),
]  # fmt: skip


def test_what_is_not_a_plain_yaml_mapping_is_refused_with_the_line() -> None:
    for text, message in NOT_YAML:
        with pytest.raises(RecipeError) as caught:
            loads(text, "r")
        assert str(caught.value) == message, text


SCALARS = {
    "1e-3": 1e-3, "1E3": 1e3, ".5": 0.5, "-2.": -2.0, ".inf": math.inf, "-.inf": -math.inf, "007": 7, "1_000": "1_000",
    "0x10": "0x10", "1:30": "1:30", "no": "no", "on": "on", "true": True, "False": False, "null": None, "~": None,
    "2024-01-01": "2024-01-01", "=": "=", "<<": "<<", "nan": "nan",
}  # fmt: skip


def test_scalars_follow_the_core_schema_of_yaml() -> None:
    for text, value in SCALARS.items():
        found = reader.parse(f"a: {text}", "r")["a"]
        assert (found, type(found)) == (value, type(value)), text


def test_files_that_cannot_be_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.yaml").write_bytes(b"title: x\nsource: Schr\xf6dinger\n")
    Path("large.yaml").write_text("# " + "x" * reader.MOST_BYTES)
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    messages = {
        "latin.yaml": "latin.yaml: line 2: not UTF-8 text; save the file as UTF-8",
        "large.yaml": "large.yaml: larger than 1 MB; a recipe is a few lines of YAML",
        "folder.yaml": "folder.yaml: is a directory; name a recipe file (.yaml) in it",
        ".": ".: is a directory; name a recipe file (.yaml) in it",
        "loop.yaml": "loop.yaml: cannot be read: Too many levels of symbolic links",
        "absent.yaml": "absent.yaml: no such file; `edm-unified list recipes` names the shipped ones",
        "my/edm.yaml": "my/edm.yaml: no such file; the shipped recipe is called 'edm'",
        "/dev/zero": "/dev/zero: is a device, not a file; save what it gives to a file and name that",
        "/dev/null": "/dev/null: is a device, not a file; save what it gives to a file and name that",
        "a\0b.yaml": "'a\\x00b.yaml': has a NUL in it, as no path can have",
        "edmm": "edmm: no such recipe; did you mean 'edm'?",
        "nothing-like-it": "nothing-like-it: no such recipe; see `edm-unified list recipes`",
        "": "'': is an empty path; name a file or folder",
    }
    for name, message in messages.items():
        with pytest.raises(RecipeError) as caught:
            load_any(name)
        assert str(caught.value) == message


def test_a_bomb_of_anchors_costs_nothing() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(RecipeError, match="anchors and aliases"):
        loads("\n".join(lines))


def test_a_recipe_in_the_current_folder_does_not_hide_a_shipped_one_but_a_path_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edm").mkdir()  # a folder of results, say
    Path("mine.yaml").write_text(Recipe.load("edm").dump().replace("n: 18", "n: 7"))
    assert Recipe.load("edm").sampler.steps == discretization.Karras(n=18)
    assert Recipe.load("mine.yaml").sampler.steps == discretization.Karras(n=7)
    assert Recipe.load(Path("mine.yaml")).hash == Recipe.load("edm", ["sampler.steps.n=7"]).hash


def test_a_recipe_is_not_a_comparison() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load("quickstart")
    assert (
        str(caught.value) == "quickstart: is a comparison, not a recipe; run it with `edm-unified compare quickstart`"
    )
    with pytest.raises(RecipeError) as caught:
        Comparison.load("edm")
    assert str(caught.value) == "edm: is a recipe, not a comparison, which is a file with the key 'recipes'"


# overrides


def test_overrides_are_yaml_and_apply_in_order() -> None:
    recipe = Recipe.load("edm", ["sampler.steps.rho=1e1", "sampler.steps.rho = 5", "title=no"])
    assert recipe.sampler.steps == discretization.Karras(rho=5.0)
    assert recipe.title == "no"


def test_setting_a_kind_keeps_the_fields_that_fit_and_defaults_the_rest() -> None:
    recipe = Recipe.load("edm", ["sampler.steps.sigma_max=50", "sampler.steps.kind=tan", "sampler.solver=second_order",
                                 "sampler.solver.alpha=0.5"])  # fmt: skip
    assert recipe.sampler.steps == discretization.Tan(n=18, sigma_min=0.002, sigma_max=50)
    assert recipe.sampler.solver == solvers.SecondOrder(0.5)


def test_an_override_reaches_into_a_default_that_the_file_does_not_spell_out() -> None:
    text = Path(shipped.find("digits/edm")).read_text("utf-8")
    bare = re.sub(r"  (optimizer|ema): .*\n", "", text)
    assert bare != text
    recipe = loads(bare, "bare", ["training.optimizer.lr=0.002", "training.ema.images=7"])
    assert isinstance(recipe, Recipe)
    assert recipe.training is not None
    assert recipe.training.optimizer == optimizers.Adam(lr=0.002)
    assert recipe.training.ema == HalfLife(images=7)


def test_an_override_may_add_a_component_fill_it_and_remove_it() -> None:
    added = Recipe.load("edm", ["sampler.renoising.kind=churn", "sampler.renoising.S_churn=3"])
    assert added.sampler.renoising == renoising.Churn(S_churn=3)
    whole = Recipe.load("edm", ["sampler.renoising={kind: ancestral, eta: 0.5}"])
    assert whole.sampler.renoising == renoising.Ancestral(eta=0.5)
    assert Recipe.load("edm_stochastic", ["sampler.renoising=null"]).sampler.renoising is None


OVERRIDES = [
    ("sampler.solver.kind=hein", "--set sampler.solver.kind=hein: sampler.solver.kind: unknown 'hein'; did you mean 'heun'?"),
    ("sampler.solver.alpha=0.5", "--set sampler.solver.alpha=0.5: sampler.solver.alpha: unknown key; heun takes nothing"),
    ("smapler.solver=heun", "--set smapler.solver=heun: smapler: unknown key; did you mean 'sampler'? "
     "(recipe takes title, source, schedule, sampler, denoiser, data, preconditioning, objective, network, training, plugins)"),
    ("sampler.steps.n", "--set sampler.steps.n: must be path=value, such as sampler.solver.kind=heun"),
    ("=3", "--set =3: must be path=value, such as sampler.solver.kind=heun"),
    ("sampler.steps.n.x=3", "--set sampler.steps.n.x=3: sampler.steps.n: has no parts of its own; set the whole value, sampler.steps.n=..."),
    ("sampler.renoising.eta=3", "--set sampler.renoising.eta=3: sampler.renoising: is not there yet; put --set sampler.renoising.kind=... first"),
    ("sampler.steps.n=[", "--set sampler.steps.n=[: line 1, column 2: not YAML: expected the node content, but found '<stream end>'"),
    ("sampler.steps.n=two", "edm: sampler.steps.n: must be a whole number, got 'two' (with --set sampler.steps.n=two)"),
    ("sampler.steps.n=", "edm: sampler.steps.n: must be a whole number, got null (with --set sampler.steps.n=)"),
    ("sampler.steps.sigma_max=0.001", "edm: sampler.steps.sigma_min: must be below sigma_max, got 0.002 against 0.001 "
     "(with --set sampler.steps.sigma_max=0.001)"),
    ("sampler.steps.kind=table", "edm: sampler.steps.table: EDM is not a table of betas; set table, or choose another "
     "rule (with --set sampler.steps.kind=table)"),
]  # fmt: skip


def test_a_wrong_override_is_named() -> None:
    for override, message in OVERRIDES:
        with pytest.raises(RecipeError) as caught:
            Recipe.load("edm", [override])
        assert str(caught.value) == message


# components on the command line


def test_components_from_words() -> None:
    assert parse_component(solvers.AnySolver, "heun", "--solver") == solvers.Heun()
    assert parse_component(solvers.AnySolver, " second_order: alpha = 5e-1", "--solver") == solvers.SecondOrder(0.5)
    steps = parse_component(discretization.AnySteps, "explicit:sigmas=[80, 1, 0]", "--steps-rule")
    assert steps == discretization.Explicit((80.0, 1.0, 0.0))
    assert parse_component(schedules.AnySchedule, "geometric_ve:sigma_min=.01,sigma_max=50", "--schedule") == (
        schedules.GeometricVE(0.01, 50.0)
    )


WORDS = [
    ("hein", "--solver hein: unknown 'hein'; did you mean 'heun'?"),
    ("heun:alpha=1", "--solver heun:alpha=1: alpha: unknown key; heun takes nothing"),
    ("second_order:alpha=2", "--solver second_order:alpha=2: alpha: must lie in (0, 1], got 2.0"),
    ("second_order:0.5", "--solver second_order:0.5: '0.5' is not a parameter; write second_order:name=value,name=value"),
    ("ddim:eta=yes", "--solver ddim:eta=yes: eta: must be a number, got 'yes'"),
]  # fmt: skip


def test_a_wrong_component_is_one_line() -> None:
    for text, message in WORDS:
        with pytest.raises(RecipeError) as caught:
            parse_component(solvers.AnySolver, text, "--solver")
        assert str(caught.value) == message


def test_replacing_a_schedule_keeps_the_range_of_noise_levels() -> None:
    for name in ("vp", "ddim", "edm", "flow_matching"):
        recipe = Recipe.load(name, ["sampler.steps.n=20"])
        moved = replace(recipe, schedule=schedules.VP(beta_d=30.0))
        assert moved.levels[0] == pytest.approx(recipe.levels[0], rel=1e-9)
        assert len(moved.levels) == len(recipe.levels)
    with pytest.raises(ValueError, match=r"^sampler\.steps: 80 is beyond this schedule"):
        replace(Recipe.load("edm"), schedule=schedules.BetaTable("scaled_linear", beta_start=8.5e-4, beta_end=0.012))


# dump, hash, schema


def test_the_hash_is_of_the_values_and_of_what_changes_the_numbers() -> None:
    recipe = Recipe.load("edm")
    whole = dataclasses.replace(
        recipe, sampler=dataclasses.replace(recipe.sampler, steps=discretization.Karras(sigma_max=80, rho=7))
    )
    assert whole.hash == recipe.hash  # 80 or 80.0
    assert dataclasses.replace(recipe, title="another").hash == recipe.hash
    assert Recipe.load("edm", ["sampler.steps.rho=7.0000001"]).hash != recipe.hash
    assert len(recipe.hash) == 12


def test_what_no_file_can_say_is_not_dumped() -> None:
    recipe = dataclasses.replace(Recipe.load("edm"), title=3)  # type: ignore[arg-type]
    with pytest.raises(RecipeError) as caught:
        recipe.dump()
    assert str(caught.value) == "Recipe: title: must be text, got 3"


def test_every_component_survives_the_codec_and_is_named_in_the_schema() -> None:
    required = {"explicit": {"sigmas": (3.0, 1.0)}, "image_folder": {"path": "x"}, "arrays": {"path": "x"},
                "torchvision": {"name": "MNIST", "root": "x"}, "celeba": {"root": "x"}, "imagenet": {"root": "x"},
                "hugging_face": {"path": "x"}, "image_zip": {"path": "x"}, "webdataset": {"path": "x"},
                "parquet": {"path": "x"}, "cifar": {"path": "x"}, "svhn": {"path": "x"}, "stl10": {"path": "x"},
                "idx": {"path": "x"}, "checkpoint": {"path": "x"}, "classifier_free": {"w": 2.0},
                "autoguidance": {"guide": "x", "w": 2.0}, "pairs": {"samples": data.Arrays("x"), "condition": data.Arrays("y")},
                "steps.fitted": {"sigmas": ((3.0, 0.0),)}}  # fmt: skip
    for family, union in FAMILIES.items():
        for kind, cls in codec.components(union).items():
            value = cls(**required.get(f"{family}.{kind}", required.get(kind, {})))
            faults: list[codec.Fault] = []
            assert codec.decode(union, codec.encode(value), "", faults) == value
            assert faults == [], kind
            assert summary(cls), f"{cls.__name__} has no docstring"
        assert sorted(codec.components(union)) == shipped.kinds(family)  # what the Tab key and `list` read


def test_the_json_schema_names_every_kind_and_requires_it() -> None:
    definitions = schema()["$defs"]
    kinds = sorted(
        part["properties"]["kind"]["const"] for part in definitions.values() if "kind" in part.get("properties", {})
    )
    waiting = [cls for union in FAMILIES.values() for cls in codec.components(union).values()]
    known: set[type] = set()
    while waiting:
        known.add(cls := waiting.pop())
        inner = [one for hint in codec.parameters(cls).values() for one in codec.components(hint).values()]
        waiting += [one for one in inner if one not in known]
    assert kinds == sorted(codec.kind_of(cls) for cls in known if codec.has_kind(cls))
    for part in definitions.values():
        if "kind" in part.get("properties", {}):
            assert "kind" in part["required"]
            assert part["additionalProperties"] is False
            assert part["description"]


# whatever is in a file, the answer is a recipe or one line


def _paths(tree: dict[str, Any], above: str = "") -> list[str]:
    return [
        path
        for key, value in tree.items()
        for path in ([f"{above}{key}"] + (_paths(value, f"{above}{key}.") if isinstance(value, dict) else []))
    ]


def test_junk_anywhere_gives_a_recipe_or_one_line() -> None:
    junk = [None, True, -1, 0, 10**30, -0.5, 1e308, math.nan, math.inf, "", "σ", "x\ny", [], [1, "a"], [[]], {}, {"kind": []},
            {"kind": "edm", "": 1}, {"": {}}]  # fmt: skip
    for path, value in itertools.product(_paths(EDM), junk):
        try:
            recipe = from_tree(changed(path, value), "r.yaml")
        except RecipeError as error:
            message = str(error)
        else:
            message = "r.yaml: a recipe" if from_tree(codec.encode(recipe)) == recipe else "r.yaml:\nanother recipe"
        assert message.startswith("r.yaml: "), (path, value)
        assert "\n" not in message, (path, value)
