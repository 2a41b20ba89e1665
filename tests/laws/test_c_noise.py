"""What a network is told of the noise, against the papers, for every recipe: numbers, not inverses of our own formulas.

c_noise is a relabelling of σ. A network that is trained with a slip in it learns around the slip, so neither its loss
nor its samples show it (``test_training_excess.py`` does not see 10 %); weights from elsewhere, trained with the right
numbers, would be told wrong ones. So the numbers themselves are the law.

Each table goes the papers' way, from their time or step to both σ and what their network is given; ours goes back from
σ. What is compared is what arrives at the network, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edm_unified.components import shipped
from edm_unified.denoisers.denoiser import Preconditioned
from edm_unified.denoisers.preconditioning import DDPM, IDDPM, DataPrediction, Score
from edm_unified.recipe import Recipe

Table = list[tuple[float, float]]
TIMES = [1e-4, 0.01, 0.1, 0.37, 0.5, 0.8, 0.999]
LEVELS = [0.02, 0.1, 0.5, 1.0, 7.0, 50.0]


def sde(std_over_s: Callable[[float], float]) -> Table:
    """Song et al. 2021: the network is given 999 t (``labels = t * 999`` of their models)."""
    return [(std_over_s(t), 999 * t) for t in TIMES]


def integral(t: float) -> float:
    return 0.5 * 19.9 * t**2 + 0.1 * t


def chain(betas: list[float]) -> Table:
    """Ho et al. 2020: the network is given the step k, counted from 0, whose ᾱ is the product up to it."""
    alpha_bar, table = 1.0, []
    for k, beta in enumerate(betas):
        alpha_bar *= 1 - beta
        if k % 37 == 0 or k == len(betas) - 1:
            table.append((math.sqrt((1 - alpha_bar) / alpha_bar), float(k)))
    return table


def cosine(t: float) -> float:
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def iddpm(M: int) -> Table:
    """Nichol & Dhariwal 2021, Eq. 17, and β no more than 0.999."""
    return chain([min(1 - cosine((k + 1) / M) / cosine(k / M), 0.999) for k in range(M)])


TOLD: dict[str, Table] = {
    "edm": [(s, math.log(s) / 4) for s in LEVELS],  # Karras et al. 2022, Table 1
    "ve": [(s, math.log(s / 2)) for s in LEVELS],  # ln of the σ that images in [0, 1] have: half of ours
    "vp": sde(lambda t: math.sqrt(math.exp(integral(t)) - 1)),
    "subvp": sde(lambda t: (1 - math.exp(-integral(t))) / math.exp(-integral(t) / 2)),
    "ddpm": chain([1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]),
    "iddpm": iddpm(1000),
    "v_prediction": [(math.tan(math.pi * t / 2), t) for t in TIMES],  # Salimans & Ho 2022: α = cos(πt/2), σ = sin(πt/2)
    "flow_matching": [(t / (1 - t), t) for t in TIMES],  # x_t = (1 − t) x_0 + t n
    "score": [(math.sqrt((25 ** (2 * t) - 1) / (2 * math.log(25))), t) for t in TIMES],  # the tutorial's marginal std
    "data_prediction": [(math.tan(math.pi * t / 2), t) for t in TIMES],
}
STEPS = {"train/iddpm_cifar10": iddpm(4000)}
"""Recipes with another number of steps than the rest of their kind: theirs for CIFAR-10 is 4000."""
WHOLE = ("ddpm", "iddpm")
"""Kinds whose levels must be told as whole numbers, exactly: some networks look them up in a table."""


def told(preconditioning: Any, sigma: float) -> float:
    """What arrives at the network."""
    seen: list[Tensor] = []

    def network(x: Tensor, c_noise: Tensor) -> Tensor:
        seen.append(c_noise)
        return x

    Preconditioned(network, preconditioning)(torch.zeros(2, 1), sigma)
    assert seen[0].dtype == torch.float32
    assert seen[0][0] == seen[0][1]
    return float(seen[0][0])


def off(preconditioning: Any, table: Table) -> float:
    """The largest difference from the table, as a share of the number, or of its range where that is small."""
    extent = max(value for _, value in table) - min(value for _, value in table)
    return max(abs(told(preconditioning, s) - v) / max(abs(v), 1e-2 * extent) for s, v in table)


def checked(preconditioning: Any, table: Table) -> bool:
    exact = preconditioning.kind in WHOLE
    return all(told(preconditioning, s) == v for s, v in table) if exact else off(preconditioning, table) < 1e-5


RECIPES = {
    str(path.relative_to(shipped.recipes_folder()).with_suffix("")): Recipe.load(str(path)).preconditioning
    for path in shipped.recipes_folder().rglob("*.yaml")
    if "\nsampler:" in path.read_text("utf-8")
}


@pytest.mark.parametrize("name", [name for name, found in RECIPES.items() if found is not None])
def test_every_recipe_tells_its_network_what_the_paper_does(name: str) -> None:
    preconditioning = RECIPES[name]
    assert checked(preconditioning, STEPS.get(name, TOLD[preconditioning.kind]))  # type: ignore[union-attr]


EVERY = [*{r.kind: r for n, r in RECIPES.items() if r is not None and n not in STEPS}.values(), DataPrediction()]


def test_every_kind_is_held_against_a_paper() -> None:
    assert {row.kind for row in EVERY} == set(TOLD)


@pytest.mark.parametrize("row", EVERY, ids=lambda row: row.kind)
@pytest.mark.parametrize("slip", ["10 % more", "1 % less", "half a thousandth of the range on top"])
def test_a_slip_is_seen(row: Any, slip: str) -> None:
    extent = max(value for _, value in TOLD[row.kind]) - min(value for _, value in TOLD[row.kind])
    wrong: dict[str, Callable[[Tensor], Tensor]] = {
        "10 % more": lambda c: 1.1 * c,
        "1 % less": lambda c: 0.99 * c,
        "half a thousandth of the range on top": lambda c: c + 5e-4 * extent,
    }

    class Slipped:
        kind = row.kind
        c_skip, c_out, c_in = row.c_skip, row.c_out, row.c_in

        def c_noise(self, sigma: Any) -> Tensor:
            return wrong[slip](row.c_noise(sigma))

    assert checked(row, TOLD[row.kind])
    assert not checked(Slipped(), TOLD[row.kind])


@pytest.mark.parametrize("row", [DDPM(), IDDPM()], ids=lambda row: row.kind)
def test_all_thousand_steps_are_told_exactly(row: Any) -> None:
    """From the levels rounded to float32 too, as a σ that came over a device is."""
    levels = row.sigmas if isinstance(row, DDPM) else row.u[:-1].flip(0)
    assert row.c_noise(levels).tolist() == list(range(1000))
    assert (row.c_noise(levels.float()) - torch.arange(1000)).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("betas", "named"), [("linear", {"beta_start": 1e-4, "beta_end": 0.02}), ("cosine", {})], ids=["linear", "cosine"]
)
def test_levels_and_steps_are_those_of_diffusers(betas: Any, named: dict[str, float]) -> None:
    """Its table in float32, and its own interpolation of the step between two levels."""
    diffusers = pytest.importorskip("diffusers")
    schedule = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[betas]
    theirs = diffusers.EulerDiscreteScheduler(
        num_train_timesteps=1000, beta_schedule=schedule, use_karras_sigmas=True, **named
    )
    alpha_bar = theirs.alphas_cumprod.double()
    row, k = DDPM(betas=betas), torch.arange(1000)
    high = 990 if betas == "cosine" else 1000  # beyond, 1 − ᾱ in float32 has lost its digits
    assert (row.c_noise(((1 - alpha_bar) / alpha_bar).sqrt())[:high] - k[:high]).abs().max() < 0.02
    theirs.set_timesteps(20)
    between = theirs.sigmas[:-1].double()
    assert (row.c_noise(between)[2:] - theirs.timesteps[2:].double()).abs().max() < 0.1


def test_other_ways_to_tell_a_score_network() -> None:
    for s in LEVELS:
        assert told(Score(), s) == pytest.approx(math.log(s), rel=1e-6, abs=1e-9)
        assert told(Score(noise="sigma"), s) == pytest.approx(s, rel=1e-6)
