"""EDM2's network, loss, learning rate and averages: those of NVlabs/edm2 and ours, on the same weights and draws."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from nvidia import fed, modules
from torch import Tensor, nn

from edm_unified import Preconditioned, preconditioning
from edm_unified.data import Fractal
from edm_unified.networks import EDM2
from edm_unified.networks.edm2 import EDM2Network, MPConv
from edm_unified.networks.edm2.unet import MagnitudePreservingBlock
from edm_unified.training.objective import LogNormal, Objective
from edm_unified.training.objective.uncertainty import LearnedUncertainty
from edm_unified.training.optimization.ema import HalfLife, Power, gamma_of, std_of
from edm_unified.training.optimization.posthoc_ema import reconstruct
from edm_unified.training.optimization.rates import InverseSquareRoot

networks, phema, loop, toy = modules(
    "NVlabs/edm2", "training.networks_edm2", "training.phema", "training.training_loop", "toy_example"
)

CLOSE = 1e-5
SMALL = EDM2(channels=16, multipliers=(1, 2, 2), blocks=2, attention_resolutions=(8, 4), head_channels=16)
ODD = EDM2(
    channels=16, multipliers=(2, 1), blocks=1, attention_resolutions=(), head_channels=16, residual_balance=0.4,
    attention_balance=0.2, concat_balance=0.6, label_balance=0.7,
)  # fmt: skip


def precond(config: EDM2, side: int, classes: int) -> Any:
    return networks.Precond(
        side, 4, classes, use_fp16=False, model_channels=config.channels, channel_mult=list(config.multipliers),
        num_blocks=config.blocks, attn_resolutions=list(config.attention_resolutions), dropout=config.dropout,
        channels_per_head=config.head_channels, res_balance=config.residual_balance,
        attn_balance=config.attention_balance, concat_balance=config.concat_balance, label_balance=config.label_balance,
    )  # fmt: skip


def pairs(ours: EDM2Network, theirs: Any, side: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Each weight of ours beside theirs, with the order of theirs' rows where that differs."""
    found: list[tuple[Tensor, Tensor, Tensor | None]] = [
        (ours.noise.weight, theirs.emb_noise.weight, None),
        (ours.gain, theirs.out_gain, None),
        (ours.head.weight, theirs.out_conv.weight, None),
        (ours.stem.weight, theirs.enc[f"{side}x{side}_conv"].weight, None),
        (ours.fourier.frequencies, theirs.emb_fourier.freqs / (2 * math.pi), None),
        (ours.fourier.phases, theirs.emb_fourier.phases / (2 * math.pi), None),
    ]
    if ours.label is not None:
        found.append((ours.label.weight, theirs.emb_label.weight, None))
    encoder = [block for name, block in theirs.enc.items() if "conv" not in name]
    for mine, block in zip([*ours.encoder, *ours.middle, *ours.decoder], [*encoder, *theirs.dec.values()], strict=True):
        assert isinstance(mine, MagnitudePreservingBlock)
        found += [
            (mine.first.weight, block.conv_res0.weight, None),
            (mine.second.weight, block.conv_res1.weight, None),
            (mine.modulation.weight, block.emb_linear.weight, None),
            (mine.gain, block.emb_gain, None),
        ]
        assert isinstance(mine.skip, MPConv) == (block.conv_skip is not None)
        if isinstance(mine.skip, MPConv):
            found.append((mine.skip.weight, block.conv_skip.weight, None))
        assert (mine.attention is not None) == (block.attn_qkv is not None)
        if mine.attention is not None:  # theirs: head, channel, (q, k, v); ours: (q, k, v), head, channel
            qkv = block.attn_qkv.weight
            order = torch.arange(len(qkv)).view(block.num_heads, -1, 3).permute(2, 0, 1).flatten()
            found += [
                (mine.attention.qkv.weight, qkv, order),
                (mine.attention.out.weight, block.attn_proj.weight, None),
            ]
    return found


@torch.no_grad()
def put(ours: EDM2Network, theirs: Any, side: int) -> None:
    for mine, other, order in pairs(ours, theirs, side):
        mine.copy_((other if order is None else other[order]).view_as(mine))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@torch.no_grad()
def with_gains(theirs: Any) -> Any:
    """The network as if it had been trained: no gain is zero, and rows have norms of their own."""
    for name, p in theirs.named_parameters():
        if p.ndim == 0:
            p.fill_(0.6)
        elif "fourier" not in name:
            p.mul_(0.5 + torch.rand(len(p), *[1] * (p.ndim - 1)))
    return theirs


