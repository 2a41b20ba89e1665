"""The diffusion transformer: counts, symmetries that only the right patching has, and the contract of all networks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from edm_unified.networks.transformer import Transformer, TransformerNetwork, positions

TINY = Transformer(depth=2, width=16, heads=2, patch=2)
SHAPES = [(3, 8, 4), (2, 12), (10,)]


def tiny(
    shape: tuple[int, ...] = (3, 8, 4), classes: int = 3, augment: int = 0, config: Transformer = TINY
) -> TransformerNetwork:
    """A tiny network with no weight at zero, so that every one has a say in the output."""
    network = config.build(shape, classes, augment)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def inputs(shape: tuple[int, ...] = (3, 8, 4), batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, *shape), torch.randn(batch), torch.arange(batch) % 3


# -- sizes --------------------------------------------------------------------------------------------------------


def test_xl_2_has_about_675_million_parameters() -> None:
    with torch.device("meta"):
        network = Transformer(depth=28, width=1152, heads=16, patch=2).build((4, 32, 32), classes=1000)
    ours = sum(p.numel() for p in network.parameters())
    assert ours == 674_816_272
    variance = 1152 * 16 + 16  # a second set of outputs
    positions = 16 * 16 * 1152  # not trained, but counted by the authors
    assert f"{(ours + variance) / 1e6:.1f} {(ours + variance + positions) / 1e6:.1f}" == "674.8 675.1"


@pytest.mark.parametrize(
    ("depth", "width", "heads", "published"), [(12, 384, 6, 33), (12, 768, 12, 130), (24, 1024, 16, 458)]
)
def test_the_smaller_published_sizes(depth: int, width: int, heads: int, published: int) -> None:
    """Peebles & Xie 2023, Table 4: S/2 33 M, B/2 130 M, L/2 458 M."""
    with torch.device("meta"):
        network = Transformer(depth=depth, width=width, heads=heads, patch=2).build((4, 32, 32), classes=1000)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(published, abs=0.6)


# -- what the arrangement of tokens must satisfy ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_without_positions_whole_patches_may_be_shuffled(shape: tuple[int, ...]) -> None:
    """Cut and paste agree: then a permutation of the patches at the input is the same permutation at the output."""
    network, (x, noise, label) = tiny(shape), inputs(shape)
    with torch.no_grad():
        network.places.zero_()
    axis = x.ndim - 1
    moved = x.roll(TINY.patch, axis)
    got, want = network(moved, noise, label=label), network(x, noise, label=label).roll(TINY.patch, axis)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    half = network(x.roll(1, axis), noise, label=label)
    assert (half - network(x, noise, label=label).roll(1, axis)).abs().max() > 1e-3  # not by half a patch


@pytest.mark.parametrize("shape", SHAPES)
def test_positions_tell_the_patches_apart(shape: tuple[int, ...]) -> None:
    network, (x, noise, label) = tiny(shape), inputs(shape)
    axis = x.ndim - 1
    got = network(x.roll(2, axis), noise, label=label)
    assert (got - network(x, noise, label=label).roll(2, axis)).abs().max() > 1e-3


def test_positions_are_dits() -> None:
    """The formula, place by place: the column in the first half of the channels, sines before cosines."""
    got = positions((2, 3), 16)
    for row in range(2):
        for column in range(3):
            angles = [[place * 10000 ** (-i / 4) for i in range(4)] for place in (column, row)]
            want = [f(a) for axis in angles for f in (math.sin, math.cos) for a in axis]
            assert got[row * 3 + column].tolist() == pytest.approx(want, abs=1e-6)


def test_a_vector_is_a_signal_of_one_channel() -> None:
    vectors, signals = tiny((10,)), tiny((1, 10))
    signals.load_state_dict(vectors.state_dict())
    x, noise, label = inputs((10,))
    torch.testing.assert_close(vectors(x, noise, label=label), signals(x[:, None], noise, label=label)[:, 0])


@pytest.mark.parametrize(("built", "given"), [((3, 8, 4), (3, 4, 10)), ((2, 12), (2, 6)), ((10,), (14,))])
def test_other_sizes_than_it_was_built_for(built: tuple[int, ...], given: tuple[int, ...]) -> None:
    network, other = tiny(built), tiny(given)
    other.load_state_dict(network.state_dict())
    x, noise, label = inputs(given)
    torch.testing.assert_close(network(x, noise, label=label), other(x, noise, label=label))


# -- the contract -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_begin_as_the_identity_and_the_output_as_zero(shape: tuple[int, ...]) -> None:
    network, (x, noise, label) = TINY.build(shape, 3), inputs(shape)
    seen: list[tuple[Tensor, Tensor]] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _module, args, output: seen.append((args[0], output)))
    output = network(x, noise, label=label)
    assert output.shape == x.shape
    assert output.abs().max() == 0
    assert len(seen) == 2
    assert all(torch.equal(before, after) for before, after in seen)


def test_classes() -> None:
    network, (x, noise, _) = tiny(), inputs()

    def output(label: list[int] | None) -> Tensor:
        return network(x, noise, label=None if label is None else torch.tensor(label))

    torch.testing.assert_close(output([-1, -1, -1]), output(None))
    mixed = output([1, -1, 2])
    torch.testing.assert_close(mixed[1], output(None)[1])
    torch.testing.assert_close(mixed[2], output([0, 0, 2])[2])
    assert (mixed[0] - output([0, -1, 2])[0]).abs().max() > 1e-3


def test_noise_and_augmentation_matter_and_no_augmentation_is_none() -> None:
    network, (x, noise, _) = tiny(classes=0, augment=4), inputs()
    plain = network(x, noise)
    torch.testing.assert_close(network(x, noise, augment=torch.zeros(3, 4)), plain)
    assert (network(x, noise, augment=torch.ones(3, 4)) - plain).abs().max() > 1e-3
    assert (network(x, noise + 0.5) - plain).abs().max() > 1e-3


def test_noise_scale_multiplies_c_noise() -> None:
    plain, scaled = tiny(), tiny(config=Transformer(2, 16, 2, 2, noise_scale=1000.0))
    scaled.load_state_dict(plain.state_dict())
    x, noise, label = inputs()
    got, want = scaled(x, noise, label=label), plain(x, 1000 * noise, label=label)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)  # angles of some 1000 radians in float32


def test_qk_norm_makes_attention_blind_to_the_size_of_queries_and_keys() -> None:
    for qk_norm in (False, True):
        network, (x, noise, label) = tiny(config=Transformer(2, 16, 2, 2, qk_norm=qk_norm)), inputs()
        before = network(x, noise, label=label)
        with torch.no_grad():
            for block in network.blocks:
                block.attention.qkv.weight[:32] *= 10
                block.attention.qkv.bias[:32] *= 10
        change = (network(x, noise, label=label) - before).abs().max()
        assert (change < 1e-4) == qk_norm


def test_checkpointed_activations_give_the_same_gradients() -> None:
    network, (x, noise, label) = tiny(), inputs()
    gradients = []
    for network.checkpoint_activations in (False, True):
        loss = network(x, noise, label=label).square().mean()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_compiles_to_one_graph(shape: tuple[int, ...]) -> None:
    network, (x, noise, label) = tiny(shape, augment=2), inputs(shape)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    augment = torch.randn(3, 2)
    torch.testing.assert_close(
        compiled(x, noise, label=label, augment=augment), network(x, noise, label=label, augment=augment)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    network, (x, noise, label) = tiny(config=Transformer(2, 16, 2, 2, qk_norm=True)), inputs()
    want = network(x, noise, label=label)
    with torch.autocast("cpu", dtype=dtype):
        mixed = network(x, noise, label=label)
    half = copy.deepcopy(network).to(dtype)(x.to(dtype), noise, label=label)
    assert half.dtype == dtype
    for got in (mixed, half):
        assert (got.float() - want).norm() / want.norm() < 0.05  # 8 bits of mantissa through a dozen layers


def test_it_learns() -> None:
    """Overfits four images: a branch that is cut off by a zero that never moves would not."""
    network, (x, noise, label) = TINY.build((3, 8, 4), 3), inputs(batch=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    target = torch.randn_like(x)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(60):
        loss = (network(x, noise, label=label) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3  # of about 1
    assert not [name for name, p in network.named_parameters() if torch.equal(p, start[name])]


def test_dtype_and_places_are_not_in_the_state() -> None:
    assert not [name for name in TINY.build((3, 8, 4)).state_dict() if "places" in name or "frequencies" in name]
    assert isinstance(TINY.build((3, 8, 4)), nn.Module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth: must be a whole number"),
        ({"width": 18}, "width: must be a multiple of 4"),
        ({"width": 16, "heads": 3}, "heads: must divide width, got 3 against 16"),
        ({"mlp_ratio": 0.0}, "mlp_ratio: must be positive"),
        ({"noise_scale": -1.0}, "noise_scale: must be positive"),
    ],
)
def test_bad_fields(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "size"), [((3, 8, 5), "8x5"), ((2, 7), "7"), ((9,), "9")])
def test_says_which_multiple_it_needs(shape: tuple[int, ...], size: str) -> None:
    with pytest.raises(ValueError, match=f"patch: must divide every side of the data, got 2 against {size}"):
        TINY.build(shape)


def test_bad_input() -> None:
    network, (x, noise, label) = tiny(), inputs()
    with pytest.raises(ValueError, match="shape: a transformer is for images"):
        TINY.build((1, 2, 2, 2))
    with pytest.raises(ValueError, match="x: every side must be a multiple of the patch, 2, got 8x3"):
        network(x[..., :3], noise)
    with pytest.raises(ValueError, match="label: must be from 0 to 2"):
        network(x, noise, label=label + 1)
    with pytest.raises(ValueError, match="label: the network was built without classes"):
        tiny(classes=0)(x, noise, label=label)
