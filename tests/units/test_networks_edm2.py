"""EDM2's network: the published sizes, magnitudes layer by layer, and the contract that all networks keep."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from edm_unified.networks import edm2
from edm_unified.networks.edm2.layers import SILU_MAGNITUDE

TINY = edm2.EDM2(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(4,), head_channels=8)


def magnitude(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


def tiny(classes: int = 3, augment: int = 0, config: edm2.EDM2 = TINY) -> edm2.EDM2Network:
    """A tiny network whose gains are not zero, so that every weight has a say in the output."""
    network = config.build((2, 8, 8), classes, augment)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    return network


def inputs(batch: int = 3, shape: tuple[int, ...] = (2, 8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(batch, *shape), torch.randn(batch), torch.arange(batch) % 3


@pytest.mark.parametrize(
    ("channels", "millions"),
    [(64, "31.3"), (128, "124.7"), (192, "280.2"), (256, "497.8"), (320, "777.5"), (384, "1119.3"), (448, "1523.2")],
)
def test_published_parameter_counts(channels: int, millions: str) -> None:
    """EDM2-XS to XXL are Karras et al. 2024's, XXS is the guiding network of their follow-up (2406.02507)."""
    with torch.device("meta"):
        network = edm2.EDM2(channels=channels).build((4, 64, 64), classes=1000)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}" == millions


# -- magnitudes: a million numbers give the mean of squares to about 0.2 % ------------------------------------------


def test_silu_divides_by_its_own_magnitude() -> None:
    second_moment, _ = quad(lambda x: (x / (1 + math.exp(-x))) ** 2 * math.exp(-x * x / 2), -30, 30)
    assert math.sqrt(second_moment / math.sqrt(2 * math.pi)) == pytest.approx(SILU_MAGNITUDE, abs=5e-4)
    assert magnitude(edm2.mp_silu(torch.randn(1_000_000))) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.5, 0.9])
def test_sum_and_concatenation_preserve_magnitude_and_keep_their_balance(t: float) -> None:
    a, b = torch.randn(1000, 300), torch.randn(1000, 700)
    assert magnitude(edm2.mp_sum(a[:, :300], b[:, :300], t)) == pytest.approx(1, abs=0.01)
    both = edm2.mp_cat(a, b, t)
    assert magnitude(both) == pytest.approx(1, abs=0.01)
    share_a, share_b = both[:, :300].square().sum(), both[:, 300:].square().sum()
    assert float(share_b / share_a) == pytest.approx((t / (1 - t)) ** 2, rel=0.02)


@pytest.mark.parametrize("bandwidth", [0.5, 1.0, 20.0])
def test_fourier_features_have_unit_magnitude_at_every_noise_level(bandwidth: float) -> None:
    features = edm2.MPFourier(100_000, bandwidth)(torch.tensor([-1.5, 0.0, 0.3, 4.0]))
    assert features.square().mean(1).tolist() == pytest.approx([1.0] * 4, abs=0.02)


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_learned_layers_preserve_magnitude_whatever_the_scale_of_their_weights(kernel: tuple[int, ...]) -> None:
    layer = edm2.MPConv(64, 128, kernel)
    x = torch.randn(20_000, 64) if not kernel else torch.randn(16, 64, 34, 34)
    inside = (...,) if not kernel else (..., slice(1, -1), slice(1, -1))  # the frame sees the padding
    before = layer(x)
    assert magnitude(before[inside]) == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        layer.weight *= torch.logspace(-1, 3, 128).view(-1, 1, *[1] * len(kernel))  # each row another scale
    torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-4)  # ε = 1e-4 beside rows as small as 0.1


def test_pixel_norm() -> None:
    x = torch.randn(2, 16, 5, 7) * torch.tensor([1e-2, 300.0])[:, None, None, None]
    norms = edm2.pixel_norm(x).square().mean(1).sqrt()
    before = x.square().mean(1).sqrt()
    torch.testing.assert_close(norms, before / (before + 1e-4))  # of 0.01, 0.99 is left
    assert edm2.pixel_norm(torch.zeros(1, 4, 2, 2)).abs().max() == 0
    assert edm2.pixel_norm(x.half()).isfinite().all()  # the square of 300 · 3 is not in float16


def test_attention_of_one_pixel_is_its_value_and_equal_pixels_keep_their_magnitude() -> None:
    """Where nothing is averaged away, attention is two learned layers around a normalization."""
    attention = edm2.CosineAttention(64, head_channels=16)
    pixel = torch.randn(500, 64, 1, 1)
    assert magnitude(attention(pixel)) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(attention(pixel.expand(-1, -1, 3, 2)), attention(pixel).expand(-1, -1, 3, 2))


