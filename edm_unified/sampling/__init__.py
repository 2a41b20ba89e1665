"""Sampling: noise levels, the loop over them, and the solvers that take its steps.

:func:`~edm_unified.sampling.loop.sample` is the entry and holds the only loop over noise levels. A run is a sequence
of levels (:mod:`~edm_unified.sampling.levels`), changed by renoising (:mod:`~edm_unified.sampling.renoising`) and by
correctors (:mod:`~edm_unified.sampling.correctors`); :mod:`~edm_unified.sampling.solvers` take one step each, and
:mod:`~edm_unified.sampling.reference` solves the ODE to a tolerance.
"""
