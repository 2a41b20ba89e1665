"""Training: the choice of noise levels and weights that fixes D.

Nothing here knows a solver, and no solver knows this: EDM's thesis, kept by a test that reads the imports.
"""

from edm_unified.training.objective import (
    AnyMatching,
    AnyNoise,
    AnyUncertainty,
    AnyWeight,
    Objective,
    noise,
    score_matching,
    uncertainty,
    weighting,
    weights,
)
from edm_unified.training.settings import Training

__all__ = [
    "AnyMatching",
    "AnyNoise",
    "AnyUncertainty",
    "AnyWeight",
    "Objective",
    "Training",
    "noise",
    "score_matching",
    "uncertainty",
    "weighting",
    "weights",
]
