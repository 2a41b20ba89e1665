"""Solvers: how a fall from one noise level to the next is computed.

A solver of fixed steps writes one fall as its paper prints it, ``fall(step, x, a, b)``, and is a :class:`Printed`
(:mod:`~edm_unified.sampling.solvers.printed`). What the loop asks of any solver is a frozen value with two methods and
no state of its own, which a :class:`Printed` has:

    init(axis, walk) -> state                                numbers from the levels alone, float64, CPU, once
    step(dynamics, x, a, b, state, randn) -> (x, state)      one fall from level a to level b

``x`` is x_0 + σ n in the units of the data; ``a.sigma``, ``b.sigma`` are Python numbers; ``axis.levels(sigmas)`` makes
levels in between; ``dynamics.denoise(x, a)`` is D(x; σ_a); ``randn()`` is fresh unit noise. ``state`` is any value,
passed along and never kept on the solver. To add a solver, write the fall, or these two methods; to have it in recipes,
the CLI and the tests, name it in :data:`AnySolver`.

==============================  =====  ====  ========================================================
solver                          order  NFE   the method
==============================  =====  ====  ========================================================
:class:`Euler`                  1      1     Euler in t
:class:`Heun`                   2      2     EDM Algorithm 1
:class:`Midpoint`               2      2     midpoint rule in t
:class:`Ralston`                2      2     Ralston's rule in t
:class:`SecondOrder`            2      2     the α-family of EDM Algorithm 3
:class:`RK4`                    4      4     classical Runge–Kutta in t
:class:`DDIM`                   1      1     DDIM(η): Euler in σ, to ancestral
:class:`DDPM`                   1      1     ancestral sampling, small or large variance
:class:`EulerMaruyama`          1      1     reverse SDE in t
:class:`ReverseDiffusion`       1      1     the forward transition run backwards
:class:`DPMSolverPP2M`          2      1     DPM-Solver++(2M)
:class:`DPMSolverPP2MSDE`       2      1     SDE-DPM-Solver++(2M)
:class:`ExponentialAdams`       1–4    1     exponential Adams on D, with noise η
:class:`SASolver`               1–5    1     predictor and corrector, with noise τ(σ)
:class:`ERSDE`                  1–3    1     ER-SDE-Solver: noise by a scale φ(σ)
:class:`DormandPrince45`        5      any   adaptive Dormand–Prince in ln σ, per sample
:class:`DPMSolver12`            2      any   DPM-Solver-12, adaptive, per sample
:class:`DPMSolver23`            3      any   DPM-Solver-23, adaptive, per sample
:class:`AdaptiveSDE`            2      any   adaptive SDE (Jolicoeur-Martineau), per sample
:class:`DPMSolverPP3M`          3      1     DPM-Solver++(3M), mended
:class:`DPMSolverPP3MSDE`       3      1     SDE-DPM-Solver++(3M), mended
:class:`UniPC`                  2–4    1     predictor and corrector at one evaluation
:class:`DPMSolverPP2S`          2      2     DPM-Solver++(2S)
:class:`DPMSolverPP3S`          3      3     DPM-Solver-3's tableau on D
:class:`RES2S`                  2      2     exponential Runge–Kutta on D
:class:`RES3S`                  3      3     exponential Runge–Kutta on D
:class:`Krogstad4`              4      4     exponential Runge–Kutta on D
:class:`HochbruckOstermann4`    4      5     exponential Runge–Kutta on D, stiff order 4
:class:`DPMSolver2`             2      2     DPM-Solver-2, on ε
:class:`DPMSolver3`             3      3     DPM-Solver-3, on ε
:class:`DPMSolverFast`          3      3     DPM-Solver-fast: 3, …, 3, 2, 1
:class:`DPMSolverPPSDE`         2      2     DPM++ SDE, two stages, one noise
:class:`SEEDS`                  1–3    1–3   SEEDS-1, 2, 3, on D or ε
:data:`AsPublished`             1, 2   1     3M, its SDE and ER-SDE-3 as others ship them
:class:`LMS`                    1–4    1     Adams–Bashforth on ε in σ
:class:`IPNDM`                  1–2    1     the same with the weights of even steps
:class:`PNDM`                   2      1     iPNDM after three Runge–Kutta steps of four evaluations
:class:`DEIS`                   1–4    1     Adams–Bashforth on ε in the time of VP
:class:`ExponentialAdamsNoise`  1–4    1     exponential Adams on ε
:class:`VelocityAdams`          1–4    1     Adams–Bashforth on the flow's velocity
:class:`TrigonometricAdams`     1–4    1     Adams–Bashforth on the network's raw output
:class:`NoPredictor`            –      0     none: the corrector alone moves x
==============================  =====  ====  ========================================================
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from edm_unified.sampling.dynamics import Axis, Dynamics, Level, Walk
from edm_unified.sampling.solvers.adams import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    ExponentialAdamsNoise,
    TrigonometricAdams,
    VelocityAdams,
)
from edm_unified.sampling.solvers.adaptive import DormandPrince45, DPMSolver12, DPMSolver23
from edm_unified.sampling.solvers.adaptive_sde import AdaptiveSDE
from edm_unified.sampling.solvers.as_published import (
    AsPublished,
    DPMSolverPP3MPublished,
    DPMSolverPP3MSDEDiffusers,
    DPMSolverPP3MSDEPublished,
    ERSDE3Published,
)
from edm_unified.sampling.solvers.er_sde import ERSDE
from edm_unified.sampling.solvers.exponential_multistep import (
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    DPMSolverPP3M,
    DPMSolverPP3MSDE,
    ExponentialAdams,
)
from edm_unified.sampling.solvers.exponential_single_step import (
    RES2S,
    RES3S,
    DPMSolver2,
    DPMSolver3,
    DPMSolverFast,
    DPMSolverPP2S,
    DPMSolverPP3S,
    HochbruckOstermann4,
    Krogstad4,
)
from edm_unified.sampling.solvers.last_step import LAST, DenoisedLast, Last
from edm_unified.sampling.solvers.none import NoPredictor
from edm_unified.sampling.solvers.one_evaluation import DDIM, DDPM, EulerMaruyama, ReverseDiffusion
from edm_unified.sampling.solvers.printed import Form, Printed, Step
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.runge_kutta import RK4, Euler, Heun, Midpoint, Ralston, SecondOrder
from edm_unified.sampling.solvers.sa_solver import SASolver
from edm_unified.sampling.solvers.single_step_sde import SEEDS, DPMSolverPPSDE
from edm_unified.sampling.solvers.step_control import Ledger
from edm_unified.sampling.solvers.unipc import UniPC


class Solver(Protocol):
    """See the module docstring."""

    def init(self, axis: Axis, walk: Walk) -> Any: ...

    def step(
        self, dynamics: Dynamics, x: Tensor, a: Level, b: Level, state: Any, randn: Randn
    ) -> tuple[Tensor, Any]: ...


AnySolver = (
    Euler
    | Heun
    | Midpoint
    | Ralston
    | SecondOrder
    | RK4
    | DDIM
    | DDPM
    | EulerMaruyama
    | ReverseDiffusion
    | DPMSolverPP2M
    | DPMSolverPP2MSDE
    | ExponentialAdams
    | SASolver
    | ERSDE
    | DormandPrince45
    | DPMSolver12
    | DPMSolver23
    | AdaptiveSDE
    | DPMSolverPP3M
    | DPMSolverPP3MSDE
    | UniPC
    | DPMSolverPP2S
    | DPMSolverPP3S
    | RES2S
    | RES3S
    | Krogstad4
    | HochbruckOstermann4
    | DPMSolver2
    | DPMSolver3
    | DPMSolverFast
    | DPMSolverPPSDE
    | SEEDS
    | LMS
    | IPNDM
    | PNDM
    | DEIS
    | ExponentialAdamsNoise
    | VelocityAdams
    | TrigonometricAdams
    | AsPublished
    | NoPredictor
)

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "ERSDE",
    "IPNDM",
    "LAST",
    "LMS",
    "PNDM",
    "RES2S",
    "RES3S",
    "RK4",
    "SEEDS",
    "AdaptiveSDE",
    "AnySolver",
    "AsPublished",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolver12",
    "DPMSolver23",
    "DPMSolverFast",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3MPublished",
    "DPMSolverPP3MSDE",
    "DPMSolverPP3MSDEDiffusers",
    "DPMSolverPP3MSDEPublished",
    "DPMSolverPP3S",
    "DPMSolverPPSDE",
    "DenoisedLast",
    "DormandPrince45",
    "ERSDE3Published",
    "Euler",
    "EulerMaruyama",
    "ExponentialAdams",
    "ExponentialAdamsNoise",
    "Form",
    "Heun",
    "HochbruckOstermann4",
    "Krogstad4",
    "Last",
    "Ledger",
    "Midpoint",
    "NoPredictor",
    "Printed",
    "Ralston",
    "Randn",
    "ReverseDiffusion",
    "SASolver",
    "SecondOrder",
    "Solver",
    "Step",
    "TrigonometricAdams",
    "UniPC",
    "VelocityAdams",
]