def test_attention_sees_directions_only() -> None:
    attention, x = edm2.CosineAttention(32, head_channels=16), torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(attention(1000 * x), attention(x), rtol=1e-3, atol=1e-3)  # ε beside magnitudes of one


def test_magnitudes_stay_at_one_through_the_whole_network() -> None:
    """Not exactly: averages over pixels (attention, pooling) and zero padding take away what they average."""
    config = edm2.EDM2(channels=32, multipliers=(1, 2), blocks=2, attention_resolutions=(16,), head_channels=32)
    network = config.build((3, 32, 32), classes=10)
    seen: list[float] = []
    for module in network.modules():
        if type(module).__name__ == "MagnitudePreservingBlock":
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(magnitude(output)))
    nn.init.ones_(network.gain)
    with torch.no_grad():
        output = network(torch.randn(4, 3, 32, 32), torch.randn(4), label=torch.arange(4))
    assert len(seen) == len(network.encoder) + len(network.middle) + len(network.decoder)
    assert all(0.8 < m < 1.1 for m in seen), seen
    assert 0.8 < magnitude(output) < 1.1


def test_the_embedding_has_unit_magnitude_with_and_without_a_class() -> None:
    network = edm2.EDM2(channels=64).build((4, 64, 64), classes=10)
    noise = torch.randn(64)
    for label in (None, torch.full((64,), -1), torch.arange(64) % 10):
        assert magnitude(network.embed(noise, label, None, torch.float32)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_block_is_the_one_of_the_paper(side: str) -> None:
    """Config G's residual block, written out once more in plain operations with the published constants."""

    def unit(x: Tensor, dim: int) -> Tensor:
        return x / (x.square().mean(dim, keepdim=True).sqrt() + 1e-4)

    def conv(x: Tensor, w: Tensor) -> Tensor:
        w = unit(w.flatten(1), 1).view_as(w) / w[0].numel() ** 0.5
        return torch.conv2d(x, w, padding=w.shape[-1] // 2)

    def silu(x: Tensor) -> Tensor:
        return x * x.sigmoid() / 0.596

    network, e = tiny().double(), torch.randn(2, 16).double()
    block = network.encoder[2] if side == "encoder" else network.decoder[-1]
    p = dict(block.named_parameters())
    x = torch.randn(2, p["skip.weight"].shape[1], 4, 4).double()
    main = conv(x, p["skip.weight"])
    if side == "encoder":
        main = unit(main, 1)
    embedding = unit(p["modulation.weight"], 1) / p["modulation.weight"].shape[1] ** 0.5
    scale = 1 + p["gain"] * (e @ embedding.T)
    y = conv(silu(main if side == "encoder" else x), p["first.weight"]) * scale[:, :, None, None]
    want = (0.7 * main + 0.3 * conv(silu(y), p["second.weight"])) / math.sqrt(0.7**2 + 0.3**2)
    if side == "encoder":
        qkv = conv(want, p["attention.qkv.weight"]).reshape(2, 3, -1, 8, 16)  # B, qkv, head, channel, pixel
        q, k, v = unit(qkv, 3).unbind(1)
        mixed = v @ torch.softmax(q.transpose(2, 3) @ k / math.sqrt(8), -1).transpose(2, 3)
        mixed = conv(mixed.reshape(2, 16, 4, 4), p["attention.out.weight"])
        want = (0.7 * want + 0.3 * mixed) / math.sqrt(0.7**2 + 0.3**2)
    torch.testing.assert_close(block(x, e), want, rtol=1e-9, atol=1e-9)


# -- forced weight normalization ------------------------------------------------------------------------------------


def test_normalizing_the_weights_changes_nothing_but_the_weights() -> None:
    network, (x, noise, label) = tiny(), inputs()
    before = network(x, noise, label=label)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, edm2.MPConv):
                layer.weight *= 0.5 + 4 * torch.rand(len(layer.weight), *[1] * (layer.weight.ndim - 1))
    scaled = copy.deepcopy(network)
    network.after_step()
    for layer in network.modules():
        if isinstance(layer, edm2.MPConv):
            norms = layer.weight.flatten(1).square().mean(1)
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=5e-4, atol=0)  # twice ε, and from 0.5 up
    torch.testing.assert_close(network(x, noise, label=label), before, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(scaled(x, noise, label=label), before, rtol=2e-3, atol=2e-3)
    again = copy.deepcopy(network)
    again.after_step()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-4, atol=0)


def test_gradients_are_orthogonal_to_the_weights() -> None:
    """Why the norm grows at every step unless it is forced back, and why forcing it back loses nothing."""
    network, (x, noise, label) = tiny().double(), inputs()
    network(x.double(), noise.double(), label=label).square().sum().backward()
    for name, layer in network.named_modules():
        if isinstance(layer, edm2.MPConv):
            w, g = layer.weight.detach().flatten(1), layer.weight.grad
            assert g is not None, name
            cosine = (w * g.flatten(1)).sum(1) / (w.norm(dim=1) * g.flatten(1).norm(dim=1) + 1e-30)
            assert cosine.abs().max() < 1e-3, name  # ε = 1e-4 keeps it from being exactly zero


