"""What a method is run on and measured against: a model of the data, with everything about it that is known."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from edm_unified import metrics as measure
from edm_unified.compare.plan import digest
from edm_unified.components import plugins
from edm_unified.data import AnyData, Dataset, batch, order
from edm_unified.data.classes import matched
from edm_unified.data.dataset import Scaling
from edm_unified.data.units import in_data_units
from edm_unified.metrics import Estimate, Features, LowRank
from edm_unified.recipe import Recipe, Sampler, condition_files, conditions
from edm_unified.recipe.guidances import AnyGuidance, Guide
from edm_unified.sampling.analytic_starts import AnalyticStart, AnyAnalyticStart
from edm_unified.training.trained_denoiser import TrainedDenoiser

TARGET_SAMPLES = 2048
"""Exact draws (or data) that the distribution metrics compare with."""
MOST_MOMENTS = 4096
"""Dimensions up to which the Fréchet distance takes a full covariance of the model instead of that of its draws."""
NETWORK_TOLERANCE = 1e-4
"""Of the exact solution of a network's ODE: the endpoints of a small U-Net were then right to 3·10⁻⁶ of their RMS."""
ENDPOINT = ("error_median", "error_rms")
Units = Literal["network", "data"]
SEEN = ("frechet_features", "precision", "recall")
"""Metrics in the features of a classifier."""


