"""``Run``, by the name that version 0.1.0 had for it; it lives in :mod:`edm_unified.training.runs.run`."""

from edm_unified.training.runs.run import Run, TrainingStep

__all__ = ["Run", "TrainingStep"]
