"""What goes wrong in a run is told in one line: what, in which move, at which noise level, and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import edm_unified as edm
from edm_unified import correctors, schedules, solvers
from edm_unified.sampling.levels import Explicit, Karras, UniformTime
from edm_unified.sampling.levels.measured import mean_squared_errors
from edm_unified.sampling.loop import levels_of
from edm_unified.sampling.renoising import Churn, Corrected
from edm_unified.schedules import EDM, BetaTable, FlowMatching

NOISE = edm.unit_noise(3, (2,))
TOO_HIGH = torch.tensor([1e160, 1.0, 0.0], dtype=torch.float64)


def fine(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma**2)


def below_one(bad: Any) -> Any:
    """A denoiser that is fine above σ = 1 and returns ``bad(x)`` below."""
    return lambda x, sigma: bad(x) if float(sigma) < 1 else fine(x, sigma)


def first_below_one(steps: Karras = Karras(n=18)) -> tuple[int, float]:  # noqa: B008
    levels = levels_of(steps, EDM())
    return next((i + 1, level) for i, level in enumerate(levels) if level < 1)


def poisoned(x: Tensor) -> Tensor:
    out = x.clone()
    out[1, 0] = math.nan
    return out


def test_nan_names_the_move_the_level_and_the_sample() -> None:
    move, sigma = first_below_one()
    with pytest.raises(FloatingPointError) as error:
        edm.sample(below_one(poisoned), NOISE, solver=solvers.DDIM())
    text = str(error.value)
    assert f"in move {move} of 18 at sigma = {sigma:.6g}" in text
    assert "1 of 3 samples" in text
    assert "sample 1 of the batch" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("solver", "bad"),
    [(solvers.Heun(), math.nan), (solvers.DPMSolverPP2MSDE(), math.inf), (solvers.RK4(), -math.inf)],
)
def test_a_bad_value_is_found_with_every_solver(solver: Any, bad: float) -> None:
    with pytest.raises(FloatingPointError, match=r"^denoiser: returned NaN or infinity in move \d+ of 36 at sigma = "):
        edm.sample(below_one(lambda x: x + bad), NOISE, solver=solver, renoising=Churn(S_min=0, S_max=100))


def test_a_run_that_overflows_by_itself_is_not_blamed_on_the_denoiser() -> None:
    """Outputs of ±60 000, within half precision, that 2M extrapolates out of it."""
    signs = iter([1, -1] * 100)
    with pytest.raises(FloatingPointError, match=r"^the state overflowed in move \d+ of 17, .* more steps") as error:
        edm.sample(
            lambda x, sigma: torch.full_like(x, 60_000 * next(signs)),
            NOISE,
            solver=solvers.DPMSolverPP2M(),
            steps=Karras(n=18, sigma_max=8.0),
            last="stop",  # the fall to 0 is an output of D, which is finite
            dtype=torch.float16,
        )
    assert "outputs of the denoiser were finite" in str(error.value)


def test_a_denoiser_that_changes_its_mind_is_said_to() -> None:
    calls = iter([math.nan])

    def once(x: Tensor, sigma: Tensor) -> Tensor:
        return x * next(calls, 0.5)

    with pytest.raises(FloatingPointError, match=r"not deterministic"):
        edm.sample(once, NOISE)


WRONG_OUTPUTS: list[tuple[Any, str]] = [
    (lambda x: x[:1], r"shape \(1, 2\)"),
    (lambda x: x[..., None], r"shape \(3, 2, 1\)"),
    (lambda x: x.flatten(), r"shape \(6,\)"),
    (lambda x: None, "NoneType"),
    (lambda x: (x, x), "tuple"),
    (lambda x: 0.0, "float"),
]


def test_a_wrong_shape_names_the_move_and_the_level() -> None:
    move, sigma = first_below_one()
    for bad, got in WRONG_OUTPUTS:
        words = rf"^denoiser: returned {got} for x of shape \(3, 2\) at sigma = {sigma:.6g}"
        with pytest.raises(ValueError, match=words) as error:
            edm.sample(below_one(bad), NOISE, solver=solvers.DDIM())
        assert f"(in move {move} of 18)" in str(error.value)


def writes_into_x(x: Tensor, sigma: Tensor) -> Tensor:
    out = x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)
    x.mul_(0.5)
    return out


def writes_into_sigma(x: Tensor, sigma: Tensor) -> Tensor:
    sigma += 1
    return x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


def returns_complex(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + 1j * sigma.view(-1, *[1] * (x.ndim - 1)))


WAYS: dict[str, Callable[[Any], object]] = {
    "sample": lambda D: edm.sample(D, NOISE),
    "adaptive": lambda D: edm.sample(D, NOISE, solver=solvers.DormandPrince45()),
    "corrector": lambda D: edm.sample(
        D, NOISE, renoising=Corrected(), corrector=correctors.Langevin(), solver=solvers.NoPredictor()
    ),
    "guidance": lambda D: edm.sample(edm.guidance.Autoguidance(D, D, w=2.0), NOISE),
    "reference": lambda D: edm.reference(D, NOISE),
    "log_likelihood": lambda D: edm.likelihood.log_likelihood(D, NOISE, steps=2),
    "encode": lambda D: edm.likelihood.encode(D, NOISE, steps=2),
    "variational_bound": lambda D: edm.likelihood.variational_bound(D, NOISE, points=2, repeats=1),
    "mean_squared_errors": lambda D: mean_squared_errors(D, NOISE, (1.0,)),
}
"""Whatever evaluates a denoiser that may be the user's."""


