"""The blocks of networks for spectrograms, each by its defining property, and the U-Net that is made of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edm_unified.networks import SpectrogramUNet
from edm_unified.networks.conditioned import build_conditioned
from edm_unified.networks.spectrogram.blocks import (
    DeepFilterHead,
    EffectiveSqueezeExcitation,
    OneShotAggregation,
    TransformAverageConcatenate,
    deep_filter,
)


def stirred(module: nn.Module, std: float = 0.3) -> nn.Module:
    """With weights that are not at their start, where last layers are zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=generator)
    return module.double().eval()


@torch.no_grad()
def test_microphones_in_another_order_are_outputs_in_that_order() -> None:
    """Transform–average–concatenate: equivariant for any number of microphones, and each hears all the others."""
    tac = stirred(TransformAverageConcatenate(3, 5))
    for M in (1, 2, 3, 4):
        z = torch.randn(2, M, 3, 4, 2, dtype=torch.float64)
        out = tac(z)
        for order in itertools.permutations(range(M)):
            assert torch.allclose(tac(z[:, list(order)]), out[:, list(order)], atol=1e-12)
        other = z.clone()
        other[:, -1] += 1
        assert all(not torch.allclose(tac(other)[:, m], out[:, m]) for m in range(M))
    one = torch.randn(2, 1, 3, 4, 2, dtype=torch.float64)
    assert torch.allclose(tac(one.expand(-1, 4, -1, -1, -1)), tac(one).expand(-1, 4, -1, -1, -1))  # a mean, not a sum


@torch.no_grad()
def test_one_shot_aggregation_joins_every_layer_once() -> None:
    """Its output is linear in the input of the aggregation: the features of all layers, each by its own columns."""
    block = stirred(OneShotAggregation(8, 4, 6, layers=3, embedding=5))
    x, e = torch.randn(2, 8, 5, 6, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    joined: list[Tensor] = []
    block.aggregate.register_forward_hook(lambda module, inputs, out: joined.append(inputs[0]))
    out = block(x, e)
    assert block.joined == 8 + 3 * 4 == joined[0].shape[1]
    features, h = joined[0], joined[0][:, :8]
    for layer, convolution in enumerate(block.chain):  # a chain, not a dense block: each sees the one before it alone
        h = nn.functional.silu(convolution(h))
        assert torch.allclose(features[:, 8 + 4 * layer : 12 + 4 * layer], h, atol=1e-12)
    assert torch.allclose(block.excite(block.aggregate(features)), out)


@torch.no_grad()
def test_the_residual_and_the_gate() -> None:
    """Without weights in the aggregation the block is the identity; the gate is one number for a channel, in [0, 1]."""
    block = stirred(OneShotAggregation(8, 4, 8, layers=2, embedding=5))
    nn.init.zeros_(block.aggregate.weight)
    nn.init.zeros_(block.aggregate.bias)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    assert torch.equal(block(x, torch.randn(2, 5, dtype=torch.float64)), x)
    gate = stirred(EffectiveSqueezeExcitation(4), 2.0)
    u = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    ratio = (gate(u) / u).flatten(2)
    assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio), atol=1e-9)
    assert 0 <= float(ratio.min()) < float(ratio.max()) <= 1


@torch.no_grad()
def test_a_deep_filter_is_the_identity_at_the_start_and_a_complex_filter_after() -> None:
    """Against Σ H(i, l) Y(f + i, t + l) written out in complex numbers."""
    bins, frames, F, T = 1, 2, 4, 6
    spectrogram = torch.randn(2, 2, F, T, dtype=torch.float64)
    head = DeepFilterHead(3, bins, frames).double()
    assert torch.equal(head(torch.randn(2, 3, F, T, dtype=torch.float64), spectrogram), spectrogram)
    taps = torch.randn(2, 2 * 15, F, T, dtype=torch.float64)
    Y, H = torch.complex(*spectrogram.unbind(1)), torch.complex(taps[:, ::2], taps[:, 1::2])
    expected = torch.zeros_like(Y)
    for b, f, t in itertools.product(range(2), range(F), range(T)):
        for k, (i, l) in enumerate(itertools.product(range(-bins, bins + 1), range(-frames, frames + 1))):
            if 0 <= f + i < F and 0 <= t + l < T:
                expected[b, f, t] += H[b, k, f, t] * Y[b, f + i, t + l]
    out = deep_filter(spectrogram, taps, bins, frames)
    assert torch.allclose(torch.complex(*out.unbind(1)), expected, atol=1e-12)


