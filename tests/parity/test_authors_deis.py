"""DEIS as its authors ship it (qsh-zh/deis, with JAX) beside ours, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from authors_repos import NOISE, Absent, D, difference, double, golden, importable, ours, place
from torch import Tensor

from edm_unified import solvers
from edm_unified.sampling.levels import VPTime
from edm_unified.schedules import VP

DEIS = "qsh-zh/deis"
jax: Any = Absent(DEIS)
deis, multistep, vpsde = jax, jax, jax
if (folder := place(DEIS)) is not None:
    jax = pytest.importorskip("jax", reason="needs JAX, in which DEIS computes its coefficients: pip install jax")
    jax.config.update("jax_enable_x64", True)
    lax_numpy = pytest.importorskip("jax._src.numpy.lax_numpy")
    lax_numpy.__dict__.setdefault("_promote_dtypes_inexact", None)  # for tables of betas, which are not used here
    with importable(folder) as load:
        deis, multistep, vpsde = (load(f"th_deis.{name}") for name in ("sampler", "multistep", "vpsde"))

ROUNDING = 1e-10
SCHEDULE = VP()
END = 1e-3


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with double():
        yield


def epsilon(x: Tensor, t: Tensor) -> Tensor:
    sigma = SCHEDULE.sigma(torch.as_tensor(t).double())
    z = x * torch.sqrt(1 + sigma**2)
    return (z - D(z, sigma)) / sigma


@golden(DEIS)
def sample(method: str, n: int, power: float = 2.0, **options: Any) -> tuple[Tensor, list[float]]:
    """Their sample, as x_0 + σn, and the levels: even in the ``power``-th root of time."""
    sde = vpsde.VPSDE(*vpsde.get_linear_alpha_fns(0.1, 20.0), END, 1.0)
    times = np.array(deis.get_rev_ts(sde, n, 1.0 if method == "ipndm" else power, ts_phase="t"))
    levels = SCHEDULE.sigma(torch.tensor(times)).tolist()
    x = deis.get_sampler(sde, epsilon, "t", power, n, method=method, **options)(
        NOISE * levels[0] / math.hypot(1, levels[0])
    )
    return x * math.hypot(1, levels[-1]), levels


def gauss(sde: Any) -> Any:
    """The nodes and weights of a quadrature in the place of their ten thousand values from the upper end."""
    v, w = np.polynomial.legendre.leggauss(32)

    def nodes(start: Any, end: Any, number: int) -> Any:
        t = start + 0.5 * (end - start) * (1 + jax.numpy.asarray(v))
        return sde.psi(t, end) * sde.eps_integrand(t) * 0.5 * jax.numpy.asarray(w), t, end - start

    return nodes


def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    if place(DEIS) is not None:
        monkeypatch.setattr(multistep, "get_integrator_basis_fn", gauss)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_in_time(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """tAB: their sums of ten thousand values leave 10⁻⁴; with a quadrature instead the numbers are ours."""
    solver = solvers.DEIS(order=order + 1)
    x, levels = sample("t_ab", 12, ab_order=order)
    assert 1e-7 < difference(ours(solver, levels, SCHEDULE), x) < 1e-3
    exactly(monkeypatch)
    x, levels = sample("t_ab", 12, ab_order=order)
    assert difference(ours(solver, levels, SCHEDULE), x) < ROUNDING


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_in_rho(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """rhoAB, whose ρ is σ: Adams–Bashforth in σ."""
    exactly(monkeypatch)
    x, levels = sample("rho_ab", 12, ab_order=order)
    assert difference(ours(solvers.LMS(order=order + 1), levels, SCHEDULE), x) < ROUNDING


@pytest.mark.parametrize(
    ("name", "solver"), [("1euler", solvers.DDIM()), ("2heun", solvers.Heun()), ("4rk", solvers.RK4())]
)
def test_runge_kutta_in_rho(name: str, solver: Any) -> None:
    """Classical methods in σ: those of t under EDM's schedule."""
    x, levels = sample("rho_rk", 12, rk_method=name)
    assert difference(ours(solver, levels), x) < ROUNDING


def test_ipndm() -> None:
    """On times evenly spaced, which it does not let one choose."""
    x, levels = sample("ipndm", 12)
    assert difference(ours(solvers.IPNDM(), levels, SCHEDULE), x) < ROUNDING


def test_quadratic_times() -> None:
    """Between the same ends, and with the β of the schedule itself, VPTime of power 2 has their levels."""
    low, high = (float(SCHEDULE.sigma(t)) for t in (END, 1.0))
    _, levels = sample("t_ab", 12, ab_order=0)
    assert VPTime(n=13, sigma_min=low, sigma_max=high, epsilon=END).levels(SCHEDULE)[:-1].tolist() == pytest.approx(
        levels, rel=1e-9
    )
