"""The adaptive sampler of AlexiaJM/score_sde_fast_sampling (with JAX): what noise that is drawn anew does to it."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_repos import Absent, golden, importable, place

import edm_unified as edm
from edm_unified import solvers
from edm_unified.sampling.levels import Explicit
from edm_unified.schedules import VP

REPOSITORY = "AlexiaJM/score_sde_fast_sampling"


def loaded(folder: Path) -> Any:
    """Their ``sde_lib`` and ``sampling``, without the networks, FLAX and TensorFlow that they import as well."""
    models = types.ModuleType("models")
    models.__path__ = [str(folder / "models")]
    names = {
        name: types.ModuleType(name) for name in ("models.wideresnet_noise_conditional", "flax.training.checkpoints")
    }
    flax, training, callback = (
        types.ModuleType(n) for n in ("flax", "flax.training", "jax.experimental.host_callback")
    )
    flax.struct = types.SimpleNamespace(dataclass=lambda cls: cls)
    flax.optim = types.SimpleNamespace(Optimizer=object)
    training.checkpoints, callback.id_print, callback.barrier_wait = None, None, None
    models.wideresnet_noise_conditional = names["models.wideresnet_noise_conditional"]
    own = {"models": models, "flax": flax, "flax.training": training, callback.__name__: callback, **names}
    before = dict(sys.modules)
    try:
        with importable(folder, stubs=("tensorflow",)) as load:
            sys.modules.update(own)
            return load("sde_lib"), load("sampling")
    finally:
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update({name: before[name] for name in own if name in before})


jax: Any = Absent(REPOSITORY)
sde_lib, sampling = jax, jax
if (there := place(REPOSITORY)) is not None:
    jax = pytest.importorskip("jax", reason="needs JAX, in which their sampler is written: pip install jax")
    jax.config.update("jax_enable_x64", True)
    sde_lib, sampling = loaded(there)
V, END = 0.25, 1e-3


def score(x: Any, t: Any) -> Any:
    """Of N(0, V) data."""
    B = 9.95 * t**2 + 0.1 * t
    return -x / (V * jax.numpy.exp(-B) + 1 - jax.numpy.exp(-B))[:, None, None, None]


@golden(REPOSITORY)
def variance(tolerance: float, side: int, samples: int, step: float | None = None) -> float:
    """Of their samples at ``END``; with steps of a given length, none of which is rejected, or chosen by them."""
    shape = (samples, 1, side, side)
    bound = 1e9 if step else tolerance
    sde = sde_lib.VPSDE(0.1, 20.0, 1000)
    rule = sampling.AdaptivePredictor(sde, score, shape, False, eps=END, abstol=bound, reltol=bound)
    update = jax.jit(rule.update_fn)
    key = jax.random.PRNGKey(0)
    x = before = jax.random.normal(key, shape)
    t, h = jax.numpy.ones(samples), jax.numpy.full(samples, 0.01)
    while bool((t - END > 1e-6).any()):
        key, use = jax.random.split(key)
        x, before, t, chosen = update(use, x, t, h if step is None else jax.numpy.minimum(step, t - END), before)
        h = chosen
    return float((x**2).mean())


WANTED = V * math.exp(-(9.95 * END**2 + 0.1 * END)) - math.expm1(-(9.95 * END**2 + 0.1 * END))


def test_noise_that_is_drawn_anew_after_a_rejection_widens_the_samples() -> None:
    """By a fifth in four dimensions, by 2 % in 64. Steps of a given length, none of which is rejected, are right."""
    assert variance(0.02, 2, 4000, step=4e-3) == pytest.approx(WANTED, rel=0.03)
    assert 1.12 * WANTED < variance(0.02, 2, 4000) < 1.3 * WANTED
    assert 1.005 * WANTED < variance(0.02, 8, 1000) < 1.06 * WANTED


def test_ours_bridges_the_path_and_comes_to_the_variance() -> None:
    D = edm.exact.Gaussian(torch.zeros(1, 2, 2), V)
    levels = tuple(float(VP().sigma(t)) for t in (1.0, END))
    x = edm.sample(
        D, edm.unit_noise(4000, (1, 2, 2)), schedule=VP(), steps=Explicit(sigmas=levels),
        solver=solvers.AdaptiveSDE(rtol=0.005, atol=0.005),
    )  # fmt: skip
    assert float(x.square().mean()) == pytest.approx(V + levels[-1] ** 2, rel=0.03)