SMALL: dict[str, Any] = {"channels": 8, "multipliers": (1, 2), "layers": 2}


@torch.no_grad()
@pytest.mark.parametrize("head", ["plain", "deep_filter"])
def test_the_network_takes_any_number_of_microphones_in_any_order(head: Any) -> None:
    component = SpectrogramUNet(**SMALL, head=head)
    network = stirred(build_conditioned(component, (4, 8, 6), 0, 0, {"image": (4, 8, 6)}))
    noise = torch.rand(2, dtype=torch.float64)
    for M in (1, 2, 3, 4):
        x, y = torch.randn(2, 2, 2 * M, 8, 10, dtype=torch.float64)
        out = network(x, noise, image=y)
        assert out.shape == x.shape
        order = torch.cat([torch.tensor([2 * m, 2 * m + 1]) for m in reversed(range(M))])
        assert torch.allclose(network(x[:, order], noise, image=y[:, order]), out[:, order], atol=1e-10)
        missing = network(x, noise, image=torch.full_like(y, torch.nan))
        assert torch.equal(missing, network(x, noise))
        assert not torch.allclose(missing, out, atol=1e-3)


@torch.no_grad()
def test_the_network_at_its_start() -> None:
    """0 of the plain head; the noisy spectrogram of the filter, or the input where there is none."""
    x, y, noise = torch.randn(2, 2, 8, 6), torch.randn(2, 2, 8, 6), torch.rand(2)
    plain = SpectrogramUNet(**SMALL).build((2, 8, 6))
    assert torch.equal(plain(x, noise), torch.zeros_like(x))
    filtered = SpectrogramUNet(**SMALL, head="deep_filter")
    assert torch.equal(filtered.build((2, 8, 6))(x, noise), x)
    assert torch.equal(build_conditioned(filtered, (2, 8, 6), 0, 0, {"image": (2, 8, 6)})(x, noise, image=y), y)


def made(settings: dict[str, Any], shape: tuple[int, ...], conditions: dict[str, Any]) -> nn.Module:
    component = SpectrogramUNet(**settings)
    return build_conditioned(component, shape, 0, 0, conditions) if conditions else component.build(shape)


def test_what_does_not_fit_is_refused() -> None:
    for settings, shape, conditions, words in (
        ({}, (3, 8, 8), {}, "shape: a spectrogram has two channels for each microphone"),
        ({}, (2, 8, 7), {}, "multipliers: 2 levels need sides that are multiples of 2"),
        ({}, (2, 8, 8), {"image": (1, 8, 8)}, "kind: spectrogram_unet needs an image of its sample's shape"),
        ({}, (2, 8, 8), {"vector": (3,)}, "kind: spectrogram_unet takes no condition but an image, got vector"),
        ({"channels": 6}, (2, 8, 8), {}, "channels: must be a multiple of 4"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            made({**SMALL, **settings}, shape, conditions)
    network = build_conditioned(SpectrogramUNet(**SMALL), (2, 8, 8), 0, 0, {"image": (2, 8, 8)})
    with pytest.raises(ValueError, match=r"^image: must be of the shape of x, \(1, 2, 8, 8\), got"):
        network(torch.zeros(1, 2, 8, 8), torch.zeros(1), image=torch.zeros(1, 4, 8, 8))
