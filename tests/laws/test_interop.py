"""A denoiser exported in any convention and loaded back is the same denoiser.

The exporters are written from the definitions of the libraries, x_t = α x_0 + β n and their own time, and know nothing
of the rows that read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import edm_unified as edm
from edm_unified.interop import checking


def mixture(dtype: torch.dtype = torch.float64) -> Any:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(3, 2, generator=g, dtype=torch.float64)
    D = edm.exact.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, 0.05 + torch.rand(3, 2, generator=g).double())
    return D if dtype == torch.float64 else lambda x, sigma: D(x.double(), sigma.double()).to(dtype)


class Foreign(NamedTuple):
    """``path``: σ and α of what is told; ``target`` of α, β, x_0 and n; and how it is read back."""

    path: Callable[[Tensor], tuple[Tensor, Tensor]]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    reading: dict[str, Any]


def ddpm(k: Tensor) -> tuple[Tensor, Tensor]:
    """σ and α of DDPM's table of betas at its step k, by the product, and between steps by ln σ."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    log_sigma = 0.5 * torch.log((1 - alpha_bar) / alpha_bar)
    low = k.long().clamp(max=998)
    sigma = torch.exp(log_sigma[low] + (k - low) * (log_sigma[low + 1] - log_sigma[low]))
    return sigma, 1 / torch.sqrt(1 + sigma**2)


def straight(t: Tensor) -> tuple[Tensor, Tensor]:
    return t / (1 - t), 1 - t


