"""Recipes: a method, or a comparison of methods, as one complete YAML file.

The file is the tree of the very dataclasses of this package: a mapping with a ``kind`` is a component, its other keys
are the fields of that component. A recipe is complete (nothing is inherited or merged), cites its source, and imports
no code. ``edm`` is the shipped recipe, ``path/to/edm.yaml`` one of your own.

    recipe = Recipe.load("edm", ["sampler.steps.n=10"])
    D, dataset = recipe.build()

Whatever is wrong in a file is one line with the path in the file and the nearest spelling:

    recipes/edm.yaml: sampler.solver.kind: unknown 'hein'; did you mean 'heun'?
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, cast

import yaml

from edm_unified import _shipped, exact
from edm_unified._component import component, count, positive
from edm_unified.correctors import AnyCorrector
from edm_unified.data import AnyData, Dataset
from edm_unified.denoisers import AnyDenoiser
from edm_unified.discretization import AnySteps
from edm_unified.dynamics import Dynamics
from edm_unified.preconditioning import AnyPreconditioning
from edm_unified.recipe import codec, overrides as _overrides, reader
from edm_unified.recipe.codec import Fault
from edm_unified.recipe.reader import RecipeError
from edm_unified.renoising import AnyRenoising
from edm_unified.sampling import levels_of
from edm_unified.schedules import AnySchedule
from edm_unified.solvers import AnySolver
from edm_unified.training import Objective

T = TypeVar("T")
Names = str | os.PathLike[str]
MetricName = Literal[
    "error_median", "error_rms", "sliced_wasserstein", "energy_distance", "frechet", "log_density_gap"
]


@component
class Sampler:
    """What is chosen after training: the levels to visit, the solver between them, and what makes it stochastic."""

    steps: AnySteps
    solver: AnySolver
    renoising: AnyRenoising | None = None
    corrector: AnyCorrector | None = None


@component
class Recipe:
    """One published method: its schedule, its sampler, the denoiser it runs on, and how such a network is trained.

    ``preconditioning`` and ``objective`` say how the network of that method is wrapped and trained. A denoiser in
    closed form needs neither, so they are then part of the design card only.
    """

    title: str
    source: str
    schedule: AnySchedule
    sampler: Sampler
    denoiser: AnyDenoiser
    data: AnyData | None = None
    preconditioning: AnyPreconditioning | None = None
    objective: Objective | None = None

    @classmethod
    def load(cls, name: Names, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe in a file, or the shipped one of that name, with ``overrides`` such as ``sampler.steps.n=10``."""
        return cast("Recipe", _load(cls, name, overrides))

    def dump(self) -> str:
        """The recipe as canonical YAML, every field spelled out; loading it gives the recipe back."""
        return _dump(self)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of the canonical recipe without its title and source: what the numbers depend on."""
        return _hash(self, ("title", "source"))

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels that a run visits, in order."""
        return levels_of(self.sampler.steps, self.schedule, self.sampler.renoising)

    def build(self) -> tuple[exact.Gaussian | exact.GaussianMixture | exact.Empirical, Dataset]:
        """The denoiser and the data it was made from. Raises ``ValueError`` naming the field that is at fault."""
        if self.data is None:
            raise ValueError(f"data: missing; the denoiser {self.denoiser.kind!r} is made from data, e.g. data: {{kind: digits}}")
        try:
            dataset = self.data.load()
        except ValueError as error:
            fault = codec.located(type(self.data), "data", str(error))
            raise ValueError(f"{fault.path}: {fault.message}") from error
        return self.denoiser.build(dataset), dataset