def inputs(classes: int, side: int, batch: int = 4) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    x, sigma = torch.randn(batch, 4, side, side), torch.logspace(-2, 1.5, batch)
    label = torch.arange(batch) % classes if classes else None
    return x, sigma, label, nn.functional.one_hot(label, classes).float() if label is not None else None


@pytest.mark.parametrize("classes", [0, 7])
@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
def test_the_network_under_its_preconditioning(config: EDM2, classes: int) -> None:
    theirs = with_gains(precond(config, 16, classes)).eval()
    ours = config.build((4, 16, 16), classes).eval()
    put(ours, theirs.unet, 16)
    D = Preconditioned(ours, preconditioning.EDM(sigma_data=0.5))
    x, sigma, label, one_hot = inputs(classes, 16)
    with torch.no_grad():
        wanted = theirs(x, sigma, one_hot)
        found = D(x, sigma, **({} if label is None else {"label": label}))
    assert (wanted - x).std() > 0.1
    assert (found - wanted).abs().max() / wanted.abs().max() < CLOSE


def their_loss(monkeypatch: pytest.MonkeyPatch, loss: Any, *data: Any, n: Tensor, e: Tensor) -> Tensor:
    """Their loss, (B, C, H, W), with the level e^(P_mean + P_std e) and the noise n."""
    with monkeypatch.context() as patch:
        fed(patch, [e.view(-1, 1, 1, 1), n], "randn", "randn_like")
        found: Tensor = loss(*data)
    return found


