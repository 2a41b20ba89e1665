"""What a recipe can name: the families of components, and the JSON Schema by which an editor completes them."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter

from edm_unified import schedules, training
from edm_unified.data import AnyData
from edm_unified.denoisers.preconditioning import AnyPreconditioning
from edm_unified.denoisers.thresholding import AnyThreshold
from edm_unified.networks import AnyNetwork
from edm_unified.recipe import codec
from edm_unified.recipe.denoisers import AnyDenoiser
from edm_unified.recipe.guidances import AnyGuidance
from edm_unified.recipe.tree import Comparison, Recipe
from edm_unified.sampling import solvers
from edm_unified.sampling.analytic_starts import AnyAnalyticStart
from edm_unified.sampling.correctors import AnyCorrector
from edm_unified.sampling.levels import AnySteps
from edm_unified.sampling.renoising import AnyRenoising
from edm_unified.training.augment import AnyAugment
from edm_unified.training.optimization.ema import AnyEMA
from edm_unified.training.optimization.optimizers import AnyOptimizer
from edm_unified.training.optimization.rates import AnyRate

FAMILIES: dict[str, Any] = {
    "schedules": schedules.AnySchedule,
    "steps": AnySteps,
    "solvers": solvers.AnySolver,
    "renoising": AnyRenoising,
    "correctors": AnyCorrector,
    "analytic_starts": AnyAnalyticStart,
    "guidances": AnyGuidance,
    "thresholds": AnyThreshold,
    "preconditioning": AnyPreconditioning,
    "noise": training.AnyNoise,
    "weights": training.AnyWeight,
    "matching": training.AnyMatching,
    "uncertainty": training.AnyUncertainty,
    "data": AnyData,
    "denoisers": AnyDenoiser,
    "networks": AnyNetwork,
    "optimizers": AnyOptimizer,
    "rates": AnyRate,
    "averages": AnyEMA,
    "augmentations": AnyAugment,
}
"""Every family of components that a recipe can name, under the name that the command line has for it."""


def summary(cls: type) -> str:
    """The first paragraph of a component's docstring as one line of plain text."""
    paragraph = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", " ".join(paragraph.split()))
    return text.replace("``", "").rstrip(":")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe or a comparison; a mapping of a union needs its ``kind``."""
    schema = TypeAdapter(Recipe | Comparison).json_schema()
    texts = {name: summary(cls) for name, cls in _classes().items()}
    for name, part in schema["$defs"].items():
        # pydantic names a class that has a namesake in another family edm_unified__schedules__flow__FlowMatching
        part["description"] = texts.get(name.replace("__", "."), texts.get(name, ""))
        if "kind" in part.get("properties", {}):
            part["required"] = ["kind", *part.get("required", [])]
            part["properties"]["kind"].pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edm_unified recipe"} | schema


def _classes() -> dict[str, type]:
    found: dict[str, type] = {"Recipe": Recipe, "Comparison": Comparison, "Objective": training.Objective}
    for union in FAMILIES.values():
        for cls in codec.components(union).values():
            found[cls.__name__] = found[f"{cls.__module__}.{cls.__qualname__}"] = cls
    return found
