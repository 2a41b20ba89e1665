"""Optimizers step as their papers say, and rates run as their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from edm_unified.training.optimization import optimizers as opt


@pytest.mark.parametrize("build", [opt.Adam(weight_decay=0.1, lr=0.02), opt.AdamW(weight_decay=0.1, lr=0.02)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_the_papers(build, layout):
    """Against the recursion written out; also where weights and gradients lie differently in memory."""
    torch.manual_seed(0)
    w = torch.randn(4, 3, 2, 2)
    p = torch.nn.Parameter(w.clone().to(memory_format=layout))
    optimizer = build.build([p])
    m, v, w = torch.zeros_like(w).double(), torch.zeros_like(w).double(), w.double()
    for k in range(1, 6):
        g = torch.randn(4, 3, 2, 2)
        p.grad = g.clone()
        optimizer.step()
        g = g.double()
        if build.kind == "adam":
            g = g + 0.1 * w
        else:
            w = w * (1 - 0.02 * 0.1)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.02 * m / (1 - 0.9**k) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
        torch.testing.assert_close(p.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_the_fused_step_is_for_plain_memory_only():
    plain = torch.nn.Parameter(torch.zeros(4, 3, 2, 2))
    turned = torch.nn.Parameter(torch.zeros(4, 3, 2, 2).to(memory_format=torch.channels_last))
    assert opt.Adam().build([plain]).defaults["fused"] is True
    assert not opt.Adam().build([plain, turned]).defaults["fused"]


@pytest.mark.parametrize("rule", [opt.Constant(100), opt.InverseSquareRoot(400, 100), opt.CosineDecay(1000, 100, 0.1)])
def test_rates_ramp_up_linearly_and_never_exceed_one(rule):
    assert [rule.factor(t) for t in (0, 25, 50, 100)] == pytest.approx([0, 0.25, 0.5, 1], rel=1e-12)
    assert all(0 < rule.factor(t) <= 1 for t in range(1, 3000, 7))


def test_rates_without_a_ramp_start_at_one():
    assert opt.Constant().factor(0) == opt.InverseSquareRoot(10).factor(0) == opt.CosineDecay(10).factor(0) == 1


def test_rates_after_the_ramp():
    assert opt.Constant(100).factor(1e9) == 1
    rule = opt.InverseSquareRoot(400)
    assert [rule.factor(t) for t in (399, 1600, 40_000)] == pytest.approx([1, 0.5, 0.1], rel=1e-12)
    cosine = opt.CosineDecay(1000, 200, 0.1)
    assert [cosine.factor(t) for t in (600, 1000, 5000)] == pytest.approx([0.55, 0.1, 0.1], rel=1e-12)
    quarter = 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2
    assert cosine.factor(400) == pytest.approx(quarter, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: opt.Adam(lr=0), r"^lr: "),
        (lambda: opt.AdamW(beta2=1.0), r"^beta2: must lie in \[0, 1\)"),
        (lambda: opt.Adam(beta1=-0.1), r"^beta1: "),
        (lambda: opt.Adam(eps=0), r"^eps: "),
        (lambda: opt.Adam(weight_decay=-1), r"^weight_decay: "),
        (lambda: opt.Constant(-1), r"^ramp_up: "),
        (lambda: opt.InverseSquareRoot(t_ref=0), r"^t_ref: "),
        (lambda: opt.CosineDecay(0), r"^images: "),
        (lambda: opt.CosineDecay(10, 10), r"^ramp_up: must be below images"),
        (lambda: opt.CosineDecay(10, final=2.0), r"^final: "),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
