"""A network's classes: kept by name in its run, matched in other data, asked for by name, and several of one sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import run as command
from PIL import Image

import edm_unified as edm
from edm_unified.data import Arrays, ImageFolder
from edm_unified.networks import EDM2, MLP, AnyNetwork, Transformer, UNet
from edm_unified.recipe import Recipe, RecipeError, loads, parse_component
from edm_unified.recipe.prepared import Prepared
from edm_unified.training.parallel import Team
from edm_unified.training.runs import checkpoint
from edm_unified.training.runs.run import Run

CPU = Team(torch.device("cpu"))
RECIPE = """
title: "A toy"
source: nobody
schedule: {{kind: edm}}
sampler: {{steps: {{kind: karras, n: 3}}, solver: {{kind: euler}}}}
data: {data}
network: {{kind: mlp, width: 8, blocks: 1, noise_features: 4}}
preconditioning: {{kind: edm}}
objective: {{noise: {{kind: log_normal}}, weight: {{kind: edm}}}}
training: {{images: 16, batch: 8, conditional: true, label_dropout: {dropout}, ema: null}}
"""


def trained(out: Path, data: str, dropout: float = 0.0, *overrides: str) -> Path:
    found = loads(RECIPE.format(data=data, dropout=dropout), "toy", overrides)
    assert isinstance(found, Recipe)
    with Run(out, found.job(), CPU) as run:
        for _ in run.steps():
            pass
    return out


def pictures(top: Path, *folders: str, n: int = 8) -> Path:
    for k, name in enumerate(folders):
        (top / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (2, 2), (60 * k, 9 * i, 200)).save(top / name / f"{i}.png")
    return top


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("fruit")
    pictures(top / "data", "apple", "basil", "cloud")
    return trained(top / "run", f"{{kind: image_folder, path: '{top}/data'}}")


def test_the_names_are_kept_and_asked_for(fruit: Path, tmp_path: Path) -> None:
    meta = checkpoint.read_meta(checkpoint.find(fruit))
    assert (meta["class_names"], meta["class_counts"]) == (["apple", "basil", "cloud"], [8, 8, 8])
    for word in ("basil", "1"):
        code, _, err = command("sample", fruit, "--class", word, "--n", 2, "--out", tmp_path / word, "--quiet")
        assert (code, err) == (0, "")
        assert np.load(tmp_path / word / "labels.npy").tolist() == [1, 1]
    assert (tmp_path / "1/samples.npy").read_bytes() == (tmp_path / "basil/samples.npy").read_bytes()
    again = Recipe.load(tmp_path / "basil" / "recipe.yaml")
    assert again.sampler.label == "basil"
    code, _, err = command("sample", fruit, "--class", "basel", "--n", 2, "--out", tmp_path / "no", "--quiet")
    assert (code, err) == (2, "Error: --class basel: no class 'basel'; did you mean 'basil'?\n")
    (tmp_path / checkpoint.META).write_text(json.dumps(meta | {"class_names": ["apple"]}))
    with pytest.raises(ValueError, match=r"class_names are not those of 3 classes"):
        checkpoint.read_meta(tmp_path)


def test_a_likelihood_is_of_the_class_of_that_name(fruit: Path, tmp_path: Path) -> None:
    """The same pictures from a folder without apple, and from one with empty and unknown classes."""
    part = pictures(tmp_path / "part", "basil", "cloud", n=1)
    (part / "durian").mkdir()
    words = ("--dequantize", "none", "--rk4-steps", 2, "--trace", "exact", "--quiet", "--out")
    code, _, err = command("likelihood", fruit, f"image_folder:path={part}", *words, tmp_path / "part.npy")
    assert code == 0, err
    data = ImageFolder(str(part)).load()
    model, x = checkpoint.load(fruit), data.images.double()
    levels = Recipe.load(fruit).levels
    given: dict[str, Any] = {"sigma_min": levels[-2], "sigma_max": levels[0], "steps": 2, "trace": "exact"}
    own = ImageFolder(str(fruit.parent / "data")).load().images
    prior = edm.likelihood.prior_of(own)
    right = edm.likelihood.log_likelihood(model, x, cond={"label": torch.tensor([1, 2])}, prior=prior, **given)
    assert np.load(tmp_path / "part.npy") == pytest.approx(right.nats.numpy(), rel=1e-6)
    all_cloud = ("likelihood", fruit, f"image_folder:path={part}", "--class", "cloud", *words, tmp_path / "cloud.npy")
    assert command(*all_cloud)[0] == 0
    wrong = edm.likelihood.log_likelihood(model, x, cond={"label": torch.tensor([2, 2])}, prior=prior, **given)
    assert np.load(tmp_path / "cloud.npy") == pytest.approx(wrong.nats.numpy(), rel=1e-6)
    Image.new("RGB", (2, 2)).save(part / "durian" / "0.png")
    code, _, err = command("likelihood", fruit, f"image_folder:path={part}", *words, tmp_path / "x.npy")
    assert code == 2
    assert "has a class 'durian' (1 samples); known are apple, basil, cloud" in err
    assert err.count("\n") == 1


def test_compare_is_of_one_class(fruit: Path, tmp_path: Path) -> None:
    code, out, err = command(
        "compare", fruit, "--class", "apple", "--class", "cloud", "--nfe", 3, "--samples", 4, "--out", tmp_path / "c",
        "--set", "metrics=[sliced_wasserstein]", "--set", "grid_samples=0", "--json",
    )  # fmt: skip
    assert code == 0, err
    solvers = [json.loads(line)["solver"] for line in out.splitlines()]
    assert [name.rpartition(" + ")[2] for name in solvers] == ["class apple", "class cloud"]


def test_a_run_goes_on_with_data_of_the_same_classes_alone(fruit: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "data", "apple", "basil", "cloud")
    trained(tmp_path / "run", f"{{kind: image_folder, path: '{tmp_path}/data'}}")
    (tmp_path / "data" / "cloud").rename(tmp_path / "data" / "cumin")
    with pytest.raises(ValueError, match=r"other data: .*cloud \(8\), and now .*cumin \(8\)"):
        trained(tmp_path / "run", f"{{kind: image_folder, path: '{tmp_path}/data'}}")


def test_several_classes_of_a_sample_reach_the_network(tmp_path: Path) -> None:
    top = pictures(tmp_path / "data", "x")
    tags = ("red;round", "red", ";", "round")
    (top / "t.csv").write_text("id,tags\n" + "".join(f"{i},{tags[i % 4]}\n" for i in range(8)))
    table = f"{{kind: table, path: '{top}/t.csv', label: tags, separator: ;}}"
    data = f"{{kind: image_folder, path: '{top}', labels: {table}}}"
    run = trained(tmp_path / "run", data, 0.5, "sampler.guidance={kind: classifier_free, w: 2}")
    model = edm.load(run)
    assert model.class_names == ("red", "round")
    x, sets = torch.randn(3, 3, 2, 2), torch.tensor([[True, True], [False, False], [False, True]])
    several = model(x, 1.0, label=sets)
    assert torch.equal(several[1], model(x, 1.0)[1])
    assert torch.allclose(several[2], model(x, 1.0, label=1)[2])
    prepared = Prepared.of(Recipe.load(run))
    drawn = prepared.sample(16)
    assert drawn.labels is not None
    assert {tuple(row) for row in drawn.labels.tolist()} == {(True, True), (True, False), (False, False), (False, True)}
    code, _, err = command("sample", run, "--class", "round,red", "--n", 2, "--out", tmp_path / "s", "--quiet")
    assert (code, err) == (0, "")
    assert np.load(tmp_path / "s" / "labels.npy").tolist() == [[True, True], [True, True]]


SMALL: Any = {"channels": 8, "multipliers": (1,), "blocks": 1, "attention_resolutions": (), "middle_attention": False}


@pytest.mark.parametrize("network", [
    MLP(16, 1, noise_features=8),
    UNet(**SMALL),
    UNet(**SMALL, label_at="embedding"),
    EDM2(channels=16, multipliers=(1,), blocks=1, attention_resolutions=(), head_channels=16),
    Transformer(width=16, depth=1, heads=2, patch=2),
], ids=["mlp", "unet", "unet embedding", "edm2", "transformer"])  # fmt: skip
def test_a_vector_of_one_one_is_the_class_and_of_none_is_no_class(network: AnyNetwork) -> None:
    torch.manual_seed(0)
    module = network.build((3, 4, 4), 5).eval()
    for parameter in module.parameters():  # last layers are zero at first
        torch.nn.init.normal_(parameter, std=0.3)
    x, noise, label = torch.randn(4, 3, 4, 4), torch.randn(4), torch.tensor([4, -1, 0, 2])
    rows = torch.nn.functional.one_hot(label.clamp(min=0), 5).bool() & (label >= 0)[:, None]
    with torch.no_grad():
        one, same = module(x, noise, label=label), module(x, noise, label=rows)
        two = module(x, noise, label=rows | torch.tensor([False, True, False, False, False]))
    assert torch.allclose(one, same, atol=1e-5)
    assert (two - one).flatten(1).abs().amax(1).min() > 1e-5
    with pytest.raises(ValueError, match="weights of the classes"):
        module(x, noise, label=rows[:, :3])


def test_text_on_the_command_line_is_taken_as_it_is_written() -> None:
    def path(text: str) -> Any:
        return parse_component(ImageFolder | Arrays, text, "data")

    for text, wanted in (
        ("image_folder:path=007,size=8", "007"), ("image_folder:path=a,b/c, d,size=8", "a,b/c, d"),
        ("image_folder:path=2024,size=8", "2024"), ("image_folder:path=[x],size=8", "[x]"),
        ("image_folder:path='a,size=9',size=8", "a,size=9"), ('image_folder:path="007",size=8', "007"),
        ("image_folder:path=a: b # c,size=8", "a: b # c"), ("image_folder:size=8,path=null", "null"),
    ):  # fmt: skip
        found = path(text)
        assert (found.path, found.size) == (wanted, 8), text
    several = path("image_folder:path=p,class_names=[a, b],labels={kind: pattern, pattern: (a|b)},size=[2, 3]")
    assert several.class_names == ("a", "b")
    assert several.size == (2, 3)
    assert path("arrays:path=x,key=null").key is None
    with pytest.raises(RecipeError, match="'007' is not a parameter"):
        path("image_folder:007")
    recipe = Recipe.load("edm", ["data={kind: image_folder, path: x}", "data.path=007"])
    assert isinstance(recipe.data, ImageFolder)
    assert recipe.data.path == "007"