def test_training_steps_leave_the_weights_on_the_sphere() -> None:
    free, forced = tiny(), tiny()
    forced.load_state_dict(free.state_dict())
    x, noise, label = inputs()
    for network, hook in ((free, lambda: None), (forced, forced.after_step)):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(3):
            optimizer.zero_grad()
            (network(x, noise, label=label) - x).square().mean().backward()
            optimizer.step()
            hook()
    assert magnitude(forced.stem.weight) == pytest.approx(1 - 1e-4, abs=2e-5)
    assert magnitude(free.stem.weight) > 1 + 1e-4


# -- the contract -------------------------------------------------------------------------------------------------


def test_the_output_is_zero_before_training() -> None:
    x, noise, label = inputs()
    assert TINY.build((2, 8, 8), 3)(x, noise, label=label).abs().max() == 0


def test_rectangles_and_sizes_other_than_that_it_was_built_for() -> None:
    network = tiny()
    for shape in ((2, 4, 10), (2, 6, 2)):
        x, noise, label = inputs(2, shape)
        assert network(x, noise, label=label).shape == x.shape


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


def test_checkpointed_activations_give_the_same_gradients() -> None:
    network, (x, noise, label) = tiny(), inputs()
    gradients = []
    for network.checkpoint_activations in (False, True):
        loss = network(x, noise, label=label).square().mean()
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=0, atol=0)


def test_compiles_to_one_graph() -> None:
    network, (x, noise, label) = tiny(augment=2), inputs()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    augment = torch.randn(3, 2)
    torch.testing.assert_close(
        compiled(x, noise, label=label, augment=augment), network(x, noise, label=label, augment=augment)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    network, (x, noise, label) = tiny(), inputs()
    want = network(x, noise, label=label)
    with torch.autocast("cpu", dtype=dtype):
        mixed = network(x, noise, label=label)
    half = copy.deepcopy(network).to(dtype)(x.to(dtype), noise, label=label)
    assert half.dtype == dtype
    for got in (mixed, half):
        assert (got.float() - want).norm() / want.norm() < 0.1  # 8 bits of mantissa through some thirty layers


def test_channels_last_and_state_dict() -> None:
    network, (x, noise, label) = tiny(), inputs()
    want = network(x, noise, label=label)
    other = tiny()
    other.load_state_dict(network.state_dict())
    other = other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    got = other(x.to(memory_format=torch.channels_last), noise, label=label)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert {"fourier.frequencies", "fourier.phases"} <= set(network.state_dict())  # random, hence saved


def test_dropout_is_for_training_only() -> None:
    config = edm2.EDM2(8, (1, 2), 1, (4,), 8, dropout=0.5)
    network, (x, noise, label) = tiny(config=config), inputs()
    assert not torch.equal(network(x, noise, label=label), network(x, noise, label=label))
    network.eval()
    assert torch.equal(network(x, noise, label=label), network(x, noise, label=label))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels: must be a whole number"),
        ({"multipliers": ()}, "multipliers: at least one level"),
        ({"multipliers": (1, 0)}, "multipliers: must be a whole number"),
        ({"dropout": 1.0}, r"dropout: must lie in \[0, 1\)"),
        ({"concat_balance": 1.0}, r"concat_balance: must lie strictly between 0 and 1"),
        ({"bandwidth": 0.0}, "bandwidth: must be positive"),
    ],
)
def test_bad_fields(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edm2.EDM2(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3, 30, 32), (3, 32, 28)])
def test_says_which_multiple_it_needs(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"shape: height and width must be multiples of 8, got {shape[1]}x{shape[2]}"):
        edm2.EDM2().build(shape)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"shape: edm2 is a network for images"):
        TINY.build((7,))
    with pytest.raises(ValueError, match="head_channels: must divide the 192 channels"):
        edm2.EDM2(channels=64, head_channels=60).build((4, 64, 64))
    with pytest.raises(
        ValueError, match=r"attention_resolutions: no level has side 16; those of samples of shape \(2, 8, 8\) are 8, 4"
    ):
        edm2.EDM2(multipliers=(1, 2)).build((2, 8, 8))
    network, (x, noise, label) = tiny(), inputs()
    with pytest.raises(ValueError, match="x: height and width must be multiples of 2, got 8x7"):
        network(x[..., :7], noise)
    with pytest.raises(ValueError, match="label: must be from 0 to 2"):
        network(x, noise, label=label + 1)
    with pytest.raises(ValueError, match="label: the network was built without classes"):
        tiny(classes=0)(x, noise, label=label)
