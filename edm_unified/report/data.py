"""The data of a report: records, methods and samples. The report draws from these alone and computes no sample.

The report is a pure function of :class:`ReportData`. Whoever ran the comparison fills it in; the page only
aggregates, ranks and draws, so the same data give the same bytes, and an old comparison can be drawn again.

``records`` are the lines of ``records.jsonl``: one dictionary per (cell, metric) with the keys

    recipe schedule steps solver renoising   short labels; together they name the method
    budget nfe n                             evaluations asked for, evaluations counted, steps
    seed samples metric                      one record per seed; ``samples`` is the number drawn
    value low high                           the metric and its 95 % bootstrap interval; null where the run diverged
    seconds hash cell                        wall time of the cell, 12 hexadecimal digits of the recipe, cell id

Records of several seeds are averaged, and their intervals combined as those of independent estimates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np


class Curve(Protocol):
    """The part of a schedule that is drawn: s(t), σ(t), σ⁻¹, and where the time axis ends."""

    @property
    def t_max(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def sigma(self, t: Any) -> Any: ...
    def s(self, t: Any) -> Any: ...
    def time(self, sigma: Any) -> Any: ...


class Key(NamedTuple):
    """The five labels that name a method in the records."""

    recipe: str
    schedule: str
    steps: str
    solver: str
    renoising: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Key:
        return cls(*(str(record.get(name) or "none") for name in cls._fields))


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodView:
    """One line of the plots, one row of the tables.

    Attributes:
        key: the labels under which its records are found.
        label: short and unique; the name in tables, legends and ``ReportData.samples``.
        title, source: the method in words, and the paper with equation or table number.
        hash: 12 hexadecimal digits of the resolved recipe.
        levels: the walk it takes at ``ReportData.grid_budget``, noise levels with rises and repeats; may be empty.
        curve: its schedule, for σ(t), s(t) and the trajectories; None leaves it out of those figures.
        series, swept: where ``ReportData.sweep`` names a parameter, its value, and what else the method is, in words.
        problem: the data and the model that it ran on, in words; methods are ranked among those of one problem.
    """

    key: Key
    label: str
    title: str = ""
    source: str = ""
    hash: str = ""
    levels: Sequence[float] = ()
    curve: Curve | None = None
    problem: str = ""
    series: str = ""
    swept: float = math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything in a report.

    Attributes:
        title, description: the heading and a plain-text paragraph below it.
        records: see the module docstring.
        methods: in the order of colours and legend. Methods that have records but no view are added at the end.
        facts: what was compared, in the reader's words: ``{"Denoiser": …, "Data": …}``. Samples, seeds, budgets
            and run time are read from the records and need not be given.
        samples: method label -> images (n, C, H, W) in [-1, 1] with C in (1, 3), signals (n, C, L) or vectors (n, d),
            at ``grid_budget``; row i of each started from the same noise. None in place of an array: that run diverged.
        reference_samples: the exact endpoints from the same noise, or None.
        data_samples: real data, or None.
        grid_budget: the budget at which samples and levels are shown; None: the middle one.
        rank_by: the metric the tables are sorted by at first; None: the first metric that every method has.
        floors: metric -> (value, low, high) of the exact endpoints themselves: what no method can beat but by luck.
        sweep: the parameter in whose values alone the methods of each series differ, or nothing. ``usual``: the
            recipes' own value of it, NaN where they have several. ``sweep_notes``: sentences about its values.
        environment: versions, machine, dtype: shown as a table.
        commands: exact shell commands, one string each.
    """

    title: str
    records: Sequence[Mapping[str, Any]]
    description: str = ""
    methods: Sequence[MethodView] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    reference_samples: Any = None
    data_samples: Any = None
    grid_budget: int | None = None
    rank_by: str | None = None
    floors: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    sweep: str = ""
    usual: float = math.nan
    sweep_notes: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()


