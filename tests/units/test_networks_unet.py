"""The U-Net: published sizes, the laws of its parts, what it is told has an effect, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edm_unified.networks import UNet, published
from edm_unified.networks.embeddings import Fourier, Positional
from edm_unified.networks.unet.blocks import Attention, Resample, ResidualBlock, ResidualPyramid, group_norm

TINY = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), dropout=0.0)
VARIANTS = {
    "ddpmpp": TINY,
    "ncsnpp": replace(TINY, embedding="fourier", noise_multiplier=2, encoder="residual", filter=(1, 3, 3, 1)),
    "skips": replace(TINY, encoder="skip", decoder="skip", filter=(1, 3, 3, 1), rescale=False),
    "adm": replace(
        TINY,
        adaptive_scale=True,
        decoder_attention="all",
        head_channels=4,
        label_at="embedding",
        resample_projection=False,
        rescale=False,
        endpoint=False,
        init="fan_in",
    ),
    "three_levels": replace(TINY, multipliers=(1, 1, 2), encoder="residual", heads=2),
}
SHAPE = (3, 8, 8)
each = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def parameters(config: UNet, shape: tuple[int, ...], classes: int = 0, augment: int = 0) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in config.build(shape, classes, augment).parameters())


def trained(config: UNet, shape: tuple[int, ...] = SHAPE, classes: int = 0, augment: int = 0) -> nn.Module:
    """A network whose zero weights are not zero, as if it had been trained."""
    network = config.build(shape, classes, augment)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1 and not p.any():
                p.normal_(std=0.2)
    return network


def inputs(batch: int = 3, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, *shape), torch.linspace(-1.0, 1.0, batch)


# published sizes


@pytest.mark.parametrize(
    ("name", "shape", "classes", "augment", "printed", "exact"),
    [
        ("DDPMPP_CIFAR10", (3, 32, 32), 0, 9, "55.73", 55_733_891),
        ("NCSNPP_CIFAR10", (3, 32, 32), 0, 9, "56.40", 56_397_827),
        ("DDPMPP_64", (3, 64, 64), 0, 9, "61.81", 61_805_571),
        ("NCSNPP_64", (3, 64, 64), 0, 9, "62.76", 62_761_091),
        ("ADM_IMAGENET64", (3, 64, 64), 1000, 0, "295.90", 295_899_267),
    ],
)
def test_published_configurations_have_the_published_size(
    name: str, shape: tuple[int, ...], classes: int, augment: int, printed: str, exact: int
) -> None:
    found = parameters(getattr(published, name), shape, classes, augment)
    assert f"{found / 1e6:.2f}" == printed
    assert found == exact
    assert f"{exact:,}".replace(",", " ") in str(published.__doc__)


def test_labels_cost_one_vector_each() -> None:
    base = parameters(TINY, SHAPE)
    assert parameters(TINY, SHAPE, classes=10) - base == 10 * 8 + 8  # and a bias
    assert parameters(replace(TINY, label_at="embedding"), SHAPE, classes=10) - base == 10 * 32
    assert parameters(TINY, SHAPE, augment=9) - base == 9 * 8


@pytest.mark.parametrize(("decoder", "attending"), [("last", 4 + 1), ("all", 4 + 5)])
def test_attention_costs_its_four_matrices_and_its_norm(decoder: Any, attending: int) -> None:
    config = replace(published.DDPMPP_CIFAR10, decoder_attention=decoder)
    each = 4 * 256**2 + 4 * 256 + 2 * 256  # q, k, v and output with biases; scale and shift
    without = parameters(replace(config, attention_resolutions=()), (3, 32, 32))
    assert parameters(config, (3, 32, 32)) - without == attending * each
    nowhere = replace(config, attention_resolutions=(), middle_attention=False)
    assert without - parameters(nowhere, (3, 32, 32)) == each


@pytest.mark.parametrize("config", [published.DDPMPP_CIFAR10, published.ADM_IMAGENET64], ids=["ddpmpp", "adm"])
def test_attention_is_where_the_papers_have_it(config: UNet) -> None:
    side = 32 if config is published.DDPMPP_CIFAR10 else 64
    with torch.device("meta"):
        network = config.build((3, side, side))

    def attends(level: nn.Module) -> list[int]:
        return [0 if block.attention is None else block.attention.heads for block in level.blocks]

    encoder, decoder = [attends(level) for level in network.encoder], [attends(level) for level in network.decoder]
    if side == 32:  # Song et al.: one head; in the decoder after the last block of a level
        assert encoder == [[0] * 4, [1] * 4, [0] * 4]
        assert decoder == [[0] * 5, [0, 0, 0, 0, 1], [0] * 5]
        assert network.middle[0].attention.heads == 1
    else:  # Dhariwal & Nichol: 64 channels a head, in every block of 384, 576 and 768 channels
        assert encoder == [[0] * 3, [6] * 3, [9] * 3, [12] * 3]
        assert decoder == [[12] * 4, [9] * 4, [6] * 4, [0] * 4]
        assert network.middle[0].attention.heads == 12
    resamplers = [level.resample for part in (network.encoder, network.decoder) for level in part]
    assert all(block is None or block.attention is None for block in resamplers)
    assert network.middle[1].attention is None


# shapes


@each
def test_output_is_zero_at_first_and_has_the_shape_of_the_input(config: UNet) -> None:
    x, noise = inputs()
    out = config.build(SHAPE)(x, noise)
    assert out.shape == x.shape
    assert not out.any()
    assert trained(config)(x, noise).std() > 1e-3  # or the next tests would compare zeros


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ncsnpp", (1, 16)), ("skips", (2, 12)), ("ddpmpp", (1, 4, 12)),
        ("skips", (3, 12, 4)), ("ddpmpp", (1, 4, 2, 6)), ("ncsnpp", (1, 4, 2, 6)),
    ],
    ids=str,
)  # fmt: skip
def test_signals_rectangles_and_volumes(name: str, shape: tuple[int, ...]) -> None:
    config = replace(VARIANTS[name], attention_resolutions=(min(shape[1:]) // 2,))
    x, noise = inputs(2, shape)
    network = trained(config, shape)
    assert any(isinstance(module, Attention) for module in network.encoder.modules())
    out = network(x, noise)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()


def test_a_network_runs_on_other_sizes_than_it_was_built_for() -> None:
    network = trained(TINY)
    assert network(*inputs(2, (3, 12, 20))).shape == (2, 3, 12, 20)
    with pytest.raises(ValueError, match="x: sides must be multiples of 2"):
        network(*inputs(2, (3, 8, 9)))


# laws


@each
def test_samples_do_not_see_each_other(config: UNet) -> None:
    network = trained(config, classes=2).double()
    x, noise = inputs()
    x, noise, label = x.double(), noise.double(), torch.tensor([1, -1, 0])
    together = network(x, noise, label=label)
    alone = torch.cat([network(x[i : i + 1], noise[i : i + 1], label=label[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)


@each
def test_noise_label_and_augmentation_have_an_effect(config: UNet) -> None:
    network = trained(config, classes=4, augment=9)
    x, noise = inputs()
    base = network(x, noise)

    def differs(out: Tensor) -> bool:
        return bool(((out - base).flatten(1).abs().amax(dim=1) > 1e-4).all())

    assert differs(network(x, noise + 0.5))
    assert differs(network(x, noise, label=torch.tensor([0, 1, 2])))
    assert differs(network(x, noise, augment=torch.ones(3, 9)))
    assert not torch.equal(
        network(x, noise, label=torch.tensor([0, 0, 0])), network(x, noise, label=torch.tensor([3, 3, 3]))
    )
    # no class, and no augmentation, in either way of saying it
    assert torch.equal(network(x, noise, label=torch.full((3,), -1)), base)
    assert torch.equal(network(x, noise, augment=torch.zeros(3, 9)), base)
    some = network(x, noise, label=torch.tensor([-1, 1, -1]))
    assert torch.allclose(some[::2], base[::2], rtol=0, atol=1e-5)
    assert not torch.allclose(some[1], base[1], rtol=0, atol=1e-4)


@each
def test_every_parameter_is_used(config: UNet) -> None:
    network = trained(config, classes=3, augment=2)
    x, noise = inputs()
    network(x, noise, label=torch.tensor([0, 1, 2]), augment=torch.ones(3, 2)).square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize(("axes", "taps"), [(1, (1, 2, 3, 3, 2, 1)), (2, (1, 1)), (2, (1, 3, 3, 1)), (3, (1, 3, 3, 1))])
def test_resampling_up_is_the_transpose_of_down(axes: int, taps: tuple[float, ...]) -> None:
    filter = Resample(axes, taps).double()
    x = torch.randn(2, 3, *[8] * axes, dtype=torch.float64)
    y = torch.randn(2, 3, *[4] * axes, dtype=torch.float64)
    down, up = filter.down(x), filter.up(y)
    assert down.shape == y.shape
    assert up.shape == x.shape
    assert torch.allclose((down * y).sum() * 2**axes, (x * up).sum(), rtol=1e-6)  # the taps are float32
    ones = torch.ones(1, 1, *[16] * axes, dtype=torch.float64)
    inside = (..., *[slice(4, -4)] * axes)
    for constant in (filter.down(filter.up(ones)), filter.up(ones)[(..., *[slice(0, 16)] * axes)]):
        assert torch.allclose(constant[inside], torch.ones_like(constant[inside]), atol=1e-6)


def test_the_box_filter_averages_and_repeats() -> None:
    general = Resample(2, (1, 1))
    general.box = False  # the path of longer filters
    x = torch.randn(2, 3, 6, 8)
    assert torch.allclose(Resample(2, (1, 1)).down(x), general.down(x), atol=1e-6)
    assert torch.allclose(Resample(2, (1, 1)).up(x), general.up(x), atol=1e-6)
    assert torch.allclose(general.down(general.up(x)), x, atol=1e-6)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)], ids=str)
def test_the_pyramid_filters_then_strides_which_is_to_convolve_then_halve(taps: tuple[float, ...]) -> None:
    """Convolutions commute, away from the border: conv at full size, then filter and every second point."""
    pyramid = ResidualPyramid(2, 3, 5, taps, scale=1.0).double()
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    found, kept = pyramid(torch.zeros(1, 5, 8, 8, dtype=torch.float64), x)
    full = nn.functional.conv2d(x, pyramid.conv.weight, pyramid.conv.bias, padding=1)
    wanted = Resample(2, taps).double().down(full)
    inside = (..., slice(2, -2), slice(2, -2))
    assert found.shape == wanted.shape
    assert torch.allclose(found[inside], wanted[inside], rtol=0, atol=1e-6)
    assert kept is found


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_does_not_know_positions_and_is_the_softmax_of_the_formula(heads: int) -> None:
    attention = Attention(8, heads, eps=1e-6, scale=0.5).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    order = torch.randperm(12)
    shuffled = attention(x.flatten(2)[:, :, order].view_as(x)).flatten(2)
    assert torch.allclose(shuffled, attention(x).flatten(2)[:, :, order], rtol=0, atol=1e-12)

    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = (part.unflatten(2, (heads, 8 // heads)) for part in attention.qkv(tokens).chunk(3, dim=2))
    weights = torch.einsum("bnhc,bmhc->bhnm", q, k).div((8 / heads) ** 0.5).softmax(dim=3)
    mixed = torch.einsum("bhnm,bmhc->bnhc", weights, v).flatten(2)
    wanted = (x + attention.output(mixed).transpose(1, 2).reshape(x.shape)) * 0.5
    assert torch.allclose(attention(x), wanted, rtol=0, atol=1e-12)


def test_rescaling_keeps_the_variance_of_independent_branches() -> None:
    block = ResidualBlock(2, 32, 32, 16, scale=0.5**0.5)
    nn.init.zeros_(block.conv_out.bias)
    nn.init.normal_(block.conv_out.weight, std=(32 * 9) ** -0.5)
    x = torch.randn(8, 32, 16, 16)
    with torch.no_grad():
        branch = block(x, torch.zeros(8, 16)) * 2**0.5 - x
        block.conv_out.weight.mul_(branch.std().reciprocal())  # a branch of unit variance
        assert abs(block(x, torch.zeros(8, 16)).var() - 1) < 0.05  # 65 536 numbers, correlated over 3 × 3


def test_groups_divide_the_channels() -> None:
    for channels, groups in {128: 32, 256: 32, 192: 32, 64: 16, 48: 12, 136: 17, 3: 1}.items():
        assert group_norm(channels, 1e-5).num_groups == groups


def test_embeddings_are_sines_and_cosines_of_distinct_frequencies() -> None:
    noise = torch.tensor([0.0, 1.0, 999.0])
    for features in (Positional(8), Positional(8, endpoint=True), Fourier(8, scale=1.0)):
        found = features(noise)
        assert torch.allclose(found[:, :4] ** 2 + found[:, 4:] ** 2, torch.ones(3, 4), atol=1e-5)
        assert torch.equal(found[0], torch.tensor([0.0] * 4 + [1.0] * 4))
        assert torch.equal(features(noise.double()).float()[1], features(noise.double())[1].float())
    angles = torch.atan2(*Positional(8, endpoint=True)(torch.tensor([1.0]))[0].view(2, 4))
    assert torch.allclose(angles, torch.tensor([1.0, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4]), rtol=1e-4)
    angles = torch.atan2(*Positional(8)(torch.tensor([1.0]))[0].view(2, 4))
    assert torch.allclose(angles, torch.tensor([1.0, 1e-1, 1e-2, 1e-3]), rtol=1e-4)


def test_half_precision_weights_still_tell_step_998_from_999() -> None:
    """c_noise stays float32 and so do its angles: in bfloat16, 998 and 999 are both 1000."""
    network = trained(replace(TINY, init="fan_in")).bfloat16()
    x = torch.randn(1, *SHAPE, dtype=torch.bfloat16).expand(2, -1, -1, -1)
    with torch.no_grad():
        out = network(x, torch.tensor([998.0, 999.0]))
    assert out.dtype == torch.bfloat16
    assert not torch.equal(out[0], out[1])
    noise = torch.tensor([0.3, 999.0])
    for features in (Positional(8), Fourier(8)):
        wanted = features(noise)
        assert torch.equal(features.bfloat16()(noise), wanted)
        assert torch.equal(features.double().float()(noise), wanted)
    with torch.device("meta"):
        features = Fourier(8).bfloat16()
    assert features.to_empty(device="cpu")(noise).shape == (2, 8)


# how it is run


@each
def test_recomputed_activations_give_the_same_gradients(config: UNet) -> None:
    network = trained(replace(config, dropout=0.3), classes=3)
    x, noise = inputs()
    found = []
    for again in (False, True):
        network.zero_grad()
        network.checkpoint_activations = again
        torch.manual_seed(7)  # the same dropout
        network(x, noise, label=torch.tensor([0, 1, 2])).square().mean().backward()
        found.append([p.grad.clone() for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_recomputing_keeps_fewer_tensors() -> None:
    network = trained(TINY)
    kept = []
    for again in (False, True):
        network.checkpoint_activations = again
        saved: list[int] = []

        def pack(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(*inputs())
        kept.append(sum(saved))
    assert kept[1] < kept[0] / 2


def test_compiles_as_one_graph() -> None:
    """With recomputation and gradients, a class and an augmentation, and every kind of block."""
    config = replace(VARIANTS["ncsnpp"], decoder="skip", adaptive_scale=True, label_at="embedding")
    network = trained(config, classes=3, augment=2)
    network.checkpoint_activations = True
    x, noise = inputs()
    cond = {"label": torch.tensor([0, -1, 2]), "augment": torch.ones(3, 2)}
    wanted = network(x, noise, **cond)
    wanted.square().mean().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    found = torch.compile(network, fullgraph=True, backend="eager")(x, noise, **cond)
    found.square().mean().backward()
    torch._dynamo.reset()
    assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    for p, gradient in zip(network.parameters(), gradients, strict=True):
        assert torch.allclose(p.grad, gradient, rtol=1e-4, atol=1e-6)


@each
def test_channels_last_stays_and_changes_nothing(config: UNet) -> None:
    network = trained(config).double()
    x, noise = inputs()
    x = x.double()
    wanted = network(x, noise)
    found = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), noise)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


@each
def test_autocast_is_near_and_trains(config: UNet) -> None:
    network = trained(config, classes=2, augment=2)
    x, noise = inputs()
    cond = {"label": torch.tensor([0, 1, -1]), "augment": torch.ones(3, 2)}
    wanted = network(x, noise, **cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(x, noise, **cond)
    assert (found.float() - wanted).std() < 0.05 * wanted.std()  # bfloat16 has 8 bits: 0.4 % a rounding
    found.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@each
def test_the_state_is_plain_tensors_that_rebuild_the_network(config: UNet) -> None:
    network, other = trained(config, classes=2), config.build(SHAPE, classes=2)
    other.load_state_dict(network.state_dict(), strict=True)
    x, noise = inputs()
    assert torch.equal(network(x, noise), other(x, noise))
    assert all(isinstance(value, Tensor) for value in network.state_dict().values())


@pytest.mark.parametrize("config", [TINY, VARIANTS["adm"]], ids=["rescaled", "plain"])
def test_every_block_is_the_identity_at_first(config: UNet) -> None:
    network = config.build(SHAPE)
    x, embedding = torch.randn(2, 16, 4, 4), torch.randn(2, 32)
    scale = 0.5 if config.rescale else 1.0  # two sums, each over √2
    assert torch.allclose(network.middle[0](x, embedding), x * scale, rtol=0, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    network, x, noise = trained(replace(TINY, dropout=0.5)), *inputs()
    assert not torch.equal(network(x, noise), network(x, noise))
    network.eval()
    assert torch.equal(network(x, noise), network(x, noise))
    block, kept = network.middle[0].train(), []
    block.conv_out.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    block(torch.randn(64, 16, 8, 8), torch.randn(64, 32))
    assert abs((kept[0] == 0).float().mean() - 0.5) < 0.01  # of 65 536, whose share has a deviation of 0.002


def test_noise_scale_multiplies_the_noise() -> None:
    network, x, noise = trained(TINY), *inputs()
    scaled = replace(TINY, noise_scale=1000.0).build(SHAPE)
    scaled.load_state_dict(network.state_dict())
    assert torch.equal(scaled(x, noise), network(x, noise * 1000))


def test_weights_have_the_stated_variance() -> None:
    """Uniform numbers: the variance of n of them is known to 0.9/√n, so 10 % is more than four deviations here."""
    config = replace(TINY, channels=32)
    for init in ("fan_average", "fan_in"):
        network = replace(config, init=init).build(SHAPE)
        block = network.middle[0]
        for layer, share in ((block.conv_in, 1.0), (block.attention.qkv, 0.2), (network.noise_out, 1.0)):
            fan_in = layer.weight[0].numel()
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
            wanted = 2 * share / (fan_in + fan_out) if init == "fan_average" else 1 / (3 * fan_in)
            assert abs(layer.weight.var() / wanted - 1) < 0.1
            assert bool(layer.bias.any()) == (init == "fan_in")


def test_weights_come_from_the_callers_generator() -> None:
    torch.manual_seed(3)
    first = TINY.build(SHAPE).state_dict()
    torch.manual_seed(3)
    second = TINY.build(SHAPE).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# bad input


WRONG_FIELDS = [
    ({"channels": 0}, "channels: must be a whole number"),
    ({"channels": 7}, "channels: must be even"),
    ({"multipliers": ()}, "multipliers: at least one"),
    ({"multipliers": (1, 0)}, "multipliers: must be a whole number"),
    ({"blocks": 0}, "blocks: must be"),
    ({"attention_resolutions": (-1,)}, "attention_resolutions: must be"),
    ({"heads": 2, "head_channels": 4}, "head_channels: sets the number of heads"),
    ({"encoder": "resdual"}, "encoder: unknown 'resdual'; did you mean 'residual'"),
    ({"embedding": "sines"}, "embedding: unknown"),
    ({"filter": (1, 2, 1)}, "filter: must be an even number of weights"),
    ({"filter": (1, -1)}, "filter: must be"),
    ({"dropout": 1.0}, r"dropout: must lie in \[0, 1\)"),
    ({"noise_scale": 0.0}, "noise_scale: must be positive"),
]


def test_wrong_fields_are_named() -> None:
    for changes, message in WRONG_FIELDS:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **changes)


WRONG_SHAPES = [
    (
        TINY,
        (3, 8, 9),
        r"multipliers: 2 levels need sides that are multiples of 2, got samples of shape \(3, 8, 9\)",
    ),
    (replace(TINY, multipliers=(1, 1, 1, 1)), (1, 28, 28), "multipliers: 4 levels need .* multiples of 8"),
    (TINY, (3,), r"shape: a U-Net takes \(C, L\), \(C, H, W\)"),
    (TINY, (3, 16, 16), "attention_resolutions: no level has side 4; those of .* are 16, 8"),
    (replace(TINY, heads=3), SHAPE, "heads: 3 does not divide the 16 channels"),
    (replace(TINY, head_channels=5), SHAPE, "head_channels: 5 does not divide the 16 channels"),
    (replace(TINY, head_channels=64), SHAPE, "head_channels: 64 does not divide the 16 channels"),
]


def test_shapes_that_do_not_fit_are_refused_with_the_remedy() -> None:
    for config, shape, message in WRONG_SHAPES:
        with pytest.raises(ValueError, match=message):
            config.build(shape)


def test_wrong_calls_are_one_line() -> None:
    plain, named = TINY.build(SHAPE), TINY.build(SHAPE, classes=3, augment=2)
    x, noise = inputs()
    calls: list[tuple[nn.Module, Tensor, Tensor, dict[str, Tensor], str]] = [
        (plain, x, noise, {"label": torch.zeros(3, dtype=torch.long)}, "label: the network was built without classes"),
        (plain, x, noise, {"augment": torch.zeros(3, 2)}, "augment: the network was built without augmentation"),
        (named, x, noise, {"label": torch.tensor([0, 1, 3])}, "label: must be from 0 to 2, or -1 for no class, got 3"),
        (named, x, noise, {"label": torch.tensor([0, 1, -2])}, "label: must be from 0 to 2, .* got -2"),
        (named, x, noise, {"label": torch.tensor([0, 1])}, r"label: must be \(3,\) whole numbers"),
        (
            named,
            x,
            noise,
            {"label": torch.zeros(3)},
            r"label: must be \(3,\) whole numbers, or \(3, 3\) weights of the classes, got torch.float32",
        ),
        (named, x, noise, {"augment": torch.zeros(3, 9)}, r"augment: must have shape \(3, 2\), got \(3, 9\)"),
        (plain, x[:, :1], noise, {}, r"x: the network was built for samples of shape \(3, any, any\)"),
        (plain, x[0], noise, {}, "x: the network was built for"),
        (plain, x, noise[:2], {}, r"noise: must have shape \(3,\)"),
        (plain, x, noise[0], {}, r"noise: must have shape \(3,\)"),
    ]
    for network, x_, noise_, cond, message in calls:
        with pytest.raises(ValueError, match=message) as caught:
            network(x_, noise_, **cond)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "mean"),
    [((2, 16, 16, 16), 0.0), ((2, 16, 16, 16), 100.0), ((2, 16, 4, 8, 8), 10.0), ((2, 16, 32), 100.0)],
)
def test_group_norm_is_accurate_in_every_memory_layout(shape: tuple[int, ...], mean: float) -> None:
    """Beside float64: torch's own, channels_last on a CPU, is off by 2e-4 at a mean of 10 and by 1e-2 at 100."""
    norm, x = group_norm(16, 1e-6), mean + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape), torch.contiguous_format)
    exact = nn.functional.group_norm(x.double(), norm.num_groups, eps=1e-6)
    for laid in (x, x.contiguous(memory_format=layout), x.transpose(-1, -2).contiguous().transpose(-1, -2)):
        out = norm(laid).detach()
        assert float((out.double() - exact).abs().max()) < 4e-6 * (1 + mean / 8)
        assert out.is_contiguous(memory_format=layout) or not laid.is_contiguous(memory_format=layout)


def test_groups_of_the_norms_and_real_conditions_of_a_sample() -> None:
    config = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(), norm_groups=8, conditions=2)
    network = config.build((1, 8, 8)).double().eval()
    assert {m.num_groups for m in network.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, noise = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    condition = torch.tensor([[0.1, 0.2], [0.1, 0.7]], dtype=torch.float64)
    both = network(x, noise, condition=condition)
    again = network(x, noise, condition=condition[[0, 0]])
    torch.testing.assert_close(both[0], again[0], rtol=0, atol=1e-12)
    assert float((both[1] - again[1]).detach().abs().max()) > 1e-6
    with pytest.raises(ValueError, match=r"^condition: the network is conditioned on 2 numbers"):
        network(x, noise)
    with pytest.raises(ValueError, match=r"^condition: must have shape \(2, 2\), got \(2, 3\)"):
        network(x, noise, condition=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^norm_groups: 3 does not divide the 16 channels"):
        UNet(channels=8, norm_groups=3)
