"""The perceptron: shapes, what it is told has an effect, what it refuses, and that it can learn a branching set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.exact import GaussianMixture
from edm_unified.denoisers.preconditioning import EDM
from edm_unified.networks import MLP

TINY = MLP(width=16, blocks=2, noise_features=8)
VARIANTS = {
    "plain": TINY,
    "input_features": replace(TINY, input_features=6),
    "positional": replace(TINY, embedding="positional", noise_scale=1000.0),
}
each = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def trained(config: MLP, shape: tuple[int, ...] = (2,), classes: int = 0, augment: int = 0) -> nn.Module:
    """A network whose zero weights are not zero."""
    network = config.build(shape, classes, augment)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(std=0.5)
    return network


@each
@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (1, 4, 4)], ids=str)
def test_output_is_zero_at_first_and_has_the_shape_of_the_input(config: MLP, shape: tuple[int, ...]) -> None:
    x, noise = torch.randn(3, *shape), torch.randn(3)
    assert torch.equal(config.build(shape)(x, noise), torch.zeros_like(x))
    assert trained(config, shape)(x, noise).shape == x.shape


def test_parameters_are_those_of_the_formula() -> None:
    w, d, n, k = 16, 2, 8, 6
    inputs = (d + k) * w + w + n * w + w + w * w + w
    blocks = 2 * (3 * (w * w + w) + 4 * w)
    found = sum(p.numel() for p in replace(TINY, input_features=k).build((d,), classes=3, augment=2).parameters())
    assert found == inputs + blocks + 2 * w + w * d + d + 3 * w + 2 * w


@pytest.mark.parametrize("name", ["plain", "input_features", "positional"])
def test_noise_label_and_augmentation_have_an_effect(name: str) -> None:
    network = trained(VARIANTS[name], classes=4, augment=3)
    x, noise = torch.randn(3, 2), torch.rand(3)
    base = network(x, noise)

    def differs(out: Tensor) -> bool:
        return bool(((out - base).abs().amax(dim=1) > 1e-4).all())

    assert differs(network(x, noise + 0.1))
    assert differs(network(x, noise, label=torch.tensor([0, 1, 2])))
    assert differs(network(x, noise, augment=torch.ones(3, 3)))
    assert torch.equal(network(x, noise, label=torch.full((3,), -1)), base)
    assert torch.equal(network(x, noise, augment=torch.zeros(3, 3)), base)


@each
def test_samples_do_not_see_each_other(config: MLP) -> None:
    network = trained(config).double()
    x, noise = torch.randn(4, 2, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    alone = torch.cat([network(x[i : i + 1], noise[i : i + 1]) for i in range(4)])
    assert torch.allclose(network(x, noise), alone, rtol=0, atol=1e-12)


@each
def test_recomputed_activations_give_the_same_gradients_and_autocast_is_near(config: MLP) -> None:
    network = trained(replace(config, dropout=0.2), classes=2)
    x, noise, label = torch.randn(3, 2), torch.randn(3), torch.tensor([0, 1, -1])
    found = []
    for again in (False, True):
        network.checkpoint_activations = again
        network.zero_grad()
        torch.manual_seed(1)
        network(x, noise, label=label).square().sum().backward()
        found.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    network.eval()
    wanted = network(x, noise, label=label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(x, noise, label=label).float() - wanted).abs().max() < 0.1 * wanted.std()


@torch.no_grad()
def test_compiles_as_one_graph() -> None:
    network = trained(VARIANTS["input_features"], classes=2)
    x, noise, label = torch.randn(3, 2), torch.randn(3), torch.tensor([0, 1, -1])
    compiled = torch.compile(network, fullgraph=True, backend="eager")(x, noise, label=label)
    torch._dynamo.reset()
    assert torch.allclose(compiled, network(x, noise, label=label), rtol=0, atol=1e-6)


def test_the_state_is_plain_and_rebuilds_the_network() -> None:
    config = replace(TINY, input_features=6)  # the random frequencies are part of the state
    network, other = trained(config, classes=2), config.build((2,), classes=2)
    other.load_state_dict(network.state_dict(), strict=True)
    x, noise = torch.randn(3, 2), torch.randn(3)
    assert torch.equal(network(x, noise), other(x, noise))


@each
def test_noise_scale_multiplies_the_noise(config: MLP) -> None:
    network, x, noise = trained(config), torch.randn(3, 2), torch.rand(3)
    scaled = replace(config, noise_scale=10 * config.noise_scale).build((2,))
    scaled.load_state_dict(network.state_dict())
    # the angles are up to 1e4 where the scale is 1000, and an ulp of theirs 1e-3
    assert torch.allclose(scaled(x, noise), network(x, noise * 10), rtol=0, atol=0.02)
    assert not torch.allclose(scaled(x, noise), network(x, noise), rtol=0, atol=0.02)


def test_dropout_acts_in_training_alone() -> None:
    network, x, noise = trained(replace(TINY, dropout=0.5)), torch.randn(3, 2), torch.randn(3)
    assert not torch.equal(network(x, noise), network(x, noise))
    network.eval()
    assert torch.equal(network(x, noise), network(x, noise))


def test_blocks_are_the_identity_at_first() -> None:
    network = TINY.build((2,))
    x = torch.randn(3, 16)
    assert all(torch.equal(block(x, torch.randn(3, 16)), x) for block in network.blocks)


def test_it_learns_the_denoiser_of_two_points() -> None:
    """200 steps at one noise level bring the error of D to a fifth of what the best linear denoiser leaves."""
    D = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [0.01, 0.01])
    sigma = torch.tensor(0.5)
    network = Preconditioned(MLP(width=64, blocks=2).build((2,)), EDM(sigma_data=1.0))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        x0 = D.sample(256, seed=step).float()
        z = x0 + sigma * torch.randn(x0.shape, generator=generator)
        optimizer.zero_grad()
        (network(z, sigma) - x0).square().mean().backward()
        optimizer.step()
    x0 = D.sample(4000, seed=1000).float()
    z = x0 + sigma * torch.randn(x0.shape, generator=generator)
    wanted = D(z, sigma).float()
    ones = torch.cat([z, torch.ones(len(z), 1)], dim=1)
    linear = ones @ torch.linalg.lstsq(ones, wanted).solution
    with torch.no_grad():
        found = network(z, sigma)
    assert (found - wanted).square().mean() < 0.2 * (linear - wanted).square().mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width: must be a whole number"),
        ({"blocks": 0}, "blocks: must be"),
        ({"noise_features": 7}, "noise_features: must be even"),
        ({"input_features": 3}, "input_features: must be even"),
        ({"embedding": "fourrier"}, "embedding: unknown 'fourrier'; did you mean 'fourier'"),
        ({"fourier_scale": 0.0}, "fourier_scale: must be positive"),
        ({"dropout": 1.0}, r"dropout: must lie in \[0, 1\)"),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_wrong_shapes_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"shape: must be \(d,\)"):
        TINY.build(())
    network = TINY.build((2,))
    with pytest.raises(ValueError, match=r"x: the network was built for samples of shape \(2\), got a batch \(4, 3\)"):
        network(torch.randn(4, 3), torch.randn(4))
    with pytest.raises(ValueError, match=r"noise: must have shape \(4,\)"):
        network(torch.randn(4, 2), torch.randn(1))
