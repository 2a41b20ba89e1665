"""Training: the choice of noise levels and weights that fixes D.

Training imports nothing of sampling, nor sampling of training, as EDM separates them; a test reads the imports.
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
