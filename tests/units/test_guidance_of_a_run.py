"""Guidance in recipes, comparisons and on the command line: what it does, what it costs, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from training_example import RECIPE

import edm_unified as edm
from edm_unified import guidance, solvers
from edm_unified.compare import make_plan
from edm_unified.compare.loading import load
from edm_unified.recipe import Comparison, Recipe, RecipeError, loads
from edm_unified.recipe.guidances import Autoguidance, ClassifierFree
from edm_unified.sampling.levels import Karras

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one recipe, ``long`` and ``short``, and one, ``told``, that saw a class with every sample."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "toy.yaml").write_text(RECIPE)
    for name, override in (
        ("long", "training.images=640"),
        ("short", "training.images=320"),
        ("told", "training.label_dropout=0.0"),
        ("plain", "training.conditional=false"),
    ):
        words = ("train", folder / "toy.yaml", "--out", folder / name, "--quiet", "--set", override)
        if name == "plain":
            words += ("--set", "training.label_dropout=0.0")
        code, _, err = run(*words)
        assert code == 0, err
    return folder


# -- what it does ------------------------------------------------------------------------------------------------------


def test_a_sample_is_that_of_the_guided_denoiser() -> None:
    code, _, err = run("sample", "edm", "--guidance", "classifier_free:w=2.5,low=0.1,high=5", "--class", 3, "--n", 5,
                       "--out", "s", "--scaled", "--quiet")  # fmt: skip
    assert (code, err) == (0, "")
    recipe = Recipe.load("s/recipe.yaml")
    assert recipe.sampler.guidance == ClassifierFree(w=2.5, low=0.1, high=5.0)
    D, dataset = recipe.build()
    by_hand = edm.sample(
        guidance.ClassifierFree(D, 2.5, (0.1, 5.0)),
        edm.unit_noise(5, dataset.shape),
        steps=recipe.sampler.steps,
        solver=recipe.sampler.solver,
        cond={"label": torch.full((5,), 3)},
    )
    assert np.array_equal(np.load("s/samples.npy"), by_hand.float().numpy())


def test_classes_are_drawn_as_the_data_have_them_whatever_the_batch() -> None:
    D, dataset = Recipe.load("edm", ["sampler.steps.n=3"]).build()
    guide = ClassifierFree(w=2.0).build(D, dataset, torch.device("cpu"))
    drawn = guide.labels_for(4000, seed=1)
    assert drawn is not None
    again = guide.labels_for(7, seed=1, first=90)
    assert again is not None
    assert torch.equal(again, drawn[90:97])
    assert dataset.labels is not None
    shares = torch.bincount(dataset.labels).double() / len(dataset)
    spread = (shares * (1 - shares) / 4000).sqrt()
    assert ((torch.bincount(drawn, minlength=10).double() / 4000 - shares).abs() < 4 * spread).all()

    for batch in (2, 100):
        words = ("--n", 6, "--batch", batch, "--seed", 1, "--out", f"b{batch}", "--quiet")
        assert run("sample", "edm", "--guidance", "classifier_free:w=2", "--steps", 3, *words)[0] == 0
    # the batched products of the mixture round differently; another class would be another digit
    np.testing.assert_allclose(np.load("b2/samples.npy"), np.load("b100/samples.npy"), rtol=0, atol=1e-5)


def test_it_leans_on_the_class() -> None:
    """p_w ∝ p(c|x)^w p(x): the larger w, the more probable the class of what is drawn."""
    D, dataset = Recipe.load("edm").build()
    label = torch.arange(10).repeat(12)
    noise = edm.unit_noise(120, dataset.shape)

    def certainty(w: float) -> float:
        guided = ClassifierFree(w).guided(D)
        x = edm.sample(guided, noise, steps=Karras(n=18), cond={"label": label})
        return float((D.log_prob(x, 0.3, label) - D.log_prob(x, 0.3)).mean())

    off, on, more = certainty(1.0), certainty(2.0), certainty(4.0)
    assert off < on < more


def test_the_steps_lead_to_the_endpoint_of_the_guided_flow() -> None:
    overrides = ("metrics=[error_median]", "rank_by=error_median", "grid_samples=0", "reference_tolerance=1e-7")
    words = ("--nfe", "80,160,320", "--samples", 8, "--solver", "dpmpp_2m", "--out", "o", "--json")
    words += tuple(word for text in overrides for word in ("--set", text))
    code, out, err = run("compare", "edm", "--guidance", "classifier_free:w=2,low=0.05,high=20", *words)
    assert (code, err) == (0, "")
    errors = [json.loads(line)["value"] for line in out.splitlines()]
    assert errors[2] < errors[1] / 2 < errors[0] / 4  # to the unguided endpoint it would not fall at all
    assert errors[2] < 2e-3


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_both_evaluations_are_counted() -> None:
    def nfe(*overrides: str) -> int:
        recipe = Recipe.load("edm", overrides)
        return recipe.sampler.nfe(recipe.schedule)

    plain = nfe()
    assert plain == 35
    assert nfe("sampler.guidance={kind: classifier_free, w: 2.0}") == 70
    assert nfe("sampler.guidance={kind: classifier_free, w: 1.0}") == 35
    assert nfe("sampler.guidance={kind: autoguidance, guide: nowhere, w: 2.0}") == 70
    levels = Recipe.load("edm").levels
    inside = [sigma for sigma in levels if 0.1 < sigma <= 5.0]
    # Heun evaluates at both ends of a step: at each level inside twice, once as an end and once as a start
    assert nfe("sampler.guidance={kind: classifier_free, w: 2.0, low: 0.1, high: 5.0}") == plain + 2 * len(inside)


def test_what_is_counted_is_what_was_done() -> None:
    D, dataset = Recipe.load("edm").build()
    for choice in (ClassifierFree(2.0), ClassifierFree(2.0, low=0.5, high=8.0), ClassifierFree(1.0)):
        counted = edm.Counted(D)
        around = choice.build(D, dataset, torch.device("cpu")).guided(counted)
        edm.sample(around, edm.unit_noise(1, dataset.shape), steps=Karras(n=7), solver=solvers.Heun(),
                   cond={"label": torch.zeros(1, dtype=torch.long)})  # fmt: skip
        found = edm.count_nfe(Karras(n=7), solvers.Heun(), within=choice.counting)
        assert counted.nfe == found


def test_budgets_are_kept_and_methods_crossed() -> None:
    chosen = (None, ClassifierFree(2.0), ClassifierFree(3.0, high=5.0))
    comparison = Comparison(
        title="t",
        recipes=("edm",),
        cross={"sampler.guidance": chosen, "sampler.solver": (solvers.Heun(), solvers.Euler())},
    )
    plan = make_plan(comparison, [("edm", Recipe.load("edm"))])
    assert len(plan.methods) == 6
    assert all(cell.nfe <= cell.budget for cell in plan.cells)
    ten = {cell.method.labels["solver"]: cell.n for cell in plan.cells if cell.budget == 10}
    assert ten["euler"] == 10
    assert ten["euler + classifier_free(w=2)"] == 5
    assert 5 < ten["euler + classifier_free(w=3, high=5)"] < 10
    assert loads(comparison.dump()) == comparison


# -- networks ----------------------------------------------------------------------------------------------------------


def test_a_run_guides_itself(trained: Path) -> None:
    code, out, err = run("sample", trained / "long", "--guidance", "classifier_free:w=3", "--n", 6, "--out", "s")
    told = [line for line in err.splitlines() if line != "making the denoiser"]
    assert code == 0
    assert all("the steps of this walk are too few for heun" in line for line in told), err
    assert "22 evaluations each" in out  # 6 steps of Heun's method, twice
    D = edm.load(trained / "long")
    label = ClassifierFree(3.0).build(D, Recipe.load(str(trained / "long")).load_data(), torch.device("cpu"))
    by_hand = edm.sample(guidance.ClassifierFree(D, 3.0), edm.unit_noise(6, D.shape), steps=Karras(n=6),
                         cond={"label": label.labels_for(6)})  # fmt: skip
    assert np.array_equal(np.load("s/samples.npy"), by_hand.float().numpy())


def test_a_run_is_guided_by_a_lesser_one(trained: Path) -> None:
    words = ("sample", trained / "long", "--n", 6, "--class", 1)
    code, out, _ = run(*words, "--guidance", f"autoguidance:w=2,guide={trained / 'short'}", "--out", "s")
    assert code == 0
    assert "22 evaluations each" in out
    D = guidance.Autoguidance(edm.load(trained / "long"), edm.load(trained / "short"), 2.0)
    by_hand = edm.sample(D, edm.unit_noise(6, (2,)), steps=Karras(n=6), cond={"label": torch.ones(6).long()})
    assert np.array_equal(np.load("s/samples.npy"), by_hand.float().numpy())
    assert run(*words, "--guidance", f"autoguidance:w=1,guide={trained / 'short'}", "--out", "off", "--quiet")[0] == 0
    assert run(*words, "--out", "none", "--quiet")[0] == 0
    assert np.array_equal(np.load("off/samples.npy"), np.load("none/samples.npy"))


def test_a_guide_that_needs_a_class_is_given_one(trained: Path) -> None:
    words = ("--guidance", f"autoguidance:w=2,guide={trained / 'told'}", "--quiet", "--out")
    assert run("sample", trained / "long", "--n", 5, *words, "s")[0] == 0
    label = np.load("s/labels.npy")
    D = guidance.Autoguidance(edm.load(trained / "long"), edm.load(trained / "told"), 2.0)
    cond = {"label": torch.from_numpy(label)}
    by_hand = edm.sample(D, edm.unit_noise(5, (2,)), steps=Karras(n=6), cond=cond)
    assert np.array_equal(np.load("s/samples.npy"), by_hand.float().numpy())
    assert run("sample", trained / "long", "--n", 5, "--quiet", "--out", "s")[0] == 0
    assert not Path("s/labels.npy").exists()  # those of the run before do not stay
    assert run("compare", trained / "long", "--nfe", 8, "--samples", 8, *words, "c")[0] == 0
    code, _, err = run("sample", trained / "plain", "--n", 5, *words, "p")
    assert code == 2
    assert "was trained with 3 classes, the network with 0" in err


def test_a_comparison_notices_another_guide(trained: Path) -> None:
    """The path stays, the weights behind it change: nothing of the old guide's is taken for the new one's."""
    link = Path("guide")
    values = []
    for name in ("short", "long", "short"):
        link.unlink(missing_ok=True)
        link.symlink_to(trained / name)
        code, out, err = run("compare", trained / "long", "--guidance", f"autoguidance:w=3,guide={link}", "--nfe", 8,
                             "--samples", 64, "--set", "metrics=[energy_distance,error_median]", "--set",
                             "rank_by=energy_distance", "--set", "grid_nfe=8", "--out", "o", "--json")  # fmt: skip
        assert (code, err) == (0, "")
        values.append([json.loads(line)["value"] for line in out.splitlines()])
    assert values[0] == values[2]
    assert all(math.isfinite(value) for row in values for value in row)
    assert not set(values[0]) & set(values[1])


def test_pictures_of_a_training_are_guided(trained: Path) -> None:
    words = ("train", trained / "toy.yaml", "--quiet", "--set", "training.images=320")
    assert run(*words, "--out", "a")[0] == 0
    assert run(*words, "--out", "b", "--set", "sampler.guidance={kind: classifier_free, w: 4.0}")[0] == 0
    pictures = [np.load(next(Path(name, "samples").glob("*.npy"))) for name in ("a", "b")]
    assert not np.allclose(pictures[0], pictures[1])


def test_a_network_that_could_not_be_guided_is_not_trained(trained: Path) -> None:
    words = ("train", trained / "toy.yaml", "--quiet", "--out", "a", "--set", "training.label_dropout=0.0")
    code, _, err = run(*words, "--set", "sampler.guidance={kind: classifier_free, w: 4.0}")
    assert code == 2
    assert "sampler.guidance: needs a network that has an answer without a class; set training.conditional" in err
    assert err.count("\n") == 1
    assert not Path("a").exists()


# -- recipes, and what is refused --------------------------------------------------------------------------------------


def test_a_recipe_says_it() -> None:
    recipe = Recipe.load("edm", ["sampler.guidance={kind: classifier_free, w: 2.0, high: 10.0}"])
    assert recipe.sampler.guidance == ClassifierFree(2.0, high=10.0)
    assert loads(recipe.dump()) == recipe
    assert recipe.hash != Recipe.load("edm").hash
    Path("r.yaml").write_text(recipe.dump())
    code, out, _ = run("show", "r.yaml")
    assert code == 0
    assert "classifier_free  w 2" in out
    code, out, _ = run("show", "r.yaml", "--guidance", "none")
    assert "classifier_free" not in out
    Path("c.yaml").write_text("title: t\nrecipes: [edm]\nguidances: [null, {kind: classifier_free, w: 2.0}]\n")
    assert load(("c.yaml",), ())[0].cross["sampler.guidance"] == (None, ClassifierFree(2.0))
    assert "sampler.guidance" in run("show", "c.yaml")[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{kind: classifier_free}", "sampler.guidance.w: missing"),
        ("{kind: classifier_free, w: .nan}", "sampler.guidance.w: must be finite"),
        ("{kind: classifier_free, w: 2, low: -1}", "sampler.guidance.low: must be zero or positive"),
        ("{kind: classifier_free, w: 2, low: 5, high: 1}", "sampler.guidance.high: must be above low = 5"),
        ("{kind: autoguidance, w: 2}", "sampler.guidance.guide: missing"),
        ("{kind: autoguidance, w: 2, guide: r, ema: -1}", "sampler.guidance.ema: must be zero or positive"),
        ("{kind: classifier_fre, w: 2}", "did you mean 'classifier_free'"),
    ],
)
def test_bad_recipes(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load("edm", [f"sampler.guidance={override}"])


def test_bad_models(trained: Path) -> None:
    free, auto = "classifier_free:w=2", "autoguidance:w=2,guide="
    for words, message in (
        (("edm", "--set", "denoiser=gaussian", "--guidance", free), "this denoiser has no classes; leave it out"),
        (("toy/mixture_2d", "--set", "data.kind=checkerboard", "--guidance", free), "unknown 'checkerboard'"),
        ((trained / "plain", "--guidance", free), "was trained without classes; leave it out"),
        ((trained / "told", "--guidance", free), "train it with training.label_dropout: 0.1, or take {kind: autog"),
        ((trained / "long", "--guidance", f"{auto}nowhere"), "sampler.guidance.guide: nowhere: "),
        ((trained / "long", "--guidance", f"{auto}{trained / 'plain'}"), "was trained with 0 classes, the network wi"),
        (("edm", "--guidance", f"{auto}{trained / 'plain'}"), "was trained on samples of shape (2,), the data have"),
        (("edm", "--guidance", "2"), "--guidance 2: "),
        (("edm", "--guidance", "classifier_free"), "--guidance classifier_free: w: missing"),
    ):
        for command in ("sample", "compare"):
            extra = ("--nfe", 6, "--samples", 8) if command == "compare" else ("--n", 2)
            code, out, err = run(command, *words, *extra, "--out", "o", "--quiet")
            assert code == 2, (words, out, err)
            assert message in err, (message, err)
            assert err.count("\n") == 1, err
            assert not Path("o").exists()


def test_no_class_to_lean_on_is_refused() -> None:
    code, _, err = run("sample", "edm", "--guidance", "classifier_free:w=2", "--class", -1, "--n", 2, "--quiet")
    assert (code, err) == (
        2,
        "Error: --class -1: guidance leans on a class; name one from 0 to 9, or leave --class out to have them drawn\n",
    )


def test_the_interval_is_of_the_levels_at_which_d_is_evaluated() -> None:
    """(low, high]: open below, closed above, as in Kynkäänniemi et al. 2024."""
    seen: list[float] = []

    def D(x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if (label == -1).all():
            seen.append(float(sigma))
        return 0 * x

    around = ClassifierFree(2.0, low=1.0, high=4.0).guided(D)
    edm.sample(around, edm.unit_noise(1, (2,)), steps=edm.discretization.Explicit((8.0, 4.0, 2.0, 1.0, 0.5, 0.0)),
               solver=solvers.Euler(), cond={"label": torch.zeros(1, dtype=torch.long)})  # fmt: skip
    assert seen == [4.0, 2.0]
    assert Autoguidance("r", 2.0, low=1.0).counting(D) == guidance.Autoguidance(D, D, 2.0, (1.0, math.inf))
