"""Preconditionings: the input and output scales of a network F that make it D (Karras et al. 2022, Eq. 7 and Table 1).

    D(z; σ) = c_skip(σ) z + c_out(σ) F( c_in(σ) z ; c_noise(σ) ),   z = x_0 + σ n.

c_in brings the input to unit variance, c_out and c_skip set what F predicts, and c_noise is its input for the level.

=======================  =================  ==================  ===============  ==================  ===============
class                    c_skip             c_out               c_in             c_noise             F predicts
=======================  =================  ==================  ===============  ==================  ===============
:class:`EDM`             σ_d²/(σ²+σ_d²)     σσ_d/√(σ²+σ_d²)     1/√(σ²+σ_d²)     ln(σ)/4             σ_d-scaled −v
:class:`VP`              1                  −σ                  1/√(1+σ²)        (M−1) σ⁻¹(σ)        ε
:class:`SubVP`           1                  −σ                  1/√(1+σ²)        (M−1) σ⁻¹(σ)        ε
:class:`VE`              1                  σ                   1                ln(σ/2)             −ε
:class:`Score`           1                  σ²                  1                ln σ, σ, or t       score
:class:`DDPM`            1                  −σ                  1/√(1+σ²)        k                   ε
:class:`IDDPM`           1                  −σ                  1/√(1+σ²)        M−1−argmin|u_j−σ|   ε
:class:`VPrediction`     1/(1+σ²)           −σ/√(1+σ²)          1/√(1+σ²)        2 arctan(σ)/π       v
:class:`FlowMatching`    1/(1+σ)            −σ/(1+σ)            1/(1+σ)          σ/(1+σ)             n − x_0
:class:`DataPrediction`  0                  1                   1/√(1+σ²)        2 arctan(σ)/π       x_0
:class:`Consistency`     as EDM's, with σ−σ_min for σ in c_skip and in the factor of c_out
:class:`OnSchedule`      any of these targets in the state s z of any schedule, told its time or index
=======================  =================  ==================  ===============  ==================  ===============

Only EDM's keeps Var[c_in z], Var[the target of F] and λ c_out² at 1 for data of any std σ_d; with an ε-network any
error of F is multiplied by σ on its way to D, and with x_0 the small levels are hard.

Methods take σ > 0 as a float or a tensor and return float64 tensors of its shape, on its device. ``sigma_min`` and
``sigma_max`` bound the levels that such a network has seen; :func:`edm_unified.denoisers.denoiser.check_range` enforces
them.
"""

from edm_unified.denoisers.preconditioning.base import Preconditioning
from edm_unified.denoisers.preconditioning.flow import DataPrediction, FlowMatching, VPrediction
from edm_unified.denoisers.preconditioning.on_schedule import OnSchedule
from edm_unified.denoisers.preconditioning.table import DDPM, IDDPM
from edm_unified.denoisers.preconditioning.unscaled import EDM, VE, Consistency, Score
from edm_unified.denoisers.preconditioning.variance_preserving import VP, SubVP

AnyPreconditioning = (
    EDM
    | VP
    | SubVP
    | VE
    | Score
    | DDPM
    | IDDPM
    | VPrediction
    | FlowMatching
    | DataPrediction
    | Consistency
    | OnSchedule
)

__all__ = [
    "DDPM",
    "EDM",
    "IDDPM",
    "VE",
    "VP",
    "AnyPreconditioning",
    "Consistency",
    "DataPrediction",
    "FlowMatching",
    "OnSchedule",
    "Preconditioning",
    "Score",
    "SubVP",
    "VPrediction",
]
