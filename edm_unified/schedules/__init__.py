"""Schedules: the two functions s(t), σ(t) of p(x_t | x_0) = N(s(t) x_0, s(t)² σ(t)² I).

Every linear SDE dx = f(t) x dt + g(t) dw is such a pair, and back (Karras et al. 2022, Eqs. 3-4 and appendix B):

    s = exp ∫ f,   σ² = ∫ g²/s²;        f = s'/s,   g² = 2 s² σ σ'.

======================  =======================  ==============================  ================================
schedule                s(t)                     σ(t)                            method
======================  =======================  ==============================  ================================
:class:`EDM`            1                        t                               EDM, DDIM, k-diffusion
:class:`VE`             1                        √t                              VE SDE as in EDM
:class:`GeometricVE`    1                        σ_min (σ_max/σ_min)^t           VE SDE as in Song 2021
:class:`ExponentialVE`  1                        √((b^{2t} − 1)/(2 ln b))        dx = b^t dw
:class:`VP`             1/√(1+σ²)                √(e^{½β_d t² + β_min t} − 1)    VP SDE
:class:`SubVP`          e^{−B/2}                 2 sinh(B/2)                     sub-VP SDE
:class:`Cosine`         cos θ/cos θ_0            √(cos²θ_0/cos²θ − 1)            iDDPM in continuous time
:class:`Trigonometric`  cos(πt/2)                tan(πt/2)                       v-prediction, TrigFlow
:class:`FlowMatching`   1/(1+σ)                  m t/(1−t)                       flow matching, shift m
:class:`BetaTable`      √ᾱ                       √((1−ᾱ)/ᾱ)                      DDPM, DDIM, Stable Diffusion
:class:`SDE`            exp ∫ f                  √∫ g²/s²                        any f, g (Python only)
:class:`OUVE`           e^{−θt}                  √(… (e^{2(θ+L)t} − 1))          SGMSE; anchored at y
:class:`BBED`           1 − t                    √(c ∫ k^{2u}/(1−u)²)            BBED; anchored at y
bridges                 b (1 − v/V)              √(v V/(V−v))                    :mod:`.bridges`; anchored at y
======================  =======================  ==============================  ================================

All functions of t and σ take floats or tensors and return float64 tensors.
"""

from typing import get_args

from edm_unified.schedules.base import PRACTICAL_INFINITY, Schedule
from edm_unified.schedules.bridges import DDBM, I2SB, BrownianBridge, GOUBridge, VEBridge
from edm_unified.schedules.flow import FlowMatching, Trigonometric
from edm_unified.schedules.ornstein_uhlenbeck import BBED, OUVE
from edm_unified.schedules.sde import SDE, from_sde
from edm_unified.schedules.table import BetaTable, beta_table, table_sigmas
from edm_unified.schedules.variance_exploding import EDM, VE, ExponentialVE, GeometricVE
from edm_unified.schedules.variance_preserving import VP, Cosine, SubVP

AnySchedule = (
    EDM
    | VE
    | GeometricVE
    | ExponentialVE
    | VP
    | SubVP
    | Cosine
    | Trigonometric
    | FlowMatching
    | BetaTable
    | OUVE
    | BBED
    | VEBridge
    | BrownianBridge
    | I2SB
    | DDBM
    | GOUBridge
)


def is_value(schedule: Schedule) -> bool:
    """Whether what was computed under ``schedule`` may be remembered for one equal to it: so for the shipped ones.

    They are frozen and equal by their fields. A schedule of the user's own may change between two runs, by an attribute
    or by what its f and g close over, and would then be given another's numbers.
    """
    return type(schedule) in get_args(AnySchedule)


__all__ = [
    "BBED",
    "DDBM",
    "EDM",
    "I2SB",
    "OUVE",
    "PRACTICAL_INFINITY",
    "SDE",
    "VE",
    "VP",
    "AnySchedule",
    "BetaTable",
    "BrownianBridge",
    "Cosine",
    "ExponentialVE",
    "FlowMatching",
    "GOUBridge",
    "GeometricVE",
    "Schedule",
    "SubVP",
    "Trigonometric",
    "VEBridge",
    "beta_table",
    "from_sde",
    "is_value",
    "table_sigmas",
]
