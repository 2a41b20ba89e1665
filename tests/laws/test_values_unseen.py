"""What is computed at each evaluation and each step of training is computed without looking at a value.

A tensor on torch's ``meta`` device has a shape and no values: whatever would bring one to the host, and on a GPU wait
for it, is an error there. So the machine needs no GPU to see it. The loop over the levels has a law of its own in
``test_sampling.py``, and where there is a GPU ``test_on_a_gpu.py`` says the same of all of it together.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from test_objective import NOISES, WEIGHTS
from torch import Tensor
from variants import SCHEDULES, every, name, pairs

import edm_unified as edm
from edm_unified import preconditioning
from edm_unified.schedules import BetaTable
from edm_unified.training import Objective
from edm_unified.training.objective import LikelihoodWeight

PRECONDITIONINGS = [choice() for choice in get_args(preconditioning.AnyPreconditioning)]
META = torch.device("meta")
MET: dict[Any, list[Any]] = {}
"""With which schedules and weights a noise distribution is tried: any two of the three meet."""
for _noise, *_others in pairs(NOISES, every(SCHEDULES), WEIGHTS):
    MET.setdefault(_noise, []).append(_others)


def levels(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device=META)


def test_a_look_is_an_error() -> None:
    for look in (float, Tensor.tolist, Tensor.cpu, lambda t: t[t > 0], lambda t: torch.arange(3.0)[t.long()]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look(levels(()))


@pytest.mark.parametrize("c", PRECONDITIONINGS, ids=name)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_preconditioning(c: Any, shape: tuple[int, ...]) -> None:
    for coefficient in (c.c_skip, c.c_out, c.c_in, c.c_noise):
        found = coefficient(levels(shape))
        assert (found.device, found.shape, found.dtype) == (META, torch.Size(shape), torch.float64)
    D = edm.Preconditioned(lambda x, noise: x * noise[:, None], c)
    assert D(torch.empty(3, 2, device=META), levels(shape)).device == META


@pytest.mark.parametrize("noise", NOISES, ids=name)
def test_losses(noise: Any) -> None:
    D = edm.Preconditioned(lambda x, noise: x * noise[:, None], preconditioning.EDM())
    x0, n = torch.empty(2, 3, 2, device=META)
    for schedule, weight in MET[noise]:
        if isinstance(weight, LikelihoodWeight) and isinstance(schedule, BetaTable):
            continue  # the time of a level is that of a root
        found = Objective(noise=noise, weight=weight).losses(D, x0, levels((3,)), n, schedule)
        assert (found.device, found.shape) == (META, (3,))


@pytest.mark.parametrize("schedule", every(SCHEDULES), ids=name)
def test_schedules(schedule: Any) -> None:
    functions = [schedule.s, schedule.sigma, schedule.log_s_rate, schedule.log_sigma_rate]
    if not isinstance(schedule, BetaTable):  # whose σ⁻¹ iterates until it has converged; levels are on the CPU
        functions.append(schedule.time)
    for function in functions:
        for shape in ((), (3,)):
            found = function(levels(shape))
            assert (found.device, found.shape) == (META, shape)
