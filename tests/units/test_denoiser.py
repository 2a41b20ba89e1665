"""Preconditioned (broadcast and cast), Counted, the range check, and the two guidances."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edm_unified import preconditioning as pre
from edm_unified.denoisers.denoiser import Counted, Preconditioned, check_range, supported_range
from edm_unified.denoisers.guidance import Autoguidance, ClassifierFree


class Probe(nn.Module):
    """A network with one parameter that remembers how it was called."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        self.calls.append((x, c_noise, cond))
        return self.scale * x


@pytest.mark.parametrize("network_dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x_dtype", [torch.float64, torch.float32])
def test_network_runs_in_its_own_dtype_and_D_in_that_of_x(x_dtype, network_dtype):
    network = Probe(network_dtype)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(x_dtype)
    D = Preconditioned(network, pre.VP())(x, torch.tensor(0.7, dtype=torch.float64))
    given, c_noise, _ = network.calls[0]
    assert D.dtype == x_dtype
    assert given.dtype == network_dtype
    assert given.shape == x.shape
    assert c_noise.shape == (3,)
    # a step index in bfloat16 would be another step
    assert c_noise.dtype == (torch.float64 if network_dtype == torch.float64 else torch.float32)
    assert float(c_noise[0]) == pytest.approx(float(pre.VP().c_noise(0.7)), rel=1e-6)


def test_a_plain_callable_gets_the_dtype_of_x_unless_told():
    seen = []

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    x = torch.ones(2, 3, dtype=torch.float64)
    assert Preconditioned(network, pre.EDM())(x, torch.tensor(1.0)).dtype == torch.float64
    assert Preconditioned(network, pre.EDM(), dtype=torch.float32)(x, torch.tensor(1.0)).dtype == torch.float64
    assert Preconditioned(nn.Identity(), pre.EDM(), torch.float32).dtype == torch.float32
    assert seen == [torch.float64, torch.float32]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1, 4), (4, 3, 4, 4)])
def test_one_level_and_one_per_sample_agree_whatever_the_rank(shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    D = Preconditioned(Probe(torch.float64), pre.FlowMatching())
    levels = torch.tensor([0.01, 1.0, 80.0, 1e6], dtype=torch.float64)
    together = D(x, levels)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], D(x[i : i + 1], levels[i]), rtol=1e-14, atol=0)
        torch.testing.assert_close(together[i : i + 1], D(x[i : i + 1], float(levels[i])), rtol=1e-14, atol=0)


