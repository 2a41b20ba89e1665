"""edm_unified: diffusion and flow methods as interchangeable choices around one denoiser (Karras et al. 2022).

    import edm_unified as edm

    D = edm.exact.GaussianMixture(weights, means, covs)
    x = edm.sample(D, edm.unit_noise(64, D.shape), solver=edm.solvers.Heun(), steps=edm.discretization.Karras(n=18))

Names are imported when they are first used, so that ``import edm_unified`` and ``edm-unified --help`` do not wait for
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "analytic_starts": "sampling.analytic_starts",
    "certify": "certify",
    "compare": "compare",
    "correctors": "sampling.correctors",
    "data": "data",
    "denoisers": "denoisers",
    "discretization": "sampling.levels",
    "dynamics": "sampling.dynamics",
    "exact": "denoisers.exact",
    "guidance": "denoisers.guidance",
    "guidances": "recipe.guidances",
    "interop": "interop",
    "likelihood": "likelihood",
    "metrics": "metrics",
    "networks": "networks",
    "parametrization": "denoisers.parametrization",
    "preconditioning": "denoisers.preconditioning",
    "renoising": "sampling.renoising",
    "report": "report",
    "schedules": "schedules",
    "solvers": "sampling.solvers",
    "thresholding": "denoisers.thresholding",
    "training": "training",
    "tuning": "tuning",
}
"""Public modules, ``edm.solvers``, and where they live."""

_NAMES = {
    "Anchored": "denoisers.anchored",
    "Counted": "denoisers.denoiser",
    "Denoiser": "denoisers.denoiser",
    "Graphs": "sampling.graphs",
    "Preconditioned": "denoisers.denoiser",
    "Recipe": "recipe",
    "count_nfe": "sampling.loop",
    "component": "components.component",
    "load": "interop",
    "log_likelihood": "likelihood",
    "plugin": "recipe.plugins",
    "reference": "sampling.reference",
    "sample": "sampling.loop",
    "tune": "tuning",
    "unit_noise": "sampling.loop",
    "wrap": "interop",
}
"""Public functions and classes, ``edm.sample``, and the module of each."""

__all__ = [*_MODULES, *_NAMES, "__version__"]

if TYPE_CHECKING:
    from edm_unified import (
        certify,
        compare,
        data,
        denoisers,
        interop,
        likelihood,
        metrics,
        networks,
        report,
        schedules,
        training,
        tuning,
    )
    from edm_unified.components.component import component
    from edm_unified.denoisers import exact, guidance, parametrization, preconditioning, thresholding
    from edm_unified.denoisers.anchored import Anchored
    from edm_unified.denoisers.denoiser import Counted, Denoiser, Preconditioned
    from edm_unified.interop import load, wrap
    from edm_unified.likelihood import log_likelihood
    from edm_unified.recipe import Recipe, guidances
    from edm_unified.recipe.plugins import plugin
    from edm_unified.sampling import analytic_starts, correctors, dynamics, renoising, solvers
    from edm_unified.sampling import levels as discretization
    from edm_unified.sampling.graphs import Graphs
    from edm_unified.sampling.loop import count_nfe, sample, unit_noise
    from edm_unified.sampling.reference import reference
    from edm_unified.tuning import tune


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"edm_unified.{_NAMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"edm_unified.{_MODULES[name]}")
    raise AttributeError(f"module 'edm_unified' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