def circle(t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tan(math.pi * t / 2), torch.cos(math.pi * t / 2)


def vp(t: Tensor) -> tuple[Tensor, Tensor]:
    B = 0.5 * 19.9 * t**2 + 0.1 * t
    return torch.sqrt(torch.expm1(B)), torch.exp(-B / 2)


EPSILON = lambda a, b, x0, n: n  # noqa: E731
V = lambda a, b, x0, n: a * n - b * x0  # noqa: E731
X0 = lambda a, b, x0, n: x0  # noqa: E731
S = edm.schedules
WORLD = {
    "ddpm, guided-diffusion": Foreign(ddpm, EPSILON, {"prediction": "epsilon"}),
    "diffusers v_prediction": Foreign(ddpm, V, {"prediction": "v"}),
    "diffusers sample": Foreign(ddpm, X0, {"prediction": "x0", "schedule": S.BetaTable()}),
    "diffusers flow, SD3": Foreign(
        lambda t: straight(t / 1000), lambda a, b, x0, n: n - x0, {"prediction": "velocity", "time": "1000*t"}
    ),
    "torchcfm, SiT, Lipman et al.": Foreign(
        lambda t: straight(1 - t), lambda a, b, x0, n: x0 - n, {"prediction": "velocity", "time": "1-t"}
    ),
    "a flow with the other sign": Foreign(
        straight, lambda a, b, x0, n: x0 - n, {"prediction": "velocity", "toward": "data"}
    ),
    "flow that predicts x_0, time from noise": Foreign(
        lambda t: straight(1 - t), X0, {"prediction": "x0", "schedule": S.FlowMatching(), "time": "1-t"}
    ),
    "v on the circle": Foreign(circle, V, {"prediction": "v", "schedule": S.Trigonometric()}),
    "velocity on the circle": Foreign(
        circle,
        lambda a, b, x0, n: math.pi / 2 * (a * n - b * x0),
        {"prediction": "velocity", "schedule": S.Trigonometric()},
    ),
    "score_sde VP": Foreign(
        lambda t: vp(t / 999), lambda a, b, x0, n: -n / b,
        {"prediction": "score", "schedule": S.VP(), "time": "999*t"},
    ),
    "score_sde VE": Foreign(
        lambda sigma: (sigma, torch.ones_like(sigma)), lambda a, b, x0, n: -n / b, {"prediction": "score"}
    ),
    "k-diffusion": Foreign(lambda sigma: (sigma, torch.ones_like(sigma)), X0, {"prediction": "denoised"}),
    "EDM's F": Foreign(
        lambda c: (torch.exp(4 * c), 1 / torch.sqrt(torch.exp(8 * c) + 0.25)),
        # from D = c_skip z + c_out F, with z = x_0 + σ n and σ = β/α
        lambda a, b, x0, n: ((x0 - 0.25 * a**2 * (x0 + b / a * n)) / (b * 0.5)),
        {"prediction": "edm", "sigma_data": 0.5},
    ),
}  # fmt: skip


def exported(foreign: Foreign, D: Any, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """The network of that convention whose denoiser is D."""

    def network(x_t: Tensor, told: Tensor) -> Tensor:
        assert x_t.dtype == dtype
        sigma, alpha = (value[:, None] for value in foreign.path(told.double()))
        z = x_t.double() / alpha
        x0 = D(z, sigma[:, 0])
        return foreign.target(alpha, alpha * sigma, x0, (z - x0) / sigma).to(dtype)

    return network


@pytest.mark.parametrize("name", WORLD)
def test_exported_and_loaded_it_is_the_same_denoiser(name: str) -> None:
    D, foreign = mixture(), WORLD[name]
    g = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(32, 2, generator=g, dtype=torch.float64)
    sigma = torch.exp(torch.empty(32, dtype=torch.float64).uniform_(math.log(0.02), math.log(20.0), generator=g))
    back = edm.wrap(exported(foreign, D, torch.float64), **foreign.reading)
    torch.testing.assert_close(back(x, sigma), D(x, sigma), rtol=0, atol=1e-10)
    for level in (0.05, 0.7, 5.0):  # float32: the errors of x_t and of the prediction come to D multiplied by σ
        one = torch.tensor(level, dtype=torch.float64)
        single = edm.wrap(exported(foreign, D, torch.float32), **foreign.reading, dtype=torch.float32)
        got, want = single(x.float(), one), D(x.float().double(), one)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6 * max(1, level) * float(x.abs().max()))


@pytest.mark.parametrize("wrong", [{"prediction": "v"}, {"time": "1-t"}, {"time": "t"}, {"toward": "data"}])
def test_a_neighbouring_convention_is_another_denoiser(wrong: dict[str, str]) -> None:
    """Else the test above could not fail."""
    D, foreign = mixture(), WORLD["diffusers flow, SD3"]
    x, sigma = torch.ones(4, 2, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    reading = {"prediction": "velocity", "schedule": S.FlowMatching(), "time": "1000*t"} | wrong
    found = edm.wrap(exported(foreign, D, torch.float64), **reading)(x, sigma)
    assert float((found - D(x, sigma)).abs().max()) > 1e-2


def test_a_flow_samples_the_same_under_every_schedule_with_an_exponential_solver() -> None:
    D = edm.wrap(exported(WORLD["torchcfm, SiT, Lipman et al."], mixture(), torch.float64), "velocity", time="1-t")
    steps = edm.discretization.Explicit((20.0, 6.0, 2.0, 0.6, 0.2, 0.05, 0.0))
    noise = edm.unit_noise(8, (2,), seed=0)
    runs = [
        edm.sample(D, noise, schedule=schedule, steps=steps, solver=edm.solvers.DPMSolverPP2M())
        for schedule in (S.VP(), S.EDM(), S.Cosine(), S.FlowMatching())
    ]
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=1e-10)


def checked(foreign: Foreign, reading: dict[str, Any]) -> checking.Check:
    """The check of the exact denoiser of a mixture, exported in one convention and read in another."""
    exact = mixture()

    def D(z: Tensor, sigma: Tensor) -> Tensor:
        """A network answers also where it is told what it never was; a formula does not."""
        inside = sigma.abs().nan_to_num(1.0).clamp(1e-4, 1e4)
        return exact(z.nan_to_num(0.0).clamp(-1e6, 1e6), inside)

    model = edm.wrap(exported(foreign, D, torch.float64), **reading, shape=(2,))
    return checking.check(model, exact.sample(256, seed=3))


@pytest.mark.parametrize("name", WORLD)
def test_the_check_finds_nothing_better_than_the_right_convention(name: str) -> None:
    found = checked(WORLD[name], WORLD[name].reading)
    assert found.warning is None
    assert found.declared.loss < 1.1  # the best linear denoiser has about 1
    assert found.nearness < 1.2
    assert found.spread < 0.2 * found.sigma_data  # at 20 σ_d all is drowned: D is near the mean
    if name == "ddpm, guided-diffusion":
        assert found.between < 0.02


@pytest.mark.parametrize(
    ("name", "misread", "words"),
    [
        ("ddpm, guided-diffusion", {"prediction": "v"}, "prediction epsilon"),
        ("diffusers v_prediction", {"prediction": "epsilon"}, "prediction v"),
        ("diffusers sample", {"prediction": "epsilon"}, "prediction x0"),
        ("diffusers flow, SD3", {"prediction": "velocity", "time": "t"}, "the time times 1000"),
        (
            "torchcfm, SiT, Lipman et al.",
            {"prediction": "velocity"},
            "the time from the other end, and the sign turned",
        ),
        ("torchcfm, SiT, Lipman et al.", {"prediction": "velocity", "toward": "data"}, "the time from the other end"),
        ("a flow with the other sign", {"prediction": "velocity"}, "the sign of the output turned"),
        ("EDM's F", {"prediction": "edm", "sigma_data": 1.0}, "sigma_data 0.5"),
        (
            "torchcfm, SiT, Lipman et al.",
            {"prediction": "x0", "schedule": S.FlowMatching(), "time": "1-t"},
            "prediction velocity, x_0 - n",
        ),
        ("ddpm, guided-diffusion", {"prediction": "epsilon", "time": "1000*index"}, "the time times 0.001"),
    ],
)
def test_the_check_names_the_convention_that_was_mistaken(name: str, misread: dict[str, str], words: str) -> None:
    found = checked(WORLD[name], misread)
    assert found.best.words == words
    assert found.warning is not None
    assert found.warning.startswith(f"with {words} the loss is ")


class Odd(torch.nn.Module):
    """Time first, classes under a name of its own, an object for an answer, a variance in the second half."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.seen: dict[str, Any] = {}

    def forward(self, timestep: Tensor, sample: Tensor, y: Tensor | None = None, text: Tensor | None = None) -> Any:
        self.seen = {"time": timestep, "x": sample, "y": y, "text": text}
        return SimpleNamespace(sample=torch.cat([self.weight * sample, torch.full_like(sample, torch.nan)], 1))


def test_arguments_labels_conditions_and_answers_of_any_form() -> None:
    network = Odd()
    D = edm.wrap(
        network, "epsilon", time="nearest_index", classes=10, label="y", null=10, cond={"text": torch.ones(1, 7)}
    )
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    out = D(x, torch.tensor(1.0), label=torch.tensor([4, -1, 0]))
    c_in = 1 / math.sqrt(2)
    torch.testing.assert_close(out, x - 0.5 * c_in * x, rtol=0, atol=1e-6)
    assert out.dtype == torch.float64
    assert network.seen["x"].dtype == torch.float32
    assert network.seen["time"].dtype == torch.int64
    assert network.seen["y"].tolist() == [4, 10, 0]
    assert network.seen["text"].shape == (3, 7)
    named = edm.wrap(Odd(torch.float16), "epsilon", arguments={"x": "sample", "time": "timestep"})
    named(x, torch.tensor(1.0))
    assert named.denoiser.network.network.seen["time"].dtype == torch.float32  # 999 is no number of bfloat16


def test_a_k_diffusion_model_in_float32_is_sampled_from_in_float64() -> None:
    model = torch.nn.Linear(2, 2)

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return model(x) / (1 + sigma[:, None])

    D = edm.wrap(denoiser, "denoised", dtype=torch.float32)
    assert edm.sample(D, edm.unit_noise(4, (2,)), steps=edm.discretization.Karras(n=3)).dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"^prediction: name one of epsilon, v, "),
        ({"prediction": "eps"}, r"^prediction: unknown 'eps'; did you mean 'epsilon'\?"),
        ({"prediction": "velocity", "time": "seconds"}, r"^time: must be one of t, 1-t, .*got 'seconds'"),
        ({"prediction": "velocity", "time": "0*t"}, r"^time: the factor must be a positive number"),
        ({"prediction": "v", "toward": "data"}, r"^toward: is the sign of a velocity"),
        ({"prediction": "edm", "time": "t"}, r"^time: EDM's networks are told ln\(σ\)/4"),
        ({"prediction": "velocity", "time": "index"}, r"^noise: index is that of a table"),
        ({"prediction": "v", "arguments": ("x", "sigma")}, r"^arguments: must be 'x' and 'time'"),
    ],
)
def test_what_does_not_fit_is_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        edm.wrap(Odd(), **given)


def test_an_answer_without_a_tensor_is_said() -> None:
    D = edm.wrap(lambda x, t: {"logits": x}, "v")
    with pytest.raises(ValueError, match=r"^network: returned dict, in which no tensor is to be found"):
        D(torch.zeros(2, 2), torch.tensor(1.0))