class Metric(NamedTuple):
    """A metric in words and as a formula.

    ``best``: None where smaller is better; a number where that value is best, so that it is ranked and drawn by how far
    it is from there.
    """

    name: str
    title: str
    short: str
    formula: str
    words: str
    best: float | None = None

    @property
    def axis(self) -> str:
        """The label of an axis: what is ranked and drawn."""
        return self.short if self.best is None else f"{self.best:g} − {self.short}" if self.best else f"|{self.short}|"

    @property
    def arrow(self) -> str:
        """Which way is better: ↓ lower, ↑ higher (best at 1), →0 towards zero from either side."""
        return "↓" if self.best is None else "↑" if self.best else "→0"


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric(
            "error_median",
            "Endpoint error, median",
            "error (median)",
            "medianᵢ ‖xᵢ − x*ᵢ‖ / √d",
            "How far a sample ends from the exact solution x* of the probability-flow ODE that starts from the same "
            "noise; per dimension, in data units. Only deterministic methods have one.",
        ),
        Metric(
            "error_rms",
            "Endpoint error, RMS",
            "error (RMS)",
            "( meanᵢ ‖xᵢ − x*ᵢ‖² / d )^½",
            "As the median, but the few samples that end in another mode weigh most.",
        ),
        Metric(
            "sliced_wasserstein",
            "Sliced Wasserstein distance",
            "sliced W₂",
            "( mean_θ W₂²(θ·x, θ·y) )^½",
            "Samples x and data y are projected on random directions θ, where the optimal transport distance is that "
            "of the sorted values.",
        ),
        Metric(
            "energy_distance",
            "Energy distance",
            "energy distance",
            "2 E‖x − y‖ − E‖x − x′‖ − E‖y − y′‖",
            "Zero only when samples x and data y have one distribution; sensitive to location and spread. The "
            "estimate is unbiased, so that near zero it may come out negative.",
        ),
        Metric(
            "frechet",
            "Fréchet distance in data space",
            "Fréchet",
            "‖μₓ − μ_y‖² + tr( Σₓ + Σ_y − 2 (Σₓ Σ_y)^½ )",
            "The Wasserstein-2 distance, squared, of two normal distributions with the means μ and covariances Σ of "
            "samples and data. Like FID, but on the data themselves, with no feature network.",
        ),
        Metric(
            "frechet_features",
            "Fréchet distance in features",
            "Fréchet (features)",
            "‖μₓ − μ_y‖² + tr( Σₓ + Σ_y − 2 (Σₓ Σ_y)^½ )",
            "The same of 64 features of a small classifier that was trained on the classes of the data, over their "
            "variance there. It is no FID, and compares methods on the same data only.",
        ),
        Metric(
            "precision",
            "Precision",
            "precision",
            "share of x within the 3rd-neighbour balls of y",
            "Are the samples like the data? Best at 1, which even exact samples do not reach; in the features of that "
            "classifier, or on the data themselves where they have no classes. Drawn as the distance from 1.",
            1.0,
        ),
        Metric(
            "recall",
            "Recall",
            "recall",
            "share of y within the 3rd-neighbour balls of x",
            "Is all of the data among the samples? Measured and drawn as precision, with the two sets exchanged.",
            1.0,
        ),
        Metric(
            "log_density_gap",
            "Log-density gap",
            "log p gap",
            "( E log p(y) − E log p(x) ) / d",
            "Exact samples y of the model against samples x of the method, in nats per dimension. Best at 0; positive: "
            "noisy or off the data; negative: the method prefers the peaks. Ranked and drawn by its magnitude.",
            0.0,
        ),
    )
}


def metric(name: str) -> Metric:
    """The metric of that name; an unknown one is shown under its own name, smaller taken as better."""
    return METRICS.get(name) or Metric(name, name.replace("_", " "), name.replace("_", " "), "", "")


class MetricValue(NamedTuple):
    """One method at one budget in one metric, over all seeds. ``value`` is None where a run diverged."""

    value: float | None
    low: float
    high: float
    seeds: int
    diverged: int

    def magnitude(self, best: float | None) -> tuple[float, float, float]:
        """(value, low, high) on the axis where smaller is better; infinities where the run diverged."""
        if self.value is None:
            return math.inf, math.inf, math.inf
        if best is None:
            return self.value, self.low, self.high
        low, high = sorted((abs(self.low - best), abs(self.high - best)))
        return abs(self.value - best), 0.0 if self.low <= best <= self.high else low, high


class Result(NamedTuple):
    """One method at one budget: what was counted, and its scores by metric."""

    nfe: float
    n: str
    seconds: float
    scores: dict[str, MetricValue]


def combine(values: Sequence[Any], lows: Sequence[Any], highs: Sequence[Any]) -> MetricValue:
    """Average independent seeds. Half-widths add in squares; one diverged seed makes the method diverged."""
    number = [_finite(v) for v in values]
    kept = [v for v in number if v is not None]
    if len(kept) < len(number):
        return MetricValue(None, math.nan, math.nan, len(number), len(number) - len(kept))
    mean = math.fsum(kept) / len(kept)
    below = [max(0.0, v - b) for v, low in zip(kept, lows, strict=True) if (b := _finite(low)) is not None]
    above = [max(0.0, b - v) for v, high in zip(kept, highs, strict=True) if (b := _finite(high)) is not None]
    return MetricValue(mean, mean - math.hypot(*below) / len(kept), mean + math.hypot(*above) / len(kept), len(kept), 0)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(value: str) -> str:
    """``value`` without control characters and marks that turn the direction of writing."""
    return _CONTROL.sub("", value)


def _finite(value: Any) -> float | None:
    """``value`` as a finite float, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def image_like(samples: Any) -> bool:
    """Whether ``samples`` can be shown as pictures: (n, C, H, W) with one or three channels."""
    return samples is not None and np.ndim(samples) == 4 and np.shape(samples)[1] in (1, 3)


def signal_like(samples: Any) -> bool:
    """Whether ``samples`` are shown as curves: (n, C, L)."""
    return samples is not None and np.ndim(samples) == 3
