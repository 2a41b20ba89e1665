"""Conditions besides a class, each proved against the exact conditional denoiser; dropout; files; what is refused.

x_0 given the condition y is N(m(y), v) here, so that D* = m + v/(v + σ²) (z − m).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import edm_unified as edm
from edm_unified import networks
from edm_unified.data.dataset import Dataset
from edm_unified.networks.conditioned import Conditioned, build_conditioned
from edm_unified.training import Objective
from edm_unified.training.job import Job
from edm_unified.training.loop import train
from edm_unified.training.optimization import optimizers, rates
from edm_unified.training.parallel import team
from edm_unified.training.runs.state import TrainState
from edm_unified.training.settings import Training

N, V, LIMIT = 8192, 0.09, 0.02
MIX = torch.tensor([[0.6, 0.3, -0.2, 0.5], [-0.3, 0.5, 0.6, 0.1]])
SHAPES = {"vector": (2,), "image": (1, 2, 2), "tokens": (3, 2)}


def mean(kind: str, y: Tensor) -> Tensor:
    """m(y), (B, 1, 2, 2): linear in a vector and in the mean of tokens; 0.7 of an image."""
    if kind == "image":
        return 0.7 * y
    return ((y if kind == "vector" else y.mean(1)) @ MIX).view(-1, 1, 2, 2)


def pairs(kind: str, seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, *SHAPES[kind], generator=generator)
    return mean(kind, y) + V**0.5 * torch.randn(n, 1, 2, 2, generator=generator), y


def job(kind: str, steps: int, dropout: float = 0.0, lr: float = 4e-3, batch: int = 256) -> Job:
    x, y = pairs(kind, 0)
    network: Any = networks.MLP(width=64, blocks=2)
    if kind == "tokens":
        network = networks.Transformer(depth=1, width=32, heads=2, patch=1, noise_scale=4.0)
    dataset = Dataset(x, None, "made", conditions={kind: Dataset(y, None, "conditions")})  # type: ignore[dict-item]
    images = steps * batch
    settings = Training(
        images=images,
        batch=batch,
        optimizer=optimizers.Adam(lr=lr),
        rate=rates.CosineDecay(images=images),
        ema=None,
        stratified=True,
        conditions=(kind,),  # type: ignore[arg-type]
        condition_dropout=dropout,
    )
    return Job(network, edm.preconditioning.EDM(), Objective(), edm.schedules.EDM(), settings, dataset)


def trained(made: Job) -> Any:
    with team(torch.device("cpu")) as where:
        state = TrainState.start(made, where)
        for _ in train(made, state, where):
            pass
    return state.trainee.denoiser.eval()


@torch.no_grad()
def excess(denoiser: Any, kind: str, told: bool, m: Any, v: Tensor | float) -> float:
    """The worst share, over σ, of what F has to explain that the denoiser leaves unexplained over the exact one."""
    x, y = pairs(kind, 1, 4096)
    worst = 0.0
    for sigma in (0.1, 0.3, 1.0):
        z = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        ours = denoiser(z, torch.tensor(sigma), **{kind: y if told else torch.full_like(y, torch.nan)})
        exact = m(y) + v / (v + sigma**2) * (z - m(y)) if told else m(z, sigma)
        left = z * float(denoiser.preconditioning.c_skip(sigma)) - x
        worst = max(worst, float((ours - exact).square().mean() / left.square().mean()))
    return worst


@pytest.mark.parametrize(("kind", "steps", "lr"), [("vector", 150, 1e-2), ("image", 150, 1e-2), ("tokens", 500, 4e-3)])
def test_a_network_learns_the_exact_conditional_denoiser(kind: str, steps: int, lr: float) -> None:
    assert excess(trained(job(kind, steps, lr=lr)), kind, True, lambda y: mean(kind, y), V) < LIMIT


def test_dropout_leaves_an_answer_without_the_condition() -> None:
    """With and without: given NaN the network must be the D of x_0 alone, which is N(0, MIXᵀMIX + v)."""
    denoiser = trained(job("vector", 500, dropout=0.3))
    assert excess(denoiser, "vector", True, lambda y: mean("vector", y), V) < 1.5 * LIMIT
    C = (MIX.T @ MIX + V * torch.eye(4)).double()

    def alone(z: Tensor, sigma: float) -> Tensor:
        gain = C @ torch.linalg.inv(C + sigma**2 * torch.eye(4, dtype=torch.float64))
        return (z.flatten(1).double() @ gain.T).view(z.shape).float()

    assert excess(denoiser, "vector", False, alone, V) < 1.5 * LIMIT
    z = torch.randn(3, 1, 2, 2)
    missing = denoiser(z, torch.tensor(0.5), vector=torch.full((3, 2), torch.nan))
    assert torch.equal(missing, denoiser(z, torch.tensor(0.5)))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (networks.MLP(width=16, blocks=1), (5,)),
        (networks.UNet(channels=16, multipliers=(1, 1), blocks=1, attention_resolutions=()), (2, 4, 4)),
        (
            networks.EDM2(channels=16, multipliers=(1, 2), blocks=1, attention_resolutions=(), head_channels=16),
            (2, 4, 4),
        ),
        (networks.Transformer(depth=1, width=16, heads=2, patch=2), (2, 4, 4)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
@torch.no_grad()
def test_every_network_takes_conditions(network: Any, shape: tuple[int, ...]) -> None:
    """One row for all is that row for each; each sample sees its own; the output has the sample's shape."""
    conditions: dict[str, tuple[int, ...]] = {"vector": (3,)}
    if len(shape) > 1:
        conditions["image"] = (1, *shape[1:])
    made = build_conditioned(network, shape, 0, 0, conditions)
    for parameter in made.parameters():  # last layers begin at zero
        nn.init.normal_(parameter, std=0.3)
    made.eval()
    x, noise = torch.randn(4, *shape), torch.rand(4)
    cond = {kind: torch.randn(4, *size) for kind, size in conditions.items()}
    out = made(x, noise, **cond)
    assert out.shape == x.shape
    for kind in conditions:
        other = made(x, noise, **{**cond, kind: torch.cat([cond[kind][:1], 1 + cond[kind][1:]])})
        assert torch.allclose(other[0], out[0], atol=1e-4)
        assert float((other[1:] - out[1:]).flatten(1).abs().amax(1).min()) > 1e-4
        one = {name: value[:1] if name == kind else value for name, value in cond.items()}
        assert torch.allclose(made(x, noise, **one)[0], out[0], atol=1e-4)


