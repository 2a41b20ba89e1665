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

The table of them, with order and evaluations per step, is in docs/sampling.md; ``edm-unified certify`` measures both.
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
from edm_unified.sampling.solvers.fitted import Fitted
from edm_unified.sampling.solvers.ledger import Ledger
from edm_unified.sampling.solvers.none import NoPredictor
from edm_unified.sampling.solvers.one_evaluation import DDIM, DDPM, EulerMaruyama, ReverseDiffusion
from edm_unified.sampling.solvers.printed import Form, Printed, Step
from edm_unified.sampling.solvers.rows import Randn
from edm_unified.sampling.solvers.runge_kutta import RK4, Euler, Heun, Midpoint, Ralston, SecondOrder
from edm_unified.sampling.solvers.sa_solver import SASolver
from edm_unified.sampling.solvers.single_step_sde import SEEDS, DPMSolverPPSDE
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
    | Fitted
    | NoPredictor
)

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "ERSDE",
    "IPNDM",
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
    "DormandPrince45",
    "ERSDE3Published",
    "Euler",
    "EulerMaruyama",
    "ExponentialAdams",
    "ExponentialAdamsNoise",
    "Fitted",
    "Form",
    "Heun",
    "HochbruckOstermann4",
    "Krogstad4",
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
