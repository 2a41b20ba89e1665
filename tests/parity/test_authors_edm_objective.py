"""EDM's preconditionings and losses (NVlabs/edm, networks.py and loss.py) and ours, on the same F, levels and noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from authors_repos import NOISE, D, golden
from nvidia import absent_or, fed
from torch import Tensor, nn

from edm_unified import Preconditioned, preconditioning, schedules
from edm_unified.training.objective import (
    EDMWeight,
    EpsilonWeight,
    LogNormal,
    LogUniform,
    Objective,
    UniformTime,
)

REPOSITORY = "NVlabs/edm"
networks, losses = absent_or(REPOSITORY, "training.networks", "training.loss")


class F(nn.Module):
    """Any function of its input and c_noise; theirs of iDDPM has twice the channels, of which the second half goes."""

    def __init__(self, in_channels: int = 3, out_channels: int = 3, **options: Any) -> None:
        super().__init__()
        self.copies = out_channels // in_channels

    def forward(self, x: Tensor, noise: Tensor, labels: Any = None, **cond: Any) -> Tensor:
        phase = noise[:, None, None, None]
        found = torch.sin(3 * x + 0.01 * phase) + 0.3 * torch.cos(0.02 * phase)
        return torch.cat([found] + [found + 7] * (self.copies - 1), dim=1)


CASES = {
    "VPPrecond": (preconditioning.VP(), {}, (0.02, 150.0)),
    "VEPrecond": (preconditioning.VE(), {}, (0.02, 100.0)),
    "iDDPMPrecond": (preconditioning.IDDPM(), {}, (0.0065, 20_000.0)),
    "EDMPrecond": (preconditioning.EDM(sigma_data=0.5), {}, (0.002, 80.0)),
    "EDMPrecond, other data": (preconditioning.EDM(sigma_data=0.3), {"sigma_data": 0.3}, (0.002, 80.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_preconditioning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, which theirs is whatever the network: 10⁻⁵ of the output, or of σ where that multiplies F."""
    ours, options, (low, high) = CASES[name]
    sigma = torch.logspace(math.log10(low), math.log10(high), 20)
    x = torch.randn(20, 3, 4, 4) * (1 + sigma[:, None, None, None])

    @golden(REPOSITORY)
    def output() -> tuple[Tensor, float, float]:
        monkeypatch.setattr(networks, "F", F, raising=False)
        theirs = getattr(networks, name.partition(",")[0])(img_resolution=4, img_channels=3, model_type="F", **options)
        ends = () if "EDM" in name else (theirs.sigma_min, theirs.sigma_max)
        return theirs(x, sigma), *map(float, ends)

    (wanted, *ends), found = output(), Preconditioned(F(), ours)(x, sigma)
    error = ((found - wanted).abs().flatten(1).amax(1) / wanted.abs().flatten(1).amax(1)).double()
    assert error.quantile(0.9) < 1e-5
    assert error.max() < 1e-3  # an index of iDDPM that is the other one of two equally near
    if "EDM" not in name:
        assert (float(ours.sigma_min), float(ours.sigma_max)) == pytest.approx(
            tuple(ends), rel=0.03  # VP's lowest is 2.4 % off in float32
        )  # fmt: skip


def test_the_table_of_iddpm() -> None:
    """Its levels to float32, in which theirs is a recursion of a thousand steps; and the index of each of them."""

    @golden(REPOSITORY)
    def table() -> tuple[Tensor, Tensor, float]:
        """Every ninth of the levels, their indices, and that of a level below all."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(networks, "F", F, raising=False)
            theirs = networks.iDDPMPrecond(img_resolution=4, img_channels=3, model_type="F")
        assert len(theirs.u) == 1001
        some = theirs.u[:-1][::9]
        low = theirs.round_sigma(torch.tensor(1e-4), return_index=True)
        return some, theirs.round_sigma(some, return_index=True).flatten(), float(low)

    ours, (levels, index, low) = preconditioning.IDDPM(), table()
    levels = levels.float()
    torch.testing.assert_close(levels, ours.u[:-1][::9].float(), rtol=2e-3, atol=0)
    assert torch.equal(999 - index.long(), ours.c_noise(levels).long())
    assert low == 1000  # the level 0, told as −1; ours says 999
    assert ours.c_noise(1e-4) == 0


LOSSES = {
    "VPLoss": ("rand", Objective(UniformTime(1e-5, 1.0), EpsilonWeight()), schedules.VP()),
    "VELoss": ("rand", Objective(LogUniform(0.02, 100.0), EpsilonWeight()), schedules.VE()),
    "EDMLoss": ("randn", Objective(LogNormal(-1.2, 1.2), EDMWeight(0.5)), schedules.EDM()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, of a mixture's exact D, for 25 levels; theirs is the sum of what ours is the mean of."""
    draw, objective, schedule = LOSSES[name]
    n = torch.randn(25, *NOISE.shape[1:], dtype=torch.float64)
    x0, r = D.sample(25, seed=1).double(), torch.rand(25, dtype=torch.float64)
    u = 1 - r if name == "VPLoss" else r
    r = torch.special.ndtri(r) if draw == "randn" else r

    @golden(REPOSITORY)
    def loss() -> Tensor:
        with monkeypatch.context() as patch:
            fed(patch, [r.view(-1, 1, 1, 1), n], *dict.fromkeys([draw, "randn_like"]))
            wanted = getattr(losses, name)()(lambda x, sigma, labels, augment_labels: D(x, sigma.flatten()), x0, None)
        return wanted.mean((1, 2, 3))

    found = objective.losses(D, x0, u, n, schedule)
    torch.testing.assert_close(found, loss(), rtol=1e-9, atol=0)
