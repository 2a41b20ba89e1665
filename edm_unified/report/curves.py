"""Figures of schedules: σ(t), s(t), and the trajectories x_t of one flow under each of them.

In the variable z = x_t/s and the noise level σ the probability-flow ODE is dz/dσ = (z − D)/σ, whatever the schedule.
In one dimension it moves no mass across a trajectory, so z(σ) stays on one quantile of the marginal density: the
trajectories are known in closed form, z_q(σ) = F_σ⁻¹(q) with F_σ the cumulative distribution of x_0 + σn. The
schedule only bends them, x_t = s(t) z(σ(t)), as in EDM Fig. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edm_unified.report.data import Curve, MethodView
from edm_unified.report.draw import COLOURS, Palette, dash, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEANS = np.array([-1.0, 1.0])
"""Means of the two normal distributions, equally likely, that the trajectories lead to."""
SPREAD = 0.15
"""Standard deviation of each of the two."""
QUANTILES = np.array([0.004, 0.03, 0.12, 0.27, 0.42, 0.49, 0.51, 0.58, 0.73, 0.88, 0.97, 0.996])
_MOST_SIGMA = 6.0  # beyond it the trajectories of a distribution of size one are straight in z
_TOP_TICKS = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, eq=False)
class DrawnSchedule:
    """A schedule, and the first method that uses it, whose colour it takes."""

    index: int
    label: str
    curve: Curve
    end: float


def drawn_schedules(methods: Sequence[MethodView]) -> list[DrawnSchedule]:
    """The different schedules among ``methods``, with the time at which each is drawn to end."""
    seen: dict[str, DrawnSchedule] = {}
    for i, method in enumerate(methods):
        if method.curve is not None and method.key.schedule not in seen:
            start = max((x for x in method.levels if math.isfinite(x)), default=80.0) or 80.0
            end = float(method.curve.t_max)
            if not math.isfinite(end):
                end = float(method.curve.time(start))
            seen[method.key.schedule] = DrawnSchedule(i, method.key.schedule, method.curve, end)
    return list(seen.values())


def evaluate(function: Callable[[Any], Any], t: np.ndarray) -> np.ndarray:
    """A schedule's function on an array of times; NaN where it is infinite or undefined."""
    import torch

    values = np.asarray(function(torch.as_tensor(t, dtype=torch.float64)), dtype=float)
    return np.where(np.isfinite(values), values, np.nan) * np.ones_like(t)


def noise_against_time(ax: Axes, palette: Palette, shown: Sequence[DrawnSchedule]) -> None:
    """σ(t), logarithmic, against t as a fraction of its end."""
    dress(ax, palette, "Noise level σ(t)", "t / t_max", "σ")
    for drawn in shown:
        fraction = np.concatenate([np.geomspace(1e-4, 1e-2, 30), np.linspace(1e-2, 1, 200)[1:]])
        sigma = evaluate(drawn.curve.sigma, fraction * drawn.end)
        sigma[~((sigma > 0) & (sigma < 1e5))] = np.nan
        _plot(ax, palette, drawn, fraction, sigma)
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 1e3)
    from matplotlib.ticker import FuncFormatter, LogLocator

    from edm_unified.report.plots import power_of_ten

    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))


def scale_against_time(ax: Axes, palette: Palette, shown: Sequence[DrawnSchedule]) -> None:
    """s(t), the scale of the data in x_t, against t as a fraction of its end."""
    dress(ax, palette, "Scale s(t)", "t / t_max", "s")
    for drawn in shown:
        fraction = np.linspace(0, 1, 160)
        _plot(ax, palette, drawn, fraction, evaluate(drawn.curve.s, fraction * drawn.end))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))


def _plot(ax: Axes, palette: Palette, drawn: DrawnSchedule, x: np.ndarray, y: np.ndarray) -> None:
    style: dict[str, Any] = {"color": palette.line(drawn.index), "linestyle": dash(drawn.index)}
    ax.plot(x, y, linewidth=1.5, gid=f"m{drawn.index}", **style)