class Settings(NamedTuple):
    """Settings of the machine, on which no result should depend: device, dtype, threads, batch size."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float64
    batch: int = 1024


class Problem:
    """A model of the data with all that is measured against it. Nothing is built before it is needed."""

    def __init__(self, recipe: Recipe, settings: Settings, features: dict[AnyData | None, Features | None]) -> None:
        self._recipe, self._settings, self._classifiers = recipe, settings, features
        self._analytic_starts: dict[AnyAnalyticStart | None, AnalyticStart | None] = {}
        self._guides: dict[AnyGuidance | None, Guide | None] = {}

    @cached_property
    def _built(self) -> tuple[Any, Dataset]:
        return self._recipe.build()

    @property
    def dataset(self) -> Dataset:
        return self._built[1]

    @cached_property
    def label(self) -> int | Tensor | None:
        """The class that all samples are conditioned on, and that they are measured against."""
        return conditions.label_of(self._recipe.sampler.label, *self._built, where="sampler.label")

    @cached_property
    def conditions(self) -> condition_files.Conditions | None:
        """What the denoiser is told besides a class."""
        return condition_files.given(self._recipe.sampler.cond, self._built[0], dataset=self._built[1])

    def check(self, sampler: Sampler) -> None:
        """Load the data and build the denoiser and its guidance. Raises ``ValueError`` naming what is wrong."""
        _ = self._built, self.guide(sampler), self.label, self.conditions
        if self.label is not None:
            _ = self.target

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the data change, or the weights of a trained network."""
        denoiser = self._built[0]
        named = [] if self.label is None else [f"class {torch.as_tensor(self.label).tolist()}"]
        named += [] if self.conditions is None else [self.conditions.fingerprint]
        if isinstance(denoiser, TrainedDenoiser):
            try:
                _ = self.target
            except ValueError:  # the data are not at hand, and so nothing is compared with them
                return digest([denoiser.fingerprint, *named])
            return digest([denoiser.fingerprint, hashlib.sha256(self.target.numpy().tobytes()).hexdigest(), *named])
        images = self.dataset.images.contiguous()
        return digest([list(images.shape), hashlib.sha256(images.numpy().tobytes()).hexdigest(), *named])

    @cached_property
    def denoiser(self) -> Any:
        denoiser = self._built[0]
        return denoiser.to(self._settings.device) if hasattr(denoiser, "to") else denoiser

    @property
    def device(self) -> torch.device:
        return self._settings.device

    @property
    def learnt(self) -> bool:
        """Whether the denoiser is a network, so that nothing is known of its distribution but its samples."""
        return isinstance(self.denoiser, TrainedDenoiser)

    def tolerance(self, wanted: float) -> float:
        """That of the exact solution: no less than a network in float32 is smooth to."""
        return max(wanted, NETWORK_TOLERANCE) if isinstance(self.denoiser, TrainedDenoiser) else wanted

    def cond(self, sampler: Sampler, count: int, seed: int, first: int = 0) -> dict[str, Any] | None:
        """What samples ``first`` … of ``seed`` are conditioned on: a class, where network or guidance need one, and
        what the sampler names besides."""
        device = self._settings.device
        more: dict[str, Any] = {} if self.conditions is None else self.conditions.rows(count, first, device)
        label = self._labels(sampler, count, seed, first)
        return (more if label is None else more | {"label": label.to(device)}) or None

    def _labels(self, sampler: Sampler, count: int, seed: int, first: int) -> Tensor | None:
        if self.label is not None:
            return conditions.rows(self.label, count)
        guide = self.guide(sampler)
        label = None if guide is None else guide.labels_for(count, seed, first)
        if label is None and isinstance(self.denoiser, TrainedDenoiser):
            label = self.denoiser.labels_for(count, seed, first)
        return label

    def analytic_start(self, sampler: Sampler) -> AnalyticStart | None:
        """The analytic start of ``sampler`` with the Gaussian of these data, where it gives no other."""
        if sampler.analytic_start not in self._analytic_starts:
            self._analytic_starts[sampler.analytic_start] = sampler.analytic_start_for(self.dataset)
        return self._analytic_starts[sampler.analytic_start]

    def guide(self, sampler: Sampler) -> Guide | None:
        """The guidance of ``sampler`` for this model. Raises ``ValueError`` where it cannot be guided so."""
        if sampler.guidance not in self._guides:
            self._guides[sampler.guidance] = sampler.guide_for(self.denoiser, self.dataset, self._settings.device)
        return self._guides[sampler.guidance]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape

    @cached_property
    def target(self) -> Tensor:
        """Exact draws of the model, or the data where the model cannot be drawn from; of the class alone, if any."""
        if hasattr(self.denoiser, "sample"):
            return self.denoiser.sample(TARGET_SAMPLES, seed=20_220_601, label=self.label).to(torch.float64)
        dataset = self._of_class()
        if not len(dataset):
            return dataset.images.to(torch.float64)
        chosen = order.indices(len(dataset), 0, 0, min(TARGET_SAMPLES, len(dataset)))
        return batch(dataset, chosen)[0].to(torch.float64)

    def _of_class(self) -> Dataset:
        """The data, or those of the class. Raises ``ValueError`` where it has no two samples."""
        if self.label is None or (isinstance(self.label, int) and self.label == -1):
            return self.dataset
        self.denoiser.check_label(self.label)
        dataset = matched(self.dataset, self.denoiser.class_names)
        if dataset.labels is None:
            raise ValueError(f"sampler.label: {dataset.name} have no classes to be compared with; leave it out")
        wanted = [self.label] if isinstance(self.label, int) else self.label.nonzero().flatten().tolist()
        own = dataset.labels[:, wanted].all(1) if dataset.several else dataset.labels == wanted[0]
        if int(own.sum()) < 2:
            raise ValueError(f"sampler.label: {dataset.name} have {int(own.sum())} samples of it; name another class")
        return dataset.part(own.nonzero().flatten())

    @cached_property
    def moments(self) -> LowRank | tuple[Tensor, Tensor] | None:
        """The exact mean and covariance of the model, where they are known and low-rank or of affordable size."""
        if self.label is not None:
            return None
        if hasattr(self.denoiser, "low_rank_moments") and (found := self.denoiser.low_rank_moments()) is not None:
            return LowRank(*found)
        if not hasattr(self.denoiser, "moments") or math.prod(self.shape) > MOST_MOMENTS:
            return None
        return self.denoiser.moments()  # type: ignore[no-any-return]

    @cached_property
    def has_density(self) -> bool:
        """Whether log p of a clean sample is known: not for a set of points."""
        if not hasattr(self.denoiser, "log_prob") or self.label is not None:  # which is that of all classes
            return False
        try:
            return bool(torch.isfinite(self.denoiser.log_prob(self.target[:1], 0.0)).all())
        except ValueError:
            return False

    def applies(self, name: str, samples: int) -> bool:
        """Whether so many samples have that metric. Without data a network has those against the exact solution."""
        if not len(self.dataset) and name not in ENDPOINT:
            return False
        if name in ("precision", "recall"):
            return min(samples, len(self.target)) > measure.K
        if name == "frechet_features":
            return self.dataset.labels is not None and not self.dataset.several and self.dataset.classes > 1
        return name != "log_density_gap" or self.has_density

    def measure(self, x: Tensor, name: str, units: Units = "network") -> Estimate | None:
        """One metric of the samples as a distribution, or None where it does not apply; distances in ``units``.

        A gap of log densities is the same in all units, and what a classifier sees is in those of the network.
        """
        scaling = self.dataset.scaling
        if (own := plugins.metrics().get(name)) is not None:
            both = (x, self.target) if units == "network" else (scaling.to_raw(x), scaling.to_raw(self.target))
            return _estimate(own(*both), name)
        if name == "log_density_gap":
            return measure.log_density_gap(x, self.denoiser, fresh=self._fresh) if self.has_density else None
        if name in SEEN:
            return self._seen(x, name)
        if units == "data":
            x, target, moments = scaling.to_raw(x), scaling.to_raw(self.target), _moments_in(scaling, self.moments)
        else:
            target, moments = self.target, self.moments
        if name == "frechet":
            return measure.frechet(x, target if moments is None else moments)
        if name == "energy_distance":
            spread = self._spread if units == "network" else measure.mean_distance(target.to(self._settings.device))
            return measure.energy_distance(x, target, spread=spread)
        return measure.sliced_wasserstein(x, target)

    def in_units(self, x: Tensor, units: Units) -> Tensor:
        """Samples x (n, *shape) of the network in ``units``."""
        return x if units == "network" else in_data_units(self.dataset, x)

    @cached_property
    def _fresh(self) -> Tensor:
        return measure.fresh_log_density(self.denoiser)

    @cached_property
    def _spread(self) -> float:
        return measure.mean_distance(self.target.to(self._settings.device))

    @property
    def features(self) -> Features | None:
        """A classifier of these data, trained once for all models of them; None where they have no classes."""
        data = self._recipe.data
        if data not in self._classifiers:
            told_apart = self.applies("frechet_features", 2)
            self._classifiers[data] = Features(self.dataset) if told_apart else None
        return self._classifiers[data]

    @cached_property
    def _target_seen(self) -> Tensor:
        return self.target if self.features is None else self.features(self.target)

    def _seen(self, x: Tensor, name: str) -> Estimate | None:
        """A metric of what a classifier sees; precision and recall of unlabelled data are of the data themselves."""
        if not self.applies(name, len(x)):
            return None
        mine = x if self.features is None else self.features(x)
        if name == "frechet_features":
            return measure.frechet(mine, self._target_seen)
        return (measure.precision if name == "precision" else measure.recall)(mine, self._target_seen)


