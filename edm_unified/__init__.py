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

_MODULES = (
    "analytic_starts",
    "certify",
    "compare",
    "correctors",
    "data",
    "denoisers",
    "discretization",
    "dynamics",
    "exact",
    "guidance",
    "guidances",
    "likelihood",
    "metrics",
    "networks",
    "parametrization",
    "preconditioning",
    "renoising",
    "report",
    "schedules",
    "solvers",
    "thresholding",
    "training",
)
_NAMES = {
    "Counted": "denoiser",
    "Denoiser": "denoiser",
    "Preconditioned": "denoiser",
    "Recipe": "recipe",
    "count_nfe": "sampling",
    "load": "training.checkpoint",
    "log_likelihood": "likelihood",
    "reference": "reference_solution",
    "sample": "sampling",
    "unit_noise": "sampling",
}

__all__ = [*_MODULES, *_NAMES, "__version__"]

if TYPE_CHECKING:
    from edm_unified import (
        analytic_starts,
        certify,
        compare,
        correctors,
        data,
        denoisers,
        discretization,
        dynamics,
        exact,
        guidance,
        guidances,
        likelihood,
        metrics,
        networks,
        parametrization,
        preconditioning,
        renoising,
        report,
        schedules,
        solvers,
        thresholding,
        training,
    )
    from edm_unified.denoiser import Counted, Denoiser, Preconditioned
    from edm_unified.likelihood import log_likelihood
    from edm_unified.recipe import Recipe
    from edm_unified.reference_solution import reference
    from edm_unified.sampling import count_nfe, sample, unit_noise
    from edm_unified.training.checkpoint import load


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(f"edm_unified.{_NAMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"edm_unified.{name}")
    raise AttributeError(f"module 'edm_unified' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
