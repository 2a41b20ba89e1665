"""Denoisers, and what makes them: preconditioning, conversions, exact denoisers, guidance, thresholding.

:mod:`~edm_unified.denoisers.denoiser` has the protocol D(x; σ, **cond), :class:`Preconditioned` and the counting
wrapper; :mod:`~edm_unified.denoisers.anchored` those of networks that see the state of an anchored process;
:mod:`~edm_unified.denoisers.preconditioning` c_skip, c_out, c_in and c_noise;
:mod:`~edm_unified.denoisers.parametrization` the conversions between x_0, ε, v, velocity and score;
:mod:`~edm_unified.denoisers.exact` denoisers in closed form; :mod:`~edm_unified.denoisers.guidance` and
:mod:`~edm_unified.denoisers.thresholding` what acts on the output of one.
"""