def _moments_in(scaling: Scaling, moments: LowRank | tuple[Tensor, Tensor] | None) -> Any:
    """The moments of the network's scale in that of the data; None where they are not known in a form for it."""
    if moments is None:
        return None
    shape = moments[0].shape
    scale = torch.as_tensor(scaling.scale, dtype=torch.float64).expand(shape)
    mean, flat = scaling.to_raw(moments[0]), scale.reshape(-1)
    if isinstance(moments, LowRank):
        even = bool((flat == flat[0]).all())  # else the floor is no longer one number
        return LowRank(mean, moments.factor * flat, moments.floor * flat[0] ** 2) if even else None
    return mean, moments[1] * flat[:, None] * flat


def _estimate(found: Any, name: str) -> Estimate:
    """What a metric of a plugin returned. Raises ``ValueError`` for what is neither a number nor an ``Estimate``."""
    if isinstance(found, Estimate):
        return found
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise ValueError(f"metrics: {name}: returned {type(found).__name__}; it must give a number") from None
    return Estimate(value, value, value) if math.isfinite(value) else measure.DIVERGED


class Problems:
    """One :class:`Problem` for each (data, denoiser, class, other conditions) among the recipes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._problems: dict[Any, Problem] = {}
        self._features: dict[AnyData | None, Features | None] = {}

    def of(self, recipe: Recipe) -> Problem:
        key = (recipe.data, recipe.denoiser, recipe.sampler.label, recipe.sampler.cond)
        if key not in self._problems:
            self._problems[key] = Problem(recipe, self._settings, self._features)
        return self._problems[key]