SPOILING: list[tuple[Any, str]] = [
    (writes_into_x, "^denoiser: wrote into its input x.*; compute a new tensor, as in"),
    (writes_into_sigma, "^denoiser: wrote into its input sigma"),
    (returns_complex, "^denoiser: returned complex numbers, torch.complex128, for x of shape"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_denoiser_that_spoils_the_run_is_named(way: str) -> None:
    for bad, words in SPOILING:
        with pytest.raises(ValueError, match=words):
            WAYS[way](bad)


def test_a_level_that_was_written_into_is_itself_again_in_the_next_run() -> None:
    """Levels are remembered between runs: what a denoiser does to one must not reach another's."""
    steps = Karras(n=7, sigma_max=33.0)
    before = edm.sample(fine, NOISE, steps=steps)

    def fails(x: Tensor, sigma: Tensor) -> Tensor:
        sigma.log_()
        raise RuntimeError("mine")

    for bad, error in ((writes_into_sigma, ValueError), (fails, RuntimeError)):
        with pytest.raises(error):
            edm.sample(bad, NOISE, steps=steps)
        assert torch.equal(edm.sample(fine, NOISE, steps=steps), before)


def test_a_denoiser_that_returns_one_buffer_again_and_again_is_named() -> None:
    """Where an output is still needed: of a multistep method, or of guidance. Else it does no harm."""
    buffer = torch.empty_like(NOISE)

    def into_a_buffer(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.div(x, 1 + sigma**2, out=buffer)

    words = "^denoiser: wrote into a tensor that it had returned before"
    for solver in (solvers.DPMSolverPP2M(), solvers.Heun()):
        with pytest.raises(ValueError, match=words):
            edm.sample(into_a_buffer, NOISE, solver=solver)
    with pytest.raises(ValueError, match=words):
        edm.sample(edm.guidance.Autoguidance(into_a_buffer, into_a_buffer, w=2.0), NOISE)


def test_what_is_written_into_does_no_harm_under_inference_mode() -> None:
    """Inference tensors do not count what is written into them: the denoiser gets copies."""
    clean = lambda x, sigma: x / (1 + sigma**2)  # noqa: E731
    with torch.inference_mode():
        assert torch.equal(edm.sample(writes_into_x, NOISE), edm.sample(clean, NOISE))
    assert torch.equal(edm.sample(clean, NOISE), edm.sample(lambda x, sigma: clean(x.clone(), sigma), NOISE))


def test_an_error_of_the_denoiser_itself_passes_through() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"mine"):
        edm.sample(broken, NOISE)


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"noise": NOISE[:0]}, "^noise: .* got "),
    ({"noise": torch.tensor(1.0)}, "^noise: "),
    ({"noise": NOISE.numpy()}, "^noise: .* got ndarray"),
    ({"noise": NOISE.to(torch.complex128)}, "^noise: must be a real tensor"),
    ({"noise": NOISE * math.nan}, "^noise: holds NaN"),
    ({"denoiser": None}, "^denoiser: must be callable"),
    ({"dtype": torch.int64}, "^dtype: must be a floating-point type"),
    (
        {"dtype": torch.float16, "schedule": FlowMatching(), "steps": UniformTime(n=4)},
        "^dtype: .* overflows torch.float16",
    ),
    ({"solver": "heun"}, r"^solver: must be an object such as solvers.Heun\(\), got 'heun'"),
    ({"solver": solvers.Heun}, "^solver: must be an object"),
    ({"steps": 18}, r"^steps: must be an object such as discretization.Karras\(n=18\), got 18"),
    ({"schedule": "vp"}, r"^schedule: must be an object such as schedules.VP\(\), got 'vp'"),
    ({"seed": -1}, "^seed, first: "),
    ({"seed": 1.5}, "^seed, first: "),
    ({"first": -1}, "^seed, first: "),
    ({"renoising": Corrected()}, "^corrector: the walk repeats levels .* corrector=Langevin"),
    ({"steps": UniformTime(n=4)}, "^sigma_max: the time axis of EDM has no end"),
    ({"steps": UniformTime(n=4, t_max=1.0), "schedule": FlowMatching()}, "^t_max: sigma is inf .* such as 1e6"),
    ({"schedule": BetaTable(betas="scaled_linear", beta_end=0.012)}, "^sigma: 80 is beyond .* lower sigma_max"),
    (
        {"schedule": FlowMatching(), "steps": Explicit(sigmas=(1e17, 1.0, 0.0))},
        r"^sigma: 1e\+17 is so high .* 1e\+06",
    ),
    (
        {"schedule": schedules.VP(), "steps": SimpleNamespace(levels=lambda _: TOO_HIGH)},
        r"^sigma: 1e\+160 is so high",
    ),
    ({"steps": Karras(n=9999, sigma_min=1.0, sigma_max=1 + 1e-13)}, "^steps: levels must fall"),
]