def quantile_paths(sigma: np.ndarray, quantiles: np.ndarray = QUANTILES) -> np.ndarray:
    """z_q(σ) of the mixture, shape (len(sigma), len(quantiles)): solutions of dz/dσ = (z − D)/σ, by bisection on F."""
    from scipy.special import ndtr

    width = np.hypot(SPREAD, sigma)[:, None]
    low = MEANS.min() - 9 * width * np.ones_like(quantiles)
    high = MEANS.max() + 9 * width * np.ones_like(quantiles)
    for _ in range(60):
        middle = (low + high) / 2
        below = ndtr((middle[..., None] - MEANS) / width[..., None]).mean(-1) < quantiles
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def trajectories(ax: Axes, palette: Palette, drawn: DrawnSchedule) -> None:
    """x_t against t for one schedule: quantile trajectories over the marginal density, σ marked along the top."""
    dress(ax, palette, "", "t", "x")
    ax.set_title(drawn.label, loc="left", color=palette.fg, pad=20)
    ax.grid(False)
    end = drawn.end
    if not float(evaluate(drawn.curve.sigma, np.array([end]))[0]) <= _MOST_SIGMA:
        end = float(drawn.curve.time(_MOST_SIGMA))
    t = np.linspace(0, end, 180)
    sigma, s = evaluate(drawn.curve.sigma, t), evaluate(drawn.curve.s, t)
    sigma[0], s[0] = np.nan_to_num(sigma[0]), np.nan_to_num(s[0], nan=1.0)
    fine = np.isfinite(sigma) & np.isfinite(s)
    t, sigma, s = t[fine], sigma[fine], s[fine]
    x = s[:, None] * quantile_paths(sigma)
    reach = float(np.abs(x).max()) * 1.04
    ax.imshow(
        _density(t, sigma, s, reach, drawn.index),
        extent=(0.0, end, -reach, reach),
        aspect="auto",
        origin="lower",
        interpolation="bilinear",
        gid=f"m{drawn.index}",
    )
    ax.plot(t, x, color=palette.line(drawn.index), linewidth=0.9)
    ax.set_xlim(0, end)
    ax.set_ylim(-reach, reach)
    ax.locator_params(axis="x", nbins=5)
    ax.locator_params(axis="y", nbins=5)
    _sigma_ticks(ax, palette, drawn, end, float(sigma[-1]), float(sigma[0]))


def _density(t: np.ndarray, sigma: np.ndarray, s: np.ndarray, reach: float, index: int) -> np.ndarray:
    """The marginal density of x_t as the opacity of a flat colour, scaled to its peak at each t; (height, time, 4)."""
    from matplotlib.colors import to_rgb

    x = np.linspace(-reach, reach, 140)[:, None]
    width = s * np.hypot(SPREAD, sigma)
    p = sum(np.exp(-(((x - s * m) / width) ** 2) / 2) for m in MEANS)
    rgba = np.empty((*p.shape, 4))
    rgba[..., :3] = to_rgb(_BETWEEN[index % COLOURS])
    rgba[..., 3] = 0.5 * (p / p.max(axis=0)) ** 0.8
    return rgba


# The density is a bitmap and cannot follow CSS: these are midway between the light and the dark colour of each line.
_BETWEEN = (
    *("#4d88df", "#e07046", "#3aac60", "#c95bc8", "#c99832"),
    *("#2ea3b8", "#9b6bf6", "#df4a68", "#81b034", "#7e8ca2"),
)


def _sigma_ticks(ax: Axes, palette: Palette, drawn: DrawnSchedule, end: float, most: float, least: float) -> None:
    """Ticks of σ along the upper edge, leaving out those that would print over their neighbour."""
    last = -math.inf
    for sigma in reversed(_TOP_TICKS):
        if not least < sigma <= most * 1.001:
            continue
        where = float(drawn.curve.time(sigma)) / end
        if abs(last - where) < 0.09:
            continue
        last = where
        ax.plot((where, where), (1, 1.02), transform=ax.transAxes, clip_on=False, color=palette.muted, linewidth=0.7)
        ax.text(
            where,
            1.045,
            f"σ={sigma:g}" if sigma == 5 or sigma == most else f"{sigma:g}",
            transform=ax.transAxes,
            color=palette.muted,
            fontsize=8,
            ha="center",
        )
