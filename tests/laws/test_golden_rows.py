"""Every solver's weights, against numbers kept from an earlier build: a change of the mechanism changes no method.

D answers its j-th evaluation with the j-th of a fixed list of tensors, whatever it is asked, and so do the noises. The
end of a run is then an affine map of these, made of the solver's weights alone, and so are the states at which D is
asked. Both are kept, for every setting of docs/certificates.md and every ``end``, under three schedules on two rules
for the levels, plain, under churn and Restart, and for short walks. An adaptive method's weights follow from its
errors: of it the end of a run on a mixture is kept.

    python tests/laws/test_golden_rows.py        writes golden_rows.npz, for a change that is meant to change a method
"""

from __future__ import annotations

import dataclasses
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from variants import by_kind

import edm_unified as edm
from edm_unified import certify, discretization, renoising, schedules, solvers

FILE = Path(__file__).with_name("golden_rows.npz")
CHURN = renoising.Churn(S_min=0.05, S_max=2.0)
RESTART = renoising.Restart(intervals=(renoising.RestartInterval(0.06, 2.0, 4, 2),))
RUNS: dict[str, dict[str, Any]] = {
    **{
        f"{schedule.kind}, {steps.kind}, {'churn' if rule else 'plain'}": {
            "schedule": schedule,
            "steps": steps,
            "renoising": rule,
        }
        for schedule in (schedules.EDM(), schedules.VP(), schedules.FlowMatching())
        for steps in (discretization.Karras(n=8), discretization.VPTime(n=8))
        for rule in (None, CHURN)
    },
    "restart": {"steps": discretization.Karras(n=9), "renoising": RESTART},
    # a single step from 80 to 0.002 has weights of 1e4 that cancel, and rounding then reaches the tolerance
    **{f"{n} steps": {"steps": discretization.Karras(n=n, sigma_min=0.1)} for n in (1, 2, 3)},
    "stop": {"steps": discretization.Karras(n=4), "last": "stop"},
    "denoise": {"schedule": schedules.VP(), "steps": discretization.Karras(n=4), "last": "denoise"},
}


def settings() -> list[Any]:
    """The settings of the certificates, and each solver that has an ``end`` with the other one too."""
    found = certify.every()
    for cls in get_args(solvers.AnySolver):
        if any(field.name == "end" for field in dataclasses.fields(cls)):
            found += [cls(end="lower"), *([cls(end="lower", start="rk2")] if hasattr(cls, "start") else [])]
    return found


class Listed:
    """A denoiser and a source of noise whose answers are listed beforehand; ``digest`` sums up what D was asked."""

    def __init__(self) -> None:
        values = np.random.default_rng(0).standard_normal((3, 400, 3))
        self.outputs, self.noises = torch.from_numpy(values[0]), torch.from_numpy(values[1])
        self.shares, self.asked, self.drawn = torch.from_numpy(values[2]), count(), count()
        self.digest = torch.zeros(3, dtype=torch.float64)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        j = next(self.asked)
        self.digest += self.shares[j] * x[0] / max(1.0, float(sigma))
        return self.outputs[j : j + 1]

    def randn(self) -> Tensor:
        j = next(self.drawn)
        return self.noises[j : j + 1]


MIXTURE = edm.exact.GaussianMixture([0.4, 0.6], [[-1.0, 0.0, 0.2], [1.0, 0.5, -0.3]], [0.05, 0.02])


def numbers(solver: Any, run: dict[str, Any]) -> list[float]:
    """The end of a run, the digest of D's inputs, and how often D and the noise were asked for."""
    if getattr(solver, "adaptive", False):
        tight = dataclasses.replace(solver, rtol=1e-3, atol=1e-3)
        return [*edm.sample(MIXTURE, edm.unit_noise(2, (3,)), solver=tight, **run).flatten().tolist(), 0.0, 0.0]
    listed = Listed()
    start = torch.tensor([[0.3, -1.1, 0.7]], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edm_unified.sampling.loop.NoiseStreams", lambda *args, **kwargs: listed.randn)
        end = edm.sample(listed.denoise, start, solver=solver, **run)
    return [*end[0].tolist(), *listed.digest.tolist(), float(next(listed.asked)), float(next(listed.drawn))]


ADAPTIVE = ("edm, karras, plain", "flow_matching, vp_time, churn", "1 steps")
"""The runs that are kept of an adaptive method, whose steps are its own."""


def runs(solver: Any) -> dict[str, dict[str, Any]]:
    return {name: RUNS[name] for name in (ADAPTIVE if getattr(solver, "adaptive", False) else RUNS)}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FILE) as kept:
        return dict(kept)


@pytest.mark.parametrize("settings", by_kind(settings()))
def test_weights_are_those_of_before(settings: list[Any], golden: dict[str, np.ndarray]) -> None:
    for solver in settings:
        kept = golden[certify.label(solver)]
        found = np.array([numbers(solver, run) for run in runs(solver).values()])
        assert (found[:, 6:] == kept[:, 6:]).all(), f"{certify.label(solver)}: evaluations or draws"
        apart = np.abs(found - kept) / np.maximum(1, np.abs(kept))
        worst = tuple(runs(solver))[int(apart.max(1).argmax())]
        bound = 1e-9 if getattr(solver, "adaptive", False) else 1e-13
        assert apart.max() < bound, f"{certify.label(solver)}: {worst}"


def make() -> None:
    """Write the file from the package as it is."""
    kept = {certify.label(s): np.array([numbers(s, run) for run in runs(s).values()]) for s in settings()}
    np.savez_compressed(FILE, **kept)


if __name__ == "__main__":
    make()
