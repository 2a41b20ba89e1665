"""Comparisons: recipes, what is crossed with them, budgets, seeds and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, cast

from edm_unified.components.component import MOST_SAMPLES, component
from edm_unified.components.constraints import Count, Positive, Seed, whole
from edm_unified.data import AnyData
from edm_unified.recipe import by_path, canonical, codec, old_forms
from edm_unified.recipe.denoisers import AnyDenoiser
from edm_unified.recipe.tree import Names, Recipe

MetricName = Literal[
    "error_median",
    "error_rms",
    "sliced_wasserstein",
    "energy_distance",
    "frechet",
    "frechet_features",
    "precision",
    "recall",
    "log_density_gap",
]


@component
class Comparison:
    """Several recipes on the same denoiser, the same noise and the same budgets of evaluations.

    ``recipes`` are names of shipped recipes or paths. ``data`` and ``denoiser``, where given, replace those of the
    recipes. ``cross`` runs every recipe with each of the values at a path, in all combinations: ``{sampler.solver:
    [{kind: heun}, {kind: euler}], sampler.steps.rho: [5.0, 7.0]}``; null is none. ``solver_set`` adds to the solvers
    ``all`` there are, the ``deterministic`` ones, or the ten best at small budgets (``fast``). ``nfe`` are the
    budgets; ``samples`` are drawn for each of ``seeds``. ``rank_by`` is one of ``metrics``; null: the first of them
    that every method has, which is the endpoint error where none draws noise. ``grid_nfe`` and ``grid_samples`` set the
    pictures. ``units``: the scale of the arrays under samples/, of vectors and signals in figures, and of the distances
    among the metrics: that of the ``network``, or of the ``data`` as they are stored, such as K. The endpoint errors
    are those of the first ``reference_samples`` against a solution to ``reference_tolerance``.

    The order of the methods is that of the recipe's fields, whatever the order of the paths.
    """

    title: str
    recipes: tuple[str, ...]
    description: str = ""
    data: AnyData | None = None
    denoiser: AnyDenoiser | None = None
    cross: Annotated[Mapping[str, tuple[Any, ...]], by_path.Crossed(Recipe)] = field(default_factory=dict)
    solver_set: Literal["all", "deterministic", "fast"] | None = None
    nfe: tuple[Count, ...] = (5, 8, 10, 20, 40)
    samples: Annotated[int, whole(least=2, most=MOST_SAMPLES)] = 512
    seeds: tuple[Seed, ...] = (0,)
    metrics: tuple[MetricName, ...] = (
        "error_median",
        "error_rms",
        "sliced_wasserstein",
        "energy_distance",
        "frechet",
        "log_density_gap",
    )
    rank_by: MetricName | None = None
    grid_nfe: Count = 10
    grid_samples: Annotated[int, whole(least=0)] = 25
    reference_samples: Count = 256
    reference_tolerance: Positive = 1e-8
    units: Literal["network", "data"] = "network"
    added_later: ClassVar[tuple[str, ...]] = ("units",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cross", {path: tuple(self.cross[path]) for path in _in_order(self.cross)})
        for path, crossed in self.cross.items():
            if path in ("title", "source", "sampler.steps.n"):
                why = "follows from the budget; give --nfe" if path == "sampler.steps.n" else "changes no sample"
                raise ValueError(f"cross: {path}: {why}")
            if not crossed:
                raise ValueError(f"cross: {path}: at least one value is needed")
        for name in ("recipes", "nfe", "seeds", "metrics"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}: at least one is needed")
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {next(v for v in values if values.count(v) > 1)!r} is listed twice")
        if self.rank_by is not None and self.rank_by not in self.metrics:
            raise ValueError(f"rank_by: {self.rank_by} is not among metrics; add it there, or name one of them")

    @classmethod
    def load(cls, name: Names, overrides: Sequence[str] = ()) -> Comparison:
        """The comparison in a file, or the shipped one of that name, with ``overrides`` such as ``samples=64``."""
        from edm_unified.recipe import loading  # which has to know this class

        return cast("Comparison", loading.load(cls, name, overrides))

    def dump(self) -> str:
        """The comparison as canonical YAML, every field spelled out; loading it gives the comparison back."""
        return canonical.dump(self)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of the canonical comparison without its title and description."""
        tree = codec.encode(canonical.canonical(self), brief=True)
        crossed = tree.pop("cross")
        # the names under which the hashes of comparisons were published
        tree |= {
            name: crossed.pop(path, []) for name, path in old_forms.OLD.items() if path in crossed or name in _ALWAYS
        }
        return canonical.digest(tree | ({"cross": crossed} if crossed else {}), ("title", "description"))


_ALWAYS = ("solvers", "schedules", "steps_rules")


def _in_order(given: Mapping[str, object]) -> list[str]:
    """Paths in the order of the recipe's fields, those of a part after the part. Raises ``ValueError`` for no path."""

    def place(path: str) -> list[int]:
        found, cls = [], cast(Any, Recipe)
        for name in path.split("."):
            names = list(codec.parameters(cls)) if cls is not None else []
            found.append(names.index(name) if name in names else 0)
            inner = list(codec.components(codec.parameters(cls)[name]).values()) if name in names else []
            cls = inner[0] if len(inner) == 1 else None
        return found

    for path in given:
        try:
            by_path.hints(Recipe, path)
        except ValueError as error:
            raise ValueError(f"cross: {error}") from None
    return sorted(given, key=place)