def test_the_loss_with_its_uncertainty_and_three_steps_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced weight normalization included. Theirs is a sum over entries, ours a mean: so is Adam's eps."""
    theirs = precond(SMALL, 16, 7).train()
    ours = SMALL.build((4, 16, 16), 7).train()
    put(ours, theirs.unet, 16)
    ours.after_step()  # theirs does it in its first forward pass
    u = copy.deepcopy(nn.ModuleList([theirs.logvar_fourier, theirs.logvar_linear]))
    D = Preconditioned(ours, preconditioning.EDM(sigma_data=0.5))
    objective = Objective(LogNormal(P_mean=-0.4, P_std=1.0), uncertainty=LearnedUncertainty())
    loss, rate = loop.EDM2Loss(), InverseSquareRoot(t_ref=2 * 8, ramp_up=16)
    one, two = ({"lr": 0.01, "betas": (0.9, 0.99), "eps": eps} for eps in (1e-8, 1e-8 / (4 * 16 * 16)))
    their_adam = torch.optim.Adam(theirs.parameters(), **one)
    our_adam = torch.optim.Adam([*ours.parameters(), *u.parameters()], **two)
    their_ema = phema.PowerFunctionEMA(theirs, stds=[0.05, 0.1])
    our_ema = Power(stds=(0.05, 0.1)).build(ours)
    for step in range(4):
        x0, _, label, one_hot = inputs(7, 16, 8)
        n, e = torch.randn_like(x0), torch.randn(8)
        wanted = their_loss(monkeypatch, loss, theirs, x0, one_hot, n=n, e=e)
        found = objective.losses(
            D, x0, torch.special.ndtr(e.double()), n, None, {"label": label},  # type: ignore[arg-type]
            lambda sigma: u[1](u[0]((sigma.log() / 4).float())).flatten(),
        )  # fmt: skip
        torch.testing.assert_close(found, wanted.mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
        their_adam.zero_grad()
        our_adam.zero_grad()
        wanted.sum().mul(1 / 8).backward()
        found.mean().backward()
        factor = rate.factor(step * 8)
        their_rate = loop.learning_rate_schedule(step * 8, 8, ref_lr=0.01, ref_batches=2, rampup_Mimg=16e-6)
        assert 0.01 * factor == pytest.approx(their_rate, rel=1e-12)
        for adam in (their_adam, our_adam):
            adam.param_groups[0]["lr"] = their_rate
            adam.step()
        their_ema.update(cur_nimg=(step + 1) * 8, batch_size=8)
        ours.after_step()
        our_ema.update((step + 1) * 8, 8)
    assert theirs.unet.out_gain.abs() > 1e-3  # it has learnt something
    states = [dict(ours.state_dict()), *(weights for _, weights in our_ema.weights())]
    x, sigma, label, one_hot = inputs(7, 16)
    for weights, network in zip(states, [theirs, *(average for average, _ in their_ema.get())], strict=True):
        ours.load_state_dict(weights)
        with torch.no_grad():
            wanted, found = network.eval().unet(x, sigma.log() / 4, one_hot), ours(x, sigma.log() / 4, label=label)
        assert wanted.std() > 1e-3
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()  # they average weights before normalizing them


def test_the_learning_rate() -> None:
    rate = InverseSquareRoot(t_ref=70_000 * 2048, ramp_up=10_000_000)
    for images in (0, 2048, 9_999_360, 10_000_384, 143_360_000, 143_362_048, 2**31):
        wanted = loop.learning_rate_schedule(images, 2048, ref_lr=0.012, ref_batches=70e3, rampup_Mimg=10)
        assert 0.012 * rate.factor(images) == pytest.approx(wanted, rel=1e-14)


def test_power_function_averages() -> None:
    for std in (0.01, 0.05, 0.1, 0.25, 0.2886):
        assert gamma_of(std) == pytest.approx(float(phema.std_to_exp(std)), rel=1e-8, abs=1e-8)
        assert std_of(gamma_of(std)) == pytest.approx(float(phema.exp_to_std(phema.std_to_exp(std))), rel=1e-9)
        for images in (2048, 4096, 10**6, 2**31):
            wanted = phema.power_function_beta(std, images, 2048)
            assert Power((std,)).betas(images, 2048)[0] == pytest.approx(float(wanted), rel=1e-6, abs=1e-12)


def test_the_traditional_average() -> None:
    """EDM2's own form of it: as EDM's and ours but for the ramp, which counts the images of the step too."""
    net = nn.Linear(3, 2)
    theirs, ours = phema.TraditionalEMA(net, halflife_Mimg=0.002, rampup_ratio=0.05), HalfLife(2000, 0.05).build(net)
    for step in range(1, 50):
        nn.init.normal_(net.weight)
        theirs.update(step * 64, 64)
        ours.update((step + 1) * 64, 64)
        torch.testing.assert_close(ours.weights()[0][1]["weight"], theirs.ema.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("std", [0.05, 0.07, 0.1, 0.15, 0.2])
def test_coefficients_of_post_hoc_averages(std: float) -> None:
    """Snapshots as EDM2 keeps them; the target at the last of them and earlier."""
    times = [8 * 2**20 * (i + 1) for i in range(12)]
    for end in (times[-1], times[8]):
        kept = [(float(t), s) for t in times for s in (0.05, 0.1) if t <= end]
        wanted = phema.solve_posthoc_coefficients(
            np.array([t for t, _ in kept]), np.array([s for _, s in kept]), end, std
        )[:, 0]
        found = np.array(reconstruct([(t, gamma_of(s)) for t, s in kept], (float(end), std)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_the_uncertainty_of_a_noise_level() -> None:
    """Theirs is divided by the norm of its weights, which are random at first; ours is free, and 0 at first."""
    theirs, ours = precond(SMALL, 16, 0), LearnedUncertainty(channels=128).build()
    with torch.no_grad():
        ours.frequencies.copy_(theirs.logvar_fourier.freqs)
        ours.phases.copy_(theirs.logvar_fourier.phases)
        ours.weight.copy_(networks.normalize(theirs.logvar_linear.weight)[0])
        sigma = torch.logspace(-2, 2, 9)
        wanted = theirs(torch.zeros(9, 4, 16, 16), sigma, return_logvar=True)[1].flatten()
        assert wanted.std() > 0.1
        torch.testing.assert_close(ours(sigma), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_start_from_the_same_distributions() -> None:
    """Unit normal, on their sphere after the first step; gains zero; frequencies and phases random and kept."""
    theirs, ours = precond(EDM2(), 64, 1000).train(), EDM2().build((4, 64, 64), 1000)
    for mine, other, _ in pairs(ours, theirs.unet, 64):
        if mine.numel() > 1 and mine.shape[0] > 1:
            other = networks.normalize(other) if other.ndim > 1 else other
            assert abs(float(mine.std() / other.std()) - 1) < 5 / mine.numel() ** 0.5
            assert abs(float(mine.mean() - other.mean())) < 5 * (2 / mine.numel()) ** 0.5
        else:
            assert not mine.any()
            assert not other.any()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.unet.parameters())


def test_the_toy_distribution() -> None:
    """The two trees of "Guiding a Diffusion Model with a Bad Version of Itself", component by component."""
    theirs, (weights, means, factors, _) = toy.gt("AB"), Fractal()._components()
    for wanted, found in (
        (theirs.phi.double() / theirs.phi.double().sum(), weights),
        (theirs.mu, means),
        (theirs.Sigma, factors @ factors.mT),
    ):
        assert float((wanted.double() - found).abs().max()) < 1e-6 * float(found.abs().max())