@component
class Comparison:
    """Several recipes on the same denoiser, the same noise and the same budgets of evaluations.

    ``recipes`` are names of shipped recipes or paths. ``data`` and ``denoiser``, where given, replace those of the
    recipes. ``solvers``, ``schedules`` and ``steps_rules`` cross every recipe with each of their members. ``nfe`` are
    the budgets; ``samples`` are drawn for each of ``seeds``. ``grid_nfe`` and ``grid_samples`` set the pictures. The
    endpoint errors are those of the first ``reference_samples`` against a solution to ``reference_tolerance``.
    """

    title: str
    recipes: tuple[str, ...]
    description: str = ""
    data: AnyData | None = None
    denoiser: AnyDenoiser | None = None
    solvers: tuple[AnySolver, ...] = ()
    schedules: tuple[AnySchedule, ...] = ()
    steps_rules: tuple[AnySteps, ...] = ()
    nfe: tuple[int, ...] = (5, 8, 10, 20, 40)
    samples: int = 512
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[MetricName, ...] = (
        "error_median",
        "error_rms",
        "sliced_wasserstein",
        "energy_distance",
        "frechet",
        "log_density_gap",
    )
    rank_by: MetricName = "sliced_wasserstein"
    grid_nfe: int = 10
    grid_samples: int = 25
    reference_samples: int = 256
    reference_tolerance: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("recipes", "nfe", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: at least one is needed")
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {next(v for v in values if values.count(v) > 1)!r} is listed twice")
        for budget in self.nfe:
            count("nfe", budget)
        for seed in self.seeds:
            count("seeds", seed, least=0, most=2**63 - 1)
        count("samples", self.samples, least=2)
        count("grid_nfe", self.grid_nfe)
        count("grid_samples", self.grid_samples, least=0)
        count("reference_samples", self.reference_samples)
        positive("reference_tolerance", self.reference_tolerance)

    @classmethod
    def load(cls, name: Names, overrides: Sequence[str] = ()) -> Comparison:
        """The comparison in a file, or the shipped one of that name, with ``overrides`` such as ``samples=64``."""
        return cast("Comparison", _load(cls, name, overrides))

    def dump(self) -> str:
        """The comparison as canonical YAML, every field spelled out; loading it gives the comparison back."""
        return _dump(self)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of the canonical comparison without its title and description."""
        return _hash(self, ("title", "description"))


def load_any(name: Names, overrides: Sequence[str] = ()) -> Recipe | Comparison:
    """A recipe or a comparison: the file that has the key ``recipes`` is a comparison."""
    return _load(None, name, overrides)


def loads(text: str, label: str = "recipe") -> Recipe | Comparison:
    """As :func:`load_any`, from YAML text."""
    tree = reader.parse(text, label)
    if not isinstance(tree, dict):
        raise RecipeError(f"{label}: must be a mapping of keys to values")
    return _decode(None, tree, label, ())


def schema() -> dict[str, Any]:
    """The JSON Schema of recipes and comparisons, for editors."""
    from edm_unified.recipe.schema import schema as make

    return make((Recipe, Comparison))


def parse_component(union: Any, text: str, what: str) -> Any:
    """A component from the command line: ``heun``, ``second_order:alpha=0.5`` or ``karras:n=10,rho=5``.

    ``union`` is one of the family unions, such as ``AnySolver``; ``what`` (``--solver``) starts the message of what is
    wrong. Values are YAML, so ``explicit:sigmas=[80, 1, 0]`` works.
    """
    kind, _, rest = text.strip().partition(":")
    label = f"{what} {text}"
    value: dict[str, Any] = {"kind": kind.strip()}
    for item in _split(rest):
        key, equals, number = item.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"{label}: {item.strip() or rest!r} is not a parameter; write {kind}:name=value,name=value")
        value[key.strip()] = reader.parse(number, f"{label}: {key.strip()}")
    return _checked(union, value, label, ())


def _split(text: str) -> list[str]:
    """``text`` at its commas, but for those inside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text.strip() else []


def _load(cls: type[Recipe] | type[Comparison] | None, name: Names, overrides: Sequence[str]) -> Recipe | Comparison:
    label = os.fspath(name)
    try:
        path = _shipped.find(name)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return _decode(cls, reader.read(path, label), label, overrides)


def _decode(
    cls: type[Recipe] | type[Comparison] | None, tree: dict[str, Any], label: str, overrides: Sequence[str]
) -> Recipe | Comparison:
    found = Comparison if "recipes" in tree else Recipe
    if cls is not None and cls is not found:
        is_a, other = ("comparison", "recipe") if found is Comparison else ("recipe", "comparison")
        raise RecipeError(f"{label}: is a {is_a}, not a {other}; a comparison is a file with the key 'recipes'")
    result = _checked(found, _overrides.apply(found, tree, overrides), label, overrides)
    if isinstance(result, Recipe):
        fault = _walk_fault(result)
        if fault is not None:
            raise RecipeError(f"{label}: {fault.path}: {fault.message}{_overrides.blame(fault, overrides)}")
    return cast("Recipe | Comparison", result)


def _checked(hint: Any, value: Any, label: str, overrides: Sequence[str]) -> Any:
    """``value`` decoded; the first fault, and how many others there are, as a :class:`RecipeError`."""
    faults: list[Fault] = []
    result = codec.decode(hint, value, "", faults)
    if faults:
        fault, more = faults[0], len(faults) - 1
        others = f" (and {more} more)" if more else ""
        where = f"{fault.path}: " if fault.path else ""
        raise RecipeError(f"{label}: {where}{fault.message}{_overrides.blame(fault, overrides)}{others}")
    return result


def _walk_fault(recipe: Recipe) -> Fault | None:
    """What the constructors cannot see: whether the levels, the schedule and the corrector fit together."""
    sampler = recipe.sampler
    try:
        levels = recipe.levels
    except ValueError as error:
        for part, value in (("sampler.steps", sampler.steps), ("sampler.renoising", sampler.renoising)):
            fault = codec.located(type(value), part, str(error)) if value is not None else None
            if fault is not None and fault.path != part:
                return fault
        return Fault("sampler.steps", str(error).removeprefix("steps: "))
    if sampler.corrector is None and any(a == b for a, b in zip(levels, levels[1:], strict=False)):
        return Fault("sampler.corrector", "missing; the walk repeats levels, so add e.g. corrector: {kind: langevin}")
    try:
        Dynamics(recipe.schedule, lambda x, sigma: x, {}, torch_cpu()).walk(levels)
    except ValueError as error:
        return Fault("sampler.steps", str(error))
    return None


def torch_cpu() -> Any:
    import torch

    return torch.device("cpu")


class _Dumper(yaml.SafeDumper):
    """Lists on one line, the rest as blocks; text is never folded."""


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]  # anchors would not be read back


def _canonical(value: T) -> T:
    """``value`` as a file would give it: a float that was written as an int is a float. Raises for what no file can say."""
    return cast("T", _checked(type(value), codec.encode(value), type(value).__name__, ()))


def _dump(value: object) -> str:
    tree = codec.encode(_canonical(value))
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _hash(value: object, without: tuple[str, ...]) -> str:
    tree = {key: item for key, item in codec.encode(_canonical(value)).items() if key not in without}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def replace(recipe: Recipe, **parts: Any) -> Recipe:
    """``recipe`` with some of schedule, steps, solver, renoising, corrector, data, denoiser replaced, checked as on loading."""
    sampler = {name: parts.pop(name) for name in [field.name for field in dataclasses.fields(Sampler)] if name in parts}  # type: ignore[arg-type]
    changed: Recipe = dataclasses.replace(recipe, sampler=dataclasses.replace(recipe.sampler, **sampler), **parts)  # type: ignore[type-var]
    fault = _walk_fault(changed)
    if fault is not None:
        raise ValueError(f"{fault.path}: {fault.message}")
    return changed


__all__ = ["Comparison", "Recipe", "RecipeError", "Sampler", "load_any", "loads", "parse_component", "replace", "schema"]
