"""Denoisers with weights in float32 and no cast of their own, and gradients of a likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edm_unified as edm
from edm_unified.denoisers.denoiser import Counted

STEPS = edm.discretization.Karras(n=3)


def model(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    inner = nn.Linear(2, 2).to(dtype)
    return lambda x, sigma: inner(x) / (1 + sigma.expand(len(x)).square())[:, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_float32_model_is_sampled_as_it_is_and_counted_truly(dtype: torch.dtype) -> None:
    D, noise = Counted(model()), edm.unit_noise(4, (2,))
    found = edm.sample(D, noise, steps=STEPS, dtype=dtype)
    cast: Any = lambda x, s: model()(x.float(), s.float()).to(x)  # noqa: E731
    by_hand = edm.sample(cast, noise, steps=STEPS, dtype=dtype)
    torch.testing.assert_close(found, by_hand, rtol=1e-5, atol=1e-5)
    assert found.dtype == dtype
    assert D.nfe == 5
    if dtype == torch.float64:
        flow = edm.log_likelihood(
            model(), noise, steps=2, sigma_min=0.1, sigma_max=80.0, prior=edm.likelihood.isotropic((2,))
        )
        assert flow.nats.dtype == torch.float64


def test_other_types_and_other_errors_are_said() -> None:
    noise = edm.unit_noise(2, (2,))
    with pytest.raises(ValueError, match=r"takes x and sigma neither in torch\.float64 nor in float32"):
        edm.sample(model(torch.float16), noise, steps=STEPS)

    def broken(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        edm.sample(broken, noise, steps=STEPS)


def test_a_likelihood_of_an_x_that_asks_for_a_gradient_is_refused() -> None:
    D: Any = edm.exact.Gaussian([0.0, 1.0], 0.25)
    x = D.sample(3).requires_grad_(True)
    for name in ("log_likelihood", "variational_bound", "encode", "decode"):
        with pytest.raises(ValueError, match=f"^{name}: gives no gradient in x; pass x.detach"):
            getattr(edm.likelihood, name)(D, x)
    with torch.no_grad():
        assert edm.likelihood.encode(D, x, steps=1).shape == x.shape
