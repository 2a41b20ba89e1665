"""Parameters, arithmetic and memory against counts by hand and published figures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from edm_unified.networks import EDM2, MLP, Transformer, UNet, cost


class Chain(nn.Module):
    """exp, ``length`` times: each of them keeps its output for the backward pass."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.scale = nn.Parameter(torch.ones(100))
        self.register_buffer("kept", torch.zeros(7))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        x = x * self.scale
        for _ in range(self.length):
            x = x.exp()
        return x


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, padding=1, stride=2)
        self.frozen = nn.Parameter(torch.zeros(11), requires_grad=False)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.layer(x)


@dataclass(frozen=True)
class Of:
    """A component that builds what it is given."""

    make: type[nn.Module]
    arguments: tuple[int, ...] = ()

    def build(self, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> nn.Module:
        return self.make(*self.arguments)


def test_parameters_are_those_that_are_trained() -> None:
    assert cost.parameters(Convolution()) == 3 * 5 * 9 + 5


def test_flops_of_a_convolution() -> None:
    assert cost.flops(Of(Convolution), (3, 8, 6)) == 2 * (3 * 9) * 5 * (4 * 3)


def test_flops_of_a_transformer() -> None:
    depth, d, patch, tokens, classes = 3, 24, 2, 4 * 6, 10
    network = Transformer(depth=depth, width=d, heads=2, patch=patch)
    block = tokens * (4 * d * d + 2 * 4 * d * d) + 2 * tokens * tokens * d + 6 * d * d
    ends = 2 * tokens * (3 * patch**2) * d + 2 * d * d + (256 * d + d * d)
    assert cost.flops(network, (3, 8, 12), classes) == 2 * (depth * block + ends)


def test_flops_as_published() -> None:
    """Peebles & Xie 2023, Table 4: DiT-XL/2 118.64 G, a multiply-add counted as one, two sets of outputs."""
    ours = cost.flops(Transformer(depth=28, width=1152, heads=16, patch=2), (4, 32, 32), 1000) / 2
    assert (ours + 256 * 1152 * 16) / 1e9 == pytest.approx(118.64, abs=0.03)  # theirs includes some of the small change


def test_nothing_is_allocated_and_the_generator_stays_where_it_is() -> None:
    state = torch.get_rng_state()
    large = Transformer(depth=2, width=65536, heads=512, patch=2)  # 300 GB of weights
    assert cost.flops(large, (4, 4, 4)) > 2 * 2 * 18 * 65536**2
    estimate = cost.memory(large, (4, 4, 4), batch=1)
    assert estimate.weights > 300e9
    assert estimate.total == sum(estimate)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("length", [2, 5, 9])
def test_memory_of_a_chain_is_what_must_be_kept(length: int) -> None:
    """All the exponentials, and the gradients on both sides of the last but one: every link more is one more."""
    batch, size = 3, 100
    estimate = cost.memory(Of(Chain, (length,)), (size,), batch=batch, optimizer_states=2, averages=3)
    weights = 4 * (size + 7)
    assert estimate[:4] == (weights, 4 * size, 2 * 4 * size, 3 * 8 * size)  # averages are float64, of no buffers
    one = 4 * batch * size
    inputs, loss = one + 4 * batch, 4 + 4  # the loss and the one that its gradient is
    assert estimate.activations == inputs + loss + one * (length + 2)


def test_memory_is_proportional_to_the_batch_and_less_in_half_precision_or_with_checkpoints() -> None:
    network, shape = Transformer(depth=6, width=64, heads=4), (4, 32, 32)

    def activations(**options: object) -> int:
        return cost.memory(network, shape, **{"batch": 8, **options}).activations  # type: ignore[arg-type]

    plain = activations()
    assert activations(batch=16) == pytest.approx(2 * plain, rel=0.02)  # the weights' gradients do not grow
    assert 0.4 * plain < activations(precision="bfloat16") < 0.9 * plain
    assert activations(checkpoint_activations=True) < 0.4 * plain


def test_the_estimate_is_what_real_tensors_take() -> None:
    """The allocator's own account of a step, from the profiler; its workspace comes on top of what we count."""
    network, shape = UNet(channels=16, multipliers=(1, 2), blocks=1, attention_resolutions=(8,)), (3, 16, 16)
    module = network.build(shape)
    x, noise = torch.randn(4, *shape), torch.randn(4)
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        module(x, noise).sum().backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    most = max(itertools.accumulate(changes))
    estimate = cost.memory(network, shape, batch=4).activations - x.nbytes - noise.nbytes
    assert 0.8 * most < estimate < 1.02 * most


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP(width=16, blocks=1), (2,)),
        (UNet(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,)), (1, 8, 8)),
        (EDM2(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), head_channels=8), (2, 8, 8)),
        (Transformer(depth=1, width=8, heads=2), (2, 8, 8)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_network_has_a_cost(network: EDM2, shape: tuple[int, ...], precision: cost.Precision) -> None:
    assert cost.flops(network, shape, 3, 9) > 0
    estimate = cost.memory(network, shape, 3, 9, batch=2, precision=precision)
    assert estimate.weights >= 4 * cost.parameters(network.build(shape, 3, 9))
    assert estimate.activations > 0


def test_a_shape_that_does_not_fit_is_said_as_by_build() -> None:
    with pytest.raises(ValueError, match="patch: must divide"):
        cost.flops(Transformer(), (3, 7, 7))
    with pytest.raises(ValueError, match="patch: must divide"):
        cost.memory(Transformer(), (3, 7, 7), batch=1)
