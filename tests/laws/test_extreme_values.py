"""A value that a field accepts gives finite numbers, or a ``ValueError`` that says what is wrong: whatever the value.

Every number of every component is set to extreme ones, one field at a time, and the component is used as a run uses
it. Python's own words on arithmetic (``OverflowError``, ``ZeroDivisionError``) name nothing, and NaN says nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from variants import UNIONS, needs_corrector, one_of_each

import edm_unified as edm
from edm_unified.denoisers import preconditioning
from edm_unified.denoisers.thresholding import AnyThreshold, Thresholded
from edm_unified.recipe import guidances
from edm_unified.sampling.levels import Karras
from edm_unified.sampling.loop import levels_of
from edm_unified.sampling.renoising import Corrected
from edm_unified.training.objective.noise import AnyNoise
from edm_unified.training.objective.weights import AnyWeight
from edm_unified.training.optimization.ema import AnyEMA
from edm_unified.training.optimization.rates import AnyRate

FLOATS = (0.0, -1.0, 5e-324, 1e-50, 1e-12, 1e12, 1e50, 1e300, math.inf, math.nan, 0.999999)
COUNTS = (0, 1, -1, 10**6, 10**30)
TUPLES: tuple[tuple[float, ...], ...] = (
    (), (math.nan,), (1.0, math.nan), (1e300, 1.0), (1.0, 1e-300), (1e50, 1e-50), (1.0, 1.0, 1.0), (0.0,), (-1.0, 0.0),
)  # fmt: skip
NOISE = edm.unit_noise(2, (2,))
U = torch.tensor([2.0**-53, 0.3, 0.5, 0.9, 1 - 2.0**-53], dtype=torch.float64)
SIGMA = torch.tensor([0.01, 0.5, 1.0, 50.0], dtype=torch.float64)


def D(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
    return x / (1 + (sigma.view(-1, 1) if sigma.ndim else sigma) ** 2)


def sampled(**choices: Any) -> Tensor:
    steps = choices.pop("steps", Karras(n=3, sigma_max=5.0, sigma_min=0.1))
    return edm.sample(choices.pop("denoiser", D), NOISE, steps=steps, **choices)


def numbers_of(group: str, value: Any) -> list[Tensor]:
    """What comes out of a component, used as a run uses it."""
    match group:
        case "steps":
            return [torch.tensor(levels_of(value, edm.schedules.EDM()), dtype=torch.float64)]
        case "schedules":
            return [sampled(schedule=value), value.s(value.time(SIGMA)), value.sigma(value.time(SIGMA))]
        case "solvers":
            return [sampled(solver=value)]
        case "renoising":
            corrector = needs_corrector(value)
            return [sampled(renoising=value, corrector=corrector)]
        case "correctors":
            return [sampled(corrector=value, renoising=Corrected())]
        case "analytic_starts":
            return [sampled(analytic_start=value)]
        case "preconditionings":
            inside = SIGMA.clamp(value.sigma_min, value.sigma_max)
            return [getattr(value, name)(inside) for name in ("c_skip", "c_out", "c_in", "c_noise")]
        case "noise":
            sigma = value.quantile(U, edm.schedules.EDM() if value.kind != "uniform_time" else edm.schedules.VP())
            assert float(sigma.min()) > 0, "a level of 0"
            return [sigma, 1 / sigma**2]
        case "weights":
            return [value(SIGMA, edm.schedules.VP())]
        case "thresholds":
            return [sampled(denoiser=Thresholded(D, value))]
        case "guidances":
            return [sampled(denoiser=value.counting(D), cond={"label": torch.tensor([0, 1])})]
        case "rates":
            return [torch.tensor([value.factor(images) for images in (0, 1, 10**6, 10**12)])]
        case _:
            return [torch.tensor(value.betas(images, 1)) for images in (1, 2, 10**6, 10**12)]


def trials(value: Any) -> Iterator[tuple[str, Any]]:
    """(field, value), for each of its numbers and lists of numbers; what is null is tried with numbers."""
    hints = {
        field.name: str(field.type).replace("Positive", "float").replace("Nonnegative", "float").replace("Count", "int")
        for field in dataclasses.fields(value)
    }
    for name, hint in hints.items():
        if name == "kind" or hint.startswith("Literal"):
            continue
        if "tuple[float" in hint:
            yield from ((name, x) for x in TUPLES)
        elif "float" in hint:
            yield from ((name, x) for x in FLOATS)
        elif "int" in hint.split(" | "):
            yield from ((name, x) for x in COUNTS)


def brief(value: Any) -> Any:
    """With a limit of evaluations, where there is one: it is the wait that is extreme, then."""
    return dataclasses.replace(value, most_evaluations=100) if hasattr(value, "most_evaluations") else value


def everything() -> list[tuple[str, Any]]:
    found = [(group, brief(value)) for group, (_, settings) in UNIONS.items() for value in one_of_each(settings)]
    for group, union in (
        ("preconditionings", preconditioning.AnyPreconditioning), ("noise", AnyNoise), ("weights", AnyWeight),
        ("thresholds", AnyThreshold), ("rates", AnyRate), ("averages", AnyEMA),
    ):  # fmt: skip
        found += [(group, cls()) for cls in get_args(union)]
    return [*found, ("guidances", guidances.ClassifierFree(w=2.0)), ("guidances", guidances.Autoguidance("run", w=2.0))]


@pytest.mark.parametrize(("group", "value"), everything(), ids=lambda x: x if isinstance(x, str) else x.kind)
def test_an_extreme_value_is_refused_or_gives_finite_numbers(group: str, value: Any) -> None:
    for name, x in trials(value):
        try:
            changed = dataclasses.replace(value, **{name: x})
            if isinstance(x, int) and x == 10**6:
                continue  # a wait, and nothing else
            found = numbers_of(group, changed)
        except FloatingPointError:  # of the run, which names the step and its level
            continue
        except ValueError as error:
            if ": " not in str(error):
                pytest.fail(f"{name}={x!r}: {error!r} names no field")
            continue
        except ArithmeticError as error:
            pytest.fail(f"{name}={x!r}: {error!r}")
        for tensor in found:
            assert bool(torch.isfinite(tensor).all()), (name, x, tensor)
