"""The shapes in the public signatures are true: checked by jaxtyping and beartype on the calls that people make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, get_type_hints

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

import edm_unified as edm
from edm_unified import metrics, networks


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the shapes of its tensors checked. Its other annotations are mypy's business."""
    assert isinstance(function, FunctionType)
    namespace = dict(vars(sys.modules[function.__module__]))
    hints = get_type_hints(function, namespace, include_extras=True)
    copy = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = {
        name: hint for name, hint in hints.items() if "jaxtyping" in repr(hint) or "Float" in repr(hint)
    }
    assert copy.__annotations__, f"{function.__name__} says nothing of shapes"
    return jaxtyped(typechecker=beartype)(copy)


D = edm.exact.GaussianMixture(weights=[0.4, 0.6], means=[[-1.0, 0.0], [1.0, 0.5]], covs=[0.05, 0.02])
X = edm.unit_noise(6, (2,))
EVENTS = [(), (2,), (3, 4, 5)]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_noise_and_samples_keep_their_shape(event: tuple[int, ...]) -> None:
    noise = _checked(edm.unit_noise)(4, event, seed=1)
    assert noise.shape == (4, *event)
    assert (
        _checked(edm.sample)(lambda x, sigma: 0.5 * x, noise, steps=edm.discretization.Karras(n=3)).shape == noise.shape
    )
    assert _checked(edm.reference)(lambda x, sigma: 0.5 * x, noise, tolerance=1e-4).shape == noise.shape


@pytest.mark.parametrize("name", ["endpoint_error", "energy_distance", "frechet", "sliced_wasserstein"])
def test_metrics_take_what_they_say(name: str) -> None:
    metric = _checked(getattr(metrics, name))
    metric(X, D.sample(6))
    with pytest.raises(TypeCheckError):
        metric(X, D.sample(6)[:, :1])


@pytest.mark.parametrize("method", ["__call__", "score", "log_prob"])
def test_exact_denoisers_return_what_they_say(method: str) -> None:
    sigma = torch.tensor(0.3, dtype=torch.float64)
    for denoiser in (D, edm.exact.Gaussian(mean=[0.0, 1.0], cov=0.5), edm.exact.Empirical(D.sample(20))):
        out = _checked(getattr(type(denoiser), method))(denoiser, X, sigma)
        assert out.shape == ((6,) if method == "log_prob" else X.shape)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (networks.MLP(width=8, blocks=1, noise_features=4), (2,)),
        (networks.UNet(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=()), (3, 4, 6)),
    ],
    ids=["mlp", "unet"],
)
def test_networks_take_what_they_say(config: Any, shape: tuple[int, ...]) -> None:
    network = config.build(shape, classes=3, augment=2)
    forward = _checked(type(network).forward)
    x, label, augment = torch.randn(4, *shape), torch.tensor([0, 1, 2, -1]), torch.zeros(4, 2)
    assert forward(network, x, torch.zeros(4), label=label, augment=augment).shape == x.shape
    with pytest.raises(TypeCheckError):
        forward(network, x, torch.zeros(4), label=label[:3])
    with pytest.raises(TypeCheckError):
        forward(network, x, torch.zeros(1))


def test_scalar_events_have_noise_of_their_own() -> None:
    noise = edm.unit_noise(5, ())
    assert len(set(noise.tolist())) == 5
    assert torch.equal(noise[3:], edm.unit_noise(2, (), first=3))