def test_bad_arguments() -> None:
    for given, words in BAD_ARGUMENTS:
        with pytest.raises(ValueError, match=words) as error:
            edm.sample(**({"denoiser": fine, "noise": NOISE, "renoising": None} | given))
        assert "\n" not in str(error.value)


class Steps:
    """A rule for the levels that a user wrote."""

    def __init__(self, *levels: float) -> None:
        self.given = levels

    def levels(self, schedule: Any) -> Tensor:
        return torch.tensor(self.given, dtype=torch.float32)


def test_levels_of_a_users_own_rule_are_checked() -> None:
    for levels in ((1.0, 2.0), (1.0, 1.0, 0.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -1.0), (1.0,), ()):
        with pytest.raises(ValueError, match=r"^steps: "):
            edm.sample(fine, NOISE, steps=Steps(*levels))


def test_a_users_own_rule_works() -> None:
    assert torch.equal(
        edm.sample(fine, NOISE, steps=Steps(4.0, 2.0, 0.0)),
        edm.sample(fine, NOISE, steps=Explicit(sigmas=(4.0, 2.0, 0.0))),
    )


class Ranged:
    sigma_min, sigma_max = 0.01, 50.0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return fine(x, sigma)


def test_a_network_that_does_not_know_the_level_is_not_asked() -> None:
    with pytest.raises(ValueError, match=r"^sigma_max: the network supports σ up to 50"):
        edm.sample(Ranged(), NOISE)
    with pytest.raises(ValueError, match=r"^sigma_min: the network supports σ down to 0\.01"):
        edm.sample(Ranged(), NOISE, steps=Karras(sigma_max=50.0))
    edm.sample(Ranged(), NOISE, steps=Karras(sigma_max=50.0, sigma_min=0.01))


BAD_FOR_THE_REFERENCE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sigma_max": math.inf}, ValueError, "^sigma_max: "),
    ({"sigma_min": -1.0}, ValueError, "^sigma_min: "),
    ({"sigma_min": 90.0}, ValueError, "^sigma_min: must be below sigma_max"),
    ({"tolerance": 0.0}, ValueError, "^tolerance: "),
    ({"denoiser": lambda x, sigma: x[:1]}, ValueError, r"^denoiser: returned shape \(1, 2\)"),
    ({"denoiser": lambda x, sigma: x * math.nan}, FloatingPointError, "^denoiser: returned NaN"),
    ({"most_evaluations": 10}, FloatingPointError, "^reference: 10 evaluations were not enough"),
]


def test_bad_arguments_of_the_reference() -> None:
    for given, kind, words in BAD_FOR_THE_REFERENCE:
        with pytest.raises(kind, match=words):
            edm.reference(**({"denoiser": fine, "noise": NOISE} | given))
