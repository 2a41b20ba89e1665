"""Annealed Langevin dynamics of ermongroup/ncsn and ncsnv2, their ladders and their configurations, beside ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from authors_repos import NOISE, D, Seen, clone, difference, double, drawn, golden, importable, loaded, ours, some
from torch import Tensor

import edm_unified as edm
from edm_unified.sampling.correctors import NCSNLangevin
from edm_unified.sampling.solvers import NoPredictor

FIRST, SECOND = "ermongroup/ncsn", "ermongroup/ncsnv2"
second = loaded(SECOND, "models")
first = loaded(FIRST, "runners.anneal_runner", stubs=("tensorboardX", "tqdm", "seaborn"))
first.tqdm = SimpleNamespace(tqdm=lambda levels, **_: levels)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def config(repository: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((clone(repository) / "configs" / name).read_text())


def ladder(settings: dict[str, Any]) -> list[float]:
    model = SimpleNamespace(**{"sigma_dist": "geometric", **settings["model"]})
    return second.get_sigmas(SimpleNamespace(model=model, device="cpu")).double().tolist()


def score(sigmas: list[float], denoiser: Any) -> Any:
    return lambda x, labels: (denoiser(x, sigmas[labels[0]]) - x) / sigmas[labels[0]] ** 2


@pytest.mark.parametrize(("denoise", "steps"), [(True, 5), (False, 3)])
def test_second_version(denoise: bool, steps: int) -> None:
    """Every state at which the network is asked, and the end: CIFAR-10's step size on eight levels."""
    sigmas = [50 * 0.0002 ** (i / 7) for i in range(8)]
    mine = Seen()

    @golden(SECOND)
    def sample() -> tuple[Tensor, list[Tensor]]:
        theirs = Seen()
        torch.manual_seed(0)
        ladder = torch.tensor(sigmas).numpy()
        (x,) = second.anneal_Langevin_dynamics(
            NOISE, score(sigmas, theirs), ladder, steps, 6.2e-6, final_only=True, denoise=denoise
        )
        return x, theirs.states

    x, states = sample()
    rule = NCSNLangevin(epsilon=6.2e-6, sigma_min=0.01)
    levels = [s for s in sigmas for _ in range(steps + 1)]
    out = ours(NoPredictor(), levels, noises=drawn(), denoiser=mine, corrector=rule, start=NOISE)
    if denoise:
        out = mine(out, sigmas[-1])
    assert max(difference(a, b) for a, b in zip(mine.states, states, strict=True)) < 1e-12
    assert difference(out, x) < 1e-12


def test_first_version() -> None:
    """What it returns are the states before each step: the outcome of the last one is thrown away."""
    mine = Seen()

    @golden(FIRST)
    def sample() -> tuple[list[float], list[Tensor]]:
        """Their levels, and of the thousand states at which the network is asked twenty."""
        theirs, sigmas = Seen(), ladder(config(FIRST, "anneal.yml"))
        torch.manual_seed(0)
        images = first.AnnealRunner.anneal_Langevin_dynamics(
            None, NOISE, score(sigmas, theirs), torch.tensor(sigmas).numpy()
        )
        assert len(images) == len(theirs.states) == 1000
        assert torch.equal(images[-1], theirs.states[-1].clamp(0, 1))
        return sigmas, some(theirs.states)

    sigmas, states = sample()
    assert sigmas == pytest.approx([10 ** (-2 * i / 9) for i in range(10)], rel=1e-6)
    rule = NCSNLangevin(epsilon=2e-5, sigma_min=sigmas[-1])
    levels = [s for s in sigmas for _ in range(101)]
    ours(NoPredictor(), levels, noises=drawn(), denoiser=mine, corrector=rule, start=NOISE)
    assert len(mine.states) == 1000
    assert max(difference(a, b) for a, b in zip(some(mine.states), states, strict=True)) < 1e-12


@pytest.mark.parametrize(
    ("repository", "name", "sigma_max", "L", "T", "epsilon", "snr", "denoise"),
    [
        (SECOND, "ncsn_original.yml", 1, 10, 100, 2e-5, 0.316, False),
        (SECOND, "cifar10.yml", 50, 232, 5, 6.2e-6, 0.176, True),
        (SECOND, "celeba.yml", 90, 500, 5, 3.3e-6, 0.128, True),
        (SECOND, "bedroom.yml", 190, 1086, 3, 1.8e-6, 0.095, True),
        (SECOND, "church.yml", 140, 788, 4, 4.9e-6, 0.157, True),
        (SECOND, "ffhq.yml", 348, 2311, 3, 0.9e-6, 0.067, True),
    ],
)
def test_the_table_of_the_page(
    repository: str, name: str, sigma_max: float, L: int, T: int, epsilon: float, snr: float, denoise: bool
) -> None:
    """docs/predictor-corrector.md, from their files; ``snr`` as √(epsilon/2)/σ_min."""

    @golden(repository)
    def settings() -> tuple[list[float], Tensor]:
        """Of the file, in the order below; and twenty of the levels."""
        found = config(repository, name)
        model, sampling = found["model"], found["sampling"]
        numbers = [model["sigma_begin"], model["num_classes"], model["sigma_end"], sampling["n_steps_each"],
                   sampling["denoise"], found["data"]["rescaled"], sampling["step_lr"]]  # fmt: skip
        return [float(number) for number in numbers], torch.tensor(ladder(found))[[*range(0, L, 1 + L // 20), -1]]

    numbers, theirs = settings()
    assert numbers[:-1] == [sigma_max, L, 0.01, T, denoise, False]
    assert numbers[-1] == pytest.approx(epsilon)
    assert math.sqrt(epsilon / 2) / 0.01 == pytest.approx(snr, abs=6e-4)
    mine = edm.discretization.LogLinear(n=L, sigma_min=0.01, sigma_max=sigma_max).levels(edm.schedules.EDM())[:-1]
    assert torch.allclose(mine[[*range(0, L, 1 + L // 20), -1]], theirs, rtol=1e-6)


def test_the_recipe_has_the_first_row_doubled() -> None:
    recipe = edm.Recipe.load("ncsn")
    steps, corrector = recipe.sampler.steps, recipe.sampler.corrector
    assert (steps.n, steps.sigma_max, steps.sigma_min) == (10, 2.0, 0.02)
    assert recipe.sampler.renoising.repeats == 100
    assert (corrector.epsilon, corrector.sigma_min) == (8e-5, 0.02)


def test_the_loss_is_ours_with_a_half() -> None:
    x0 = 0.5 * NOISE

    @golden(SECOND)
    def loss() -> tuple[float, Tensor]:
        with importable(clone(SECOND)) as load:
            dsm = load("losses.dsm")
        sigmas, labels = torch.tensor(ladder(config(SECOND, "cifar10.yml"))), torch.tensor([3, 100, 231])
        level = sigmas[labels]

        def network(x: Tensor, _: Tensor) -> Tensor:
            return torch.stack([(D(row[None], s) - row)[0] / s**2 for row, s in zip(x, level, strict=True)])

        torch.manual_seed(0)
        return dsm.anneal_dsm_score_estimation(network, x0, sigmas, labels), level

    theirs, level = loss()
    noise = next(drawn())
    weight = edm.training.weights.ScoreWeight()
    error = [(D((x + s * n)[None], s)[0] - x).square().sum() for x, n, s in zip(x0, noise, level, strict=True)]
    mine = 0.5 * (weight(level) * torch.stack(error)).mean()
    assert float(theirs) == pytest.approx(float(mine), rel=1e-9)