def test_tokens_have_no_order_and_any_number() -> None:
    made = build_conditioned(networks.Transformer(depth=1, width=16, heads=2), (1, 4, 4), 0, 0, {"tokens": (3, 2)})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, noise, tokens = torch.randn(2, 1, 4, 4), torch.rand(2), torch.randn(2, 5, 2)
    out = made(x, noise, tokens=tokens)
    assert torch.allclose(made(x, noise, tokens=tokens.flip(1)), out, atol=1e-5)
    assert not torch.allclose(made(x, noise, tokens=tokens[:, :3]), out, atol=1e-3)
    with pytest.raises(ValueError, match="kind: mlp does not attend to tokens; take transformer"):
        build_conditioned(networks.MLP(), (4,), 0, 0, {"tokens": (3, 2)})


def test_a_condition_that_does_not_fit_is_refused() -> None:
    made = Conditioned(nn.Identity(), (1, 2, 2), {"vector": (2,), "image": (1, 2, 2)})
    x, noise = torch.randn(3, 1, 2, 2), torch.rand(3)
    for cond, words in (
        ({"vector": torch.zeros(3, 4)}, r"^vector: must be floating-point .* \(B, 2\), got torch.float32 of \(3, 4\)"),
        ({"vector": torch.zeros(2, 2)}, r"^vector: must have one row, or one for each of 3 samples, got 2"),
        ({"image": torch.zeros(3, 1, 2, 2, dtype=torch.long)}, "^image: must be floating-point"),
    ):
        with pytest.raises(ValueError, match=words):
            made(x, noise, **cond)
    for field, value, words in (
        ("conditions", ("tokens",), r"^training.conditions: the data \(made\) have no tokens \(they have vector\)"),
        ("conditions", (), "^condition_dropout: there are no conditions to drop"),
    ):
        whole = job("vector", 1, dropout=0.1)
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(whole, settings=dataclasses.replace(whole.settings, **{field: value}))


RECIPE = """
title: "A small denoiser of pairs"
source: "a test"
schedule: {kind: ouve}
sampler:
  steps: {kind: uniform_time, n: 4, t_min: 0.03}
  solver: {kind: ddim}
  anchor: image
data:
  kind: pairs
  samples: {kind: arrays, path: "X", range: [-4, 4]}
  condition: {kind: arrays, path: "Y", range: [-400, 400]}
network: {kind: mlp, width: 8, blocks: 1}
preconditioning: {kind: edm}
objective: {noise: {kind: log_normal}, weight: {kind: edm}}
training: {images: 64, batch: 16, conditions: [image], ema: null}
"""


def test_a_run_of_pairs_is_sampled_compared_and_measured(tmp_path: Path) -> None:
    """train, sample with and without --cond, compare and likelihood, anchored at the condition."""
    from edm_unified.cli import main

    x, y = pairs("image", 0, 64)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", (100 * y).numpy())  # the condition has a scale of its own
    text = RECIPE.replace('"X"', str(tmp_path / "x.npy")).replace('"Y"', str(tmp_path / "y.npy"))
    (tmp_path / "small.yaml").write_text(text)

    def run(*words: object) -> Any:
        return CliRunner().invoke(main, [str(word) for word in words])

    def succeeds(*words: object) -> None:
        found = run(*words)
        assert found.exit_code == 0, found.output

    at, own, named = (tmp_path / name for name in ("run", "own", "named"))
    draw = ("sample", at, "--n", "4", "--seed", "1")
    succeeds("train", tmp_path / "small.yaml", "--out", at, "--device", "cpu")
    succeeds(*draw, "--out", own)
    np.save(tmp_path / "four.npy", (100 * y[:4]).numpy())
    succeeds(*draw, "--cond", f"image={tmp_path / 'four.npy'}", "--out", named)
    assert np.allclose(np.load(own / "samples.npy"), np.load(named / "samples.npy"), atol=1e-6)
    np.save(tmp_path / "bad.npy", np.zeros((4, 1, 3, 3)))
    found = run(*draw, "--cond", f"image={tmp_path / 'bad.npy'}", "--out", tmp_path / "no")
    assert found.exit_code == 2
    assert "image: must be of shape (B, 1, 2, 2), got (4, 1, 3, 3)" in found.output
    assert not (tmp_path / "no").exists()
    succeeds("likelihood", at, "--n", "3", "--rk4-steps", "4")
    made = ("--solver", "ddim", "--solver", "heun", "--nfe", "4", "--set", "samples=16")
    succeeds("compare", at, *made, "--out", tmp_path / "compared")
