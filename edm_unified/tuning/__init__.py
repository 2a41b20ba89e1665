"""Solvers fitted to one model: levels and linear multistep weights, from a few exact trajectories of its own.

    fitted = edm.tune(D, edm.unit_noise(32, shape, seed=1), nfe=8)
    x = edm.sample(D, noise, **fitted.settings)
    fitted.held_out                          the gain over the best stock method on other noises, with its interval

D is a black box: it is called, and nothing else. :mod:`~edm_unified.tuning.many` has what a student is,
:mod:`~edm_unified.tuning.fit` how its numbers are found, :mod:`~edm_unified.tuning.stock` what it is compared with.
"""

from edm_unified.tuning.answers import answers, unlike
from edm_unified.tuning.session import Fit, Tuning, tune
from edm_unified.tuning.teacher import Teacher

__all__ = ["Fit", "Teacher", "Tuning", "answers", "tune", "unlike"]