def test_what_is_refused():
    D = Preconditioned(Probe(), pre.EDM())
    x = torch.zeros(4, 3, 2, 2)
    for bad in (torch.ones(3), torch.ones(4, 1, 1, 1), torch.ones(1)):
        with pytest.raises(ValueError, match=r"^sigma: must have shape \(\) or \(4,\)"):
            D(x, bad)
    with pytest.raises(ValueError, match=r"^x: must be floating point, got torch.uint8"):
        D(x.to(torch.uint8), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^network: must return .* \(4, 3, 2, 2\), got \(4, 6, 2, 2\)$"):
        Preconditioned(lambda x, c_noise: torch.cat([x, x], 1), pre.EDM())(x, torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^network: must return .* got dict$"):
        Preconditioned(lambda x, c_noise: {"sample": x}, pre.EDM())(x, torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"^network: must be callable"):
        Preconditioned(3, pre.EDM())


def test_it_is_a_module_that_can_be_trained_saved_and_averaged():
    D = Preconditioned(Probe(), pre.EDM())
    assert list(D.state_dict()) == ["network.scale"]
    D(torch.ones(2, 3), torch.tensor([0.1, 1.0])).sum().backward()
    assert D.network.scale.grad is not None
    average = copy.deepcopy(D).to(torch.float64).eval().requires_grad_(False)
    average.load_state_dict(D.state_dict())
    assert average(torch.ones(2, 3, dtype=torch.float64), torch.tensor(1.0)).dtype == torch.float64
    assert average.network.calls[-1][0].dtype == torch.float64


def test_conditions_are_passed_on():
    network = Probe()
    Preconditioned(network, pre.EDM())(torch.ones(2, 3), torch.tensor(1.0), label=torch.tensor([1, 2]), text=None)
    assert network.calls[0][2]["label"].tolist() == [1, 2]
    assert network.calls[0][2]["text"] is None


def test_counted_counts_calls_and_changes_nothing():
    inner = Preconditioned(Probe(), pre.VE())
    D = Counted(inner)
    x = torch.ones(2, 3)
    for _ in range(3):
        assert torch.equal(D(x, torch.tensor(1.0), label=None), inner(x, torch.tensor(1.0)))
    assert D.nfe == 3
    assert supported_range(D) == supported_range(inner) == (0.02, 100.0)
    assert supported_range(lambda x, sigma: x) == (0.0, math.inf)


def test_range_is_checked_once_for_a_walk():
    D = Preconditioned(Probe(), pre.VE())
    check_range(D, torch.tensor([100.0, 3.0, 0.02, 0.0], dtype=torch.float64))
    check_range(D, torch.tensor([100.00001, 0.0], dtype=torch.float64))
    check_range(D, torch.zeros(1))
    with pytest.raises(ValueError, match=r"^sigma_max: the network supports σ up to 100, got 200; start at 100$"):
        check_range(D, torch.tensor([200.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"^sigma_min: the network supports σ down to 0.02, got 0.002; end at 0.02$"):
        check_range(Counted(D), torch.tensor([80.0, 0.002, 0.0]))


# --- guidance --------------------------------------------------------------------------------------------------------


def labelled(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """D that adds its label: −1 and None are the unconditional one."""
    shift = torch.zeros(len(x)) if label is None else torch.where(label < 0, 0, label + 1)
    return 0.1 * x + shift.to(x.dtype)[:, None]


X = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 4, 9])
ONE = torch.tensor(1.0, dtype=torch.float64)


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, -1.0])
def test_classifier_free_extrapolates(w):
    D = Counted(labelled)
    guided = ClassifierFree(D, w)(X, ONE, label=LABEL)
    torch.testing.assert_close(guided, 0.1 * X + w * (LABEL + 1)[:, None], rtol=1e-14, atol=1e-14)
    assert D.nfe == 2


@pytest.mark.parametrize(
    ("guidance", "label"),
    [
        (lambda D: ClassifierFree(D, 1.0), LABEL),
        (lambda D: ClassifierFree(D, 3.0), None),
        (lambda D: ClassifierFree(D, 3.0, interval=(1.0, 2.0)), LABEL),  # open below
        (lambda D: ClassifierFree(D, 3.0, interval=(0.1, 0.9)), LABEL),
        (lambda D: Autoguidance(D, D, 1.0), LABEL),
        (lambda D: Autoguidance(D, D, 2.0, interval=(5.0, 9.0)), LABEL),
    ],
)
def test_guidance_that_is_off_costs_one_evaluation_and_changes_no_bit(guidance, label):
    D = Counted(labelled)
    assert torch.equal(guidance(D)(X, ONE, label=label), labelled(X, ONE, label))
    assert D.nfe == 1


def test_the_interval_is_closed_above_and_holds_per_sample():
    D = ClassifierFree(labelled, 3.0, interval=(0.5, 1.0))
    torch.testing.assert_close(D(X, ONE, label=LABEL), 0.1 * X + 3.0 * (LABEL + 1)[:, None])
    mixed = D(X, torch.tensor([0.5, 0.7, 2.0]), label=LABEL)
    assert torch.equal(mixed[[0, 2]], labelled(X, ONE, LABEL)[[0, 2]])
    torch.testing.assert_close(mixed[1], (0.1 * X + 3.0 * (LABEL + 1)[:, None])[1])


def test_the_null_condition_may_be_anything():
    seen = []

    def D(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        seen.append(cond)
        return x

    ClassifierFree(D, 2.0)(X, ONE, label=LABEL, other=5)
    ClassifierFree(D, 2.0, key="text", null=None)(X, ONE, text=torch.ones(3, 7))
    embedding = torch.zeros(3, 7)
    ClassifierFree(D, 2.0, key="text", null=embedding)(X, ONE, text=torch.ones(3, 7))
    assert seen[1]["label"].tolist() == [-1, -1, -1]
    assert seen[1]["other"] == 5
    assert seen[3]["text"] is None
    assert seen[5]["text"] is embedding


def test_autoguidance_leans_away_from_the_guide():
    main, guide = lambda x, sigma: 2 * x, lambda x, sigma: 3 * x
    torch.testing.assert_close(Autoguidance(main, guide, 1.5)(X, ONE), 1.5 * X)
    ranged = Autoguidance(Preconditioned(Probe(), pre.VE()), Preconditioned(Probe(), pre.DDPM()), 2.0)
    assert supported_range(ranged) == (0.02, 100.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierFree(labelled, math.nan), r"^w: must be finite"),
        (lambda: ClassifierFree(labelled, 2.0, interval=(2.0, 1.0)), r"^interval: must be two rising noise levels"),
        (lambda: Autoguidance(labelled, labelled, 2.0, interval=(-1.0, 1.0)), r"^interval: "),
    ],
)
def test_bad_guidance_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
