"""Discretizations: which noise levels σ_0 > σ_1 > … > σ_N a run visits.

``levels(schedule)`` returns them in float64. All rules but :class:`Explicit` end at σ_N = 0 and take ``n`` steps, so
that n = N levels above zero are visited: those rules that have a σ_min put it in place N−1 (EDM Eq. 5), and n = 1 is
the single step σ_max → 0. :func:`measured_density` measures a density on a denoiser for :class:`DensitySpaced`.

===============================  ====================================================================
rule                             the levels
===============================  ====================================================================
:class:`Karras`                  even in σ^{1/ρ}: EDM's
:class:`LogLinear`               even in ln σ
:class:`PolynomialExponential`   a power of the place, in ln σ
:class:`UniformTime`             even in the schedule's own t
:class:`VPTime`                  a power of the place, in the VP SDE's t
:class:`Tan`                     even in arctan(σ/σ_data)
:class:`ResolutionShift`         even in a flow's t, shifted
:class:`BetaQuantiles`           quantiles of a Beta distribution, in the schedule's own t
:class:`TableSubset`             some of the levels of a table of betas
:class:`AlignYourSteps`          the published tables of Align Your Steps
:class:`DensitySpaced`           equal shares of a given density over ln σ
:class:`Explicit`                as listed
:class:`FittedLevels`            as fitted to one model, a list for each number of steps
===============================  ====================================================================
"""

from edm_unified.sampling.levels.base import Steps
from edm_unified.sampling.levels.density import DensitySpaced
from edm_unified.sampling.levels.fitted import FittedLevels
from edm_unified.sampling.levels.in_sigma import Explicit, Karras, LogLinear, PolynomialExponential
from edm_unified.sampling.levels.in_time import BetaQuantiles, ResolutionShift, Tan, UniformTime, VPTime
from edm_unified.sampling.levels.measured import DENSITIES, mean_squared_errors, measured_density
from edm_unified.sampling.levels.tables import AlignYourSteps, TableSubset

AnySteps = (
    Karras
    | LogLinear
    | PolynomialExponential
    | UniformTime
    | VPTime
    | Tan
    | ResolutionShift
    | BetaQuantiles
    | TableSubset
    | AlignYourSteps
    | DensitySpaced
    | Explicit
    | FittedLevels
)

__all__ = [
    "DENSITIES",
    "AlignYourSteps",
    "AnySteps",
    "BetaQuantiles",
    "DensitySpaced",
    "Explicit",
    "FittedLevels",
    "Karras",
    "LogLinear",
    "PolynomialExponential",
    "ResolutionShift",
    "Steps",
    "TableSubset",
    "Tan",
    "UniformTime",
    "VPTime",
    "mean_squared_errors",
    "measured_density",
]
