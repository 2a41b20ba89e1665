"""Walks recorded once and replayed. Here a replay takes the walk again, from the tensors that were recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from variants import name

import edm_unified as edm
from edm_unified import analytic_starts, correctors, renoising, solvers
from edm_unified.sampling import graphs

STEPS = edm.discretization.Karras(n=5)
MIXTURE = edm.exact.GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [1.0, -0.2]], [[0.05, 0.2], [0.02, 0.3]], [0, 1])


@pytest.fixture
def taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(self: Any, take: Any, start: Any, given: Any, draws: Any) -> Any:
        end = torch.full_like(start, torch.nan)

        def replay() -> None:
            turns = iter(draws)
            with torch.no_grad():
                end.copy_(take(start, given, lambda: next(turns)))

        return graphs._Recorded(replay, take, start, given, draws, end)

    monkeypatch.setattr(graphs, "_check", lambda start: None)
    monkeypatch.setattr(graphs.Graphs, "_record", record)


@pytest.mark.usefixtures("taken_again")
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"solver": solvers.DPMSolverPP2M(), "last": "denoise"},
        {"solver": solvers.SEEDS(), "schedule": edm.schedules.VP()},
        {"renoising": renoising.Churn(S_churn=20.0)},
        {"solver": solvers.UniPC(), "analytic_start": analytic_starts.GaussianJump(sigma=20.0, sigma_data=1.0)},
        {"schedule": edm.schedules.VP(), "anchor": torch.tensor([[0.5, -1.0]]).expand(3, 2)},
        {"renoising": renoising.Corrected(), "corrector": correctors.Langevin(snr=0.1)},
    ],
    ids=lambda choices: name(*choices.values()) or "heun",
)
def test_a_replay_is_the_run_of_its_own_noise_and_class(choices: dict[str, Any]) -> None:
    kept = edm.Graphs()
    for first, label in ((0, 0), (3, 1), (6, 0), (9, 1)):
        run = {
            "steps": STEPS, "first": first, "seed": 2, "cond": {"label": torch.tensor([label, 0, 1])}, **choices
        }  # fmt: skip
        noise = edm.unit_noise(3, (2,), seed=2, first=first)
        assert torch.equal(edm.sample(MIXTURE, noise, graphs=kept, **run), edm.sample(MIXTURE, noise, **run))
    assert len(kept) == 1


@pytest.mark.usefixtures("taken_again")
def test_another_setting_shape_or_condition_is_another_graph() -> None:
    kept, D = edm.Graphs(), MIXTURE
    for n, options in (
        (3, {}), (4, {}), (3, {"cond": {"label": torch.tensor([0, 0, 1])}}), (3, {"solver": solvers.Euler()}),
        (3, {"steps": edm.discretization.Karras(n=6)}), (3, {"dtype": torch.float32}),
    ):  # fmt: skip
        noise = edm.unit_noise(n, (2,))
        for _ in range(3):
            found = edm.sample(D, noise, graphs=kept, **options)
        assert torch.equal(found, edm.sample(D, noise, **options))
    assert len(kept) == 6


@pytest.mark.usefixtures("taken_again")
def test_what_a_replay_returned_stays() -> None:
    kept = edm.Graphs()
    first, second, third = (edm.sample(MIXTURE, edm.unit_noise(2, (2,), first=i), graphs=kept) for i in (0, 2, 4))
    assert torch.equal(second, edm.sample(MIXTURE, edm.unit_noise(2, (2,), first=2)))
    assert not torch.equal(second, third)
    assert torch.equal(first, edm.sample(MIXTURE, edm.unit_noise(2, (2,))))


@pytest.mark.usefixtures("taken_again")
def test_a_replay_that_ends_in_nan_names_the_level() -> None:
    kept, noise = edm.Graphs(), edm.unit_noise(2, (2,))
    D = lambda x, sigma: torch.where(x.abs().amax() > 300, torch.nan, x / (1 + sigma**2))  # noqa: E731
    for scale in (1, 1):
        edm.sample(D, noise * scale, graphs=kept)
    with pytest.raises(FloatingPointError, match=r"in move 1 of 18 at sigma = 80"):
        edm.sample(D, noise * 1000, graphs=kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "graphs: walks are recorded on a CUDA device, and the noise is on cpu"),
        ({"callback": print}, "graphs: there is a callback"),
        ({"solver": solvers.DormandPrince45()}, "graphs: an adaptive solver chooses its steps on the way"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edm.sample(MIXTURE, edm.unit_noise(2, (2,)), graphs=edm.Graphs(), **options)


def test_gradients_are_not_replayed() -> None:
    with pytest.raises(ValueError, match="graphs: gradients are recorded"):
        edm.sample(MIXTURE, edm.unit_noise(2, (2,)).requires_grad_(), graphs=edm.Graphs())
